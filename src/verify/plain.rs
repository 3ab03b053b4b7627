//! The plain implementation that engines are compared with: the whole logit matrix in memory, f32
//! softmax and f32 dz, one loop after the other.
//!
//! It is what a careful person writes in ten minutes. Its error against float64 is the error that
//! f32 arithmetic costs anyone, and the tolerance rule allows an engine twice that. It takes
//! σ = 1 − p₊ from the negatives and not as 1 − p₊, or it would be so wrong near p₊ = 1 that
//! everything passed.

use crate::contrast::{Contrast, Inputs};
use crate::element::Element;
use crate::error::Error;
use crate::rows::{Matrix, Rows};

/// What the plain implementation finds, all in f32.
#[derive(Debug, Clone, PartialEq)]
pub struct Plain {
    /// The reduced loss.
    pub loss: f32,
    /// lse⁻ and z₊ of the rows.
    pub rows: PlainRows,
    /// lse⁻ and z₊ of the columns, for CLIP.
    pub columns: Option<PlainRows>,
    /// N × D.
    pub dq: Vec<f32>,
    /// M × D; empty for NT-Xent and MoCo.
    pub dk: Vec<f32>,
    /// upstream × ∂loss/∂s.
    pub dscale: f32,
}

/// Statistics of one direction.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PlainRows {
    /// lse⁻.
    pub negatives_lse: Vec<f32>,
    /// z₊.
    pub positive: Vec<f32>,
}

/// Loss and gradients of `contrast`.
///
/// # Errors
/// Those of [`Contrast::check`].
pub fn value_and_grad<T: Element>(
    contrast: &Contrast,
    inputs: &Inputs<Rows<'_, T>>,
    upstream: f32,
) -> Result<Plain, Error> {
    let shape = contrast.check(inputs)?;
    let (q, k, own_key) = match *inputs {
        Inputs::Shared { z } => (widen(z), widen(z), None),
        Inputs::Pair { q, k } => (widen(q), widen(k), None),
        Inputs::Queue { q, own_key, queue } => (widen(q), widen(queue), Some(widen(own_key))),
    };
    let (n, m, dim) = (shape.anchors, shape.candidates, shape.dim);
    let row = |matrix: &[f32], i: usize| matrix[i * dim..(i + 1) * dim].to_vec();
    let scale = contrast.scale();
    let weight = contrast.row_weight(n) as f32;

    let mut logits = vec![0.0f32; n * m];
    for i in 0..n {
        for j in 0..m {
            logits[i * m + j] = scale * dot(&q[i * dim..][..dim], &k[j * dim..][..dim]);
        }
    }
    let mut plain = Plain {
        loss: 0.0,
        rows: PlainRows::default(),
        columns: contrast.is_symmetric().then(PlainRows::default),
        dq: vec![0.0; n * dim],
        dk: vec![0.0; m * dim],
        dscale: 0.0,
    };

    // dz of the candidates, and of MoCo's own keys.
    let mut dz = vec![0.0f32; n * m];
    let mut own_dz = vec![0.0f32; n];
    for i in 0..n {
        let place = contrast.positive(i, shape);
        let own_logit = own_key
            .as_ref()
            .map(|own_key| scale * dot(&row(&q, i), &row(own_key, i)));
        let positive = own_logit.unwrap_or_else(|| logits[i * m + place.unwrap_or(0)]);
        let is_negative = |j: usize| Some(j) != place && !(contrast.excludes_self() && i == j);
        let negatives: Vec<usize> = (0..m).filter(|&j| is_negative(j)).collect();
        let values: Vec<f32> = negatives.iter().map(|&j| logits[i * m + j]).collect();
        let softmax = softmax(&values, positive);
        plain.loss += weight * softmax.loss;
        for (&j, p) in negatives.iter().zip(&softmax.negatives) {
            dz[i * m + j] += upstream * weight * p;
        }
        let dz_positive = -upstream * weight * softmax.one_minus_positive;
        match place {
            Some(j) => dz[i * m + j] += dz_positive,
            None => own_dz[i] = dz_positive,
        }
        plain.rows.negatives_lse.push(softmax.negatives_lse);
        plain.rows.positive.push(positive);
    }
    if let Some(columns) = &mut plain.columns {
        for j in 0..m {
            let negatives: Vec<usize> = (0..n).filter(|&i| i != j).collect();
            let values: Vec<f32> = negatives.iter().map(|&i| logits[i * m + j]).collect();
            let positive = logits[j * m + j];
            let softmax = softmax(&values, positive);
            plain.loss += weight * softmax.loss;
            for (&i, p) in negatives.iter().zip(&softmax.negatives) {
                dz[i * m + j] += upstream * weight * p;
            }
            dz[j * m + j] -= upstream * weight * softmax.one_minus_positive;
            columns.negatives_lse.push(softmax.negatives_lse);
            columns.positive.push(positive);
        }
    }

    for i in 0..n {
        for j in 0..m {
            let dz = dz[i * m + j];
            add_scaled(&mut plain.dq[i * dim..][..dim], dz, &k[j * dim..][..dim]);
            add_scaled(&mut plain.dk[j * dim..][..dim], dz, &q[i * dim..][..dim]);
        }
        if let Some(own_key) = &own_key {
            add_scaled(&mut plain.dq[i * dim..][..dim], own_dz[i], &row(own_key, i));
        }
        plain.dscale += dot(&q[i * dim..][..dim], &plain.dq[i * dim..][..dim]);
    }
    for gradient in plain.dq.iter_mut().chain(&mut plain.dk) {
        *gradient *= scale;
    }
    match inputs {
        Inputs::Shared { .. } => {
            for (dq, dk) in plain.dq.iter_mut().zip(&plain.dk) {
                *dq += dk;
            }
            plain.dk.clear();
        }
        Inputs::Pair { .. } => {}
        Inputs::Queue { .. } => plain.dk.clear(),
    }
    Ok(plain)
}

struct Softmax {
    loss: f32,
    negatives_lse: f32,
    negatives: Vec<f32>,
    one_minus_positive: f32,
}

fn softmax(negatives: &[f32], positive: f32) -> Softmax {
    let largest = negatives.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let maximum = largest.max(positive);
    let negatives_lse = match negatives {
        [] => f32::NEG_INFINITY,
        _ => {
            largest
                + negatives
                    .iter()
                    .map(|z| (z - largest).exp())
                    .sum::<f32>()
                    .ln()
        }
    };
    let exponentials: Vec<f32> = negatives.iter().map(|z| (z - maximum).exp()).collect();
    let rest: f32 = exponentials.iter().sum();
    let total = rest + (positive - maximum).exp();
    let margin = negatives_lse - positive;
    Softmax {
        loss: margin.max(0.0) + (-margin.abs()).exp().ln_1p(),
        negatives_lse,
        negatives: exponentials.iter().map(|e| e / total).collect(),
        one_minus_positive: rest / total,
    }
}

/// y, the norms.
pub fn normalize(x: &[f32], dim: usize, epsilon: f32) -> (Vec<f32>, Vec<f32>) {
    // Scaled by the largest number, so that no square leaves the range of f32.
    let norm = |x: &[f32]| {
        let largest = x.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        let scaled: Vec<f32> = x.iter().map(|x| x / largest).collect();
        match largest {
            0.0 => 0.0,
            _ => largest * dot(&scaled, &scaled).sqrt(),
        }
    };
    let norms: Vec<f32> = x.chunks(dim).map(norm).collect();
    let rows = x.chunks(dim).zip(&norms);
    let y = rows.flat_map(|(x, norm)| x.iter().map(move |x| x / norm.max(epsilon)));
    (y.collect(), norms)
}

/// dx, of finite y and dy.
pub fn normalize_backward<G: Element>(
    y: &[f32],
    norms: &[f32],
    dy: &[f32],
    dim: usize,
    epsilon: f32,
) -> Vec<G> {
    let rows = y.chunks(dim).zip(dy.chunks(dim)).zip(norms);
    rows.flat_map(|((y, dy), &norm)| {
        let along = if norm <= epsilon { 0.0 } else { dot(y, dy) };
        let dx = |(y, dy): (&f32, &f32)| G::from_f32((dy - y * along) / norm.max(epsilon));
        let dx: Vec<G> = y.iter().zip(dy).map(dx).collect();
        let overflows = dx.iter().any(|dx| !dx.to_f32().is_finite());
        match norm <= epsilon.max(G::DTYPE.min_positive()) && overflows {
            true => vec![G::from_f32(0.0); dim],
            false => dx,
        }
    })
    .collect()
}

/// A slice as f32.
pub(super) fn widen<T: Element>(rows: Rows<'_, T>) -> Vec<f32> {
    let mut numbers = vec![0.0; rows.rows() * rows.dim()];
    T::widen(rows.as_slice(), &mut numbers);
    numbers
}

pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add_scaled(sum: &mut [f32], factor: f32, row: &[f32]) {
    for (sum, x) in sum.iter_mut().zip(row) {
        *sum += factor * x;
    }
}
