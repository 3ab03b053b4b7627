//! Launches before the tile loops: z₊ and a bound of all logits; the index of positives from an offset or labels;
//! anchors grouped by their positive.

use bytemuck::Zeroable;

use super::params::{
    BoundParams, ContrastView, CountParams, GroupParams, LabelParams, Matrix, MeanPositivesParams,
    OffsetParams, PositivesParams,
};
use super::prepared::Prepared;
use super::similarity::Similarity;
use super::{Device, DeviceVector, Floats, kernels};
use crate::error::Error;

/// Where a bound of all logits (base 2) is at most `largest`, sums of 2^(z - o) need no running maximum. Their offset
/// is o = max(bound - above, 0).
#[derive(Debug, Clone, Copy)]
pub(super) struct ExponentRange {
    pub largest: f32,
    pub above: f32,
}

impl ExponentRange {
    /// For f32, and for bf16, which has the same range.
    pub const WIDE: Self = Self {
        largest: 80.0,
        above: 80.0,
    };
}

/// What [`Similarity::positives`] computes.
pub(super) struct Positives<D: Device> {
    /// z₊ of every anchor.
    pub logits: Floats<D>,
    /// ‖x‖² of the anchors, then of the candidates.
    pub square_norms: Floats<D>,
}

/// Anchors sorted by the candidate that is their positive; the sort is stable.
pub(super) struct Groups<D: Device> {
    /// M + 1 words: where the anchors of each candidate start in `order`, and where the last ones end.
    pub starts: Floats<D>,
    /// N words: the anchors' indices.
    pub order: Floats<D>,
}

impl<D: Device> Similarity<'_, D> {
    pub(super) fn positives(&self, prepared: &Prepared<'_, D>) -> Result<Positives<D>, Error> {
        let shape = prepared.shape;
        let rows = shape.anchors + shape.candidates;
        let positives = Positives {
            logits: self.floats(shape.anchors)?,
            square_norms: self.floats(rows)?,
        };
        let matrices = prepared.matrices();
        let params = PositivesParams {
            contrast: prepared.view,
            anchors: matrices.anchors.into(),
            candidates: matrices.candidates.into(),
            own_keys: matrices.own_keys.map_or_else(Matrix::zeroed, Matrix::from),
            dim: shape.dim as u32,
            padding: 0,
            not_finite: prepared.flags.address(),
            bias: prepared
                .problem
                .column_bias()
                .map_or(0, |bias| bias.address),
            positive: positives.logits.address(),
            square_norms: positives.square_norms.address(),
        };
        let warps = shape.anchors + shape.candidates.div_ceil(kernels::WARP_CANDIDATES);
        self.device.start_rows(kernels::POSITIVES, warps, &params)?;
        self.mean_of_positives(prepared, &positives.logits)?;
        // Of sets, z₊ is known after the statistics.
        if !prepared.contrast().has_sets() {
            self.count_positives(prepared, &positives.logits)?;
        }
        Ok(positives)
    }

    /// Computes `Prepared::counted` from z₊ of all rows, where the reduction counts those with a positive.
    pub(super) fn count_positives(
        &self,
        prepared: &Prepared<'_, D>,
        positive: &Floats<D>,
    ) -> Result<(), Error> {
        let Some(counted) = &prepared.counted else {
            return Ok(());
        };
        let params = CountParams {
            positive: positive.address(),
            weights: prepared.weights_at(0),
            rows: prepared.view.anchors,
            padding: 0,
            counted: counted.address(),
        };
        self.device.start(kernels::COUNT_POSITIVES, [1; 3], &params)
    }

    /// Computes `Prepared::log_mean` from z₊ of all rows, where the rule has row weights.
    pub(super) fn mean_of_positives(
        &self,
        prepared: &Prepared<'_, D>,
        positive: &Floats<D>,
    ) -> Result<(), Error> {
        let Some(log_mean) = &prepared.log_mean else {
            return Ok(());
        };
        let params = MeanPositivesParams {
            contrast: prepared.view,
            positive: positive.address(),
            inverse: prepared.rule.first,
            padding: 0,
            log_mean: log_mean.address(),
        };
        self.device.start(kernels::MEAN_POSITIVES, [1; 3], &params)
    }

    /// `LogitBound` of tile/softmax.h, in device memory. Its first word says whether all logits are in `range`.
    pub(super) fn bound(
        &self,
        prepared: &Prepared<'_, D>,
        positives: &Positives<D>,
        range: ExponentRange,
    ) -> Result<Floats<D>, Error> {
        let bound = self.floats(4)?;
        let params = BoundParams {
            contrast: prepared.view,
            square_norms: positives.square_norms.address(),
            positive: positives.logits.address(),
            largest: range.largest,
            above: range.above,
            bound: bound.address(),
        };
        self.device.start(kernels::BOUND_LOGITS, [1; 3], &params)?;
        Ok(bound)
    }

    /// The index i + `offset` of each anchor's positive, past the last candidate where there is none.
    pub(super) fn index_of_offset(
        &self,
        offset: i64,
        anchors: u32,
        candidates: u32,
    ) -> Result<Floats<D>, Error> {
        let index = self.floats(anchors as usize)?;
        let params = OffsetParams {
            // ±2^33 means "no positive" as any larger offset does, and i + offset cannot overflow.
            offset: offset.clamp(-(1 << 33), 1 << 33),
            anchors,
            candidates,
            index: index.address(),
        };
        let kernel = kernels::OFFSET_POSITIVES;
        self.device
            .start(kernel, kernel.grid(anchors as usize), &params)?;
        Ok(index)
    }

    /// The index of the first candidate with each anchor's label, past the last candidate where there is none.
    pub(super) fn index_of_labels(
        &self,
        anchors: DeviceVector,
        candidates: DeviceVector,
    ) -> Result<Floats<D>, Error> {
        let index = self.floats(anchors.length)?;
        let params = LabelParams {
            anchors: anchors.address,
            candidates: candidates.address,
            anchor_count: anchors.length as u32,
            candidate_count: candidates.length as u32,
            index: index.address(),
        };
        self.device
            .start_rows(kernels::LABELLED_POSITIVES, anchors.length, &params)?;
        Ok(index)
    }

    /// Groups the anchors of a view with an index of positives by their positive.
    pub(super) fn group(&self, view: &ContrastView) -> Result<Groups<D>, Error> {
        let (anchors, candidates) = (view.anchors, view.candidates);
        let groups = Groups {
            starts: self.floats(candidates as usize + 1)?,
            order: self.floats(anchors as usize)?,
        };
        let other = self.floats(anchors as usize)?;
        let params = GroupParams {
            index: view.index,
            anchors,
            candidates,
            // The sort key of an anchor without a positive is `candidates` itself.
            passes: (u32::BITS - candidates.leading_zeros()).div_ceil(kernels::DIGIT_BITS as u32),
            padding: 0,
            order: groups.order.address(),
            other: other.address(),
            starts: groups.starts.address(),
        };
        let device = self.device;
        device.start(kernels::GROUP_ANCHORS, [1; 3], &params)?;
        let grid = kernels::FIND_GROUPS.grid(candidates as usize + 1);
        device.start(kernels::FIND_GROUPS, grid, &params)?;
        Ok(groups)
    }
}
