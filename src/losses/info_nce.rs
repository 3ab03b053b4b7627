//! InfoNCE, one way (van den Oord et al. 2018, "Representation Learning with Contrastive Predictive Coding").

use super::{Description, Loss};
use crate::contrast::Contrast;
use crate::error::Error;

pub(super) const LOSS: Loss = Loss {
    key: "info_nce",
    name: "InfoNCE",
    source: "CPC, van den Oord et al. 2018, equation 4",
    formula: "softplus(lse⁻ − z₊)",
    temperature: 0.07,
    at: Contrast::info_nce,
};

impl Contrast {
    /// One-way InfoNCE (van den Oord et al. 2018, equation 4) on [`Inputs::Pair`](crate::Inputs::Pair): anchors q
    /// against candidates k, −ln(e^{z₊}/(e^{z₊} + Σ e^{z⁻})), mean over the N anchors.
    ///
    /// # Errors
    /// [`Error::Scalar`] unless `temperature` is finite and greater than 0.
    pub fn info_nce(temperature: f32) -> Result<Self, Error> {
        Self::at(LOSS.name, Description::PAIR, temperature)
    }
}
