//! What all gradient passes share: known weights, partial sums, and the launch that makes the sums a gradient,
//! dq_i = s·g·w·(Σ_j W_ij k_j − c_i k₊). docs/design.md, section 3, has dk and the symbols.

use bytemuck::Zeroable;

use super::params::{FinishParams, Matrix, POSITIVE_INDEX, ShiftParams};
use super::prepared::Prepared;
use super::results::Masses;
use super::similarity::Similarity;
use super::statistics::far_word;
use super::{Device, DeviceMatrix, Floats, kernels};
use crate::element::DType;
use crate::error::Error;
use crate::gradients::Accumulate;
use crate::inputs::Matrices;

/// Whether weights of the type are shifted, multiplied by a power of two: `SHIFTED` of kernels/tile/element.h.
pub(super) fn is_shifted(dtype: DType) -> bool {
    dtype == DType::F16
}

/// Masses of rows, and of columns where these have a loss or are the rows (NT-Xent).
type BothMasses<'a, D> = (&'a Masses<D>, Option<&'a Masses<D>>);

/// What all gradients of a call share.
pub(super) struct Call<'a, D: Device> {
    pub prepared: &'a Prepared<'a, D>,
    /// upstream · w, with the row weight w of the loss.
    pub coefficient: f32,
    /// Which gradients are added to the contents of their outputs.
    pub accumulate: Accumulate,
}

impl<'a, D: Device> Call<'a, D> {
    pub fn new(prepared: &'a Prepared<'a, D>, upstream: f32, accumulate: Accumulate) -> Self {
        let weight = prepared.contrast().row_weight(prepared.shape.anchors);
        Self {
            prepared,
            coefficient: (f64::from(upstream) * weight) as f32,
            accumulate,
        }
    }
}

/// Partial sums of a gradient, which [`Similarity::finish`] adds up.
pub(super) struct Sums<D: Device> {
    /// `splits` × rows × D.
    pub sums: Floats<D>,
    /// `gradient_online`: the maximum m and the sum of 2^(z − m) of each row and split.
    pub normalisers: Option<Floats<D>>,
    pub splits: u32,
    /// The address of the weights' shift; 0: the fixed shift of weights up to 1; `None`: weights are not shifted.
    pub shift: Option<u64>,
}

/// How sums become a gradient.
pub(super) struct Finish<'a, D: Device> {
    pub sums: &'a Sums<D>,
    /// 2^(o − o_i) of each row, where the sums are of exponentials in place of weights.
    pub factors: Option<&'a Floats<D>>,
    /// c scales the positives, which no tile holds and `finish` subtracts; a scales the sums of `gradient_online`.
    pub masses: BothMasses<'a, D>,
    pub gradient: DeviceMatrix,
    /// Where ⟨q_i, dq_i⟩ goes; `None` for the gradient of the candidates.
    pub dots: Option<&'a Floats<D>>,
    /// N × D, added to the gradient.
    pub added: Option<&'a Floats<D>>,
    /// Whether the gradient is a part, which is overwritten and added to another one.
    pub is_part: bool,
    /// The rows of the gradient that the sums belong to.
    pub first_row: usize,
    pub count: usize,
}

/// Weights that are known: W_ij = 2^(z - o_i) + 2^(z - o_j), with the second term where `masses` has columns.
pub(super) struct Known<'a, D: Device> {
    pub masses: BothMasses<'a, D>,
    /// [`far_word`] of these masses.
    pub far: u64,
    /// The shift of the weights, where their type needs one.
    shift: Option<Floats<D>>,
    /// The address of z₊ of all anchors.
    pub positive: u64,
}

impl<D: Device> Known<'_, D> {
    pub fn shift(&self) -> Option<u64> {
        self.shift.as_ref().map(Floats::address)
    }
}

impl<'a, D: Device> Finish<'a, D> {
    /// The whole gradient of the anchors, with `dots`, or of the candidates.
    pub fn whole(
        sums: &'a Sums<D>,
        masses: BothMasses<'a, D>,
        gradient: DeviceMatrix,
        dots: Option<&'a Floats<D>>,
    ) -> Self {
        Self {
            sums,
            factors: None,
            masses,
            gradient,
            dots,
            added: None,
            is_part: false,
            first_row: 0,
            count: gradient.rows,
        }
    }
}

impl<D: Device> Similarity<'_, D> {
    /// Known weights. `flags` are of the call that computed the masses.
    pub(super) fn known<'a>(
        &self,
        prepared: &Prepared<'_, D>,
        flags: &Floats<D>,
        (rows, columns): BothMasses<'a, D>,
        positive: &Floats<D>,
    ) -> Result<Known<'a, D>, Error> {
        // In NT-Xent the columns are the rows.
        let columns = match prepared.contrast().is_shared() && prepared.options.is_none() {
            true => Some(rows),
            false => columns,
        };
        let shift = self.floats_if(is_shifted(prepared.matrices().anchors.dtype), 2)?;
        if let Some(shift) = &shift {
            let params = ShiftParams {
                row_mass: rows.negatives.address(),
                column_mass: columns.map_or(0, |columns| columns.negatives.address()),
                rows: prepared.view.anchors,
                columns: prepared.view.candidates,
                shift: shift.address(),
            };
            self.device
                .start(kernels::FIND_WEIGHT_SHIFT, [1; 3], &params)?;
        }
        Ok(Known {
            masses: (rows, columns),
            far: far_word(prepared.contrast(), flags),
            shift,
            positive: positive.address(),
        })
    }

    /// Adds up the splits and writes the gradient.
    pub(super) fn finish(&self, call: &Call<'_, D>, finish: &Finish<'_, D>) -> Result<(), Error> {
        let prepared = call.prepared;
        let (first, gradient, count) = (finish.first_row, finish.gradient, finish.count);
        let (rows, columns) = finish.masses;
        let rows_of = |matrix: DeviceMatrix| Matrix::from(matrix).slice(first, count);
        let of_candidates = finish.dots.is_none();
        // One matrix that is both has the anchors' output.
        let is_added = match of_candidates && !prepared.contrast().is_shared() {
            true => call.accumulate.candidates,
            false => call.accumulate.anchors,
        };
        let Matrices {
            anchors,
            candidates,
            own_keys,
            ..
        } = prepared.matrices();
        // The weights have the positives.
        let in_weights = prepared.contrast().has_sets() || prepared.targets.is_some();
        let groups = (of_candidates && prepared.view.rule == POSITIVE_INDEX && !in_weights)
            .then(|| self.group(&prepared.view))
            .transpose()?;
        // The mean number of anchors that have a candidate as their positive.
        let positives = match &groups {
            Some(_) => prepared.shape.anchors / prepared.shape.candidates,
            None => 1,
        };
        // A warp adds up about four splits, or 32 positives.
        let warps = (finish.sums.splits as usize)
            .max(positives / 8)
            .div_ceil(4)
            .next_power_of_two()
            .min(kernels::FINISH_GRADIENT.warps());
        let params = FinishParams {
            sums: finish.sums.sums.address(),
            normalisers: finish.sums.normalisers.as_ref().map_or(0, Floats::address),
            splits: finish.sums.splits,
            rows: count as u32,
            dim: gradient.dim as u32,
            shifted: u32::from(finish.sums.shift.is_some()),
            warps: warps as u32,
            first_row: first as u32,
            factors: finish.factors.map_or(0, Floats::address),
            contrast: prepared.view,
            coefficient: call.coefficient,
            of_candidates: u32::from(of_candidates),
            counted: prepared.counted(),
            weights: match columns {
                None if !of_candidates => prepared.weights_at(0),
                _ => 0,
            },
            added: finish
                .added
                .map_or(0, |added| added.at(first * gradient.dim)),
            negatives_mass: rows.negatives.address(),
            row_mass: rows.of_positive().address(),
            column_mass: columns.map_or(0, |m| m.of_positive().address()),
            partners: match of_candidates {
                _ if in_weights => Matrix::zeroed(),
                true => anchors.into(),
                false => own_keys.unwrap_or(candidates).into(),
            },
            own_keys: u32::from(own_keys.is_some()),
            accumulates: u32::from(is_added && !finish.is_part),
            starts: groups.as_ref().map_or(0, |groups| groups.starts.address()),
            order: groups.as_ref().map_or(0, |groups| groups.order.address()),
            rows_of: match of_candidates {
                true => Matrix::zeroed(),
                false => rows_of(anchors),
            },
            gradient: rows_of(gradient),
            shift: finish.sums.shift.unwrap_or(0),
            dots: finish.dots.map_or(0, |dots| dots.at(first)),
        };
        self.device
            .start_rows(kernels::FINISH_GRADIENT, count * warps, &params)
    }
}
