//! SwAV's swapped prediction (Caron et al. 2020, "Unsupervised Learning of Visual Features by Contrasting Cluster
//! Assignments").

use super::{Description, Loss, dino};
use crate::contrast::Contrast;
use crate::error::Error;

pub(super) const LOSS: Loss = Loss {
    key: "swav",
    name: "SwAV",
    source: "Caron et al. 2020, equations 2 to 5",
    formula: "lse z − Σ_j t_j z_j, t of equipartition",
    temperature: 0.1,
    at: |temperature| Contrast::swav(temperature, 0.05),
};

impl Contrast {
    /// SwAV (Caron et al. 2020, equation 2) on [`Inputs::Targets`](crate::Inputs::Targets): the cross-entropy of a view's
    /// softmax over M prototypes against the other view's assignment, t_i = softmax_j(⟨u_i, p_j⟩/ε + g_j), in which g
    /// shares the batch equally among the prototypes: [`Equipartition`](crate::Equipartition) computes it, and
    /// [`Problem::with_target_bias`](crate::Problem::with_target_bias) takes it. q are the features of a view, u those of
    /// the other, k = p the prototypes, all unit rows. The paper's τ is 0.1, its ε 0.05.
    ///
    /// # Errors
    /// [`Error::Scalar`] unless `temperature` and `epsilon` are finite and greater than 0.
    pub fn swav(temperature: f32, epsilon: f32) -> Result<Self, Error> {
        let rule = dino::rule("epsilon", epsilon, false)?;
        Self::at(LOSS.name, Description::TARGETS.with_rule(rule), temperature)
    }
}
