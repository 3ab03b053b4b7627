//! The training loop: shuffles images into batches, draws views of each, takes a step and reports it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::backend::Autodiff;
use burn::module::AutodiffModule;
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::augment::{AugmentConfig, ViewKey, augment_batch, to_float};
use super::bridge;
use super::checkpoint::{self, Checkpoint};
pub use super::cpu::Cpu;
use super::data::Dataset;
use super::ema;
use super::encoder::{Model, ModelConfig};
pub use super::error::TrainError;
use super::image_set::ImageSet;
use super::methods::{Batch, Learner, LossReport, Run, View};
use super::metrics::{EpochRecord, StepRecord};
use super::patches::PatchGrid;
use super::platform::Platform;
use super::setting::number;
use super::sgd::Sgd;
pub use super::train_config::TrainConfig;

/// Images that evaluation encodes at a time.
const ENCODE_BATCH: usize = 256;
/// Temperature τ below which logits and gradients, of size 1/τ, drive weights out of range at any
/// usual learning rate.
const TINY_TEMPERATURE: f64 = 1e-3;
/// [`TINY_TEMPERATURE`] for losses that grow as powers of e^{z₊}.
const TINY_FOR_POWERS: f64 = 1e-2;
/// Contrastive top-1 is measured at every n-th step and at the last of an epoch, because it costs a
/// search among the candidates.
const TOP1_EVERY: u64 = 8;
/// The stream of the seed's generator that the order of images is drawn from.
const ORDER_STREAM: u64 = 2;

/// Receives the records of training.
pub trait Observer {
    /// After every step.
    fn step(&mut self, record: &StepRecord);
    /// After every epoch, once its checkpoint is written.
    fn epoch(&mut self, record: &EpochRecord);
}

/// How a run without an error ended. Its checkpoint is written in both cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All epochs are done.
    Finished,
    /// The flag to stop was set.
    Interrupted,
}

/// A model with everything that trains it.
#[derive(Debug)]
pub struct Trainer<P: Platform = Cpu> {
    platform: P,
    config: TrainConfig,
    augment: AugmentConfig,
    shape: ModelConfig,
    grid: PatchGrid,
    model: Model<Autodiff<P::Backend>>,
    learner: Box<dyn Learner<P>>,
    // On this task SGD with momentum learned faster per step than AdamW at its best rate.
    optimizer: Sgd<P::Backend>,
    steps_per_epoch: u64,
    /// Optimiser steps taken.
    step: u64,
    /// Multiplies the gradient of the loss.
    upstream: f32,
}

impl Trainer {
    /// As [`on`](Self::on), in host memory.
    ///
    /// # Errors
    /// As [`on`](Self::on).
    pub fn new(
        config: &TrainConfig,
        augment: &AugmentConfig,
        dataset: &Dataset,
    ) -> Result<Self, TrainError> {
        Self::on(Cpu::default(), config, augment, dataset)
    }
}

impl<P: Platform> Trainer<P> {
    /// A new, untrained model for the images of `dataset`, to be trained on `platform`. The seed
    /// determines everything random. In host memory it determines every number, with any number of
    /// threads.
    ///
    /// # Errors
    /// [`TrainError`] naming the setting that does not fit.
    pub fn on(
        platform: P,
        config: &TrainConfig,
        augment: &AugmentConfig,
        dataset: &Dataset,
    ) -> Result<Self, TrainError> {
        config.validate()?;
        augment.validate()?;
        let images = dataset.train.len();
        if images < config.batch {
            let batch = config.batch;
            return Err(TrainError::TooFewImages { images, batch });
        }
        let shape = config.model(&dataset.train);
        let model = shape.init(config.seed, &Default::default());
        let steps_per_epoch = (images / config.batch) as u64;
        let total_steps = config.epochs.saturating_mul(steps_per_epoch);
        let learner = config.method.start(&Run {
            platform: &platform,
            model: &model,
            loss: config.method.method().loss(&config.loss)?,
            temperature: config.temperature as f32,
            contrast: config.contrast()?,
            dim: config.dim,
            seed: config.seed,
            epochs: config.epochs,
            total_steps,
            images,
            has_labels: dataset.labels.is_some(),
        })?;
        Ok(Self {
            learner,
            optimizer: Sgd::new(config.weight_decay),
            platform,
            config: config.clone(),
            augment: augment.clone(),
            grid: shape.grid(),
            shape,
            model,
            steps_per_epoch,
            step: 0,
            upstream: 1.0,
        })
    }

    /// The control experiment: zeros replace the gradient of the loss. A check for improvement is
    /// void if such a run passes it.
    #[must_use]
    pub fn without_gradient(mut self) -> Self {
        self.upstream = 0.0;
        self
    }

    /// The model in its present state.
    pub fn model(&self) -> &Model<Autodiff<P::Backend>> {
        &self.model
    }

    /// The platform that it trains on.
    pub fn platform(&self) -> &P {
        &self.platform
    }

    /// Steps of the whole run. Each epoch skips the images after its last full batch (others each
    /// time), so that every step has equally many negatives.
    pub fn total_steps(&self) -> u64 {
        self.config.epochs.saturating_mul(self.steps_per_epoch)
    }

    /// Trains from where it stands, the first step or that of a checkpoint, to the last on the
    /// training images of `dataset`, the set that the trainer was made for, and reports to `observer`.
    /// Writes a checkpoint before its first step, after every epoch, and when `stop` is true, which is
    /// read before every step.
    ///
    /// # Errors
    /// [`TrainError`]. [`TrainError::NotFinite`] leaves the last good checkpoint in place.
    pub fn train(
        &mut self,
        dataset: &Dataset,
        observer: &mut dyn Observer,
        stop: &AtomicBool,
        checkpoint: &Path,
    ) -> Result<Outcome, TrainError> {
        let mut random = ChaCha8Rng::seed_from_u64(self.config.seed);
        random.set_stream(ORDER_STREAM);
        let mut order: Vec<usize> = (0..dataset.train.len()).collect();
        let epochs_done = self.step / self.steps_per_epoch;
        // Each epoch shuffles the order of the epoch before.
        (0..epochs_done).for_each(|_| order.shuffle(&mut random));
        self.save(checkpoint)?;
        let mut last_step = Instant::now();
        for epoch in epochs_done..self.config.epochs {
            let started = Instant::now();
            let saved_step = self.step;
            let (mut loss, mut top1, mut measured) = (0.0, 0.0, 0);
            order.shuffle(&mut random);
            let done = self.step % self.steps_per_epoch;
            let batches = order.chunks_exact(self.config.batch).skip(done as usize);
            for batch in batches {
                if stop.load(Ordering::Relaxed) {
                    self.save(checkpoint)?;
                    return Ok(Outcome::Interrupted);
                }
                if self.step.is_multiple_of(self.steps_per_epoch) {
                    let (learner, platform) = (&mut self.learner, &self.platform);
                    learner.start_epoch(platform, epoch, &dataset.train, &self.grid)?;
                }
                let learning_rate = self.config.rate_at(self.step, self.total_steps());
                let report = self.step(dataset, batch, learning_rate)?;
                if !report.loss.is_finite() {
                    return Err(self.not_finite(self.step + 1, saved_step, checkpoint)?);
                }
                self.step += 1;
                loss += report.loss;
                top1 += report.top1.unwrap_or_default();
                measured += usize::from(report.top1.is_some());
                let seconds = last_step.elapsed().as_secs_f64();
                last_step = Instant::now();
                observer.step(&StepRecord {
                    step: self.step,
                    epoch: epoch + 1,
                    loss: report.loss.into(),
                    top1: report.top1.map(f64::from),
                    chance_loss: report.chance_loss,
                    learning_rate,
                    images_per_second: batch.len() as f64 / seconds.max(1e-9),
                });
            }
            if !ema::is_finite(&self.model)? {
                return Err(self.not_finite(self.step, saved_step, checkpoint)?);
            }
            self.save(checkpoint)?;
            observer.epoch(&EpochRecord {
                epoch: epoch + 1,
                step: self.step,
                loss: (loss / (self.step - saved_step) as f32).into(),
                top1: (top1 / measured as f32).into(),
                seconds: started.elapsed().as_secs_f64(),
            });
        }
        Ok(Outcome::Finished)
    }

    /// One step on the training images `batch`. A loss that is not finite changes no weight.
    fn step(
        &mut self,
        dataset: &Dataset,
        batch: &[usize],
        learning_rate: f64,
    ) -> Result<LossReport, TrainError> {
        let draw = |view| {
            let key = ViewKey {
                seed: self.config.seed,
                step: self.step,
                view: view as u64,
            };
            augment_batch(&self.augment, &dataset.train, batch, key)
        };
        let drawn = (0..self.learner.views()).map(draw);
        let drawn = drawn.collect::<Result<Vec<_>, _>>()?;
        let view = |pixels| View {
            pixels,
            grid: &self.grid,
        };
        let views: Vec<_> = drawn.iter().map(|pixels| view(pixels)).collect();
        let labels = dataset.labels.as_ref();
        let labels: Option<Vec<u32>> =
            labels.map(|labels| batch.iter().map(|&image| labels.train[image]).collect());
        let batch = Batch {
            images: batch,
            labels: labels.as_deref(),
            views: &views,
            step: self.step,
            wants_top1: self.step.is_multiple_of(TOP1_EVERY)
                || (self.step + 1).is_multiple_of(self.steps_per_epoch),
        };
        let (report, gradients) =
            self.learner
                .step(&self.platform, &self.model, batch, self.upstream)?;
        if report.loss.is_finite() {
            let gradients = GradientsParams::from_grads(gradients, &self.model);
            let model = self.model.clone();
            self.model = self.optimizer.step(learning_rate, model, gradients);
        }
        Ok(report)
    }

    fn save(&self, path: &Path) -> Result<(), TrainError> {
        let checkpoint = Checkpoint {
            step: self.step,
            settings: self.settings()?,
            config: self.shape.clone(),
            model: self.model.clone(),
            velocity: self.optimizer.velocity(self.model.valid()),
            state: self.learner.state(&self.platform)?,
        };
        Ok(checkpoint::save(path, &checkpoint)?)
    }

    /// The settings as TOML, which keeps every digit.
    fn settings(&self) -> Result<String, TrainError> {
        let written = toml::to_string(&self.config);
        written.map_err(|error| TrainError::Resume {
            reason: error.to_string(),
        })
    }

    /// Checks that a checkpoint is of a run with these settings that has not ended.
    ///
    /// # Errors
    /// [`TrainError::Resume`] names the first setting that differs.
    pub fn fits(&self, checkpoint: &Checkpoint<P::Backend>) -> Result<(), TrainError> {
        let refuse = |reason| Err(TrainError::Resume { reason });
        let table = |text: &str| text.parse::<toml::Table>().unwrap_or_default();
        let (own, other) = (table(&self.settings()?), table(&checkpoint.settings));
        let keys = own.keys().chain(other.keys());
        for key in keys {
            let shown =
                |of: &toml::Table| of.get(key).map_or("absent".to_owned(), ToString::to_string);
            let (own, other) = (shown(&own), shown(&other));
            if own != other {
                return refuse(format!("its run had `{key}` {other}, not {own}"));
            }
        }
        if checkpoint.config != self.shape {
            return refuse("its images have another size".to_owned());
        }
        if checkpoint.step >= self.total_steps() {
            return refuse("its run has ended".to_owned());
        }
        Ok(())
    }

    /// Takes up the state of a checkpoint of a run with the same settings and data. What
    /// [`train`](Self::train) does then is, bit for bit, what that run would have done next.
    ///
    /// # Errors
    /// As [`fits`](Self::fits); [`TrainError::Resume`] when a part of its state is missing or has
    /// another size.
    pub fn resume(&mut self, checkpoint: Checkpoint<P::Backend>) -> Result<(), TrainError> {
        self.fits(&checkpoint)?;
        self.learner.restore(&self.platform, checkpoint.state)?;
        self.model = checkpoint.model;
        if let Some(velocity) = &checkpoint.velocity {
            self.optimizer.restore(velocity);
        }
        self.step = checkpoint.step;
        Ok(())
    }

    /// The error for a loss or weights that are not finite at `step`, with the likely cause. Pixels
    /// are finite and embeddings have length 1, so that logits stay within ±1/τ and the gradient of
    /// each within a few times that. Only too long a step drives weights or activations out of
    /// range.
    fn not_finite(
        &self,
        step: u64,
        saved_step: u64,
        checkpoint: &Path,
    ) -> Result<TrainError, TrainError> {
        let config = &self.config;
        let (temperature, decay) = (config.temperature, config.weight_decay);
        let rate = number(config.learning_rate);
        let tiny = match config.contrast()?.rule().grows_exponentially() {
            true => TINY_FOR_POWERS,
            false => TINY_TEMPERATURE,
        };
        let cause = if temperature < tiny {
            format!(
                "temperature {} makes logits of ±{:.0e} and gradients as large, it is likely too small",
                number(temperature),
                temperature.recip()
            )
        } else if decay > 1.0 && config.learning_rate * decay > 2.0 {
            // Each step multiplies weights by 1 − rate·decay, which grows them here.
            let decay = number(decay);
            format!("weight_decay {decay} is likely too high for learning_rate {rate}")
        } else if ema::is_finite(&self.model)? {
            format!("activations have overflowed, learning_rate {rate} is likely too high")
        } else {
            format!("the weights have overflowed, learning_rate {rate} is likely too high")
        };
        Ok(TrainError::NotFinite {
            step,
            cause,
            saved_step,
            checkpoint: checkpoint.to_path_buf(),
        })
    }
}

/// What evaluation asks of a trainer.
impl<P: Platform> Trainer<P> {
    /// Dimension of the features.
    pub fn feature_dim(&self) -> usize {
        self.config.widths.last().copied().unwrap_or_default()
    }

    /// Features of the unaugmented images of `set`, N × [`feature_dim`](Self::feature_dim) in its
    /// order.
    ///
    /// Batch normalisation uses running statistics. Before the first step those are 0 and 1 and
    /// would normalise nothing; the statistics of up to 256 images at a time replace them, because
    /// an untrained encoder without normalisation is too weak a baseline.
    ///
    /// # Errors
    /// [`TrainError::Argument`] when the images have another size than those trained on.
    pub fn encode(&self, set: &ImageSet) -> Result<Vec<f32>, TrainError> {
        let shape = &self.shape;
        if [set.height, set.width, set.channels] != [shape.height, shape.width, shape.channels] {
            let (height, width, channels) = (set.height, set.width, set.channels);
            return Err(TrainError::Argument {
                argument: "set",
                given: format!("images of {height} x {width} x {channels}"),
                allowed: "images of the size that the model was made for",
            });
        }
        let untrained = (self.step == 0).then(|| ema::detached_copy(&self.model));
        let trained = self.model.valid();
        let indices: Vec<usize> = (0..set.len()).collect();
        let mut features = Vec::with_capacity(set.len() * self.feature_dim());
        // Nearly equal batches, because a small last one would have poor statistics.
        let batches = set.len().div_ceil(ENCODE_BATCH).max(1);
        for batch in indices.chunks(set.len().div_ceil(batches).max(1)) {
            let (patches, count) = self.grid.tensor::<P::Backend>(&to_float(set, batch)?);
            let encoded = match &untrained {
                Some(model) => model
                    .encoder
                    .forward(Tensor::from_inner(patches), count)
                    .inner(),
                None => trained.encoder.forward(patches, count),
            };
            features.extend(bridge::into_floats(encoded)?);
        }
        Ok(features)
    }

    /// Unit-length embeddings, `count` × D, of `count` images (NCHW, as
    /// [`augment_batch`] writes them), normalised with running statistics.
    ///
    /// # Errors
    /// [`TrainError::Argument`] when `images` does not hold `count` images of the right size.
    pub fn project(&self, images: &[f32], count: usize) -> Result<Vec<f32>, TrainError> {
        let length = self.grid.image_len();
        if count == 0 || images.len() != count * length {
            return Err(TrainError::Argument {
                argument: "images",
                given: format!("{} values for {count} images", images.len()),
                allowed: "whole images of the size that the model was made for",
            });
        }
        let model = self.model.valid();
        bridge::embed(&self.platform, &model, &self.grid, images, ENCODE_BATCH)
    }
}
