//! Statistics of the rows of a problem with options.

use rayon::prelude::*;

use super::blocks::{BLOCK, GROUP, LogitTile};
use super::options::Options;
use super::pack::row_items;
use super::problem::Problem;
use super::scaled_sum::{ScaledSum, or_zero};
use super::targets::Targets;
use crate::element::Element;
use crate::losses::RowLogits;

/// Rows whose statistics one task computes; each block of candidates serves them all.
pub(super) const TASK: usize = 4 * GROUP;

/// Sums of one row's logits.
#[derive(Clone, Copy)]
pub(super) struct RowSums {
    /// Of the negatives' exponentials, and of the positives', of those of the second exponent or of the targets'. The
    /// first of a pointwise rule is of softplus.
    exponentials: [ScaledSum; 2],
    /// Of the targets' exponentials times the row's products, and times the targets'.
    by_target: [ScaledSum; 2],
    /// Of the products of negatives and positives.
    products: [f64; 2],
    /// Negatives and positives.
    counts: [f64; 2],
}

/// The statistics of every row: 2NMD FLOPs.
pub(super) fn statistics<T: Element>(
    problem: &Problem<'_, T>,
    options: &Options<'_>,
) -> Vec<RowLogits> {
    let mut rows = vec![RowSums::ZERO; problem.shape.anchors];
    rows.par_chunks_mut(TASK)
        .enumerate()
        .for_each(|(task, rows)| {
            let first_row = task * TASK;
            let slice = problem.anchors(first_row, rows.len());
            let mut storage = Vec::new();
            let items = row_items(problem.kernel, &slice, problem.shape.dim, &mut storage);
            let steps = problem.steps();
            let kernel = problem.kernel;
            let targets = problem.targets.as_ref();
            let of_targets = targets.map(|targets| {
                let items = targets.items(kernel, first_row, rows.len());
                (targets, targets.steps(kernel), items)
            });
            let mut tile: LogitTile = [0.0; GROUP * BLOCK];
            let mut target_tile: LogitTile = [0.0; GROUP * BLOCK];
            for block in 0..problem.blocks() {
                let (first_column, width) = problem.block(block);
                for (group, rows) in rows.chunks_mut(GROUP).enumerate() {
                    let row = group * GROUP;
                    let items = &items[row * steps..(row + rows.len()) * steps];
                    problem.negative_products(items, first_row + row, block, &mut tile);
                    if let Some((targets, steps, items)) = &of_targets {
                        let items = &items[row * steps..(row + rows.len()) * steps];
                        targets.products(kernel, items, (first_column, width), &mut target_tile);
                        let tiles = tile.chunks(BLOCK).zip(target_tile.chunks(BLOCK));
                        for (sums, (products, of_target)) in rows.iter_mut().zip(tiles) {
                            sums.add_targets(
                                problem,
                                targets,
                                &products[..width],
                                &of_target[..width],
                            );
                        }
                        continue;
                    }
                    for ((index, sums), products) in
                        rows.iter_mut().enumerate().zip(tile.chunks_mut(BLOCK))
                    {
                        let at = (first_row + row + index, first_column);
                        sums.add(problem, options, at, &mut products[..width], 1.0);
                    }
                }
            }
        });
    let finish = |(i, sums): (usize, RowSums)| sums.logits(problem, i);
    rows.into_iter().enumerate().map(finish).collect()
}

/// Offsets and sums of a row of negatives' exponentials alone.
fn sum_row<T: Element>(problem: &Problem<'_, T>, products: &mut [f32]) -> ([f32; 2], [f32; 2]) {
    let (kernel, scale2) = (problem.kernel, problem.scale2);
    let maximum2 = || or_zero(kernel.max_row(products) * scale2);
    let offset2 = problem.bounded_offset2().unwrap_or_else(maximum2);
    let sum = kernel.exp_row(products, scale2, offset2);
    ([offset2; 2], [sum, 0.0])
}

impl RowSums {
    pub const ZERO: Self = Self {
        exponentials: [ScaledSum::ZERO; 2],
        by_target: [ScaledSum::ZERO; 2],
        products: [0.0; 2],
        counts: [0.0; 2],
    };

    /// Those of a pointwise rule in one block: of softplus, of the positives' products and their number.
    pub fn pointwise([softplus, products, count]: [f32; 3]) -> Self {
        let mut sums = Self::ZERO;
        sums.exponentials[0].sum = softplus.into();
        sums.products[1] = products.into();
        sums.counts[1] = count.into();
        sums
    }

    /// What [`pointwise`](Self::pointwise) takes.
    pub fn to_pointwise(self) -> [f32; 3] {
        [self.exponentials[0].sum, self.products[1], self.counts[1]].map(|sum| sum as f32)
    }

    /// Adds the sums of other candidates of the row.
    pub fn join(&mut self, other: &Self) {
        for which in 0..2 {
            self.exponentials[which].add(other.exponentials[which]);
            self.by_target[which].add(other.by_target[which]);
            self.products[which] += other.products[which];
            self.counts[which] += other.counts[which];
        }
    }

    fn add_targets<T: Element>(
        &mut self,
        problem: &Problem<'_, T>,
        targets: &Targets<'_, T>,
        products: &[f32],
        of_target: &[f32],
    ) {
        let kernel = problem.kernel;
        let scales2 = [problem.scale2, targets.scale2()];
        let maxima = [products, of_target].map(|row| kernel.max_row(row));
        let offsets2 = [0, 1].map(|which| or_zero(maxima[which] * scales2[which]));
        let sums = kernel.sum_targets(products, of_target, scales2, offsets2);
        let [of_row, of_targets, by_row, by_targets] = sums.map(f64::from);
        let scaled = |offset2, sum| ScaledSum { offset2, sum };
        self.join(&Self {
            exponentials: [scaled(offsets2[0], of_row), scaled(offsets2[1], of_targets)],
            by_target: [by_row, by_targets].map(|sum| scaled(offsets2[1], sum)),
            ..Self::ZERO
        });
    }

    /// Adds the products of a row's candidates. Of a pointwise rule they become weights times `factor`; otherwise their
    /// contents afterwards are arbitrary.
    pub fn add<T: Element>(
        &mut self,
        problem: &Problem<'_, T>,
        options: &Options<'_>,
        at: (usize, usize),
        products: &mut [f32],
        factor: f32,
    ) {
        let (kernel, scale2) = (problem.kernel, problem.scale2);
        let mut words = [0; BLOCK];
        let set = options.prepare(kernel, at, products, &mut words);
        let (offsets2, sums) = if let Some(exponents) = options.exponents {
            let scales2 = exponents.map(|exponent| exponent * scale2);
            let maximum = kernel.max_row(products);
            let offsets2 = scales2.map(|scale2| or_zero(maximum * scale2));
            (offsets2, kernel.sum_exp_two(products, scales2, offsets2))
        } else if let Some(set) = set {
            let has_positives = !kernel.is_empty(set);
            for (which, counts) in [options.smooths, has_positives].into_iter().enumerate() {
                if counts {
                    let [sum, count] = kernel.sum_set(products, set, which == 1);
                    self.products[which] += f64::from(sum);
                    self.counts[which] += f64::from(count);
                }
            }
            match (has_positives, problem.bounded_offset2()) {
                _ if let Some(bias2) = options.pointwise => {
                    let sum = kernel.weigh_pointwise(products, [scale2, bias2], factor, set);
                    ([0.0; 2], [sum, 0.0])
                }
                (false, _) => sum_row(problem, products),
                (true, Some(offset2)) => {
                    let offsets2 = [offset2; 2];
                    (
                        offsets2,
                        kernel.sum_exp_sets(products, scale2, offsets2, set),
                    )
                }
                (true, None) => {
                    let maxima = kernel.max_sets(products, set);
                    let offsets2 = maxima.map(|maximum| or_zero(maximum * scale2));
                    (
                        offsets2,
                        kernel.sum_exp_sets(products, scale2, offsets2, set),
                    )
                }
            }
        } else {
            sum_row(problem, products)
        };
        for (total, (offset2, sum)) in self
            .exponentials
            .iter_mut()
            .zip(offsets2.into_iter().zip(sums))
        {
            let sum = f64::from(sum);
            total.add(ScaledSum { offset2, sum });
        }
    }

    pub fn logits<T: Element>(&self, problem: &Problem<'_, T>, i: usize) -> RowLogits {
        let [negatives_lse, second_lse] = self.exponentials.map(ScaledSum::ln);
        let given = problem.positive_logits[i];
        let mut logits = RowLogits::new(negatives_lse, given);
        logits.second_lse = second_lse;
        if let Some(targets) = &problem.targets {
            let total = self.exponentials[1];
            let mean = |scale: f64, sum: ScaledSum| {
                let shift = f64::from(sum.offset2) - f64::from(total.offset2);
                scale * (sum.sum * shift.exp2() / total.sum)
            };
            if !given.is_nan() {
                logits.positive = mean(problem.scale, self.by_target[0]);
            }
            logits.negatives_mean = mean(targets.scale, self.by_target[1]);
        }
        if problem.contrast.has_sets() {
            let [of_negatives, of_positives] = self.products.map(|sum| problem.scale * sum);
            let [negatives, positives] = self.counts;
            // z₊ is NaN where an input is not finite.
            if positives > 0.0 && !given.is_nan() {
                logits.positive = of_positives / positives;
            }
            logits.negatives_mean = of_negatives / negatives.max(1.0);
            (logits.positives, logits.negatives) = (positives, negatives);
        }
        logits
    }
}
