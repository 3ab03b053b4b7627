//! Problems with options against the float64 reference: sets of positives, two exponents, ids, a guard, biases, weights
//! of rows.

use half::{bf16, f16};

use super::*;
use crate::contrast::Reduction;
use crate::engine::Engine;
use crate::losses::{RowRule, SetForm};
use crate::positives::{Ids, NO_POSITIVE};
use crate::rows::Matrix;
use crate::statistics::RowStatistics;

/// What a problem has besides its matrices.
#[derive(Debug, Clone)]
struct Given {
    contrast: Contrast,
    positives: Positives<Vec<u32>>,
    /// Of anchors and candidates.
    ids: Option<[Vec<u32>; 2]>,
    weights: Option<Vec<f32>>,
    bias: Option<Vec<f32>>,
    /// Candidates of all shards.
    all: usize,
}

impl Given {
    fn on<'a, V>(&'a self, matrices: [V; 3]) -> Result<Problem<V>, Error>
    where
        V: View<Indices = &'a [u32], Floats = &'a [f32]>,
    {
        let mut problem = pose(&self.contrast, matrices, self.positives.view())?;
        if let Some([anchors, candidates]) = &self.ids {
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
        Ok(problem.as_shard_of(self.all))
    }

    /// The part of candidates `first` to `end` - 1.
    fn shard(&self, first: usize, end: usize) -> Self {
        let own = |j: u32| match (first..end).contains(&(j as usize)) {
            true => j - first as u32,
            false => NO_POSITIVE,
        };
        let positives = match &self.positives {
            Positives::Offset(offset) => Positives::Offset(offset - first as i64),
            Positives::Index(index) => Positives::Index(index.iter().map(|&j| own(j)).collect()),
            Positives::Labels {
                anchors,
                candidates,
            } => Positives::Labels {
                anchors: anchors.clone(),
                candidates: candidates[first..end].to_vec(),
            },
            Positives::Lists { starts, candidates } => {
                let list = |range: &[u32]| &candidates[range[0] as usize..range[1] as usize];
                let of_row = |range| list(range).iter().map(|&j| own(j));
                let of_shard = |range| of_row(range).filter(|&j| j != NO_POSITIVE).collect();
                let lists: Vec<Vec<u32>> = starts.windows(2).map(of_shard).collect();
                lists_of(&lists)
            }
        };
        let ids = self.ids.clone();
        Self {
            positives,
            ids: ids.map(|[anchors, candidates]| [anchors, candidates[first..end].to_vec()]),
            bias: self.bias.as_ref().map(|bias| bias[first..end].to_vec()),
            ..self.clone()
        }
    }
}

fn lists_of(lists: &[Vec<u32>]) -> Positives<Vec<u32>> {
    let mut starts = vec![0];
    for list in lists {
        starts.push(starts[starts.len() - 1] + list.len() as u32);
    }
    let candidates = lists.concat();
    Positives::Lists { starts, candidates }
}

/// dq, dk and dbias; empty where there is none.
type All = [Vec<f32>; 3];

/// The result of a call, and its gradients, which are NaN before it.
fn gradients<T: Element, R>(
    problem: &Problem<Rows<'_, T>>,
    call: impl FnOnce(Gradients<RowsMut<'_, f32>>) -> Result<R, Error>,
) -> Result<(R, All), Error> {
    let (shape, has_dk) = (problem.shape(), problem.contrast().has_dk());
    let lengths = [
        shape.anchors * shape.dim,
        usize::from(has_dk) * shape.candidates * shape.dim,
        usize::from(problem.column_bias().is_some()) * shape.candidates,
    ];
    let mut all = lengths.map(|length| vec![f32::NAN; length]);
    let [dq, dk, dbias] = &mut all;
    let dq = RowsMut::new(dq, shape.anchors, shape.dim)?;
    let some = |to: &Vec<f32>| !to.is_empty();
    let dk = Some(dk).filter(|dk| some(dk));
    let dk = dk.map(|dk| RowsMut::new(dk, shape.candidates, shape.dim));
    let mut to = Gradients::new(dq, dk.transpose()?);
    let dbias = Some(dbias).filter(|dbias| some(dbias));
    to.dbias = dbias
        .map(|dbias| RowsMut::new(dbias, 1, shape.candidates))
        .transpose()?;
    let result = call(to)?;
    Ok((result, all))
}

/// Asserts that `found` is near `expected` in the norm, and 0 where that is 0.
fn near(what: &str, found: &[f32], expected: &[f64], allowed: f64) {
    let zero = expected.iter().all(|&x| x == 0.0);
    assert_eq!(found.len(), expected.len(), "{what}");
    let error = match zero {
        true => found
            .iter()
            .fold(0.0, |most, &x| f64::from(x.abs()).max(most)),
        false => relative_error(found, expected),
    };
    assert!(
        error <= if zero { 0.0 } else { allowed },
        "{what} is off by {error:.1e}"
    );
}

/// Statistics are compared one by one; −∞ and NaN are equal to themselves.
fn near_plane(what: &str, found: &[f32], expected: &[f64], allowed: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (row, (&x, &y)) in found.iter().zip(expected).enumerate() {
        let x = f64::from(x);
        let off = (x - y).abs();
        assert!(
            x == y || off <= allowed * (1.0 + y.abs()),
            "{what}, row {row}: {x}, not {y}"
        );
    }
}

fn near_statistics(what: &str, found: &RowStatistics, expected: &Reference, allowed: f64) {
    let rows = &expected.rows;
    let near = |name, found: &[f32], expected: &[f64]| {
        near_plane(&format!("{what}: {name}"), found, expected, allowed);
    };
    near("lse⁻", &found.negatives_lse, &rows.negatives_lse);
    near("z₊", &found.positive, &rows.positive);
    if !found.second_lse.is_empty() {
        near("second", &found.second_lse, &rows.second_lse);
    }
    if let Some(sets) = &found.sets {
        near("lse⁺", &sets.positives_lse, &rows.second_lse);
        near("positives", &sets.positives, &rows.positives);
    }
}

/// Σ |dz_ij⟨q_i, k_j⟩|, of which dscale is a part.
fn size_of_dscale(problem: &Problem<&Dense>, expected: &Reference) -> f64 {
    let matrices = problem.matrices();
    let own = usize::from(matrices.own_keys.is_some());
    let product = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let mut size = 0.0;
    for i in 0..problem.shape().anchors {
        for (j, dz) in expected.dz.row(i).iter().enumerate() {
            let key = match (matrices.own_keys, j) {
                (Some(own_keys), 0) => own_keys.row(i),
                _ => matrices.candidates.row(j - own),
            };
            size += (dz * product(matrices.anchors.row(i), key)).abs();
        }
    }
    size
}

/// Labels of six classes; some rows have none.
fn labels(rows: usize, seed: usize) -> Vec<u32> {
    let label = |i: usize| match (i * 7 + seed) % 13 {
        12 => NO_POSITIVE,
        other => (other % 6) as u32,
    };
    (0..rows).map(label).collect()
}

/// Lists of up to five positives, and of none.
fn lists(anchors: usize, candidates: usize) -> Positives<Vec<u32>> {
    let list = |i: usize| {
        let mut list: Vec<u32> = (0..i % 6)
            .map(|n| ((i * 31 + n * 53) % candidates) as u32)
            .collect();
        list.sort_unstable();
        list.dedup();
        list
    };
    lists_of(&(0..anchors).map(list).collect::<Vec<_>>())
}

/// Every option, with N anchors and M candidates.
fn cases(n: usize, m: usize) -> Result<Vec<(&'static str, Given)>, Error> {
    let given = |contrast: Contrast, m: usize| Given {
        contrast,
        positives: Positives::DIAGONAL,
        ids: None,
        weights: None,
        bias: None,
        all: m,
    };
    let ids = |n: usize, m: usize| {
        // The first anchor excludes all candidates but its positive.
        let mut ids = [labels(n, 3), labels(m, 5)];
        ids[0][1] = 77;
        ids[1][m - 1] = 77;
        Some(ids)
    };
    let bias = |m: usize| Some((0..m).map(|j| (j as f32 * 0.7).sin()).collect::<Vec<f32>>());
    let weights = Some((0..n).map(|i| (i % 5) as f32 * 0.4).collect::<Vec<f32>>());
    let index = Positives::Index(
        (0..n)
            .map(|i| ((i * i + 3) % (m + 5)) as u32)
            .collect::<Vec<_>>(),
    );
    let index = match index {
        Positives::Index(index) => {
            let past = |j: u32| if (j as usize) < m { j } else { NO_POSITIVE };
            Positives::Index(index.into_iter().map(past).collect())
        }
        other => other,
    };
    let sets = |form, smoothing| RowRule::Sets { form, smoothing };
    let of_labels = || Positives::Labels {
        anchors: labels(n, 0),
        candidates: labels(n, 0),
    };
    let of_pair = || Positives::Labels {
        anchors: labels(n, 0),
        candidates: labels(m, 1),
    };
    let info = Contrast::info_nce(0.2)?;
    let sup_con = Contrast::sup_con(0.2)?;
    let smoothed = info.with_label_smoothing(0.2)?;
    let hard = RowRule::HardNegatives {
        beta: 1.5,
        prior: 0.1,
    };
    let of_positives = |contrast: Contrast| contrast.with_reduction(Reduction::MeanOfPositives);
    Ok(vec![
        (
            "ids",
            Given {
                ids: ids(n, m),
                ..given(info, m)
            },
        ),
        (
            "guard",
            Given {
                ..given(info.with_guard(0.05)?, m)
            },
        ),
        (
            "guard, ids, bias, index, weights",
            Given {
                positives: index.clone(),
                ids: ids(n, m),
                bias: bias(m),
                weights: weights.clone(),
                ..given(of_positives(info.with_guard(-0.2)?), m)
            },
        ),
        (
            "bias, labels of the first",
            Given {
                positives: of_pair(),
                bias: bias(m),
                ..given(info, m)
            },
        ),
        (
            "a queue's ids and guard",
            Given {
                ids: ids(n, m),
                ..given(Contrast::moco(0.2)?.with_guard(0.1)?, m)
            },
        ),
        (
            "pairs of views, bias and ids",
            Given {
                ids: ids(n, n),
                bias: bias(n),
                ..given(Contrast::nt_xent(0.2)?, n)
            },
        ),
        (
            "labelled",
            Given {
                positives: of_labels(),
                ..given(sup_con, n)
            },
        ),
        (
            "labelled, of positives, weights, bias",
            Given {
                positives: of_labels(),
                weights: weights.clone(),
                bias: bias(n),
                ..given(of_positives(sup_con), n)
            },
        ),
        (
            "labelled by lists, inside",
            Given {
                positives: lists(n, n),
                ..given(sup_con.with_rule(sets(SetForm::MeanInside, 0.0))?, n)
            },
        ),
        (
            "one positive of labelled rows",
            Given {
                positives: Positives::Index((0..n).map(|i| (i * i % n) as u32).collect()),
                ..given(sup_con.with_rule(RowRule::SOFTMAX)?, n)
            },
        ),
        (
            "decoupled lists, bias and ids",
            Given {
                positives: lists(n, m),
                ids: ids(n, m),
                bias: bias(m),
                ..given(info.with_rule(sets(SetForm::Decoupled, 0.0))?, m)
            },
        ),
        (
            "smoothed labels of a pair",
            Given {
                positives: of_pair(),
                bias: bias(m),
                ..given(smoothed, m)
            },
        ),
        (
            "smoothing, ids, index",
            Given {
                positives: index,
                ids: ids(n, m),
                weights,
                ..given(smoothed, m)
            },
        ),
        (
            "smoothed pairs of views",
            given(Contrast::nt_xent(0.2)?.with_label_smoothing(0.1)?, n),
        ),
        (
            "hard negatives",
            given(Contrast::hard_negatives(0.5, 1.0, 0.1)?, n),
        ),
        (
            "hard negatives of a pair, bias",
            Given {
                bias: bias(m),
                ..given(info.with_rule(hard)?, m)
            },
        ),
        (
            "hard negatives of a queue",
            given(Contrast::moco(0.2)?.with_rule(hard)?, m),
        ),
    ])
}

/// Compares loss, statistics and gradients of every case.
fn check<T: Element>(hopper: bool, [n, m, dim]: [usize; 3], allowed: f64) -> Result<(), Error> {
    let batch = Batch::<T>::new(n, m, dim);
    let exact = batch.exact();
    for (name, given) in cases(n, m)? {
        let engine = engine(Schedule::Mixed, 3, hopper);
        let what = format!("{name}, {} D = {dim}, sm_90a: {hopper}", T::DTYPE);
        // Logits are as large for each D.
        let scale = 30.0 / dim as f32;
        let problem = given
            .on(batch.rows())?
            .with_scale(std::slice::from_ref(&scale));
        let of_reference = given.on(exact.each_ref())?.with_scale(f64::from(scale));
        let expected = reference::value_and_grad(&of_reference, 1.0);
        let (value, found) = gradients(&problem, |to| engine.value_and_grad(&problem, 1.0, to))?;
        let loss = (f64::from(value.loss) - expected.loss).abs();
        assert!(
            loss <= 3e-6 * (1.0 + expected.loss.abs()),
            "{what}: loss is off by {loss:.1e}"
        );
        near_statistics(&what, &value.statistics.rows, &expected, 5e-6);
        let dbias = expected.dbias.clone().unwrap_or_default();
        let dk = expected.dk.as_ref().map_or(&[][..], |dk| dk.as_slice());
        near(
            &format!("{what}: dq"),
            &found[0],
            expected.dq.as_slice(),
            allowed,
        );
        near(&format!("{what}: dk"), &found[1], dk, allowed);
        near(&format!("{what}: dbias"), &found[2], &dbias, allowed);
        let size = size_of_dscale(&of_reference, &expected);
        let off = (f64::from(value.dscale) - expected.dscale).abs();
        assert!(
            off <= allowed * size,
            "{what}: dscale is off by {off:.1e} of {size:.1e}"
        );
        // The same bits from the statistics of a forward.
        let forward = engine.forward(&problem)?;
        assert_eq!(
            (forward.loss, &forward.statistics),
            (value.loss, &value.statistics),
            "{what}"
        );
        let (dscale, again) = gradients(&problem, |to| {
            engine.backward(&problem, &forward.statistics, 1.0, to)
        })?;
        assert_eq!(dscale, value.dscale, "{what}");
        assert_eq!(again, found, "{what}");
    }
    Ok(())
}

#[test]
fn every_option_is_the_references() -> Result<(), Error> {
    check::<f32>(false, [70, 150, 24], 2e-5)
}

#[test]
fn every_option_of_16_bits_is_the_references() -> Result<(), Error> {
    check::<bf16>(false, [70, 150, 40], 4e-3)?;
    check::<f16>(false, [70, 150, 40], 1e-3)
}

#[test]
fn every_option_on_hopper_is_the_references() -> Result<(), Error> {
    check::<bf16>(true, [70, 290, 72], 4e-3)?;
    check::<f16>(true, [70, 290, 72], 1e-3)
}

#[test]
fn options_in_several_chunks_are_the_references() -> Result<(), Error> {
    check::<f32>(false, [150, 170, 12], 2e-5)?;
    check::<f16>(true, [262, 140, 16], 1e-3)
}

#[test]
fn shards_with_options_add_up_to_the_whole() -> Result<(), Error> {
    fn check<T: Element>(hopper: bool, dim: usize, allowed: f64) -> Result<(), Error> {
        let (n, m, split) = (70, 150, 61);
        let batch = Batch::<T>::new(n, m, dim);
        let ([q, k, own], exact) = (batch.rows(), batch.exact());
        let engine = engine(Schedule::Mixed, 4, hopper);
        for (name, given) in cases(n, m)? {
            // z₊ of other shards is unknown to a guard, and so is a label's first candidate. The rows of one matrix are
            // no shards.
            let contrast = given.contrast;
            let of_first =
                matches!(given.positives, Positives::Labels { .. }) && !contrast.has_sets();
            let guarded = contrast.description().guard.is_some();
            if contrast.is_shared() || contrast.has_own_keys() || guarded || of_first {
                continue;
            }
            let what = format!("{name}, {} sm_90a: {hopper}", T::DTYPE);
            let scale = 30.0 / dim as f32;
            let of_reference = given.on(exact.each_ref())?.with_scale(f64::from(scale));
            let expected = reference::value_and_grad(&of_reference, 1.0);
            let shards = [(0, split), (split, m)].map(|(first, end)| given.shard(first, end));
            let pose = |which: usize| -> Result<_, Error> {
                let (first, end) = [(0, split), (split, m)][which];
                let problem = shards[which].on([q, k.slice(first, end - first), own])?;
                Ok(problem.with_scale(std::slice::from_ref(&scale)))
            };
            let problems = [pose(0)?, pose(1)?];
            let mut statistics = engine.forward(&problems[0])?.statistics;
            let others = engine.forward(&problems[1])?.statistics;
            engine.merge(&mut statistics, &others)?;
            near_statistics(&what, &statistics.rows, &expected, 5e-6);
            let (mut dq, mut dk, mut dbias) = (vec![0.0; n * dim], Vec::new(), Vec::new());
            let mut dscale = 0.0;
            for problem in &problems {
                let (of_s, [of_q, of_k, of_bias]) =
                    gradients(problem, |to| engine.backward(problem, &statistics, 1.0, to))?;
                dq.iter_mut().zip(of_q).for_each(|(sum, dq)| *sum += dq);
                dk.extend(of_k);
                dbias.extend(of_bias);
                dscale += f64::from(of_s);
            }
            let expected_dk = expected.dk.as_ref().expect("candidates have a gradient");
            near(&format!("{what}: dq"), &dq, expected.dq.as_slice(), allowed);
            near(&format!("{what}: dk"), &dk, expected_dk.as_slice(), allowed);
            near(
                &format!("{what}: dbias"),
                &dbias,
                &expected.dbias.clone().unwrap_or_default(),
                allowed,
            );
            let (off, size) = (
                dscale - expected.dscale,
                size_of_dscale(&of_reference, &expected),
            );
            assert!(
                off.abs() <= allowed * size,
                "{what}: dscale is off by {off:.1e}"
            );
        }
        Ok(())
    }
    check::<f32>(false, 24, 3e-5)?;
    check::<bf16>(true, 40, 4e-3)
}

/// Labels for N rows that are anchors and candidates.
fn labelled(contrast: Contrast, labels: Vec<u32>) -> Given {
    let all = labels.len();
    let positives = Positives::Labels {
        anchors: labels.clone(),
        candidates: labels,
    };
    Given {
        contrast,
        positives,
        ids: None,
        weights: None,
        bias: None,
        all,
    }
}

#[test]
fn sets_of_all_rows_and_of_none_are_exact() -> Result<(), Error> {
    let n = 33;
    let batch = Batch::<f32>::new(n, n, 20);
    let exact = batch.exact();
    for form in [
        SetForm::MeanOutside,
        SetForm::MeanInside,
        SetForm::Decoupled,
    ] {
        for reduction in [Reduction::Mean, Reduction::MeanOfPositives] {
            let rule = RowRule::Sets {
                form,
                smoothing: 0.0,
            };
            let contrast = Contrast::sup_con(0.3)?
                .with_rule(rule)?
                .with_reduction(reduction);
            let engine = engine(Schedule::Late, 6, false);
            let what = format!("{form:?}, {reduction:?}");
            // No row has a negative.
            let given = labelled(contrast, vec![5; n]);
            let problem = given.on(batch.rows())?;
            let expected = reference::value_and_grad(&given.on(exact.each_ref())?, 1.0);
            let run = |problem: &Problem<Rows<'_, f32>>| {
                gradients(problem, |to| engine.value_and_grad(problem, 1.0, to))
            };
            let (value, found) = run(&problem)?;
            assert!(
                (f64::from(value.loss) - expected.loss).abs() < 1e-5,
                "{what}"
            );
            near(&what, &found[0], expected.dq.as_slice(), 2e-5);
            // No row has a positive.
            for labels in [vec![NO_POSITIVE; n], (0..n as u32).collect()] {
                let given = labelled(contrast, labels);
                let (value, found) = run(&given.on(batch.rows())?)?;
                assert_eq!((value.loss, value.dscale), (0.0, 0.0), "{what}");
                assert!(found[0].iter().all(|&x| x == 0.0), "{what}");
            }
        }
    }
    Ok(())
}

#[test]
fn rows_without_negatives_or_weight_have_no_gradient() -> Result<(), Error> {
    let (n, m, dim) = (20, 45, 24);
    let mut batch = Batch::<bf16>::new(n, m, dim);
    // A row that is left out may hold anything.
    batch.numbers[0][2 * dim + 5] = bf16::NAN;
    for hopper in [false, true] {
        for (name, ids) in [("ids", true), ("weights alone", false)] {
            let what = format!("{name}, sm_90a: {hopper}");
            let contrast = Contrast::info_nce(0.2)?.with_reduction(Reduction::MeanOfPositives);
            let mut weights = vec![0.7; n];
            weights[2] = 0.0;
            let mut of_anchors = vec![1; n];
            of_anchors[4] = 9;
            let given = Given {
                contrast,
                positives: Positives::DIAGONAL,
                // Every candidate has the id of anchor 4.
                ids: ids.then(|| [of_anchors, vec![9; m]]),
                weights: Some(weights),
                bias: None,
                all: m,
            };
            let problem = given.on(batch.rows())?;
            let engine = engine(Schedule::Mixed, 7, hopper);
            let (value, found) =
                gradients(&problem, |to| engine.value_and_grad(&problem, 1.0, to))?;
            assert!(value.loss.is_finite(), "{what}");
            let is_zero = |i: usize| found[0][i * dim..][..dim].iter().all(|&x| x == 0.0);
            assert_eq!(
                (0..n).filter(|&i| is_zero(i)).collect::<Vec<_>>(),
                if ids { vec![2, 4] } else { vec![2] },
                "{what}"
            );
            assert!(found[0].iter().all(|x| x.is_finite()), "{what}");
        }
    }
    Ok(())
}

#[test]
fn nan_in_a_problem_with_options_makes_the_loss_nan() -> Result<(), Error> {
    let (n, m, dim) = (20, 45, 24);
    for which in 0..2 {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut batch = Batch::<f32>::new(n, m, dim);
            batch.numbers[which][3 * dim + 1] = value;
            for (name, mut given) in cases(n, m)? {
                // Anchor 3 and candidate 3 count.
                given.weights = None;
                let problem = given.on(batch.rows())?;
                // Rows of one matrix are the first; without a positive a row's loss is 0.
                let is_read = which == 0 || !given.contrast.is_shared();
                let engine = engine(Schedule::Late, 8, false);
                let found = engine.forward(&problem)?;
                let clean = Batch::<f32>::new(n, m, dim);
                let clean = engine.forward(&given.on(clean.rows())?)?;
                assert!(clean.loss.is_finite(), "{name}");
                assert_eq!(
                    found.loss.is_nan(),
                    is_read,
                    "{name}, {value} in matrix {which}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn gradients_of_options_are_added_and_rounded_once() -> Result<(), Error> {
    let (n, m, dim) = (70, 150, 24);
    let batch = Batch::<bf16>::new(n, m, dim);
    for (name, given) in cases(n, m)? {
        let problem = given.on(batch.rows())?;
        let engine = engine(Schedule::Mixed, 9, true);
        let (value, new) = gradients(&problem, |to| engine.value_and_grad(&problem, 1.5, to))?;
        let (again, found) = gradients(&problem, |mut to| {
            let all = [Some(&mut to.dq), to.dk.as_mut(), to.dbias.as_mut()];
            for to in all.into_iter().flatten() {
                let before = vec![0.25; to.rows() * to.dim()];
                to.fill_from(&before);
            }
            engine.value_and_grad(&problem, 1.5, to.accumulating())
        })?;
        assert_eq!(again, value, "{name}");
        for (found, new) in found.iter().flatten().zip(new.iter().flatten()) {
            assert_eq!(*found, new + 0.25, "{name}");
        }
    }
    Ok(())
}

#[test]
fn weights_of_rows_serve_every_scheme() -> Result<(), Error> {
    fn check<T: Element>(hopper: bool, dim: usize, allowed: f64) -> Result<(), Error> {
        let n = 70;
        let batch = Batch::<T>::new(n, n, dim);
        let exact = batch.exact();
        for contrast in contrasts()? {
            let rules = [RowRule::SOFTMAX, RowRule::Decoupled { sigma: Some(8.0) }];
            for rule in rules {
                let given = Given {
                    contrast: contrast
                        .with_rule(rule)?
                        .with_reduction(Reduction::MeanOfPositives),
                    positives: match contrast.has_columns() {
                        true => Positives::DIAGONAL,
                        false => Positives::Offset(3),
                    },
                    ids: None,
                    weights: Some((0..n).map(|i| [0.0, 0.5, 3e-3, 40.0][i % 4]).collect()),
                    bias: None,
                    all: n,
                };
                let scale = 40.0 / dim as f32;
                let problem = given
                    .on(batch.rows())?
                    .with_scale(std::slice::from_ref(&scale));
                let of_reference = given.on(exact.each_ref())?.with_scale(f64::from(scale));
                let expected = reference::value_and_grad(&of_reference, 1.0);
                let engine = engine(Schedule::Mixed, 5, hopper);
                let (value, found) =
                    gradients(&problem, |to| engine.value_and_grad(&problem, 1.0, to))?;
                let what = format!(
                    "{} {rule:?}, {} D = {dim}, sm_90a: {hopper}",
                    contrast.name(),
                    T::DTYPE
                );
                let off = (f64::from(value.loss) - expected.loss).abs();
                assert!(
                    off <= 3e-6 * (1.0 + expected.loss.abs()),
                    "{what}: loss is off by {off:.1e}"
                );
                let dk = expected.dk.as_ref().map_or(&[][..], |dk| dk.as_slice());
                near(
                    &format!("{what}: dq"),
                    &found[0],
                    expected.dq.as_slice(),
                    allowed,
                );
                near(&format!("{what}: dk"), &found[1], dk, allowed);
                let forward = engine.forward(&problem)?;
                let off = (f64::from(forward.loss) - expected.loss).abs();
                assert!(
                    off <= 3e-6 * (1.0 + expected.loss.abs()),
                    "{what}: loss is off by {off:.1e}"
                );
                let (_, again) = gradients(&problem, |to| {
                    engine.backward(&problem, &forward.statistics, 1.0, to)
                })?;
                near(
                    &format!("{what}: dq again"),
                    &again[0],
                    expected.dq.as_slice(),
                    allowed,
                );
                near(&format!("{what}: dk again"), &again[1], dk, allowed);
            }
        }
        Ok(())
    }
    check::<f32>(false, 24, 2e-5)?;
    check::<f16>(false, 264, 1e-3)?;
    check::<f16>(true, 264, 1e-3)?;
    check::<bf16>(true, 40, 4e-3)
}

#[test]
fn options_in_tf32_are_the_references() -> Result<(), Error> {
    let (n, m, dim) = (70, 150, 24);
    let batch = Batch::<f32>::new(n, m, dim);
    let exact = batch.exact();
    for (name, given) in cases(n, m)? {
        // A rounded logit may pass the guard.
        if given.contrast.description().guard.is_some() {
            continue;
        }
        let memory = Memory::on(EmulatedDevice::new(Schedule::Mixed, 6, 3));
        let problem = given.on(batch.rows())?;
        let shape = problem.shape();
        let on_device = problem.try_map::<DeviceMatrix>(
            |_, rows| memory.given(&rows.contiguous(), dim, 0),
            |_, words| memory.words(words),
            |_, words| memory.words(words),
            |_, _| unreachable!("no scale on the device"),
        )?;
        let gradient = |rows| memory.matrix([rows, dim], DType::F32, 0);
        let dk = given.contrast.has_dk().then(|| gradient(shape.candidates));
        let to = Gradients::new(gradient(n)?, dk.transpose()?);
        let similarity = Similarity::new(&memory.device, 0).with_tf32(true);
        let value = similarity.value_and_grad(&on_device, 1.0, &to)?;
        let value = value.read(&memory.device)?;
        let expected = reference::value_and_grad(&given.on(exact.each_ref())?, 1.0);
        let off = (f64::from(value.loss) - expected.loss).abs();
        assert!(
            off <= 3e-3 * (1.0 + expected.loss.abs()),
            "{name}: {off:.1e}"
        );
        near(name, &memory.elements(to.dq)?, expected.dq.as_slice(), 2e-2);
        if let (Some(found), Some(expected)) = (to.dk, &expected.dk) {
            near(name, &memory.elements(found)?, expected.as_slice(), 2e-2);
        }
    }
    Ok(())
}
