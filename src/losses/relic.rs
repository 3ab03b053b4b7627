//! ReLIC's invariance term (Mitrovic et al. 2021, "Representation Learning via Invariant Causal Mechanisms").

use super::{Description, Keys, Loss, dino};
use crate::contrast::Contrast;
use crate::error::Error;

pub(super) const LOSS: Loss = Loss {
    key: "relic",
    name: "ReLIC",
    source: "Mitrovic et al. 2021, its invariance term",
    formula: "Σ_j t_j ln(t_j / softmax_j z), t of the other view",
    temperature: 0.1,
    at: Contrast::relic,
};

impl Contrast {
    /// The invariance term of ReLIC (Mitrovic et al. 2021) on [`Inputs::Targets`](crate::Inputs::Targets): the
    /// Kullback-Leibler divergence of a view's softmax over the candidates from the other view's, both at `temperature`.
    /// Anchors q of one view and u of the other meet the same candidates k = p, which carry no gradient here; the targets
    /// carry none either. The paper adds this term, times α, to [`info_nce`](Self::info_nce) of the same rows.
    ///
    /// # Errors
    /// [`Error::Scalar`] unless `temperature` is finite and greater than 0.
    pub fn relic(temperature: f32) -> Result<Self, Error> {
        let description = Description {
            keys: Keys::Constant,
            ..Description::TARGETS.with_rule(dino::rule("temperature", temperature, true)?)
        };
        Self::at(LOSS.name, description, temperature)
    }
}
