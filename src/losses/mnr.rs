//! The multiple-negatives ranking loss (Henderson et al. 2017, "Efficient Natural Language Response Suggestion for Smart
//! Reply").

use super::{Description, Loss};
use crate::contrast::Contrast;
use crate::error::Error;

pub(super) const LOSS: Loss = Loss {
    key: "mnr",
    name: "MNR",
    source: "Henderson et al. 2017, section 4.4; sentence-transformers",
    formula: "softplus(lse⁻ − z₊)",
    temperature: 0.05,
    at: Contrast::mnr,
};

impl Contrast {
    /// The multiple-negatives ranking loss (Henderson et al. 2017, section 4.4) on
    /// [`Inputs::Pair`](crate::Inputs::Pair): [`info_nce`](Self::info_nce) of N queries against the answers of all
    /// queries, mean over the N queries. `MultipleNegativesRankingLoss` of sentence-transformers multiplies cosines by 20:
    /// rows of length 1, τ = 0.05. Its hard negatives are candidates after the first N, so that M > N.
    ///
    /// # Errors
    /// [`Error::Scalar`] unless `temperature` is finite and greater than 0.
    ///
    /// ```
    /// use infonce::{Contrast, CpuEngine, Engine, Inputs, Rows};
    /// let queries = [1.0f32, 0.0, 0.0, 1.0];
    /// // The answers of both, then a hard negative of each.
    /// let answers = [0.8f32, 0.6, -0.6, 0.8, 0.6, 0.8, 0.6, -0.8];
    /// let inputs = Inputs::pair(Rows::new(&queries, 2, 2)?, Rows::new(&answers, 4, 2)?);
    /// let value = CpuEngine::new().forward(&Contrast::mnr(0.05)?.on(inputs)?)?;
    /// assert!(value.loss > 0.0);
    /// # Ok::<(), infonce::Error>(())
    /// ```
    pub fn mnr(temperature: f32) -> Result<Self, Error> {
        Self::at(LOSS.name, Description::PAIR, temperature)
    }
}
