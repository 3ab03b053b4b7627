//! k-positive contrastive learning (Kang et al. 2021, "Exploring Balanced Feature Spaces for Representation Learning").

use super::{Description, Loss, sup_con};
use crate::contrast::Contrast;
use crate::error::Error;

pub(super) const LOSS: Loss = Loss {
    key: "kcl",
    name: "KCL",
    source: "Kang et al. 2021, its k-positive loss",
    formula: "log Σ_all e^z − mean_P z, P of k + 1 rows",
    temperature: 0.07,
    at: Contrast::kcl,
};

impl Contrast {
    /// KCL (Kang et al. 2021) on [`Inputs::Labelled`](crate::Inputs::Labelled): SupCon's loss, mean over
    /// the N rows, of a row's other view and k rows drawn from its class, so that large classes weigh no more than small
    /// ones. The denominator has all other rows, also those of the class that are not drawn. The caller draws, and gives
    /// [`Positives::Lists`](crate::Positives::Lists); the paper's k is 6.
    ///
    /// # Errors
    /// [`Error::Scalar`] unless `temperature` is finite and greater than 0.
    ///
    /// ```
    /// use infonce::{Contrast, CpuEngine, Engine, Inputs, Positives, Rows};
    /// // Rows 0 and 2 are two views, and so are rows 1 and 3; all are of one class, of which k = 1 row is drawn.
    /// let z = [1.0f32, 0.0, 0.0, 1.0, 0.8, 0.6, -0.6, 0.8];
    /// let positives = Positives::Lists {
    ///     starts: &[0, 2, 4, 6, 8][..],
    ///     candidates: &[1, 2, 2, 3, 0, 3, 0, 1],
    /// };
    /// let z = Rows::new(&z, 4, 2)?;
    /// let problem = Contrast::kcl(0.5)?.on(Inputs::Labelled { z, positives })?;
    /// assert!(CpuEngine::new().forward(&problem)?.loss > 0.0);
    /// # Ok::<(), infonce::Error>(())
    /// ```
    pub fn kcl(temperature: f32) -> Result<Self, Error> {
        Self::at(LOSS.name, Description::LABELLED.with_rule(sup_con::OUTSIDE), temperature)
    }
}
