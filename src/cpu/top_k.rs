//! The k best candidates of every query, selected while scores are computed. Ties go to the lower index.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rayon::prelude::*;

use super::blocks::{BLOCK, GROUP, LogitTile};
use super::pack::{Workspace, pack_transposed, row_items};
use super::problem::{block_products, kernel_for};
use super::simd::Left;
use crate::element::Element;
use crate::memory::TopK;
use crate::rows::{Matrix, Rows};

/// A candidate's [`rank`] and index. The greatest is the worst: the head of a max-heap, replaced first.
type Ranked = (Reverse<u32>, u32);

const SIGN: u32 = 1 << 31;

/// An integer that orders as the scores do: NaN above all, −0 equal to 0.
fn rank(score: f32) -> u32 {
    match (score + 0.0).to_bits() {
        _ if score.is_nan() => u32::MAX,
        bits if bits < SIGN => bits | SIGN,
        bits => !bits,
    }
}

/// The score of a rank.
fn score(rank: u32) -> f32 {
    f32::from_bits(if rank < SIGN { !rank } else { rank & !SIGN })
}

/// Indices and scores of each query's best `k` candidates; `k` has been checked.
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
            // Of each query: the heap of its best, and the least score that still enters it.
            let none = (BinaryHeap::with_capacity(k + 1), f32::NEG_INFINITY);
            let mut best = vec![none; queries.len() / dim];
            let mut tile: LogitTile = [0.0; GROUP * BLOCK];
            for first in (0..candidates.rows()).step_by(BLOCK) {
                let width = BLOCK.min(candidates.rows() - first);
                let left = Left::of_rows(items, steps);
                block_products(kernel, left, &panels, (first, width), &mut tile);
                let rows = best.iter_mut().zip(tile.chunks(BLOCK));
                for (row, ((best, least), values)) in rows.enumerate() {
                    let itself = exclude_self.then_some(group * GROUP + row);
                    for (column, &score) in values[..width].iter().enumerate() {
                        let index = first + column;
                        if score < *least || itself == Some(index) {
                            continue;
                        }
                        *least = offer(best, k, (Reverse(rank(score)), index as u32));
                    }
                }
            }
            let rows = indices.chunks_mut(k).zip(scores.chunks_mut(k));
            for ((best, _), (indices, scores)) in best.into_iter().zip(rows) {
                for (place, (rank, index)) in best.into_sorted_vec().into_iter().enumerate() {
                    indices[place] = index;
                    scores[place] = score(rank.0);
                }
            }
        });
    TopK { indices, scores }
}

/// Takes the candidate if it is one of the best k; returns the least score that still enters.
fn offer(best: &mut BinaryHeap<Ranked>, k: usize, candidate: Ranked) -> f32 {
    if best.len() < k {
        best.push(candidate);
    } else if let Some(mut worst) = best.peek_mut()
        && candidate < *worst
    {
        *worst = candidate;
    }
    match best.peek() {
        Some((rank, _)) if best.len() == k => score(rank.0),
        _ => f32::NEG_INFINITY,
    }
}
