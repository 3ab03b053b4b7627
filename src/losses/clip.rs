//! CLIP's loss and its learnable scale (Radford et al. 2021, "Learning Transferable Visual Models From Natural
//! Language Supervision").

use super::{Description, Loss};
use crate::contrast::Contrast;
use crate::error::{Error, positive, within};

pub(super) const LOSS: Loss = Loss {
    key: "clip",
    name: "CLIP",
    source: "Radford et al. 2021, figure 3",
    formula: "softplus(lse⁻ − z₊)",
    temperature: 0.07,
    at: |temperature| Contrast::at(LOSS.name, Description::BOTH_WAYS, temperature),
};

impl Contrast {
    /// CLIP's symmetric loss (Radford et al. 2021, figure 3) on [`Inputs::Pair`](crate::Inputs::Pair) with
    /// N = M: half the mean InfoNCE loss of the logits' rows plus half that of their columns. Takes the scale s,
    /// not τ, because s is learned ([`LogScale`]).
    ///
    /// # Errors
    /// [`Error::Scalar`] unless `scale` is finite and greater than 0.
    pub fn clip(scale: f32) -> Result<Self, Error> {
        Self::new(LOSS.name, Description::BOTH_WAYS, positive("scale", scale)?)
    }
}

/// CLIP's learnable parameter log s (Radford et al. 2021, section 2.5).
///
/// The clamp to [0, ln 100], or to another largest scale, belongs **after** the optimiser's step: a
/// clamp in the forward pass would leave the parameter outside its range with a zero gradient.
///
/// ```
/// use infonce::losses::LogScale;
/// let mut log_scale = LogScale::from_temperature(0.07)?;
/// let contrast = log_scale.contrast()?;
/// // … value_and_grad gives dscale …
/// let dscale = 0.01;
/// log_scale.step(-0.1 * log_scale.gradient(dscale));
/// assert!(log_scale.scale() <= 100.0 && contrast.scale() > log_scale.scale());
/// # Ok::<(), infonce::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogScale {
    value: f32,
    max_scale: f32,
}

impl LogScale {
    /// CLIP's own largest scale: 100.
    pub const MAX_SCALE: f32 = 100.0;

    /// Starts at s = 1/temperature and stays at or below [`MAX_SCALE`](Self::MAX_SCALE); CLIP's own
    /// temperature at the start is 0.07.
    ///
    /// # Errors
    /// [`Error::Scalar`] unless `temperature` is finite and greater than 0.
    pub fn from_temperature(temperature: f32) -> Result<Self, Error> {
        Self::with_max_scale(temperature, Self::MAX_SCALE)
    }

    /// Starts at s = 1/temperature and stays at or below `max_scale`.
    ///
    /// # Errors
    /// [`Error::Scalar`] unless `temperature` is finite and greater than 0 and `max_scale` is finite
    /// and at least 1.
    pub fn with_max_scale(temperature: f32, max_scale: f32) -> Result<Self, Error> {
        let legal = max_scale.is_finite() && max_scale >= 1.0;
        within("max_scale", max_scale, "finite and at least 1", legal)?;
        let mut log_scale = Self {
            value: -positive("temperature", temperature)?.ln(),
            max_scale,
        };
        log_scale.step(0.0);
        Ok(log_scale)
    }

    /// log s.
    pub fn value(&self) -> f32 {
        self.value
    }

    /// s, at least 1 and at most the largest scale.
    pub fn scale(&self) -> f32 {
        self.value.exp().clamp(1.0, self.max_scale)
    }

    /// CLIP's contrast at the present scale.
    ///
    /// # Errors
    /// [`Error::Scalar`] when a step was not finite.
    pub fn contrast(&self) -> Result<Contrast, Error> {
        Contrast::clip(self.scale())
    }

    /// ∂loss/∂(log s) = s · ∂loss/∂s.
    pub fn gradient(&self, dscale: f32) -> f32 {
        self.scale() * dscale
    }

    /// Adds an optimiser's step and clamps to [0, ln of the largest scale].
    pub fn step(&mut self, delta: f32) {
        self.value = (self.value + delta).clamp(0.0, self.max_scale.ln());
    }
}
