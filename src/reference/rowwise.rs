//! Row by row: triplets, normalisation, momentum, a memory bank, the best candidates.

use super::{Dense, add_scaled, dot, exact, sum};
use crate::element::DType;
use crate::triplet::TripletProblem;

/// The triplet loss's value and gradients.
#[derive(Debug, Clone, PartialEq)]
pub struct TripletReference {
    /// The reduced loss, not multiplied by the upstream gradient.
    pub loss: f64,
    /// margin + ‖q_i − k_p‖² − ‖q_i − k_n‖² of each anchor, NaN where a distance is not finite; −∞ for an anchor that is
    /// left out.
    pub hinges: Vec<f64>,
    /// upstream × ∂loss/∂q, N × D; without `k` the whole gradient of the one matrix.
    pub dq: Dense,
    /// upstream × ∂loss/∂k, M × D, where candidates are a matrix of their own.
    pub dk: Option<Dense>,
}

/// The triplet loss and its gradients: with h_i = margin + ‖q_i − k_p‖² − ‖q_i − k_n‖² and g·w the upstream gradient
/// times the anchor's weight, each anchor with h_i > 0 adds
/// ```text
/// dq_i += 2gw(k_n − k_p)     dk_p += 2gw(k_p − q_i)     dk_n += 2gw(q_i − k_n)
/// ```
pub fn triplet(problem: &TripletProblem<&Dense>, upstream: f64) -> TripletReference {
    triplet_rounded(problem, upstream, exact)
}

/// [`triplet`] with every operation's result passed through `round`.
pub(crate) fn triplet_rounded(
    problem: &TripletProblem<&Dense>,
    upstream: f64,
    round: impl Fn(f64) -> f64 + Copy,
) -> TripletReference {
    let (q, k, shape) = (problem.anchors(), problem.candidates(), problem.shape());
    let triplet = problem.triplet();
    let weight = triplet.row_weight(shape.anchors);
    let factor = round(2.0 * upstream * weight);
    let difference = |a: &[f64], b: &[f64]| -> Vec<f64> {
        let pairs = a.iter().zip(b);
        pairs.map(|(a, b)| round(a - b)).collect()
    };
    let mut dq = Dense::from_fn(shape.anchors, shape.dim, |_, _| 0.0);
    let mut dk = Dense::from_fn(shape.candidates, shape.dim, |_, _| 0.0);
    let mut hinges = Vec::new();
    for (i, named) in problem.named().into_iter().enumerate() {
        let Some([p, n]) = named else {
            hinges.push(f64::NEG_INFINITY);
            continue;
        };
        let to_positive = difference(k.row(p), q.row(i));
        let from_negative = difference(q.row(i), k.row(n));
        let squares = [&to_positive, &from_negative].map(|x| dot(x, x, round));
        let is_finite = squares.iter().all(|square| square.is_finite());
        let hinge = round(f64::from(triplet.margin()) + round(squares[0] - squares[1]));
        hinges.push(if is_finite { hinge } else { f64::NAN });
        if hinge_loss(hinges[i]) != 0.0 {
            let of_anchor = difference(k.row(n), k.row(p));
            add_scaled(dq.row_mut(i), factor, &of_anchor, round);
            add_scaled(dk.row_mut(p), factor, &to_positive, round);
            add_scaled(dk.row_mut(n), factor, &from_negative, round);
        }
    }
    if problem.is_shared() {
        add_scaled(dq.as_mut_slice(), 1.0, dk.as_slice(), round);
    }
    let losses = hinges.iter().copied().map(hinge_loss);
    TripletReference {
        loss: round(weight * sum(losses, round)),
        hinges,
        dq,
        dk: (!problem.is_shared()).then_some(dk),
    }
}

/// max(0, hinge), NaN for NaN.
fn hinge_loss(hinge: f64) -> f64 {
    if hinge <= 0.0 { 0.0 } else { hinge }
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
