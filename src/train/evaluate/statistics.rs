//! Counts of labels, distances, and moments of rows.

use crate::{Matrix, Rows};

/// The share of positions at which both agree.
pub(super) fn share_equal(predictions: &[u32], labels: &[u32]) -> f64 {
    let pairs = predictions.iter().zip(labels);
    pairs.filter(|(a, b)| a == b).count() as f64 / labels.len() as f64
}

/// The largest label plus one.
pub(super) fn classes(labels: &[u32]) -> usize {
    labels.iter().max().map_or(0, |&label| label as usize + 1)
}

/// The share of the commonest label.
pub(super) fn commonest_share(labels: &[u32]) -> f64 {
    let mut counts = vec![0usize; classes(labels)];
    labels.iter().for_each(|&label| counts[label as usize] += 1);
    counts.iter().max().copied().unwrap_or(0) as f64 / labels.len() as f64
}

pub(super) fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum()
}

/// The moments of one coordinate over all rows.
pub(super) struct Column {
    pub mean: f64,
    /// Standard deviation with divisor N, not N − 1.
    pub deviation: f64,
}

/// Mean and deviation of each coordinate.
pub(super) fn columns(data: Rows<'_, f32>) -> Vec<Column> {
    let rows = data.rows() as f64;
    let column = |j: usize| {
        let values = (0..data.rows()).map(|i| f64::from(data.row(i)[j]));
        let mean = values.clone().sum::<f64>() / rows;
        let variance = values.map(|value| (value - mean).powi(2)).sum::<f64>() / rows;
        let deviation = variance.sqrt();
        Column { mean, deviation }
    };
    (0..data.dim()).map(column).collect()
}
