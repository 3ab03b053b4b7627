//! CLIP's learnable scale.

use crate::contrast::Contrast;
use crate::error::{Error, positive};

/// log s of CLIP, the parameter that an optimiser sees (Radford et al. 2021, section 2.5).
///
/// The clamp to [0, ln 100] belongs **after** the optimiser's step: a clamp in the forward pass
/// would leave the parameter outside its range with a zero gradient.
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
pub struct LogScale(f32);

impl LogScale {
    /// The largest scale: 100.
    pub const MAX_SCALE: f32 = 100.0;

    /// Starts at s = 1/temperature; CLIP's own start is 0.07.
    ///
    /// # Errors
    /// [`Error::Scalar`] unless `temperature` is finite and greater than 0.
    pub fn from_temperature(temperature: f32) -> Result<Self, Error> {
        let mut log_scale = Self(-positive("temperature", temperature)?.ln());
        log_scale.step(0.0);
        Ok(log_scale)
    }

    /// log s.
    pub fn value(&self) -> f32 {
        self.0
    }

    /// s, at most 100.
    pub fn scale(&self) -> f32 {
        self.0.exp().clamp(1.0, Self::MAX_SCALE)
    }

    /// The contrast at the present scale.
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

    /// Adds an optimiser's step and clamps to [0, ln 100].
    pub fn step(&mut self, delta: f32) {
        self.0 = (self.0 + delta).clamp(0.0, Self::MAX_SCALE.ln());
    }
}
