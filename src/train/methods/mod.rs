//! The training methods: what one step does between the images and the gradients.
//!
//! Each method encodes two augmented views, builds its contrast and has this crate's engine
//! compute loss and gradient. The optimiser, the data and the loop are the trainer's.

mod moco;
mod simclr;
#[cfg(test)]
mod tests;

pub use moco::{Moco, MocoState};
pub use simclr::SimClr;

use burn::backend::Autodiff;
use burn::backend::autodiff::grads::Gradients;

use super::bridge::LossReport;
use super::encoder::Model;
use super::patches::PatchGrid;
use super::platform::Platform;
use super::trainer::TrainError;
use crate::Contrast;
use crate::losses::RowContext;

/// Two views of a batch of images.
#[derive(Clone, Copy, Debug)]
pub struct Views<'a> {
    /// One view of each image, NCHW.
    pub first: &'a [f32],
    /// Another view of each image, in the same order.
    pub second: &'a [f32],
    /// How the encoder wants images cut.
    pub grid: &'a PatchGrid,
    /// The step, counted from 0.
    pub step: u64,
    /// Whether the step's report has contrastive top-1, which costs a search.
    pub wants_top1: bool,
}

impl Views<'_> {
    /// N, the number of images.
    pub fn images(&self) -> usize {
        self.first.len() / self.grid.image_len()
    }

    /// The first views as the second, and the second as the first.
    fn swapped(self) -> Self {
        Self {
            first: self.second,
            second: self.first,
            ..self
        }
    }
}

/// A training method with the state that outlives a step.
#[derive(Debug)]
pub enum Method<P: Platform> {
    /// Chen et al. 2020.
    SimClr(SimClr),
    /// He et al. 2020.
    Moco(Box<Moco<P>>),
}

impl<P: Platform> Method<P> {
    /// The loss.
    pub fn contrast(&self) -> &Contrast {
        match self {
            Self::SimClr(method) => &method.contrast,
            Self::Moco(method) => &method.contrast,
        }
    }

    /// One step's loss and the gradients of `model`'s parameters. `upstream` multiplies the
    /// gradient, not the loss.
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
            Self::SimClr(method) => method.step(platform, model, views, upstream),
            Self::Moco(method) => method.step(platform, model, views, upstream),
        }
    }
}

/// How many of `hits` are true, of all.
fn share(hits: impl ExactSizeIterator<Item = bool>) -> f32 {
    let rows = hits.len();
    hits.filter(|&hit| hit).count() as f32 / rows as f32
}

/// The mean loss where all logits are 0, as of an encoder that cannot tell candidates apart.
fn chance_loss(contrast: &Contrast, candidates: usize) -> f64 {
    let (rule, negatives) = (contrast.rule(), candidates - 1);
    let row = RowContext::new(rule, contrast.scale().into(), negatives, std::iter::empty());
    contrast.row_weight(1) * rule.values((negatives as f64).ln(), 0.0, &row).value
}
