//! Weighted k-nearest-neighbour classification of held-out images: how well neighbours in an
//! embedding space share a label, with nothing trained on labels.
//!
//! The protocol is that of Wu et al. 2018 (section 3.4), the usual one in self-supervised learning:
//! cosine similarity s_j to the k nearest training images, a vote of weight exp(s_j/τ) for the
//! label of each, τ = 0.1. The neighbours come from this crate's own fused similarity and top-k.

use crate::{CpuEngine, Engine, Matrix, Rows, RowsMut};

/// τ in the vote's weight exp(similarity/τ).
pub const TEMPERATURE: f32 = 0.1;

/// Norms below this are treated as this, so that an all-zero feature stays zero.
const NORM_EPSILON: f32 = 1e-12;

/// k for a number of training images: 200 from 10,000 up, 20 below, never more than there are.
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

/// The share of held-out images whose label the weighted vote of their `k` nearest training
/// images names, between 0 and 1. Features need not be normalised.
///
/// Ties: equally near training images count in index order, and of equally heavy labels the
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
    let predictions = predict(engine, train, test.features, k)?;
    Ok(super::share_equal(&predictions, test.labels))
}

/// The label that the vote names for each query; same errors as [`accuracy`].
pub(super) fn predict(
    engine: &CpuEngine,
    train: Labelled<'_>,
    queries: Rows<'_, f32>,
    k: usize,
) -> Result<Vec<u32>, crate::Error> {
    let candidates = normalized(engine, train.features)?;
    let anchors = normalized(engine, queries)?;
    let nearest = engine.top_k::<f32>(
        Rows::new(&anchors, queries.rows(), queries.dim())?,
        Rows::new(&candidates, train.features.rows(), train.features.dim())?,
        k,
        false,
    )?;
    let classes = train
        .labels
        .iter()
        .max()
        .map_or(0, |&label| label as usize + 1);
    let mut votes = vec![0.0f64; classes];
    Ok(nearest
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
            super::first_largest(&votes)
        })
        .collect())
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

    fn labelled<'a>(features: &'a [f32], labels: &'a [u32]) -> Labelled<'a> {
        let dim = features.len() / labels.len();
        Labelled {
            features: Rows::new(features, labels.len(), dim).unwrap(),
            labels,
        }
    }

    #[test]
    fn k_is_200_from_ten_thousand_training_images_up_and_20_below() {
        assert_eq!(neighbours_for(50_000), 200);
        assert_eq!(neighbours_for(10_000), 200);
        assert_eq!(neighbours_for(9_999), 20);
        assert_eq!(neighbours_for(7), 7);
    }

    #[test]
    fn points_take_the_label_of_their_cluster_whatever_their_length() {
        let train = [1.0f32, 0.1, 2.0, -0.1, 0.1, 3.0, 0.0, 0.5];
        let test = [100.0f32, 1.0, 0.001, 0.01];
        let found = accuracy(
            &CpuEngine::new(),
            labelled(&train, &[4, 4, 1, 1]),
            labelled(&test, &[4, 1]),
            2,
        );
        assert_eq!(found, Ok(1.0));
    }

    #[test]
    fn one_close_neighbour_outweighs_two_far_ones() {
        // Similarities 1, 0.6 and 0.6: exp(0) > 2·exp(−4).
        let train = [1.0f32, 0.0, 0.6, 0.8, 0.6, -0.8];
        let test = [1.0f32, 0.0];
        let train = labelled(&train, &[2, 0, 0]);
        let query = Rows::new(&test, 1, 2).unwrap();
        assert_eq!(predict(&CpuEngine::new(), train, query, 3), Ok(vec![2]));
    }

    #[test]
    fn of_equally_heavy_labels_the_smallest_wins() {
        let train = [0.6f32, 0.8, 0.6, -0.8];
        let test = [1.0f32, 0.0];
        let query = Rows::new(&test, 1, 2).unwrap();
        for labels in [[3, 1], [1, 3]] {
            let train = labelled(&train, &labels);
            assert_eq!(predict(&CpuEngine::new(), train, query, 2), Ok(vec![1]));
        }
    }

    #[test]
    fn equally_near_images_count_in_index_order() {
        let train = [1.0f32, 0.0, 1.0, 0.0, 1.0, 0.0];
        let test = [1.0f32, 0.0];
        let query = Rows::new(&test, 1, 2).unwrap();
        let train = labelled(&train, &[5, 0, 0]);
        assert_eq!(predict(&CpuEngine::new(), train, query, 1), Ok(vec![5]));
    }

    #[test]
    fn more_neighbours_than_images_are_refused() {
        let train = [1.0f32, 0.0];
        let query = Rows::new(&train, 1, 2).unwrap();
        let train = labelled(&train, &[0]);
        assert!(predict(&CpuEngine::new(), train, query, 2).is_err());
    }
}
