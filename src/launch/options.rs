//! A problem's options: sets of positives, two exponents, ids and a guard that exclude, biases of candidates. Row weights
//! and the mean of rows with a positive are none: they enter offsets and masses.

use bytemuck::Zeroable;

use super::DeviceMatrix;
use super::kernels::{self, Family};
use super::params::ScoreOptions;
use crate::losses::Layout;
use crate::positives::Positives;
use crate::problem::Problem;

/// The kernels of a problem with options, and its vectors.
pub(super) struct Options {
    pub statistics: Family,
    pub weights: Family,
    params: ScoreOptions,
    /// Whether a second sum is stored, and sums of sets.
    pub has_second: bool,
    pub has_sets: bool,
    has_guard: bool,
}

impl Options {
    /// `None` for a problem without options, and for soft targets, whose launches are their own (`targets`). Rows with positives that are given are computed one way, too, because row
    /// j's positive need not be i where row i's is j.
    pub fn of(problem: &Problem<DeviceMatrix>) -> Option<Self> {
        let contrast = problem.contrast();
        let rule = contrast.rule();
        let is_plain = !problem.has_options() && contrast.layout() != Layout::Labelled;
        if is_plain || rule.target_scale().is_some() {
            return None;
        }
        let (sets, two) = (rule.takes_sets(), rule.exponents());
        let mut params = ScoreOptions {
            bias: problem.column_bias().map_or(0, |bias| bias.address),
            margin: contrast.description().guard.unwrap_or(0.0),
            exponents: two.unwrap_or_default().map(|exponent| exponent as f32),
            sign: rule.second_sign() as f32,
            sums_negatives: u32::from(rule.is_smoothed()),
            logit_bias: rule.logit_bias().unwrap_or_default(),
            device_bias: problem.logit_bias().unwrap_or(0),
            ..ScoreOptions::zeroed()
        };
        if let Some(ids) = problem.ids() {
            (params.anchor_ids, params.candidate_ids) =
                (ids.anchors.address, ids.candidates.address);
        }
        match problem.positives() {
            Some(Positives::Labels {
                anchors,
                candidates,
            }) if sets => {
                (params.anchor_labels, params.candidate_labels) =
                    (anchors.address, candidates.address);
            }
            Some(Positives::Lists { starts, candidates }) => {
                (params.starts, params.listed) = (starts.address, candidates.address);
            }
            _ => {}
        }
        let (statistics, weights) = match (sets, two) {
            _ if rule.is_pointwise() => (
                [kernels::STATISTICS_POINT, kernels::HOPPER_STATISTICS_POINT],
                [kernels::WEIGHTS_POINT, kernels::HOPPER_WEIGHTS_POINT],
            ),
            (true, _) => (
                [kernels::STATISTICS_SETS, kernels::HOPPER_STATISTICS_SETS],
                [kernels::WEIGHTS_SETS, kernels::HOPPER_WEIGHTS_SETS],
            ),
            (false, Some(_)) => (
                [kernels::STATISTICS_TWO, kernels::HOPPER_STATISTICS_TWO],
                [kernels::WEIGHTS_TWO, kernels::HOPPER_WEIGHTS_TWO],
            ),
            (false, None) => (
                [kernels::STATISTICS_ONE, kernels::HOPPER_STATISTICS_ONE],
                [kernels::WEIGHTS_ONE, kernels::HOPPER_WEIGHTS_ONE],
            ),
        };
        Some(Self {
            statistics,
            weights,
            params,
            has_second: (sets && !rule.is_pointwise()) || two.is_some(),
            has_sets: sets,
            has_guard: contrast.description().guard.is_some(),
        })
    }

    /// The vectors, with z₊ at the address `positive`.
    pub fn with_positive(&self, positive: u64) -> ScoreOptions {
        ScoreOptions {
            guarded: if self.has_guard { positive } else { 0 },
            ..self.params
        }
    }
}
