//! Row statistics lse⁻ and z₊, from which a backward pass computes the softmax anew.
//!
//! The positive is kept apart from the negatives, so that 1 − p₊ = sigmoid(lse⁻ − z₊) keeps its relative accuracy
//! when p₊ → 1. The difference of z₊ and a log-sum-exp over all candidates would cancel.

use crate::contrast::{Contrast, Shape, same_rows};
use crate::error::Error;
use crate::losses::RowContext;

/// Statistics of one direction, one entry per row.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RowStatistics {
    /// lse⁻_i = log Σ_{negatives} exp z_ij; −∞ for a row without negatives.
    pub negatives_lse: Vec<f32>,
    /// z_{i,+}: the logit of the positive; −∞ for a row without one.
    pub positive: Vec<f32>,
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

impl Statistics {
    /// Checks that these can be the statistics of a contrast of this shape.
    pub(crate) fn check(&self, contrast: &Contrast, shape: Shape) -> Result<(), Error> {
        let columns = contrast.has_columns().then_some(shape.candidates);
        self.check_rows(GIVEN, shape.anchors, columns)
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
        if let Some(expected) = columns {
            for given in self.columns.as_ref().map_or([0; 2], lengths) {
                same_rows(names[1], given, expected)?;
            }
        }
        Ok(())
    }

    /// Merges the statistics of the same anchors over other candidates into these.
    pub(crate) fn merge(&mut self, others: &Self) -> Result<(), Error> {
        let columns = self.columns.as_ref().map(RowStatistics::len);
        self.check_rows(GIVEN, self.rows.len(), columns)?;
        others.check_rows(OTHERS, self.rows.len(), columns)?;
        self.rows.merge(&others.rows);
        if let (Some(columns), Some(others)) = (&mut self.columns, &others.columns) {
            columns.merge(others);
        }
        Ok(())
    }

    /// The reduced loss of `contrast` with these statistics, over `candidates` candidates: those of all shards
    /// after a merge.
    pub fn loss(&self, contrast: &Contrast, candidates: usize) -> f32 {
        let scale = f64::from(contrast.scale());
        let positives = self.rows.positive.iter().map(|&z| f64::from(z));
        let negatives = contrast.negatives(candidates);
        let context = RowContext::new(contrast.rule(), scale, negatives, positives);
        self.loss_in(contrast, &context)
    }

    /// [`loss`](Self::loss) in a given context; sums are f64, in index order.
    pub(crate) fn loss_in(&self, contrast: &Contrast, context: &RowContext) -> f32 {
        let total = |rows: &RowStatistics| -> f64 {
            let pairs = rows.negatives_lse.iter().zip(&rows.positive);
            let loss = |(&lse, &z): (&f32, &f32)| {
                let values = contrast.rule().values(lse.into(), z.into(), context);
                values.value
            };
            pairs.map(loss).sum()
        };
        let total = total(&self.rows) + self.columns.as_ref().map_or(0.0, total);
        (total * contrast.row_weight(self.rows.len())) as f32
    }
}

impl RowStatistics {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.positive.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.positive.is_empty()
    }

    fn merge(&mut self, others: &Self) {
        for (lse, &other) in self.negatives_lse.iter_mut().zip(&others.negatives_lse) {
            *lse = log_add_exp(f64::from(*lse), f64::from(other)) as f32;
        }
        for (positive, &other) in self.positive.iter_mut().zip(&others.positive) {
            // A NaN of either side wins.
            if other > *positive || other.is_nan() {
                *positive = other;
            }
        }
    }
}

/// log(eˣ + eʸ); −∞ where both are.
fn log_add_exp(x: f64, y: f64) -> f64 {
    if x == f64::NEG_INFINITY {
        return y;
    }
    x.max(y) + (-(x - y).abs()).exp().ln_1p()
}
