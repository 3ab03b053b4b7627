//! The plain implementation that engines are compared with: the whole logit matrix in memory, f32
//! softmax and f32 dz, one loop after the other.
//!
//! It is what a careful person writes in ten minutes. Its error against float64 is the error that
//! f32 arithmetic costs anyone, and the tolerance rule allows an engine twice that. It takes
//! σ = 1 − p₊ from the negatives and not as 1 − p₊, or it would be so wrong near p₊ = 1 that
//! everything passed. A row's lse⁻ and z₊ are of f32; what the rule makes of them is rounded to f32.

use crate::element::Element;
use crate::inputs::{Matrices, Problem};
use crate::losses::{RowContext, RowRule};
use crate::rows::{Matrix, Rows};
use crate::statistics::{RowStatistics, Statistics};

/// What the plain implementation finds, all in f32.
#[derive(Debug, Clone, PartialEq)]
pub struct Plain {
    /// The reduced loss.
    pub loss: f32,
    /// lse⁻ and z₊.
    pub statistics: Statistics,
    /// N × D.
    pub dq: Vec<f32>,
    /// M × D; empty where candidates have no gradient.
    pub dk: Vec<f32>,
    /// upstream × ∂loss/∂s.
    pub dscale: f32,
}

/// Loss and gradients of a problem at its contrast's own scale.
pub fn value_and_grad<T: Element>(problem: &Problem<Rows<'_, T>>, upstream: f32) -> Plain {
    let (contrast, shape) = (problem.contrast(), problem.shape());
    let Matrices {
        anchors,
        candidates,
        own_keys,
    } = problem.matrices();
    let (q, k, own_keys) = (widen(anchors), widen(candidates), own_keys.map(widen));
    let (n, m, dim) = (shape.anchors, shape.candidates, shape.dim);
    let scale = contrast.scale();
    let weight = contrast.row_weight(n) as f32;
    let place = problem.positive_candidates();

    let mut logits = vec![0.0f32; n * m];
    for i in 0..n {
        for j in 0..m {
            logits[i * m + j] = scale * dot(&q[i * dim..][..dim], &k[j * dim..][..dim]);
        }
    }
    let positive = |i: usize| match (&own_keys, place[i]) {
        (Some(own_keys), _) => scale * dot(&q[i * dim..][..dim], &own_keys[i * dim..][..dim]),
        (None, Some(j)) => logits[i * m + j],
        (None, None) => f32::NEG_INFINITY,
    };
    let positives: Vec<f32> = (0..n).map(positive).collect();
    let wide = positives.iter().map(|&z| f64::from(z));
    let (rule, negatives) = (contrast.rule(), problem.negatives());
    let context = RowContext::new(rule, f64::from(scale), negatives, wide);
    let mut plain = Plain {
        loss: 0.0,
        statistics: Statistics {
            rows: RowStatistics::default(),
            columns: contrast.has_columns().then(RowStatistics::default),
        },
        dq: vec![0.0; n * dim],
        dk: vec![0.0; m * dim],
        dscale: 0.0,
    };

    // dz of the candidates, and of own keys; and what of ∂loss/∂s is in none of them.
    let mut dz = vec![0.0f32; n * m];
    let mut own_dz = vec![0.0f32; n];
    let mut slopes = 0.0;
    for i in 0..n {
        let is_negative = |j: usize| Some(j) != place[i] && !(contrast.excludes_self() && i == j);
        let negatives: Vec<usize> = (0..m).filter(|&j| is_negative(j)).collect();
        let values: Vec<f32> = negatives.iter().map(|&j| logits[i * m + j]).collect();
        let row = Row::new(rule, &values, positives[i], &context);
        plain.loss += weight * row.loss;
        slopes += upstream * weight * row.slope;
        for (&j, p) in negatives.iter().zip(&row.negatives) {
            dz[i * m + j] += upstream * weight * p;
        }
        let dz_positive = -upstream * weight * row.positive;
        match place[i] {
            Some(j) => dz[i * m + j] += dz_positive,
            None => own_dz[i] = dz_positive,
        }
        row.record(positives[i], &mut plain.statistics.rows);
    }
    if let Some(columns) = &mut plain.statistics.columns {
        for j in 0..m {
            let negatives: Vec<usize> = (0..n).filter(|&i| i != j).collect();
            let values: Vec<f32> = negatives.iter().map(|&i| logits[i * m + j]).collect();
            let row = Row::new(rule, &values, logits[j * m + j], &context);
            plain.loss += weight * row.loss;
            slopes += upstream * weight * row.slope;
            for (&i, p) in negatives.iter().zip(&row.negatives) {
                dz[i * m + j] += upstream * weight * p;
            }
            dz[j * m + j] -= upstream * weight * row.positive;
            row.record(logits[j * m + j], columns);
        }
    }

    for i in 0..n {
        for j in 0..m {
            let dz = dz[i * m + j];
            add_scaled(&mut plain.dq[i * dim..][..dim], dz, &k[j * dim..][..dim]);
            add_scaled(&mut plain.dk[j * dim..][..dim], dz, &q[i * dim..][..dim]);
        }
        if let Some(own_keys) = &own_keys {
            let dq = &mut plain.dq[i * dim..][..dim];
            add_scaled(dq, own_dz[i], &own_keys[i * dim..][..dim]);
        }
        plain.dscale += dot(&q[i * dim..][..dim], &plain.dq[i * dim..][..dim]);
    }
    plain.dscale += slopes;
    for gradient in plain.dq.iter_mut().chain(&mut plain.dk) {
        *gradient *= scale;
    }
    if contrast.is_shared() {
        for (dq, dk) in plain.dq.iter_mut().zip(&plain.dk) {
            *dq += dk;
        }
    }
    if !contrast.has_dk() {
        plain.dk.clear();
    }
    plain
}

/// φ and its derivatives in f32; of the negatives, each its own.
struct Row {
    loss: f32,
    negatives_lse: f32,
    negatives: Vec<f32>,
    positive: f32,
    slope: f32,
}

impl Row {
    fn new(rule: RowRule, negatives: &[f32], positive: f32, context: &RowContext) -> Self {
        let largest = negatives.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let exponentials: Vec<f32> = negatives.iter().map(|z| (z - largest).exp()).collect();
        let sum: f32 = exponentials.iter().sum();
        let negatives_lse = match negatives {
            [] => f32::NEG_INFINITY,
            _ => largest + sum.ln(),
        };
        let values = rule.values(f64::from(negatives_lse), f64::from(positive), context);
        let mass = values.negatives as f32;
        Self {
            loss: values.value as f32,
            negatives_lse,
            negatives: exponentials.iter().map(|e| mass * (e / sum)).collect(),
            positive: values.positive as f32,
            slope: values.scale as f32,
        }
    }

    fn record(&self, positive: f32, statistics: &mut RowStatistics) {
        statistics.negatives_lse.push(self.negatives_lse);
        statistics.positive.push(positive);
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
    T::widen(&rows.contiguous(), &mut numbers);
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
