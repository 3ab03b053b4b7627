//! Diagnostics equal their definitions in float64, and have the values that are known by hand.

#[macro_use]
#[path = "../engines/mod.rs"]
mod engines;
mod accuracy;
mod collapse;
mod entropy;
mod frequency;
mod sphere;

use std::f64::consts::TAU;

use half::{bf16, f16};
use infonce::diagnostics::{
    self, Accuracy, Collapse, Verdict, alignment, deviation, effective_rank, low_frequency_share,
    mean_entropy, uniformity,
};
use infonce::losses::{RowRule, SetForm};
use infonce::{
    Contrast, CpuEngine, Element, Engine, Error, Gradients, HostMemory, Ids, Inputs, Matrix,
    NO_POSITIVE, Positives, Problem, Reduction, Rows, RowsMut,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

type Test = Result<(), Error>;

const DIM: usize = 16;

fn random(elements: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..elements)
        .map(|_| rng.random_range(-1.0f32..1.0))
        .collect()
}

/// Whole numbers: products are exact in f32, and many are equal.
fn whole(elements: usize, seed: u64) -> Vec<f32> {
    random(elements, seed)
        .iter()
        .map(|x| (1.6 * x).round())
        .collect()
}

fn rows<T: Element>(x: &[T], dim: usize) -> Rows<'_, T> {
    Rows::new(x, x.len() / dim, dim).unwrap()
}

fn product(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

/// Rows in f64.
fn wide<T: Element>(x: Rows<'_, T>) -> Vec<Vec<f64>> {
    let row = |i| x.row(i).iter().map(|x| f64::from(x.to_f32())).collect();
    (0..x.rows()).map(row).collect()
}

/// Unit rows in f64.
fn unit<T: Element>(x: Rows<'_, T>) -> Vec<Vec<f64>> {
    let mut rows = wide(x);
    for row in &mut rows {
        let length = product(row, row).sqrt().max(1e-300);
        row.iter_mut().for_each(|x| *x /= length);
    }
    rows
}

fn near(found: f64, expected: f64, tolerance: f64, what: &str) {
    let off = (found - expected).abs();
    assert!(off <= tolerance, "{what}: {found}, not {expected}");
}
