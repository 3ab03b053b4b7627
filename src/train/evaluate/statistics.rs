//! Counts over labels, distances and moments of rows, which several measures share.

use crate::{Matrix, Rows};

/// The share of positions where both agree.
pub(super) fn share_equal(predictions: &[u32], labels: &[u32]) -> f64 {
    let pairs = predictions.iter().zip(labels);
    pairs.filter(|(a, b)| a == b).count() as f64 / labels.len() as f64
}

/// How many classes there are, as far as labels say.
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

/// What the rows have at one coordinate.
#[derive(Clone, Copy, Default)]
pub(super) struct Column {
    pub mean: f64,
    /// Standard deviation, of these rows and not of what they are drawn from.
    pub deviation: f64,
}

/// Mean and deviation of each coordinate.
pub(super) fn columns(data: Rows<'_, f32>) -> Vec<Column> {
    let rows = data.rows() as f64;
    let mut columns = vec![Column::default(); data.dim()];
    for i in 0..data.rows() {
        for (column, &value) in columns.iter_mut().zip(data.row(i)) {
            column.mean += f64::from(value);
        }
    }
    columns.iter_mut().for_each(|column| column.mean /= rows);
    for i in 0..data.rows() {
        for (column, &value) in columns.iter_mut().zip(data.row(i)) {
            column.deviation += (f64::from(value) - column.mean).powi(2);
        }
    }
    for column in &mut columns {
        column.deviation = (column.deviation / rows).sqrt();
    }
    columns
}
