//! DINO's cross-entropy (Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers").

use super::{Description, Dual, Loss, RowLogits, RowRule};
use crate::contrast::Contrast;
use crate::error::{Error, inverse};

pub(super) const LOSS: Loss = Loss {
    key: "dino",
    name: "DINO",
    source: "Caron et al. 2021, equations 1 to 3 and algorithm 1",
    formula: "lse z − Σ_j t_j z_j, t = softmax(u/τ_t − c/τ_t)",
    temperature: 0.1,
    at: |temperature| Contrast::dino(temperature, 0.04),
};

/// The rule of targets at a temperature, which is the caller's `argument`.
pub(super) fn rule(
    argument: &'static str,
    temperature: f32,
    divergence: bool,
) -> Result<RowRule, Error> {
    let scale = inverse(argument, temperature)?;
    Ok(RowRule::SoftTargets { scale, divergence })
}

impl Contrast {
    /// DINO (Caron et al. 2021, algorithm 1) on [`Inputs::Targets`](crate::Inputs::Targets): the cross-entropy of the
    /// student's softmax over M prototypes, z_ij = ⟨q_i, k_j⟩/τ, against the teacher's,
    /// t_i = softmax_j((⟨u_i, p_j⟩ − c_j)/τ_t). q and k are the student's bottleneck features and the rows of its last
    /// layer, u and p the teacher's; dq and dk are the student's gradients. The centre c enters as
    /// [`Problem::with_target_bias`](crate::Problem::with_target_bias)(−c/τ_t), see [`Centre`](crate::Centre). The
    /// paper's τ is 0.1, its τ_t 0.04 to 0.07.
    ///
    /// The teacher sees two global views, the student all, and a view is not compared with itself. Student rows in the
    /// order first global, local …, second global make the first teacher view's problem their rows from B on, and the
    /// second's all but the last B: two strided views of one matrix, with N a multiple of the B targets.
    ///
    /// # Errors
    /// [`Error::Scalar`] unless both temperatures are finite and greater than 0.
    pub fn dino(temperature: f32, target_temperature: f32) -> Result<Self, Error> {
        let rule = rule("target_temperature", target_temperature, false)?;
        Self::at(LOSS.name, Description::TARGETS.with_rule(rule), temperature)
    }
}

/// The cross-entropy; less the targets' entropy it is the divergence.
pub(super) fn row(logits: &RowLogits<Dual>, divergence: bool) -> Dual {
    let cross_entropy = logits.negatives_lse - logits.positive;
    match divergence {
        true => cross_entropy - (logits.second_lse - logits.negatives_mean),
        false => cross_entropy,
    }
}
