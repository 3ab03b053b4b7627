//! Losses whose targets are a softmax of other scores are those of their papers: DINO, SwAV and ReLIC.

use super::Test;
use super::formula::{
    Batch, Point, UNTOUCHED, UPSTREAM, assert_near, dot, message, narrow, unit_rows, unsupported,
    wide,
};
use infonce::losses::RowRule;
use infonce::reference::Dense;
use infonce::{
    Contrast, CpuEngine, Engine, Error, Gradients, HostMemory, Ids, Inputs, Matrix, Reduction,
    Rows, RowsMut,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// D of the student, and of the targets.
const DIM: usize = 5;
const TARGET_DIM: usize = 7;

fn softmax(logits: impl Iterator<Item = f64>) -> Vec<f64> {
    let exponentials: Vec<f64> = logits.map(f64::exp).collect();
    let total: f64 = exponentials.iter().sum();
    exponentials.iter().map(|x| x / total).collect()
}

/// softmax_j(s·⟨x_i, y_j⟩ + c_j) of row i.
fn scores(x: &[f64], y: &Dense, scale: f64, bias: &[f64]) -> Vec<f64> {
    softmax((0..y.rows()).map(|j| scale * dot(x, y.row(j)) + bias.get(j).unwrap_or(&0.0)))
}

/// −Σ_j t_j·ln s_j.
fn cross_entropy(t: &[f64], s: &[f64]) -> f64 {
    -t.iter().zip(s).map(|(t, s)| t * s.ln()).sum::<f64>()
}

/// Σ_j t_j·ln(t_j/s_j).
fn divergence(t: &[f64], s: &[f64]) -> f64 {
    t.iter().zip(s).map(|(t, s)| t * (t / s).ln()).sum()
}

/// q, k, target_q and target_k.
fn matrices(n: usize, m: usize, b: usize) -> Vec<Dense> {
    vec![
        unit_rows(n, DIM, 1),
        unit_rows(m, DIM, 2),
        unit_rows(b, TARGET_DIM, 3),
        unit_rows(m, TARGET_DIM, 4),
    ]
}

/// Σ_i w_i·of(t_i, s_i): the student at a point, the teacher at a scale with a bias, row i with targets i mod B.
fn over_rows(
    at: &Point,
    (target_scale, target_bias): (f64, &[f64]),
    weight: impl Fn(usize) -> f64,
    of: impl Fn(&[f64], &[f64]) -> f64,
) -> f64 {
    let [q, k, u, p] = [0, 1, 2, 3].map(|which| &at.matrices[which]);
    let row = |i: usize| {
        let teacher = scores(u.row(i % u.rows()), p, target_scale, target_bias);
        weight(i) * of(&teacher, &scores(q.row(i), k, at.scale, &[]))
    };
    (0..q.rows()).map(row).sum()
}

/// Biases of M logits.
fn biases(m: usize) -> Vec<f32> {
    (0..m)
        .map(|j| [0.5, -1.25, 0.0, 2.0, -0.75][j % 5])
        .collect()
}

#[test]
fn dino_is_algorithm_1_of_caron_et_al() -> Test {
    let (tau, target_tau) = (0.125, 0.0625);
    // As many targets as anchors, several anchors for each, one for all.
    for (n, m, b) in [(4, 6, 4), (6, 9, 2), (3, 5, 1)] {
        let centre: Vec<f64> = biases(m).iter().map(|&c| 0.25 * f64::from(c)).collect();
        let bias: Vec<f32> = centre.iter().map(|c| (-c / target_tau) as f32).collect();
        let weights: Vec<f32> = (0..n).map(|i| [2.0, 0.0, 0.5][i % 3]).collect();
        // A centre, weights, a sum and a scale in memory by the bits of a number.
        for options in 0..16 {
            let has = |bit: u32| options & 1 << bit != 0;
            let reduction = if has(2) {
                Reduction::Sum
            } else {
                Reduction::Mean
            };
            let contrast = Contrast::dino(tau, target_tau as f32)?.with_reduction(reduction);
            let batch = Batch {
                target_bias: has(0).then(|| bias.clone()),
                weights: has(1).then(|| weights.clone()),
                scale: has(3).then_some(3.0),
                ..Batch::new(contrast, matrices(n, m, b))
            };
            let weight = |i: usize| if has(1) { f64::from(weights[i]) } else { 1.0 };
            let divisor = if has(2) { 1.0 } else { n as f64 };
            batch.has_formula(&format!("{n} x {m} of {b}, {options}"), |at| {
                let [q, k, u, p] = [0, 1, 2, 3].map(|which| &at.matrices[which]);
                let h = |i: usize| {
                    let logit = |j: usize| {
                        let score = dot(u.row(i % b), p.row(j));
                        (score - if has(0) { centre[j] } else { 0.0 }) / target_tau
                    };
                    let t = softmax((0..m).map(logit));
                    let s = softmax((0..m).map(|j| dot(q.row(i), k.row(j)) * at.scale));
                    weight(i) * cross_entropy(&t, &s)
                };
                (0..n).map(h).sum::<f64>() / divisor
            })?;
        }
    }
    Ok(())
}

#[test]
fn swav_is_the_cross_entropy_of_given_assignments() -> Test {
    let (n, m) = (6, 8);
    let g = biases(m);
    // Views have the same prototypes, whose gradient is that of the student's scores alone.
    let [q, k, u] = [5, 6, 7].map(|seed| unit_rows(if seed == 6 { m } else { n }, DIM, seed));
    let batch = Batch {
        target_bias: Some(g.clone()),
        ..Batch::new(Contrast::swav(0.125, 0.0625)?, vec![q, k.clone(), u, k])
    };
    let of_targets = (16.0, &wide(&g)[..]);
    batch.has_formula("swav", |at| {
        over_rows(at, of_targets, |_| 1.0, cross_entropy) / n as f64
    })
}

#[test]
fn relic_is_the_divergence_of_equation_3() -> Test {
    for (n, m, b) in [(5, 7, 5), (6, 9, 3)] {
        let k = unit_rows(m, DIM, 9);
        let given = vec![unit_rows(n, DIM, 8), k.clone(), unit_rows(b, DIM, 10), k];
        let batch = Batch::new(Contrast::relic(0.25)?, given);
        assert!(!batch.contrast.has_dk());
        batch.has_formula("relic", |at| {
            over_rows(at, (4.0, &[]), |_| 1.0, divergence) / n as f64
        })?;
    }
    Ok(())
}

#[test]
fn a_divergence_is_0_of_equal_views_and_never_negative() -> Test {
    let engine = CpuEngine::new();
    let (n, m) = (6, 40);
    for seed in 20..40 {
        let [q, k] = [(n, seed), (m, seed + 100)].map(|(rows, seed)| unit_rows(rows, DIM, seed));
        let temperature = [0.05, 0.5, 4.0][seed as usize % 3];
        let of = |u: Dense| {
            let batch = vec![q.clone(), k.clone(), u, k.clone()];
            let batch = Batch::new(Contrast::relic(temperature)?, batch);
            Ok::<_, Error>([batch.in_float64()?, batch.on(&engine)?])
        };
        // P and t are rounded at most a few times each, and a gradient has s times their difference.
        for (found, rounding) in of(q.clone())?.into_iter().zip([1e-14, 1e-5]) {
            assert!(found.loss.abs() < rounding, "{seed}: {}", found.loss);
            let largest = found.dq.iter().fold(0.0f64, |most, x| most.max(x.abs()));
            let scale = 1.0 / f64::from(temperature);
            assert!(largest < rounding * scale, "{seed}: {largest}");
            assert!(found.dscale.abs() < rounding, "{seed}: {}", found.dscale);
        }
        for found in of(unit_rows(n, DIM, seed + 200))? {
            assert!(found.loss > 0.0, "{seed}: {}", found.loss);
        }
    }
    Ok(())
}

#[test]
fn digits_are_kept_where_student_and_teacher_agree() -> Test {
    let (n, m, dim) = (16, 512, 32);
    let mut rng = ChaCha8Rng::seed_from_u64(50);
    let mut random = |rows: usize, size: f64| {
        Dense::from_fn(rows, dim, |_, _| {
            f64::from(rng.random_range(-size..size) as f32)
        })
    };
    let (u, k, noise) = (random(n, 0.3), random(m, 0.3), random(n, 1.7e-4));
    let q = Dense::from_fn(n, dim, |i, d| {
        f64::from((u.row(i)[d] + noise.row(i)[d]) as f32)
    });
    let batch = Batch::new(
        Contrast::dino(1.0, 1.0)?,
        vec![q.clone(), k.clone(), u.clone(), k.clone()],
    );

    // dq_i = g/N·Σ_j (P_ij − t_ij) k_j, by hand.
    let (mut expected, mut moved, mut largest) = (vec![0.0; n * dim], 0.0f64, 0.0f64);
    for i in 0..n {
        let [p, t] = [&q, &u].map(|x| scores(x.row(i), &k, 1.0, &[]));
        for j in 0..m {
            let of_logits = dot(q.row(i), k.row(j)) - dot(u.row(i), k.row(j));
            moved = moved.max(of_logits.abs());
            largest = largest.max(p[j].max(t[j]));
            for d in 0..dim {
                expected[i * dim + d] +=
                    f64::from(UPSTREAM) / n as f64 * (p[j] - t[j]) * k.row(j)[d];
            }
        }
    }
    assert!(moved > 1e-4 && moved < 1e-3, "{moved}");
    assert!(largest < 4.0 / m as f64, "{largest}");
    let error = |found: &[f64]| {
        let off = found.iter().zip(&expected).map(|(x, y)| (x - y).powi(2));
        (off.sum::<f64>() / dot(&expected, &expected)).sqrt()
    };
    let in_float64 = error(&batch.in_float64()?.dq);
    assert!(in_float64 < 1e-9, "{in_float64:e}");
    let on_cpu = error(&batch.on(&CpuEngine::new())?.dq);
    assert!(on_cpu < 1e-3, "{on_cpu:e}");
    Ok(())
}

#[test]
fn views_but_their_own_have_a_global_views_targets() -> Test {
    on_engines!(multi_crop)
}

/// The recipe of [`Contrast::dino`] against equation 3 of the paper: the sum over both global views x and all views
/// x' ≠ x of H(P_t(x), P_s(x')).
fn multi_crop(engine: &impl Engine<Memory = HostMemory>) -> Test {
    const STEP: f64 = 1e-5;
    // Images, prototypes and views: the first and the last are global.
    let (b, m, views) = (3, 6, 5);
    let (n, stride) = (views * b, DIM + 2);
    let given = [
        unit_rows(n, DIM, 60),
        unit_rows(m, DIM, 61),
        unit_rows(2 * b, TARGET_DIM, 62),
        unit_rows(m, TARGET_DIM, 63),
    ];
    let formula = |[q, k, u, p]: &[Dense; 4]| {
        let mut sum = 0.0;
        for (global, own_view) in [0, views - 1].into_iter().enumerate() {
            for view in (0..views).filter(|&view| view != own_view) {
                for image in 0..b {
                    let t = scores(u.row(global * b + image), p, 16.0, &[]);
                    let s = scores(q.row(view * b + image), k, 8.0, &[]);
                    sum += cross_entropy(&t, &s) / b as f64;
                }
            }
        }
        sum
    };

    // Rows lie in memory with gaps between them.
    let mut q = vec![f32::NAN; n * stride];
    for (row, given) in q.chunks_mut(stride).zip(narrow(&given[0]).chunks(DIM)) {
        row[..DIM].copy_from_slice(given);
    }
    let [k, u, p] = [1, 2, 3].map(|which| narrow(&given[which]));
    let (mut dq, mut dk) = (vec![0.0; n * stride], vec![0.0; m * DIM]);
    let contrast = Contrast::dino(0.125, 0.0625)?;
    let rows = n - b;
    // A problem's mean is over views − 1 pairs.
    let pairs = (views - 1) as f32;
    let mut loss = 0.0;
    for (global, first) in [b, 0].into_iter().enumerate() {
        let places = first * stride..(first + rows) * stride;
        let problem = contrast.on(Inputs::Targets {
            q: Rows::with_stride(&q[places.clone()], rows, DIM, stride)?,
            k: Rows::new(&k, m, DIM)?,
            target_q: Rows::new(
                &u[global * b * TARGET_DIM..][..b * TARGET_DIM],
                b,
                TARGET_DIM,
            )?,
            target_k: Rows::new(&p, m, TARGET_DIM)?,
        })?;
        let of_anchors = RowsMut::with_stride(&mut dq[places], rows, DIM, stride)?;
        let of_candidates = RowsMut::new(&mut dk, m, DIM)?;
        let gradients = Gradients::new(of_anchors, Some(of_candidates)).accumulating();
        loss += pairs * engine.value_and_grad(&problem, pairs, gradients)?.loss;
    }

    assert_near(&[loss.into()], &[formula(&given)], 2e-5, "loss");
    let found: Vec<f32> = dq
        .chunks(stride)
        .flat_map(|row| &row[..DIM])
        .copied()
        .collect();
    for (which, found) in [found, dk].into_iter().enumerate() {
        let slope = |place: usize| {
            let at = |step: f64| {
                let mut moved = given.clone();
                moved[which].as_mut_slice()[place] += step;
                formula(&moved)
            };
            (at(STEP) - at(-STEP)) / (2.0 * STEP)
        };
        let expected: Vec<f64> = (0..found.len()).map(slope).collect();
        assert_near(&wide(&found), &expected, 2e-5, ["dq", "dk"][which]);
    }
    Ok(())
}

#[test]
fn temperatures_of_targets_are_finite_and_positive() -> Test {
    for bad in [0.0, -0.5, f32::NAN, f32::INFINITY] {
        for (refused, argument) in [
            (Contrast::dino(0.1, bad), "target_temperature"),
            (Contrast::dino(bad, 0.1), "temperature"),
            (Contrast::swav(0.1, bad), "epsilon"),
            (Contrast::swav(bad, 0.1), "temperature"),
            (Contrast::relic(bad), "temperature"),
        ] {
            let expected = format!("`{argument}` is {bad}; it must be finite and greater than 0");
            assert_eq!(message(refused), expected);
        }
        let (scale, divergence) = (bad, false);
        let rule = RowRule::SoftTargets { scale, divergence };
        let text = message(Contrast::dino(0.1, 0.1)?.with_rule(rule));
        assert_eq!(
            text,
            format!("`target_scale` is {bad}; it must be finite and greater than 0")
        );
    }
    // 1/τ overflows.
    let text = message(Contrast::dino(0.1, 1e-45));
    assert!(text.starts_with("`target_temperature` is "), "{text}");
    Ok(())
}

#[test]
fn matrices_of_targets_must_fit() -> Test {
    let data = [0.5f32; 40];
    let rows = |rows: usize, dim: usize| Rows::new(&data[..rows * dim], rows, dim);
    let dino = Contrast::dino(0.1, 0.04)?;
    for (sizes, expected) in [
        (
            [(6, 2), (5, 3), (3, 2), (5, 2)],
            "`k` has dimension 3; the anchors have 2",
        ),
        (
            [(6, 2), (5, 2), (3, 4), (4, 4)],
            "`target_k` has 4 rows; it must have 5",
        ),
        (
            [(6, 2), (5, 2), (3, 4), (5, 3)],
            "`target_k` has dimension 3; the anchors have 4",
        ),
        (
            [(6, 2), (5, 2), (4, 4), (5, 4)],
            "`target_q` is 4; it must be a number of rows that divides the anchors'",
        ),
        (
            [(6, 2), (5, 2), (12, 3), (5, 3)],
            "`target_q` is 12; it must be a number of rows that divides the anchors'",
        ),
        ([(6, 2), (5, 2), (3, 4), (5, 4)], "accepted"),
    ] {
        let [q, k, target_q, target_k] = sizes.map(|(n, dim)| rows(n, dim));
        let inputs = Inputs::Targets {
            q: q?,
            k: k?,
            target_q: target_q?,
            target_k: target_k?,
        };
        assert_eq!(message(dino.on(inputs)), expected);
    }
    let x = rows(4, 2)?;
    let targets = Inputs::Targets {
        q: x,
        k: x,
        target_q: x,
        target_k: x,
    };
    let refused = message(Contrast::info_nce(0.1)?.on(targets));
    assert_eq!(
        refused,
        "`inputs` is Inputs::Targets; InfoNCE is defined on Inputs::Pair"
    );
    let refused = message(dino.on(Inputs::pair(x, x)));
    assert_eq!(
        refused,
        "`inputs` is Inputs::Pair; DINO is defined on Inputs::Targets"
    );
    for (bias, expected) in [
        (&[0.0; 3][..], "`target_bias` has 3 rows; it must have 4"),
        (
            &[0.0, f32::NAN, 0.0, 0.0],
            "`target_bias[1]` is NaN; it must be finite",
        ),
        (
            &[0.0, 0.0, 0.0, f32::NEG_INFINITY],
            "`target_bias[3]` is -inf; it must be finite",
        ),
        (&[0.0; 4], "accepted"),
    ] {
        assert_eq!(message(dino.on(targets)?.with_target_bias(bias)), expected);
    }
    Ok(())
}

#[test]
fn what_soft_targets_do_not_take_is_named() -> Test {
    let dino = Contrast::dino(0.1, 0.04)?;
    let need = "soft targets and Inputs::Targets need each other";
    let no_negatives = "the rule has no negatives";
    for other in [
        Contrast::nt_xent(0.1)?,
        Contrast::sup_con(0.1)?,
        Contrast::info_nce(0.1)?,
        Contrast::moco(0.1)?,
        Contrast::clip(2.0)?,
    ] {
        let refused = [other.with_rule(dino.rule()), dino.with_rule(other.rule())];
        assert_eq!(
            refused.map(message),
            [(); 2].map(|()| unsupported("rule", need))
        );
    }
    let refused = message(dino.with_guard(0.1));
    assert_eq!(refused, unsupported("guard", no_negatives));

    let data = [0.5f32; 8];
    let x = Rows::new(&data, 4, 2)?;
    let on = |contrast: Contrast| {
        contrast.on(Inputs::Targets {
            q: x,
            k: x,
            target_q: x,
            target_k: x,
        })
    };
    let ids = Ids {
        anchors: &[0; 4][..],
        candidates: &[0; 4],
    };
    let pair = Contrast::info_nce(0.1)?.on(Inputs::pair(x, x))?;
    let no_positive = "rows without a positive have a loss";
    let no_bias = "the rule has none; candidates have a column bias";
    for (refused, option, reason) in [
        (on(dino)?.excluding(ids), "ids", no_negatives),
        (
            on(dino)?.with_column_bias(&[0.0; 4]),
            "column_bias",
            no_negatives,
        ),
        (on(dino)?.with_logit_bias(&[0.0]), "logit_bias", no_bias),
        (
            on(dino.with_reduction(Reduction::MeanOfPositives)),
            "reduction",
            no_positive,
        ),
        (
            pair.with_target_bias(&[0.0; 4]),
            "target_bias",
            "there are no targets",
        ),
    ] {
        assert_eq!(message(refused), unsupported(option, reason));
    }
    Ok(())
}

#[test]
fn a_refused_call_on_targets_has_written_nothing() -> Test {
    on_engines!(refused_calls)
}

fn refused_calls(engine: &impl Engine<Memory = HostMemory>) -> Test {
    let data = [0.5f32; 8];
    let x = Rows::new(&data, 4, 2)?;
    let targets = Inputs::Targets {
        q: x,
        k: x,
        target_q: x,
        target_k: x,
    };
    let dino = Contrast::dino(0.1, 0.04)?.on(targets)?;
    let relic = Contrast::relic(0.1)?.on(targets)?;
    let info_nce = Contrast::info_nce(0.1)?.on(Inputs::pair(x, x))?;

    let mut merged = engine.forward(&dino)?.statistics;
    let before = merged.clone();
    let refused = message(engine.merge(&mut merged, &before));
    let reason = "soft targets are a softmax over all candidates and are not merged";
    assert_eq!(refused, unsupported("statistics", reason));
    assert_eq!(merged, before);
    let over = message(engine.forward_over(&[dino, dino]));
    assert_eq!(over, unsupported("statistics", reason));
    assert_eq!(engine.forward_over(&[dino])?, before);

    let (mut dq, mut dk) = ([UNTOUCHED; 8], [UNTOUCHED; 8]);
    let of_candidates = RowsMut::new(&mut dk, 4, 2)?;
    let gradients = Gradients::new(RowsMut::new(&mut dq, 4, 2)?, Some(of_candidates));
    let refused = message(engine.value_and_grad(&relic, 1.0, gradients));
    let expected = "`gradients.dk` was asked for; ReLIC has no such gradient (keys and queue carry no gradient)";
    assert_eq!(refused, expected);
    let gradients = Gradients::new(RowsMut::new(&mut dq, 4, 2)?, None);
    let gradients = gradients.with_bias(RowsMut::new(&mut dk[..4], 1, 4)?);
    let refused = message(engine.value_and_grad(&dino, 1.0, gradients));
    assert_eq!(
        refused,
        unsupported("gradients.dbias", "the problem has no column bias")
    );
    // Statistics of another rule.
    let others = engine.forward(&info_nce)?.statistics;
    let gradients = Gradients::new(RowsMut::new(&mut dq, 4, 2)?, None);
    let refused = message(engine.backward(&dino, &others, 1.0, gradients));
    assert_eq!(refused, "`statistics.rows` has 0 rows; it must have 4");
    assert!(dq.iter().chain(&dk).all(|&x| x == UNTOUCHED));
    Ok(())
}
