//! MoCo v3's loss (Chen, Xie and He 2021, "An Empirical Study of Training Self-Supervised Vision Transformers").

use super::{Description, Keys, Loss};
use crate::contrast::Contrast;
use crate::error::Error;

pub(super) const LOSS: Loss = Loss {
    key: "moco_v3",
    name: "MoCo v3",
    source: "Chen, Xie and He 2021, algorithm 1",
    formula: "softplus(lse⁻ − z₊), times 2τ",
    temperature: 0.2,
    at: Contrast::moco_v3,
};

impl Contrast {
    /// `ctr` of MoCo v3 (Chen, Xie and He 2021, algorithm 1) on [`Inputs::Pair`](crate::Inputs::Pair): 2τ
    /// times InfoNCE of queries against the momentum encoder's keys of the batch, which carry no gradient.
    /// The paper's loss goes both ways over the views: `ctr(q1, k2) + ctr(q2, k1)`, two calls.
    ///
    /// # Errors
    /// [`Error::Scalar`] unless `temperature` is finite and greater than 0.
    pub fn moco_v3(temperature: f32) -> Result<Self, Error> {
        let description = Description {
            keys: Keys::Constant,
            factor: 2.0 * temperature,
            ..Description::PAIR
        };
        Self::at(LOSS.name, description, temperature)
    }
}
