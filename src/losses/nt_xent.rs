//! NT-Xent (Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations").

use super::{Description, Loss};
use crate::contrast::Contrast;
use crate::error::Error;

pub(super) const LOSS: Loss = Loss {
    key: "nt_xent",
    name: "NT-Xent",
    source: "SimCLR, Chen et al. 2020, equation 1",
    formula: "softplus(lse⁻ − z₊)",
    temperature: 0.5,
    at: Contrast::nt_xent,
};

impl Contrast {
    /// NT-Xent of SimCLR (Chen et al. 2020, equation 1) on [`Inputs::Shared`](crate::Inputs::Shared):
    /// N rows, two views of N/2 images. The positive of row i is row (i + N/2) mod N. Every row excludes itself.
    /// The loss is the mean over the rows of −ln(e^{z₊}/(e^{z₊} + Σ e^{z⁻})).
    ///
    /// DeCLUTR's loss (Giorgi et al. 2021, section 3) is this at τ = 0.05: rows 0..N/2 are anchor spans, rows N/2..N the
    /// means of each anchor's positive spans. The paper sums over the rows:
    /// [`Reduction::Sum`](crate::Reduction::Sum).
    ///
    /// # Errors
    /// [`Error::Scalar`] unless `temperature` is finite and greater than 0.
    pub fn nt_xent(temperature: f32) -> Result<Self, Error> {
        Self::at(LOSS.name, Description::SHARED, temperature)
    }
}
