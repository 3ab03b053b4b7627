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
    /// # Errors
    /// [`Error::Scalar`] unless `temperature` is finite and greater than 0.
    pub fn sup_con(temperature: f32) -> Result<Self, Error> {
        let description = Description::LABELLED.with_rule(rule(SetForm::MeanOutside));
        Self::at(LOSS.name, description, temperature)
    }
}

/// Of a set: the three forms by their definitions, with log Σ_all e^z = lse⁺ + log(1 + e^{lse⁻ − lse⁺}).
pub(super) fn row(form: SetForm, smoothing: f32, logits: &RowLogits<Dual>) -> Dual {
    let (positives, negatives) = (logits.positives, logits.negatives);
    let all = logits.second_lse + (logits.negatives_lse - logits.second_lse).softplus();
    let sum = logits.positive * positives + logits.negatives_mean * negatives;
    match form {
        SetForm::MeanOutside => {
            let smoothing = f64::from(smoothing);
            let of_all = sum * (smoothing / (positives + negatives));
            all - logits.positive * (1.0 - smoothing) - of_all
        }
        SetForm::MeanInside => all - logits.second_lse + positives.ln(),
        SetForm::Decoupled => logits.negatives_lse - logits.positive,
    }
}
