//! Random inputs, the same in every run and on any number of threads.

use infonce::Element;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

/// `count` independent elements, uniform between -1 and 1.
pub fn uniform<T: Element>(count: usize, seed: u64) -> Vec<T> {
    let mut elements = vec![T::from_f32(0.0); count];
    fill(&mut elements, 4096, seed, |chunk, rng| {
        chunk.fill_with(|| T::from_f32(rng.random_range(-1.0..1.0)));
    });
    elements
}

/// Rows of length 1 in independent directions.
pub fn unit_rows<T: Element>(rows: usize, dim: usize, seed: u64) -> Vec<T> {
    let mut elements = vec![T::from_f32(0.0); rows * dim];
    fill(&mut elements, dim, seed, |row, rng| {
        let direction: Vec<f32> = row.iter().map(|_| rng.random_range(-1.0..1.0)).collect();
        let length = direction.iter().map(|x| x * x).sum::<f32>().sqrt();
        for (element, x) in row.iter_mut().zip(direction) {
            *element = T::from_f32(x / length);
        }
    });
    elements
}

/// Fills each chunk from a random stream of its own.
fn fill<T: Send>(
    elements: &mut [T],
    chunk: usize,
    seed: u64,
    of_chunk: impl Fn(&mut [T], &mut ChaCha8Rng) + Sync,
) {
    let chunks = elements.par_chunks_mut(chunk).enumerate();
    chunks.for_each(|(index, chunk)| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(index as u64);
        of_chunk(chunk, &mut rng);
    });
}
