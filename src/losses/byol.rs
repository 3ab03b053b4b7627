//! BYOL's loss (Grill et al. 2020, "Bootstrap Your Own Latent").

use super::{Description, Dual, Keys, Loss, RowRule};
use crate::contrast::Contrast;
use crate::error::Error;

pub(super) const LOSS: Loss = Loss {
    key: "byol",
    name: "BYOL",
    source: "Grill et al. 2020, equation 2",
    formula: "2 − 2⟨q, k₊⟩",
    temperature: 1.0,
    at: |_| Contrast::byol(),
};

impl Contrast {
    /// BYOL (Grill et al. 2020, equation 2) on [`Inputs::Pair`](crate::Inputs::Pair): 2 − 2⟨q_i, k₊⟩, of unit rows
    /// ‖q_i − k₊‖², mean over the N rows. q are the normalised predictions of a view, k the target network's normalised
    /// projections of the other, which carry no gradient. The paper adds the same of swapped views. There are no
    /// negatives: a call takes O((N + M)·D). SimSiam's loss (Chen and He 2021, equation 1) is a quarter of the symmetric
    /// sum, less 1; the alignment of Wang and Isola (2020) at α = 2 is this loss.
    ///
    /// # Errors
    /// None today.
    pub fn byol() -> Result<Self, Error> {
        let description = Description {
            keys: Keys::Constant,
            ..Description::PAIR.with_rule(RowRule::Alignment)
        };
        Self::at(LOSS.name, description, 1.0)
    }
}

/// 2 − 2z₊/s at a variable s, on which it does not depend in the end.
pub(super) fn row(positive: Dual, scale: Dual) -> Dual {
    Dual::constant(2.0) - positive * scale.recip() * 2.0
}
