//! Gradients where D is too large for the fused kernels. Weights W of a chunk of anchors are stored, then multiplied
//! twice: W·K for dq, Wᵀ·Q for dk.

use super::DeviceMatrix;
use super::choice::{Cut, EXPONENTIALS, STATISTICS, WEIGHTS};
use super::gradient::{Call, Finish, Known, Sums};
use super::params::{FitParams, FoldParams, Matrix, ProductParams, ScoresParams, WorkGrid};
use super::positives::ExponentRange;
use super::prepared::Prepared;
use super::results::Direction;
use super::similarity::Similarity;
use super::statistics::{Partial, scores_params};
use super::{Arithmetic, Device, Floats, kernels};
use crate::contrast::Shape;
use crate::element::DType;
use crate::error::Error;
use crate::gradients::Gradients;

/// log2 of the smallest normal f16.
const F16_SMALLEST: f32 = -14.0;

/// The logits whose exponentials can be stored with one offset.
pub(super) fn exponent_range(arithmetic: Arithmetic) -> ExponentRange {
    match arithmetic {
        // Exponentials are at most 2^15.75, below 2^16 by a margin for the bound's rounding; in f32 at least 2^-105.
        Arithmetic::F16 => ExponentRange {
            largest: 60.0,
            above: 15.75,
        },
        _ => ExponentRange::WIDE,
    }
}

/// By how many powers of two a folded f16 anchor (`fold_rows`) may be shorter than the longest. Its largest element is
/// at least 1/√D of its length, and keeps 11 bits within this range. With few candidates p₊ may be near 1 in most
/// rows; exponentials are then always stored twice (`fit_exponentials` of kernels/similarity/rows.cu).
fn folded_range(shape: Shape) -> f32 {
    match shape.candidates {
        0..64 => f32::NEG_INFINITY,
        _ => 28.0 - 0.5 * (shape.dim as f32).log2(),
    }
}

/// How a chunk's weights are computed.
#[derive(Clone, Copy)]
pub(super) enum Softmax<'a, D: Device> {
    /// From statistics: the weights are stored at once.
    Known(&'a Known<'a, D>),
    /// One-way losses: exponentials are stored; their row sums give the statistics and the factors to weights.
    Found(&'a Exponentials<'a, D>),
    /// Pointwise rules and soft targets: weights are stored at once, and the pass completes the statistics.
    Completing(&'a Known<'a, D>, &'a Direction<D>),
}

/// Buffers of the passes that store exponentials. The first three cover all anchors, the others one chunk.
pub(super) struct Exponentials<'a, D: Device> {
    statistics: &'a Direction<D>,
    square_norms: &'a Floats<D>,
    bound: &'a Floats<D>,
    row_sums: Floats<D>,
    factors: Floats<D>,
    /// The chunk's anchors times their factors 2^(o − o_i), where dk is wanted.
    folded: Option<D::Buffer>,
    /// For f16: a word that is set where one offset serves, and the shift of the folded anchors.
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
    /// Parameters of the pass that stores the weights.
    fn scores_params<D: Device>(&self, prepared: &Prepared<'_, D>) -> ScoresParams {
        ScoresParams {
            weights: self.weights,
            ..scores_params(prepared, self.first, self.count)
        }
    }
}

impl<D: Device> Similarity<'_, D> {
    /// Rows of a chunk, bytes of a row of its weights, and the cut of the pass that stores them.
    fn chunks(&self, prepared: &Prepared<'_, D>) -> (usize, usize, Cut) {
        let candidates = prepared.shape.candidates;
        let row_bytes = candidates.next_multiple_of(16) * prepared.anchor_rows.element_bytes();
        let rows = match prepared.targets {
            Some(_) => self.target_rows_of_chunk(prepared, row_bytes),
            None => self.chunk(prepared.shape.anchors, row_bytes),
        };
        let cut = self.cut(prepared.arithmetic, prepared.anchor_rows, rows, candidates);
        (rows, row_bytes, cut)
    }

    /// Allocates the buffers of passes that complete `statistics`, and what dk needs.
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

    /// All gradients over chunks of stored weights; writes ⟨q_i, dq_i⟩ to `dots`. [`Softmax::Found`] takes 6NMD FLOPs,
    /// statistics included, and 8NMD where one offset does not serve. [`Softmax::Known`] takes 6NMD after the
    /// statistics.
    pub(super) fn chunked(
        &self,
        call: &Call<'_, D>,
        softmax: Softmax<'_, D>,
        gradients: &Gradients<DeviceMatrix>,
        dots: &Floats<D>,
    ) -> Result<(), Error> {
        let prepared = call.prepared;
        let Shape {
            anchors,
            candidates,
            dim,
        } = prepared.shape;
        let (masses, shift, found) = match softmax {
            Softmax::Known(known) | Softmax::Completing(known, _) => {
                (known.masses, known.shift(), None)
            }
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
        // Several chunks add to one set of sums. A single chunk may have splits, as dq has.
        let (dk_splits, dk_slabs) = match rows < anchors {
            true => (1, u32::MAX),
            false => self.split(tiles(candidates), anchors.div_ceil(slab), 1),
        };
        // With options, rows that are anchors and candidates have two parts: as in dq, and as in dk.
        let is_shared = prepared.contrast().is_shared() && prepared.options.is_some();
        let of_anchors = self.floats_if(is_shared, anchors * dim)?;
        let dq = match &of_anchors {
            Some(part) => DeviceMatrix::new(part.address(), [anchors, dim], DType::F32),
            None => gradients.dq,
        };
        let dk = if is_shared {
            Some(gradients.dq)
        } else {
            gradients.dk
        };
        let dk_length = dk_splits as usize * candidates * dim;
        let dk_sums = self.floats_if(dk.is_some(), dk_length)?;
        let bias_sums = self.floats_if(gradients.dbias.is_some(), candidates)?;
        let of_targets = Self::target_chunks(prepared, rows);
        let mut scores = match of_targets[..] {
            [] => None,
            _ => Some(self.target_scores(prepared, most)?),
        };
        let completed = match softmax {
            Softmax::Completing(_, rows) => Some(rows),
            _ => None,
        };
        let option_sums = match (completed, &prepared.options) {
            (Some(_), Some(options)) => Some(self.option_sums(options, cut.splits, most)?),
            _ => None,
        };
        let firsts: Vec<(usize, usize)> = match of_targets[..] {
            [] => (0..anchors)
                .step_by(rows)
                .map(|first| (first, rows.min(anchors - first)))
                .collect(),
            _ => of_targets
                .iter()
                .map(|chunk| (chunk.first, chunk.count))
                .collect(),
        };
        for (place, (first, count)) in firsts.into_iter().enumerate() {
            let follows = place > 0;
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
                Softmax::Completing(_, rows) if let Some(scores) = &mut scores => {
                    let to = (chunk.weights, shift.unwrap_or(0));
                    self.target_rows(prepared, scores, of_targets[place], &rows.rows, to)?;
                }
                Softmax::Known(known) | Softmax::Completing(known, _) => {
                    let (rows, columns) = known.masses;
                    let params = ScoresParams {
                        row_offset2: rows.offset2.at(first),
                        column_offset2: columns.map_or(0, |m| m.offset2.address()),
                        far: known.far,
                        shift: shift.unwrap_or(0),
                        ..chunk.scores_params(prepared)
                    };
                    match &prepared.options {
                        None => self.pass(WEIGHTS, prepared.arithmetic, cut, params)?,
                        Some(options) => {
                            let found = completed.zip(option_sums.as_ref());
                            self.weights_with((options, found), prepared, known, cut, params)?
                        }
                    }
                }
                Softmax::Found(found) => self.store_exponentials(call, found, chunk)?,
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
                is_part: is_shared,
                ..Finish::whole(&dq_sums, masses, dq, Some(dots))
            };
            self.finish(call, &finish)?;
            if let Some(sums) = &bias_sums {
                self.sum_columns(chunk.weights, candidates, follows, sums)?;
            }
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
                    accumulate: u32::from(follows),
                    sums: sums.address(),
                    shift: found.map_or(0, Exponentials::shift),
                    ..params
                };
                let grid = WorkGrid::new(tiles(candidates), dk_splits);
                self.product(true, prepared.arithmetic, grid, &params)?;
            }
        }
        if let (Some(sums), Some(dbias)) = (&bias_sums, gradients.dbias) {
            self.finish_bias(call, sums, shift, masses.0, dbias)?;
        }
        if let (Some(sums), Some(dk)) = (dk_sums, dk) {
            let sums = Sums {
                sums,
                splits: dk_splits,
                ..dq_sums
            };
            let finish = Finish {
                added: of_anchors.as_ref(),
                ..Finish::whole(&sums, masses, dk, None)
            };
            self.finish(call, &finish)?;
        }
        Ok(())
    }

    /// Stores the chunk's exponentials 2^(z − o) and completes its statistics. The factors 2^(o − o_i) make them
    /// weights: they are multiplied into the chunk's anchors (folded) for dk, and kept for dq.
    fn store_exponentials(
        &self,
        call: &Call<'_, D>,
        found: &Exponentials<'_, D>,
        chunk: Chunk,
    ) -> Result<(), Error> {
        let prepared = call.prepared;
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
        // Where logits are not bounded, a first pass finds an offset for each row. It returns at once where the first
        // word of `bound` is set, so that a recorded graph serves any inputs.
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
                weights: prepared.weights_at(first),
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
            // Where one offset does not serve, the pass runs again with an offset for each row.
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
