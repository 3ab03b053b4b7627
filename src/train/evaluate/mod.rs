//! What training was worth: held-out accuracy beside two baselines, collapse checks, a picture.
//!
//! Everything here works on plain matrices, so that it can judge any encoder.

pub mod collapse;
pub mod knn;
pub mod linear_probe;
pub mod pixels;
pub mod projection;

use serde::{Deserialize, Serialize};

use crate::{CpuEngine, Matrix, Rows};
pub use collapse::{CollapseChecks, Verdict};
pub use knn::Labelled;
pub use projection::Point;

/// Points in the picture of embeddings at most, because exact t-SNE costs their square.
const PICTURE_POINTS: usize = 1024;

/// What kNN and the linear probe judge: features of the same images, in the same order, three times.
#[derive(Debug, Clone, Copy)]
pub struct Classified<'a> {
    /// The trained encoder's features of the training images.
    pub trained_train: Labelled<'a>,
    /// The trained encoder's features of the held-out images.
    pub trained_test: Labelled<'a>,
    /// Features of the training images by the same encoder before its first step.
    pub untrained_train: Labelled<'a>,
    /// Features of the held-out images by the same encoder before its first step.
    pub untrained_test: Labelled<'a>,
    /// The training images themselves, one row of pixels each.
    pub pixels_train: Labelled<'a>,
    /// The held-out images themselves.
    pub pixels_test: Labelled<'a>,
}

/// What a finished run was worth.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Training images.
    pub train_images: usize,
    /// Held-out images.
    pub test_images: usize,
    /// What takes labels; `None` for images without.
    #[serde(flatten)]
    pub accuracies: Option<Accuracies>,
    /// Whether embeddings collapsed.
    pub collapse: CollapseChecks,
}

/// Held-out accuracies, between 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Accuracies {
    /// k of every kNN here.
    pub k: usize,
    /// kNN on the trained encoder's features.
    pub trained_knn: f64,
    /// Linear probe on the trained encoder's features.
    pub linear_probe: f64,
    /// Baseline: kNN on pixels.
    pub pixels_knn: f64,
    /// Baseline: kNN on the features of the encoder before training.
    pub untrained_knn: f64,
    /// Accuracy of always naming the commonest held-out class.
    pub chance: f64,
}

impl Accuracies {
    /// How far trained kNN is above the better baseline, in percentage points (100·accuracy).
    ///
    /// ```
    /// # use infonce::train::evaluate::Accuracies;
    /// let accuracies = Accuracies {
    ///     trained_knn: 0.75, pixels_knn: 0.25, untrained_knn: 0.5,
    /// #   linear_probe: 0.8, chance: 0.1, k: 20,
    ///     // …
    /// };
    /// assert_eq!(accuracies.improvement(), 25.0);
    /// ```
    pub fn improvement(&self) -> f64 {
        100.0 * (self.trained_knn - self.pixels_knn.max(self.untrained_knn))
    }
}

/// kNN and the linear probe, which is most of the time.
///
/// # Errors
/// [`crate::Error`] when matrices that belong together differ in shape.
pub fn classify(engine: &CpuEngine, subject: Classified<'_>) -> Result<Accuracies, crate::Error> {
    let k = knn::neighbours_for(subject.trained_train.labels.len());
    let accuracy = |train, test| knn::accuracy(engine, train, test, k);
    Ok(Accuracies {
        k,
        trained_knn: accuracy(subject.trained_train, subject.trained_test)?,
        linear_probe: linear_probe::accuracy(subject.trained_train, subject.trained_test),
        pixels_knn: accuracy(subject.pixels_train, subject.pixels_test)?,
        untrained_knn: accuracy(subject.untrained_train, subject.untrained_test)?,
        chance: commonest_share(subject.trained_test.labels),
    })
}

/// A two-dimensional picture of features.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// Where each image lies.
    pub points: Vec<Point>,
    /// Its class index, where there are any.
    pub labels: Option<Vec<u32>>,
}

/// t-SNE of at most 1,024 of the images, evenly strided, under cosine distance (unit-length
/// features), the distance that kNN uses.
///
/// # Errors
/// [`crate::Error`] when the features are empty.
pub fn picture(
    engine: &CpuEngine,
    features: Rows<'_, f32>,
    labels: Option<&[u32]>,
) -> Result<Picture, crate::Error> {
    let dim = features.dim();
    let unit = knn::normalized(engine, features)?;
    let chosen = strided(features.rows(), PICTURE_POINTS);
    let rows: Vec<f32> = chosen
        .iter()
        .flat_map(|&index| &unit[index * dim..(index + 1) * dim])
        .copied()
        .collect();
    Ok(Picture {
        points: projection::neighbour_picture(Rows::new(&rows, chosen.len(), dim)?),
        labels: labels.map(|labels| chosen.iter().map(|&index| labels[index]).collect()),
    })
}

/// At most `most` indices below `length`, evenly spread and in order.
pub fn strided(length: usize, most: usize) -> Vec<usize> {
    let count = length.min(most);
    (0..count).map(|i| i * length / count).collect()
}

/// The share of positions where both agree.
fn share_equal(predictions: &[u32], labels: &[u32]) -> f64 {
    let right = predictions
        .iter()
        .zip(labels)
        .filter(|(a, b)| a == b)
        .count();
    right as f64 / labels.len() as f64
}

/// The share of the commonest label.
fn commonest_share(labels: &[u32]) -> f64 {
    let classes = labels.iter().max().map_or(0, |&label| label as usize + 1);
    let mut counts = vec![0usize; classes];
    labels.iter().for_each(|&label| counts[label as usize] += 1);
    counts.iter().max().copied().unwrap_or(0) as f64 / labels.len() as f64
}

/// Index of the largest value; of equals the first.
fn first_largest<T: PartialOrd + Copy>(values: &[T]) -> u32 {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strided_indices_cover_the_range_without_repeats() {
        assert_eq!(strided(3, 10), [0, 1, 2]);
        assert_eq!(strided(10, 4), [0, 2, 5, 7]);
        assert!(strided(0, 4).is_empty());
    }

    #[test]
    fn improvement_is_measured_against_the_better_baseline() {
        let corners = [1.0f32, 0.0, 0.0, 1.0];
        let blind = [1.0f32, 1.0, 1.0, 1.0];
        let labels = [0, 1];
        let view = |data| Labelled {
            features: Rows::new(data, 2, 2).unwrap(),
            labels: &labels,
        };
        let subject = Classified {
            trained_train: view(&corners),
            trained_test: view(&corners),
            untrained_train: view(&corners),
            untrained_test: view(&corners),
            pixels_train: view(&blind),
            pixels_test: view(&blind),
        };
        let found = classify(&CpuEngine::new(), subject).unwrap();
        assert_eq!(
            (found.trained_knn, found.untrained_knn, found.pixels_knn),
            (1.0, 1.0, 0.5)
        );
        assert_eq!((found.k, found.chance, found.improvement()), (2, 0.5, 0.0));
    }
}
