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
    /// CPC itself scores c_tᵀ W_h x_{t+h} with a matrix W_h for each offset h and no temperature: q = C·W_h, k = the
    /// encodings x at that offset, τ = 1. Its loss is the mean over the offsets; dW_h = Cᵀ·dq.
    /// ```
    /// use infonce::{Contrast, CpuEngine, Engine, Gradients, Inputs, Rows, RowsMut};
    /// // Contexts after the first two of four steps of one sequence, and the encodings of all four steps.
    /// let (c, x) = ([[1.0f32, 0.5], [0.5, -1.0]], [0.5f32, 1.0, -1.0, 0.5, 1.0, 1.0, 0.5, -0.5]);
    /// let w = [[[1.0f32, 0.0], [0.0, 1.0]], [[0.5, 0.5], [-0.5, 0.5]]];
    /// let (contrast, mut loss, mut dw) = (Contrast::info_nce(1.0)?, 0.0, [[[0.0f32; 2]; 2]; 2]);
    /// for (h, w) in w.iter().enumerate() {
    ///     let q = c.map(|c| [0, 1].map(|d| c[0] * w[0][d] + c[1] * w[1][d])).concat();
    ///     let first = 2 * (h + 1);
    ///     let inputs = Inputs::pair(Rows::new(&q, 2, 2)?, Rows::new(&x[first..first + 4], 2, 2)?);
    ///     let mut dq = [0.0f32; 4];
    ///     let gradients = Gradients::new(RowsMut::new(&mut dq, 2, 2)?, None);
    ///     loss += CpuEngine::new().value_and_grad(&contrast.on(inputs)?, 0.5, gradients)?.loss / 2.0;
    ///     for (row, dq) in c.iter().zip(dq.chunks(2)) {
    ///         for (dw, c) in dw[h].iter_mut().zip(row) {
    ///             dw.iter_mut().zip(dq).for_each(|(dw, dq)| *dw += c * dq);
    ///         }
    ///     }
    /// }
    /// assert!(loss > 0.0);
    /// # Ok::<(), infonce::Error>(())
    /// ```
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
