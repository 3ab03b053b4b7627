//! Evaluates a trained encoder beside itself before training.

use super::augment::{ViewKey, augment_batch};
use super::config::RunConfig;
use super::data::{Dataset, Labels};
use super::error::RunError;
use super::evaluate::{
    self, Accuracies, Classified, CollapseChecks, Evaluation, Labelled, pixels, strided,
};
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

    /// The held-out images' features.
    ///
    /// # Errors
    /// [`crate::Error`] when there are none.
    pub fn held_out(&self) -> Result<Rows<'_, f32>, crate::Error> {
        Rows::new(&self.test, self.test.len() / self.dim, self.dim)
    }
}

/// Every number that says what training was worth. Images without labels have no accuracies.
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
    let view = |embeddings| Rows::new(embeddings, chosen.len(), config.train.dim);
    let accuracies = dataset
        .labels
        .as_ref()
        .map(|labels| classify(engine, dataset, labels, untrained, trained));
    Ok(Evaluation {
        train_images: dataset.train.len(),
        test_images: test.len(),
        accuracies: accuracies.transpose()?,
        collapse: CollapseChecks::of(view(&first)?, view(&second)?)?,
    })
}

fn classify(
    engine: &CpuEngine,
    dataset: &Dataset,
    labels: &Labels,
    untrained: &Features,
    trained: &Features,
) -> Result<Accuracies, crate::Error> {
    let (pixels_train, pixels_test) = pixels::centred(&dataset.train, &dataset.test);
    let pixels_dim = dataset.train.image_len();
    let subject = Classified {
        trained_train: labelled(&trained.train, trained.dim, &labels.train)?,
        trained_test: labelled(&trained.test, trained.dim, &labels.test)?,
        untrained_train: labelled(&untrained.train, untrained.dim, &labels.train)?,
        untrained_test: labelled(&untrained.test, untrained.dim, &labels.test)?,
        pixels_train: labelled(&pixels_train, pixels_dim, &labels.train)?,
        pixels_test: labelled(&pixels_test, pixels_dim, &labels.test)?,
    };
    evaluate::classify(engine, subject)
}

fn labelled<'a>(
    features: &'a [f32],
    dim: usize,
    labels: &'a [u32],
) -> Result<Labelled<'a>, crate::Error> {
    Ok(Labelled {
        features: Rows::new(features, labels.len(), dim)?,
        labels,
    })
}
