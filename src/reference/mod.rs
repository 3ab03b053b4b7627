//! The float64 definition of every engine method: naive on purpose, with the whole logit matrix in memory.
//!
//! It shares no code with an engine. A loss's formula φ is in its file of `src/losses/`, on dual numbers, which carry
//! their derivatives. With the logits z_ij = s·⟨q_i, k_j⟩, and the positive kept apart from the negatives:
//! ```text
//! lse⁻_i = log Σ_{negatives} exp z_ij          loss_i = φ(lse⁻_i, z₊)
//! a_i    = ∂φ/∂lse⁻                            c_i    = −∂φ/∂z₊
//! dz_ij  = w_i·g·a_i·exp(z_ij − lse⁻_i)        dz_i₊  = −w_i·g·c_i
//! dq_i   = s Σ_j dz_ij k_j     dk_j = s Σ_i dz_ij q_i     ds = Σ_ij dz_ij ⟨q_i, k_j⟩ + Σ_i w_i·g·∂φ/∂s
//! ```
//! with w_i the row's weight and g the upstream gradient. For InfoNCE φ = softplus(lse⁻ − z₊) and
//! a = c = 1 − p₊. Written like this nothing cancels when p₊ → 1; the textbook's p₊ − 1 loses every digit at
//! 1 − p₊ = 10⁻¹⁶.

mod contrast;
mod logits;
mod rowwise;

#[cfg(feature = "cli")]
pub(crate) use contrast::value_and_grad_rounded;
pub use contrast::{Reference, RowValues, value_and_grad};
#[cfg(feature = "cli")]
pub(crate) use logits::{Logits, candidate};
pub use rowwise::{
    TripletReference, momentum_update, normalize, normalize_backward, top_k, triplet, update_rows,
};
#[cfg(feature = "cli")]
pub(crate) use rowwise::{
    normalize_backward_rounded, normalize_rounded, triplet_rounded, update_rows_rounded,
};

use crate::element::Element;
use crate::rows::{Matrix, Rows, View};

/// A matrix of f64, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Dense {
    rows: usize,
    dim: usize,
    data: Vec<f64>,
}

impl Dense {
    /// `rows` × `dim` elements given by `value(row, column)`.
    pub fn from_fn(rows: usize, dim: usize, mut value: impl FnMut(usize, usize) -> f64) -> Self {
        let cells = (0..rows).flat_map(|i| (0..dim).map(move |d| (i, d)));
        let data = cells.map(|(i, d)| value(i, d)).collect();
        Self { rows, dim, data }
    }

    /// The same elements, widened; exact.
    pub fn from_rows<T: Element>(rows: Rows<'_, T>) -> Self {
        Self::from_fn(rows.rows(), rows.dim(), |i, d| {
            f64::from(rows.row(i)[d].to_f32())
        })
    }

    /// All elements, row after row.
    pub fn as_slice(&self) -> &[f64] {
        &self.data
    }

    /// All elements, row after row, writable.
    pub fn as_mut_slice(&mut self) -> &mut [f64] {
        &mut self.data
    }

    /// Row `i`.
    ///
    /// # Panics
    /// When `i` is not below the number of rows, as slices do.
    pub fn row(&self, i: usize) -> &[f64] {
        &self.data[i * self.dim..(i + 1) * self.dim]
    }

    fn row_mut(&mut self, i: usize) -> &mut [f64] {
        &mut self.data[i * self.dim..(i + 1) * self.dim]
    }
}

impl Matrix for &Dense {
    fn rows(&self) -> usize {
        self.rows
    }
    fn dim(&self) -> usize {
        self.dim
    }
}

impl<'a> View for &'a Dense {
    type Indices = &'a [u32];
    type Floats = &'a [f32];
    type Scalar = f64;
}

fn largest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

pub(crate) fn dot(a: &[f64], b: &[f64], round: impl Fn(f64) -> f64) -> f64 {
    sum(a.iter().zip(b).map(|(a, b)| a * b), round)
}

fn sum(terms: impl Iterator<Item = f64>, round: impl Fn(f64) -> f64) -> f64 {
    terms.fold(0.0, |sum, term| round(sum + round(term)))
}

fn add_scaled(sum: &mut [f64], factor: f64, row: &[f64], round: impl Fn(f64) -> f64) {
    for (sum, x) in sum.iter_mut().zip(row) {
        *sum = round(*sum + round(factor * x));
    }
}

/// No rounding beyond that of f64.
fn exact(x: f64) -> f64 {
    x
}
