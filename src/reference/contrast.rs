//! A contrast: its value, row statistics and gradients.

use super::logits::{Logits, candidate};
use super::{Dense, add_scaled, dot, exact, largest, sum};
use crate::contrast::Reduction;
use crate::inputs::Matrices;
use crate::losses::{Dual, RowContext, RowLogits, RowRule, VARIABLES};
use crate::problem::Problem;
use crate::rows::Matrix;

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

/// A row's logits.
struct Cell<'a> {
    positives: &'a [f64],
    negatives: &'a [f64],
    /// Of each negative, where there are soft targets.
    targets: &'a [f64],
    /// b of a pointwise rule.
    logit_bias: f64,
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
