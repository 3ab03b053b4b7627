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

use crate::contrast::Reduction;
use crate::element::{DType, Element};
use crate::inputs::{Matrices, Problem};
use crate::losses::{Dual, RowContext, RowLogits, RowRule, VARIABLES};
use crate::positives::{NO_ID, NO_POSITIVE, Positives};
use crate::rows::{Matrix, Rows, View};
use crate::triplet::TripletProblem;

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
    type Floats = &'a [f32];
    type Scalar = f64;
}

/// Values of every row (or column) of the matrix of logits.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RowValues {
    /// loss_i = φ, unweighted.
    pub loss: Vec<f64>,
    /// lse⁻_i over the negatives; −∞ for a row without any.
    pub negatives_lse: Vec<f64>,
    /// z₊, the positive's logit, of a set the mean; −∞ for a row without one.
    pub positive: Vec<f64>,
    /// Log-sum-exp of a set of positives, or with two exponents of the negatives' βz.
    pub second_lse: Vec<f64>,
    /// Number of positives.
    pub positives: Vec<f64>,
    /// Mean of the negatives' logits; 0 for a row without any.
    pub negatives_mean: Vec<f64>,
    /// Number of negatives.
    pub negatives: Vec<f64>,
    /// a_i = ∂φ/∂lse⁻; 1 − p₊ for a softmax.
    pub negatives_mass: Vec<f64>,
    /// c_i = −∂φ/∂z₊ at fixed log-sum-exps; 1 − p₊ for a softmax.
    pub positive_mass: Vec<f64>,
    /// ∂φ/∂s at fixed lse⁻ and z₊.
    pub scale_slope: Vec<f64>,
}

/// A contrast's value and gradients.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference {
    /// The reduced loss, not multiplied by the upstream gradient.
    pub loss: f64,
    /// N/N₊ for [`Reduction::MeanOfPositives`], 0 where no row counts; otherwise 1.
    pub counted: f64,
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
    /// upstream × ∂loss/∂c, M elements, where candidates have a bias; of a pointwise rule ∂loss/∂b, one element.
    pub dbias: Option<Vec<f64>>,
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
    let Matrices {
        anchors: q,
        own_keys,
        ..
    } = problem.matrices();
    let Logits {
        products,
        logits,
        targets,
        rows: of_rows,
    } = Logits::new(problem, round);
    let m = (&logits).dim();
    let logit = |&(i, j): &(usize, usize)| logits.row(i)[j];
    let target = |&(i, j): &(usize, usize)| targets.as_ref().map(|targets| targets.row(i)[j]);
    let logit_bias = match problem.logit_bias() {
        Some(bias) => bias,
        None => contrast.rule().logit_bias().unwrap_or_default().into(),
    };
    type Cells = Vec<(usize, usize)>;
    let rows_cells = of_rows.into_iter().enumerate();
    let rows_cells: Vec<[Cells; 2]> = rows_cells
        .map(|(i, of_row)| of_row.map(|columns| columns.into_iter().map(|j| (i, j)).collect()))
        .collect();
    let of_positives = rows_cells.iter().map(|[positives, _]| match positives[..] {
        [] => f64::NEG_INFINITY,
        _ => positives.iter().map(logit).sum::<f64>() / positives.len() as f64,
    });
    let of_positives: Vec<f64> = of_positives.collect();
    let context = RowContext {
        scale,
        negatives: problem.negatives() as f64,
        log_mean: log_mean(contrast.rule(), scale, &of_positives),
    };
    let weights = problem.row_weights();
    let weight_of = |i: usize| weights.map_or(1.0, |weights| f64::from(weights[i]));
    let counted = match contrast.reduction() {
        Reduction::MeanOfPositives => {
            let counts = |&i: &usize| weight_of(i) != 0.0 && of_positives[i] != f64::NEG_INFINITY;
            match (0..n).filter(counts).count() {
                0 => 0.0,
                counted => n as f64 / counted as f64,
            }
        }
        _ => 1.0,
    };
    let row_weight = round(contrast.row_weight(n) * counted);
    let weight = round(upstream * row_weight);

    let mut dz = Dense::from_fn(n, m, |_, _| 0.0);
    // Adds the loss of a row or column of weight w, given the cells of its positives and negatives.
    let mut add = |values: &mut RowValues, [positives, negatives]: [Cells; 2], w: f64| {
        let [of_positives, of_negatives]: [Vec<f64>; 2] =
            [&positives, &negatives].map(|cells| cells.iter().map(logit).collect());
        let targets: Vec<f64> = negatives.iter().filter_map(target).collect();
        let cells = Cell {
            positives: &of_positives,
            negatives: &of_negatives,
            targets: &targets,
            logit_bias,
        };
        let slopes = values.push(contrast.rule(), &cells, &context, round);
        for ((i, j), slope) in positives.into_iter().chain(negatives).zip(slopes) {
            // A row that is left out has no gradient, even where its slope is NaN.
            if w != 0.0 {
                let dz = &mut dz.row_mut(i)[j];
                *dz = round(*dz + round(round(weight * w) * slope));
            }
        }
    };
    let mut rows = RowValues::default();
    for (i, cells) in rows_cells.into_iter().enumerate() {
        add(&mut rows, cells, weight_of(i));
    }
    let columns = contrast.has_columns().then(|| {
        let mut columns = RowValues::default();
        for j in 0..m {
            let negatives = (0..n).filter(|&i| i != j).map(|i| (i, j));
            add(
                &mut columns,
                [vec![(j, j)], negatives.collect()],
                weight_of(j),
            );
        }
        columns
    });

    let directions = || [Some(&rows), columns.as_ref()].into_iter().flatten();
    let of_rows = |weight: f64, values: fn(&RowValues) -> &Vec<f64>| {
        let weighted = |(i, x): (usize, &f64)| match weight_of(i) {
            0.0 => 0.0,
            w => w * x,
        };
        let values = directions().flat_map(|rows| values(rows).iter().enumerate());
        round(weight * sum(values.map(weighted), round))
    };
    let loss = of_rows(row_weight, |rows| &rows.loss);
    let slopes = of_rows(weight, |rows| &rows.scale_slope);
    let of_logits = (0..n).map(|i| dot(dz.row(i), products.row(i), round));
    let dscale = round(sum(of_logits, round) + slopes);
    let of_column = |j: usize| sum((0..n).map(|i| dz.row(i)[j]), round);
    let dbias = match problem.column_bias() {
        Some(_) => Some((0..m).map(of_column).collect()),
        None if contrast.rule().is_pointwise() => Some(vec![sum((0..m).map(of_column), round)]),
        None => None,
    };
    let mut dq = Dense::from_fn(n, shape.dim, |_, _| 0.0);
    let mut dk = Dense::from_fn(shape.candidates, shape.dim, |_, _| 0.0);
    for i in 0..n {
        for j in 0..m {
            let dproduct = round(scale * dz.row(i)[j]);
            add_scaled(dq.row_mut(i), dproduct, candidate(problem, i, j), round);
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
        counted,
        rows,
        columns,
        dz,
        dq,
        dk: contrast.has_dk().then_some(dk),
        dbias,
        dscale,
    }
}

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

/// A row's logits.
struct Cell<'a> {
    positives: &'a [f64],
    negatives: &'a [f64],
    /// Of each negative, where there are soft targets.
    targets: &'a [f64],
    /// b of a pointwise rule.
    logit_bias: f64,
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
    /// The summaries of row `i`.
    #[cfg(feature = "cli")]
    pub(crate) fn logits(&self, i: usize) -> RowLogits {
        RowLogits {
            negatives_lse: self.negatives_lse[i],
            positive: self.positive[i],
            second_lse: self.second_lse[i],
            negatives_mean: self.negatives_mean[i],
            positives: self.positives[i],
            negatives: self.negatives[i],
        }
    }

    /// Appends a row of these logits; returns ∂φ/∂z of each positive, then of each negative.
    fn push(
        &mut self,
        rule: RowRule,
        cells: &Cell<'_>,
        context: &RowContext,
        round: impl Fn(f64) -> f64 + Copy,
    ) -> Vec<f64> {
        let Cell {
            positives,
            negatives,
            targets,
            logit_bias,
        } = *cells;
        // Of a pointwise rule the logits z + b, and −z − b of positives.
        let signed = |logits: &[f64], sign: f64| -> Vec<f64> {
            logits
                .iter()
                .map(|z| round(sign * (z + logit_bias)))
                .collect()
        };
        let pointwise = [signed(positives, -1.0), signed(negatives, 1.0)];
        let ln_softplus = |x: &[f64]| {
            let terms = x
                .iter()
                .map(|x| round(x.max(0.0) + (-x.abs()).exp().ln_1p()));
            round(sum(terms, round).ln())
        };
        let mean = |logits: &[f64], of_none: f64| match logits[..] {
            [] => of_none,
            _ => round(sum(logits.iter().copied(), round) / logits.len() as f64),
        };
        let exponents = rule.exponents();
        let [first, second] = exponents.unwrap_or([1.0; 2]);
        let of_negatives = Softmax::new(negatives.iter().map(|z| first * z), round);
        let has_targets = rule.target_scale().is_some();
        let of_second = match exponents {
            Some(_) => Softmax::new(negatives.iter().map(|z| second * z), round),
            None if has_targets => Softmax::new(targets.iter().copied(), round),
            None => Softmax::new(positives.iter().copied(), round),
        };
        let by_target = |x: &[f64]| dot(&of_second.shares, x, round);
        let logits = RowLogits {
            negatives_lse: match rule.is_pointwise() {
                true => ln_softplus(&pointwise.concat()),
                false => of_negatives.lse,
            },
            positive: match has_targets {
                true => by_target(negatives),
                false => mean(positives, f64::NEG_INFINITY),
            },
            second_lse: match rule.is_pointwise() {
                true => f64::NEG_INFINITY,
                false => of_second.lse,
            },
            negatives_mean: match has_targets {
                true => by_target(targets),
                false => mean(negatives, 0.0),
            },
            positives: positives.len() as f64,
            negatives: negatives.len() as f64,
        };
        let no_positive = logits.positive == f64::NEG_INFINITY && !of_negatives.lse.is_nan();
        let no_negatives = negatives.is_empty() && !logits.positive.is_nan();
        let is_empty =
            (no_positive && rule.needs_positive()) || (no_negatives && rule.needs_negatives());
        let value = match is_empty {
            true => Dual::constant(0.0),
            false => rule.formula(
                &logits.variables(),
                Dual::variable(context.scale, 2),
                context,
            ),
        };
        let [a, minus_c, scale_slope, of_second_lse, of_mean]: [f64; VARIABLES] =
            value.slopes.map(round);
        self.loss.push(round(value.value));
        self.negatives_lse.push(logits.negatives_lse);
        self.positive.push(logits.positive);
        self.second_lse.push(logits.second_lse);
        self.positives.push(logits.positives);
        self.negatives_mean.push(logits.negatives_mean);
        self.negatives.push(logits.negatives);
        self.negatives_mass.push(a);
        self.positive_mass.push(-minus_c);
        self.scale_slope.push(scale_slope);

        let share = |slope: f64, count: f64| if slope == 0.0 { 0.0 } else { slope / count };
        let of_positive = share(minus_c, logits.positives);
        let of_mean = share(of_mean, logits.negatives);
        let slopes = |softmax: &Softmax, factor: f64, rest: f64| -> Vec<f64> {
            let slope = |p: &f64| match factor {
                0.0 => rest,
                _ => round(round(factor * p) + rest),
            };
            softmax.shares.iter().map(slope).collect()
        };
        if rule.is_pointwise() {
            let slope = |sign: f64| move |x: &f64| round(sign / (1.0 + (-x).exp()));
            let [positives, negatives] = &pointwise;
            let positives = positives.iter().map(slope(-1.0));
            return positives.chain(negatives.iter().map(slope(1.0))).collect();
        }
        if has_targets {
            let pairs = of_negatives.shares.iter().zip(&of_second.shares);
            return pairs.map(|(p, t)| round(p - t)).collect();
        }
        if exponents.is_some() {
            let mut all = vec![of_positive; positives.len()];
            let of_second = slopes(&of_second, second * of_second_lse, 0.0);
            let of_first = slopes(&of_negatives, first * a, 0.0);
            all.extend(of_first.iter().zip(of_second).map(|(x, y)| round(x + y)));
            return all;
        }
        let mut all = match rule.takes_sets() {
            true => slopes(&of_second, of_second_lse, of_positive),
            false => vec![of_positive; positives.len()],
        };
        all.extend(slopes(&of_negatives, a, of_mean));
        all
    }
}

impl RowLogits {
    /// The logits as variables 0, 1, 3 and 4; 2 is the scale.
    fn variables(&self) -> RowLogits<Dual> {
        RowLogits {
            negatives_lse: Dual::variable(self.negatives_lse, 0),
            positive: Dual::variable(self.positive, 1),
            second_lse: Dual::variable(self.second_lse, 3),
            negatives_mean: Dual::variable(self.negatives_mean, 4),
            positives: self.positives,
            negatives: self.negatives,
        }
    }
}

/// The log-sum-exp of logits, −∞ of none, and each one's share of the sum.
struct Softmax {
    lse: f64,
    shares: Vec<f64>,
}

impl Softmax {
    fn new(logits: impl Iterator<Item = f64>, round: impl Fn(f64) -> f64 + Copy) -> Self {
        let logits: Vec<f64> = logits.map(round).collect();
        let largest = largest(&logits);
        let exponentials = logits.iter().map(|z| round(round(z - largest).exp()));
        let total = sum(exponentials.clone(), round);
        Self {
            lse: round(largest + round(total.ln())),
            shares: exponentials.map(|x| round(x / total)).collect(),
        }
    }
}

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
