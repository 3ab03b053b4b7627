//! Evaluates a trained encoder beside two baselines: its untrained state, and pixels.

use super::augment::{ViewKey, augment_batch};
use super::config::RunConfig;
use super::data::Dataset;
use super::error::TrainError;
use super::evaluate::{self, CollapseChecks, Evaluation, Features, pixels, strided};
use super::platform::Platform;
use super::run_error::RunError;
use super::trainer::Trainer;
use crate::{CpuEngine, Rows};

/// Maximum number of held-out images in the collapse checks; uniformity compares all pairs.
const COLLAPSE_IMAGES: usize = 2048;
/// The step whose views the collapse checks draw; training never reaches it.
const COLLAPSE_STEP: u64 = u64::MAX;

impl Features {
    /// Encodes all training and held-out images.
    ///
    /// # Errors
    /// What the encoder reports.
    pub fn of<P: Platform>(trainer: &Trainer<P>, dataset: &Dataset) -> Result<Self, RunError> {
        Ok(Self {
            train: trainer.encode(&dataset.train)?,
            test: trainer.encode(&dataset.test)?,
            dim: trainer.feature_dim(),
        })
    }
}

/// Computes accuracies and collapse checks of a trained encoder. Without labels there are no accuracies.
///
/// # Errors
/// [`RunError`] when something cannot be encoded or does not fit together.
pub fn judge<P: Platform>(
    engine: &CpuEngine,
    trainer: &Trainer<P>,
    config: &RunConfig,
    dataset: &Dataset,
    untrained: &Features,
    trained: &Features,
) -> Result<Evaluation, RunError> {
    let test = &dataset.test;
    let chosen = strided(test.len(), COLLAPSE_IMAGES);
    let embed = |view| {
        let key = ViewKey {
            seed: config.train.seed,
            step: COLLAPSE_STEP,
            view,
        };
        let images =
            augment_batch(&config.augment, test, &chosen, key).map_err(TrainError::from)?;
        Ok::<_, RunError>(trainer.project(&images, chosen.len())?)
    };
    let (first, second) = (embed(0)?, embed(1)?);
    let view = |embeddings| Rows::new(embeddings, chosen.len(), config.train.dim);
    let accuracies = dataset.labels.as_ref().map(|labels| {
        let pixels = pixels::centred(&dataset.train, &dataset.test);
        evaluate::classify(engine, labels, trained, untrained, &pixels)
    });
    Ok(Evaluation {
        train_images: dataset.train.len(),
        test_images: test.len(),
        accuracies: accuracies.transpose()?,
        collapse: CollapseChecks::of(engine, view(&first)?, view(&second)?)?,
    })
}
