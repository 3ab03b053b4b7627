//! The definition of every verb in float64: it stores the whole logit matrix and is naive on purpose.
//!
//! Read it to know what an engine must compute; never call it on anything large. Nothing here is
//! shared with an engine: a loss's formula φ stands in its file of `src/losses/`, in numbers that know their
//! derivatives. With the logits z_ij = s·⟨q_i, k_j⟩, and the positive apart from the rest:
//! ```text
//! lse⁻_i = log Σ_{negatives} exp z_ij          loss_i = φ(lse⁻_i, z₊)
//! a_i    = ∂φ/∂lse⁻                            c_i    = −∂φ/∂z₊
//! dz_ij  = w_i·g·a_i·exp(z_ij − lse⁻_i)        dz_i₊  = −w_i·g·c_i
//! dq_i   = s Σ_j dz_ij k_j     dk_j = s Σ_i dz_ij q_i     ds = Σ_ij dz_ij ⟨q_i, k_j⟩ + Σ_i w_i·g·∂φ/∂s
//! ```
//! with w_i the row's weight and g the upstream gradient. For InfoNCE φ = softplus(lse⁻ − z₊) and
//! a = c = 1 − p₊. Written like this nothing cancels when p₊ → 1; the textbook's p₊ − 1 loses every digit at
//! 1 − p₊ = 10⁻¹⁶.

use half::{bf16, f16};

use crate::element::{DType, Element};
use crate::inputs::{Matrices, Problem};
use crate::losses::{Dual, RowContext, RowRule};
use crate::rows::{Matrix, Rows, View};

/// A matrix of f64, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Dense {
    rows: usize,
    dim: usize,
    data: Vec<f64>,
}

impl Dense {
    /// `rows` × `dim` numbers given by `value(row, column)`.
    pub fn from_fn(rows: usize, dim: usize, mut value: impl FnMut(usize, usize) -> f64) -> Self {
        let cells = (0..rows).flat_map(|i| (0..dim).map(move |d| (i, d)));
        let data = cells.map(|(i, d)| value(i, d)).collect();
        Self { rows, dim, data }
    }

    /// The same numbers, widened; exact.
    pub fn from_rows<T: Element>(rows: Rows<'_, T>) -> Self {
        Self::from_fn(rows.rows(), rows.dim(), |i, d| {
            f64::from(rows.row(i)[d].to_f32())
        })
    }

    /// All numbers, row after row.
    pub fn as_slice(&self) -> &[f64] {
        &self.data
    }

    /// All numbers, row after row, to be changed.
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
    type Scalar = f64;
}

/// What is known of every row (or column) of the logits.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RowValues {
    /// loss_i = φ, unweighted.
    pub loss: Vec<f64>,
    /// lse⁻_i over the negatives; −∞ for a row without any.
    pub negatives_lse: Vec<f64>,
    /// z₊, the positive's logit; −∞ for a row without one.
    pub positive: Vec<f64>,
    /// a_i = ∂φ/∂lse⁻; 1 − p₊ for a softmax.
    pub negatives_mass: Vec<f64>,
    /// c_i = −∂φ/∂z₊; 1 − p₊ for a softmax.
    pub positive_mass: Vec<f64>,
    /// ∂φ/∂s at fixed lse⁻ and z₊.
    pub scale_slope: Vec<f64>,
}

/// A contrast's value and gradients.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference {
    /// The reduced loss, not multiplied by the upstream gradient.
    pub loss: f64,
    /// One entry per anchor.
    pub rows: RowValues,
    /// One entry per candidate, where columns have a loss.
    pub columns: Option<RowValues>,
    /// upstream × ∂loss/∂z_ij, N × M; where anchors have own keys N × (1+M), the own key's logit in front.
    pub dz: Dense,
    /// upstream × ∂loss/∂q, N × D; for NT-Xent ∂loss/∂z, both roles of z together.
    pub dq: Dense,
    /// upstream × ∂loss/∂k, M × D, where candidates have a gradient.
    pub dk: Option<Dense>,
    /// upstream × ∂loss/∂s.
    pub dscale: f64,
}

/// A contrast on float64 inputs.
///
/// ```
/// use infonce::reference::{self, Dense};
/// use infonce::{Contrast, Inputs};
/// // Four equal rows: three candidates each, all with the same logit.
/// let z = Dense::from_fn(4, 2, |_, _| 1.0);
/// let problem = Contrast::nt_xent(0.5)?.on(Inputs::Shared { z: &z })?;
/// let value = reference::value_and_grad(&problem, 1.0);
/// assert!((value.loss - 3f64.ln()).abs() < 1e-12);
/// # Ok::<(), infonce::Error>(())
/// ```
pub fn value_and_grad(problem: &Problem<&Dense>, upstream: f64) -> Reference {
    let contrast = problem.contrast();
    let shape = problem.shape();
    let scale = problem.scale().unwrap_or(f64::from(contrast.scale()));
    let n = shape.anchors;
    let weight = upstream * contrast.row_weight(n);

    // The candidates of anchor i: all rows of k, behind a column with its own key where it has one.
    let Matrices {
        anchors: q,
        candidates: k,
        own_keys,
    } = problem.matrices();
    let own_columns = usize::from(own_keys.is_some());
    let m = own_columns + shape.candidates;
    let candidate = |i: usize, j: usize| match own_keys {
        Some(own_keys) if j == 0 => own_keys.row(i),
        _ => k.row(j - own_columns),
    };
    let place = problem.positive_candidates();
    let positive = |i: usize| own_keys.map(|_| 0).or(place[i]);
    let is_negative =
        |i: usize, j: usize| Some(j) != positive(i) && !(contrast.excludes_self() && i == j);

    let products = Dense::from_fn(n, m, |i, j| dot(q.row(i), candidate(i, j)));
    let logits = Dense::from_fn(n, m, |i, j| scale * products.row(i)[j]);
    let logit = |i: usize, j: Option<usize>| j.map_or(f64::NEG_INFINITY, |j| logits.row(i)[j]);

    let positives: Vec<f64> = (0..n).map(|i| logit(i, positive(i))).collect();
    let context = RowContext {
        scale,
        negatives: problem.negatives() as f64,
        log_mean: log_mean(contrast.rule(), scale, &positives),
    };
    let mut dz = Dense::from_fn(n, m, |_, _| 0.0);
    let mut rows = RowValues::default();
    for (i, &z) in positives.iter().enumerate() {
        let negatives: Vec<usize> = (0..m).filter(|&j| is_negative(i, j)).collect();
        let of_negatives: Vec<f64> = negatives.iter().map(|&j| logits.row(i)[j]).collect();
        rows.push(contrast.rule(), &of_negatives, z, &context);
        for j in negatives {
            dz.row_mut(i)[j] += weight * rows.weight(i, logits.row(i)[j]);
        }
        if let Some(j) = positive(i) {
            dz.row_mut(i)[j] -= weight * rows.positive_mass[i];
        }
    }
    let columns = contrast.has_columns().then(|| {
        let mut columns = RowValues::default();
        for j in 0..m {
            let negatives = (0..n).filter(|&i| i != j);
            let of_negatives: Vec<f64> = negatives.map(|i| logits.row(i)[j]).collect();
            columns.push(contrast.rule(), &of_negatives, logits.row(j)[j], &context);
            for i in (0..n).filter(|&i| i != j) {
                dz.row_mut(i)[j] += weight * columns.weight(j, logits.row(i)[j]);
            }
            dz.row_mut(j)[j] -= weight * columns.positive_mass[j];
        }
        columns
    });

    let mut loss = 0.0;
    let mut dscale = 0.0;
    for direction in [Some(&rows), columns.as_ref()].into_iter().flatten() {
        loss += contrast.row_weight(n) * direction.loss.iter().sum::<f64>();
        dscale += weight * direction.scale_slope.iter().sum::<f64>();
    }
    let mut dq = Dense::from_fn(n, shape.dim, |_, _| 0.0);
    let mut dk = Dense::from_fn(shape.candidates, shape.dim, |_, _| 0.0);
    for i in 0..n {
        for j in 0..m {
            let dz = dz.row(i)[j];
            dscale += dz * products.row(i)[j];
            add_scaled(dq.row_mut(i), scale * dz, candidate(i, j));
            if own_keys.is_none() {
                add_scaled(dk.row_mut(j), scale * dz, q.row(i));
            }
        }
    }
    if contrast.is_shared() {
        add_scaled(dq.as_mut_slice(), 1.0, dk.as_slice());
    }
    Reference {
        loss,
        rows,
        columns,
        dz,
        dq,
        dk: contrast.has_dk().then_some(dk),
        dscale,
    }
}

/// log of the mean over the rows that have a positive of exp(z₊/(s·σ)), where the rule has weights.
fn log_mean(rule: RowRule, scale: f64, positives: &[f64]) -> f64 {
    let Some(inverse) = rule.weights() else {
        return 0.0;
    };
    let of_rows = positives.iter().filter(|z| z.is_finite());
    let exponents: Vec<f64> = of_rows.map(|z| z / scale * inverse).collect();
    log_sum_exp(&exponents) - (exponents.len() as f64).ln()
}

impl RowValues {
    fn push(&mut self, rule: RowRule, negatives: &[f64], positive: f64, context: &RowContext) {
        let negatives_lse = log_sum_exp(negatives);
        let is_empty = (negatives.is_empty() && !positive.is_nan())
            || (positive == f64::NEG_INFINITY && !negatives_lse.is_nan());
        let value = match is_empty {
            true => Dual::constant(0.0),
            false => rule.formula(
                Dual::variable(negatives_lse, 0),
                Dual::variable(positive, 1),
                Dual::variable(context.scale, 2),
                context,
            ),
        };
        let [a, minus_c, scale_slope] = value.slopes;
        self.loss.push(value.value);
        self.negatives_lse.push(negatives_lse);
        self.positive.push(positive);
        self.negatives_mass.push(a);
        self.positive_mass.push(-minus_c);
        self.scale_slope.push(scale_slope);
    }

    /// The weight of a negative with logit `z` in row `i`: ∂φ/∂z.
    fn weight(&self, i: usize, z: f64) -> f64 {
        match self.negatives_mass[i] {
            0.0 => 0.0,
            mass => (mass.ln() + z - self.negatives_lse[i]).exp(),
        }
    }
}

/// y_i = x_i / max(‖x_i‖, epsilon); returns y and the norms ‖x_i‖.
pub fn normalize(x: &Dense, epsilon: f64) -> (Dense, Vec<f64>) {
    let norms: Vec<f64> = (0..x.rows)
        .map(|i| dot(x.row(i), x.row(i)).sqrt())
        .collect();
    let divisor = |i: usize| {
        if norms[i] < epsilon {
            epsilon
        } else {
            norms[i]
        }
    };
    let y = Dense::from_fn(x.rows, x.dim, |i, d| x.row(i)[d] / divisor(i));
    (y, norms)
}

/// dx_i = (dy_i − y_i⟨y_i, dy_i⟩)/‖x_i‖, and dy_i/epsilon where ‖x_i‖ ≤ epsilon, to be stored in
/// `gradient`.
///
/// A row is *short* where ‖x_i‖ ≤ max(epsilon, the smallest normal number of `gradient`). A short row of
/// which a number rounds to infinity in `gradient`, though y_i and dy_i are finite, is 0 as a whole:
/// such a row's direction is rounding, and one infinity would end training. Longer rows keep their
/// infinities, which loss scaling looks for: they need ‖dy_i‖ of about 4 or more, because the smallest
/// normal number times the largest is about 4 in all three types.
pub fn normalize_backward(
    y: &Dense,
    norms: &[f64],
    dy: &Dense,
    epsilon: f64,
    gradient: DType,
) -> Dense {
    let short = epsilon.max(f64::from(gradient.min_positive()));
    let mut dx = Dense::from_fn(y.rows, y.dim, |i, d| {
        if norms[i] <= epsilon {
            dy.row(i)[d] / epsilon
        } else {
            (dy.row(i)[d] - y.row(i)[d] * dot(y.row(i), dy.row(i))) / norms[i]
        }
    });
    for (i, &norm) in norms.iter().enumerate() {
        let mut given = y.row(i).iter().chain(dy.row(i));
        let mut left = dx.row(i).iter();
        if norm <= short
            && given.all(|x| x.is_finite())
            && left.any(|&x| !is_finite_in(gradient, x))
        {
            dx.row_mut(i).fill(0.0);
        }
    }
    dx
}

/// Whether `x`, rounded to `dtype`, is neither infinite nor NaN.
fn is_finite_in(dtype: DType, x: f64) -> bool {
    match dtype {
        DType::F32 => (x as f32).is_finite(),
        DType::F16 => f16::from_f64(x).is_finite(),
        DType::Bf16 => bf16::from_f64(x).is_finite(),
    }
}

/// m·key + (1−m)·query.
pub fn momentum_update(momentum: f64, query: &[f64], key: &[f64]) -> Vec<f64> {
    let pairs = key.iter().zip(query);
    pairs
        .map(|(key, query)| momentum * key + (1.0 - momentum) * query)
        .collect()
}

/// Every query's candidates with their scores ⟨q_i, k_j⟩, best first, cut to `k`: NaN before every
/// number, then the larger score, then the smaller index.
pub fn top_k(
    queries: &Dense,
    candidates: &Dense,
    k: usize,
    exclude_self: bool,
) -> Vec<Vec<(usize, f64)>> {
    let best = |i: usize| {
        let others = (0..candidates.rows).filter(|&j| !(exclude_self && i == j));
        let mut scored: Vec<(usize, f64)> = others
            .map(|j| (j, dot(queries.row(i), candidates.row(j))))
            .collect();
        // The sort is stable, so equal scores stay in index order.
        scored.sort_by(|(_, a), (_, b)| {
            let by_nan = b.is_nan().cmp(&a.is_nan());
            by_nan.then(b.partial_cmp(a).unwrap_or(std::cmp::Ordering::Equal))
        });
        scored.truncate(k);
        scored
    };
    (0..queries.rows).map(best).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add_scaled(sum: &mut [f64], factor: f64, row: &[f64]) {
    for (sum, x) in sum.iter_mut().zip(row) {
        *sum += factor * x;
    }
}

/// log Σ exp; −∞ of nothing.
fn log_sum_exp(logits: &[f64]) -> f64 {
    if logits.is_empty() {
        return f64::NEG_INFINITY;
    }
    let maximum = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    maximum + logits.iter().map(|z| (z - maximum).exp()).sum::<f64>().ln()
}
