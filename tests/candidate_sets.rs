//! Anchors whose candidates lie in several matrices have the loss and gradients of one matrix that holds them all.

#[macro_use]
mod engines;

use infonce::losses::{RowRule, SetForm};
use infonce::reference::{self, Dense};
use infonce::{
    Contrast, CpuEngine, Engine, Error, HostMemory, Inputs, Matrix, MultipleNegativesRanking,
    Partition, Positives, RankingBatch, Reduction, Rows, RowsMut,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

type Test = Result<(), Error>;

const DIM: usize = 16;

fn random(rows: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
    (0..rows * DIM)
        .map(|_| rng.random_range(-0.5f32..0.5))
        .collect()
}

fn wide(x: &[f32]) -> Dense {
    Dense::from_fn(x.len() / DIM, DIM, |i, d| f64::from(x[i * DIM + d]))
}

fn rows(x: &[f32]) -> Result<Rows<'_, f32>, Error> {
    Rows::new(x, x.len() / DIM, DIM)
}

fn rows_mut(x: &mut [f32]) -> Result<RowsMut<'_, f32>, Error> {
    RowsMut::new(x, x.len() / DIM, DIM)
}

fn assert_near(found: &[f32], expected: &[f64], what: &str) {
    let largest = expected.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    assert_eq!(found.len(), expected.len(), "{what}");
    for (place, (&found, expected)) in found.iter().zip(expected).enumerate() {
        let off = (f64::from(found) - expected).abs();
        assert!(
            off <= 2e-5 * largest,
            "{what} [{place}]: {found}, not {expected}"
        );
    }
}

#[test]
fn several_matrices_equal_one_that_holds_all() -> Test {
    on_engines!(several_matrices)
}

fn several_matrices(engine: &impl Engine<Memory = HostMemory>) -> Test {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let (n, m) = (37, 90);
    let (q, k) = (random(n, &mut rng), random(m, &mut rng));
    let weights: Vec<f32> = (0..n).map(|i| (i % 4) as f32 * 0.5).collect();
    let label = |i: usize, classes: usize| (i * 7 + 1) as u32 % classes as u32;
    let of_anchors: Vec<u32> = (0..n).map(|i| label(i, 5)).collect();
    let of_candidates: Vec<u32> = (0..m).map(|j| label(j, 9)).collect();
    let info_nce = Contrast::info_nce(0.3)?.with_reduction(Reduction::MeanOfPositives);
    let inside = RowRule::Sets {
        form: SetForm::MeanInside,
        smoothing: 0.0,
    };
    let hard = RowRule::HardNegatives {
        beta: 0.5,
        prior: 0.02,
    };
    for contrast in [
        info_nce,
        info_nce.with_rule(RowRule::Debiased { prior: 0.02 })?,
        info_nce.with_rule(hard)?,
        info_nce.with_rule(inside)?,
        info_nce.with_label_smoothing(0.2)?,
    ] {
        let what = format!("{:?}", contrast.rule());
        let positives = |range: std::ops::Range<usize>| match contrast.has_sets() {
            true => Positives::Labels {
                anchors: &of_anchors[..],
                candidates: &of_candidates[range],
            },
            false if range.start == 0 => Positives::Offset(3),
            false => Positives::NONE,
        };
        let (wide_q, wide_k) = (wide(&q), wide(&k));
        let whole = contrast.on(Inputs::Pair {
            q: &wide_q,
            k: &wide_k,
            positives: positives(0..m),
        })?;
        let expected = reference::value_and_grad(&whole.with_row_weights(&weights)?, 1.5);

        let cuts = [0, 50, 51, m];
        let ranges = cuts.windows(2).map(|cut| cut[0]..cut[1]);
        let mut problems = Vec::new();
        for range in ranges.clone() {
            let inputs = Inputs::Pair {
                q: rows(&q)?,
                k: rows(&k[range.start * DIM..range.end * DIM])?,
                positives: positives(range),
            };
            problems.push(contrast.on(inputs)?.with_row_weights(&weights)?);
        }
        let mut dq = vec![f32::NAN; q.len()];
        let mut dk: Vec<Vec<f32>> = ranges
            .map(|range| vec![f32::NAN; range.len() * DIM])
            .collect();
        let outputs: Result<Vec<_>, Error> =
            dk.iter_mut().map(|dk| rows_mut(dk).map(Some)).collect();
        let [loss, dscale] =
            engine.value_and_grad_over(&problems, 1.5, rows_mut(&mut dq)?, outputs?)?;
        assert_near(&[loss], &[expected.loss], &what);
        assert_near(&[dscale], &[expected.dscale], &what);
        assert_near(&dq, expected.dq.as_slice(), &what);
        let expected_dk = expected.dk.expect("pairs have a dk");
        assert_near(&dk.concat(), expected_dk.as_slice(), &what);
    }
    Ok(())
}

#[test]
fn sets_that_make_no_sum_are_refused() -> Test {
    let x = [0.5f32; 2 * DIM];
    let engine = CpuEngine::new();
    let problem = |contrast: Contrast| contrast.on(Inputs::pair(rows(&x)?, rows(&x)?));
    let info_nce = Contrast::info_nce(0.5)?;
    let other = Contrast::info_nce(0.25)?;
    let guarded = info_nce.with_guard(0.0)?;
    let debiased = info_nce.with_rule(RowRule::Debiased { prior: 0.1 })?;
    let z = rows(&x)?;
    let among = Contrast::debiased(0.5, 0.1)?.on(Inputs::Shared { z })?;
    let of_queue = Contrast::moco(0.5)?.on(Inputs::Queue {
        q: z,
        own_key: z,
        queue: z,
    })?;
    let weighted = problem(info_nce)?.with_row_weights(&[1.0, 0.5])?;
    let otherwise = problem(info_nce)?.with_row_weights(&[0.5, 1.0])?;
    let scaled = problem(info_nce)?.with_scale(&[3.0]);
    for (problems, argument) in [
        (vec![], "problems"),
        (vec![problem(info_nce)?, problem(other)?], "problems"),
        (vec![problem(guarded)?], "guard"),
        (vec![problem(info_nce)?, problem(guarded)?], "guard"),
        (vec![problem(Contrast::clip(2.0)?)?], "problems"),
        (
            vec![problem(info_nce)?, problem(Contrast::clip(2.0)?)?],
            "own keys, or columns",
        ),
        (vec![problem(info_nce)?, of_queue], "own keys, or columns"),
        (vec![problem(debiased)?, among], "counts negatives"),
        (vec![weighted, problem(info_nce)?], "row_weights"),
        (vec![weighted, otherwise], "row_weights"),
        (vec![problem(info_nce)?, scaled], "scale"),
    ] {
        let error = engine.forward_over::<f32>(&problems).unwrap_err();
        assert!(error.to_string().contains(argument), "{error}");
    }
    let uneven = Inputs::pair(rows(&x[..DIM])?, rows(&x)?);
    let problems = [problem(info_nce)?, info_nce.on(uneven)?];
    assert!(matches!(
        engine.forward_over(&problems),
        Err(Error::Rows { .. })
    ));
    Ok(())
}

/// −ln(e^{s⟨q_i, d_i⟩}/Z_i), mean over i, by the definition of [`MultipleNegativesRanking`]: `directions` are queries
/// among queries, documents to queries, documents among documents.
fn ranking(batch: &[Dense], scale: f64, directions: [bool; 3], partition: Partition) -> f64 {
    let (q, d) = (&batch[0], &batch[1]);
    let exp = |x: &Dense, i: usize, y: &Dense, j: usize| {
        let product: f64 = x.row(i).iter().zip(y.row(j)).map(|(a, b)| a * b).sum();
        (scale * product).exp()
    };
    let n = q.rows();
    let row = |i: usize| {
        let others = || (0..n).filter(|&j| j != i);
        let mut z: f64 = batch[1..]
            .iter()
            .flat_map(|k| (0..n).map(move |j| exp(q, i, k, j)))
            .sum();
        if directions[0] {
            z += others().map(|j| exp(q, i, q, j)).sum::<f64>();
        }
        let of_queries: f64 = (0..n).map(|j| exp(d, i, q, j)).sum();
        if directions[1] && partition == Partition::Joint {
            z += of_queries;
        }
        if directions[2] {
            z += batch[1..]
                .iter()
                .flat_map(|k| others().map(move |j| exp(d, i, k, j)))
                .sum::<f64>();
        }
        let positive = exp(q, i, d, i);
        match partition {
            Partition::PerDirection if directions[1] => {
                0.5 * ((z / positive).ln() + (of_queries / positive).ln())
            }
            _ => (z / positive).ln(),
        }
    };
    (0..n).map(row).sum::<f64>() / n as f64
}

#[test]
fn ranking_is_the_published_formula_in_all_directions() -> Test {
    on_engines!(ranks)
}

fn ranks(engine: &impl Engine<Memory = HostMemory>) -> Test {
    const STEP: f64 = 1e-5;
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let n = 7;
    let base = MultipleNegativesRanking::new(4.0)?;
    for (loss, directions, partition) in [
        (base, [false; 3], Partition::Joint),
        (
            base.with_query_to_query(),
            [true, false, false],
            Partition::Joint,
        ),
        (
            base.with_document_to_query(),
            [false, true, false],
            Partition::Joint,
        ),
        (
            base.with_document_to_document(),
            [false, false, true],
            Partition::Joint,
        ),
        (base.with_all_directions(), [true; 3], Partition::Joint),
        (
            base.with_document_to_query()
                .with_partition(Partition::PerDirection)?,
            [false, true, false],
            Partition::PerDirection,
        ),
    ] {
        let what = format!("{loss:?}");
        for negatives in 0..=2 {
            let given: Vec<Vec<f32>> = (0..2 + negatives).map(|_| random(n, &mut rng)).collect();
            let wide: Vec<Dense> = given.iter().map(|x| wide(x)).collect();
            let views: Result<Vec<_>, Error> = given.iter().map(|x| rows(x)).collect();
            let views = views?;
            let batch = RankingBatch {
                queries: views[0],
                documents: views[1],
                negatives: views[2..].to_vec(),
            };
            let mut found = vec![vec![f32::NAN; n * DIM]; 2 + negatives];
            let [queries, documents, others @ ..] = &mut found[..] else {
                unreachable!("at least two")
            };
            let others: Result<Vec<_>, Error> = others.iter_mut().map(|x| rows_mut(x)).collect();
            let gradients = RankingBatch {
                queries: rows_mut(queries)?,
                documents: rows_mut(documents)?,
                negatives: others?,
            };
            let [value, dscale] = loss.value_and_grad(engine, &batch, 1.0, gradients)?;
            let formula = |batch: &[Dense], scale| ranking(batch, scale, directions, partition);
            assert_near(&[value], &[formula(&wide, 4.0)], &what);
            let of_scale = (formula(&wide, 4.0 + STEP) - formula(&wide, 4.0 - STEP)) / (2.0 * STEP);
            assert_near(&[dscale], &[of_scale], &what);
            for (which, found) in found.iter().enumerate() {
                let derivative = |place: usize| {
                    let at = |step: f64| {
                        let mut moved = wide.clone();
                        moved[which].as_mut_slice()[place] += step;
                        formula(&moved, 4.0)
                    };
                    (at(STEP) - at(-STEP)) / (2.0 * STEP)
                };
                let expected: Vec<f64> = (0..n * DIM).map(derivative).collect();
                assert_near(found, &expected, &what);
            }
        }
    }
    let refused = base
        .with_all_directions()
        .with_partition(Partition::PerDirection);
    assert!(refused.unwrap_err().to_string().contains("partition"));
    let later = base
        .with_partition(Partition::PerDirection)?
        .with_query_to_query();
    let (x, mut dq, mut dd) = ([0.5f32; DIM], [f32::NAN; DIM], [f32::NAN; DIM]);
    let batch = RankingBatch {
        queries: rows(&x)?,
        documents: rows(&x)?,
        negatives: Vec::new(),
    };
    let gradients = RankingBatch {
        queries: rows_mut(&mut dq)?,
        documents: rows_mut(&mut dd)?,
        negatives: Vec::new(),
    };
    let refused = later.value_and_grad(engine, &batch, 1.0, gradients);
    assert!(refused.unwrap_err().to_string().contains("partition"));
    assert!(dq.iter().chain(&dd).all(|x| x.is_nan()));
    Ok(())
}
