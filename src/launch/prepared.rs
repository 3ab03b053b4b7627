//! A contrast's inputs as the kernels take them.

use super::params::{ContrastView, GlobalRows, MatrixView, RuleView};
use super::similarity::Similarity;
use super::{Arithmetic, Device, DeviceMatrix, Floats, count, number_bytes};
use crate::contrast::{Contrast, Shape};
use crate::element::DType;
use crate::error::Error;
use crate::inputs::{Matrices, Positives, Problem};

/// Rows as a tile loop reads them.
#[derive(Clone, Copy)]
pub(super) struct TileRows {
    pub rows: GlobalRows,
    /// Of e4m3: where the scales of the rows lie. 0: there are none.
    pub scales: u64,
}

impl TileRows {
    /// `count` rows from `first` on.
    pub fn slice(self, first: usize, count: usize) -> Self {
        let Self { rows, scales } = self;
        Self {
            rows: GlobalRows {
                data: rows.data + first as u64 * rows.stride,
                rows: count as u32,
                ..rows
            },
            scales: match scales {
                0 => 0,
                scales => scales + 4 * first as u64,
            },
        }
    }
}

/// A contrast's inputs, ready for the tile loops.
pub(super) struct Prepared<'a, D: Device> {
    pub problem: &'a Problem<DeviceMatrix>,
    pub view: ContrastView,
    /// Of the row's loss.
    pub rule: RuleView,
    pub shape: Shape,
    pub arithmetic: Arithmetic,
    pub matrices: Matrices<DeviceMatrix>,
    pub anchor_rows: TileRows,
    pub candidate_rows: TileRows,
    /// Words that kernels set: a number of an anchor, of a candidate is not finite; an offset is far from 0.
    pub flags: Floats<D>,
    /// A number that weights of rows need of all of them, where the rule has weights.
    pub log_mean: Option<Floats<D>>,
    /// What the views above point into, when it is not the caller's.
    pub _held: Vec<D::Buffer>,
}

impl<D: Device> Prepared<'_, D> {
    pub fn contrast(&self) -> &Contrast {
        self.problem.contrast()
    }
}

/// `PositiveRule` of tile/contrast.h.
const POSITIVE_NONE: u32 = 0;
const POSITIVE_PAIRED: u32 = 1;
const POSITIVE_DIAGONAL: u32 = 2;
pub(super) const POSITIVE_INDEX: u32 = 3;

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
        if shape.dim > 4096 {
            return Err(Error::Scalar {
                argument: "dim",
                given: shape.dim as f64,
                allowed: "at most 4096 on this engine",
            });
        }
        let mut held = Vec::new();
        let (of_anchors, of_candidates) =
            (count("q", shape.anchors)?, count("k", shape.candidates)?);
        let mut hold = |index: Floats<D>| {
            let address = index.address();
            held.push(index.buffer);
            (POSITIVE_INDEX, address)
        };
        let (positive_rule, index) = match problem.positives() {
            None if contrast.has_own_keys() => (POSITIVE_NONE, 0),
            None => (POSITIVE_PAIRED, 0),
            Some(Positives::Offset(0)) => (POSITIVE_DIAGONAL, 0),
            Some(Positives::Index(index)) => (POSITIVE_INDEX, index.address),
            Some(Positives::Offset(offset)) => {
                hold(self.index_of_offset(offset, of_anchors, of_candidates)?)
            }
            Some(Positives::Labels {
                anchors,
                candidates,
            }) => hold(self.index_of_labels(anchors, candidates)?),
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
        let weights = contrast.rule().weights();
        let log_mean = weights.map(|_| self.floats(1)).transpose()?;
        let (kind, numbers) = contrast.rule().encoded();
        let rule = RuleView {
            kind,
            numbers,
            negatives: problem.negatives() as f32,
            log_mean: log_mean.as_ref().map_or(0, Floats::address),
        };
        let anchor_rows = self.tile_rows(arithmetic, matrices.anchors, &mut held)?;
        let candidate_rows = match contrast.is_shared() {
            true => anchor_rows,
            false => self.tile_rows(arithmetic, matrices.candidates, &mut held)?,
        };
        let flags = self.floats(3)?;
        self.device.zero(flags.address(), 12)?;
        Ok(Prepared {
            problem,
            view,
            rule,
            shape,
            arithmetic,
            matrices,
            anchor_rows,
            candidate_rows,
            flags,
            log_mean,
            _held: held,
        })
    }

    /// The matrix as the tile loops of an arithmetic read it.
    pub(super) fn tile_rows(
        &self,
        arithmetic: Arithmetic,
        matrix: DeviceMatrix,
        held: &mut Vec<D::Buffer>,
    ) -> Result<TileRows, Error> {
        if arithmetic == Arithmetic::E4m3 {
            return self.quantized(matrix, held);
        }
        Ok(TileRows {
            rows: self.rows(matrix, held)?,
            scales: 0,
        })
    }

    /// The matrix in its own type, copied only when its rows are not whole chunks of 16
    /// bytes at multiples of 16 bytes.
    fn rows(&self, matrix: DeviceMatrix, held: &mut Vec<D::Buffer>) -> Result<GlobalRows, Error> {
        let bytes = number_bytes(matrix.dtype);
        let (row_bytes, stride) = (matrix.dim * bytes, matrix.stride * bytes);
        let aligned = [row_bytes, stride, matrix.address as usize];
        let mut rows = GlobalRows {
            data: matrix.address,
            stride: stride as u64,
            rows: count("rows", matrix.rows)?,
            row_bytes: row_bytes as u32,
        };
        if aligned.iter().all(|n| n.is_multiple_of(16)) {
            return Ok(rows);
        }
        let padded = row_bytes.next_multiple_of(16);
        let buffer = self.device.allocate(matrix.rows * padded)?;
        let to = DeviceMatrix {
            address: D::address(&buffer),
            dim: padded / bytes,
            stride: padded / bytes,
            ..matrix
        };
        super::Rowwise::new(self.device).copy(matrix, to)?;
        rows.data = to.address;
        rows.stride = padded as u64;
        rows.row_bytes = padded as u32;
        held.push(buffer);
        Ok(rows)
    }
}

/// The matrix as row-wise kernels see it.
pub(super) fn view(matrix: DeviceMatrix) -> MatrixView {
    MatrixView {
        data: matrix.address,
        stride: matrix.stride as u64,
        dtype: dtype_code(matrix.dtype),
        padding: 0,
    }
}

/// `DType` of tile/numbers.h.
pub(super) fn dtype_code(dtype: DType) -> u32 {
    match dtype {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::Bf16 => 2,
    }
}

/// No matrix.
pub(super) fn no_matrix() -> MatrixView {
    bytemuck::Zeroable::zeroed()
}

/// Numbers as a matrix of one column.
pub(super) fn vector<D: Device>(floats: &Floats<D>) -> DeviceMatrix {
    DeviceMatrix {
        address: floats.address(),
        rows: floats.length,
        dim: 1,
        stride: 1,
        dtype: DType::F32,
    }
}
