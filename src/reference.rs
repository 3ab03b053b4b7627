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
    type Scalar = f64;
}

/// Values of every row (or column) of the logits.
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
    /// upstream × ∂loss/∂z_ij, N × M; where anchors have own keys N × (1+M), the own key's in column 0.
    pub dz: Dense,
    /// upstream × ∂loss/∂q, N × D; for NT-Xent the whole gradient of the one input matrix.
    pub dq: Dense,
    /// upstream × ∂loss/∂k, M × D, where candidates have a gradient.
    pub dk: Option<Dense>,
    /// upstream × ∂loss/∂s.
    pub dscale: f64,
}

/// The loss, row statistics and all gradients of a contrast on float64 inputs.
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
    value_and_grad_rounded(problem, upstream, exact)
}

/// [`value_and_grad`] with every operation's result passed through `round`. Rounding to f32 makes it a plain f32
/// implementation, but φ and its derivatives are computed in f64 and rounded once.
pub(crate) fn value_and_grad_rounded(
    problem: &Problem<&Dense>,
    upstream: f64,
    round: impl Fn(f64) -> f64 + Copy,
) -> Reference {
    let contrast = problem.contrast();
    let shape = problem.shape();
    let scale = problem.scale().unwrap_or(f64::from(contrast.scale()));
    let n = shape.anchors;
    let row_weight = round(contrast.row_weight(n));
    let weight = round(upstream * row_weight);

    // Candidate j of anchor i: its own key is column 0 where it has one; the rows of k follow.
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
    let in_k = problem.positive_candidates();
    let positive = |i: usize| own_keys.map(|_| 0).or(in_k[i]);
    let is_negative =
        |i: usize, j: usize| Some(j) != positive(i) && !(contrast.excludes_self() && i == j);

    let products = Dense::from_fn(n, m, |i, j| dot(q.row(i), candidate(i, j), round));
    let logits = Dense::from_fn(n, m, |i, j| round(scale * products.row(i)[j]));
    let logit = |(i, j): (usize, usize)| logits.row(i)[j];
    let of_positive = |cell: Option<(usize, usize)>| cell.map_or(f64::NEG_INFINITY, logit);

    let positives: Vec<Option<(usize, usize)>> = (0..n).map(|i| Some((i, positive(i)?))).collect();
    let of_positives: Vec<f64> = positives.iter().copied().map(of_positive).collect();
    let context = RowContext {
        scale,
        negatives: problem.negatives() as f64,
        log_mean: log_mean(contrast.rule(), scale, &of_positives),
    };
    let mut dz = Dense::from_fn(n, m, |_, _| 0.0);
    // Adds the loss of a row or column, given the cells of its negatives and its positive.
    let mut add = |values: &mut RowValues, negatives: Vec<(usize, usize)>, positive| {
        let of_negatives: Vec<f64> = negatives.iter().copied().map(logit).collect();
        let z = of_positive(positive);
        let mut slopes = values.push(contrast.rule(), &of_negatives, z, &context, round);
        slopes.extend(values.positive_mass.last().map(|mass| -mass));
        for ((i, j), slope) in negatives.into_iter().chain(positive).zip(slopes) {
            let dz = &mut dz.row_mut(i)[j];
            *dz = round(*dz + round(weight * slope));
        }
    };
    let mut rows = RowValues::default();
    for (i, &positive) in positives.iter().enumerate() {
        let negatives = (0..m).filter(|&j| is_negative(i, j)).map(|j| (i, j));
        add(&mut rows, negatives.collect(), positive);
    }
    let columns = contrast.has_columns().then(|| {
        let mut columns = RowValues::default();
        for j in 0..m {
            let negatives = (0..n).filter(|&i| i != j).map(|i| (i, j));
            add(&mut columns, negatives.collect(), Some((j, j)));
        }
        columns
    });

    let directions = || [Some(&rows), columns.as_ref()].into_iter().flatten();
    let of_rows = |weight: f64, values: fn(&RowValues) -> &Vec<f64>| {
        let values = directions().flat_map(values).copied();
        round(weight * sum(values, round))
    };
    let loss = of_rows(row_weight, |rows| &rows.loss);
    let slopes = of_rows(weight, |rows| &rows.scale_slope);
    let of_logits = (0..n).map(|i| dot(dz.row(i), products.row(i), round));
    let dscale = round(sum(of_logits, round) + slopes);
    let mut dq = Dense::from_fn(n, shape.dim, |_, _| 0.0);
    let mut dk = Dense::from_fn(shape.candidates, shape.dim, |_, _| 0.0);
    for i in 0..n {
        for j in 0..m {
            let dproduct = round(scale * dz.row(i)[j]);
            add_scaled(dq.row_mut(i), dproduct, candidate(i, j), round);
            if own_keys.is_none() {
                add_scaled(dk.row_mut(j), dproduct, q.row(i), round);
            }
        }
    }
    if contrast.is_shared() {
        add_scaled(dq.as_mut_slice(), 1.0, dk.as_slice(), round);
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

/// log of the mean of exp(z₊/(s·σ)) over the rows that have a positive; 0 for a rule without σ.
fn log_mean(rule: RowRule, scale: f64, positives: &[f64]) -> f64 {
    let Some(inverse) = rule.weights() else {
        return 0.0;
    };
    let of_rows = positives.iter().filter(|z| z.is_finite());
    let exponents: Vec<f64> = of_rows.map(|z| z / scale * inverse).collect();
    let largest = largest(&exponents);
    let total: f64 = exponents.iter().map(|x| (x - largest).exp()).sum();
    largest + (total / exponents.len() as f64).ln()
}

impl RowValues {
    /// Appends a row of these logits; returns ∂φ/∂z of each negative.
    fn push(
        &mut self,
        rule: RowRule,
        negatives: &[f64],
        positive: f64,
        context: &RowContext,
        round: impl Fn(f64) -> f64 + Copy,
    ) -> Vec<f64> {
        let largest = largest(negatives);
        let exponentials = negatives.iter().map(|z| round(round(z - largest).exp()));
        let total = sum(exponentials.clone(), round);
        // −∞ without negatives.
        let negatives_lse = round(largest + round(total.ln()));
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
        let [a, minus_c, scale_slope] = value.slopes.map(round);
        self.loss.push(round(value.value));
        self.negatives_lse.push(negatives_lse);
        self.positive.push(positive);
        self.negatives_mass.push(a);
        self.positive_mass.push(-minus_c);
        self.scale_slope.push(scale_slope);
        exponentials.map(|x| round(a * round(x / total))).collect()
    }
}

/// y_i = x_i / max(‖x_i‖, epsilon); returns y and the norms ‖x_i‖.
pub fn normalize(x: &Dense, epsilon: f64) -> (Dense, Vec<f64>) {
    normalize_rounded(x, epsilon, exact)
}

/// [`normalize`] with every operation's result passed through `round`.
pub(crate) fn normalize_rounded(
    x: &Dense,
    epsilon: f64,
    round: impl Fn(f64) -> f64 + Copy,
) -> (Dense, Vec<f64>) {
    let norm = |i: usize| round(dot(x.row(i), x.row(i), round).sqrt());
    let norms: Vec<f64> = (0..x.rows).map(norm).collect();
    let divisor = |i: usize| match norms[i] < epsilon {
        true => epsilon,
        false => norms[i],
    };
    let y = Dense::from_fn(x.rows, x.dim, |i, d| round(x.row(i)[d] / divisor(i)));
    (y, norms)
}

/// dx_i = (dy_i − y_i⟨y_i, dy_i⟩)/‖x_i‖, and dy_i/epsilon where ‖x_i‖ ≤ epsilon, for a dx that is stored in
/// the type `gradient`.
///
/// A row is *short* where ‖x_i‖ ≤ max(epsilon, the smallest normal number of `gradient`). If an element of a
/// short row's dx rounds to infinity in `gradient`, though y_i and dy_i are finite, the whole row is 0: its
/// direction is rounding error, and one infinity would end training. Longer rows keep their infinities, which
/// loss scaling looks for. A longer row overflows only if ‖dy_i‖ is about 4 or more, because the smallest normal
/// number times the largest is about 4 in all three types.
pub fn normalize_backward(
    y: &Dense,
    norms: &[f64],
    dy: &Dense,
    epsilon: f64,
    gradient: DType,
) -> Dense {
    normalize_backward_rounded([y, dy], norms, epsilon, gradient, exact)
}

/// [`normalize_backward`] with every operation's result passed through `round`.
pub(crate) fn normalize_backward_rounded(
    [y, dy]: [&Dense; 2],
    norms: &[f64],
    epsilon: f64,
    gradient: DType,
    round: impl Fn(f64) -> f64 + Copy,
) -> Dense {
    let short = epsilon.max(f64::from(gradient.min_positive()));
    let along = |i: usize| dot(y.row(i), dy.row(i), round);
    let along: Vec<f64> = (0..y.rows).map(along).collect();
    let mut dx = Dense::from_fn(y.rows, y.dim, |i, d| match norms[i] <= epsilon {
        true => round(dy.row(i)[d] / epsilon),
        false => round(round(dy.row(i)[d] - round(y.row(i)[d] * along[i])) / norms[i]),
    });
    for (i, &norm) in norms.iter().enumerate() {
        let mut given = y.row(i).iter().chain(dy.row(i));
        let mut left = dx.row(i).iter();
        if norm <= short
            && given.all(|x| x.is_finite())
            && left.any(|&x| !gradient.round(x).is_finite())
        {
            dx.row_mut(i).fill(0.0);
        }
    }
    dx
}

/// m·key + (1−m)·query.
pub fn momentum_update(momentum: f64, query: &[f64], key: &[f64]) -> Vec<f64> {
    let pairs = key.iter().zip(query);
    pairs
        .map(|(key, query)| momentum * key + (1.0 - momentum) * query)
        .collect()
}

/// The bank after an update: row r = rows\[i\] becomes y/max(‖y‖, 10⁻¹²), y = m·bank_r + (1−m)·keys_i, from the bank
/// before the update. The last of several keys of one row counts; an index beyond the last row names none.
pub fn update_rows(bank: &Dense, rows: &[u32], keys: &Dense, momentum: f64) -> Dense {
    update_rows_rounded(bank, rows, keys, momentum, exact)
}

/// [`update_rows`] with every operation's result passed through `round`.
pub(crate) fn update_rows_rounded(
    bank: &Dense,
    rows: &[u32],
    keys: &Dense,
    momentum: f64,
    round: impl Fn(f64) -> f64 + Copy,
) -> Dense {
    let mut updated = bank.clone();
    let rest = round(1.0 - momentum);
    for (i, &row) in rows.iter().enumerate() {
        let row = row as usize;
        if row < bank.rows {
            let y = Dense::from_fn(1, bank.dim, |_, d| {
                round(round(momentum * bank.row(row)[d]) + round(rest * keys.row(i)[d]))
            });
            let (unit, _) = normalize_rounded(&y, 1e-12, round);
            updated.row_mut(row).copy_from_slice(unit.row(0));
        }
    }
    updated
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
            .map(|j| (j, dot(queries.row(i), candidates.row(j), exact)))
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
