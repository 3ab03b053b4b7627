//! Evaluation: held-out accuracy beside two baselines, collapse checks, a picture of embeddings.
//!
//! All of it reads plain matrices, so that it can evaluate any encoder.

pub mod collapse;
pub mod knn;
pub mod linear_probe;
pub mod pixels;
pub mod projection;
mod statistics;

use serde::{Deserialize, Serialize};

pub use crate::diagnostics::Verdict;
use crate::train::data::Labels;
use crate::{CpuEngine, Rows};
pub use collapse::CollapseChecks;
pub use knn::Labelled;
pub use projection::Point;
use statistics::commonest_share;

/// Maximum number of points in a picture; exact t-SNE costs their square.
const PICTURE_POINTS: usize = 1024;

/// Features of both image sets.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    /// Of the training images, N × D.
    pub train: Vec<f32>,
    /// Of the held-out images, M × D.
    pub test: Vec<f32>,
    /// D.
    pub dim: usize,
}

impl Features {
    /// The training features and the held-out features, each with their labels.
    fn labelled<'a>(&'a self, labels: &'a Labels) -> Result<[Labelled<'a>; 2], crate::Error> {
        Ok([
            Labelled::new(&self.train, self.dim, &labels.train)?,
            Labelled::new(&self.test, self.dim, &labels.test)?,
        ])
    }
}

/// The evaluation of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Training images.
    pub train_images: usize,
    /// Held-out images.
    pub test_images: usize,
    /// Accuracies, which take labels; `None` for images without.
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

/// Accuracies of kNN on the features of the trained encoder, of the untrained one and on pixels,
/// and of the linear probe on the trained features. The linear probe takes most of the time.
///
/// # Errors
/// [`crate::Error`] when matrices that belong together differ in shape.
pub fn classify(
    engine: &CpuEngine,
    labels: &Labels,
    trained: &Features,
    untrained: &Features,
    pixels: &Features,
) -> Result<Accuracies, crate::Error> {
    let k = knn::neighbours_for(labels.train.len());
    let knn = |features: &Features| {
        let [train, test] = features.labelled(labels)?;
        knn::accuracy(engine, train, test, k)
    };
    let [train, test] = trained.labelled(labels)?;
    Ok(Accuracies {
        k,
        trained_knn: knn(trained)?,
        linear_probe: linear_probe::accuracy(train, test),
        pixels_knn: knn(pixels)?,
        untrained_knn: knn(untrained)?,
        chance: commonest_share(&labels.test),
    })
}

/// Features in two dimensions.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// Where each image lies.
    pub points: Vec<Point>,
    /// Its class index, where there are any.
    pub labels: Option<Vec<u32>>,
}

/// t-SNE of at most 1,024 of the held-out images, evenly strided, under cosine distance
/// (unit-length features), the distance that kNN uses.
///
/// # Errors
/// [`crate::Error`] when there are none.
pub fn picture(
    engine: &CpuEngine,
    features: &Features,
    labels: Option<&Labels>,
) -> Result<Picture, crate::Error> {
    let dim = features.dim;
    let rows = features.test.len() / dim;
    let unit = knn::normalized(engine, Rows::new(&features.test, rows, dim)?)?;
    let chosen = strided(rows, PICTURE_POINTS);
    let shown = chosen.iter().flat_map(|&row| &unit[row * dim..][..dim]);
    let shown: Vec<f32> = shown.copied().collect();
    Ok(Picture {
        points: projection::neighbour_picture(Rows::new(&shown, chosen.len(), dim)?),
        labels: labels.map(|labels| chosen.iter().map(|&row| labels.test[row]).collect()),
    })
}

/// At most `most` indices below `length`, evenly spaced and in order.
pub fn strided(length: usize, most: usize) -> Vec<usize> {
    let count = length.min(most);
    (0..count).map(|i| i * length / count).collect()
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
        let features = |corners: [f32; 4]| Features {
            train: corners.to_vec(),
            test: corners.to_vec(),
            dim: 2,
        };
        let labels = Labels {
            class_names: Vec::new(),
            train: vec![0, 1],
            test: vec![0, 1],
        };
        let (corners, blind) = (features([1.0, 0.0, 0.0, 1.0]), features([1.0; 4]));
        let found = classify(&CpuEngine::new(), &labels, &corners, &corners, &blind).unwrap();
        assert_eq!(
            (found.trained_knn, found.untrained_knn, found.pixels_knn),
            (1.0, 1.0, 0.5)
        );
        assert_eq!((found.k, found.chance, found.improvement()), (2, 0.5, 0.0));
    }
}
