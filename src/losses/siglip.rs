//! SigLIP's sigmoid loss (Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training").

use super::{Description, Dual, Loss, RowLogits, RowRule};
use crate::contrast::Contrast;
use crate::error::Error;

pub(super) const LOSS: Loss = Loss {
    key: "siglip",
    name: "SigLIP",
    source: "Zhai et al. 2023, section 3.2 and algorithm 1",
    formula: "Σ⁻ softplus(z + b) + Σ_P softplus(−z − b)",
    temperature: 0.1,
    at: |temperature| Contrast::siglip(temperature, -10.0),
};

impl Contrast {
    /// SigLIP (Zhai et al. 2023, algorithm 1) on [`Inputs::Pair`](crate::Inputs::Pair): Σ_ij softplus(−y_ij(z_ij + b))/N,
    /// y_ij = 1 for a positive and −1 for all others; the sum is divided by N, not by N·M. Positives are the diagonal as
    /// published, or any set: labels or lists of several captions of an image. Rows without a positive have a loss, so
    /// shards of candidates add up: a shard's is [`Positives::Offset`](crate::Positives::Offset).
    ///
    /// The paper starts at a temperature of 0.1 and a `bias` of −10 and learns both: s by
    /// [`Problem::with_scale`](crate::Problem::with_scale), b by
    /// [`Problem::with_logit_bias`](crate::Problem::with_logit_bias), with ∂loss/∂b in
    /// [`Gradients::dbias`](crate::Gradients::dbias), 1 × 1.
    ///
    /// # Errors
    /// [`Error::Scalar`] unless `temperature` is finite and greater than 0 and `bias` is finite.
    ///
    /// ```
    /// use infonce::{Contrast, CpuEngine, Engine, Gradients, Inputs, Rows, RowsMut};
    /// let (q, k) = (Rows::new(&[1.0f32, 0.0, 0.0, 1.0], 2, 2)?, Rows::new(&[1.0, 0.0, 0.6, 0.8], 2, 2)?);
    /// let ([mut dq, mut dk], mut db) = ([[0.0f32; 4]; 2], [0.0f32]);
    /// let gradients = Gradients::new(RowsMut::new(&mut dq, 2, 2)?, Some(RowsMut::new(&mut dk, 2, 2)?));
    /// let gradients = gradients.with_bias(RowsMut::new(&mut db, 1, 1)?);
    /// let problem = Contrast::siglip(0.1, -10.0)?.on(Inputs::pair(q, k))?;
    /// let value = CpuEngine::new().value_and_grad(&problem, 1.0, gradients)?;
    /// // z + b = 0, −4, −10 and −2, the first and the last of positives: σ(0), σ(2), σ(−4), σ(−10).
    /// let expected = (-0.5 - 0.880797 + 0.0179862 + 0.0000454) / 2.0;
    /// assert!((db[0] - expected).abs() < 1e-6 && value.loss > 0.0);
    /// # Ok::<(), infonce::Error>(())
    /// ```
    pub fn siglip(temperature: f32, bias: f32) -> Result<Self, Error> {
        let rule = RowRule::Sigmoid { bias };
        Self::at(LOSS.name, Description::PAIR.with_rule(rule), temperature)
    }
}

/// Of the logarithm of the sum.
pub(super) fn row(logits: &RowLogits<Dual>) -> Dual {
    logits.negatives_lse.exp()
}
