//! Fused similarity and selection: the k best candidates of every query, ties by index.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use rayon::prelude::*;

use super::pack::{Workspace, pack_transposed, row_items};
use super::problem::{BLOCK, GROUP, LogitTile, block_products, kernel_for};
use super::simd::Left;
use crate::element::Element;
use crate::memory::TopK;
use crate::rows::{Matrix, Rows};

/// A candidate; the greatest is the worst, so that a max-heap's head is the next to be replaced.
#[derive(Clone, Copy)]
struct Scored {
    score: f32,
    index: u32,
}

impl Ord for Scored {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_score = match (self.score.is_nan(), other.score.is_nan()) {
            (false, false) => other.score.partial_cmp(&self.score),
            (a, b) => Some(b.cmp(&a)),
        };
        by_score
            .unwrap_or(Ordering::Equal)
            .then(self.index.cmp(&other.index))
    }
}

impl PartialOrd for Scored {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Scored {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Scored {}

/// `k` has been checked against the number of candidates.
pub(super) fn top_k<T: Element>(
    queries: Rows<'_, T>,
    candidates: Rows<'_, T>,
    k: usize,
    exclude_self: bool,
    workspace: &Workspace,
) -> TopK {
    let kernel = kernel_for::<T>();
    let dim = queries.dim();
    let panels = pack_transposed(kernel, &candidates.contiguous(), dim, workspace);
    let steps = dim.div_ceil(kernel.depth);
    let mut indices = vec![0u32; queries.rows() * k];
    let mut scores = vec![0.0f32; queries.rows() * k];
    queries
        .contiguous()
        .par_chunks(GROUP * dim)
        .zip(indices.par_chunks_mut(GROUP * k))
        .zip(scores.par_chunks_mut(GROUP * k))
        .enumerate()
        .for_each(|(group, ((queries, indices), scores))| {
            let mut storage = Vec::new();
            let items = row_items(kernel, queries, dim, &mut storage);
            let mut best = vec![BinaryHeap::with_capacity(k + 1); queries.len() / dim];
            let mut tile: LogitTile = [0.0; GROUP * BLOCK];
            for first in (0..candidates.rows()).step_by(BLOCK) {
                let width = BLOCK.min(candidates.rows() - first);
                let left = Left::of_rows(items, steps);
                block_products(kernel, left, &panels, (first, width), &mut tile);
                for (row, (best, values)) in best.iter_mut().zip(tile.chunks(BLOCK)).enumerate() {
                    let itself = exclude_self.then_some(group * GROUP + row);
                    for (column, &score) in values[..width].iter().enumerate() {
                        if itself != Some(first + column) {
                            let index = (first + column) as u32;
                            offer(best, k, Scored { score, index });
                        }
                    }
                }
            }
            let rows = indices.chunks_mut(k).zip(scores.chunks_mut(k));
            for (best, (indices, scores)) in best.into_iter().zip(rows) {
                for (place, scored) in best.into_sorted_vec().into_iter().enumerate() {
                    indices[place] = scored.index;
                    scores[place] = scored.score;
                }
            }
        });
    TopK { indices, scores }
}

fn offer(best: &mut BinaryHeap<Scored>, k: usize, scored: Scored) {
    if best.len() < k {
        best.push(scored);
    } else if let Some(mut worst) = best.peek_mut()
        && scored < *worst
    {
        *worst = scored;
    }
}
