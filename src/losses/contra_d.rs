//! ContraD's loss of fakes (Jeong and Shin 2021, "Training GANs with Stronger Augmentations via Contrastive
//! Discriminator").

use super::{Description, Loss, sup_con};
use crate::contrast::{Contrast, Reduction};
use crate::error::Error;

pub(super) const LOSS: Loss = Loss {
    key: "contrad",
    name: "ContraD (fakes)",
    source: "Jeong and Shin 2021, equation 7",
    formula: "log Σ_all e^z − mean_P z, P the other fakes",
    temperature: 0.1,
    at: Contrast::contra_d,
};

impl Contrast {
    /// The loss of fakes in ContraD (Jeong and Shin 2021, equation 7) on
    /// [`Inputs::Labelled`](crate::Inputs::Labelled): SupCon of the generated images, whose positives are the other
    /// generated ones and whose negatives are the real ones, mean over the rows that have a positive. z has both views of
    /// the real images, then the generated ones. Real rows have the label [`NO_POSITIVE`](crate::NO_POSITIVE): they have
    /// no loss. The discriminator's whole loss is [`nt_xent`](Self::nt_xent) of the real rows plus λ times this, λ = 1.
    ///
    /// # Errors
    /// [`Error::Scalar`] unless `temperature` is finite and greater than 0.
    ///
    /// ```
    /// use infonce::{Contrast, CpuEngine, Engine, Inputs, NO_POSITIVE, Positives, Rows};
    /// // A real image's two views, then three fakes.
    /// let z = [1.0f32, 0.0, 0.8, 0.6, -1.0, 0.0, -0.8, 0.6, -0.6, 0.8];
    /// let labels = &[NO_POSITIVE, NO_POSITIVE, 0, 0, 0][..];
    /// let positives = Positives::Labels { anchors: labels, candidates: labels };
    /// let z = Rows::new(&z, 5, 2)?;
    /// let value = CpuEngine::new().forward(&Contrast::contra_d(0.1)?.on(Inputs::Labelled { z, positives })?)?;
    /// assert!(value.loss > 0.0);
    /// # Ok::<(), infonce::Error>(())
    /// ```
    pub fn contra_d(temperature: f32) -> Result<Self, Error> {
        let description = Description::LABELLED.with_rule(sup_con::OUTSIDE);
        let contrast = Self::at(LOSS.name, description, temperature)?;
        Ok(contrast.with_reduction(Reduction::MeanOfPositives))
    }
}
