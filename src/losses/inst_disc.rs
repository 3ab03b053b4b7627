//! InstDisc's loss (Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination").

use super::{Description, Keys, Loss, RowRule};
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

pub(super) const NOISE: Loss = Loss {
    key: "inst_disc_nce",
    name: "InstDisc (NCE)",
    source: "Wu et al. 2018, section 3.2, all of the bank as noise",
    formula: "Σ⁻ softplus(z − ln Z) + softplus(ln Z − z₊)",
    temperature: 0.07,
    at: |temperature| Contrast::inst_disc_nce(temperature, 10.0),
};

impl Contrast {
    /// InstDisc's noise-contrastive estimate (Wu et al. 2018, section 3.2) on
    /// [`Inputs::Pair`](crate::Inputs::Pair), q, k and positives as of [`inst_disc`](Self::inst_disc): whether a row of the
    /// bank is the training example's own, h = σ(z − ln Z − ln(m/n)). The paper draws m of the n rows as noise; here all are,
    /// m = n. Z is estimated once and then kept: `log_z` is ln Z, of the first batch
    /// ln(mean_i Σ_j e^{z_ij}), which the statistics of a [`forward`](crate::Engine::forward) of `inst_disc` give.
    ///
    /// # Errors
    /// [`Error::Scalar`] unless `temperature` is finite and greater than 0 and `log_z` is finite.
    pub fn inst_disc_nce(temperature: f32, log_z: f32) -> Result<Self, Error> {
        let legal = log_z.is_finite();
        crate::error::within("log_z", log_z, "finite", legal)?;
        let description = Description {
            keys: Keys::Kept,
            ..Description::PAIR.with_rule(RowRule::Sigmoid { bias: -log_z })
        };
        Self::at(NOISE.name, description, temperature)
    }

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
