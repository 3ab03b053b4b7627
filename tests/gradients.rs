//! The float64 reference is right: its gradients equal the central differences of its loss, and small cases have the
//! values that a derivation by hand gives.

use approx::{abs_diff_eq, assert_abs_diff_eq};
use infonce::losses::{Layout, RowRule, SetForm, TABLE};
use infonce::reference::{self, Dense, Reference};
use infonce::{
    Contrast, DType, Error, Ids, Inputs, Matrix, NO_ID, NO_POSITIVE, Positives, Reduction, Triplet,
    Triplets,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

type Test = Result<(), Error>;

/// A problem with matrices in the order of the variants' fields: z; q, k; q, own_key, queue; q, k, target_q, target_k.
#[derive(Clone, Debug)]
struct Problem {
    contrast: Contrast,
    matrices: Vec<Dense>,
    positives: Positives<Vec<u32>>,
    ids: Option<Ids<Vec<u32>>>,
    weights: Option<Vec<f32>>,
    bias: Option<Vec<f32>>,
}

const UPSTREAM: f64 = -1.7;

impl Problem {
    fn new(contrast: Contrast, matrices: Vec<Dense>) -> Self {
        Self {
            contrast,
            matrices,
            positives: Positives::DIAGONAL,
            ids: None,
            weights: None,
            bias: None,
        }
    }

    fn on(&self) -> Result<infonce::Problem<&Dense>, Error> {
        let mut problem = match &self.matrices[..] {
            [q, k, target_q, target_k] => self.contrast.on(Inputs::Targets {
                q,
                k,
                target_q,
                target_k,
            })?,
            given => {
                let last = given.len() - 1;
                let matrices = [0, last, last.min(1)].map(|which| &given[which]);
                self.contrast.pose(matrices, self.positives.view())?
            }
        };
        if let Some(ids) = &self.ids {
            let (anchors, candidates) = (&ids.anchors[..], &ids.candidates[..]);
            problem = problem.excluding(Ids {
                anchors,
                candidates,
            })?;
        }
        if let Some(weights) = &self.weights {
            problem = problem.with_row_weights(weights)?;
        }
        if let Some(bias) = &self.bias {
            problem = problem.with_column_bias(bias)?;
        }
        Ok(problem)
    }

    fn value(&self) -> Result<Reference, Error> {
        Ok(reference::value_and_grad(&self.on()?, UPSTREAM))
    }

    /// The loss after adding `step` to one element of one matrix.
    fn loss_at(&self, matrix: usize, place: usize, step: f64) -> Result<f64, Error> {
        let mut moved = self.clone();
        moved.matrices[matrix].as_mut_slice()[place] += step;
        Ok(moved.value()?.loss)
    }

    /// The problem's name in messages.
    fn name(&self) -> String {
        let Self {
            contrast,
            positives,
            ids,
            weights,
            bias,
            ..
        } = self;
        format!("{contrast:?}, {positives:?}, ids {ids:?}, weights {weights:?}, bias {bias:?}")
    }
}

fn random(rng: &mut ChaCha8Rng, rows: usize, dim: usize) -> Dense {
    Dense::from_fn(rows, dim, |_, _| rng.random_range(-1.0..1.0))
}

/// Every loss of the table, and InfoNCE by every rule with positives by index and by offset.
fn problems() -> Result<Vec<Problem>, Error> {
    let mut rng = ChaCha8Rng::seed_from_u64(20);
    let mut problems = Vec::new();
    let shapes = [(1, 1, 1), (2, 2, 3), (3, 5, 2), (4, 9, 7), (8, 8, 4)];
    for reduction in [Reduction::Mean, Reduction::Sum] {
        for (n, m, dim) in shapes {
            for temperature in [0.2, 1.5] {
                for loss in TABLE {
                    let contrast = (loss.at)(temperature)?.with_reduction(reduction);
                    let rows = rows_of(&contrast, n, m);
                    let matrices = rows.iter().map(|&rows| random(&mut rng, rows, dim));
                    let mut problem = Problem::new(contrast, matrices.collect());
                    if contrast.layout() == Layout::Labelled {
                        problem.positives = classes(&[m, m], &mut rng);
                    }
                    problems.push(problem);
                    let index = |i: usize, rng: &mut ChaCha8Rng| match i % 3 {
                        1 => NO_POSITIVE,
                        _ => rng.random_range(0..m as u32),
                    };
                    let index = (0..n).map(|i| index(i, &mut rng)).collect();
                    let by_rule = Contrast::info_nce(temperature)?
                        .with_reduction(reduction)
                        .with_rule(contrast.rule());
                    // Soft targets have a layout of their own.
                    let Ok(by_rule) = by_rule else { continue };
                    for positives in [Positives::Index(index), Positives::Offset(-1)] {
                        let matrices = [n, m].map(|rows| random(&mut rng, rows, dim));
                        problems.push(Problem {
                            positives,
                            ..Problem::new(by_rule, matrices.into())
                        });
                    }
                }
            }
        }
    }
    problems.extend(problems_with_options(&mut rng)?);
    Ok(problems)
}

/// Row counts of a contrast's matrices for n anchors, or pairs of views, and m candidates, or labelled rows.
fn rows_of(contrast: &Contrast, n: usize, m: usize) -> Vec<usize> {
    match (contrast.layout(), contrast.has_columns()) {
        (Layout::Shared, _) => vec![2 * n],
        (Layout::Labelled, _) => vec![m],
        (Layout::Pair, true) => vec![n, n],
        (Layout::Pair, false) => vec![n, m],
        (Layout::Queue, _) => vec![n, n, m],
        (Layout::Targets, _) => vec![n, m, n, m],
    }
}

/// Labels of three classes, or none. Anchors that are the candidates have their labels.
fn classes(rows: &[usize; 2], rng: &mut ChaCha8Rng) -> Positives<Vec<u32>> {
    let mut class = || [0, 1, 2, NO_POSITIVE][rng.random_range(0..4)];
    let [anchors, candidates] = rows.map(|rows| (0..rows).map(|_| class()).collect::<Vec<u32>>());
    Positives::Labels {
        anchors: if rows[0] == rows[1] {
            candidates.clone()
        } else {
            anchors
        },
        candidates,
    }
}

/// Up to three candidates for each anchor, in `lists` of which every fourth is empty; an anchor's own row may be one.
fn lists(anchors: usize, candidates: usize, rng: &mut ChaCha8Rng) -> Positives<Vec<u32>> {
    let (mut starts, mut all) = (vec![0], Vec::new());
    for i in 0..anchors {
        let mut list: Vec<u32> = (0..(i + 1) % 4)
            .map(|_| rng.random_range(0..candidates as u32))
            .collect();
        list.sort_unstable();
        list.dedup();
        all.extend(list);
        starts.push(all.len() as u32);
    }
    Positives::Lists {
        starts,
        candidates: all,
    }
}

/// Every combination of loss, positives and options that the API allows, on each layout.
fn problems_with_options(rng: &mut ChaCha8Rng) -> Result<Vec<Problem>, Error> {
    const BIASES: [f32; 5] = [0.5, -1.25, 0.0, 2.0, -0.75];
    let sets = |form, smoothing| RowRule::Sets { form, smoothing };
    let hard = |beta, prior| RowRule::HardNegatives { beta, prior };
    let rules = [
        RowRule::SOFTMAX,
        RowRule::Decoupled { sigma: None },
        RowRule::Robust {
            q: 0.5,
            lambda: 0.3,
        },
        RowRule::Debiased { prior: 0.1 },
        sets(SetForm::MeanOutside, 0.0),
        sets(SetForm::MeanOutside, 0.3),
        sets(SetForm::MeanInside, 0.0),
        sets(SetForm::Decoupled, 0.0),
        hard(0.5, 0.1),
        hard(2.0, 0.4),
        RowRule::Sigmoid { bias: -0.5 },
        RowRule::Alignment,
    ];
    let reductions = [Reduction::MeanOfPositives, Reduction::Mean, Reduction::Sum];
    let layouts = [
        Contrast::nt_xent(0.5)?,
        Contrast::sup_con(0.5)?,
        Contrast::info_nce(0.5)?,
        Contrast::moco(0.5)?,
        Contrast::clip(2.0)?,
    ];
    let mut problems = Vec::new();
    for (layout, rule) in layouts.iter().flat_map(|x| rules.map(|rule| (x, rule))) {
        let Ok(contrast) = layout.with_rule(rule) else {
            continue;
        };
        // Options by the bits of a number: ids, a guard, biases, weights.
        for (number, options) in (0..16).enumerate() {
            let has = |bit: u32| options & 1 << bit != 0;
            let (n, m, dim) = [(4, 7, 3), (5, 9, 2)][number % 2];
            let mut contrast = contrast.with_reduction(reductions[number % 3]);
            if has(1) {
                match contrast.with_guard([0.1, -0.2, 0.4][number % 3]) {
                    Ok(guarded) => contrast = guarded,
                    Err(_) => continue,
                }
            }
            let rows = rows_of(&contrast, n, m);
            let matrices = rows.iter().map(|&rows| random(rng, rows, dim)).collect();
            let plain = Problem::new(contrast, matrices);
            if contrast.rule().is_pointwise() && number % 3 == 0 {
                // No mean of rows with a positive.
                continue;
            }
            let shape = plain.on()?.shape();
            let (n, m) = (shape.anchors, shape.candidates);
            let id = |i: usize| if i % 4 == 3 { NO_ID } else { (i % 3) as u32 };
            let given = Problem {
                ids: has(0).then(|| Ids {
                    anchors: (0..n).map(id).collect(),
                    candidates: (0..m).map(id).collect(),
                }),
                // Steps of powers of two, which f32 adds exactly.
                bias: has(2).then(|| (0..m).map(|j| BIASES[j % 5]).collect()),
                weights: has(3).then(|| (0..n).map(|i| [0.5, 0.0, 2.0][i % 3]).collect()),
                ..plain
            };
            if given.on().is_err() {
                // The API refuses the combination.
                continue;
            }
            let index = |i: usize| {
                if i % 4 == 1 {
                    NO_POSITIVE
                } else {
                    (i * 5 % m) as u32
                }
            };
            let mut all = vec![Positives::DIAGONAL];
            if contrast.takes_positives() {
                all.push(Positives::Index((0..n).map(index).collect()));
            }
            if contrast.takes_positives() && (contrast.has_sets() || !contrast.is_shared()) {
                all.push(classes(&[n, m], rng));
            }
            if contrast.takes_positives() && contrast.has_sets() {
                all.push(lists(n, m, rng));
            }
            problems.extend(all.into_iter().map(|positives| Problem {
                positives,
                ..given.clone()
            }));
        }
    }
    Ok(problems)
}

/// h of the central differences, whose error is h²/6 times the third derivative, plus rounding/h.
const STEP: f64 = 1e-5;

/// Allowed error of derivatives up to 1; for larger ones it grows with them.
const EPSILON: f64 = 1e-8;

#[test]
fn dq_and_dk_are_the_derivatives_of_the_loss() -> Test {
    for problem in problems()? {
        // DCLW's weights carry no gradient; `losses.rs` tests their formula.
        if problem.contrast.rule().weights().is_some() {
            continue;
        }
        let value = problem.value()?;
        let gradients = [Some(&value.dq), value.dk.as_ref()];
        for (matrix, gradient) in gradients.into_iter().enumerate() {
            let Some(gradient) = gradient else { continue };
            let size = gradient
                .as_slice()
                .iter()
                .fold(0.0, |a: f64, b| a.max(b.abs()));
            for (place, &found) in gradient.as_slice().iter().enumerate() {
                let after = problem.loss_at(matrix, place, STEP)?;
                let before = problem.loss_at(matrix, place, -STEP)?;
                let expected = UPSTREAM * (after - before) / (2.0 * STEP);
                assert!(
                    abs_diff_eq!(found, expected, epsilon = EPSILON * (1.0 + size)),
                    "{} d{} [{place}]: {found} against {expected}",
                    problem.name(),
                    ["q", "k"][matrix],
                );
            }
        }
    }
    Ok(())
}

#[test]
fn dscale_is_the_derivative_of_the_loss() -> Test {
    for problem in problems()? {
        if problem.contrast.rule().weights().is_some() {
            continue;
        }
        let scale = f64::from(problem.contrast.scale());
        let at = |scale: f64| -> Result<f64, Error> {
            let moved = problem.on()?.with_scale(scale);
            Ok(reference::value_and_grad(&moved, UPSTREAM).loss)
        };
        let difference = at(scale + STEP)? - at(scale - STEP)?;
        let expected = UPSTREAM * difference / (2.0 * STEP);
        let found = problem.value()?.dscale;
        let near = abs_diff_eq!(found, expected, epsilon = EPSILON * (1.0 + found.abs()));
        assert!(near, "{}: {found} against {expected}", problem.name());
    }
    Ok(())
}

#[test]
fn dbias_is_the_derivative_of_the_loss() -> Test {
    // A power of two that f32 adds to the biases without rounding; the fourth-order difference needs no small step.
    const STEP: f32 = 1.0 / 128.0;
    let mut found_any = 0;
    for problem in problems()? {
        let Some(bias) = &problem.bias else { continue };
        let Some(found) = problem.value()?.dbias else {
            panic!("{}: no dbias", problem.name());
        };
        assert_eq!(found.len(), bias.len());
        let at = |j: usize, steps: f32| {
            let mut moved = problem.clone();
            moved.bias.as_mut().expect("it has one")[j] += steps * STEP;
            Ok::<f64, Error>(moved.value()?.loss)
        };
        // A step must not change what a guard or a clamp leaves out.
        let is_smooth = problem.contrast.description().guard.is_none()
            && !problem.contrast.rule().depends_on_scale();
        if !is_smooth {
            continue;
        }
        for (j, &found) in found.iter().enumerate() {
            let [near, far] = [1.0, 2.0].map(|x| Ok::<f64, Error>(at(j, x)? - at(j, -x)?));
            let expected = UPSTREAM * (8.0 * near? - far?) / (12.0 * f64::from(STEP));
            let is_near = abs_diff_eq!(found, expected, epsilon = 1e-7 * (1.0 + found.abs()));
            assert!(
                is_near,
                "{} [{j}]: {found} against {expected}",
                problem.name()
            );
            found_any += usize::from(found != 0.0);
        }
    }
    assert!(found_any > 100, "{found_any}");
    Ok(())
}

#[test]
fn dbias_is_the_sum_of_a_column_of_dz() -> Test {
    // Where a guard or a clamp leaves candidates out, too.
    for problem in problems()? {
        let value = problem.value()?;
        let is_pointwise = problem.contrast.rule().is_pointwise();
        assert_eq!(
            value.dbias.is_some(),
            problem.bias.is_some() || is_pointwise
        );
        for (j, found) in value.dbias.iter().flatten().enumerate() {
            let rows = 0..(&value.dz).rows();
            // A pointwise rule has one bias for all columns.
            let of_row = |i: usize| match is_pointwise {
                true => value.dz.row(i).iter().sum(),
                false => value.dz.row(i)[j],
            };
            let expected: f64 = rows.map(of_row).sum();
            assert_abs_diff_eq!(*found, expected, epsilon = 1e-13 * (1.0 + expected.abs()));
        }
    }
    Ok(())
}

#[test]
fn dscale_follows_from_the_anchors_gradient() -> Test {
    // s·ds = Σ⟨q_i, dq_i⟩, half of it where anchors and candidates are one matrix.
    for problem in problems()? {
        if problem.contrast.rule().depends_on_scale() {
            continue;
        }
        let value = problem.value()?;
        let pairs = problem.matrices[0].as_slice().iter();
        let product: f64 = pairs.zip(value.dq.as_slice()).map(|(q, dq)| q * dq).sum();
        let roles = if problem.matrices.len() == 1 {
            2.0
        } else {
            1.0
        };
        let expected = product / roles / f64::from(problem.contrast.scale());
        let found = value.dscale;
        let near = abs_diff_eq!(found, expected, epsilon = EPSILON * (1.0 + expected.abs()));
        assert!(near, "{}: {found} against {expected}", problem.name());
    }
    Ok(())
}

#[test]
fn some_debiased_rows_are_clamped_and_some_are_not() -> Test {
    // The negatives of a clamped row have no gradient. Of one exponent, and of two.
    let mut counts = [[0; 2]; 2];
    for problem in problems()? {
        let rule = problem.contrast.rule();
        let rows = problem.value()?.rows;
        let pairs = rows.negatives_mass.iter().zip(&rows.positive_mass);
        for (&a, &c) in pairs.filter(|&(_, &c)| rule.counts_negatives() && c > 0.0) {
            assert!(c.is_finite(), "{}", problem.name());
            counts[usize::from(rule.exponents().is_some())][usize::from(a == 0.0)] += 1;
        }
    }
    assert!(
        counts.iter().flatten().all(|&count| count > 5),
        "{counts:?}"
    );
    Ok(())
}

#[test]
fn some_guards_exclude_and_some_rows_are_left_out() -> Test {
    let (mut excluded, mut kept, mut left_out) = (0, 0, 0);
    for problem in problems()? {
        let value = problem.value()?;
        if problem.contrast.description().guard.is_some() && problem.ids.is_none() {
            let pairs = value.rows.positive.iter().zip(&value.rows.negatives);
            for (_, &negatives) in pairs.filter(|(z, _)| z.is_finite()) {
                let all = problem.on()?.negatives() as f64;
                *if negatives < all {
                    &mut excluded
                } else {
                    &mut kept
                } += 1;
            }
        }
        for (i, _) in problem
            .weights
            .iter()
            .flatten()
            .enumerate()
            .filter(|x| *x.1 == 0.0)
        {
            let is_way_of_columns = problem.contrast.has_columns();
            let dz = value.dz.row(i);
            assert!(
                is_way_of_columns || dz.iter().all(|&dz| dz == 0.0),
                "{}",
                problem.name()
            );
            left_out += 1;
        }
    }
    let counts = [excluded, kept, left_out];
    assert!(counts.iter().all(|&count| count > 20), "{counts:?}");
    Ok(())
}

#[test]
fn normalize_backward_is_the_derivative_of_normalize() {
    let mut rng = ChaCha8Rng::seed_from_u64(21);
    let (rows, dim, epsilon) = (6, 5, 0.5);
    let mut x = random(&mut rng, rows, dim);
    // Two rows are shorter than epsilon, one of them zero.
    for number in &mut x.as_mut_slice()[..dim] {
        *number *= 0.01;
    }
    x.as_mut_slice()[dim..2 * dim].fill(0.0);
    let dy = random(&mut rng, rows, dim);
    let (y, norms) = reference::normalize(&x, epsilon);
    assert!(norms[0] < epsilon && norms[1] == 0.0 && norms[2] > epsilon);
    let dx = reference::normalize_backward(&y, &norms, &dy, epsilon, DType::F32);
    let along = |x: &Dense| -> f64 {
        let (y, _) = reference::normalize(x, epsilon);
        let pairs = y.as_slice().iter().zip(dy.as_slice());
        pairs.map(|(y, dy)| y * dy).sum()
    };
    for place in 0..rows * dim {
        let at = |step: f64| {
            let mut moved = x.clone();
            moved.as_mut_slice()[place] += step;
            along(&moved)
        };
        let expected = (at(STEP) - at(-STEP)) / (2.0 * STEP);
        assert_abs_diff_eq!(dx.as_slice()[place], expected, epsilon = 2.0 * EPSILON);
    }
}

#[test]
fn equal_rows_give_ln_of_the_candidates_and_no_gradient() -> Test {
    let equal = |rows: usize| Dense::from_fn(rows, 3, |_, d| [0.6, -0.3, 0.7][d]);
    let (n, m) = (4, 9);
    let ln = |count: usize| (count as f64).ln();
    let cases = [
        (Contrast::nt_xent(0.1)?, vec![equal(2 * n)], ln(2 * n - 1)),
        (Contrast::info_nce(0.1)?, vec![equal(n), equal(m)], ln(m)),
        (
            Contrast::moco(0.1)?,
            vec![equal(n), equal(n), equal(m)],
            ln(m + 1),
        ),
        (Contrast::clip(10.0)?, vec![equal(n), equal(n)], ln(n)),
    ];
    for (contrast, matrices, expected) in cases {
        println!("{}", contrast.name());
        let problem = Problem::new(contrast, matrices);
        let value = problem.value()?;
        assert_abs_diff_eq!(value.loss, expected, epsilon = EPSILON);
        let zeros = vec![0.0; value.dq.as_slice().len()];
        assert_abs_diff_eq!(*value.dq.as_slice(), zeros[..], epsilon = 1e-13);
        assert_abs_diff_eq!(value.dscale, 0.0, epsilon = 1e-13);
        for (loss, z) in value.rows.loss.iter().zip(&value.rows.positive) {
            let scale = f64::from(problem.contrast.scale());
            assert_abs_diff_eq!(z + loss, scale * 0.94 + expected, epsilon = 2.0 * EPSILON);
        }
    }
    Ok(())
}

#[test]
fn orthogonal_pairs_have_one_logit_of_s_and_the_others_0() -> Test {
    // Pair i is the unit vector e_i, so loss = ln(e^s + negatives) − s for every row.
    let n = 5;
    let basis = |rows: usize| Dense::from_fn(rows, n, |i, d| f64::from(u8::from(i % n == d)));
    let problems = [
        (Contrast::nt_xent(0.5)?, vec![basis(2 * n)], 2 * n - 2),
        (Contrast::info_nce(0.5)?, vec![basis(n), basis(n)], n - 1),
        (Contrast::clip(2.0)?, vec![basis(n), basis(n)], n - 1),
    ];
    for (contrast, matrices, negatives) in problems {
        println!("{}", contrast.name());
        let problem = Problem::new(contrast, matrices);
        let value = problem.value()?;
        let total = 2f64.exp() + negatives as f64;
        assert_abs_diff_eq!(value.loss, total.ln() - 2.0, epsilon = EPSILON);
        for sigma in &value.rows.positive_mass {
            assert_abs_diff_eq!(*sigma, negatives as f64 / total, epsilon = EPSILON);
        }
    }
    Ok(())
}

#[test]
fn one_negative_is_a_logistic_regression() -> Test {
    // loss = softplus(z⁻ − z₊), dq = σ·s·(k⁻ − k₊), dk₊ = −σ·s·q, dk⁻ = σ·s·q.
    let matrices = vec![
        Dense::from_fn(1, 2, |_, d| [1.0, 2.0][d]),
        Dense::from_fn(2, 2, |j, d| [[0.5, -0.25], [0.75, 0.5]][j][d]),
    ];
    let problem = Problem::new(Contrast::info_nce(0.5)?, matrices);
    // ⟨q, k₊⟩ = 0, ⟨q, k⁻⟩ = 1.75, s = 2.
    let margin = 3.5f64;
    let sigma = 1.0 / (1.0 + (-margin).exp());
    let value = problem.value()?;
    assert_abs_diff_eq!(value.loss, margin.exp().ln_1p(), epsilon = EPSILON);
    let g = 2.0 * UPSTREAM * sigma;
    let expected = [(0.75 - 0.5) * g, (0.5 + 0.25) * g];
    assert_abs_diff_eq!(*value.dq.as_slice(), expected[..], epsilon = EPSILON);
    let dk = value
        .dk
        .map(|dk| dk.as_slice().to_vec())
        .unwrap_or_default();
    let expected = [-g, -2.0 * g, g, 2.0 * g];
    assert_abs_diff_eq!(dk[..], expected[..], epsilon = EPSILON);
    assert_abs_diff_eq!(value.dscale, UPSTREAM * sigma * 1.75, epsilon = EPSILON);
    Ok(())
}

#[test]
fn a_row_without_negatives_has_loss_0_and_gradient_0() -> Test {
    let mut rng = ChaCha8Rng::seed_from_u64(22);
    let mut problems = Vec::new();
    for loss in TABLE {
        let contrast = (loss.at)(0.1)?;
        if contrast.rule().is_pointwise() || contrast.rule() == RowRule::Alignment {
            // Such a row has a loss.
            continue;
        }
        let rows: &[usize] = match contrast.layout() {
            Layout::Shared => &[2],
            Layout::Pair => &[1, 1],
            // The queue holds a negative; the positives of a set compete with each other; with soft targets each candidate
            // is both.
            Layout::Queue | Layout::Labelled | Layout::Targets => continue,
        };
        problems.push((contrast, rows, vec![0]));
        let by_index = Contrast::info_nce(0.1)?.with_rule(contrast.rule())?;
        problems.push((by_index, &[3, 1], vec![0; 3]));
    }
    for (contrast, rows, index) in problems {
        let matrices = rows.iter().map(|&rows| random(&mut rng, rows, 4)).collect();
        let mut problem = Problem::new(contrast, matrices);
        if index.len() > 1 {
            problem.positives = Positives::Index(index);
        }
        let value = problem.value()?;
        assert_eq!(value.loss, 0.0);
        assert_eq!(value.dscale, 0.0);
        assert!(value.dq.as_slice().iter().all(|&dq| dq == 0.0));
        assert!(
            value
                .rows
                .negatives_lse
                .iter()
                .all(|&lse| lse == f64::NEG_INFINITY)
        );
        assert!(value.rows.loss.iter().all(|&loss| loss == 0.0));
    }
    Ok(())
}

#[test]
fn digits_are_kept_when_the_positive_dominates() -> Test {
    // One negative at z⁻ = 0 and z₊ = x: loss = ln(1 + e⁻ˣ) = e⁻ˣ(1 − e⁻ˣ/2 + …).
    for x in [18.420_680_743_952_367, 40.0, 80.0] {
        let matrices = vec![
            Dense::from_fn(1, 1, |_, _| 1.0),
            Dense::from_fn(2, 1, |j, _| if j == 0 { x } else { 0.0 }),
        ];
        let problem = Problem::new(Contrast::info_nce(1.0)?, matrices);
        let value = problem.value()?;
        let rest = (-x).exp();
        let expected = rest - rest * rest / 2.0;
        assert_abs_diff_eq!(value.loss / expected, 1.0, epsilon = 1e-14);
        let sigma = rest / (1.0 + rest);
        let dq = value.dq.as_slice()[0];
        assert_abs_diff_eq!(dq / (-UPSTREAM * sigma * x), 1.0, epsilon = 1e-14);
    }
    Ok(())
}

#[test]
fn not_finite_inputs_give_a_loss_of_nan() -> Test {
    for bad in [f64::NAN, f64::INFINITY] {
        let z = Dense::from_fn(4, 2, |i, d| if (i, d) == (3, 1) { bad } else { 0.5 });
        let problem = Contrast::nt_xent(0.1)?.pose([&z; 3], Positives::DIAGONAL)?;
        let value = reference::value_and_grad(&problem, 1.0);
        assert!(value.loss.is_nan(), "{bad}: {}", value.loss);
    }
    Ok(())
}

#[test]
fn momentum_update_is_the_weighted_mean() {
    let updated = reference::momentum_update(0.75, &[4.0, 0.0], &[0.0, 8.0]);
    assert_eq!(updated, [1.0, 6.0]);
}

#[test]
fn top_k_breaks_ties_by_index_and_puts_nan_first() {
    let queries = Dense::from_fn(1, 1, |_, _| 1.0);
    let candidates = Dense::from_fn(6, 1, |j, _| [2.0, 3.0, f64::NAN, 3.0, -1.0, 2.0][j]);
    let indices = |exclude_self: bool| -> Vec<usize> {
        let best = reference::top_k(&queries, &candidates, 5, exclude_self);
        best[0].iter().map(|&(j, _)| j).collect()
    };
    assert_eq!(indices(false), [2, 1, 3, 0, 5]);
    assert_eq!(indices(true), [2, 1, 3, 5, 4]);
}

/// Pairs of matrices and single ones, where a row is positive and negative of several anchors and of itself.
#[test]
fn triplet_gradients_are_the_derivatives_of_the_loss() -> Test {
    let mut rng = ChaCha8Rng::seed_from_u64(41);
    for reduction in [Reduction::Mean, Reduction::Sum] {
        for is_shared in [false, true] {
            let (n, dim) = (9, 4);
            let m = if is_shared { n } else { 5 };
            let matrices = [random(&mut rng, n, dim), random(&mut rng, m, dim)];
            let [positives, negatives] = [(); 2].map(|()| -> Vec<u32> {
                let index = |i| match i {
                    7 => NO_POSITIVE,
                    _ => rng.random_range(0..m as u32),
                };
                (0..n).map(index).collect()
            });
            let value = |[q, k]: &[Dense; 2]| {
                let problem = Triplet::new(0.7)?.with_reduction(reduction).on(Triplets {
                    q,
                    k: (!is_shared).then_some(k),
                    positives: &positives[..],
                    negatives: &negatives,
                })?;
                Ok::<_, Error>(reference::triplet(&problem, UPSTREAM))
            };
            let found = value(&matrices)?;
            let with_loss = found.hinges.iter().filter(|&&hinge| hinge > 0.0).count();
            assert!(with_loss > 2 && with_loss < n - 1, "{:?}", found.hinges);
            assert!(found.hinges.iter().all(|hinge| hinge.abs() > 10.0 * STEP));
            let gradients = [Some(&found.dq), found.dk.as_ref()];
            assert_eq!(found.dk.is_none(), is_shared);
            for (matrix, gradient) in gradients.into_iter().enumerate() {
                let elements = gradient.into_iter().flat_map(Dense::as_slice);
                for (place, &found) in elements.enumerate() {
                    let loss_at = |step: f64| -> Result<f64, Error> {
                        let mut moved = matrices.clone();
                        moved[matrix].as_mut_slice()[place] += step;
                        Ok(value(&moved)?.loss)
                    };
                    let slope = (loss_at(STEP)? - loss_at(-STEP)?) / (2.0 * STEP);
                    assert_abs_diff_eq!(found, UPSTREAM * slope, epsilon = 1e-8);
                }
            }
        }
    }
    Ok(())
}
