//! The training methods: what one step does between the images and the gradients.
//!
//! Each method encodes two augmented views, builds its contrast and has this crate's engine
//! compute loss and gradient. The optimiser, the data and the loop are the trainer's.

mod moco;
mod simclr;

pub use moco::{Moco, MocoState};
pub use simclr::SimClr;

use burn::backend::Autodiff;
use burn::backend::autodiff::grads::Gradients;
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};

use super::bridge::LossReport;
use super::encoder::Model;
use super::patches::PatchGrid;
use super::trainer::TrainError;

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
}

impl Views<'_> {
    /// N, the number of images.
    pub fn images(&self) -> usize {
        self.first.len() / self.grid.image_len()
    }
}

/// A training method with the state that outlives a step.
#[derive(Debug)]
pub enum Method<B: Backend> {
    /// Chen et al. 2020.
    SimClr(SimClr),
    /// He et al. 2020.
    Moco(Box<Moco<B>>),
}

impl<B: Backend> Method<B> {
    /// One step's loss and the gradients of `model`'s parameters. `upstream` multiplies the
    /// gradient, not the loss.
    ///
    /// # Errors
    /// [`TrainError`] when the engine or the framework refuses.
    pub fn step(
        &mut self,
        model: &Model<Autodiff<B>>,
        views: Views<'_>,
        upstream: f32,
    ) -> Result<(LossReport, Gradients), TrainError> {
        match self {
            Self::SimClr(method) => method.step(model, views, upstream),
            Self::Moco(method) => method.step(model, views, upstream),
        }
    }
}

/// The patches of whole `images` as a tensor, and how many images there are.
pub(super) fn patches<B: Backend>(
    grid: &PatchGrid,
    images: &[f32],
    device: &B::Device,
) -> (Tensor<B, 2>, usize) {
    let count = images.len() / grid.image_len();
    let shape = [count * grid.patches(), grid.patch_len()];
    let data = TensorData::new(grid.cut(images), shape);
    (Tensor::from_data(data, device), count)
}
