//! Row statistics: all that a backward pass needs to know of a softmax that was never stored.
//!
//! The positive is kept apart from the negatives. With lse⁻ over the negatives alone,
//! loss = softplus(lse⁻ − z₊) and σ = sigmoid(lse⁻ − z₊) = 1 − p₊ keep their relative accuracy
//! when p₊ → 1; lse − z₊ would cancel.

use crate::contrast::{Contrast, Shape, same_rows};
use crate::error::Error;

/// Statistics of one direction, one entry per row.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RowStatistics {
    /// lse⁻_i = log Σ_{negatives} exp z_ij; −∞ for a row without negatives.
    pub negatives_lse: Vec<f32>,
    /// z_{i,+}: the logit of the positive.
    pub positive: Vec<f32>,
}

/// Statistics of a contrast.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Statistics {
    /// One entry per anchor.
    pub rows: RowStatistics,
    /// One entry per candidate, for CLIP alone.
    pub columns: Option<RowStatistics>,
}

impl Statistics {
    /// Checks that these can be the statistics of a contrast of this shape.
    pub(crate) fn check(&self, contrast: &Contrast, shape: Shape) -> Result<(), Error> {
        let check = |argument, statistics: &RowStatistics, rows| {
            same_rows(argument, statistics.negatives_lse.len(), rows)?;
            same_rows(argument, statistics.positive.len(), rows)
        };
        check("statistics.rows", &self.rows, shape.anchors)?;
        match &self.columns {
            _ if !contrast.is_symmetric() => Ok(()),
            Some(columns) => check("statistics.columns", columns, shape.candidates),
            None => same_rows("statistics.columns", 0, shape.candidates),
        }
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

    /// The unweighted loss of row `i`: softplus(lse⁻ − z₊).
    ///
    /// # Panics
    /// When `i` is out of range, as slices do.
    pub fn loss(&self, i: usize) -> f32 {
        softplus(self.margin(i)) as f32
    }

    /// lse_i over all allowed candidates, the positive included.
    ///
    /// # Panics
    /// When `i` is out of range, as slices do.
    pub fn lse(&self, i: usize) -> f32 {
        (f64::from(self.positive[i]) + softplus(self.margin(i))) as f32
    }

    /// σ_i = 1 − p₊ = sigmoid(lse⁻ − z₊).
    ///
    /// # Panics
    /// When `i` is out of range, as slices do.
    pub fn one_minus_positive(&self, i: usize) -> f32 {
        (1.0 / (1.0 + (-self.margin(i)).exp())) as f32
    }

    /// Σ of row losses, in index order and f64.
    pub fn total(&self) -> f64 {
        (0..self.len()).map(|i| softplus(self.margin(i))).sum()
    }

    fn margin(&self, i: usize) -> f64 {
        f64::from(self.negatives_lse[i]) - f64::from(self.positive[i])
    }
}

/// log(1 + eˣ) without overflow; 0 at −∞, NaN at NaN.
fn softplus(x: f64) -> f64 {
    if x > 0.0 {
        x + (-x).exp().ln_1p()
    } else {
        x.exp().ln_1p()
    }
}
