//! Evaluates a trained encoder beside itself before training.

use super::augment::{ViewKey, augment_batch};
use super::config::RunConfig;
use super::data::{Dataset, ImageSet};
use super::error::RunError;
use super::evaluate::{self, Evaluation, Labelled, Subject, pixels, strided};
use super::platform::Platform;
use super::trainer::{TrainError, Trainer};
use crate::{CpuEngine, Rows};

/// Held-out images that collapse is checked on at most, because uniformity looks at all pairs.
const COLLAPSE_IMAGES: usize = 2048;
/// The step that the views of the collapse checks are drawn for: one that training never reaches.
const COLLAPSE_STEP: u64 = u64::MAX;

/// An encoder's features of both image sets.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    train: Vec<f32>,
    test: Vec<f32>,
    dim: usize,
}

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

    /// The held-out images' features with their labels.
    ///
    /// # Errors
    /// [`crate::Error`] when `dataset` is not the one that was encoded.
    pub fn held_out<'a>(&'a self, dataset: &'a Dataset) -> Result<Labelled<'a>, crate::Error> {
        labelled(&self.test, self.dim, &dataset.test)
    }
}

/// Every number that says what training was worth.
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
    let (train, test) = (&dataset.train, &dataset.test);
    let (pixels_train, pixels_test) = pixels::centred(train, test);
    let chosen = strided(test.len(), COLLAPSE_IMAGES);
    let embed = |view| {
        let mut images = vec![0.0f32; chosen.len() * test.image_len()];
        let key = ViewKey {
            seed: config.train.seed,
            step: COLLAPSE_STEP,
            view,
        };
        augment_batch(&config.augment, test, &chosen, key, &mut images)
            .map_err(TrainError::from)?;
        Ok::<_, RunError>(trainer.project(&images, chosen.len())?)
    };
    let (first, second) = (embed(0)?, embed(1)?);
    let dim = config.train.dim;
    let subject = Subject {
        trained_train: labelled(&trained.train, trained.dim, train)?,
        trained_test: trained.held_out(dataset)?,
        untrained_train: labelled(&untrained.train, untrained.dim, train)?,
        untrained_test: untrained.held_out(dataset)?,
        pixels_train: labelled(&pixels_train, train.image_len(), train)?,
        pixels_test: labelled(&pixels_test, test.image_len(), test)?,
        views: [
            Rows::new(&first, chosen.len(), dim)?,
            Rows::new(&second, chosen.len(), dim)?,
        ],
    };
    Ok(evaluate::evaluate(engine, subject)?)
}

fn labelled<'a>(
    features: &'a [f32],
    dim: usize,
    set: &'a ImageSet,
) -> Result<Labelled<'a>, crate::Error> {
    Ok(Labelled {
        features: Rows::new(features, set.len(), dim)?,
        labels: &set.labels,
    })
}
