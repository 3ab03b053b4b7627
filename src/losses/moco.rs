//! MoCo's loss (He et al. 2020, "Momentum Contrast for Unsupervised Visual Representation Learning").

use super::{Description, Loss};
use crate::contrast::Contrast;
use crate::error::Error;

pub(super) const LOSS: Loss = Loss {
    key: "moco",
    name: "MoCo",
    source: "He et al. 2020, equation 1",
    formula: "softplus(lse⁻ − z₊)",
    temperature: 0.07,
    at: Contrast::moco,
};

impl Contrast {
    /// MoCo's loss (He et al. 2020, equation 1) on [`Inputs::Queue`](crate::Inputs::Queue): each query against its
    /// own key (z₊) and all keys of the queue (z⁻), −ln(e^{z₊}/(e^{z₊} + Σ e^{z⁻})), mean over the N queries. Keys
    /// and queue carry no gradient.
    ///
    /// Every key of the queue is a negative, also a copy of an anchor's own key, unless
    /// [ids](crate::Problem::excluding) exclude it: enqueue a batch's keys after its loss.
    ///
    /// # Errors
    /// [`Error::Scalar`] unless `temperature` is finite and greater than 0.
    pub fn moco(temperature: f32) -> Result<Self, Error> {
        Self::at(LOSS.name, Description::QUEUE, temperature)
    }
}
