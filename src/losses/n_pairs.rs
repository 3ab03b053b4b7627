//! The N-pair loss (Sohn 2016, "Improved Deep Metric Learning with Multi-class N-pair Loss Objective").

use super::{Description, Loss};
use crate::contrast::Contrast;
use crate::error::Error;

pub(super) const LOSS: Loss = Loss {
    key: "n_pairs",
    name: "N-pairs",
    source: "Sohn 2016, section 3.2; rows not normalised",
    formula: "softplus(lse⁻ − z₊)",
    temperature: 1.0,
    at: Contrast::n_pairs,
};

impl Contrast {
    /// The N-pair loss (N-pair-mc of Sohn 2016, section 3.2; time-contrastive networks, Sermanet et al. 2018) on
    /// [`Inputs::Pair`](crate::Inputs::Pair): InfoNCE, ln(1 + Σ e^{z⁻ − z₊}), at temperature 1 in the paper, of rows
    /// that are not normalised. The batch's pairs are of different classes.
    ///
    /// Instead the paper keeps rows short by an L2 term, which is not part of this loss. TensorFlow's `npairs_loss`
    /// adds λ/4·(mean ‖q_i‖² + mean ‖k_j‖²), with λ = 0.002. Its gradients are λ/(2N)·q and λ/(2M)·k, to which the
    /// call adds:
    /// ```
    /// use infonce::{Contrast, CpuEngine, Engine, Gradients, Inputs, Rows, RowsMut};
    ///
    /// let (q, k) = ([1.0f32, 0.5, -0.5, 2.0], [0.5f32, 1.0, -1.0, 1.0]);
    /// let share = 0.002 / (2.0 * 2.0);
    /// let (mut dq, mut dk) = (q.map(|x| share * x), k.map(|x| share * x));
    /// let problem = Contrast::n_pairs(1.0)?.on(Inputs::pair(Rows::new(&q, 2, 2)?, Rows::new(&k, 2, 2)?))?;
    /// let gradients = Gradients::new(RowsMut::new(&mut dq, 2, 2)?, Some(RowsMut::new(&mut dk, 2, 2)?));
    /// let value = CpuEngine::new().value_and_grad(&problem, 1.0, gradients.accumulating())?;
    /// let squares: f32 = q.iter().chain(&k).map(|x| x * x).sum();
    /// let loss = value.loss + 0.002 / 4.0 * squares / 2.0;
    /// assert!(loss > value.loss && dq[0] != 0.0);
    /// # Ok::<(), infonce::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Scalar`] unless `temperature` is finite and greater than 0.
    pub fn n_pairs(temperature: f32) -> Result<Self, Error> {
        Self::at(LOSS.name, Description::PAIR, temperature)
    }
}
