//! Gradients over chunks of stored weights, where D is too large for the fused kernels.

use super::DeviceMatrix;
use super::gradient::{Finish, Known, Side, Sums};
use super::params::{
    FitParams, FoldParams, GlobalRows, MatrixView, ProductParams, ScoresParams, WorkGrid,
};
use super::positives::ExponentRange;
use super::prepared::{no_matrix, rows_from, view};
use super::results::Direction;
use super::similarity::{Similarity, WARP_ROWS};
use super::statistics::{Partial, scores_params};
use super::{Arithmetic, Device, Floats, number_bytes};
use crate::contrast::Shape;
use crate::engine::Gradients;
use crate::error::Error;

/// log2 of the smallest f16 that has all its digits.
const F16_SMALLEST: f32 = -14.0;

/// Which logits have exponentials that can be stored, and their offset.
pub(super) fn exponent_range(arithmetic: Arithmetic) -> ExponentRange {
    match arithmetic {
        // Below 2^16, with some room as the bound is rounded itself, and down to 2^-105 before they are stored.
        Arithmetic::F16 => ExponentRange {
            largest: 60.0,
            above: 15.75,
        },
        _ => ExponentRange::WIDE,
    }
}

/// How many powers of two shorter than the longest a folded anchor of f16 may be: the largest of its D numbers is
/// at least 1/√D of its length, and has 11 bits then. Few candidates are not worth a rule (fit_exponentials of
/// similarity/rows.cu): their exponentials are stored twice.
fn folded_range(shape: Shape) -> f32 {
    match shape.candidates {
        0..64 => f32::NEG_INFINITY,
        _ => 28.0 - 0.5 * (shape.dim as f32).log2(),
    }
}

/// Where a chunk's weights come from.
pub(super) enum Softmax<'a, D: Device> {
    /// A softmax that is known.
    Known(&'a Known<'a, D>),
    /// Exponentials, whose sums are the statistics of a one-way loss.
    Found {
        statistics: &'a Direction<D>,
        square_norms: &'a Floats<D>,
        bound: &'a Floats<D>,
    },
}

/// Exponentials, and what a chunk of them needs besides.
struct Exponentials<'a, D: Device> {
    statistics: &'a Direction<D>,
    square_norms: &'a Floats<D>,
    bound: &'a Floats<D>,
    row_sums: Floats<D>,
    factors: Floats<D>,
    /// The chunk's anchors times their factors, where dk is wanted.
    folded: Option<D::Buffer>,
    /// Of f16: whether one offset served, and the shift of the anchors times their factors.
    fit: Option<(Floats<D>, Floats<D>)>,
}

impl<D: Device> Exponentials<'_, D> {
    fn shift(&self) -> u64 {
        self.fit.as_ref().map_or(0, |(_, shift)| shift.address())
    }
}

/// What makes the weights of a chunk.
enum Source<'a, D: Device> {
    Known(&'a Known<'a, D>),
    Found(Exponentials<'a, D>),
}

/// A chunk of anchors, and where its weights are stored.
#[derive(Clone, Copy)]
struct Chunk {
    first: usize,
    count: usize,
    weights: u64,
    /// Numbers from row to row.
    stride: usize,
}

impl<D: Device> Similarity<'_, D> {
    /// Both gradients over chunks of stored weights. With exponentials 6NMD FLOPs in all, the statistics among them,
    /// where one offset serves, 8NMD elsewhere; with a known softmax 6NMD after the statistics. Writes ⟨q_i, dq_i⟩ to
    /// `dots`.
    pub(super) fn chunked(
        &self,
        side: &Side<'_, D>,
        softmax: &Softmax<'_, D>,
        gradients: &Gradients<DeviceMatrix>,
        dots: &Floats<D>,
    ) -> Result<(), Error> {
        let prepared = side.prepared;
        let Shape {
            anchors,
            candidates,
            dim,
        } = prepared.shape;
        let (rows, columns, shift) = match softmax {
            Softmax::Known(known) => (known.rows, known.columns, known.shift()),
            Softmax::Found { statistics, .. } => (&statistics.masses, None, None),
        };
        let bytes = number_bytes(prepared.dtype);
        let stride = candidates.next_multiple_of(16);
        let chunk = self.chunk(anchors, stride * bytes);
        let weights = self.device.allocate(chunk.min(anchors) * stride * bytes)?;
        let columns_of_product = dim.div_ceil(self.tile_columns(prepared.arithmetic));
        let slab = 128 / bytes;
        let row_tiles = |rows| self.row_tiles(prepared.arithmetic, rows);
        let (parts, slabs) = self.split(
            row_tiles(chunk) * columns_of_product,
            candidates.div_ceil(slab),
            1,
        );
        let dq_sums = Sums {
            sums: self
                .memory()
                .floats(parts as usize * chunk.min(anchors) * dim)?,
            normalisers: None,
            parts,
            shift,
        };
        // Chunks add to what those before them left; one chunk alone may be cut into parts as dq's sums are.
        let (dk_parts, dk_slabs) = match chunk < anchors {
            true => (1, u32::MAX),
            false => self.split(
                row_tiles(candidates) * columns_of_product,
                anchors.div_ceil(slab),
                1,
            ),
        };
        let dk_sums = match gradients.dk {
            Some(_) => Some(self.memory().floats(dk_parts as usize * candidates * dim)?),
            None => None,
        };
        let cut = self.cut(prepared.arithmetic, prepared.anchor_rows, chunk, candidates);
        let source = match softmax {
            Softmax::Known(known) => Source::Known(known),
            Softmax::Found {
                statistics,
                square_norms,
                bound,
            } => Source::Found(Exponentials {
                statistics,
                square_norms,
                bound,
                row_sums: self
                    .memory()
                    .floats(2 * cut.parts as usize * chunk.min(anchors))?,
                factors: self.memory().floats(chunk.min(anchors))?,
                folded: match gradients.dk {
                    Some(_) => {
                        let row_bytes = prepared.anchor_rows.row_bytes as usize;
                        Some(self.device.allocate(chunk.min(anchors) * row_bytes)?)
                    }
                    None => None,
                },
                fit: match prepared.arithmetic {
                    Arithmetic::F16 => Some((self.memory().floats(1)?, self.memory().floats(2)?)),
                    _ => None,
                },
            }),
        };
        let found = match &source {
            Source::Known(_) => None,
            Source::Found(found) => Some(found),
        };
        for first in (0..anchors).step_by(chunk) {
            let count = chunk.min(anchors - first);
            let count_tiles = row_tiles(count);
            let chunk = Chunk {
                first,
                count,
                weights: D::address(&weights),
                stride,
            };
            let grid = cut.grid(count_tiles);
            match &source {
                Source::Known(known) => {
                    self.known_weights(side, known, chunk, grid, cut.per_part)?
                }
                Source::Found(found) => {
                    self.exponentials(side, found, chunk, grid, cut.per_part)?
                }
            }
            let left = GlobalRows {
                data: chunk.weights,
                stride: (stride * bytes) as u64,
                rows: count as u32,
                row_bytes: super::count("k", stride * bytes)?,
            };
            let mut product = ProductParams {
                left,
                right: prepared.candidate_rows,
                rows: count as u32,
                columns: dim as u32,
                summed: candidates as u32,
                slabs_per_split: slabs,
                accumulate: 0,
                padding: 0,
                // A chunk is finished before the next one overwrites its sums.
                sums: dq_sums.sums.address(),
                shift: 0,
            };
            let grid = WorkGrid::new(count_tiles * columns_of_product, parts);
            self.product(false, prepared.arithmetic, grid, &product)?;
            self.finish(
                side,
                &Finish {
                    factors: found.map(|found| &found.factors),
                    first_row: first,
                    count,
                    ..Finish::of_anchors(&dq_sums, rows, columns, gradients.dq, dots)
                },
            )?;
            if let Some(sums) = &dk_sums {
                product.right = match found.and_then(|found| found.folded.as_ref()) {
                    Some(folded) => GlobalRows {
                        data: D::address(folded),
                        stride: u64::from(prepared.anchor_rows.row_bytes),
                        rows: count as u32,
                        row_bytes: prepared.anchor_rows.row_bytes,
                    },
                    None => rows_from(prepared.anchor_rows, first, count),
                };
                product.rows = candidates as u32;
                product.summed = count as u32;
                product.slabs_per_split = dk_slabs;
                product.accumulate = u32::from(first > 0);
                product.sums = sums.address();
                product.shift = found.map_or(0, Exponentials::shift);
                let grid = WorkGrid::new(row_tiles(candidates) * columns_of_product, dk_parts);
                self.product(true, prepared.arithmetic, grid, &product)?;
            }
        }
        if let (Some(sums), Some(dk)) = (dk_sums, gradients.dk) {
            let sums = Sums {
                sums,
                normalisers: None,
                parts: dk_parts,
                shift,
            };
            self.finish(side, &Finish::of_candidates(&sums, rows, columns, dk))?;
        }
        Ok(())
    }

    /// Stores the chunk's softmax weights.
    fn known_weights(
        &self,
        side: &Side<'_, D>,
        known: &Known<'_, D>,
        chunk: Chunk,
        grid: WorkGrid,
        tiles_per_split: u32,
    ) -> Result<(), Error> {
        let prepared = side.prepared;
        let (rows, columns) = (known.rows, known.columns);
        let at = |floats: &Floats<D>| floats.address() + 4 * chunk.first as u64;
        let params = ScoresParams {
            tiles_per_split,
            row_lse2: at(&rows.offset2),
            column_lse2: columns.map_or(0, |columns| columns.offset2.address()),
            far: known.far,
            shift: known.shift().unwrap_or(0),
            weights: chunk.weights,
            weights_stride: chunk.stride as u64,
            ..scores_params(prepared, chunk.first, chunk.count)
        };
        self.scores("weights", prepared.arithmetic, grid, &params)
    }

    /// Stores the chunk's exponentials, completes its statistics, and folds what the exponentials have
    /// too much into the chunk's anchors and factors.
    fn exponentials(
        &self,
        side: &Side<'_, D>,
        found: &Exponentials<'_, D>,
        chunk: Chunk,
        grid: WorkGrid,
        tiles_per_split: u32,
    ) -> Result<(), Error> {
        let prepared = side.prepared;
        let Chunk { first, count, .. } = chunk;
        let at = |floats: &Floats<D>| floats.address() + 4 * first as u64;
        let params = ScoresParams {
            tiles_per_split,
            bound: found.bound.address(),
            rows: found.row_sums.address(),
            negatives_lse: at(&found.statistics.rows.negatives_lse),
            weights: chunk.weights,
            weights_stride: chunk.stride as u64,
            ..scores_params(prepared, first, count)
        };
        let partial = Partial {
            sums: found.row_sums.address(),
            parts: grid.parts,
            ..Partial::default()
        };
        // Where logits have no bound, a pass before finds offsets. Whether it does anything is decided
        // on the device, so that a recorded graph serves whatever numbers come.
        let unless = found.bound.address();
        let arithmetic = prepared.arithmetic;
        let before = ScoresParams { unless, ..params };
        self.scores("statistics", arithmetic, grid, &before)?;
        let before = Partial { unless, ..partial };
        self.combine(prepared, found.statistics.parts(), first, count, before)?;
        self.scores("exponentials", arithmetic, grid, &params)?;
        self.combine(prepared, found.statistics.parts(), first, count, partial)?;
        if let Some((fit, shift)) = &found.fit {
            let fit_params = FitParams {
                negatives_lse: at(&found.statistics.rows.negatives_lse),
                offset2: at(&found.statistics.masses.offset2),
                square_norms: at(found.square_norms),
                rows: count as u32,
                lowest: (prepared.shape.candidates as f32).log2() + F16_SMALLEST,
                range: match found.folded {
                    Some(_) => folded_range(prepared.shape),
                    None => f32::INFINITY,
                },
                padding: 0,
                bound: found.bound.address(),
                fit: fit.address(),
                shift: shift.address(),
            };
            self.launch_block("fit_exponentials", &fit_params)?;
            // Where they do not fit, once more, with offsets of the rows.
            let again = ScoresParams {
                bound: 0,
                unless: fit.address(),
                ..params
            };
            self.scores("exponentials", arithmetic, grid, &again)?;
        }
        let matrix = |data: u64, stride: usize| MatrixView {
            data,
            stride: stride as u64,
            ..view(prepared.anchors)
        };
        let bytes = number_bytes(prepared.dtype);
        let rows = rows_from(prepared.anchor_rows, first, count);
        let dim = rows.row_bytes as usize / bytes;
        let params = FoldParams {
            partial: found.row_sums.address(),
            offset2: at(&found.statistics.masses.offset2),
            parts: grid.parts,
            rows: count as u32,
            dim: dim as u32,
            padding: 0,
            anchors: matrix(rows.data, rows.stride as usize / bytes),
            folded: match &found.folded {
                Some(folded) => matrix(D::address(folded), dim),
                None => no_matrix(),
            },
            shift: found.shift(),
            factors: found.factors.address(),
        };
        let grid = [count.div_ceil(WARP_ROWS) as u32, 1, 1];
        self.launch("fold_rows", grid, 32 * WARP_ROWS as u32, 0, &params)
    }
}
