//! Options of a problem, applied to one row of a block of logits at a time: biases, sets of positives, exclusions and
//! two exponents. A problem without them never comes here.

use std::borrow::Cow;
use std::f64::consts::LOG2_E;
use std::ops::Range;

use rayon::prelude::*;

use super::pack::row_items;
use super::problem::{BLOCK, GROUP, LogitTile, Problem};
use super::simd::{Kernel, Set, SetTerms};
use super::statistics_pass::{ScaledSum, or_zero};
use crate::element::Element;
use crate::inputs::{self, NO_ID, NO_POSITIVE, Positives};
use crate::losses::{RowLogits, RowRule, RowValues};
use crate::rows::Rows;

/// Rows whose statistics one task computes; each block of candidates serves them all.
const TASK: usize = 4 * GROUP;

/// Words of the candidates of one block.
type BlockWords = [u32; BLOCK];

/// What a problem has besides one positive a row.
pub(super) struct Options<'a> {
    /// c_j / s.
    bias: Option<Vec<f32>>,
    /// Ids of anchors and candidates.
    ids: Option<[&'a [u32]; 2]>,
    /// Of each row the largest product that the guard keeps.
    limits: Option<Vec<f32>>,
    /// Where the rule takes sets.
    sets: Option<Sets<'a>>,
    /// 1 + β and β, where the rule has two exponents.
    exponents: Option<[f32; 2]>,
    /// The sign of the second exponential.
    sign: f32,
    /// Whether labels are smoothed, which needs the sum of the negatives' logits.
    smooths: bool,
}

/// Which candidates are positives.
enum Sets<'a> {
    /// Labels of anchors and of candidates.
    Labels([&'a [u32]; 2]),
    /// Where the anchors' lists start, and the lists.
    Lists([Cow<'a, [u32]>; 2]),
}

impl Sets<'_> {
    /// Lists of at most one candidate.
    fn of_one(positives: &[Option<usize>]) -> Self {
        let candidates: Vec<u32> = positives.iter().flatten().map(|&j| j as u32).collect();
        let starts = positives.iter().scan(0, |start, positive| {
            *start += u32::from(positive.is_some());
            Some(*start)
        });
        let starts: Vec<u32> = std::iter::once(0).chain(starts).collect();
        Self::Lists([starts, candidates].map(Cow::Owned))
    }
}

impl<'a> Options<'a> {
    /// `None` for a problem without options. `positives` is each anchor's one positive, `positive_logits` its z₊.
    pub fn of<T: Element>(
        given: &inputs::Problem<Rows<'a, T>>,
        scale: f64,
        positives: &[Option<usize>],
        positive_logits: &[f64],
    ) -> Option<Self> {
        if !given.has_options() {
            return None;
        }
        let (contrast, rule) = (given.contrast(), given.contrast().rule());
        let sets = match given.positives() {
            _ if !contrast.has_sets() => None,
            Some(Positives::Labels {
                anchors,
                candidates,
            }) => Some(Sets::Labels([anchors, candidates])),
            Some(Positives::Lists { starts, candidates }) => {
                Some(Sets::Lists([starts, candidates].map(Cow::Borrowed)))
            }
            _ => Some(Sets::of_one(positives)),
        };
        let limit = |margin: f32| {
            let of = |&z: &f64| match z {
                f64::NEG_INFINITY => f32::INFINITY,
                z => (z / scale - f64::from(margin)) as f32,
            };
            positive_logits.iter().map(of).collect()
        };
        let bias = given.column_bias();
        let in_products = |bias: &[f32]| {
            bias.iter()
                .map(|&c| (f64::from(c) / scale) as f32)
                .collect()
        };
        Some(Self {
            bias: bias.map(in_products),
            ids: given.ids().map(|ids| [ids.anchors, ids.candidates]),
            limits: contrast.description().guard.map(limit),
            sets,
            exponents: rule
                .exponents()
                .map(|exponents| exponents.map(|x| x as f32)),
            sign: rule.second_sign() as f32,
            smooths: matches!(rule, RowRule::Sets { smoothing, .. } if smoothing > 0.0),
        })
    }

    /// Adds biases to the products of anchor `i` with the candidates from `first` on, and sets those that it excludes to
    /// −∞. `words` has room for the words of the set of positives that it returns, where the rule takes sets.
    fn prepare<'w>(
        &'w self,
        kernel: &Kernel,
        (i, first): (usize, usize),
        products: &mut [f32],
        words: &'w mut BlockWords,
    ) -> Option<Set<'w>> {
        let columns = first..first + products.len();
        if let Some(bias) = &self.bias {
            for (product, bias) in products.iter_mut().zip(&bias[columns.clone()]) {
                *product += bias;
            }
        }
        let set = self
            .sets
            .as_ref()
            .map(|sets| sets.of(i, columns.clone(), words));
        if let Some([anchors, candidates]) = self.ids
            && anchors[i] != NO_ID
        {
            let ids = Set {
                word: anchors[i],
                words: &candidates[columns],
            };
            kernel.exclude_equal(products, ids, set);
        }
        if let Some(limits) = &self.limits {
            kernel.exclude_above(products, limits[i]);
        }
        set
    }

    /// Turns products, as [`prepare`](Self::prepare) takes them, into weights ∂φ/∂z_ij.
    pub fn weigh(
        &self,
        kernel: &Kernel,
        at: (usize, usize),
        products: &mut [f32],
        scale2: f32,
        row: &RowTerms,
    ) {
        let mut words = [0; BLOCK];
        let set = self.prepare(kernel, at, products, &mut words);
        if let Some(exponents) = self.exponents {
            let scales2 = exponents.map(|exponent| exponent * scale2);
            kernel.weigh_two(products, scales2, row.offsets2);
        } else if let Some(set) = set
            && (row.uniform != 0.0 || !kernel.is_empty(set))
        {
            let terms = SetTerms {
                offsets2: row.offsets2,
                factors: [1.0, self.sign],
                summands: [-row.uniform, -row.positive - row.uniform],
            };
            kernel.weigh_sets(products, scale2, &terms, set);
        } else {
            kernel.exp_row(products, scale2, row.offsets2[0]);
        }
    }
}

impl Sets<'_> {
    /// The positives of anchor `i` among the candidates `columns`. `words` has room for the words of a list.
    fn of<'w>(&'w self, i: usize, columns: Range<usize>, words: &'w mut BlockWords) -> Set<'w> {
        const LISTED: u32 = 1;
        let words = &mut words[..columns.len()];
        match self {
            Self::Labels([anchors, candidates]) if anchors[i] != NO_POSITIVE => Set {
                word: anchors[i],
                words: &candidates[columns],
            },
            Self::Labels(_) => {
                words.fill(0);
                Set {
                    word: LISTED,
                    words,
                }
            }
            Self::Lists([starts, candidates]) => {
                let list = &candidates[starts[i] as usize..starts[i + 1] as usize];
                let place = |column: usize| list.partition_point(|&j| (j as usize) < column);
                words.fill(0);
                for &j in &list[place(columns.start)..place(columns.end)] {
                    words[j as usize - columns.start] = LISTED;
                }
                Set {
                    word: LISTED,
                    words,
                }
            }
        }
    }
}

/// What the weights of a row depend on: [`RowValues`] in f32, offsets times log₂e.
pub(super) struct RowTerms {
    /// Of both exponentials.
    offsets2: [f32; 2],
    positive: f32,
    uniform: f32,
}

impl RowTerms {
    pub fn new(values: &RowValues) -> Self {
        Self {
            offsets2: [values.offset, values.second].map(|offset| (offset * LOG2_E) as f32),
            positive: values.positive as f32,
            uniform: values.uniform as f32,
        }
    }
}

/// Sums of one row's logits.
#[derive(Clone, Copy)]
struct RowSums {
    /// Of the negatives' exponentials, and of the positives' or of those of the second exponent.
    exponentials: [ScaledSum; 2],
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
    let empty = RowSums {
        exponentials: [ScaledSum::ZERO; 2],
        products: [0.0; 2],
        counts: [0.0; 2],
    };
    let mut rows = vec![empty; problem.shape.anchors];
    rows.par_chunks_mut(TASK)
        .enumerate()
        .for_each(|(task, rows)| {
            let first_row = task * TASK;
            let slice = problem.anchors(first_row, rows.len());
            let mut storage = Vec::new();
            let items = row_items(problem.kernel, &slice, problem.shape.dim, &mut storage);
            let steps = problem.steps();
            let mut tile: LogitTile = [0.0; GROUP * BLOCK];
            for block in 0..problem.blocks() {
                let (first_column, width) = problem.block(block);
                for (group, rows) in rows.chunks_mut(GROUP).enumerate() {
                    let row = group * GROUP;
                    let items = &items[row * steps..(row + rows.len()) * steps];
                    problem.negative_products(items, first_row + row, block, &mut tile);
                    for ((index, sums), products) in
                        rows.iter_mut().enumerate().zip(tile.chunks_mut(BLOCK))
                    {
                        let at = (first_row + row + index, first_column);
                        sums.add(problem, options, at, &mut products[..width]);
                    }
                }
            }
        });
    let finish = |(i, sums): (usize, RowSums)| sums.logits(problem, options, i);
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
    fn add<T: Element>(
        &mut self,
        problem: &Problem<'_, T>,
        options: &Options<'_>,
        at: (usize, usize),
        products: &mut [f32],
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

    fn logits<T: Element>(
        &self,
        problem: &Problem<'_, T>,
        options: &Options<'_>,
        i: usize,
    ) -> RowLogits {
        let [negatives_lse, second_lse] = self.exponentials.map(ScaledSum::ln);
        let given = problem.positive_logits[i];
        let mut logits = RowLogits::new(negatives_lse, given);
        logits.second_lse = second_lse;
        if options.sets.is_some() {
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
