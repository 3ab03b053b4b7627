//! Gradients over chunks of stored weights, where D is too large for the fused kernels.

use super::DeviceMatrix;
use super::choice::{Cut, EXPONENTIALS, STATISTICS, WEIGHTS};
use super::gradient::{Finish, Known, Side, Sums};
use super::params::{FitParams, FoldParams, Matrix, ProductParams, ScoresParams, WorkGrid};
use super::positives::ExponentRange;
use super::prepared::Prepared;
use super::results::Direction;
use super::similarity::Similarity;
use super::statistics::{Partial, scores_params};
use super::{Arithmetic, Device, Floats, kernels};
use crate::contrast::Shape;
use crate::engine::Gradients;
use crate::error::Error;

/// log2 of the smallest f16 that has all its digits.
const F16_SMALLEST: f32 = -14.0;

/// Which logits have exponentials that can be stored, and their offset.
pub(super) fn exponent_range(arithmetic: Arithmetic) -> ExponentRange {
    match arithmetic {
        // Below 2^16, with a margin because the bound itself is rounded, and down to 2^-105 before they are stored.
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
#[derive(Clone, Copy)]
pub(super) enum Softmax<'a, D: Device> {
    /// A softmax that is known.
    Known(&'a Known<'a, D>),
    /// Exponentials, whose sums are the statistics of a one-way loss.
    Found(&'a Exponentials<'a, D>),
}

/// Exponentials, and what a chunk of them needs besides.
pub(super) struct Exponentials<'a, D: Device> {
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

/// A chunk of anchors, and where its weights are stored.
#[derive(Clone, Copy)]
struct Chunk {
    first: usize,
    count: usize,
    weights: Matrix,
    cut: Cut,
}

impl Chunk {
    /// The pass that stores the weights.
    fn scores_params<D: Device>(&self, prepared: &Prepared<'_, D>) -> ScoresParams {
        ScoresParams {
            weights: self.weights,
            ..scores_params(prepared, self.first, self.count)
        }
    }
}

impl<D: Device> Similarity<'_, D> {
    /// Rows of a chunk, bytes of a row of its weights, and how the pass that makes them is cut up.
    fn chunks(&self, prepared: &Prepared<'_, D>) -> (usize, usize, Cut) {
        let candidates = prepared.shape.candidates;
        let row_bytes = candidates.next_multiple_of(16) * prepared.anchor_rows.element_bytes();
        let rows = self.chunk(prepared.shape.anchors, row_bytes);
        let cut = self.cut(prepared.arithmetic, prepared.anchor_rows, rows, candidates);
        (rows, row_bytes, cut)
    }

    /// Buffers for exponentials that complete `statistics`, and for what dk needs of them.
    pub(super) fn exponentials<'a>(
        &self,
        prepared: &Prepared<'_, D>,
        statistics: &'a Direction<D>,
        (square_norms, bound): (&'a Floats<D>, &'a Floats<D>),
        dk: bool,
    ) -> Result<Exponentials<'a, D>, Error> {
        let (rows, _, cut) = self.chunks(prepared);
        let rows = rows.min(prepared.shape.anchors);
        let row_bytes = prepared.anchor_rows.row_bytes as usize;
        Ok(Exponentials {
            statistics,
            square_norms,
            bound,
            row_sums: self.floats(2 * cut.splits as usize * rows)?,
            factors: self.floats(rows)?,
            folded: dk
                .then(|| self.device.allocate(rows * row_bytes))
                .transpose()?,
            fit: match prepared.arithmetic {
                Arithmetic::F16 => Some((self.floats(1)?, self.floats(2)?)),
                _ => None,
            },
        })
    }

    /// Both gradients over chunks of stored weights. With exponentials 6NMD FLOPs in all, the statistics among them,
    /// where one offset serves, 8NMD elsewhere; with a known softmax 6NMD after the statistics. Writes ⟨q_i, dq_i⟩ to
    /// `dots`.
    pub(super) fn chunked(
        &self,
        side: &Side<'_, D>,
        softmax: Softmax<'_, D>,
        gradients: &Gradients<DeviceMatrix>,
        dots: &Floats<D>,
    ) -> Result<(), Error> {
        let prepared = side.prepared;
        let Shape {
            anchors,
            candidates,
            dim,
        } = prepared.shape;
        let (masses, shift, found) = match softmax {
            Softmax::Known(known) => (known.masses, known.shift(), None),
            Softmax::Found(found) => ((&found.statistics.masses, None), None, Some(found)),
        };
        let (rows, row_bytes, cut) = self.chunks(prepared);
        let most = rows.min(anchors);
        let weights = self.device.allocate(most * row_bytes)?;
        let columns = dim.div_ceil(self.tile_columns(prepared.arithmetic));
        let slab = kernels::SLAB_BYTES / prepared.anchor_rows.element_bytes();
        let tiles = |rows| self.row_tiles(prepared.arithmetic, rows) * columns;
        let (splits, slabs) = self.split(tiles(rows), candidates.div_ceil(slab), 1);
        let dq_sums = Sums {
            sums: self.floats(splits as usize * most * dim)?,
            normalisers: None,
            splits,
            shift,
        };
        // Chunks add to what those before them left; a single chunk may have splits, as dq's sums have.
        let (dk_splits, dk_slabs) = match rows < anchors {
            true => (1, u32::MAX),
            false => self.split(tiles(candidates), anchors.div_ceil(slab), 1),
        };
        let dk_sums = gradients
            .dk
            .map(|_| self.floats(dk_splits as usize * candidates * dim))
            .transpose()?;
        for first in (0..anchors).step_by(rows) {
            let count = rows.min(anchors - first);
            let chunk = Chunk {
                first,
                count,
                weights: Matrix {
                    data: D::address(&weights),
                    stride: row_bytes as u64,
                    rows: count as u32,
                    row_bytes: super::count("k", row_bytes)?,
                    ..prepared.anchor_rows
                },
                cut,
            };
            match softmax {
                Softmax::Known(known) => {
                    let (rows, columns) = known.masses;
                    let params = ScoresParams {
                        row_offset2: rows.offset2.at(first),
                        column_offset2: columns.map_or(0, |m| m.offset2.address()),
                        far: known.far,
                        shift: shift.unwrap_or(0),
                        ..chunk.scores_params(prepared)
                    };
                    self.pass(WEIGHTS, prepared.arithmetic, cut, params)?;
                }
                Softmax::Found(found) => self.store_exponentials(side, found, chunk)?,
            }
            let params = ProductParams {
                left: chunk.weights,
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
            let grid = WorkGrid::new(tiles(count), splits);
            self.product(false, prepared.arithmetic, grid, &params)?;
            let finish = Finish {
                factors: found.map(|found| &found.factors),
                first_row: first,
                count,
                ..Finish::whole(&dq_sums, masses, gradients.dq, Some(dots))
            };
            self.finish(side, &finish)?;
            if let Some(sums) = &dk_sums {
                let anchors = prepared.anchor_rows.slice(first, count);
                let params = ProductParams {
                    right: match found.and_then(|found| found.folded.as_ref()) {
                        Some(folded) => Matrix {
                            data: D::address(folded),
                            stride: u64::from(anchors.row_bytes),
                            ..anchors
                        },
                        None => anchors,
                    },
                    rows: candidates as u32,
                    summed: count as u32,
                    slabs_per_split: dk_slabs,
                    accumulate: u32::from(first > 0),
                    sums: sums.address(),
                    shift: found.map_or(0, Exponentials::shift),
                    ..params
                };
                let grid = WorkGrid::new(tiles(candidates), dk_splits);
                self.product(true, prepared.arithmetic, grid, &params)?;
            }
        }
        if let (Some(sums), Some(dk)) = (dk_sums, gradients.dk) {
            let sums = Sums {
                sums,
                splits: dk_splits,
                ..dq_sums
            };
            self.finish(side, &Finish::whole(&sums, masses, dk, None))?;
        }
        Ok(())
    }

    /// Stores the chunk's exponentials, completes its statistics, and folds what the exponentials have
    /// too much into the chunk's anchors and factors.
    fn store_exponentials(
        &self,
        side: &Side<'_, D>,
        found: &Exponentials<'_, D>,
        chunk: Chunk,
    ) -> Result<(), Error> {
        let prepared = side.prepared;
        let Chunk { first, count, .. } = chunk;
        let (rows, masses) = found.statistics.buffers();
        let params = ScoresParams {
            bound: found.bound.address(),
            rows: found.row_sums.address(),
            negatives_lse: rows.negatives_lse.at(first),
            ..chunk.scores_params(prepared)
        };
        let partial = Partial {
            sums: found.row_sums.address(),
            splits: chunk.cut.splits,
            ..Partial::default()
        };
        // Where logits have no bound, a pass before finds offsets. Whether it does anything is decided
        // on the device, so that a recorded graph serves whatever numbers come.
        let unless = found.bound.address();
        let arithmetic = prepared.arithmetic;
        let before = ScoresParams { unless, ..params };
        self.pass(STATISTICS, arithmetic, chunk.cut, before)?;
        let before = Partial { unless, ..partial };
        self.combine(prepared, (rows, masses), first, count, before)?;
        self.pass(EXPONENTIALS, arithmetic, chunk.cut, params)?;
        self.combine(prepared, (rows, masses), first, count, partial)?;
        if let Some((fit, shift)) = &found.fit {
            let fit_params = FitParams {
                negatives_lse: rows.negatives_lse.at(first),
                offset2: masses.offset2.at(first),
                square_norms: found.square_norms.at(first),
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
            self.device
                .start(kernels::FIT_EXPONENTIALS, [1; 3], &fit_params)?;
            // Where they do not fit, once more, with offsets of the rows.
            let again = ScoresParams {
                bound: 0,
                unless: fit.address(),
                ..params
            };
            self.pass(EXPONENTIALS, arithmetic, chunk.cut, again)?;
        }
        let anchors = params.anchors;
        let params = FoldParams {
            partial: found.row_sums.address(),
            offset2: masses.offset2.at(first),
            splits: chunk.cut.splits,
            rows: count as u32,
            dim: anchors.row_bytes / anchors.element_bytes() as u32,
            padding: 0,
            anchors,
            folded: Matrix {
                data: found.folded.as_ref().map_or(0, D::address),
                stride: anchors.row_bytes.into(),
                ..anchors
            },
            shift: found.shift(),
            factors: found.factors.address(),
        };
        self.device.start_rows(kernels::FOLD_ROWS, count, &params)
    }
}
