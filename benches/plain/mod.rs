//! A plain InfoNCE to compare with: the crate `gemm` for products, all N×M logits in memory, `std`'s `exp`.

use gemm::{Parallelism, gemm};
use rayon::prelude::*;

/// C = alpha · A·B in f32: C of m × n elements, A of m × k, B of k × n. Of A and B, elements, row stride and column
/// stride.
struct Product<'a> {
    m: usize,
    n: usize,
    k: usize,
    a: (&'a [f32], usize, usize),
    b: (&'a [f32], usize, usize),
    alpha: f32,
}

impl Product<'_> {
    fn into(self, c: &mut [f32]) {
        let (a, a_row, a_column) = self.a;
        let (b, b_row, b_column) = self.b;
        assert!(c.len() == self.m * self.n);
        assert!(a.len() == self.m * self.k && b.len() == self.k * self.n);
        // SAFETY: the three slices are dense matrices of the sizes just checked.
        unsafe {
            gemm(
                self.m,
                self.n,
                self.k,
                c.as_mut_ptr(),
                1,
                self.n as isize,
                false,
                a.as_ptr(),
                a_column as isize,
                a_row as isize,
                b.as_ptr(),
                b_column as isize,
                b_row as isize,
                0.0,
                self.alpha,
                false,
                false,
                false,
                Parallelism::Rayon(0),
            );
        }
    }
}

/// Q·Kᵀ, S·K and Sᵀ·Q for whole matrices: 6N²D FLOPs and nothing else.
pub fn three_products(
    q: &[f32],
    k: &[f32],
    n: usize,
    d: usize,
    logits: &mut [f32],
    dq: &mut [f32],
    dk: &mut [f32],
) {
    logit_product(q, k, n, d, 1.0, logits);
    gradient_products(q, k, n, d, 1.0, logits, dq, dk);
}

fn logit_product(q: &[f32], k: &[f32], n: usize, d: usize, scale: f32, logits: &mut [f32]) {
    Product {
        m: n,
        n,
        k: d,
        a: (q, d, 1),
        b: (k, 1, d),
        alpha: scale,
    }
    .into(logits);
}

#[allow(clippy::too_many_arguments)] // Plain matrices and their sizes.
fn gradient_products(
    q: &[f32],
    k: &[f32],
    n: usize,
    d: usize,
    scale: f32,
    weights: &[f32],
    dq: &mut [f32],
    dk: &mut [f32],
) {
    Product {
        m: n,
        n: d,
        k: n,
        a: (weights, n, 1),
        b: (k, d, 1),
        alpha: scale,
    }
    .into(dq);
    Product {
        m: n,
        n: d,
        k: n,
        a: (weights, 1, n),
        b: (q, d, 1),
        alpha: scale,
    }
    .into(dk);
}

/// Mean one-way InfoNCE with diagonal positives, and both gradients.
#[allow(clippy::too_many_arguments)] // Plain matrices and their sizes.
pub fn info_nce(
    q: &[f32],
    k: &[f32],
    n: usize,
    d: usize,
    scale: f32,
    logits: &mut [f32],
    dq: &mut [f32],
    dk: &mut [f32],
) -> f32 {
    logit_product(q, k, n, d, scale, logits);
    let weight = 1.0 / n as f32;
    let loss: f32 = logits
        .par_chunks_mut(n)
        .enumerate()
        .map(|(i, row)| {
            let positive = row[i];
            let maximum = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut sum = 0.0;
            for z in row.iter_mut() {
                *z = (*z - maximum).exp();
                sum += *z;
            }
            for p in row.iter_mut() {
                *p *= weight / sum;
            }
            row[i] -= weight;
            weight * (maximum + sum.ln() - positive)
        })
        .sum();
    gradient_products(q, k, n, d, scale, logits, dq, dk);
    loss
}
