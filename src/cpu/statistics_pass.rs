//! Computes lse⁻, log Σ exp over the negatives, of every row, and of every column where columns have a loss: 2NMD
//! FLOPs, and half of that for NT-Xent with a fixed offset, because its logits are symmetric.

use rayon::prelude::*;

use super::blocks::{BLOCK, GROUP, LogitTile};
use super::option_statistics;
use super::pack::row_items;
use super::problem::Problem;
use super::scaled_sum::{ScaledSum, or_zero};
use super::simd::Item;
use crate::element::Element;
use crate::losses::RowLogits;

/// Rows of a chunk. A chunk stores one partial sum for each row and block.
pub(super) const CHUNK: usize = 16 * GROUP;

/// Summaries of the logits of every row, and of every column where columns have a loss.
pub(super) struct Summaries {
    pub rows: Vec<RowLogits>,
    pub columns: Option<Vec<RowLogits>>,
}

impl Summaries {
    /// Of lse⁻ in nats, −∞ where there are no negatives, and z₊ of every row, which are those of every column too.
    pub fn new(rows: &[f64], columns: Option<&[f64]>, positives: &[f64]) -> Self {
        let of = |negatives: &[f64]| -> Vec<RowLogits> {
            let pairs = negatives.iter().zip(positives);
            pairs.map(|(&lse, &z)| RowLogits::new(lse, z)).collect()
        };
        Self {
            rows: of(rows),
            columns: columns.map(of),
        }
    }
}

/// Which entries of the logit matrix are computed, and how they are summed.
#[derive(Clone, Copy, PartialEq)]
enum Sums {
    Rows,
    RowsAndColumns,
    /// Only the entries right of the diagonal; row i's other entries are column i's.
    Triangle,
}

/// The summaries of every row, and of every column where columns have a loss.
pub(super) fn summaries<T: Element>(problem: &Problem<'_, T>) -> Summaries {
    if let Some(options) = &problem.options {
        return Summaries {
            rows: option_statistics::statistics(problem, options),
            columns: None,
        };
    }
    let anchors = problem.shape.anchors;
    if problem.contrast.rule().is_alignment() {
        let none = vec![f64::NEG_INFINITY; anchors];
        return Summaries::new(&none, None, &problem.positive_logits);
    }
    // Where anchors are the candidates, z_ij = z_ji.
    let sums = if problem.contrast.has_columns() {
        Sums::RowsAndColumns
    } else if problem.contrast.is_shared() && problem.fixed_offset2.is_some() {
        Sums::Triangle
    } else {
        Sums::Rows
    };
    let mut columns = match sums {
        Sums::Rows => Vec::new(),
        _ => vec![ScaledSum::ZERO; problem.shape.candidates],
    };
    let mut rows = vec![ScaledSum::ZERO; anchors];
    let chunk = CHUNK.min(anchors);
    let mut partial = vec![ScaledSum::ZERO; problem.blocks() * chunk];
    let mut storage = Vec::new();
    for first_row in (0..anchors).step_by(chunk) {
        let count = chunk.min(anchors - first_row);
        let slice = problem.anchors(first_row, count);
        let items = row_items(problem.kernel, &slice, problem.shape.dim, &mut storage);

        let mut column_blocks = columns.chunks_mut(BLOCK);
        let tasks: Vec<_> = partial
            .chunks_mut(chunk)
            .map(|rows| (&mut rows[..count], column_blocks.next().unwrap_or_default()))
            .collect();
        tasks
            .into_par_iter()
            .enumerate()
            .for_each(|(block, (rows, columns))| {
                let task = BlockTask {
                    problem,
                    sums,
                    block,
                };
                task.run(items, first_row, rows, columns);
            });
        let rows = &mut rows[first_row..first_row + count];
        rows.par_iter_mut().enumerate().for_each(|(row, sum)| {
            for block in partial.chunks(chunk) {
                sum.add(block[row]);
            }
        });
    }
    if sums == Sums::Triangle {
        for (row, &column) in rows.iter_mut().zip(&columns) {
            row.add(column);
        }
    }
    let ln = |sums: Vec<ScaledSum>| -> Vec<f64> { sums.into_iter().map(ScaledSum::ln).collect() };
    let columns = (sums == Sums::RowsAndColumns).then(|| ln(columns));
    Summaries::new(&ln(rows), columns.as_deref(), &problem.positive_logits)
}

/// One block of columns against one chunk of rows.
struct BlockTask<'a, T> {
    problem: &'a Problem<'a, T>,
    sums: Sums,
    block: usize,
}

impl<T: Element> BlockTask<'_, T> {
    fn run(
        &self,
        items: &[Item],
        first_row: usize,
        rows: &mut [ScaledSum],
        columns: &mut [ScaledSum],
    ) {
        let steps = self.problem.steps();
        let (first_column, width) = self.problem.block(self.block);
        let mut tile: LogitTile = [0.0; GROUP * BLOCK];
        for (group, rows) in rows.chunks_mut(GROUP).enumerate() {
            let row = group * GROUP;
            if self.sums == Sums::Triangle && first_column + width <= first_row + row + 1 {
                rows.fill(ScaledSum::ZERO);
                continue;
            }
            let items = &items[row * steps..(row + rows.len()) * steps];
            self.problem
                .negative_products(items, first_row + row, self.block, &mut tile);
            if self.sums == Sums::Triangle {
                for (index, values) in tile.chunks_mut(BLOCK).take(rows.len()).enumerate() {
                    let diagonal = first_row + row + index + 1;
                    let hidden = diagonal.saturating_sub(first_column).min(width);
                    values[..hidden].fill(f32::NEG_INFINITY);
                }
            }
            if self.problem.fixed_offset2.is_none() {
                // Columns come first, because the rows' exponentials overwrite the logits.
                self.sum_columns_with_maximum(&tile[..rows.len() * BLOCK], columns);
            }
            self.sum_rows(&mut tile, rows, columns);
        }
    }

    /// Sums rows, with the fixed offset or each row's maximum; with the fixed offset it sums columns too.
    fn sum_rows(&self, tile: &mut LogitTile, rows: &mut [ScaledSum], columns: &mut [ScaledSum]) {
        let Problem {
            kernel,
            scale2,
            fixed_offset2,
            ..
        } = *self.problem;
        let (_, width) = self.problem.block(self.block);
        let mut group_columns = [0.0f32; BLOCK];
        for (values, row) in tile.chunks_mut(BLOCK).zip(rows) {
            let values = &mut values[..width];
            let maximum2 = || or_zero(kernel.max_row(values) * scale2);
            let offset2 = fixed_offset2.unwrap_or_else(maximum2);
            let sum = if fixed_offset2.is_none() || columns.is_empty() {
                kernel.exp_row(values, scale2, offset2)
            } else {
                kernel.exp_row_into_columns(values, scale2, offset2, &mut group_columns[..width])
            };
            let sum = f64::from(sum);
            *row = ScaledSum { offset2, sum };
        }
        if let Some(offset2) = fixed_offset2 {
            for (column, sum) in columns.iter_mut().zip(group_columns) {
                let sum = f64::from(sum);
                column.add(ScaledSum { offset2, sum });
            }
        }
    }

    fn sum_columns_with_maximum(&self, tile: &[f32], columns: &mut [ScaledSum]) {
        if columns.is_empty() {
            return;
        }
        let width = columns.len();
        let (kernel, scale2) = (self.problem.kernel, self.problem.scale2);
        let mut maxima = [f32::NEG_INFINITY; BLOCK];
        for values in tile.chunks(BLOCK) {
            for (maximum, &value) in maxima.iter_mut().zip(&values[..width]) {
                *maximum = if value > *maximum { value } else { *maximum };
            }
        }
        let mut offsets2 = [0.0f32; BLOCK];
        for (offset2, maximum) in offsets2.iter_mut().zip(maxima) {
            *offset2 = or_zero(maximum * scale2);
        }
        let mut sums = [0.0f32; BLOCK];
        let mut copy = [0.0f32; BLOCK];
        for values in tile.chunks(BLOCK) {
            copy[..width].copy_from_slice(&values[..width]);
            // With a row offset of ∞ the row's exponential is 0, and the column's remains.
            kernel.exp_row_both(
                &mut copy[..width],
                scale2,
                f32::INFINITY,
                &offsets2[..width],
            );
            for (sum, value) in sums.iter_mut().zip(&copy[..width]) {
                *sum += value;
            }
        }
        for ((column, sum), offset2) in columns.iter_mut().zip(sums).zip(offsets2) {
            let sum = f64::from(sum);
            column.add(ScaledSum { offset2, sum });
        }
    }
}
