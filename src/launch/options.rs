//! Problems with options: sets of positives, two exponents, ids and a guard that exclude, biases of candidates. One
//! scheme of 8NMD FLOPs serves them all: statistics, then weights of one term in chunks. Row weights and the mean of rows
//! with a positive are no options: they enter offsets and masses.

use bytemuck::Zeroable;

use super::choice::{Cut, Family};
use super::gradient::Known;
use super::params::{HopperOptionScoresParams, OptionScoresParams, ScoreOptions, ScoresParams};
use super::prepared::Prepared;
use super::results::Direction;
use super::similarity::Similarity;
use super::statistics::{Partial, scores_params};
use super::{Arithmetic, Device, DeviceMatrix, Floats, kernels};
use crate::error::Error;
use crate::inputs::{Positives, Problem};
use crate::losses::Layout;

/// The kernels of a problem with options, and its vectors.
pub(super) struct Options {
    statistics: Family,
    weights: Family,
    params: ScoreOptions,
    /// Whether a second sum is stored, and sums of sets.
    has_second: bool,
    has_sets: bool,
    has_guard: bool,
}

impl Options {
    /// `None` for a problem without options. Rows with positives that are given are computed one way, too, because row
    /// j's positive need not be i where row i's is j.
    pub fn of(problem: &Problem<DeviceMatrix>) -> Option<Self> {
        let contrast = problem.contrast();
        if !problem.has_options() && contrast.layout() != Layout::Labelled {
            return None;
        }
        let rule = contrast.rule();
        let (sets, two) = (rule.takes_sets(), rule.exponents());
        let mut params = ScoreOptions {
            bias: problem.column_bias().map_or(0, |bias| bias.address),
            margin: contrast.description().guard.unwrap_or(0.0),
            exponents: two.unwrap_or_default().map(|exponent| exponent as f32),
            sign: rule.second_sign() as f32,
            sums_negatives: u32::from(rule.is_smoothed()),
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
            has_second: sets || two.is_some(),
            has_sets: sets,
            has_guard: contrast.description().guard.is_some(),
        })
    }

    /// The vectors, with z₊ at the address `positive`.
    fn with_positive(&self, positive: u64) -> ScoreOptions {
        ScoreOptions {
            guarded: if self.has_guard { positive } else { 0 },
            ..self.params
        }
    }
}

impl<D: Device> Similarity<'_, D> {
    /// Statistics of all rows: 2NMD FLOPs.
    pub(super) fn statistics_with(
        &self,
        options: &Options,
        prepared: &Prepared<'_, D>,
        positive: Floats<D>,
    ) -> Result<Direction<D>, Error> {
        let rows = self.direction(prepared, positive)?;
        let (anchors, candidates) = (prepared.shape.anchors, prepared.shape.candidates);
        let cut = self.cut(
            prepared.arithmetic,
            prepared.anchor_rows,
            anchors,
            candidates,
        );
        let count = cut.splits as usize * anchors;
        let sums = self.floats(2 * count)?;
        let second = self.floats_if(options.has_second, 2 * count)?;
        let sets = self.floats_if(options.has_sets, 4 * count)?;
        let address = |sums: &Option<Floats<D>>| sums.as_ref().map_or(0, Floats::address);
        let params = ScoresParams {
            rows: sums.address(),
            ..scores_params(prepared, 0, anchors)
        };
        let vectors = ScoreOptions {
            second: address(&second),
            sets: address(&sets),
            ..options.with_positive(rows.rows.positive.address())
        };
        self.pass_with(
            options.statistics,
            prepared.arithmetic,
            cut,
            params,
            vectors,
        )?;
        let partial = Partial {
            sums: sums.address(),
            splits: cut.splits,
            second: address(&second),
            sets: address(&sets),
            ..Partial::default()
        };
        self.combine(prepared, rows.buffers(), 0, anchors, partial)?;
        if options.has_sets {
            self.count_positives(prepared, &rows.rows.positive)?;
        }
        Ok(rows)
    }

    /// The weights of the chunk of `params`.
    pub(super) fn weights_with(
        &self,
        options: &Options,
        prepared: &Prepared<'_, D>,
        known: &Known<'_, D>,
        cut: Cut,
        params: ScoresParams,
    ) -> Result<(), Error> {
        let masses = known.masses.0;
        let at = |plane: Option<&Floats<D>>| {
            plane.map_or(0, |plane| plane.at(params.first_anchor as usize))
        };
        let vectors = ScoreOptions {
            second_offset2: at(masses.second2.as_ref()),
            positive: at(Some(masses.of_positive())),
            uniform: at(masses.uniform.as_ref()),
            ..options.with_positive(known.positive)
        };
        self.pass_with(options.weights, prepared.arithmetic, cut, params, vectors)
    }

    /// [`pass`](Self::pass) of a kernel with options.
    fn pass_with(
        &self,
        family: Family,
        arithmetic: Arithmetic,
        cut: Cut,
        params: ScoresParams,
        options: ScoreOptions,
    ) -> Result<(), Error> {
        let scores = ScoresParams {
            tiles_per_split: cut.per_split,
            ..params
        };
        let elements = scores.anchors.row_bytes as usize / arithmetic.bytes();
        let kernel = self.kernel(family, arithmetic, elements)?;
        let grid = cut.grid(self.row_tiles(arithmetic, scores.anchors.rows as usize));
        let params = OptionScoresParams { scores, options };
        self.launch_tiles(kernel, arithmetic, grid, &params, || {
            let [anchors, candidates, weights] = self.maps(kernel, &scores)?;
            Ok(HopperOptionScoresParams {
                anchors,
                candidates,
                weights,
                scores,
                options,
                grid,
                padding: [0; 5],
            })
        })
    }
}
