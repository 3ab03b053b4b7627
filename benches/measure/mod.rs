//! What the benchmarks of the CPU share: inputs, and the median of measured times.

use infonce::Element;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// Rows of norm 1, as in training.
pub fn unit_rows<T: Element>(rng: &mut ChaCha8Rng, rows: usize, dim: usize) -> Vec<T> {
    let mut data: Vec<f32> = (0..rows * dim)
        .map(|_| rng.random_range(-1.0..1.0f32))
        .collect();
    for row in data.chunks_mut(dim) {
        let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.iter_mut().for_each(|x| *x /= norm);
    }
    data.into_iter().map(T::from_f32).collect()
}

/// The middle value, the upper of two.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
