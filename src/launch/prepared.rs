//! A problem as the tile loops take it: aligned matrices, positives by index, the encoded row rule.

use super::held::Held;
use super::options::Options;
use super::params::{
    ContrastView, Matrix, POSITIVE_DIAGONAL, POSITIVE_INDEX, POSITIVE_NONE, POSITIVE_PAIRED,
    RowRule,
};
use super::similarity::Similarity;
use super::targets::Targets;
use super::{Arithmetic, Device, DeviceMatrix, Floats, Rowwise, count, element_bytes};
use crate::contrast::{Contrast, Reduction, Shape};
use crate::error::Error;
use crate::inputs::Matrices;
use crate::losses::Layout;
use crate::positives::Positives;
use crate::problem::Problem;

pub(super) struct Prepared<'a, D: Device> {
    pub problem: &'a Problem<DeviceMatrix>,
    pub view: ContrastView,
    /// The row rule φ, encoded for the kernels.
    pub rule: RowRule,
    pub shape: Shape,
    pub arithmetic: Arithmetic,
    /// The matrices as the tile loops read them: copies where rows are not whole chunks of 16 bytes, or become e4m3.
    pub anchor_rows: Matrix,
    pub candidate_rows: Matrix,
    /// Three words that kernels set where: an anchor is not finite; a candidate is not; an |o| exceeds 60 (base 2).
    pub flags: Floats<D>,
    /// log of the rows' mean of e^(z₊/(s·σ)), where the rule has row weights.
    pub log_mean: Option<Floats<D>>,
    /// N over the number of rows that the reduction counts, where it counts those with a positive.
    pub counted: Option<Floats<D>>,
    /// What the tile loops need besides, where the problem has options.
    pub options: Option<Options>,
    /// Where the rule has soft targets.
    pub targets: Option<Targets<D>>,
    /// Memory of `view` and of the two matrices, where the caller does not own it.
    pub _held: Vec<D::Buffer>,
}

impl<D: Device> Prepared<'_, D> {
    pub fn contrast(&self) -> &Contrast {
        self.problem.contrast()
    }

    /// The address of row `first`'s weight; 0: there are no weights.
    pub fn weights_at(&self, first: usize) -> u64 {
        let weights = self.problem.row_weights();
        weights.map_or(0, |weights| weights.address + 4 * first as u64)
    }

    /// The address of `counted`; 0: there is none.
    pub fn counted(&self) -> u64 {
        self.counted.as_ref().map_or(0, Floats::address)
    }

    /// The matrices as the caller gave them.
    pub fn matrices(&self) -> Matrices<DeviceMatrix> {
        self.problem.matrices()
    }
}

impl<D: Device> Similarity<'_, D> {
    pub(super) fn prepare<'a>(
        &self,
        problem: &'a Problem<DeviceMatrix>,
    ) -> Result<Prepared<'a, D>, Error> {
        let arithmetic = self.arithmetic(problem.matrices().anchors.dtype);
        self.prepare_in(arithmetic, problem)
    }

    pub(super) fn prepare_in<'a>(
        &self,
        arithmetic: Arithmetic,
        problem: &'a Problem<DeviceMatrix>,
    ) -> Result<Prepared<'a, D>, Error> {
        let (contrast, shape) = (problem.contrast(), problem.shape());
        let matrices = problem.matrices();
        let target_dim = matrices.targets.map_or(0, |[u, _]| u.dim);
        if shape.dim.max(target_dim) > 4096 {
            return Err(Error::Scalar {
                argument: "dim",
                given: shape.dim.max(target_dim) as f64,
                allowed: "at most 4096 on this engine",
            });
        }
        let mut held = Held::new(self.device);
        let (of_anchors, of_candidates) =
            (count("q", shape.anchors)?, count("k", shape.candidates)?);
        let mut hold = |index: Floats<D>| {
            let address = index.address();
            held.buffers.push(index.buffer);
            (POSITIVE_INDEX, address)
        };
        let (positive_rule, index) = match problem.positives() {
            None if contrast.layout() == Layout::Shared => (POSITIVE_PAIRED, 0),
            None => (POSITIVE_NONE, 0),
            Some(Positives::Offset(0)) => (POSITIVE_DIAGONAL, 0),
            Some(Positives::Index(index)) => (POSITIVE_INDEX, index.address),
            Some(Positives::Offset(offset)) => {
                hold(self.index_of_offset(offset, of_anchors, of_candidates)?)
            }
            Some(Positives::Labels { .. }) if contrast.has_sets() => (POSITIVE_NONE, 0),
            Some(Positives::Labels {
                anchors,
                candidates,
            }) => hold(self.index_of_labels(anchors, candidates)?),
            Some(Positives::Lists { .. }) => (POSITIVE_NONE, 0),
        };
        let view = ContrastView {
            index,
            anchors: of_anchors,
            candidates: of_candidates,
            rule: positive_rule,
            excludes_self: u32::from(contrast.excludes_self()),
            device_scale: problem.scale().unwrap_or(0),
            scale: contrast.scale(),
            padding: 0,
        };
        let log_mean = self.floats_if(contrast.rule().weights().is_some(), 1)?;
        let (kind, [first, second]) = contrast.rule().encoded();
        let rule = RowRule {
            kind,
            first,
            second,
            negatives: problem.negatives() as f32,
            log_mean: log_mean.as_ref().map_or(0, Floats::address),
        };
        let anchor_rows = self.tile_rows(arithmetic, matrices.anchors, &mut held)?;
        let candidate_rows = match contrast.is_shared() {
            true => anchor_rows,
            false => self.tile_rows(arithmetic, matrices.candidates, &mut held)?,
        };
        let of_positives = contrast.reduction() == Reduction::MeanOfPositives;
        let flags = self.floats(3)?;
        self.device.zero(flags.address(), 12)?;
        let targets = self.targets(problem, arithmetic, &flags, &mut held)?;
        Ok(Prepared {
            problem,
            view,
            rule,
            shape,
            arithmetic,
            anchor_rows,
            candidate_rows,
            flags,
            log_mean,
            counted: self.floats_if(of_positives, 1)?,
            options: Options::of(problem),
            targets,
            _held: held.buffers,
        })
    }

    /// The matrix as the tile loops of an arithmetic read it: as e4m3, or in its own type. The latter is a copy where
    /// rows are not whole chunks of 16 bytes at multiples of 16 bytes.
    pub(super) fn tile_rows(
        &self,
        arithmetic: Arithmetic,
        matrix: DeviceMatrix,
        held: &mut Held<'_, D>,
    ) -> Result<Matrix, Error> {
        if arithmetic == Arithmetic::E4m3 {
            return self.quantized(matrix, held);
        }
        let rows = Matrix {
            rows: count("rows", matrix.rows)?,
            ..matrix.into()
        };
        let aligned = [rows.data, rows.stride, rows.row_bytes.into()];
        if aligned.iter().all(|n| n.is_multiple_of(16)) {
            return Ok(rows);
        }
        let row_bytes = (rows.row_bytes as usize).next_multiple_of(16);
        let dim = row_bytes / element_bytes(matrix.dtype);
        let copy = held.like(DeviceMatrix { dim, ..matrix })?;
        Rowwise::new(self.device).copy(matrix, copy)?;
        Ok(copy.into())
    }
}
