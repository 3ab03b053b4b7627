//! Statistics lse⁻_i = log Σ_j exp z_ij over the negatives of a row or a column, and the loss Σ_i w_i φ(lse⁻_i, z₊_i).

use bytemuck::Zeroable;

use super::choice::STATISTICS;
use super::params::{Matrix, ReduceParams, RowPlanes, ScoresParams, StatisticsParams, WorkGrid};
use super::positives::{ExponentRange, Positives};
use super::prepared::Prepared;
use super::results::{DeviceRows, Direction, Masses};
use super::similarity::{Similarity, TILE};
use super::{Device, Floats, kernels};
use crate::contrast::Contrast;
use crate::error::Error;

/// About as many threads as a GPU runs at a time.
const FULL_DEVICE: usize = 1 << 17;

/// Partial sums of statistics, pairs (m, Σ 2^(z − m)): `splits` sets at the address `sums`, and one at `running` that
/// several launches add to.
#[derive(Clone, Copy, Default)]
pub(super) struct Partial {
    pub sums: u64,
    pub splits: u32,
    pub running: u64,
    /// Sums of options: second ones, and of sets.
    pub second: u64,
    pub sets: u64,
    /// The address of a word; where it is set, the launch does nothing. 0: the launch always runs.
    pub unless: u64,
    /// Whether earlier launches have left sums in `running`, and whether later launches add to them.
    pub follows: bool,
    pub is_followed: bool,
}

/// Parameters of a tile loop: `count` anchors from `first` on, against all candidates.
pub(super) fn scores_params<D: Device>(
    prepared: &Prepared<'_, D>,
    first: usize,
    count: usize,
) -> ScoresParams {
    ScoresParams {
        contrast: prepared.view,
        first_anchor: first as u32,
        ..rows_params(
            prepared.anchor_rows.slice(first, count),
            prepared.candidate_rows,
        )
    }
}

/// Parameters of a tile loop without a contrast, as top-k needs them.
pub(super) fn rows_params(anchors: Matrix, candidates: Matrix) -> ScoresParams {
    ScoresParams {
        anchors,
        candidates,
        ..Zeroable::zeroed()
    }
}

/// The address of the word that is set where each of the two terms of W needs an exponential; 0: W has one term.
pub(super) fn far_word<D: Device>(contrast: &Contrast, flags: &Floats<D>) -> u64 {
    match contrast.is_one_way() {
        true => 0,
        false => flags.address() + 8,
    }
}

impl<D: Device> Similarity<'_, D> {
    /// Buffers for statistics whose z₊ is known.
    pub(super) fn direction(
        &self,
        prepared: &Prepared<'_, D>,
        positive: Floats<D>,
    ) -> Result<Direction<D>, Error> {
        let rows = positive.length;
        Ok(Direction {
            rows: DeviceRows::unwritten(self.device, prepared.contrast().rule(), positive)?,
            masses: self.masses(prepared, rows)?,
        })
    }

    fn masses(&self, prepared: &Prepared<'_, D>, rows: usize) -> Result<Masses<D>, Error> {
        let rule = prepared.contrast().rule();
        let has_second = !rule.is_pointwise() && (rule.takes_sets() || rule.exponents().is_some());
        Ok(Masses {
            offset2: self.floats(rows)?,
            negatives: self.floats(rows)?,
            positive: self.floats_if(!rule.has_one_mass(), rows)?,
            second2: self.floats_if(has_second, rows)?,
            uniform: self.floats_if(rule.is_smoothed(), rows)?,
        })
    }

    /// Buffers for statistics that a pass over weights completes, with masses, which do not depend on them: of pointwise
    /// rules and soft targets those are the rows' weights.
    pub(super) fn direction_of_weights(
        &self,
        prepared: &Prepared<'_, D>,
        positive: Floats<D>,
    ) -> Result<Direction<D>, Error> {
        let rows = self.direction(prepared, positive)?;
        let count = rows.rows.positive.len();
        let is_unwritten = |plane: &&Floats<D>| plane.address() != rows.rows.positive.address();
        for plane in rows.rows.planes().filter(is_unwritten) {
            self.device.zero(plane.address(), 4 * count)?;
        }
        self.combine(prepared, rows.buffers(), 0, count, Partial::default())?;
        Ok(rows)
    }

    /// Offsets and masses of known statistics.
    pub(super) fn masses_of(
        &self,
        prepared: &Prepared<'_, D>,
        given: &DeviceRows<D>,
    ) -> Result<Masses<D>, Error> {
        let rows = given.positive.len();
        let masses = self.masses(prepared, rows)?;
        self.combine(prepared, (given, &masses), 0, rows, Partial::default())?;
        Ok(masses)
    }

    /// Computes lse⁻, offsets and masses from `partial.splits` partial sums a row. Without an address of sums lse⁻ is
    /// given.
    pub(super) fn combine(
        &self,
        prepared: &Prepared<'_, D>,
        (of_rows, masses): (&DeviceRows<D>, &Masses<D>),
        first_row: usize,
        rows: usize,
        partial: Partial,
    ) -> Result<(), Error> {
        // Few rows have many splits. Several threads then share a row, and their loads overlap.
        let lanes = match partial.splits {
            0..8 => 1,
            splits => (FULL_DEVICE / rows.max(1) + 1)
                .next_power_of_two()
                .min(splits.next_power_of_two() as usize)
                .min(32) as u32,
        };
        let at = |plane: &Option<Floats<D>>| plane.as_ref().map_or(0, |plane| plane.at(first_row));
        let params = StatisticsParams {
            partial: partial.sums,
            splits: partial.splits,
            rows: rows as u32,
            running: partial.running,
            unless: partial.unless,
            first: u32::from(!partial.follows),
            last: u32::from(!partial.is_followed),
            lanes,
            symmetric: u32::from(prepared.contrast().has_columns()),
            not_finite: prepared.flags.address(),
            far: far_word(prepared.contrast(), &prepared.flags),
            contrast: prepared.view,
            rule: prepared.rule,
            of_rows: of_rows.params(first_row),
            second: partial.second,
            sets: partial.sets,
            weights: prepared.weights_at(first_row),
            offset2: masses.offset2.at(first_row),
            negatives_mass: masses.negatives.at(first_row),
            positive_mass: masses.of_positive().at(first_row),
            second_offset2: at(&masses.second2),
            uniform: at(&masses.uniform),
        };
        let kernel = kernels::COMBINE_STATISTICS;
        self.device
            .start(kernel, kernel.grid(rows * lanes as usize), &params)
    }

    /// Statistics of NT-Xent's rows: N²D FLOPs, because z_ij = z_ji. At step u ≤ B/2, row block r of B multiplies
    /// row block (r + u) mod B (`TilesOfWork` of kernels/similarity/scores.h). A launch takes some steps. It leaves
    /// partial sums of rows and of columns. Columns are the same rows, so both are added to one running sum a row.
    fn statistics_of_pairs(
        &self,
        prepared: &Prepared<'_, D>,
        bound: &Floats<D>,
        rows: &Direction<D>,
    ) -> Result<(), Error> {
        let count = prepared.shape.anchors;
        let block = self.tile_columns(prepared.arithmetic);
        let (blocks, row_tiles) = (count.div_ceil(block), block / TILE);
        let steps = blocks / 2 + 1;
        // Steps of a launch: about the same in each, and so few that `column_splits` bounds the column sums.
        let most = steps.div_ceil(steps.div_ceil(self.column_splits / row_tiles + 1));
        // Columns are summed at 0 < step < blocks / 2. At the other steps z_ij and z_ji are both computed.
        let first_summed = |first: usize| first.max(1);
        let summed = |first: usize| {
            let end = (first + most).min(blocks.div_ceil(2));
            end.saturating_sub(first_summed(first))
        };
        let (splits, per_split) = self.split(blocks * row_tiles, most, 1);
        let sets = |first| splits as usize + summed(first) * row_tiles;
        let launches = (0..steps).step_by(most);
        let kept = launches.clone().map(sets).max().unwrap_or(0);
        let sums = self.floats(2 * kept * count)?;
        let running = self.floats(2 * count)?;
        for first in launches {
            let taken = most.min(steps - first);
            let params = ScoresParams {
                tiles_per_split: per_split,
                bound: bound.address(),
                rows: sums.address(),
                // After the sums of rows.
                columns: sums.address() + u64::from(splits) * 8 * count as u64,
                steps: taken as u32,
                first_step: first as u32,
                summed: summed(first) as u32,
                first_summed: first_summed(first) as u32,
                ..scores_params(prepared, 0, count)
            };
            let grid = WorkGrid::new(blocks * row_tiles, splits);
            self.scores(STATISTICS, prepared.arithmetic, grid, &params)?;
            let partial = Partial {
                sums: sums.address(),
                splits: sets(first) as u32,
                running: running.address(),
                follows: first > 0,
                is_followed: first + taken < steps,
                ..Partial::default()
            };
            self.combine(prepared, rows.buffers(), 0, count, partial)?;
        }
        Ok(())
    }

    /// Statistics of rows, and of columns where they have a loss: 2NMD FLOPs, NT-Xent's half of that.
    pub(super) fn statistics(
        &self,
        prepared: &Prepared<'_, D>,
        positives: Positives<D>,
    ) -> Result<(Direction<D>, Option<Direction<D>>), Error> {
        if let Some(options) = &prepared.options {
            let rows = self.statistics_with(options, prepared, positives.logits)?;
            return Ok((rows, None));
        }
        if prepared.targets.is_some() {
            let rows = self.statistics_of_targets(prepared, positives.logits)?;
            return Ok((rows, None));
        }
        if prepared.contrast().rule().is_alignment() {
            let rows = self.direction(prepared, positives.logits)?;
            let none = Partial {
                sums: rows.rows.negatives_lse.address(),
                ..Partial::default()
            };
            self.combine(prepared, rows.buffers(), 0, prepared.shape.anchors, none)?;
            return Ok((rows, None));
        }
        let bound = self.bound(prepared, &positives, ExponentRange::WIDE)?;
        let positive = positives.logits;
        if prepared.contrast().is_shared() {
            let rows = self.direction(prepared, positive)?;
            self.statistics_of_pairs(prepared, &bound, &rows)?;
            return Ok((rows, None));
        }
        let arithmetic = prepared.arithmetic;
        let (anchors, candidates) = (prepared.shape.anchors, prepared.shape.candidates);
        let symmetric = prepared.contrast().has_columns();
        let mut chunk = anchors.next_multiple_of(TILE);
        if symmetric {
            chunk = chunk.min(self.column_splits * TILE);
        }
        let row_tiles = |rows| self.row_tiles(arithmetic, rows);
        let columns = match symmetric {
            true => {
                // The positives of CLIP are the diagonal, so column j has the z₊ of row j.
                let same = self.floats(anchors)?;
                super::Rowwise::new(self.device).copy(positive.as_matrix(), same.as_matrix())?;
                let sums = self.floats(2 * row_tiles(chunk) * candidates)?;
                let running = self.floats(2 * candidates)?;
                Some((self.direction(prepared, same)?, sums, running))
            }
            false => None,
        };
        let rows = self.direction(prepared, positive)?;
        let cut = self.cut(arithmetic, prepared.anchor_rows, chunk, candidates);
        let row_sums = self.floats(2 * cut.splits as usize * chunk.min(anchors))?;
        for first in (0..anchors).step_by(chunk) {
            let count = chunk.min(anchors - first);
            let tiles = row_tiles(count);
            let blocks = tiles.div_ceil(self.tile_columns(arithmetic) / TILE) as u32;
            let params = ScoresParams {
                bound: bound.address(),
                rows: row_sums.address(),
                columns: columns.as_ref().map_or(0, |(_, sums, _)| sums.address()),
                summed: if symmetric { blocks } else { 0 },
                ..scores_params(prepared, first, count)
            };
            self.pass(STATISTICS, arithmetic, cut, params)?;
            let of_rows = Partial {
                sums: row_sums.address(),
                splits: cut.splits,
                ..Partial::default()
            };
            self.combine(prepared, rows.buffers(), first, count, of_rows)?;
            if let Some((columns, sums, running)) = &columns {
                let of_columns = Partial {
                    sums: sums.address(),
                    splits: tiles as u32,
                    running: running.address(),
                    follows: first > 0,
                    is_followed: first + count < anchors,
                    ..Partial::default()
                };
                self.combine(prepared, columns.buffers(), 0, candidates, of_columns)?;
            }
        }
        Ok((rows, columns.map(|(columns, ..)| columns)))
    }

    /// The loss from `rows` and `columns`, and dscale from ⟨q_i, dq_i⟩ and upstream (`gradient`), where these are
    /// given.
    pub(super) fn reduce(
        &self,
        prepared: &Prepared<'_, D>,
        rows: Option<&DeviceRows<D>>,
        columns: Option<&DeviceRows<D>>,
        gradient: Option<(&Floats<D>, f32)>,
    ) -> Result<Floats<D>, Error> {
        let contrast = prepared.contrast();
        let result = self.floats(2)?;
        let planes = |rows: Option<&DeviceRows<D>>| {
            rows.map_or_else(RowPlanes::zeroed, |rows| rows.params(0))
        };
        let row_weight = contrast.row_weight(prepared.shape.anchors);
        let params = ReduceParams {
            of_rows: planes(rows),
            of_columns: planes(columns),
            weights: prepared.weights_at(0),
            counted: prepared.counted(),
            dots: gradient.map_or(0, |(dots, _)| dots.address()),
            rows: prepared.view.anchors,
            columns: prepared.view.candidates,
            row_weight,
            // With options, dq·q is the part of the rows' own loss.
            dot_weight: match prepared.options {
                Some(_) => 1.0,
                None => contrast.dots_factor(),
            },
            scale_weight: gradient.map_or(0.0, |(_, upstream)| f64::from(upstream) * row_weight),
            rule: prepared.rule,
            contrast: prepared.view,
            result: result.address(),
        };
        self.device.start(kernels::REDUCE, [1; 3], &params)?;
        Ok(result)
    }
}
