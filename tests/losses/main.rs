//! Losses are those of their papers. Each published formula is written here in plain exponentials of a stored matrix,
//! without this crate, and compared with the float64 reference and engines. Temperatures are powers of two, whose inverses
//! are exact in f32.

#[macro_use]
#[path = "../engines/mod.rs"]
mod engines;
mod digits;
mod formula;
mod kept;
mod one_positive;
mod pointwise;
mod published;
mod sets;
mod soft_targets;

use infonce::losses::{Layout, RowRule, SetForm, TABLE};
use infonce::reference::{self, Dense};
use infonce::{
    Contrast, CpuEngine, Engine, Error, Gradients, Ids, Inputs, KMeans, Matrix, NO_POSITIVE,
    Positives, Problem, Prototypes, Reduction, Rows, RowsMut, View,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use formula::{assert_near, dot, narrow, unit_rows, wide};
use published::{DIAGONAL, Given, in_float64, is_published, is_published_with, on_cpu};

type Test = Result<(), Error>;

/// Rounded to f32, so that reference and engine have the same inputs.
fn in_f32(x: &Dense) -> Dense {
    Dense::from_fn(x.rows(), x.dim(), |i, d| f64::from(x.row(i)[d] as f32))
}

/// The mean over 2N rows of `row`, a function of the positive's similarity and those of the negatives.
fn mean_over_views(z: &Dense, row: impl Fn(f64, &[f64]) -> f64) -> f64 {
    let rows = z.rows();
    let of = |i: usize| {
        let positive = (i + rows / 2) % rows;
        let others = (0..rows).filter(|&j| j != i && j != positive);
        let negatives: Vec<f64> = others.map(|j| dot(z.row(i), z.row(j))).collect();
        row(dot(z.row(i), z.row(positive)), &negatives)
    };
    (0..rows).map(of).sum::<f64>() / rows as f64
}

fn sum_of_exp(similarities: &[f64], temperature: f64) -> f64 {
    similarities.iter().map(|s| (s / temperature).exp()).sum()
}

/// log(exp(x_i·y_p/τ)/Σ_a exp(x_i·y_a/τ)) over the candidates `all` of an anchor.
fn log_probability(x: &[f64], y: &Dense, p: usize, all: &[usize], tau: f64) -> f64 {
    let exp = |j: usize| (dot(x, y.row(j)) / tau).exp();
    (exp(p) / all.iter().map(|&j| exp(j)).sum::<f64>()).ln()
}

/// All rows but row i.
fn others(rows: usize, i: usize) -> Vec<usize> {
    (0..rows).filter(|&j| j != i).collect()
}

/// P(i): the other rows of the label of row i.
fn others_of_label(labels: &[u32], i: usize) -> Vec<usize> {
    let of_label = |&p: &usize| labels[p] == labels[i] && labels[i] != NO_POSITIVE;
    others(labels.len(), i)
        .into_iter()
        .filter(of_label)
        .collect()
}
