//! Decoupled contrastive learning (Yeh et al. 2022, "Decoupled Contrastive Learning").

use super::{Description, Dual, Loss, RowContext, RowRule};
use crate::contrast::Contrast;
use crate::error::Error;

pub(super) const LOSS: Loss = Loss {
    key: "dcl",
    name: "DCL",
    source: "Yeh et al. 2022, equation 6",
    formula: "lse⁻ − z₊",
    temperature: 0.1,
    at: Contrast::dcl,
};

pub(super) const WEIGHTED: Loss = Loss {
    key: "dclw",
    name: "DCLW",
    source: "Yeh et al. 2022, its weighted form",
    formula: "lse⁻ − w z₊, w = 2 − e^{z₊/(sσ)}/mean_i e^{z₊/(sσ)}, constant",
    temperature: 0.1,
    at: |temperature| Contrast::dclw(temperature, 0.5),
};

impl Contrast {
    /// DCL (Yeh et al. 2022, equation 6) on [`Inputs::Shared`](crate::Inputs::Shared): NT-Xent with the
    /// positive left out of the denominator, lse⁻ − z₊, mean over the N rows. It can be negative.
    ///
    /// # Errors
    /// [`Error::Scalar`] unless `temperature` is finite and greater than 0.
    pub fn dcl(temperature: f32) -> Result<Self, Error> {
        let rule = RowRule::Decoupled { sigma: None };
        Self::at(LOSS.name, Description::SHARED.with_rule(rule), temperature)
    }

    /// DCLW (Yeh et al. 2022, section 3): [`dcl`](Self::dcl) whose positive's logit is multiplied by
    /// w_i = 2 − exp(z₊/(sσ)) / mean exp(z₊/(sσ)), the mean over the rows, s = 1/τ. w carries no gradient. The
    /// paper's σ is 0.5.
    ///
    /// # Errors
    /// [`Error::Scalar`] unless `temperature` and `sigma` are finite and greater than 0.
    pub fn dclw(temperature: f32, sigma: f32) -> Result<Self, Error> {
        let rule = RowRule::Decoupled { sigma: Some(sigma) };
        Self::at(
            WEIGHTED.name,
            Description::SHARED.with_rule(rule),
            temperature,
        )
    }
}

/// lse⁻ − w z₊.
pub(super) fn row(lse: Dual, z: Dual, sigma: Option<f32>, row: &RowContext) -> Dual {
    let similarity = z.value / row.scale;
    let weight = match sigma {
        Some(sigma) => 2.0 - (similarity / f64::from(sigma) - row.log_mean).exp(),
        None => 1.0,
    };
    lse - z * weight
}
