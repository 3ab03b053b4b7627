//! Softmax with an additive margin, both ways (Yang et al. 2019, "Improving Multilingual Sentence Embedding
//! using Bi-directional Dual Encoder with Additive Margin Softmax").

use super::{Description, Dual, Loss, RowRule};
use crate::contrast::Contrast;
use crate::error::Error;

pub(super) const LOSS: Loss = Loss {
    key: "additive_margin",
    name: "additive margin",
    source: "Yang et al. 2019, section 2",
    formula: "softplus(lse⁻ − z₊ + margin)",
    temperature: 0.05,
    // 0.3 in cosines.
    at: |temperature| Contrast::additive_margin(temperature, 0.3 / temperature),
};

impl Contrast {
    /// Softmax with an additive margin (Yang et al. 2019, section 2) on
    /// [`Inputs::Pair`](crate::Inputs::Pair) with N = M: CLIP's loss with z₊ − `margin` in place of z₊, half
    /// the mean of the rows plus half the mean of the columns. The margin is in logits: divide that of a cosine
    /// (AM-Softmax, CosFace; 0.3 in the paper) by the temperature.
    ///
    /// # Errors
    /// [`Error::Scalar`] unless `temperature` is finite and greater than 0 and `margin` is finite.
    pub fn additive_margin(temperature: f32, margin: f32) -> Result<Self, Error> {
        let rule = RowRule::Softmax { margin };
        Self::at(
            LOSS.name,
            Description::BOTH_WAYS.with_rule(rule),
            temperature,
        )
    }
}

/// −ln(e^{z₊ − margin}/(e^{z₊ − margin} + e^{lse⁻})).
pub(super) fn row(lse: Dual, z: Dual, margin: f32) -> Dual {
    (lse - (z - f64::from(margin))).softplus()
}
