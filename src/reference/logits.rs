//! The matrix of logits, and which of them are positives and negatives of each row.

use super::{Dense, dot};
use crate::inputs::Matrices;
use crate::positives::{NO_ID, NO_POSITIVE, Positives};
use crate::problem::Problem;

/// Candidate `column` of anchor `i`: where anchors have own keys, that is column 0, and the rows of k follow.
pub(crate) fn candidate<'a>(problem: &Problem<&'a Dense>, i: usize, column: usize) -> &'a [f64] {
    let Matrices {
        candidates,
        own_keys,
        ..
    } = problem.matrices();
    match own_keys {
        Some(own_keys) if column == 0 => own_keys.row(i),
        Some(_) => candidates.row(column - 1),
        None => candidates.row(column),
    }
}

/// The matrix of logits, columns as in [`candidate`].
pub(crate) struct Logits {
    /// ⟨q_i, k_j⟩.
    pub products: Dense,
    /// z_ij = s·⟨q_i, k_j⟩ + c_j.
    pub logits: Dense,
    /// u_ij = ⟨u_{i mod B}, p_j⟩/τ_t + c_j, where there are soft targets.
    pub targets: Option<Dense>,
    /// The columns of each row's positives and of its negatives; it excludes all others.
    pub rows: Vec<[Vec<usize>; 2]>,
}

impl Logits {
    /// Every operation's result is passed through `round`.
    pub fn new(problem: &Problem<&Dense>, round: impl Fn(f64) -> f64 + Copy) -> Self {
        let contrast = problem.contrast();
        let scale = problem.scale().unwrap_or(f64::from(contrast.scale()));
        let Matrices {
            anchors: q,
            own_keys,
            targets,
            ..
        } = problem.matrices();
        let target_scale = contrast.rule().target_scale().unwrap_or_default();
        let target_bias = problem.target_bias();
        let own_columns = usize::from(own_keys.is_some());
        let shape = problem.shape();
        let (n, m) = (shape.anchors, own_columns + shape.candidates);
        let products = Dense::from_fn(n, m, |i, j| dot(q.row(i), candidate(problem, i, j), round));
        let bias = |j: usize| {
            let j = j.checked_sub(own_columns)?;
            Some(f64::from(problem.column_bias()?[j]))
        };
        let logits = Dense::from_fn(n, m, |i, j| {
            let logit = round(scale * products.row(i)[j]);
            bias(j).map_or(logit, |bias| round(logit + bias))
        });

        let targets = targets.map(|[u, p]| {
            Dense::from_fn(n, m, |i, j| {
                let product = dot(u.row(i % u.rows), p.row(j), round);
                let logit = round(f64::from(target_scale) * product);
                target_bias.map_or(logit, |bias| round(logit + f64::from(bias[j])))
            })
        });

        let sets = Sets::of(problem);
        let is_positive = |i: usize, j: usize| match own_keys {
            Some(_) => j == 0,
            None => sets.contains(i, j),
        };
        let has_same_id = |i: usize, j: usize| {
            let (Some(ids), Some(j)) = (problem.ids(), j.checked_sub(own_columns)) else {
                return false;
            };
            ids.anchors[i] == ids.candidates[j] && ids.anchors[i] != NO_ID
        };
        let margin = contrast.description().guard.map(f64::from);
        let of_row = |i: usize| {
            let is_itself = |j: usize| contrast.excludes_self() && i == j;
            let (positives, mut negatives): (Vec<usize>, Vec<usize>) = (0..m)
                .filter(|&j| !is_itself(j))
                .partition(|&j| is_positive(i, j));
            negatives.retain(|&j| !has_same_id(i, j) && !contrast.rule().is_alignment());
            let z = logits.row(i);
            if let (Some(margin), Some(&positive)) = (margin, positives.first()) {
                let limit = z[positive] - scale * margin;
                // NaN is no likely false negative.
                negatives.retain(|&j| z[j] <= limit || z[j].is_nan() || limit.is_nan());
            }
            [positives, negatives]
        };
        let rows = (0..n).map(of_row).collect();
        Self {
            products,
            logits,
            targets,
            rows,
        }
    }
}

/// Each anchor's positives among the candidates.
enum Sets<'a> {
    /// At most one.
    Single(Vec<Option<usize>>),
    /// Those of the anchor's label: labels of anchors, of candidates.
    Labels(&'a [u32], &'a [u32]),
    /// Listed ones: where lists start, and the lists.
    Lists(&'a [u32], &'a [u32]),
}

impl<'a> Sets<'a> {
    fn of(problem: &Problem<&'a Dense>) -> Self {
        match problem.positives() {
            Some(Positives::Labels {
                anchors,
                candidates,
            }) if problem.contrast().has_sets() => Self::Labels(anchors, candidates),
            Some(Positives::Lists { starts, candidates }) => Self::Lists(starts, candidates),
            _ => Self::Single(problem.positive_candidates()),
        }
    }

    fn contains(&self, i: usize, j: usize) -> bool {
        match self {
            Self::Single(index) => index[i] == Some(j),
            Self::Labels(anchors, candidates) => {
                anchors[i] == candidates[j] && anchors[i] != NO_POSITIVE
            }
            Self::Lists(starts, listed) => {
                let list = starts[i] as usize..starts[i + 1] as usize;
                listed[list].contains(&(j as u32))
            }
        }
    }
}
