//! Hard negative sampling (Robinson et al. 2021, "Contrastive Learning with Hard Negative Samples").

use super::{Description, Dual, Loss, RowContext, RowLogits, RowRule, debiased};
use crate::contrast::Contrast;
use crate::error::{Error, within};

pub(super) const LOSS: Loss = Loss {
    key: "hard",
    name: "hard negatives",
    source: "Robinson et al. 2021, equation 4 and section 3.1",
    formula: "debiased with e^{lse⁻} = m Σ⁻e^{(1+β)z}/Σ⁻e^{βz}",
    temperature: 0.5,
    at: |temperature| Contrast::hard_negatives(temperature, 1.0, 0.1),
};

impl Contrast {
    /// The loss with hard negatives (Robinson et al. 2021, section 3) on
    /// [`Inputs::Shared`](crate::Inputs::Shared): [`debiased`](Self::debiased) whose m = N − 2 negatives are weighted by
    /// e^{βz}/mean e^{βz}, mean over the N rows. The weights carry gradient. `beta` is β, the paper's 1 (0.5 to 2),
    /// `prior` is τ⁺, the paper's 0.1.
    ///
    /// # Errors
    /// [`Error::Scalar`] unless `temperature` is finite and greater than 0, `beta` is finite and at least 0, and
    /// `prior` is at least 0 and less than 1.
    pub fn hard_negatives(temperature: f32, beta: f32, prior: f32) -> Result<Self, Error> {
        let legal = beta.is_finite() && beta >= 0.0;
        within("beta", beta, "finite and at least 0", legal)?;
        let rule = match beta {
            0.0 => RowRule::Debiased { prior },
            beta => RowRule::HardNegatives { beta, prior },
        };
        Self::at(LOSS.name, Description::SHARED.with_rule(rule), temperature)
    }
}

/// The debiased loss of the weighted sum.
pub(super) fn row(logits: &RowLogits<Dual>, scale: Dual, prior: f32, row: &RowContext) -> Dual {
    let weighted = logits.negatives_lse - logits.second_lse + row.negatives.ln();
    debiased::row(weighted, logits.positive, scale, prior, row)
}
