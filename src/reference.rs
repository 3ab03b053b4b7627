//! The definition of every verb in float64: it stores the whole logit matrix and is naive on purpose.
//!
//! Read it to know what an engine must compute; never call it on anything large. Nothing here is
//! shared with an engine. With the logits z_ij = s·⟨q_i, k_j⟩, and the positive apart from the rest:
//! ```text
//! lse⁻_i = log Σ_{negatives} exp z_ij          loss_i = softplus(lse⁻_i − z₊)
//! σ_i    = sigmoid(lse⁻_i − z₊) = 1 − p₊       lse_i  = z₊ + loss_i
//! dz_ij  = w_i·g·exp(z_ij − lse_i)             dz_i₊  = −w_i·g·σ_i
//! dq_i   = s Σ_j dz_ij k_j     dk_j = s Σ_i dz_ij q_i     ds = Σ_ij dz_ij ⟨q_i, k_j⟩
//! ```
//! with w_i the row's weight and g the upstream gradient. Written like this nothing cancels when
//! p₊ → 1; the textbook's p₊ − 1 loses every digit at 1 − p₊ = 10⁻¹⁶.

use half::{bf16, f16};

use crate::contrast::{Contrast, Inputs};
use crate::element::{DType, Element};
use crate::error::Error;
use crate::rows::{Matrix, Rows};

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

/// What is known of every row (or column) of the logits.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RowValues {
    /// loss_i, unweighted.
    pub loss: Vec<f64>,
    /// lse_i over all allowed candidates.
    pub lse: Vec<f64>,
    /// lse⁻_i over the negatives; −∞ for a row without any.
    pub negatives_lse: Vec<f64>,
    /// z₊, the positive's logit.
    pub positive: Vec<f64>,
    /// σ_i = 1 − p₊.
    pub one_minus_positive: Vec<f64>,
}

/// A contrast's value and gradients.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference {
    /// The reduced loss, not multiplied by the upstream gradient.
    pub loss: f64,
    /// One entry per anchor.
    pub rows: RowValues,
    /// One entry per candidate, for CLIP alone.
    pub columns: Option<RowValues>,
    /// upstream × ∂loss/∂z_ij, N × M; for MoCo N × (1+M) with the own key's logit in front.
    pub dz: Dense,
    /// upstream × ∂loss/∂q, N × D; for NT-Xent ∂loss/∂z, both roles of z together.
    pub dq: Dense,
    /// upstream × ∂loss/∂k, M × D, for InfoNCE and CLIP.
    pub dk: Option<Dense>,
    /// upstream × ∂loss/∂s.
    pub dscale: f64,
}

/// A contrast on float64 inputs.
///
/// # Errors
/// Those of [`Contrast::check`].
///
/// ```
/// use infonce::reference::{self, Dense};
/// use infonce::{Contrast, Inputs};
/// // Four equal rows: three candidates each, all with the same logit.
/// let z = Dense::from_fn(4, 2, |_, _| 1.0);
/// let value = reference::value_and_grad(&Contrast::nt_xent(0.5)?, &Inputs::Shared { z: &z }, 1.0)?;
/// assert!((value.loss - 3f64.ln()).abs() < 1e-12);
/// # Ok::<(), infonce::Error>(())
/// ```
pub fn value_and_grad(
    contrast: &Contrast,
    inputs: &Inputs<&Dense>,
    upstream: f64,
) -> Result<Reference, Error> {
    value_and_grad_at(contrast, f64::from(contrast.scale()), inputs, upstream)
}

/// [`value_and_grad`] at another scale than the contrast's own, which is rounded to f32: finite
/// differences in s need more digits.
///
/// # Errors
/// Those of [`Contrast::check`].
pub fn value_and_grad_at(
    contrast: &Contrast,
    scale: f64,
    inputs: &Inputs<&Dense>,
    upstream: f64,
) -> Result<Reference, Error> {
    let shape = contrast.check(inputs)?;
    let n = shape.anchors;
    let weight = upstream * contrast.row_weight(n);

    // The candidates of anchor i: all rows of k, for MoCo behind a column with its own key.
    let (q, k, own_key) = match *inputs {
        Inputs::Shared { z } => (z, z, None),
        Inputs::Pair { q, k } => (q, k, None),
        Inputs::Queue { q, own_key, queue } => (q, queue, Some(own_key)),
    };
    let own_columns = usize::from(own_key.is_some());
    let m = own_columns + shape.candidates;
    let candidate = |i: usize, j: usize| match own_key {
        Some(own_key) if j == 0 => own_key.row(i),
        _ => k.row(j - own_columns),
    };
    let positive = |i: usize| contrast.positive(i, shape).unwrap_or(0);
    let is_negative =
        |i: usize, j: usize| j != positive(i) && !(contrast.excludes_self() && i == j);

    let products = Dense::from_fn(n, m, |i, j| dot(q.row(i), candidate(i, j)));
    let logits = Dense::from_fn(n, m, |i, j| scale * products.row(i)[j]);

    let mut rows = RowValues::default();
    for i in 0..n {
        let negatives = (0..m).filter(|&j| is_negative(i, j));
        let negatives: Vec<f64> = negatives.map(|j| logits.row(i)[j]).collect();
        rows.push(&negatives, logits.row(i)[positive(i)]);
    }
    let mut dz = Dense::from_fn(n, m, |i, j| {
        if j == positive(i) {
            -weight * rows.one_minus_positive[i]
        } else if is_negative(i, j) {
            weight * (logits.row(i)[j] - rows.lse[i]).exp()
        } else {
            0.0
        }
    });
    let mut loss: f64 = contrast.row_weight(n) * rows.loss.iter().sum::<f64>();

    let columns = contrast.is_symmetric().then(|| {
        let mut columns = RowValues::default();
        for j in 0..m {
            let negatives = (0..n).filter(|&i| i != j);
            let negatives: Vec<f64> = negatives.map(|i| logits.row(i)[j]).collect();
            columns.push(&negatives, logits.row(j)[j]);
            for i in 0..n {
                dz.row_mut(i)[j] += if i == j {
                    -weight * columns.one_minus_positive[j]
                } else {
                    weight * (logits.row(i)[j] - columns.lse[j]).exp()
                };
            }
        }
        loss += contrast.row_weight(n) * columns.loss.iter().sum::<f64>();
        columns
    });

    let mut dq = Dense::from_fn(n, shape.dim, |_, _| 0.0);
    let mut dk = Dense::from_fn(shape.candidates, shape.dim, |_, _| 0.0);
    let mut dscale = 0.0;
    for i in 0..n {
        for j in 0..m {
            let dz = dz.row(i)[j];
            dscale += dz * products.row(i)[j];
            add_scaled(dq.row_mut(i), scale * dz, candidate(i, j));
            if own_key.is_none() {
                add_scaled(dk.row_mut(j), scale * dz, q.row(i));
            }
        }
    }
    let dk = match inputs {
        Inputs::Pair { .. } => Some(dk),
        Inputs::Shared { .. } => {
            add_scaled(dq.as_mut_slice(), 1.0, dk.as_slice());
            None
        }
        Inputs::Queue { .. } => None,
    };
    Ok(Reference {
        loss,
        rows,
        columns,
        dz,
        dq,
        dk,
        dscale,
    })
}

impl RowValues {
    fn push(&mut self, negatives: &[f64], positive: f64) {
        let negatives_lse = log_sum_exp(negatives);
        let margin = negatives_lse - positive;
        let loss = softplus(margin);
        self.loss.push(loss);
        self.lse.push(positive + loss);
        self.negatives_lse.push(negatives_lse);
        self.positive.push(positive);
        self.one_minus_positive.push(1.0 / (1.0 + (-margin).exp()));
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

/// log(1 + eˣ) without overflow; 0 at −∞.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}
