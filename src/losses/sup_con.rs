//! Supervised contrastive learning (Khosla et al. 2020, "Supervised Contrastive Learning").

use super::{Description, Dual, Loss, RowLogits, RowRule, SetForm};
use crate::contrast::Contrast;
use crate::error::Error;

pub(super) const LOSS: Loss = Loss {
    key: "supcon",
    name: "SupCon",
    source: "Khosla et al. 2020, equation 2",
    formula: "log Σ_all e^z − mean_P z",
    temperature: 0.1,
    at: Contrast::sup_con,
};

pub(super) const INSIDE: Loss = Loss {
    key: "supcon_in",
    name: "SupCon (in)",
    source: "Khosla et al. 2020, equation 3",
    formula: "log Σ_all e^z − log mean_P e^z",
    temperature: 0.1,
    at: |temperature| {
        let description = Description::LABELLED.with_rule(rule(SetForm::MeanInside));
        Contrast::at(INSIDE.name, description, temperature)
    },
};

/// L_out's.
pub(super) const OUTSIDE: RowRule = rule(SetForm::MeanOutside);

const fn rule(form: SetForm) -> RowRule {
    RowRule::Sets {
        form,
        smoothing: 0.0,
    }
}

impl Contrast {
    /// SupCon (Khosla et al. 2020, L_out of equation 2) on [`Inputs::Labelled`](crate::Inputs::Labelled): the mean
    /// over a row's positives P, all other rows of its label, of −log(e^{z₊}/Σ e^z), the sum over all other rows. Mean
    /// over the N rows; a row without a positive has loss 0. [`Reduction::MeanOfPositives`](crate::Reduction) leaves
    /// such rows out of the mean. The paper's code multiplies by τ/0.07; this does not.
    ///
    /// ContraD (Jeong and Shin 2021, section 3) is two calls: [`nt_xent`](Self::nt_xent) of two views of the
    /// real images, and this loss of real and fake images, in which fakes have one label and reals have
    /// [`NO_POSITIVE`](crate::NO_POSITIVE): reals are candidates without a loss of their own.
    ///
    /// # Errors
    /// [`Error::Scalar`] unless `temperature` is finite and greater than 0.
    ///
    /// ```
    /// use infonce::{Contrast, CpuEngine, Engine, Inputs, NO_POSITIVE, Positives, Reduction, Rows};
    /// // Two views of a real image, then two fake images.
    /// let z = [1.0f32, 0.0, 0.8, 0.6, 0.0, 1.0, -0.6, 0.8];
    /// let (z, reals) = (Rows::new(&z, 4, 2)?, Rows::new(&z[..4], 2, 2)?);
    /// let labels = &[NO_POSITIVE, NO_POSITIVE, 0, 0][..];
    /// let positives = Positives::Labels { anchors: labels, candidates: labels };
    /// let of_reals = Contrast::nt_xent(0.1)?.on(Inputs::Shared { z: reals })?;
    /// let of_fakes = Contrast::sup_con(0.1)?.with_reduction(Reduction::MeanOfPositives);
    /// let of_fakes = of_fakes.on(Inputs::Labelled { z, positives })?;
    /// let engine = CpuEngine::new();
    /// let loss = engine.forward(&of_reals)?.loss + engine.forward(&of_fakes)?.loss;
    /// assert!(loss > 0.0);
    /// # Ok::<(), infonce::Error>(())
    /// ```
    pub fn sup_con(temperature: f32) -> Result<Self, Error> {
        Self::at(LOSS.name, Description::LABELLED.with_rule(OUTSIDE), temperature)
    }
}

/// Of a set: the three forms by their definitions, with log Σ_all e^z = lse⁺ + log(1 + e^{lse⁻ − lse⁺}).
pub(super) fn row(form: SetForm, smoothing: f32, logits: &RowLogits<Dual>) -> Dual {
    let (positives, negatives) = (logits.positives, logits.negatives);
    let excess = (logits.negatives_lse - logits.second_lse).softplus();
    let sum = logits.positive * positives + logits.negatives_mean * negatives;
    match form {
        SetForm::MeanOutside => {
            let smoothing = f64::from(smoothing);
            let of_all = sum * (smoothing / (positives + negatives));
            excess + logits.second_lse - logits.positive * (1.0 - smoothing) - of_all
        }
        SetForm::MeanInside => excess + positives.ln(),
        SetForm::Decoupled => logits.negatives_lse - logits.positive,
    }
}
