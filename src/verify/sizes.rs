//! The sizes of each output's terms, in float64: [the rule](super::rule) derives the allowed rounding from them.

use super::rule::magnitude;
use crate::element::DType;
use crate::losses::{RowContext, RowLogits, RowRule, RowValues};
use crate::problem::Problem;
use crate::reference::{self, Dense, Logits, Reference};
use crate::rows::Matrix;

/// Sizes of the terms of each sum.
pub(super) struct Sizes {
    /// ζ, the error of a logit.
    pub logit: f64,
    /// The largest factor of a logit in an exponential.
    pub exponent: f64,
    /// How far z₊ moves with the logits, in units of ζ: 1 but for means by soft targets.
    pub mean: f64,
    /// Σ w_i Δφ_i.
    pub loss: f64,
    /// Σ w_i (|φ_i| + what cancels in it).
    pub loss_terms: f64,
    /// max Σ |terms of an element| of dq, of dk and of dbias.
    pub dq: Weighted,
    pub dk: Weighted,
    pub dbias: Weighted,
    /// η Σ |dz_ij| a_ij.
    pub dscale: f64,
    /// Σ |dz_ij ⟨q_i, k_j⟩| + Σ w_i |∂φ_i/∂s|.
    pub dscale_products: Weighted,
}

/// A sum of weights, each times something. A weight can be a difference of parts, such as p − 1/n: an error of a logit is
/// one of the parts, a weight that is stored is rounded as a whole.
#[derive(Clone, Copy, Default)]
pub(super) struct Weighted {
    /// With the sum of the parts' absolute values, times the relative change of each, for each weight.
    pub parts: f64,
    /// With the absolute value of each weight.
    pub weights: f64,
}

impl Weighted {
    fn of(weight: f64) -> Self {
        Self {
            parts: weight,
            weights: weight,
        }
    }

    fn times(self, factor: f64) -> Self {
        Self {
            parts: self.parts * factor.abs(),
            weights: self.weights * factor.abs(),
        }
    }

    fn add(&mut self, other: Self) {
        self.parts += other.parts;
        self.weights += other.weights;
    }

    fn largest(all: &[Self]) -> Self {
        let most = |of: fn(&Self) -> f64| magnitude(&all.iter().map(of).collect::<Vec<_>>());
        Self {
            parts: most(|x| x.parts),
            weights: most(|x| x.weights),
        }
    }
}

/// Bounds of a row's φ and its derivatives when a logit, or a summary of logits, is off by ζ.
struct Row {
    rule: RowRule,
    /// How far φ moves.
    loss: f64,
    /// |φ|, plus the terms where φ is a difference.
    loss_terms: f64,
    /// φ's derivatives at the logits.
    here: RowValues,
    /// The least offsets: exp(z − offset) is the largest weight.
    offsets: [f64; 2],
    /// The relative change of exponentials, in units of ζ; at least 1.
    changes: [f64; 2],
    /// |c|, or the change of c in units of ζ.
    positive: f64,
    /// |∂φ/∂s|, or its change in units of ζ.
    scale: f64,
    /// ζ.
    logit: f64,
}

impl Row {
    /// `logit` is ζ, of means `mean` times that.
    fn new(
        rule: RowRule,
        logits: &RowLogits,
        context: &RowContext,
        (logit, mean): (f64, f64),
    ) -> Self {
        let here = rule.values(logits, context);
        let mean_error = rule.weights().unwrap_or_default() * logit / context.scale;
        let [first, second] = rule.exponents().unwrap_or([1.0; 2]);
        type Move = fn(&mut RowLogits, &mut RowContext, f64);
        let moves: [(Move, f64); 5] = [
            (|logits, _, off| logits.negatives_lse += off, first * logit),
            (|logits, _, off| logits.positive += off, mean * logit),
            (|logits, _, off| logits.second_lse += off, second * logit),
            (|logits, _, off| logits.negatives_mean += off, mean * logit),
            (|_, context, off| context.log_mean += off, mean_error),
        ];
        let moved = |(change, off): (Move, f64)| {
            let (mut logits, mut context) = (*logits, *context);
            change(&mut logits, &mut context, off);
            rule.values(&logits, &context)
        };
        let all = moves.iter().flat_map(|&(of, off)| [(of, off), (of, -off)]);
        let all: Vec<RowValues> = all.map(moved).collect();
        let most = |of: &dyn Fn(&RowValues) -> f64| all.iter().map(of).fold(0.0, f64::max);
        let least = |of: fn(&RowValues) -> f64| all.iter().map(of).fold(of(&here), f64::min);
        // A row that enters or leaves the debiased loss's clamp, where weights are 0, changes them by 100%.
        let change = |of: fn(&RowValues) -> f64| {
            let relative = most(&|row| match (of(&here), of(row)) {
                (here, there) if here == there => 0.0,
                (f64::INFINITY, _) | (_, f64::INFINITY) => 1.0,
                (here, there) => (here - there).exp_m1().abs(),
            });
            (relative / logit).max(1.0)
        };
        let or_moved = |of: fn(&RowValues) -> f64| {
            let moved = most(&|row| (of(row) - of(&here)).abs());
            of(&here).abs().max(moved / logit)
        };
        let (z, mean_of_negatives) = (logits.positive, logits.negatives_mean);
        let of_targets = || {
            let entropy = match rule {
                RowRule::SoftTargets {
                    divergence: true, ..
                } => logits.second_lse.abs() + mean_of_negatives.abs(),
                _ => 0.0,
            };
            logits.negatives_lse.abs() + z.abs() + entropy
        };
        let cancelling = if rule.is_alignment() {
            2.0 + (here.positive * z).abs()
        } else if rule.is_pointwise() {
            0.0
        } else if rule.target_scale().is_some() {
            of_targets()
        } else if rule.takes_sets() && here.value != 0.0 {
            // The differences of lse⁺, or lse⁻, and the mean of the positives, and of both means.
            let lse = match rule.needs_negatives() {
                true => logits.negatives_lse,
                false => logits.second_lse,
            };
            let of_negatives = here.uniform * logits.negatives * (z - mean_of_negatives);
            (lse - z).abs() + of_negatives.abs()
        } else if rule.has_one_mass() || here.negatives == 0.0 {
            0.0
        } else {
            let lse = match rule.exponents() {
                Some(_) => logits.negatives_lse - logits.second_lse,
                None => logits.negatives_lse,
            };
            (here.negatives * lse).abs() + (here.positive * z).abs()
        };
        Self {
            rule,
            loss: most(&|row| (row.value - here.value).abs()),
            loss_terms: here.value.abs() + cancelling,
            here,
            offsets: [least(|row| row.offset), least(|row| row.second)],
            changes: [change(|row| row.offset), change(|row| row.second)],
            positive: or_moved(|row| row.positive),
            scale: or_moved(|row| row.scale),
            logit,
        }
    }

    /// ∂φ/∂z of a logit `z`, whose target's logit is `target`.
    fn weight(&self, z: f64, target: Option<f64>, is_positive: bool) -> Weighted {
        if let Some(bias) = self.rule.logit_bias() {
            let x = z + f64::from(bias);
            let weight = 1.0 / (1.0 + if is_positive { x } else { -x }.exp());
            // ζ changes it by less than ζ of itself.
            return Weighted::of(weight);
        }
        let exponents = self.rule.exponents();
        let [first, second] = exponents.unwrap_or([1.0; 2]);
        let exponential = |which: usize, exponent: f64| {
            (exponent * z - self.offsets[which]).exp() * self.changes[which] * exponent
        };
        let sets = self.rule.takes_sets();
        let RowValues {
            offset,
            second: second_offset,
            positive,
            uniform,
            ..
        } = self.here;
        let (parts, weight) = match (is_positive, exponents) {
            _ if let Some(u) = target => (
                exponential(0, 1.0) + (u - self.offsets[1]).exp() * self.changes[1],
                (z - offset).exp() - (u - second_offset).exp(),
            ),
            (true, _) if sets => {
                let weight = self.rule.second_sign() * (z - second_offset).exp();
                (
                    exponential(1, 1.0) + self.positive + uniform,
                    weight - positive - uniform,
                )
            }
            (false, _) if sets => (exponential(0, 1.0) + uniform, (z - offset).exp() - uniform),
            (true, _) => return Weighted::of(self.positive),
            (false, None) => return Weighted::of(exponential(0, 1.0)),
            (false, Some(_)) => {
                let weight = (first * z - offset).exp() - (second * z - second_offset).exp();
                (exponential(0, first) + exponential(1, second), weight)
            }
        };
        Weighted {
            parts,
            weights: weight.abs() + self.logit * parts,
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
        let matrices = problem.matrices();
        let q = matrices.anchors;
        let Logits {
            logits,
            targets,
            rows: of_rows,
            ..
        } = Logits::new(problem, |x| x);
        let (n, m) = (shape.anchors, (&logits).dim());
        let own_columns = m - shape.candidates;
        let candidate = |i: usize, j: usize| reference::candidate(problem, i, j);
        // The product of a candidate that an anchor excludes enters no output.
        let seen: Vec<(usize, usize, bool)> = (0..n)
            .flat_map(|i| {
                let [positives, negatives] = &of_rows[i];
                let positives = positives.iter().map(move |&j| (i, j, true));
                positives.chain(negatives.iter().map(move |&j| (i, j, false)))
            })
            .collect();

        let epsilon = spacing(DType::F32);
        let eta = product_error(input).max(1.0 + (shape.dim as f64).sqrt() / 2.0) * epsilon;
        let mut products = vec![(0.0, 0.0); n * m];
        let mut logit = 0.0f64;
        for &(i, j, _) in &seen {
            let terms = q.row(i).iter().zip(candidate(i, j)).map(|(q, k)| q * k);
            let size: f64 = terms.clone().map(f64::abs).sum();
            products[i * m + j] = (terms.sum(), size);
            let bias = problem.column_bias().map_or(0.0, |bias| bias[j].abs());
            logit = logit.max(scale * eta * size + epsilon * f64::from(bias));
            if let (Some([u, p]), Some(target_scale)) =
                (matrices.targets, contrast.rule().target_scale())
            {
                let terms = u.row(i % u.rows()).iter().zip(p.row(j));
                let size: f64 = terms.map(|(u, p)| (u * p).abs()).sum();
                let bias = problem.target_bias().map_or(0.0, |bias| bias[j].abs());
                logit = logit.max(f64::from(target_scale) * eta * size + epsilon * f64::from(bias));
            }
        }
        // Σ_j t_ij (1 + |z_ij − z̄_i|), and the same of the targets' own logits.
        let mean_of = |(i, target): (usize, &[f64])| -> f64 {
            let rows = &reference.rows;
            let (lse, z, u) = (rows.second_lse[i], rows.positive[i], rows.negatives_mean[i]);
            let pairs = logits.row(i).iter().zip(target);
            let of = |(logit, target): (&f64, &f64)| {
                (target - lse).exp() * ((logit - z).abs() + (target - u).abs())
            };
            1.0 + pairs.map(of).sum::<f64>()
        };
        let mean = targets.as_ref().map_or(1.0, |targets| {
            let means = (0..n).map(|i| mean_of((i, targets.row(i))));
            means.fold(1.0, f64::max)
        });

        let positives = reference.rows.positive.iter().copied();
        let context = RowContext::new(contrast.rule(), scale, problem.negatives(), positives);
        let direction = |values: &reference::RowValues| -> Vec<Row> {
            let row = |i| Row::new(contrast.rule(), &values.logits(i), &context, (logit, mean));
            (0..values.loss.len()).map(row).collect()
        };
        let rows = direction(&reference.rows);
        let columns = reference.columns.as_ref().map(direction);
        let weights = problem.row_weights();
        let row_weight = contrast.row_weight(n) * reference.counted;
        let weight_of = |i: usize| row_weight * weights.map_or(1.0, |w| f64::from(w[i]));
        let sum = |of: fn(&Row) -> f64| -> f64 {
            let all = [Some(&rows), columns.as_ref()].into_iter().flatten();
            let all = all.flat_map(|rows| rows.iter().enumerate());
            let counts = |(i, _): &(usize, &Row)| weight_of(*i) != 0.0;
            all.filter(counts)
                .map(|(i, row)| weight_of(i) * of(row))
                .sum()
        };

        let mut sizes = Self {
            logit,
            mean,
            exponent: contrast.rule().exponents().map_or(1.0, |[first, _]| first),
            loss: sum(|row| row.loss),
            loss_terms: sum(|row| row.loss_terms),
            dq: Weighted::default(),
            dk: Weighted::default(),
            dbias: Weighted::default(),
            dscale: 0.0,
            dscale_products: Weighted::of(upstream.abs() * sum(|row| row.scale)),
        };
        let mut dq = vec![Weighted::default(); n * shape.dim];
        let mut dk = vec![Weighted::default(); shape.candidates * shape.dim];
        let mut dbias = vec![Weighted::default(); m];
        let has_one_bias = contrast.rule().is_pointwise();
        for &(i, j, is_positive) in &seen {
            let (product, size) = products[i * m + j];
            let z = logits.row(i)[j];
            let target = targets.as_ref().map(|targets| targets.row(i)[j]);
            let mut dz = Weighted::default();
            let directions = [
                Some((&rows, i)),
                columns.as_ref().map(|columns| (columns, j)),
            ];
            for (rows, i) in directions.into_iter().flatten() {
                if weight_of(i) != 0.0 {
                    dz.add(rows[i].weight(z, target, is_positive).times(weight_of(i)));
                }
            }
            let dz = dz.times(upstream);
            sizes.dscale += eta * dz.weights * size;
            sizes.dscale_products.add(dz.times(product));
            dbias[if has_one_bias { 0 } else { j }].add(dz);
            let pairs = q.row(i).iter().zip(candidate(i, j));
            for (d, (q, k)) in pairs.enumerate() {
                dq[i * shape.dim + d].add(dz.times(scale * k));
                if own_columns == 0 {
                    dk[j * shape.dim + d].add(dz.times(scale * q));
                }
            }
        }
        if contrast.is_shared() {
            for (dq, dk) in dq.iter_mut().zip(&dk) {
                dq.add(*dk);
            }
        }
        sizes.dq = Weighted::largest(&dq);
        sizes.dk = Weighted::largest(&dk);
        sizes.dbias = Weighted::largest(&dbias);
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
