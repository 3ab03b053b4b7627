//! Sampled softmax with log-Q correction (Yi et al. 2019, "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item
//! Recommendations").

use super::{Description, Loss};
use crate::contrast::Contrast;
use crate::error::Error;

pub(super) const LOSS: Loss = Loss {
    key: "sampled_softmax",
    name: "sampled softmax",
    source: "Yi et al. 2019, equations 3 to 5",
    formula: "softplus(lse⁻ − z₊), z_ij = s⟨q_i, k_j⟩ − log Q_j",
    temperature: 0.05,
    at: Contrast::sampled_softmax,
};

impl Contrast {
    /// The in-batch softmax of two-tower retrieval (Yi et al. 2019, equations 3 to 5) on
    /// [`Inputs::Pair`](crate::Inputs::Pair): queries q against the items k of the batch, mean over the N queries. Items
    /// come with probability Q_j, which popular ones have more of; the bias −log Q_j corrects every logit
    /// ([`with_column_bias`](crate::Problem::with_column_bias)). Ids of items keep another query's copy of a query's own
    /// item from being its negative ([`excluding`](crate::Problem::excluding)). Rewards are
    /// [row weights](crate::Problem::with_row_weights).
    ///
    /// # Errors
    /// [`Error::Scalar`] unless `temperature` is finite and greater than 0.
    ///
    /// ```
    /// use infonce::{Contrast, CpuEngine, Engine, Ids, Inputs, Rows};
    /// let (queries, items) = ([1.0f32, 0.0, 0.0, 1.0, 0.6, 0.8], [0.8f32, 0.6, -0.6, 0.8, 0.8, 0.6]);
    /// let (ids, bias) = ([7, 3, 7], [0.5f32, 0.25, 0.5].map(|q| -q.ln()));
    /// let inputs = Inputs::pair(Rows::new(&queries, 3, 2)?, Rows::new(&items, 3, 2)?);
    /// let problem = Contrast::sampled_softmax(0.05)?
    ///     .on(inputs)?
    ///     .excluding(Ids { anchors: &ids[..], candidates: &ids[..] })?
    ///     .with_column_bias(&bias)?;
    /// assert!(CpuEngine::new().forward(&problem)?.loss > 0.0);
    /// # Ok::<(), infonce::Error>(())
    /// ```
    pub fn sampled_softmax(temperature: f32) -> Result<Self, Error> {
        Self::at(LOSS.name, Description::PAIR, temperature)
    }
}
