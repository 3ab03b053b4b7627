//! Each rule's φ by its paper's formula, on dual numbers; the reference computes it.

use super::dual::Dual;
use super::rule::{RowContext, RowRule};
use super::{additive_margin, dcl, debiased, rince};

impl RowRule {
    /// φ(lse⁻, z₊) of a row that has negatives and a positive, at scale s.
    pub(crate) fn formula(self, lse: Dual, z: Dual, scale: Dual, row: &RowContext) -> Dual {
        match self {
            Self::Softmax { margin } => additive_margin::row(lse, z, margin),
            Self::Decoupled { sigma } => dcl::row(lse, z, sigma, row),
            Self::Robust { q, lambda } => rince::row(lse, z, q, lambda),
            Self::Debiased { prior } => debiased::row(lse, z, scale, prior, row),
        }
    }
}
