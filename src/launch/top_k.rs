//! Top-k search: the k candidates of every query with the largest ⟨q_i, k_j⟩.

use super::choice::{BEST, SCORES};
use super::held::Held;
use super::kernels::{
    self, LIST_CAPACITY as CAPACITY, LIST_OWNERS as OWNERS, LIST_ROWS as LISTED_ROWS,
};
use super::params::{Matrix, ScoresParams, SelectListedParams, SelectParams};
use super::similarity::Similarity;
use super::statistics::rows_params;
use super::{Arithmetic, Device, DeviceMatrix, Floats};
use crate::error::Error;
use crate::memory::TopK;

/// The k best candidates of every query, on the device.
pub(crate) struct DeviceTopK<D: Device> {
    /// N × k, the bits of u32 indices.
    pub indices: Floats<D>,
    /// ⟨q_i, k_j⟩, N × k, without the scale s.
    pub scores: Floats<D>,
}

impl<D: Device> DeviceTopK<D> {
    pub(crate) fn read(&self, device: &D) -> Result<TopK, Error> {
        let indices = self.indices.read(device)?;
        Ok(TopK {
            indices: indices.into_iter().map(f32::to_bits).collect(),
            scores: self.scores.read(device)?,
        })
    }
}

/// Bytes of a row's `OWNERS` lists: a score and an index for each entry, and the lists' lengths.
const ROW_BYTES: usize = OWNERS * (CAPACITY * 8 + 4);
/// Least tiles of a split with lists: stored scores of that many tiles take as much memory as the lists.
const LEAST_TILES: usize = CAPACITY * 8 / kernels::HOPPER_BEST[0].columns;
/// The largest k with lists: pruning full lists, 768 entries a row, to 5k/4 + 4 entries then more than halves them.
const MOST_LISTED: usize = 256;
/// The usual number of entries of a row when its lists are pruned: three quarters of full lists.
const PRUNED: usize = OWNERS * 192 * 3 / 4;

/// The arguments of a search.
struct Search {
    arithmetic: Arithmetic,
    queries: Matrix,
    candidates: Matrix,
    k: usize,
    exclude_self: bool,
}

/// How the best scores are selected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Selection {
    /// The tile loop lists the scores above a threshold that rises; a second kernel selects from the lists.
    Listed,
    /// The tile loop stores all scores; a second kernel selects from them.
    Stored,
}

impl<D: Device> Similarity<'_, D> {
    pub(crate) fn top_k(
        &self,
        queries: DeviceMatrix,
        candidates: DeviceMatrix,
        k: usize,
        exclude_self: bool,
    ) -> Result<DeviceTopK<D>, Error> {
        self.top_k_by(None, queries, candidates, k, exclude_self)
    }

    /// [`top_k`](Self::top_k) with a given selection. Lists are for sm_90a and for k up to `MOST_LISTED`.
    pub(super) fn top_k_by(
        &self,
        selection: Option<Selection>,
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
        let mut held = Held::new(self.device);
        let arithmetic = self.forward_arithmetic(queries.dtype)?;
        let search = Search {
            arithmetic,
            queries: self.tile_rows(arithmetic, queries, &mut held)?,
            candidates: self.tile_rows(arithmetic, candidates, &mut held)?,
            k,
            exclude_self,
        };
        let best = DeviceTopK {
            indices: self.floats(queries.rows * k)?,
            scores: self.floats(queries.rows * k)?,
        };
        let usual = self.usual_selection(arithmetic, candidates.rows, k);
        match selection.unwrap_or(usual) {
            Selection::Listed => self.select_listed(&search, &best)?,
            Selection::Stored => self.select_stored(&search, &best)?,
        }
        Ok(best)
    }

    /// Lists where they serve and take no more memory than stored scores.
    pub(super) fn usual_selection(
        &self,
        arithmetic: Arithmetic,
        candidates: usize,
        k: usize,
    ) -> Selection {
        let tiles = candidates.div_ceil(self.tile_columns(arithmetic));
        match self.is_hopper(arithmetic) && k <= MOST_LISTED && tiles >= LEAST_TILES {
            true => Selection::Listed,
            false => Selection::Stored,
        }
    }

    fn select_listed(&self, search: &Search, best: &DeviceTopK<D>) -> Result<(), Error> {
        let (rows, k) = (search.queries.rows as usize, search.k);
        let candidates = search.candidates.rows as usize;
        let tiles = candidates.div_ceil(self.tile_columns(search.arithmetic));
        let chunk = self.chunk(rows, ROW_BYTES);
        let cut = |count: usize, most: usize| {
            let mut cut = self.cut(search.arithmetic, search.queries, count, candidates);
            let least = LEAST_TILES.max(tiles.div_ceil(most));
            cut.per_split = cut.per_split.max(least as u32);
            cut.splits = tiles.div_ceil(cut.per_split as usize) as u32;
            cut
        };
        // Rows that have lists: whole groups, whose lists lie together.
        let listed = |count: usize| count.next_multiple_of(LISTED_ROWS);
        let first = listed(chunk.min(rows));
        let most = (self.budget / ROW_BYTES / first).max(1);
        let all = first * cut(chunk.min(rows), most).splits as usize;
        let lists = self.floats(all * OWNERS * CAPACITY * 2)?;
        let lengths = self.floats(all * OWNERS)?;
        for first in (0..rows).step_by(chunk) {
            let count = chunk.min(rows - first);
            let cut = cut(count, all / listed(count));
            // With `exclude_self` a row's own score is listed too; the selection leaves it out.
            let kept = k + usize::from(search.exclude_self);
            let params = ScoresParams {
                lists: lists.address(),
                lengths: lengths.address(),
                k: kept as u32,
                growth: growth(kept) as u32,
                ..rows_params(search.queries.slice(first, count), search.candidates)
            };
            self.pass(BEST, search.arithmetic, cut, params)?;
            // A warp's eight groups of four lanes share the splits; with fewer splits several groups share one.
            let lanes_log2 = (LISTED_ROWS as u32 / cut.splits.next_power_of_two().min(8)).ilog2();
            let params = SelectListedParams {
                lists: lists.address(),
                lengths: lengths.address(),
                rows: count as u32,
                splits: cut.splits,
                k: k as u32,
                first_row: first as u32,
                excludes_self: u32::from(search.exclude_self),
                lanes_log2,
                indices: best.indices.at(first * k),
                best: best.scores.at(first * k),
            };
            self.device
                .start_rows(kernels::SELECT_LISTED, count, &params)?;
        }
        Ok(())
    }

    fn select_stored(&self, search: &Search, best: &DeviceTopK<D>) -> Result<(), Error> {
        let (rows, k) = (search.queries.rows as usize, search.k);
        let candidates = search.candidates.rows as usize;
        let chunk = self.chunk(rows, 4 * candidates);
        let scores = self.floats(chunk.min(rows) * candidates)?;
        for first in (0..rows).step_by(chunk) {
            let count = chunk.min(rows - first);
            let cut = self.cut(search.arithmetic, search.queries, count, candidates);
            let params = ScoresParams {
                scores: scores.address(),
                ..rows_params(search.queries.slice(first, count), search.candidates)
            };
            self.pass(SCORES, search.arithmetic, cut, params)?;
            let params = SelectParams {
                scores: scores.address(),
                rows: count as u32,
                candidates: candidates as u32,
                k: k as u32,
                first_row: first as u32,
                excludes_self: u32::from(search.exclude_self),
                padding: 0,
                indices: best.indices.at(first * k),
                best: best.scores.at(first * k),
            };
            self.device
                .start_rows(kernels::SELECT_BEST, count, &params)?;
        }
        Ok(())
    }
}

/// `growth` of similarity/scores.h: lists that are pruned after t tiles are pruned again after t·(1 + growth/4). With
/// scores in random order, lists of 5k/4 + 4 entries hold `PRUNED` by then. Lists of a small k are pruned earlier, so
/// that a tile lists fewer scores.
fn growth(k: usize) -> usize {
    let left = k + k / 4 + 4;
    (4 * (PRUNED - left) / left).min(60)
}
