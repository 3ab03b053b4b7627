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
    /// With in-batch negatives of a retrieval system (Yi et al. 2019, section 3) the logits are corrected by −ln Q_j,
    /// Q_j the probability that item j is in the batch, and other occurrences of an anchor's own item are left out:
    ///
    /// ```
    /// use infonce::{Contrast, CpuEngine, Engine, Ids, Inputs, Rows};
    /// let queries = [1.0f32, 0.0, 0.0, 1.0, 0.6, 0.8];
    /// let items = [0.8f32, 0.6, -0.6, 0.8, 0.8, 0.6];
    /// // The first and the last query have the same item.
    /// let ids = Ids { anchors: &[7, 3, 7][..], candidates: &[7, 3, 7] };
    /// let bias = [0.5f32, 0.1, 0.5].map(|probability| -probability.ln());
    /// let inputs = Inputs::pair(Rows::new(&queries, 3, 2)?, Rows::new(&items, 3, 2)?);
    /// let problem = Contrast::info_nce(0.05)?.on(inputs)?;
    /// let problem = problem.excluding(ids)?.with_column_bias(&bias)?;
    /// assert!(CpuEngine::new().forward(&problem)?.loss > 0.0);
    /// # Ok::<(), infonce::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Scalar`] unless `temperature` is finite and greater than 0.
    pub fn info_nce(temperature: f32) -> Result<Self, Error> {
        Self::at(LOSS.name, Description::PAIR, temperature)
    }
}
