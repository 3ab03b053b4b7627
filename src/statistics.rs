//! Row statistics, lse⁻ and z₊ above all, from which a backward pass computes the softmax anew.
//!
//! The positive is kept apart from the negatives, so that 1 − p₊ = sigmoid(lse⁻ − z₊) keeps its relative accuracy
//! when p₊ → 1. The difference of z₊ and a log-sum-exp over all candidates would cancel.

use crate::contrast::{Contrast, Reduction, Shape, same_rows};
use crate::error::Error;
use crate::losses::{RowContext, RowLogits};

/// Statistics of one direction, one entry per row: [`RowLogits`] of all rows.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RowStatistics {
    /// lse⁻_i = log Σ_{negatives} exp z_ij, with two exponents of (1+β)z, of a sigmoid the log of the sum of softplus
    /// over negatives and positives; −∞ for a row without negatives.
    pub negatives_lse: Vec<f32>,
    /// z_{i,+}: the logit of the positive, of a set the mean, with soft targets Σ_j t_ij z_ij; −∞ for a row without one.
    pub positive: Vec<f32>,
    /// With two exponents the log-sum-exp of the negatives' βz, with soft targets that of the targets' logits u_ij;
    /// otherwise empty.
    pub second_lse: Vec<f32>,
    /// With soft targets Σ_j t_ij u_ij, so that second_lse less this is their entropy; otherwise empty.
    pub target_mean: Vec<f32>,
    /// With a rule of sets; otherwise `None`.
    pub sets: Option<SetStatistics>,
}

/// Statistics of rows with sets of positives, one entry per row.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SetStatistics {
    /// lse⁺_i = log Σ_{positives} exp z_ij; −∞ for a row without positives, and of a sigmoid.
    pub positives_lse: Vec<f32>,
    /// Number of positives.
    pub positives: Vec<f32>,
    /// With label smoothing the mean of the negatives' logits; otherwise, and for a row without negatives, 0.
    pub negatives_mean: Vec<f32>,
    /// With label smoothing the number of negatives; otherwise 0.
    pub negatives: Vec<f32>,
}

/// Statistics of a contrast.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Statistics {
    /// One entry per anchor.
    pub rows: RowStatistics,
    /// One entry per candidate, where columns have a loss.
    pub columns: Option<RowStatistics>,
}

/// The names of a call's statistics in error messages: rows and columns.
pub(crate) const GIVEN: [&str; 2] = ["statistics.rows", "statistics.columns"];
/// The names in error messages of the statistics that are merged into those.
pub(crate) const OTHERS: [&str; 2] = ["others.rows", "others.columns"];

/// Why statistics of soft targets are not merged: a mean over candidates has the weights of all of them.
pub(crate) const TARGETS_DO_NOT_MERGE: Error = Error::Unsupported {
    option: "statistics",
    reason: "soft targets are a softmax over all candidates and are not merged",
};

impl Statistics {
    /// Checks that these can be the statistics of a contrast of this shape.
    pub(crate) fn check(&self, contrast: &Contrast, shape: Shape) -> Result<(), Error> {
        let columns = contrast.has_columns().then_some(shape.candidates);
        self.check_rows(GIVEN, shape.anchors, columns)?;
        let rows = |wanted| if wanted { shape.anchors } else { 0 };
        let targets = contrast.rule().target_scale().is_some();
        let second = targets || contrast.rule().exponents().is_some();
        same_rows(GIVEN[0], self.rows.second_len(), rows(second))?;
        same_rows(GIVEN[0], self.rows.target_mean.len(), rows(targets))?;
        same_rows(GIVEN[0], self.rows.set_len(), rows(contrast.has_sets()))
    }

    fn check_rows(
        &self,
        names: [&'static str; 2],
        rows: usize,
        columns: Option<usize>,
    ) -> Result<(), Error> {
        let lengths = |rows: &RowStatistics| [rows.negatives_lse.len(), rows.positive.len()];
        for given in lengths(&self.rows) {
            same_rows(names[0], given, rows)?;
        }
        if let Some(sets) = &self.rows.sets {
            for given in sets.planes() {
                same_rows(names[0], given.len(), rows)?;
            }
        }
        if let Some(expected) = columns {
            for given in self.columns.as_ref().map_or([0; 2], lengths) {
                same_rows(names[1], given, expected)?;
            }
        }
        Ok(())
    }

    /// Merges the statistics of the same anchors over other candidates into these.
    pub(crate) fn merge(&mut self, others: &Self) -> Result<(), Error> {
        if !self.rows.target_mean.is_empty() {
            return Err(TARGETS_DO_NOT_MERGE);
        }
        let columns = self.columns.as_ref().map(RowStatistics::len);
        self.check_rows(GIVEN, self.rows.len(), columns)?;
        others.check_rows(OTHERS, self.rows.len(), columns)?;
        for lengths in [RowStatistics::second_len, RowStatistics::set_len] {
            same_rows(OTHERS[0], lengths(&others.rows), lengths(&self.rows))?;
        }
        self.rows.merge(&others.rows);
        if let (Some(columns), Some(others)) = (&mut self.columns, &others.columns) {
            columns.merge(others);
        }
        Ok(())
    }

    /// The reduced loss of `contrast` with these statistics, over `candidates` candidates: those of all shards
    /// after a merge.
    pub fn loss(&self, contrast: &Contrast, candidates: usize) -> f32 {
        self.loss_at(
            contrast,
            contrast.scale(),
            contrast.negatives(candidates),
            None,
        )
    }

    /// The loss at a scale, with this many negatives a row, of weighted rows.
    pub(crate) fn loss_at(
        &self,
        contrast: &Contrast,
        scale: f32,
        negatives: usize,
        weights: Option<&[f32]>,
    ) -> f32 {
        let context = self.context(contrast, scale, negatives);
        self.loss_in(contrast, &context, weights)
    }

    /// φ_i of every anchor, before reduction and weights; `candidates` as for [`loss`](Self::loss).
    pub fn row_losses(&self, contrast: &Contrast, candidates: usize) -> Vec<f32> {
        let negatives = contrast.negatives(candidates);
        let context = self.context(contrast, contrast.scale(), negatives);
        let losses = self.rows.losses(contrast, &context);
        losses.map(|loss| loss as f32).collect()
    }

    fn context(&self, contrast: &Contrast, scale: f32, negatives: usize) -> RowContext {
        let positives = self.rows.positive.iter().map(|&z| f64::from(z));
        RowContext::new(contrast.rule(), scale.into(), negatives, positives)
    }

    /// [`loss`](Self::loss) in a given context, of weighted rows; sums are f64, in index order.
    pub(crate) fn loss_in(
        &self,
        contrast: &Contrast,
        context: &RowContext,
        weights: Option<&[f32]>,
    ) -> f32 {
        let total = |rows: &RowStatistics| -> f64 {
            let losses = rows.losses(contrast, context).enumerate();
            let weighted = |(i, loss)| weighted(weights, i, loss);
            losses.map(weighted).sum()
        };
        let total = total(&self.rows) + self.columns.as_ref().map_or(0.0, total);
        let counted = self.rows.counted(contrast, weights);
        (total * contrast.row_weight(self.rows.len()) * counted) as f32
    }
}

/// A row's weight times `x`; 0 for a row that is left out, whatever `x` is.
fn weighted(weights: Option<&[f32]>, row: usize, x: f64) -> f64 {
    match weights.map(|weights| weights[row]) {
        Some(0.0) => 0.0,
        Some(weight) => f64::from(weight) * x,
        None => x,
    }
}

/// N over the number of rows that [`Reduction::MeanOfPositives`] counts, where z₊ is `positive` (0 if there are none);
/// 1 for other reductions.
pub(crate) fn counted(
    contrast: &Contrast,
    positive: impl ExactSizeIterator<Item = f64>,
    weights: Option<&[f32]>,
) -> f64 {
    if contrast.reduction() != Reduction::MeanOfPositives {
        return 1.0;
    }
    let rows = positive.len();
    let is_left_out = |i: usize| weights.is_some_and(|weights| weights[i] == 0.0);
    let counts = |(i, z): &(usize, f64)| *z != f64::NEG_INFINITY && !is_left_out(*i);
    match positive.enumerate().filter(counts).count() {
        0 => 0.0,
        counted => rows as f64 / counted as f64,
    }
}

impl RowStatistics {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.positive.len()
    }

    /// Rows that have a second log-sum-exp: all or none.
    fn second_len(&self) -> usize {
        self.second_lse.len()
    }

    /// Rows that have statistics of sets: all or none.
    fn set_len(&self) -> usize {
        self.sets.as_ref().map_or(0, |sets| sets.positives.len())
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.positive.is_empty()
    }

    /// The statistics of row `i`.
    pub(crate) fn logits(&self, i: usize) -> RowLogits {
        let mut logits = RowLogits::new(self.negatives_lse[i].into(), self.positive[i].into());
        if let Some(&second) = self.second_lse.get(i) {
            logits.second_lse = second.into();
        }
        if let Some(&mean) = self.target_mean.get(i) {
            logits.negatives_mean = mean.into();
        }
        if let Some(sets) = &self.sets {
            logits.second_lse = sets.positives_lse[i].into();
            logits.negatives_mean = sets.negatives_mean[i].into();
            logits.positives = sets.positives[i].into();
            logits.negatives = sets.negatives[i].into();
        }
        logits
    }

    /// φ_i of every row.
    fn losses(&self, contrast: &Contrast, context: &RowContext) -> impl Iterator<Item = f64> {
        let rule = contrast.rule();
        (0..self.len()).map(move |i| rule.values(&self.logits(i), context).value)
    }

    /// [`counted`] with these statistics.
    pub(crate) fn counted(&self, contrast: &Contrast, weights: Option<&[f32]>) -> f64 {
        let positive = self.positive.iter().map(|&z| f64::from(z));
        counted(contrast, positive, weights)
    }

    fn merge(&mut self, others: &Self) {
        merge_lse(&mut self.negatives_lse, &others.negatives_lse);
        merge_lse(&mut self.second_lse, &others.second_lse);
        if let (Some(sets), Some(other)) = (&mut self.sets, &others.sets) {
            merge_means(
                [&mut self.positive, &mut sets.positives],
                [&others.positive, &other.positives],
            );
            merge_means(
                [&mut sets.negatives_mean, &mut sets.negatives],
                [&other.negatives_mean, &other.negatives],
            );
            merge_lse(&mut sets.positives_lse, &other.positives_lse);
            return;
        }
        for (positive, &other) in self.positive.iter_mut().zip(&others.positive) {
            // A NaN of either side wins.
            if other > *positive || other.is_nan() {
                *positive = other;
            }
        }
    }
}

impl SetStatistics {
    fn planes(&self) -> [&[f32]; 4] {
        let Self {
            positives_lse,
            positives,
            negatives_mean,
            negatives,
        } = self;
        [positives_lse, positives, negatives_mean, negatives].map(Vec::as_slice)
    }
}

fn merge_lse(lse: &mut [f32], others: &[f32]) {
    for (lse, &other) in lse.iter_mut().zip(others) {
        *lse = log_add_exp(f64::from(*lse), f64::from(other)) as f32;
    }
}

/// Merges means of some counts with others; where a count is 0 its mean does not count.
fn merge_means([means, counts]: [&mut [f32]; 2], [other_means, other_counts]: [&[f32]; 2]) {
    let others = other_means.iter().zip(other_counts);
    for ((mean, count), (&other, &others)) in means.iter_mut().zip(counts).zip(others) {
        let sum = f64::from(*count) + f64::from(others);
        let share = f64::from(others) / sum;
        *mean = match (*count, others) {
            // A NaN of either side wins.
            (_, 0.0) if !other.is_nan() => *mean,
            (0.0, _) if !mean.is_nan() => other,
            _ => (f64::from(*mean) * (1.0 - share) + f64::from(other) * share) as f32,
        };
        *count = sum as f32;
    }
}

/// log(eˣ + eʸ); −∞ where both are.
fn log_add_exp(x: f64, y: f64) -> f64 {
    if x == f64::NEG_INFINITY {
        return y;
    }
    x.max(y) + (-(x - y).abs()).exp().ln_1p()
}
