//! Weighted k-nearest-neighbour classification of held-out images, which measures whether
//! neighbours among the features share a label. Nothing is trained on labels.
//!
//! The protocol is that of Wu et al. 2018 (section 3.4): cosine similarity s_j to the k nearest
//! training images, a vote of weight exp(s_j/τ) for the label of each, τ = 0.1. The neighbours come
//! from this crate's fused similarity and top-k.

use super::statistics;
use crate::train::bridge::NORM_EPSILON;
use crate::{CpuEngine, Engine, Matrix, Rows, RowsMut};

/// τ in the vote's weight exp(similarity/τ).
pub const TEMPERATURE: f32 = 0.1;

/// k for a number of training images: 200 from 10,000 on, 20 below, at most all of them.
pub fn neighbours_for(training_images: usize) -> usize {
    let k = if training_images >= 10_000 { 200 } else { 20 };
    k.min(training_images)
}

/// Features with the label of each row.
#[derive(Debug, Clone, Copy)]
pub struct Labelled<'a> {
    /// One feature vector per image, N × D.
    pub features: Rows<'a, f32>,
    /// One class index per image, N.
    pub labels: &'a [u32],
}

impl<'a> Labelled<'a> {
    /// Features of dimension `dim`, as many as there are labels.
    ///
    /// # Errors
    /// [`crate::Error`] when there are more or fewer, or none.
    pub fn new(features: &'a [f32], dim: usize, labels: &'a [u32]) -> Result<Self, crate::Error> {
        let features = Rows::new(features, labels.len(), dim)?;
        Ok(Self { features, labels })
    }
}

/// The share of held-out images whose label wins the weighted vote of their `k` nearest training
/// images, between 0 and 1. Features need not be normalised.
///
/// Ties: equally near training images are taken in index order, and of equally heavy labels the
/// smallest wins.
///
/// # Errors
/// [`crate::Error`] when the feature dimensions differ or `k` exceeds the training images.
pub fn accuracy(
    engine: &CpuEngine,
    train: Labelled<'_>,
    test: Labelled<'_>,
    k: usize,
) -> Result<f64, crate::Error> {
    let anchors = normalized(engine, test.features)?;
    let candidates = normalized(engine, train.features)?;
    let nearest = engine.top_k::<f32>(
        Rows::new(&anchors, test.features.rows(), test.features.dim())?,
        Rows::new(&candidates, train.features.rows(), train.features.dim())?,
        k,
        false,
    )?;
    let mut votes = vec![0.0f64; statistics::classes(train.labels)];
    let predictions: Vec<u32> = nearest
        .indices
        .chunks_exact(k)
        .zip(nearest.scores.chunks_exact(k))
        .map(|(indices, scores)| {
            votes.fill(0.0);
            for (&index, &score) in indices.iter().zip(scores) {
                // exp((s−1)/τ): the common factor exp(1/τ) changes no comparison.
                let weight = f64::from((score - 1.0) / TEMPERATURE).exp();
                votes[train.labels[index as usize] as usize] += weight;
            }
            first_largest(&votes)
        })
        .collect();
    Ok(statistics::share_equal(&predictions, test.labels))
}

/// Index of the largest value, the first of equal ones.
fn first_largest(values: &[f64]) -> u32 {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    best as u32
}

/// Rows scaled to length 1.
pub(super) fn normalized(
    engine: &CpuEngine,
    features: Rows<'_, f32>,
) -> Result<Vec<f32>, crate::Error> {
    let (rows, dim) = (features.rows(), features.dim());
    let mut unit = vec![0.0f32; rows * dim];
    let mut norms = vec![0.0f32; rows];
    engine.normalize::<f32, f32>(
        features,
        RowsMut::new(&mut unit, rows, dim)?,
        &mut norms,
        NORM_EPSILON,
    )?;
    Ok(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k_is_200_from_ten_thousand_training_images_up_and_20_below() {
        assert_eq!(neighbours_for(50_000), 200);
        assert_eq!(neighbours_for(10_000), 200);
        assert_eq!(neighbours_for(9_999), 20);
        assert_eq!(neighbours_for(7), 7);
    }

    /// The accuracy on the points `test`, whose labels are `expected`.
    fn found(
        train: &[f32],
        labels: &[u32],
        test: &[f32],
        expected: &[u32],
        k: usize,
    ) -> Result<f64, crate::Error> {
        let labelled = |features, labels| Labelled::new(features, 2, labels).unwrap();
        let (train, test) = (labelled(train, labels), labelled(test, expected));
        accuracy(&CpuEngine::new(), train, test, k)
    }

    #[test]
    fn points_take_the_label_of_their_cluster_whatever_their_length() {
        let train = [1.0, 0.1, 2.0, -0.1, 0.1, 3.0, 0.0, 0.5];
        let test = [100.0, 1.0, 0.001, 0.01];
        assert_eq!(found(&train, &[4, 4, 1, 1], &test, &[4, 1], 2), Ok(1.0));
        assert_eq!(found(&train, &[4, 4, 1, 1], &test, &[4, 4], 2), Ok(0.5));
    }

    #[test]
    fn neighbours_vote_by_weight_then_label_and_are_found_in_index_order() {
        let close_and_far = [1.0f32, 0.0, 0.6, 0.8, 0.6, -0.8];
        let pair = [0.6f32, 0.8, 0.6, -0.8];
        let equally_near = [1.0f32, 0.0, 1.0, 0.0, 1.0, 0.0];
        for (train, labels, k, expected) in [
            // Similarities 1, 0.6 and 0.6: exp(0) > 2·exp(−4).
            (&close_and_far as &[f32], &[2u32, 0, 0] as &[u32], 3, 2),
            // Of equally heavy labels the smallest wins.
            (&pair, &[3, 1], 2, 1),
            (&pair, &[1, 3], 2, 1),
            // Equally near images count in index order.
            (&equally_near, &[5, 0, 0], 1, 5),
        ] {
            let test = [1.0, 0.0];
            assert_eq!(found(train, labels, &test, &[expected], k), Ok(1.0));
        }
    }

    #[test]
    fn more_neighbours_than_images_are_refused() {
        assert!(found(&[1.0, 0.0], &[0], &[1.0, 0.0], &[0], 2).is_err());
    }
}
