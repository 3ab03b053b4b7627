//! Each rule's φ by its paper's formula, on dual numbers; the reference computes it.

use super::dual::Dual;
use super::rule::{RowContext, RowLogits, RowRule};
use super::{additive_margin, byol, dcl, debiased, dino, hard_negatives, rince, siglip, sup_con};

impl RowRule {
    /// φ of a row that has a loss, at scale s.
    pub(crate) fn formula(self, logits: &RowLogits<Dual>, scale: Dual, row: &RowContext) -> Dual {
        let (lse, z) = (logits.negatives_lse, logits.positive);
        match self {
            Self::Softmax { margin } => additive_margin::row(lse, z, margin),
            Self::Decoupled { sigma } => dcl::row(lse, z, sigma, row),
            Self::Robust { q, lambda } => rince::row(lse, z, q, lambda),
            Self::Debiased { prior } => debiased::row(lse, z, scale, prior, row),
            Self::Sets { form, smoothing } => sup_con::row(form, smoothing, logits),
            Self::HardNegatives { prior, .. } => hard_negatives::row(logits, scale, prior, row),
            Self::Sigmoid { .. } => siglip::row(logits),
            Self::SoftTargets { divergence, .. } => dino::row(logits, divergence),
            Self::Alignment => byol::row(z, scale),
        }
    }
}
