//! InstDisc's loss (Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination").

use super::{Description, Keys, Loss};
use crate::contrast::Contrast;
use crate::error::Error;

pub(super) const LOSS: Loss = Loss {
    key: "inst_disc",
    name: "InstDisc",
    source: "Wu et al. 2018, equation 2",
    formula: "softplus(lse⁻ − z₊)",
    temperature: 0.07,
    at: Contrast::inst_disc,
};

impl Contrast {
    /// InstDisc's non-parametric softmax (Wu et al. 2018, equation 2) on [`Inputs::Pair`](crate::Inputs::Pair): the
    /// embeddings q of a batch against a whole [`MemoryBank`](crate::MemoryBank) k, which carries no gradient. The
    /// positive of a training example is its own row, [`Positives::Index`](crate::Positives::Index). The paper
    /// estimates this softmax by noise contrast; here it is computed in full.
    ///
    /// After the loss the batch's rows move towards its embeddings:
    /// ```
    /// use infonce::{Contrast, CpuEngine, Engine, Inputs, MemoryBank, Positives, Rows};
    /// let engine = CpuEngine::new();
    /// let mut bank = MemoryBank::<f32>::random(4, 2, 1)?;
    /// let (q, examples) = (Rows::new(&[1.0, 0.0, 0.0, 1.0], 2, 2)?, [3, 1]);
    /// let positives = Positives::Index(&examples[..]);
    /// let problem = Contrast::inst_disc(0.07)?.on(Inputs::Pair { q, k: bank.as_rows(), positives })?;
    /// let before = engine.forward(&problem)?.loss;
    ///
    /// engine.update_rows(bank.as_rows_mut(), &examples, q, 0.5)?;
    /// let problem = Contrast::inst_disc(0.07)?.on(Inputs::Pair { q, k: bank.as_rows(), positives })?;
    /// assert!(engine.forward(&problem)?.loss < before);
    /// # Ok::<(), infonce::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Scalar`] unless `temperature` is finite and greater than 0.
    pub fn inst_disc(temperature: f32) -> Result<Self, Error> {
        let description = Description {
            keys: Keys::Kept,
            ..Description::PAIR
        };
        Self::at(LOSS.name, description, temperature)
    }
}
