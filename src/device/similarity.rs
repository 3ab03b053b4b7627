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
use crate::engine::{Gradients, TopK};
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
    /// Where s stands on the device, in place of the contrast's; 0: it does not.
    scale: u64,
}

/// What a call leaves on the device.
pub(crate) struct Results<D: Device> {
    /// Loss and dscale.
    pub loss_and_dscale: Floats<D>,
    pub rows: DeviceStatistics<D>,
    /// Where columns have a loss.
    pub columns: Option<DeviceStatistics<D>>,
}

impl<D: Device> Results<D> {
    /// Loss and dscale, and the statistics, read back.
    pub(crate) fn read(&self, device: &D) -> Result<([f32; 2], Statistics), Error> {
        let numbers = self.loss_and_dscale.read(device)?;
        let read = |statistics: &DeviceStatistics<D>| -> Result<RowStatistics, Error> {
            Ok(RowStatistics {
                negatives_lse: statistics.negatives_lse.read(device)?,
                positive: statistics.positive.read(device)?,
            })
        };
        let statistics = Statistics {
            rows: read(&self.rows)?,
            columns: self.columns.as_ref().map(read).transpose()?,
        };
        Ok(([numbers[0], numbers[1]], statistics))
    }
}

/// The k best candidates of every query, on the device.
pub(crate) struct DeviceTopK<D: Device> {
    /// N × k, each the bits of an index.
    pub indices: Floats<D>,
    /// N × k.
    pub scores: Floats<D>,
}

impl<D: Device> DeviceTopK<D> {
    /// Both, read back.
    pub(crate) fn read(&self, device: &D) -> Result<TopK, Error> {
        let indices = self.indices.read(device)?;
        Ok(TopK {
            indices: indices.into_iter().map(f32::to_bits).collect(),
            scores: self.scores.read(device)?,
        })
    }
}

/// Statistics of one direction, in device memory.
pub(crate) struct DeviceStatistics<D: Device> {
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
        Self {
            device,
            budget,
            scale: 0,
        }
    }

    /// With s read from the device.
    pub(crate) fn with_scale(self, scale: u64) -> Self {
        Self { scale, ..self }
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
    /// per part: as many as make the device finish first. `resident` blocks fit a multiprocessor.
    pub(super) fn split(&self, blocks: usize, tiles: usize, resident: usize) -> (u32, u32) {
        let places = resident * self.device.multiprocessors().max(1) as usize;
        // A block's start and end take about as long as two tiles.
        let time = |parts: usize| (blocks * parts).div_ceil(places) * (tiles.div_ceil(parts) + 2);
        let most = tiles.clamp(1, (2 * places).div_ceil(blocks.max(1)));
        let parts = (1..=most).min_by_key(|&parts| time(parts)).unwrap_or(1);
        let per_part = tiles.div_ceil(parts).max(1);
        (tiles.div_ceil(per_part).max(1) as u32, per_part as u32)
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
            device_scale: self.scale,
            scale: contrast.scale(),
            padding: 0,
        };
        let anchor_rows = self.rows(anchors, &mut held)?;
        let candidate_rows = match inputs {
            Inputs::Shared { .. } => anchor_rows,
            _ => self.rows(candidates, &mut held)?,
        };
        let not_finite = self.memory().floats(2)?;
        self.device.zero(not_finite.address(), 8)?;
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
            symmetric: u32::from(prepared.contrast.is_symmetric()),
            padding: 0,
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
        let (parts, per_part) = self.split(row_tiles, candidates.div_ceil(TILE), 1);
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

    /// Loss and dscale.
    fn reduce(
        &self,
        prepared: &Prepared<'_, D>,
        rows: Option<&DeviceStatistics<D>>,
        columns: Option<&DeviceStatistics<D>>,
        dots: Option<&Floats<D>>,
    ) -> Result<Floats<D>, Error> {
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
        self.launch("reduce", [1, 1, 1], 1024, 8 * 1024, &params)?;
        Ok(result)
    }

    pub(crate) fn forward(
        &self,
        contrast: &Contrast,
        inputs: &Inputs<DeviceMatrix>,
    ) -> Result<Results<D>, Error> {
        let prepared = self.prepare(contrast, inputs)?;
        let positive = self.positives(&prepared)?;
        let (rows, columns) = self.statistics(&prepared, positive)?;
        Ok(Results {
            loss_and_dscale: self.reduce(&prepared, Some(&rows), columns.as_ref(), None)?,
            rows,
            columns,
        })
    }

    pub(crate) fn value_and_grad(
        &self,
        contrast: &Contrast,
        inputs: &Inputs<DeviceMatrix>,
        upstream: f32,
        gradients: &Gradients<DeviceMatrix>,
    ) -> Result<Results<D>, Error> {
        let shape = contrast.check(inputs)?;
        contrast.check_gradients(shape, &gradients.dq, gradients.dk.as_ref())?;
        let prepared = self.prepare(contrast, inputs)?;
        let side = Side::new(&prepared, upstream);
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
        Ok(Results {
            loss_and_dscale: self.reduce(&prepared, Some(&rows), columns.as_ref(), Some(&dots))?,
            rows,
            columns,
        })
    }

    /// Returns two numbers, the second of which is dscale.
    pub(crate) fn backward(
        &self,
        contrast: &Contrast,
        inputs: &Inputs<DeviceMatrix>,
        statistics: &Statistics,
        upstream: f32,
        gradients: &Gradients<DeviceMatrix>,
    ) -> Result<Floats<D>, Error> {
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
        self.gradients_of(&prepared, &rows, columns.as_ref(), upstream, gradients)
    }

    /// [`backward`](Self::backward) from statistics that are on the device.
    pub(crate) fn backward_of(
        &self,
        contrast: &Contrast,
        inputs: &Inputs<DeviceMatrix>,
        forward: &Results<D>,
        upstream: f32,
        gradients: &Gradients<DeviceMatrix>,
    ) -> Result<Floats<D>, Error> {
        let shape = contrast.check(inputs)?;
        contrast.check_gradients(shape, &gradients.dq, gradients.dk.as_ref())?;
        let columns = forward.columns.as_ref();
        let given = [
            ("statistics.rows", Some(forward.rows.positive.len())),
            ("statistics.columns", columns.map(|s| s.positive.len())),
        ];
        let expected = [
            Some(shape.anchors),
            contrast.is_symmetric().then_some(shape.candidates),
        ];
        for ((argument, given), expected) in given.into_iter().zip(expected) {
            if given != expected {
                return Err(Error::Rows {
                    argument,
                    given: given.unwrap_or(0),
                    expected: expected.unwrap_or(0),
                });
            }
        }
        let prepared = self.prepare(contrast, inputs)?;
        self.gradients_of(&prepared, &forward.rows, columns, upstream, gradients)
    }

    fn gradients_of(
        &self,
        prepared: &Prepared<'_, D>,
        rows: &DeviceStatistics<D>,
        columns: Option<&DeviceStatistics<D>>,
        upstream: f32,
        gradients: &Gradients<DeviceMatrix>,
    ) -> Result<Floats<D>, Error> {
        let side = Side::new(prepared, upstream);
        let known = self.known(prepared, rows, columns)?;
        let dots = self.gradients_known(&side, &known, gradients)?;
        self.reduce(prepared, None, None, Some(&dots))
    }

    pub(crate) fn top_k(
        &self,
        queries: DeviceMatrix,
        candidates: DeviceMatrix,
        k: usize,
        exclude_self: bool,
    ) -> Result<DeviceTopK<D>, Error> {
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
                self.split(count.div_ceil(TILE), candidates.rows.div_ceil(TILE), 1);
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
        Ok(DeviceTopK {
            indices,
            scores: best,
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
