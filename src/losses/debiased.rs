//! The debiased loss (Chuang et al. 2020, "Debiased Contrastive Learning").

use super::{Description, Dual, Loss, RowContext, RowRule};
use crate::contrast::Contrast;
use crate::error::Error;

pub(super) const LOSS: Loss = Loss {
    key: "debiased",
    name: "debiased",
    source: "Chuang et al. 2020, equations 7 and 8",
    formula: "ln(1 + Ng e^{−z₊}), Ng = max((e^{lse⁻} − τ⁺m e^{z₊})/(1 − τ⁺), m e^{−s})",
    temperature: 0.5,
    at: |temperature| Contrast::debiased(temperature, 0.1),
};

impl Contrast {
    /// The debiased loss (Chuang et al. 2020, equations 7 and 8 with one positive) on
    /// [`Inputs::Shared`](crate::Inputs::Shared): −ln(e^{z₊}/(e^{z₊} + Ng)) with
    /// Ng = max((Σ e^{z⁻} − τ⁺·m·e^{z₊})/(1 − τ⁺), m·e^{−1/τ}) over m = N − 2 negatives, mean over the N rows.
    /// `prior` is τ⁺, the probability that a negative is of the anchor's class; the paper's is 0.1. The
    /// bound m·e^{−1/τ} is the least sum that unit rows can have.
    ///
    /// # Errors
    /// [`Error::Scalar`] unless `temperature` is finite and greater than 0 and `prior` is at least 0 and less
    /// than 1.
    pub fn debiased(temperature: f32, prior: f32) -> Result<Self, Error> {
        let rule = RowRule::Debiased { prior };
        Self::at(LOSS.name, Description::SHARED.with_rule(rule), temperature)
    }
}

/// ln(1 + Ng/e^{z₊}), by way of ln Ng.
pub(super) fn row(lse: Dual, z: Dual, scale: Dual, prior: f32, row: &RowContext) -> Dual {
    let (prior, negatives) = (f64::from(prior), row.negatives);
    let positives_among = (z - lse + (prior * negatives).ln()).exp();
    // The clamp keeps the sum without false negatives at 0 or above.
    let left = (-positives_among).max(Dual::constant(-1.0)).ln_1p();
    let rest = lse + left - (1.0 - prior).ln();
    let least = -scale + negatives.ln();
    (rest.max(least) - z).softplus()
}
