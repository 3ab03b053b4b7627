//! GraphCL's loss (You et al. 2020, "Graph Contrastive Learning with Augmentations").

use super::{Description, Loss, RowRule};
use crate::contrast::Contrast;
use crate::error::Error;

pub(super) const LOSS: Loss = Loss {
    key: "graphcl",
    name: "GraphCL",
    source: "You et al. 2020, equation 3",
    formula: "lse⁻ − z₊",
    temperature: 0.2,
    at: Contrast::graph_cl,
};

impl Contrast {
    /// GraphCL's loss (You et al. 2020, equation 3) on [`Inputs::Pair`](crate::Inputs::Pair): one view against the
    /// other views of the batch, −ln(e^{z₊}/Σ e^{z⁻}) without the positive in the denominator, mean over the N rows.
    /// It can be negative.
    ///
    /// # Errors
    /// [`Error::Scalar`] unless `temperature` is finite and greater than 0.
    pub fn graph_cl(temperature: f32) -> Result<Self, Error> {
        let rule = RowRule::Decoupled { sigma: None };
        Self::at(LOSS.name, Description::PAIR.with_rule(rule), temperature)
    }
}
