//! The mean entropy of the softmax follows from loss and slope.

use super::*;

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
