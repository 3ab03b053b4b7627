//! Forward, value-and-gradient, backward and top-k as sequences of launches.
//!
//! ```text
//! positives            z₊ of every anchor, and whether any number is not finite
//! statistics, combine  lse⁻ and σ = 1 − p₊, where a gradient needs them first
//! gradient…, finish    dq and dk; the pass over the anchors of a one-way loss finds lse on its way
//! reduce               loss and ∂loss/∂s
//! ```

use super::gradient::Side;
use super::params::{
    ContrastView, GlobalRows, MatrixView, PositivesParams, ReduceParams, ScoresParams,
    SelectParams, StatisticsParams,
};
use super::{Device, DeviceMatrix, Floats, Launch, Memory, count, number_bytes, type_name};
use crate::contrast::{Contrast, Form, Inputs, Positives, Shape};
use crate::element::DType;
use crate::engine::{Forward, Gradients, TopK, ValueAndGrad};
use crate::error::Error;
use crate::statistics::{RowStatistics, Statistics};

/// Rows and columns of a tile of logits, threads and shared memory of a block: `ScoresTile` of
/// similarity/scores.h.
const TILE: usize = 128;
const SCORES_THREADS: u32 = 256;
const SCORES_SHARED: u32 = 3 * 2 * 128 * 128 + 4 * 128 * 8;

/// Anchor tiles whose column statistics are kept before they are added up: with 128 rows a tile,
/// 256 bytes a candidate.
const COLUMN_PARTS: usize = 32;

/// Rows of a block of the kernels that take a warp a row.
pub(super) const WARP_ROWS: usize = 8;

/// The verbs that compute a contrast.
pub(crate) struct Similarity<'d, D: Device> {
    pub(super) device: &'d D,
    /// Bytes for a chunk of weights or scores.
    pub(super) budget: usize,
}

/// Statistics of one direction, in device memory.
pub(super) struct DeviceStatistics<D: Device> {
    pub negatives_lse: Floats<D>,
    pub positive: Floats<D>,
    pub lse2: Floats<D>,
    pub sigma: Floats<D>,
}

/// A contrast's inputs, ready for the tile loops.
pub(super) struct Prepared<'a, D: Device> {
    pub contrast: &'a Contrast,
    pub view: ContrastView,
    pub shape: Shape,
    pub dtype: DType,
    pub anchors: DeviceMatrix,
    pub candidates: DeviceMatrix,
    pub own_keys: Option<DeviceMatrix>,
    pub anchor_rows: GlobalRows,
    pub candidate_rows: GlobalRows,
    pub not_finite: Floats<D>,
    /// What the views above point into, when it is not the caller's.
    pub _held: Vec<D::Buffer>,
}

impl<'d, D: Device> Similarity<'d, D> {
    /// `budget`: bytes for a chunk of weights or scores.
    pub(crate) fn new(device: &'d D, budget: usize) -> Self {
        Self { device, budget }
    }

    pub(super) fn memory(&self) -> Memory<'_, D> {
        Memory {
            device: self.device,
        }
    }

    pub(super) fn launch<P: bytemuck::Pod>(
        &self,
        kernel: &'static str,
        grid: [u32; 3],
        threads: u32,
        shared_bytes: u32,
        params: &P,
    ) -> Result<(), Error> {
        self.device.launch(&Launch {
            kernel,
            grid,
            threads,
            shared_bytes,
            params: bytemuck::bytes_of(params),
        })
    }

    /// How many parts `tiles` tiles are cut into when `blocks` blocks each take one part, and tiles
    /// per part: enough to fill the device twice.
    pub(super) fn split(&self, blocks: usize, tiles: usize) -> (u32, u32) {
        let wanted = (2 * self.device.multiprocessors() as usize).div_ceil(blocks.max(1));
        let per_part = tiles.div_ceil(wanted.clamp(1, tiles.max(1)));
        let parts = tiles.div_ceil(per_part.max(1));
        (parts.max(1) as u32, per_part.max(1) as u32)
    }

    fn prepare<'a>(
        &self,
        contrast: &'a Contrast,
        inputs: &Inputs<DeviceMatrix>,
    ) -> Result<Prepared<'a, D>, Error> {
        let shape = contrast.check(inputs)?;
        let (anchors, candidates, own_keys) = match *inputs {
            Inputs::Shared { z } => (z, z, None),
            Inputs::Pair { q, k } => (q, k, None),
            Inputs::Queue { q, own_key, queue } => (q, queue, Some(own_key)),
        };
        if shape.dim > 4096 {
            return Err(Error::Scalar {
                argument: "dim",
                given: shape.dim as f64,
                allowed: "at most 4096 on this engine",
            });
        }
        let mut held = Vec::new();
        let mut index = 0;
        if let Form::InfoNce(Positives::Index(positives)) = &contrast.form {
            let buffer = self.device.allocate(4 * positives.len())?;
            index = D::address(&buffer);
            self.device.write(index, bytemuck::cast_slice(positives))?;
            held.push(buffer);
        }
        let view = ContrastView {
            index,
            anchors: count("q", shape.anchors)?,
            candidates: count("k", shape.candidates)?,
            rule: match &contrast.form {
                Form::Moco => 0,
                Form::NtXent => 1,
                Form::Clip | Form::InfoNce(Positives::Diagonal) => 2,
                Form::InfoNce(Positives::Index(_)) => 3,
            },
            excludes_self: u32::from(contrast.excludes_self()),
            device_scale: 0,
            scale: contrast.scale(),
            padding: 0,
        };
        let anchor_rows = self.rows(anchors, &mut held)?;
        let candidate_rows = match inputs {
            Inputs::Shared { .. } => anchor_rows,
            _ => self.rows(candidates, &mut held)?,
        };
        let not_finite = self.memory().written(&[0.0, 0.0])?;
        Ok(Prepared {
            contrast,
            view,
            shape,
            dtype: anchors.dtype,
            anchors,
            candidates,
            own_keys,
            anchor_rows,
            candidate_rows,
            not_finite,
            _held: held,
        })
    }

    /// The matrix as the tile loops read it, copied only when its rows are not whole chunks of 16
    /// bytes at multiples of 16 bytes.
    fn rows(&self, matrix: DeviceMatrix, held: &mut Vec<D::Buffer>) -> Result<GlobalRows, Error> {
        let bytes = number_bytes(matrix.dtype);
        let (row_bytes, stride) = (matrix.dim * bytes, matrix.stride * bytes);
        let aligned = [row_bytes, stride].iter().all(|n| n.is_multiple_of(16));
        let mut rows = GlobalRows {
            data: matrix.address,
            stride: stride as u64,
            rows: count("rows", matrix.rows)?,
            row_bytes: row_bytes as u32,
        };
        if aligned && matrix.address.is_multiple_of(16) {
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
        super::Rowwise::new(self.device).copy_rows(matrix, 0, to, 0, matrix.rows)?;
        rows.data = to.address;
        rows.stride = padded as u64;
        rows.row_bytes = padded as u32;
        held.push(buffer);
        Ok(rows)
    }

    fn positives(&self, prepared: &Prepared<'_, D>) -> Result<Floats<D>, Error> {
        let shape = prepared.shape;
        let positive = self.memory().floats(shape.anchors)?;
        let params = PositivesParams {
            contrast: prepared.view,
            anchors: view(prepared.anchors),
            candidates: view(prepared.candidates),
            own_keys: prepared.own_keys.map_or_else(no_matrix, view),
            dim: shape.dim as u32,
            padding: 0,
            not_finite: prepared.not_finite.address(),
            positive: positive.address(),
        };
        let rows = shape.anchors + shape.candidates;
        let grid = [rows.div_ceil(WARP_ROWS) as u32, 1, 1];
        self.launch("positives", grid, 32 * WARP_ROWS as u32, 0, &params)?;
        Ok(positive)
    }

    /// Room for statistics whose `positive` is known.
    pub(super) fn statistics_of(
        &self,
        positive: Floats<D>,
        negatives_lse: Option<Floats<D>>,
    ) -> Result<DeviceStatistics<D>, Error> {
        let memory = self.memory();
        let rows = positive.length;
        Ok(DeviceStatistics {
            negatives_lse: match negatives_lse {
                Some(given) => given,
                None => memory.floats(rows)?,
            },
            positive,
            lse2: memory.floats(rows)?,
            sigma: memory.floats(rows)?,
        })
    }

    /// Completes statistics from `parts` partial sums a row; with no partial sums, from lse⁻.
    pub(super) fn combine(
        &self,
        prepared: &Prepared<'_, D>,
        statistics: &DeviceStatistics<D>,
        first_row: usize,
        rows: usize,
        partial: Partial,
    ) -> Result<(), Error> {
        let at = |floats: &Floats<D>| floats.address() + 4 * first_row as u64;
        let params = StatisticsParams {
            partial: partial.sums,
            parts: partial.parts,
            rows: rows as u32,
            running: partial.running,
            first: u32::from(partial.first),
            last: u32::from(partial.last),
            candidates_matter: 1,
            anchors_matter: u32::from(prepared.contrast.is_symmetric()),
            not_finite: prepared.not_finite.address(),
            positive: at(&statistics.positive),
            negatives_lse: at(&statistics.negatives_lse),
            lse2: at(&statistics.lse2),
            sigma: at(&statistics.sigma),
        };
        let grid = [rows.div_ceil(128) as u32, 1, 1];
        self.launch("combine_statistics", grid, 128, 0, &params)
    }

    /// Statistics of rows, and of columns where they have a loss: 2NMD FLOPs.
    fn statistics(
        &self,
        prepared: &Prepared<'_, D>,
        positive: Floats<D>,
    ) -> Result<(DeviceStatistics<D>, Option<DeviceStatistics<D>>), Error> {
        let memory = self.memory();
        let Shape {
            anchors,
            candidates,
            ..
        } = prepared.shape;
        let symmetric = prepared.contrast.is_symmetric();
        let columns = match symmetric {
            true => {
                // Of the diagonal: the columns' positives are the rows'.
                let positives = memory.floats(anchors)?;
                let from = vector(&positive, anchors);
                let to = vector(&positives, anchors);
                super::Rowwise::new(self.device).copy_rows(from, 0, to, 0, anchors)?;
                Some(self.statistics_of(positives, None)?)
            }
            false => None,
        };
        let rows = self.statistics_of(positive, None)?;
        let chunk = match symmetric {
            true => (COLUMN_PARTS * TILE).min(anchors.next_multiple_of(TILE)),
            false => anchors.next_multiple_of(TILE),
        };
        let row_tiles = chunk / TILE;
        let (parts, per_part) = self.split(row_tiles, candidates.div_ceil(TILE));
        let row_sums = memory.floats(2 * parts as usize * chunk.min(anchors))?;
        let column_sums = match symmetric {
            true => Some((
                memory.floats(2 * row_tiles * candidates)?,
                memory.floats(2 * candidates)?,
            )),
            false => None,
        };
        for first in (0..anchors).step_by(chunk) {
            let count = chunk.min(anchors - first);
            let params = ScoresParams {
                first_anchor: first as u32,
                tiles_per_split: per_part,
                rows: row_sums.address(),
                columns: column_sums.as_ref().map_or(0, |(sums, _)| sums.address()),
                ..scores_params(prepared, first, count)
            };
            let tiles = count.div_ceil(TILE) as u32;
            self.scores("statistics", prepared.dtype, [tiles, parts, 1], &params)?;
            self.combine(
                prepared,
                &rows,
                first,
                count,
                Partial {
                    sums: row_sums.address(),
                    parts,
                    ..Partial::default()
                },
            )?;
            if let (Some((sums, running)), Some(columns)) = (&column_sums, &columns) {
                self.combine(
                    prepared,
                    columns,
                    0,
                    candidates,
                    Partial {
                        sums: sums.address(),
                        parts: tiles,
                        running: running.address(),
                        first: first == 0,
                        last: first + count == anchors,
                    },
                )?;
            }
        }
        Ok((rows, columns))
    }

    /// Launches one of the kernels of similarity/scores.h.
    pub(super) fn scores(
        &self,
        kernel: &'static str,
        dtype: DType,
        grid: [u32; 3],
        params: &ScoresParams,
    ) -> Result<(), Error> {
        let name = kernel_name(kernel, dtype);
        self.launch(name, grid, SCORES_THREADS, SCORES_SHARED, params)
    }

    /// Loss and dscale, read back.
    fn reduce(
        &self,
        prepared: &Prepared<'_, D>,
        rows: Option<&DeviceStatistics<D>>,
        columns: Option<&DeviceStatistics<D>>,
        dots: Option<&Floats<D>>,
    ) -> Result<[f32; 2], Error> {
        let contrast = prepared.contrast;
        let result = self.memory().floats(2)?;
        let lse = |s: Option<&DeviceStatistics<D>>| s.map_or(0, |s| s.negatives_lse.address());
        let positive = |s: Option<&DeviceStatistics<D>>| s.map_or(0, |s| s.positive.address());
        let params = ReduceParams {
            row_lse: lse(rows),
            row_positive: positive(rows),
            column_lse: lse(columns),
            column_positive: positive(columns),
            dots: dots.map_or(0, Floats::address),
            rows: prepared.view.anchors,
            columns: prepared.view.candidates,
            row_weight: contrast.row_weight(prepared.shape.anchors),
            // Every logit of NT-Xent moves two rows of z.
            dot_weight: if contrast.form == Form::NtXent {
                0.5
            } else {
                1.0
            },
            contrast: prepared.view,
            result: result.address(),
        };
        self.launch("reduce", [1, 1, 1], 256, 8 * 256, &params)?;
        let numbers = result.read(self.device)?;
        Ok([numbers[0], numbers[1]])
    }

    fn read_statistics(
        &self,
        rows: &DeviceStatistics<D>,
        columns: Option<&DeviceStatistics<D>>,
    ) -> Result<Statistics, Error> {
        let read = |statistics: &DeviceStatistics<D>| -> Result<RowStatistics, Error> {
            Ok(RowStatistics {
                negatives_lse: statistics.negatives_lse.read(self.device)?,
                positive: statistics.positive.read(self.device)?,
            })
        };
        Ok(Statistics {
            rows: read(rows)?,
            columns: columns.map(read).transpose()?,
        })
    }

    pub(crate) fn forward(
        &self,
        contrast: &Contrast,
        inputs: &Inputs<DeviceMatrix>,
    ) -> Result<Forward, Error> {
        let prepared = self.prepare(contrast, inputs)?;
        let positive = self.positives(&prepared)?;
        let (rows, columns) = self.statistics(&prepared, positive)?;
        let [loss, _] = self.reduce(&prepared, Some(&rows), columns.as_ref(), None)?;
        let statistics = self.read_statistics(&rows, columns.as_ref())?;
        Ok(Forward { loss, statistics })
    }

    pub(crate) fn value_and_grad(
        &self,
        contrast: &Contrast,
        inputs: &Inputs<DeviceMatrix>,
        upstream: f32,
        gradients: &Gradients<DeviceMatrix>,
    ) -> Result<ValueAndGrad, Error> {
        let prepared = self.prepare(contrast, inputs)?;
        contrast.check_gradients(prepared.shape, &gradients.dq, gradients.dk.as_ref())?;
        let coefficient = f64::from(upstream) * contrast.row_weight(prepared.shape.anchors);
        let side = Side {
            prepared: &prepared,
            coefficient: coefficient as f32,
        };
        let positive = self.positives(&prepared)?;
        let one_way = matches!(contrast.form, Form::InfoNce(_) | Form::Moco);
        let (rows, columns, dots) = if one_way && side.is_fused() {
            let rows = self.statistics_of(positive, None)?;
            let dots = self.gradient_online(&side, &rows, gradients.dq)?;
            if let Some(dk) = gradients.dk {
                let known = self.known(&prepared, &rows, None)?;
                self.gradient_of_candidates(&side, &known, dk)?;
            }
            (rows, None, dots)
        } else {
            let (rows, columns) = self.statistics(&prepared, positive)?;
            let known = self.known(&prepared, &rows, columns.as_ref())?;
            let dots = self.gradients_known(&side, &known, gradients)?;
            (rows, columns, dots)
        };
        let [loss, dscale] = self.reduce(&prepared, Some(&rows), columns.as_ref(), Some(&dots))?;
        let statistics = self.read_statistics(&rows, columns.as_ref())?;
        Ok(ValueAndGrad {
            loss,
            dscale,
            statistics,
        })
    }

    pub(crate) fn backward(
        &self,
        contrast: &Contrast,
        inputs: &Inputs<DeviceMatrix>,
        statistics: &Statistics,
        upstream: f32,
        gradients: &Gradients<DeviceMatrix>,
    ) -> Result<f32, Error> {
        let shape = contrast.check(inputs)?;
        contrast.check_gradients(shape, &gradients.dq, gradients.dk.as_ref())?;
        statistics.check(contrast, shape)?;
        let prepared = self.prepare(contrast, inputs)?;
        let memory = self.memory();
        let completed = |given: &RowStatistics| -> Result<DeviceStatistics<D>, Error> {
            let lse = memory.written(&given.negatives_lse)?;
            let held = self.statistics_of(memory.written(&given.positive)?, Some(lse))?;
            self.combine(&prepared, &held, 0, given.len(), Partial::default())?;
            Ok(held)
        };
        let rows = completed(&statistics.rows)?;
        let columns = match &statistics.columns {
            Some(given) if contrast.is_symmetric() => Some(completed(given)?),
            _ => None,
        };
        let coefficient = f64::from(upstream) * contrast.row_weight(shape.anchors);
        let side = Side {
            prepared: &prepared,
            coefficient: coefficient as f32,
        };
        let known = self.known(&prepared, &rows, columns.as_ref())?;
        let dots = self.gradients_known(&side, &known, gradients)?;
        Ok(self.reduce(&prepared, None, None, Some(&dots))?[1])
    }

    pub(crate) fn top_k(
        &self,
        queries: DeviceMatrix,
        candidates: DeviceMatrix,
        k: usize,
        exclude_self: bool,
    ) -> Result<TopK, Error> {
        crate::contrast::same_dim("candidates", candidates.dim, queries.dim)?;
        let available = candidates.rows - usize::from(exclude_self);
        if k == 0 || k > available {
            return Err(Error::TopK {
                given: k,
                available,
            });
        }
        let mut held = Vec::new();
        let query_rows = self.rows(queries, &mut held)?;
        let candidate_rows = self.rows(candidates, &mut held)?;
        let memory = self.memory();
        let chunk = self.chunk(queries.rows, 4 * candidates.rows);
        let scores = memory.floats(chunk.min(queries.rows) * candidates.rows)?;
        let indices = memory.floats(queries.rows * k)?;
        let best = memory.floats(queries.rows * k)?;
        for first in (0..queries.rows).step_by(chunk) {
            let count = chunk.min(queries.rows - first);
            let (parts, per_part) =
                self.split(count.div_ceil(TILE), candidates.rows.div_ceil(TILE));
            let params = ScoresParams {
                anchors: rows_from(query_rows, first, count),
                candidates: candidate_rows,
                tiles_per_split: per_part,
                scores: scores.address(),
                ..bytemuck::Zeroable::zeroed()
            };
            let grid = [count.div_ceil(TILE) as u32, parts, 1];
            self.scores("scores", queries.dtype, grid, &params)?;
            let params = SelectParams {
                scores: scores.address(),
                rows: count as u32,
                candidates: candidate_rows.rows,
                k: k as u32,
                first_row: first as u32,
                excludes_self: u32::from(exclude_self),
                padding: 0,
                indices: indices.address() + 4 * (first * k) as u64,
                best: best.address() + 4 * (first * k) as u64,
            };
            self.launch(
                "select_best",
                [count.div_ceil(4) as u32, 1, 1],
                128,
                0,
                &params,
            )?;
        }
        let indices = indices.read(self.device)?;
        Ok(TopK {
            indices: indices.into_iter().map(f32::to_bits).collect(),
            scores: best.read(self.device)?,
        })
    }

    /// Rows of a chunk of which each needs `row_bytes` of the budget: whole tiles, at least one.
    pub(super) fn chunk(&self, rows: usize, row_bytes: usize) -> usize {
        let fits = (self.budget / row_bytes / TILE).max(1) * TILE;
        fits.min(rows.next_multiple_of(TILE))
    }
}

/// Partial sums of statistics, by address.
#[derive(Clone, Copy)]
pub(super) struct Partial {
    pub sums: u64,
    pub parts: u32,
    pub running: u64,
    pub first: bool,
    pub last: bool,
}

impl Default for Partial {
    /// None, and no other set follows.
    fn default() -> Self {
        Self {
            sums: 0,
            parts: 0,
            running: 0,
            first: true,
            last: true,
        }
    }
}

/// The chunk of `count` anchors from `first` on, against all candidates.
pub(super) fn scores_params<D: Device>(
    prepared: &Prepared<'_, D>,
    first: usize,
    count: usize,
) -> ScoresParams {
    ScoresParams {
        contrast: prepared.view,
        anchors: rows_from(prepared.anchor_rows, first, count),
        candidates: prepared.candidate_rows,
        first_anchor: first as u32,
        ..bytemuck::Zeroable::zeroed()
    }
}

/// `count` rows from `first` on.
pub(super) fn rows_from(rows: GlobalRows, first: usize, count: usize) -> GlobalRows {
    GlobalRows {
        data: rows.data + first as u64 * rows.stride,
        rows: count as u32,
        ..rows
    }
}

/// The kernel of a family for a type.
pub(super) fn kernel_name(family: &'static str, dtype: DType) -> &'static str {
    macro_rules! names {
        ($($family:literal),*) => {
            match (family, type_name(dtype)) {
                $(
                    ($family, "f32") => concat!($family, "_f32"),
                    ($family, "f16") => concat!($family, "_f16"),
                    ($family, "bf16") => concat!($family, "_bf16"),
                )*
                // Every device refuses a kernel it does not have.
                _ => family,
            }
        };
    }
    names!(
        "statistics",
        "weights",
        "scores",
        "product",
        "product_transposed"
    )
}

/// The matrix as row-wise kernels see it.
pub(super) fn view(matrix: DeviceMatrix) -> MatrixView {
    MatrixView {
        data: matrix.address,
        stride: matrix.stride as u64,
        dtype: match matrix.dtype {
            DType::F32 => 0,
            DType::F16 => 1,
            DType::Bf16 => 2,
        },
        padding: 0,
    }
}

/// No matrix.
pub(super) fn no_matrix() -> MatrixView {
    bytemuck::Zeroable::zeroed()
}

/// Numbers as a matrix of one column.
fn vector<D: Device>(floats: &Floats<D>, rows: usize) -> DeviceMatrix {
    DeviceMatrix {
        address: floats.address(),
        rows,
        dim: 1,
        stride: 1,
        dtype: DType::F32,
    }
}
