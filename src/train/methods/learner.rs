//! What trains: a method with the state that outlives a step.

use std::fmt::Debug;

use burn::backend::Autodiff;
use burn::backend::autodiff::grads::Gradients;
use burn::tensor::backend::Backend;

use super::step::{Batch, LossReport};
use crate::losses::Loss;
use crate::train::encoder::Model;
use crate::train::error::TrainError;
use crate::train::image_set::ImageSet;
use crate::train::patches::PatchGrid;
use crate::train::platform::Platform;
use crate::{Contrast, KeyQueue, MemoryBank, Prototypes};

/// What a method is told about the run that starts.
#[derive(Debug)]
pub struct Run<'a, P: Platform> {
    /// Where it trains.
    pub platform: &'a P,
    /// The model before its first step.
    pub model: &'a Model<Autodiff<P::Backend>>,
    /// The row of the loss.
    pub loss: &'static Loss,
    /// τ.
    pub temperature: f32,
    /// The loss at this temperature.
    pub contrast: Contrast,
    /// D, the dimension of the embeddings.
    pub dim: usize,
    /// Seed of everything random.
    pub seed: u64,
    /// Passes over the training images.
    pub epochs: u64,
    /// Steps of the whole run.
    pub total_steps: u64,
    /// Training images.
    pub images: usize,
    /// Whether they have labels.
    pub has_labels: bool,
}

/// A method that trains a model, with the state that outlives a step.
pub trait Learner<P: Platform>: Debug {
    /// How many views a step takes of each image.
    fn views(&self) -> usize {
        2
    }

    /// What precedes the first step of an epoch, counted from 0. `images` are all training images,
    /// which `grid` cuts into patches.
    ///
    /// # Errors
    /// [`TrainError`] when the engine or the framework refuses.
    fn start_epoch(
        &mut self,
        _platform: &P,
        _epoch: u64,
        _images: &ImageSet,
        _grid: &PatchGrid,
    ) -> Result<(), TrainError> {
        Ok(())
    }

    /// Computes one step's loss and the gradients of `model`'s parameters. `upstream` multiplies the
    /// gradients, not the loss.
    ///
    /// # Errors
    /// [`TrainError`] when the engine or the framework refuses.
    fn step(
        &mut self,
        platform: &P,
        model: &Model<Autodiff<P::Backend>>,
        batch: Batch<'_>,
        upstream: f32,
    ) -> Result<(LossReport, Gradients), TrainError>;

    /// A copy of the state that outlives a step. The momentum encoder shares its running statistics
    /// with the learner.
    ///
    /// # Errors
    /// What the engine reports.
    fn state(&self, _platform: &P) -> Result<State<P::Backend>, TrainError> {
        Ok(State::default())
    }

    /// Takes up a state of the same run: what follows is as if the run had never stopped.
    ///
    /// # Errors
    /// [`TrainError::Resume`] when a part is missing or has another size.
    fn restore(&mut self, _platform: &P, _state: State<P::Backend>) -> Result<(), TrainError> {
        Ok(())
    }
}

/// The state of a method that outlives a step, as checkpoints store it. A method fills what it has.
#[derive(Debug)]
pub struct State<B: Backend> {
    /// The momentum encoder with its projection head.
    pub key: Option<Model<Autodiff<B>>>,
    /// Earlier keys, unit length.
    pub queue: Option<KeyQueue<f32>>,
    /// A row for each training image, unit length.
    pub bank: Option<MemoryBank<f32>>,
    /// A clustering of the training images for each granularity.
    pub prototypes: Vec<Prototypes>,
}

impl<B: Backend> Default for State<B> {
    fn default() -> Self {
        Self {
            key: None,
            queue: None,
            bank: None,
            prototypes: Vec::new(),
        }
    }
}

/// A part of a state, where it is there and `fits`.
pub(super) fn part<T>(
    name: &'static str,
    found: Option<T>,
    fits: impl FnOnce(&T) -> bool,
) -> Result<T, TrainError> {
    let missing = || TrainError::Resume {
        reason: format!("its {name} is missing or has another size"),
    };
    found.filter(fits).ok_or_else(missing)
}
