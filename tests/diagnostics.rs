//! Diagnostics equal their definitions in float64, and have the values that are known by hand.

use std::f64::consts::TAU;

use half::{bf16, f16};
use infonce::diagnostics::{
    self, Accuracy, Collapse, Verdict, alignment, deviation, effective_rank, low_frequency_share,
    mean_entropy, uniformity,
};
#[cfg(feature = "emulator")]
use infonce::emulator::{EmulatedEngine, Schedule};
use infonce::losses::{RowRule, SetForm};
use infonce::{
    Contrast, CpuEngine, Element, Engine, Error, Gradients, HostMemory, Ids, Inputs, Matrix,
    NO_POSITIVE, Positives, Problem, Reduction, Rows, RowsMut,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

type Test = Result<(), Error>;

const DIM: usize = 16;

fn random(elements: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..elements)
        .map(|_| rng.random_range(-1.0f32..1.0))
        .collect()
}

/// Whole numbers: products are exact in f32, and many are equal.
fn whole(elements: usize, seed: u64) -> Vec<f32> {
    random(elements, seed)
        .iter()
        .map(|x| (1.6 * x).round())
        .collect()
}

fn rows<T: Element>(x: &[T], dim: usize) -> Rows<'_, T> {
    Rows::new(x, x.len() / dim, dim).unwrap()
}

fn product(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

/// Rows in f64.
fn wide<T: Element>(x: Rows<'_, T>) -> Vec<Vec<f64>> {
    let row = |i| x.row(i).iter().map(|x| f64::from(x.to_f32())).collect();
    (0..x.rows()).map(row).collect()
}

/// Unit rows in f64.
fn unit<T: Element>(x: Rows<'_, T>) -> Vec<Vec<f64>> {
    let mut rows = wide(x);
    for row in &mut rows {
        let length = product(row, row).sqrt().max(1e-300);
        row.iter_mut().for_each(|x| *x /= length);
    }
    rows
}

fn near(found: f64, expected: f64, tolerance: f64, what: &str) {
    let off = (found - expected).abs();
    assert!(off <= tolerance, "{what}: {found}, not {expected}");
}

/// Calls a test with each engine that this build has.
macro_rules! on_engines {
    ($test:ident) => {{
        $test(&CpuEngine::new())?;
        #[cfg(feature = "emulator")]
        $test(&EmulatedEngine::new(Schedule::Mixed, 3))?;
        Ok(())
    }};
}

/// Accuracy by its definition: all candidates of an anchor sorted, equal ones by index. An anchor's row lists, in the order
/// of candidates, similarities and whether each is a positive; excluded candidates are left out.
fn plain_accuracy(anchors: &[Vec<(f64, bool)>]) -> Accuracy {
    let places = anchors.iter().filter_map(|row| {
        let mut sorted = row.clone();
        sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
        sorted.iter().position(|&(_, is_positive)| is_positive)
    });
    let places: Vec<usize> = places.collect();
    let share = |below: usize| {
        let hits = places.iter().filter(|&&place| place < below);
        hits.count() as f64 / places.len() as f64
    };
    Accuracy {
        top1: share(1),
        top5: share(5),
        counted: places.len(),
        left_out: anchors.len() - places.len(),
    }
}

/// The candidates of each anchor for [`plain_accuracy`].
fn ranked(
    [q, k]: [&[f32]; 2],
    excludes_self: bool,
    is_positive: impl Fn(usize, usize) -> bool,
) -> Vec<Vec<(f64, bool)>> {
    let (q, k) = (wide(rows(q, DIM)), wide(rows(k, DIM)));
    let row = |i: usize| {
        let candidates = (0..k.len()).filter(|&j| !(excludes_self && i == j));
        let candidates = candidates.map(|j| (product(&q[i], &k[j]), is_positive(i, j)));
        candidates.collect()
    };
    (0..q.len()).map(row).collect()
}

#[test]
fn accuracy_equals_a_full_ranking_with_every_kind_of_positive() -> Test {
    on_engines!(every_kind_of_positive)
}

fn every_kind_of_positive(engine: &impl Engine<Memory = HostMemory>) -> Test {
    let (n, m) = (42, 61);
    let (q, k) = (whole(n * DIM, 1), whole(m * DIM, 2));
    let inside = RowRule::Sets {
        form: SetForm::MeanInside,
        smoothing: 0.0,
    };
    let check = |problem: &Problem<Rows<'_, f32>>, anchors: &[Vec<(f64, bool)>], what: &str| {
        let expected = plain_accuracy(anchors);
        assert_eq!(
            diagnostics::accuracy(engine, problem).unwrap(),
            expected,
            "{what}"
        );
        let Accuracy { top1, top5, .. } = expected;
        assert!(
            0.0 < top1 && top1 < top5 && top5 < 1.0,
            "{what}: {expected:?}"
        );
    };

    // Positives that the anchors resemble: q_i is noise plus candidate (i + 23) mod m.
    let of = |i: usize| (i + 23) % m;
    let mut near_k = q.clone();
    for (i, row) in near_k.chunks_mut(DIM).enumerate() {
        let other = &k[of(i) * DIM..][..DIM];
        row.iter_mut().zip(other).for_each(|(x, other)| *x += other);
    }
    let q = &near_k[..];
    let index: Vec<u32> = (0..n)
        .map(|i| {
            if i % 6 == 0 {
                NO_POSITIVE
            } else {
                of(i) as u32
            }
        })
        .collect();
    let label = |j: usize| {
        if j % 7 == 2 {
            NO_POSITIVE
        } else {
            (j % 23) as u32
        }
    };
    let of_anchors: Vec<u32> = (0..n).map(|i| label(of(i))).collect();
    let of_candidates: Vec<u32> = (0..m).map(label).collect();
    let labels = Positives::Labels {
        anchors: &of_anchors[..],
        candidates: &of_candidates[..],
    };
    let first = |i: usize| (0..m).find(|&j| of_candidates[j] == of_anchors[i]);
    let has_label = |i: usize| of_anchors[i] != NO_POSITIVE;
    let lists: Vec<Vec<u32>> = (0..n)
        .map(|i| match i % 4 {
            0 => vec![],
            _ => {
                let mut list = vec![of(i) as u32, ((of(i) + 9) % m) as u32];
                list.sort_unstable();
                list
            }
        })
        .collect();
    let listed = lists.concat();
    let starts: Vec<u32> = (0..=n).map(|i| lists[..i].concat().len() as u32).collect();
    let of_lists = Positives::Lists {
        starts: &starts[..],
        candidates: &listed[..],
    };
    let one = Contrast::info_nce(0.2)?;
    let sets = one.with_rule(inside)?;
    type IsPositive<'a> = &'a dyn Fn(usize, usize) -> bool;
    let kinds: [(Contrast, Positives<&[u32]>, IsPositive, &str); 6] = [
        (one, Positives::Offset(23), &|i, j| j == i + 23, "offset"),
        (
            one,
            Positives::Index(&index),
            &|i, j| index[i] == j as u32,
            "index",
        ),
        (
            one,
            labels,
            &|i, j| has_label(i) && first(i) == Some(j),
            "first of a label",
        ),
        (
            sets,
            labels,
            &|i, j| has_label(i) && of_candidates[j] == of_anchors[i],
            "labels",
        ),
        (
            sets,
            of_lists,
            &|i, j| lists[i].contains(&(j as u32)),
            "lists",
        ),
        (
            sets,
            Positives::Index(&index),
            &|i, j| index[i] == j as u32,
            "sets of one",
        ),
    ];
    for (contrast, positives, is_positive, what) in kinds {
        let inputs = Inputs::Pair {
            q: rows(q, DIM),
            k: rows(&k, DIM),
            positives,
        };
        check(
            &contrast.on(inputs)?,
            &ranked([q, &k], false, is_positive),
            what,
        );
    }

    // Anchors that are candidates.
    let mut z = whole(n * DIM, 3);
    let (views, others) = z.split_at_mut(n / 2 * DIM);
    views.iter_mut().zip(others).for_each(|(x, y)| *x += *y);
    let shared = Inputs::Shared { z: rows(&z, DIM) };
    let other_view = |i: usize, j: usize| j == (i + n / 2) % n;
    let anchors = ranked([&z, &z], true, other_view);
    check(&Contrast::nt_xent(0.5)?.on(shared)?, &anchors, "other view");
    let classes: Vec<u32> = (0..n).map(|i| label(i % (n / 2))).collect();
    let labelled = Inputs::Labelled {
        z: rows(&z, DIM),
        positives: Positives::Labels {
            anchors: &classes[..],
            candidates: &classes[..],
        },
    };
    let anchors = ranked([&z, &z], true, |i, j| {
        classes[i] != NO_POSITIVE && classes[i] == classes[j]
    });
    check(&Contrast::sup_con(0.1)?.on(labelled)?, &anchors, "classes");

    // Own keys: the first candidate, so that it ranks before an equal key of the queue.
    let own: Vec<f32> = (0..n)
        .flat_map(|i| k[of(i) * DIM..][..DIM].to_vec())
        .collect();
    let queue = Inputs::Queue {
        q: rows(q, DIM),
        own_key: rows(&own, DIM),
        queue: rows(&k, DIM),
    };
    let mut anchors = ranked([q, &k], false, |_, _| false);
    let of_own = ranked([q, &own], false, |_, _| true);
    for (i, row) in anchors.iter_mut().enumerate() {
        row.insert(0, of_own[i][i]);
    }
    check(&Contrast::moco(0.07)?.on(queue)?, &anchors, "own keys");
    Ok(())
}

#[test]
fn accuracy_without_a_ranking_is_refused() -> Test {
    let engine = CpuEngine::new();
    let x = whole(4 * DIM, 7);
    let problem = |contrast: Contrast| contrast.on(Inputs::pair(rows(&x, DIM), rows(&x, DIM)));
    let info_nce = Contrast::info_nce(0.5)?;
    let ids = Ids {
        anchors: &[0, 1, 2, 3][..],
        candidates: &[0, 1, 2, 3][..],
    };
    let nowhere = Inputs::Pair {
        q: rows(&x, DIM),
        k: rows(&x, DIM),
        positives: Positives::Offset(4),
    };
    for (problem, option) in [
        (problem(info_nce.with_guard(0.0)?)?, "guard"),
        (problem(info_nce)?.excluding(ids)?, "ids"),
        (
            problem(info_nce)?.with_column_bias(&[0.0; 4])?,
            "column_bias",
        ),
        (info_nce.on(nowhere)?, "positives"),
    ] {
        let found = diagnostics::accuracy(&engine, &problem);
        assert!(matches!(found, Err(Error::Unsupported { option: of, .. }) if of == option));
    }
    let mut broken = x.clone();
    broken[2 * DIM + 3] = f32::NAN;
    let argument = "similarities";
    let inputs = Inputs::pair(rows(&broken, DIM), rows(&x, DIM));
    let found = diagnostics::accuracy(&engine, &info_nce.on(inputs)?);
    assert_eq!(found, Err(Error::NotFinite { argument, row: 2 }));
    let inputs = Inputs::Queue {
        q: rows(&x, DIM),
        own_key: rows(&broken, DIM),
        queue: rows(&x, DIM),
    };
    let found = diagnostics::accuracy(&engine, &Contrast::moco(0.1)?.on(inputs)?);
    assert_eq!(found, Err(Error::NotFinite { argument, row: 2 }));
    Ok(())
}

/// −Σ p ln p of a softmax.
fn entropy(logits: &[f64]) -> f64 {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|z| (z - largest).exp()).sum();
    let terms = logits.iter().map(|z| (z - largest).exp() / sum);
    -terms.filter(|&p| p > 0.0).map(|p| p * p.ln()).sum::<f64>()
}

fn mean(entropies: &[f64]) -> f64 {
    entropies.iter().sum::<f64>() / entropies.len() as f64
}

#[test]
fn mean_entropy_equals_that_of_a_plain_softmax() -> Test {
    on_engines!(equals_a_plain_softmax)
}

fn equals_a_plain_softmax(engine: &impl Engine<Memory = HostMemory>) -> Test {
    let (n, m) = (34, 45);
    let (q, k, own) = (
        random(n * DIM, 11),
        random(m * DIM, 12),
        random(n * DIM, 13),
    );
    let [wide_q, wide_k, wide_own] = [&q, &k, &own].map(|x| wide(rows(x, DIM)));
    let upstream = 2.5;
    let check = |problem: &Problem<Rows<'_, f32>>, expected: &[f64], what: &str| -> Test {
        let mut dq = vec![0.0f32; n * DIM];
        let gradients = Gradients::new(RowsMut::new(&mut dq, n, DIM)?, None);
        let step = engine.value_and_grad(problem, upstream, gradients)?;
        let found = mean_entropy(problem, &step, upstream)?;
        near(found, mean(expected), 2e-5, what);
        // The loss alone is another number.
        assert!((f64::from(step.loss) - found).abs() > 1e-2, "{what}");
        Ok(())
    };
    let scale_of = |contrast: &Contrast| f64::from(contrast.scale());

    let nt_xent = Contrast::nt_xent(0.4)?;
    let of_views = |i: usize| {
        let others = (0..n).filter(|&j| j != i);
        let logits = others.map(|j| scale_of(&nt_xent) * product(&wide_q[i], &wide_q[j]));
        entropy(&logits.collect::<Vec<_>>())
    };
    let expected: Vec<f64> = (0..n).map(of_views).collect();
    check(
        &nt_xent.on(Inputs::Shared { z: rows(&q, DIM) })?,
        &expected,
        "NT-Xent",
    )?;

    // Rows without a positive count in none of the reductions.
    let index: Vec<u32> = (0..n as u32)
        .map(|i| if i % 5 == 0 { NO_POSITIVE } else { i + 3 })
        .collect();
    let (anchor_ids, candidate_ids): (Vec<u32>, Vec<u32>) = (
        (0..n as u32).map(|i| i % 8).collect(),
        (0..m as u32).map(|j| j % 8).collect(),
    );
    let ids = Ids {
        anchors: &anchor_ids[..],
        candidates: &candidate_ids[..],
    };
    let info_nce = Contrast::info_nce(0.3)?;
    let logits = |i: usize| {
        wide_k
            .iter()
            .map(|k| product(&wide_q[i], k))
            .collect::<Vec<_>>()
    };
    let with_positive = || (0..n).filter(|&i| index[i] != NO_POSITIVE);
    let of_kept = |keep: &dyn Fn(usize, usize, &[f64]) -> bool, s: f64| -> Vec<f64> {
        let row = |i: usize| {
            let all = logits(i);
            let kept = (0..m).filter(|&j| index[i] == j as u32 || keep(i, j, &all));
            entropy(&kept.map(|j| s * all[j]).collect::<Vec<_>>())
        };
        with_positive().map(row).collect()
    };
    let inputs = Inputs::Pair {
        q: rows(&q, DIM),
        k: rows(&k, DIM),
        positives: Positives::Index(&index[..]),
    };
    let expected = of_kept(&|_, _, _| true, scale_of(&info_nce));
    for reduction in [Reduction::Mean, Reduction::MeanOfPositives, Reduction::Sum] {
        let problem = info_nce.with_reduction(reduction).on(inputs)?;
        check(&problem, &expected, &format!("InfoNCE, {reduction:?}"))?;
    }
    let apart = |i: usize, j: usize, _: &[f64]| anchor_ids[i] != candidate_ids[j];
    let expected = of_kept(&apart, scale_of(&info_nce));
    check(&info_nce.on(inputs)?.excluding(ids)?, &expected, "ids")?;
    let guarded = info_nce.with_guard(0.1)?;
    let below = |i: usize, j: usize, all: &[f64]| all[j] <= all[index[i] as usize] - 0.1;
    check(
        &guarded.on(inputs)?,
        &of_kept(&below, scale_of(&guarded)),
        "guard",
    )?;
    let moco_v3 = Contrast::moco_v3(0.3)?;
    let expected = of_kept(&|_, _, _| true, scale_of(&moco_v3));
    check(&moco_v3.on(inputs)?, &expected, "MoCo v3")?;

    let moco = Contrast::moco(0.25)?;
    let of_queue = |i: usize| {
        let mut all = logits(i);
        all.push(product(&wide_q[i], &wide_own[i]));
        entropy(&all.iter().map(|x| scale_of(&moco) * x).collect::<Vec<_>>())
    };
    let expected: Vec<f64> = (0..n).map(of_queue).collect();
    let queue = Inputs::Queue {
        q: rows(&q, DIM),
        own_key: rows(&own, DIM),
        queue: rows(&k, DIM),
    };
    check(&moco.on(queue)?, &expected, "MoCo")?;

    let clip = Contrast::clip(3.0)?;
    let of_pair = |x: &[Vec<f64>], y: &[Vec<f64>]| -> Vec<f64> {
        let row = |x: &Vec<f64>| {
            let logits = y.iter().map(|y| 3.0 * product(x, y));
            entropy(&logits.collect::<Vec<_>>())
        };
        x.iter().map(row).collect()
    };
    let mut expected = of_pair(&wide_q, &wide_own);
    expected.extend(of_pair(&wide_own, &wide_q));
    check(
        &clip.on(Inputs::pair(rows(&q, DIM), rows(&own, DIM)))?,
        &expected,
        "CLIP",
    )
}

#[test]
fn an_entropy_that_does_not_follow_from_the_loss_is_refused() -> Test {
    let engine = CpuEngine::new();
    let x = random(4 * DIM, 17);
    let inputs = Inputs::pair(rows(&x, DIM), rows(&x, DIM));
    let info_nce = Contrast::info_nce(0.5)?;
    let with = |rule| info_nce.with_rule(rule);
    let nowhere = Inputs::Pair {
        q: rows(&x, DIM),
        k: rows(&x, DIM),
        positives: Positives::NONE,
    };
    let weights = [1.0f32, 2.0, 0.0, 1.0];
    for (problem, option) in [
        (with(RowRule::Softmax { margin: 0.1 })?.on(inputs)?, "rule"),
        (
            with(RowRule::Decoupled { sigma: None })?.on(inputs)?,
            "rule",
        ),
        (with(RowRule::Debiased { prior: 0.1 })?.on(inputs)?, "rule"),
        (info_nce.with_label_smoothing(0.1)?.on(inputs)?, "rule"),
        (
            info_nce.on(inputs)?.with_column_bias(&weights)?,
            "column_bias",
        ),
        (
            info_nce.on(inputs)?.with_row_weights(&weights)?,
            "row_weights",
        ),
        (info_nce.on(inputs)?.with_scale(&[2.0]), "scale"),
        (info_nce.on(nowhere)?, "positives"),
    ] {
        let step = engine.forward(&problem)?;
        let found = mean_entropy(&problem, &step, 1.0);
        assert!(matches!(found, Err(Error::Unsupported { option: of, .. }) if of == option));
    }
    let problem = info_nce.on(inputs)?;
    let mut step = engine.forward(&problem)?;
    let argument = |found| match found {
        Err(Error::Scalar { argument, .. } | Error::Rows { argument, .. }) => argument,
        _ => "",
    };
    assert_eq!(argument(mean_entropy(&problem, &step, 0.0)), "upstream");
    step.dscale = f32::INFINITY;
    assert_eq!(
        argument(mean_entropy(&problem, &step, 1.0)),
        "evaluation.dscale"
    );
    step.loss = f32::NAN;
    assert_eq!(
        argument(mean_entropy(&problem, &step, 1.0)),
        "evaluation.loss"
    );
    let fewer = Inputs::pair(rows(&x[..DIM], DIM), rows(&x, DIM));
    let other = engine.forward(&info_nce.on(fewer)?)?;
    assert_eq!(
        argument(mean_entropy(&problem, &other, 1.0)),
        "statistics.rows"
    );
    Ok(())
}

/// ln mean_{i≠j} exp(−2‖x_i − x_j‖²).
fn plain_uniformity(x: &[Vec<f64>]) -> f64 {
    let mut sum = 0.0;
    for (i, x_i) in x.iter().enumerate() {
        for (_, x_j) in x.iter().enumerate().filter(|&(j, _)| j != i) {
            let squares = x_i.iter().zip(x_j).map(|(a, b)| (a - b).powi(2));
            sum += (-2.0 * squares.sum::<f64>()).exp();
        }
    }
    (sum / (x.len() * (x.len() - 1)) as f64).ln()
}

#[test]
fn uniformity_equals_the_mean_over_all_pairs() -> Test {
    on_engines!(equals_the_mean_over_all_pairs)
}

fn equals_the_mean_over_all_pairs(engine: &impl Engine<Memory = HostMemory>) -> Test {
    fn check<T: Element>(engine: &impl Engine<Memory = HostMemory>, x: &[f32]) -> Test {
        let x: Vec<T> = x.iter().map(|&x| T::from_f32(x)).collect();
        let expected = plain_uniformity(&unit(rows(&x, DIM)));
        near(
            uniformity(engine, rows(&x, DIM))?,
            expected,
            5e-6,
            "uniformity",
        );
        Ok(())
    }
    let mut x = random(67 * DIM, 21);
    check::<f32>(engine, &x)?;
    check::<f16>(engine, &x)?;
    check::<bf16>(engine, &x)?;
    // Rows of zeros are one point, at the centre.
    x[..DIM].fill(0.0);
    x[5 * DIM..7 * DIM].fill(0.0);
    check::<f32>(engine, &x)?;
    for (points, expected, what) in [
        (&[3.0f32, 4.0].repeat(9)[..], 0.0, "one point"),
        (&[0.0; 6][..], 0.0, "zeros"),
        (&[1.0, 0.0, -2.0, 0.0][..], -8.0, "opposite points"),
        (&[0.5, 0.0, 0.0, 4.0][..], -4.0, "orthogonal points"),
    ] {
        near(uniformity(engine, rows(points, 2))?, expected, 5e-6, what);
    }
    let one = uniformity(engine, rows(&x[..DIM], DIM));
    assert!(matches!(one, Err(Error::Scalar { given: 1.0, .. })));
    x[8 * DIM] = f32::NAN;
    let broken = uniformity(engine, rows(&x, DIM));
    assert_eq!(
        broken,
        Err(Error::NotFinite {
            argument: "x",
            row: 8
        })
    );
    Ok(())
}

#[test]
fn alignment_is_the_mean_squared_distance_of_pairs() -> Test {
    let (x, y) = (random(9 * DIM, 23), random(9 * DIM, 24));
    let (of_x, of_y) = (unit(rows(&x, DIM)), unit(rows(&y, DIM)));
    let distance = |i: usize| 2.0 - 2.0 * product(&of_x[i], &of_y[i]);
    let expected = (0..9).map(distance).sum::<f64>() / 9.0;
    let found = alignment(rows(&x, DIM), rows(&y, DIM))?;
    near(found, expected, 1e-12, "alignment");
    let opposite: Vec<f32> = x.iter().map(|x| -2.0 * x).collect();
    near(
        alignment(rows(&x, DIM), rows(&opposite, DIM))?,
        4.0,
        1e-12,
        "opposite",
    );
    assert_eq!(alignment(rows(&x, DIM), rows(&x, DIM))?, 0.0);
    let fewer = alignment(rows(&x, DIM), rows(&y[DIM..], DIM));
    assert!(matches!(fewer, Err(Error::Rows { argument: "y", .. })));
    let narrower = alignment(rows(&x, DIM), rows(&y[..9], 1));
    assert!(matches!(
        narrower,
        Err(Error::Dimension { argument: "y", .. })
    ));
    let mut broken = y.clone();
    broken[3 * DIM] = f32::NEG_INFINITY;
    let found = alignment(rows(&x, DIM), rows(&broken, DIM));
    assert_eq!(
        found,
        Err(Error::NotFinite {
            argument: "y",
            row: 3
        })
    );
    Ok(())
}

#[test]
fn deviation_is_1_over_the_sphere_and_0_at_a_point() -> Test {
    fn check<T: Element>(x: &[f32]) -> Test {
        let x: Vec<T> = x.iter().map(|&x| T::from_f32(x)).collect();
        let unit = unit(rows(&x, DIM));
        let n = unit.len() as f64;
        let column = |d: usize| {
            let mean = unit.iter().map(|row| row[d]).sum::<f64>() / n;
            let squares = unit.iter().map(|row| (row[d] - mean).powi(2));
            (squares.sum::<f64>() / n).sqrt()
        };
        let total: f64 = (0..DIM).map(column).sum();
        near(
            deviation(rows(&x, DIM))?,
            total / (DIM as f64).sqrt(),
            1e-12,
            "deviation",
        );
        Ok(())
    }
    let x = random(31 * DIM, 27);
    check::<f32>(&x)?;
    check::<f16>(&x)?;
    check::<bf16>(&x)?;
    let mut axes = vec![0.0f32; 2 * DIM * DIM];
    for (i, row) in axes.chunks_mut(DIM).enumerate() {
        row[i / 2] = [3.0, -1.0][i % 2];
    }
    near(
        deviation(rows(&axes, DIM))?,
        1.0,
        1e-12,
        "both ends of all axes",
    );
    near(
        deviation(rows(&[0.6f32, 0.8].repeat(7), 2))?,
        0.0,
        1e-12,
        "one point",
    );
    let broken = deviation(rows(&[1.0f32, 0.0, f32::NAN, 0.0], 2));
    assert_eq!(
        broken,
        Err(Error::NotFinite {
            argument: "x",
            row: 1
        })
    );
    Ok(())
}

/// ±1: the parity of the bits that both have. Rows and columns of Hadamard's matrix are orthogonal.
fn hadamard(i: usize, j: usize) -> f32 {
    [1.0, -1.0][(i & j).count_ones() as usize % 2]
}

/// 32 × 16, U·diag(d)·Vᵀ of orthogonal U and V: singular values in the ratios of d, exact in bf16 for small powers of 2.
fn with_singular_values(d: &[f32]) -> Vec<f32> {
    let at = |i: usize, j: usize| -> f32 {
        let terms = d.iter().enumerate();
        terms
            .map(|(k, d)| hadamard(i, k) * d * hadamard(j, k))
            .sum()
    };
    (0..32 * DIM)
        .map(|place| at(place / DIM, place % DIM))
        .collect()
}

#[test]
fn effective_rank_is_that_of_known_singular_values() -> Test {
    fn check<T: Element>(d: &[f32], what: &str) -> Test {
        let x: Vec<T> = with_singular_values(d)
            .iter()
            .map(|&x| T::from_f32(x))
            .collect();
        let total: f64 = d.iter().map(|&d| f64::from(d)).sum();
        let all = d.iter().chain(std::iter::repeat(&0.0)).take(DIM);
        let shares = all.map(|&d| f64::from(d) / total + 1e-7);
        let expected = shares.map(|p| -p * p.ln()).sum::<f64>().exp();
        near(effective_rank(rows(&x, DIM))?, expected, 1e-9, what);
        Ok(())
    }
    check::<f32>(&[1.0; DIM], "full rank")?;
    check::<f32>(
        &[1.0, 0.5, 0.25, 2f32.powi(-10), 2f32.powi(-16)],
        "small values",
    )?;
    check::<f16>(&[4.0, 2.0, 1.0, 1.0], "f16")?;
    check::<bf16>(&[4.0, 2.0, 1.0, 1.0], "bf16")?;
    let orthonormal: Vec<f32> = (0..DIM * DIM)
        .map(|p| hadamard(p / DIM, p % DIM) / 4.0)
        .collect();
    near(
        effective_rank(rows(&orthonormal, DIM))?,
        DIM as f64,
        1e-4,
        "orthonormal rows",
    );
    let one_row = random(DIM, 31);
    near(
        effective_rank(rows(&one_row.repeat(20), DIM))?,
        1.0,
        1e-4,
        "identical rows",
    );
    near(effective_rank(rows(&one_row, DIM))?, 1.0, 1e-4, "one row");
    // Fewer rows than dimensions: of orthogonal ones, all count.
    near(
        effective_rank(rows(&orthonormal[..5 * DIM], DIM))?,
        5.0,
        1e-4,
        "five rows",
    );
    assert_eq!(effective_rank(rows(&[0.0f32; 6], 3))?, 0.0);
    let broken = effective_rank(rows(&[1.0f32, f32::INFINITY], 2));
    assert_eq!(
        broken,
        Err(Error::NotFinite {
            argument: "x",
            row: 0
        })
    );
    Ok(())
}

#[test]
fn each_kind_of_collapse_has_its_verdict() -> Test {
    let (n, dim) = (200, 64);
    let spread = random(n * dim, 41);
    let shifted = |by: f32, scale: f32| -> Vec<f32> {
        let shift = |(place, x): (usize, &f32)| scale * x + if place % dim == 3 { by } else { 0.0 };
        spread.iter().enumerate().map(shift).collect()
    };
    // In two dimensions, turned so that every coordinate varies.
    let turned: Vec<f32> = random(2 * n, 43)
        .chunks(2)
        .flat_map(|pair| {
            let pair = pair.to_vec();
            (0..dim).map(move |d| pair[0] * hadamard(1, d) + pair[1] * hadamard(2, d))
        })
        .collect();
    let mut opposite = vec![0.0f32; n * dim];
    for (i, row) in opposite.chunks_mut(dim).enumerate() {
        row[0] = [1.0, -1.0][i % 2];
    }
    for (x, verdict, what) in [
        (&spread, Verdict::Spread, "random rows"),
        (&shifted(4.0, 0.3), Verdict::Narrow, "crowded rows"),
        (&shifted(4.0, 1e-3), Verdict::Collapsed, "nearly one point"),
        (&vec![0.5; n * dim], Verdict::Collapsed, "one point"),
        (&vec![0.0; n * dim], Verdict::Collapsed, "zeros"),
        (&turned, Verdict::Dimensional, "a plane"),
        (&opposite, Verdict::Dimensional, "two opposite points"),
        (&spread[..dim].to_vec(), Verdict::Unknown, "one row"),
    ] {
        let found = Collapse::of(rows(x, dim))?;
        assert_eq!(found.verdict, verdict, "{what}: {found:?}");
        let unit = unit(rows(x, dim));
        let squares: f64 = unit.iter().map(|row| product(row, row)).sum();
        let means = (0..dim).map(|d| unit.iter().map(|row| row[d]).sum::<f64>());
        let of_mean: f64 = means.map(|sum| (sum / unit.len() as f64).powi(2)).sum();
        let squared_radius = squares / unit.len() as f64 - of_mean;
        near(found.radius.powi(2), squared_radius, 1e-12, what);
        assert_eq!(found.deviation, deviation(rows(x, dim))?, "{what}");
        assert_eq!(found.full_rank, dim.min(x.len() / dim - 1), "{what}");
        assert!(
            found.effective_rank <= found.full_rank as f64,
            "{what}: {found:?}"
        );
    }
    near(
        Collapse::of(rows(&turned, dim))?.effective_rank,
        2.0,
        0.05,
        "a plane",
    );
    near(
        Collapse::of(rows(&opposite, dim))?.effective_rank,
        1.0,
        1e-3,
        "a line",
    );
    // Rounding errors of a mean are no directions.
    let copies = Collapse::of(rows(&spread[..dim].repeat(7), dim))?;
    assert_eq!(copies.effective_rank, 0.0);
    // Crowding alone leaves all dimensions.
    assert!(Collapse::of(rows(&shifted(4.0, 0.3), dim))?.effective_rank > 50.0);
    let broken = Collapse::of(rows(&[1.0f32, f32::NAN], 1));
    assert_eq!(
        broken,
        Err(Error::NotFinite {
            argument: "x",
            row: 1
        })
    );
    Ok(())
}

/// The share by the definition, of one sum over all pixels for each frequency.
fn plain_share(map: &[f32], [height, width, channels]: [usize; 3], radius: f64) -> f64 {
    let [mut low, mut all] = [0.0; 2];
    for c in 0..channels {
        let pixel = |y: usize, x: usize| f64::from(map[(y * width + x) * channels + c]);
        for u in 0..height {
            for v in 0..width {
                let [mut re, mut im] = [0.0; 2];
                for y in 0..height {
                    for x in 0..width {
                        let turns = (u * y) as f64 / height as f64 + (v * x) as f64 / width as f64;
                        re += pixel(y, x) * (TAU * turns).cos();
                        im -= pixel(y, x) * (TAU * turns).sin();
                    }
                }
                let f =
                    [(u, height), (v, width)].map(|(k, n)| 2.0 * k.min(n - k) as f64 / n as f64);
                let energy = if u + v == 0 { 0.0 } else { re * re + im * im };
                all += energy;
                if f[0].hypot(f[1]) < radius {
                    low += energy;
                }
            }
        }
    }
    low / all
}

#[test]
fn a_cosine_has_all_energy_at_its_frequency() -> Test {
    let (height, width, channels) = (12, 16, 3);
    let shape = [height, width, channels];
    let wave = |u: usize, v: usize, amplitude: f64| -> Vec<f32> {
        let pixel = |place: usize| {
            let (y, x) = (place / channels / width, place / channels % width);
            let turns = (u * y) as f64 / height as f64 + (v * x) as f64 / width as f64;
            // Channels have another mean each.
            amplitude * (TAU * turns).cos() + (place % channels) as f64
        };
        (0..height * width * channels)
            .map(|place| pixel(place) as f32)
            .collect()
    };
    let size = height * width * channels;
    for (u, v, frequency) in [
        (0, 1, 0.125f64),
        (3, 0, 0.5),
        (6, 0, 1.0),
        (0, 8, 1.0),
        (3, 4, 0.5f64.sqrt()),
        (6, 8, 2f64.sqrt()),
        // Its mirror image: 12 − 9 = 3 and 16 − 12 = 4.
        (9, 12, 0.5f64.sqrt()),
    ] {
        let map = wave(u, v, 0.7);
        let share = |radius| low_frequency_share(rows(&map, size), shape, radius);
        near(share(frequency - 1e-9)?, 0.0, 1e-9, "below");
        near(share(frequency + 1e-9)?, 1.0, 1e-9, "above");
    }
    // Energies go as squared amplitudes, and add up over maps.
    let maps = [wave(1, 0, 1.0), wave(4, 0, 2.0)].concat();
    near(
        low_frequency_share(rows(&maps, size), shape, 0.5)?,
        0.2,
        1e-6,
        "two maps",
    );
    let sum: Vec<f32> = maps[..size]
        .iter()
        .zip(&maps[size..])
        .map(|(x, y)| x + y)
        .collect();
    near(
        low_frequency_share(rows(&sum, size), shape, 0.5)?,
        0.2,
        1e-6,
        "their sum",
    );
    Ok(())
}

#[test]
fn the_low_frequency_share_equals_a_plain_transform() -> Test {
    fn check<T: Element>() -> Test {
        for shape in [[5, 8, 2], [6, 1, 3], [1, 7, 1], [4, 4, 1]] {
            let size = shape.iter().product();
            let x: Vec<T> = random(size, 53).iter().map(|&x| T::from_f32(x)).collect();
            let map: Vec<f32> = x.iter().map(|x| x.to_f32()).collect();
            for radius in [0.3, 0.55, 0.9, 1.5] {
                let found = low_frequency_share(rows(&x, size), shape, radius)?;
                near(found, plain_share(&map, shape, radius), 1e-12, "share");
            }
        }
        Ok(())
    }
    check::<f32>()?;
    check::<f16>()?;
    check::<bf16>()
}

#[test]
fn maps_without_a_spectrum_are_refused() {
    let map = random(24, 59);
    let share = |map: &[f32], shape, radius| low_frequency_share(rows(map, 12), shape, radius);
    for shape in [[2, 3, 3], [0, 3, 4], [usize::MAX, 2, 2]] {
        let found = share(&map, shape, 0.5);
        assert!(matches!(
            found,
            Err(Error::Length {
                argument: "maps",
                given: 12,
                ..
            })
        ));
    }
    for radius in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let found = share(&map, [2, 3, 2], radius);
        assert!(matches!(
            found,
            Err(Error::Scalar {
                argument: "radius",
                ..
            })
        ));
    }
    let constant = share(&[0.1, 0.7].repeat(12), [2, 3, 2], 0.5);
    assert!(matches!(
        constant,
        Err(Error::Unsupported { option: "maps", .. })
    ));
    let mut broken = map.clone();
    broken[13] = f32::NAN;
    let found = share(&broken, [2, 3, 2], 0.5);
    assert_eq!(
        found,
        Err(Error::NotFinite {
            argument: "maps",
            row: 1
        })
    );
}
