//! The sizes of each output's terms, in float64: [the rule](super::rule) derives the allowed rounding from them.

use super::rule::magnitude;
use crate::element::DType;
use crate::inputs::{Matrices, Problem};
use crate::losses::{RowContext, RowLogits, RowRule, RowValues};
use crate::reference::{self, Dense, Reference};

/// Sizes of the terms of each sum.
pub(super) struct Sizes {
    /// ζ, the error of a logit.
    pub logit: f64,
    /// Σ w_i Δφ_i.
    pub loss: f64,
    /// Σ w_i (|φ_i| + what cancels in it).
    pub loss_terms: f64,
    /// max Σ |terms of an element| of dq, and of dk.
    pub dq: f64,
    pub dk: f64,
    /// η Σ |dz_ij| a_ij.
    pub dscale: f64,
    /// Σ |dz_ij ⟨q_i, k_j⟩| + Σ w_i |∂φ_i/∂s|.
    pub dscale_products: f64,
}

/// Bounds of a row's φ and its derivatives when lse⁻ or z₊ is off by ζ.
struct Row {
    /// How far φ moves.
    loss: f64,
    /// |φ|, plus the terms where φ is a difference.
    loss_terms: f64,
    /// The least offset: exp(z − offset) is the largest weight.
    offset: f64,
    /// The relative change of weights, in units of ζ; at least 1.
    weight: f64,
    /// |c|, or the change of c in units of ζ.
    positive: f64,
    /// |∂φ/∂s|, or its change in units of ζ.
    scale: f64,
}

impl Row {
    fn new(rule: RowRule, lse: f64, z: f64, context: &RowContext, logit: f64) -> Self {
        let here = rule.values(&RowLogits::new(lse, z), context);
        let mean_error = rule.weights().unwrap_or_default() * logit / context.scale;
        let moved = |lse_off: f64, z_off: f64, mean_off: f64| {
            let log_mean = context.log_mean + mean_off;
            let context = RowContext {
                log_mean,
                ..*context
            };
            rule.values(&RowLogits::new(lse + lse_off, z + z_off), &context)
        };
        let all: [RowValues; 6] = [
            moved(logit, 0.0, 0.0),
            moved(-logit, 0.0, 0.0),
            moved(0.0, logit, 0.0),
            moved(0.0, -logit, 0.0),
            moved(0.0, 0.0, mean_error),
            moved(0.0, 0.0, -mean_error),
        ];
        let most = |of: &dyn Fn(&RowValues) -> f64| all.iter().map(of).fold(0.0, f64::max);
        let offsets = all.iter().map(|row| row.offset);
        let offset = offsets.fold(here.offset, f64::min);
        // A row that enters or leaves the debiased loss's clamp, where weights are 0, changes them by 100%.
        let weight = most(&|row| match (here.offset, row.offset) {
            (here, there) if here == there => 0.0,
            (f64::INFINITY, _) | (_, f64::INFINITY) => 1.0,
            (here, there) => (here - there).exp_m1().abs(),
        });
        let or_moved = |of: fn(&RowValues) -> f64| {
            let moved = most(&|row| (of(row) - of(&here)).abs());
            of(&here).abs().max(moved / logit)
        };
        let cancelling = match rule.has_one_mass() || here.negatives == 0.0 {
            true => 0.0,
            false => (here.negatives * lse).abs() + (here.positive * z).abs(),
        };
        Self {
            loss: most(&|row| (row.value - here.value).abs()),
            loss_terms: here.value.abs() + cancelling,
            offset,
            weight: (weight / logit).max(1.0),
            positive: or_moved(|row| row.positive),
            scale: or_moved(|row| row.scale),
        }
    }

    /// The largest term that a logit `z` can have, times the change of its weight.
    fn term(&self, z: f64, is_positive: bool) -> f64 {
        match is_positive {
            true => self.positive,
            false => (z - self.offset).exp() * self.weight,
        }
    }
}

impl Sizes {
    pub fn new(
        problem: &Problem<&Dense>,
        reference: &Reference,
        upstream: f64,
        input: DType,
    ) -> Self {
        let (contrast, shape) = (problem.contrast(), problem.shape());
        let scale = f64::from(contrast.scale());
        let Matrices {
            anchors: q,
            candidates: k,
            own_keys,
        } = problem.matrices();
        let own_columns = usize::from(own_keys.is_some());
        let (n, m) = (shape.anchors, own_columns + shape.candidates);
        let candidate = |i: usize, j: usize| match own_keys {
            Some(own_keys) if j == 0 => own_keys.row(i),
            _ => k.row(j - own_columns),
        };
        let place = problem.positive_candidates();
        let is_positive = |i: usize, j: usize| match own_keys {
            Some(_) => j == 0,
            None => place[i] == Some(j),
        };
        // The product of an excluded candidate enters no output.
        let is_seen = |i: usize, j: usize| !(contrast.excludes_self() && i == j);

        let eta =
            product_error(input).max(1.0 + (shape.dim as f64).sqrt() / 2.0) * spacing(DType::F32);
        let mut products = vec![(0.0, 0.0); n * m];
        let mut logit = 0.0f64;
        for i in 0..n {
            for j in (0..m).filter(|&j| is_seen(i, j)) {
                let terms = q.row(i).iter().zip(candidate(i, j)).map(|(q, k)| q * k);
                let size: f64 = terms.clone().map(f64::abs).sum();
                products[i * m + j] = (terms.sum(), size);
                logit = logit.max(scale * eta * size);
            }
        }

        let positives = reference.rows.positive.iter().copied();
        let context = RowContext::new(contrast.rule(), scale, problem.negatives(), positives);
        let direction = |values: &reference::RowValues| -> Vec<Row> {
            let pairs = values.negatives_lse.iter().zip(&values.positive);
            pairs
                .map(|(&lse, &z)| Row::new(contrast.rule(), lse, z, &context, logit))
                .collect()
        };
        let rows = direction(&reference.rows);
        let columns = reference.columns.as_ref().map(direction);
        let all = || rows.iter().chain(columns.iter().flatten());
        let weight = contrast.row_weight(n);
        let sum = |of: fn(&Row) -> f64| weight * all().map(of).sum::<f64>();

        let mut sizes = Self {
            logit,
            loss: sum(|row| row.loss),
            loss_terms: sum(|row| row.loss_terms),
            dq: 0.0,
            dk: 0.0,
            dscale: 0.0,
            dscale_products: upstream.abs() * sum(|row| row.scale),
        };
        let mut dq = vec![0.0; n * shape.dim];
        let mut dk = vec![0.0; shape.candidates * shape.dim];
        for i in 0..n {
            for j in (0..m).filter(|&j| is_seen(i, j)) {
                let (product, size) = products[i * m + j];
                let term = |row: &Row| row.term(scale * product, is_positive(i, j));
                let both = term(&rows[i]) + columns.as_ref().map_or(0.0, |rows| term(&rows[j]));
                let dz = upstream.abs() * weight * both;
                sizes.dscale += eta * dz * size;
                sizes.dscale_products += (dz * product).abs();
                let pairs = q.row(i).iter().zip(candidate(i, j));
                for (d, (q, k)) in pairs.enumerate() {
                    dq[i * shape.dim + d] += (scale * dz * k).abs();
                    if own_keys.is_none() {
                        dk[j * shape.dim + d] += (scale * dz * q).abs();
                    }
                }
            }
        }
        if contrast.is_shared() {
            for (dq, dk) in dq.iter_mut().zip(&dk) {
                *dq += dk;
            }
        }
        sizes.dq = magnitude(&dq);
        sizes.dk = magnitude(&dk);
        sizes
    }
}

/// p of [the rule](super::rule): the relative error of a product of two inputs, in spacings of f32 at 1. Three
/// products of tf32 are off by 3·2⁻²².
pub(super) fn product_error(input: DType) -> f64 {
    match input {
        DType::F32 => 6.0,
        DType::F16 | DType::Bf16 => 1.0,
    }
}

/// Distance from 1 to the next larger number.
pub(super) fn spacing(dtype: DType) -> f64 {
    f64::from(match dtype {
        DType::F32 => f32::EPSILON,
        DType::F16 => half::f16::EPSILON.to_f32(),
        DType::Bf16 => half::bf16::EPSILON.to_f32(),
    })
}
