//! DeCLUTR's loss (Giorgi et al. 2021, "DeCLUTR: Deep Contrastive Learning for Unsupervised Textual Representations").

use super::{Description, Loss};
use crate::contrast::Contrast;
use crate::error::Error;

pub(super) const LOSS: Loss = Loss {
    key: "declutr",
    name: "DeCLUTR",
    source: "Giorgi et al. 2021, section 3.2",
    formula: "softplus(lse⁻ − z₊)",
    temperature: 0.05,
    at: Contrast::declutr,
};

impl Contrast {
    /// DeCLUTR's loss (Giorgi et al. 2021, section 3.2) on [`Inputs::Shared`](crate::Inputs::Shared): NT-Xent of spans of
    /// text, mean over the N rows. Row i of the first half is an anchor span's embedding, row i of the second the mean of
    /// the embeddings of its positive spans, normalised; the mean's gradient is shared equally by the spans. The paper
    /// sums over the rows: [`Reduction::Sum`](crate::Reduction::Sum).
    ///
    /// # Errors
    /// [`Error::Scalar`] unless `temperature` is finite and greater than 0.
    pub fn declutr(temperature: f32) -> Result<Self, Error> {
        Self::at(LOSS.name, Description::SHARED, temperature)
    }
}
