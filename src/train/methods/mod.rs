//! The training methods: from the images of a step to the gradients.
//!
//! Each method encodes two augmented views and builds its contrast; this crate's engine computes
//! loss and gradient. Optimiser, data and loop belong to the trainer.

mod moco;
mod simclr;
mod step;

pub use moco::{Moco, MocoState};
pub use step::{LossReport, Views};

use burn::backend::Autodiff;
use burn::backend::autodiff::grads::Gradients;

use super::encoder::Model;
use super::error::TrainError;
use super::platform::Platform;
use crate::Contrast;

/// A training method with the state that outlives a step.
#[derive(Debug)]
pub enum Method<P: Platform> {
    /// Chen et al. 2020, with a loss on [`Inputs::Shared`](crate::Inputs::Shared).
    SimClr(Contrast),
    /// He et al. 2020.
    Moco(Box<Moco<P>>),
}

impl<P: Platform> Method<P> {
    /// Computes one step's loss and the gradients of `model`'s parameters. `upstream` multiplies
    /// the gradients, not the loss.
    ///
    /// # Errors
    /// [`TrainError`] when the engine or the framework refuses.
    pub fn step(
        &mut self,
        platform: &P,
        model: &Model<Autodiff<P::Backend>>,
        views: Views<'_>,
        upstream: f32,
    ) -> Result<(LossReport, Gradients), TrainError> {
        match self {
            Self::SimClr(contrast) => simclr::step(contrast, platform, model, views, upstream),
            Self::Moco(method) => method.step(platform, model, views, upstream),
        }
    }
}

#[cfg(test)]
mod tests;
