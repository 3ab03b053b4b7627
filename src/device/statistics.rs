//! Statistics of rows and columns, and the loss that follows from them.

use super::choice::is_one_way;
use super::params::{
    BoundParams, PositivesParams, ReduceParams, ScoresParams, StatisticsParams, WorkGrid,
};
use super::prepared::{Prepared, no_matrix, rows_from, scales_from, vector, view};
use super::similarity::{Similarity, TILE, WARP_ROWS};
use super::{Device, Floats};
use crate::contrast::{Contrast, Form, Shape};
use crate::error::Error;
use crate::statistics::{RowStatistics, Statistics};

/// Anchor tiles whose column statistics are kept before they are added up: with 128 rows a tile,
/// 256 bytes a candidate. NT-Xent may keep one or two more.
pub(super) const COLUMN_PARTS: usize = 32;

/// Candidates that a warp of `positives` takes together: `CANDIDATES` of similarity/rows.cu.
const WARP_CANDIDATES: usize = 4;

/// For which logits sums of 2^(z - o) need no maximum: those with a bound of at most `largest`, in base 2. The
/// offset o is what the bound is above `above`, at least 0.
#[derive(Debug, Clone, Copy)]
pub(super) struct ExponentRange {
    pub largest: f32,
    pub above: f32,
}

impl ExponentRange {
    /// Of f32, and of bf16, which reaches as far.
    pub const WIDE: Self = Self {
        largest: 80.0,
        above: 80.0,
    };
}

/// About as many threads as a device runs at a time.
const FULL_DEVICE: usize = 1 << 17;

/// What a call leaves on the device.
pub(crate) struct Results<D: Device> {
    /// Loss and dscale.
    pub loss_and_dscale: Floats<D>,
    pub rows: DeviceStatistics<D>,
    /// Where columns have a loss.
    pub columns: Option<DeviceStatistics<D>>,
    /// `Prepared::flags`.
    pub flags: Floats<D>,
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

/// Statistics of one direction, in device memory.
pub(crate) struct DeviceStatistics<D: Device> {
    pub negatives_lse: Floats<D>,
    pub positive: Floats<D>,
    pub lse2: Floats<D>,
    pub sigma: Floats<D>,
}

/// What the pass over the rows finds.
pub(super) struct Positives<D: Device> {
    /// z₊ of every anchor.
    pub logits: Floats<D>,
    /// ‖x‖² of the anchors, then of the candidates.
    pub square_norms: Floats<D>,
}

/// Partial sums of statistics, by address.
#[derive(Clone, Copy)]
pub(super) struct Partial {
    pub sums: u64,
    pub parts: u32,
    pub running: u64,
    /// A word on the device: when it is set, nothing is done. 0: there is none.
    pub unless: u64,
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
            unless: 0,
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
        anchor_scales: scales_from(prepared.anchor_scales, first),
        candidate_scales: prepared.candidate_scales,
        first_anchor: first as u32,
        ..bytemuck::Zeroable::zeroed()
    }
}

/// The word that says of weights of two terms whether each needs an exponential of its own; 0 where there is one.
pub(super) fn far_word<D: Device>(contrast: &Contrast, flags: &Floats<D>) -> u64 {
    match is_one_way(contrast) {
        true => 0,
        false => flags.address() + 8,
    }
}

impl<D: Device> Similarity<'_, D> {
    pub(super) fn positives(&self, prepared: &Prepared<'_, D>) -> Result<Positives<D>, Error> {
        let shape = prepared.shape;
        let rows = shape.anchors + shape.candidates;
        let positives = Positives {
            logits: self.memory().floats(shape.anchors)?,
            square_norms: self.memory().floats(rows)?,
        };
        let params = PositivesParams {
            contrast: prepared.view,
            anchors: view(prepared.anchors),
            candidates: view(prepared.candidates),
            own_keys: prepared.own_keys.map_or_else(no_matrix, view),
            dim: shape.dim as u32,
            padding: 0,
            not_finite: prepared.flags.address(),
            positive: positives.logits.address(),
            square_norms: positives.square_norms.address(),
        };
        let warps = shape.anchors + shape.candidates.div_ceil(WARP_CANDIDATES);
        let grid = [warps.div_ceil(WARP_ROWS) as u32, 1, 1];
        self.launch("positives", grid, 32 * WARP_ROWS as u32, 0, &params)?;
        Ok(positives)
    }

    /// `LogitBound` of tile/softmax.h, on the device: its first word says whether exponentials of logits need no
    /// offset of their row.
    pub(super) fn bound(
        &self,
        prepared: &Prepared<'_, D>,
        positives: &Positives<D>,
        range: ExponentRange,
    ) -> Result<Floats<D>, Error> {
        let bound = self.memory().floats(4)?;
        let params = BoundParams {
            contrast: prepared.view,
            square_norms: positives.square_norms.address(),
            positive: positives.logits.address(),
            largest: range.largest,
            above: range.above,
            bound: bound.address(),
        };
        self.launch_block("bound_logits", &params)?;
        Ok(bound)
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
        // Few rows have many parts: several threads a row then, so that their loads are under way
        // together.
        let lanes = match partial.parts {
            0..8 => 1,
            parts => (FULL_DEVICE / rows.max(1) + 1)
                .next_power_of_two()
                .min(parts.next_power_of_two() as usize)
                .min(32) as u32,
        };
        let params = StatisticsParams {
            partial: partial.sums,
            parts: partial.parts,
            rows: rows as u32,
            running: partial.running,
            unless: partial.unless,
            first: u32::from(partial.first),
            last: u32::from(partial.last),
            lanes,
            symmetric: u32::from(prepared.contrast.is_symmetric()),
            not_finite: prepared.flags.address(),
            far: far_word(prepared.contrast, &prepared.flags),
            positive: at(&statistics.positive),
            negatives_lse: at(&statistics.negatives_lse),
            lse2: at(&statistics.lse2),
            sigma: at(&statistics.sigma),
        };
        let grid = [(rows * lanes as usize).div_ceil(128) as u32, 1, 1];
        self.launch("combine_statistics", grid, 128, 0, &params)
    }

    /// Statistics of NT-Xent's rows: N²D FLOPs, because z_ij = z_ji. A launch takes some steps of the walk over
    /// pairs of blocks of rows (`TilesOfWork` of similarity/scores.h), and leaves partial sums of rows and of
    /// columns, which are the same rows: both are added to a running sum of each.
    fn statistics_of_pairs(
        &self,
        prepared: &Prepared<'_, D>,
        bound: &Floats<D>,
        rows: &DeviceStatistics<D>,
    ) -> Result<(), Error> {
        let count = prepared.shape.anchors;
        let block = self.tile_columns(prepared.arithmetic);
        let (blocks, row_tiles) = (count.div_ceil(block), block / TILE);
        let steps = blocks / 2 + 1;
        // Launches of about as many steps each, so few that their columns' sums stay in bounds.
        let most = steps.div_ceil(steps.div_ceil(self.column_parts / row_tiles + 1));
        // Columns are summed at 0 < step < blocks / 2.
        let first_summed = |first: usize| first.max(1);
        let summed = |first: usize| {
            let end = (first + most).min(blocks.div_ceil(2));
            end.saturating_sub(first_summed(first))
        };
        let (splits, per_split) = self.split(blocks * row_tiles, most, 1);
        let sets = |first| splits as usize + summed(first) * row_tiles;
        let launches = (0..steps).step_by(most);
        let kept = launches.clone().map(sets).max().unwrap_or(0);
        let sums = self.memory().floats(2 * kept * count)?;
        let running = self.memory().floats(2 * count)?;
        for first in launches {
            let taken = most.min(steps - first);
            let params = ScoresParams {
                tiles_per_split: per_split,
                bound: bound.address(),
                rows: sums.address(),
                // Behind those of the rows.
                columns: sums.address() + u64::from(splits) * 8 * count as u64,
                steps: taken as u32,
                first_step: first as u32,
                summed: summed(first) as u32,
                first_summed: first_summed(first) as u32,
                ..scores_params(prepared, 0, count)
            };
            let grid = WorkGrid::new(blocks * row_tiles, splits);
            self.scores("statistics", prepared.arithmetic, grid, &params)?;
            self.combine(
                prepared,
                rows,
                0,
                count,
                Partial {
                    sums: sums.address(),
                    parts: sets(first) as u32,
                    running: running.address(),
                    first: first == 0,
                    last: first + taken == steps,
                    ..Partial::default()
                },
            )?;
        }
        Ok(())
    }

    /// Statistics of rows, and of columns where they have a loss: 2NMD FLOPs, NT-Xent's half of that.
    pub(super) fn statistics(
        &self,
        prepared: &Prepared<'_, D>,
        positives: Positives<D>,
    ) -> Result<(DeviceStatistics<D>, Option<DeviceStatistics<D>>), Error> {
        let memory = self.memory();
        let bound = self.bound(prepared, &positives, ExponentRange::WIDE)?;
        let positive = positives.logits;
        if prepared.contrast.form == Form::NtXent {
            let rows = self.statistics_of(positive, None)?;
            self.statistics_of_pairs(prepared, &bound, &rows)?;
            return Ok((rows, None));
        }
        let Shape {
            anchors,
            candidates,
            ..
        } = prepared.shape;
        let symmetric = prepared.contrast.is_symmetric();
        let columns = match symmetric {
            true => {
                // Of the diagonal: the columns' positives are the rows'.
                let same = memory.floats(anchors)?;
                let from = vector(&positive, anchors);
                let to = vector(&same, anchors);
                super::Rowwise::new(self.device).copy_rows(from, 0, to, 0, anchors)?;
                Some(self.statistics_of(same, None)?)
            }
            false => None,
        };
        let rows = self.statistics_of(positive, None)?;
        let chunk = match symmetric {
            true => (self.column_parts * TILE).min(anchors.next_multiple_of(TILE)),
            false => anchors.next_multiple_of(TILE),
        };
        let row_tiles = |rows| self.row_tiles(prepared.arithmetic, rows);
        let cut = self.cut(prepared.arithmetic, prepared.anchor_rows, chunk, candidates);
        let row_sums = memory.floats(2 * cut.parts as usize * chunk.min(anchors))?;
        let column_sums = match symmetric {
            true => Some((
                memory.floats(2 * row_tiles(chunk) * candidates)?,
                memory.floats(2 * candidates)?,
            )),
            false => None,
        };
        for first in (0..anchors).step_by(chunk) {
            let count = chunk.min(anchors - first);
            let tiles = row_tiles(count);
            let blocks = tiles.div_ceil(self.tile_columns(prepared.arithmetic) / TILE) as u32;
            let params = ScoresParams {
                tiles_per_split: cut.per_part,
                bound: bound.address(),
                rows: row_sums.address(),
                columns: column_sums.as_ref().map_or(0, |(sums, _)| sums.address()),
                summed: column_sums.as_ref().map_or(0, |_| blocks),
                ..scores_params(prepared, first, count)
            };
            self.scores("statistics", prepared.arithmetic, cut.grid(tiles), &params)?;
            self.combine(
                prepared,
                &rows,
                first,
                count,
                Partial {
                    sums: row_sums.address(),
                    parts: cut.parts,
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
                        parts: tiles as u32,
                        running: running.address(),
                        first: first == 0,
                        last: first + count == anchors,
                        ..Partial::default()
                    },
                )?;
            }
        }
        Ok((rows, columns))
    }

    /// Loss and dscale.
    pub(super) fn reduce(
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
        self.launch_block("reduce", &params)?;
        Ok(result)
    }
}
