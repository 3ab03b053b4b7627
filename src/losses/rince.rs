//! RINCE (Chuang et al. 2022, "Robust Contrastive Learning against Noisy Views").

use super::{Description, Dual, Loss, RowRule};
use crate::contrast::Contrast;
use crate::error::Error;

pub(super) const LOSS: Loss = Loss {
    key: "rince",
    name: "RINCE",
    source: "Chuang et al. 2022, section 4",
    formula: "(−e^{q z₊} + (λ(e^{z₊} + e^{lse⁻}))^q)/q",
    temperature: 0.5,
    at: |temperature| Contrast::rince(temperature, 0.5, 0.025),
};

impl Contrast {
    /// RINCE (Chuang et al. 2022, section 4) on [`Inputs::Shared`](crate::Inputs::Shared):
    /// −e^{q z₊}/q + (λ(e^{z₊} + Σ e^{z⁻}))^q/q, mean over the N rows. q → 0 is InfoNCE; q = 1 is robust against
    /// false positives. The paper's λ is 0.025 (0.01 on ImageNet), its q 0.1 to 1.
    ///
    /// Values grow as e^{q z₊}: of unit rows they overflow f32 where q/τ is above about 80.
    ///
    /// # Errors
    /// [`Error::Scalar`] unless `temperature` is finite and greater than 0, and `q` and `lambda` are greater
    /// than 0 and at most 1.
    pub fn rince(temperature: f32, q: f32, lambda: f32) -> Result<Self, Error> {
        let rule = RowRule::Robust { q, lambda };
        Self::at(LOSS.name, Description::SHARED.with_rule(rule), temperature)
    }
}

/// (−e^{q z₊} + (λF)^q)/q with F = e^{z₊} + e^{lse⁻}, and e^{q z₊} factored out.
pub(super) fn row(lse: Dual, z: Dual, q: f32, lambda: f32) -> Dual {
    let (q, lambda) = (f64::from(q), f64::from(lambda));
    let ratio = ((lse - z).softplus() + lambda.ln()) * q;
    (z * q).exp() * ratio.exp_m1() * (1.0 / q)
}
