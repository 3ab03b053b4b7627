//! Losses without a softmax are those of their papers: SigLIP, whose every pair is a decision of its own, and BYOL, which
//! has no negatives.

use super::Test;
use super::formula::{
    Batch, Point, UNTOUCHED, UPSTREAM, assert_near, dot, message, narrow, unit_rows, unsupported,
    wide,
};
use infonce::losses::RowRule;
use infonce::reference::Dense;
use infonce::{
    Contrast, CpuEngine, Engine, Error, Gradients, HostMemory, Ids, Inputs, Matrix, NO_ID,
    NO_POSITIVE, Positives, Problem, Reduction, Rows, RowsMut,
};

const DIM: usize = 5;
/// Of powers of two, whose inverses are exact in f32.
const TAU: f32 = 0.125;
const BIAS: f32 = -2.5;

/// What a formula says of a pair: whether it counts, and whether it is a positive.
#[derive(Clone, Copy, PartialEq)]
enum Pair {
    Positive,
    Negative,
    Excluded,
}

fn pairs(n: usize, m: usize) -> Vec<Dense> {
    vec![unit_rows(n, DIM, 1), unit_rows(m, DIM, 2)]
}

/// Σ_ij −w_i·log_sigmoid(label_ij·(s⟨q_i, k_j⟩ + b)).
fn sigmoid_sum(
    at: &Point,
    weight: impl Fn(usize) -> f64,
    pair: impl Fn(usize, usize) -> Pair,
) -> f64 {
    let (q, k) = (&at.matrices[0], &at.matrices[1]);
    let mut sum = 0.0;
    for i in 0..q.rows() {
        for j in 0..k.rows() {
            let logit = at.scale * dot(q.row(i), k.row(j)) + at.bias;
            let label = match pair(i, j) {
                Pair::Positive => 1.0,
                Pair::Negative => -1.0,
                Pair::Excluded => continue,
            };
            let sigmoid = 1.0 / (1.0 + (-label * logit).exp());
            sum -= weight(i) * sigmoid.ln();
        }
    }
    sum
}

fn diagonal(i: usize, j: usize) -> Pair {
    if i == j {
        Pair::Positive
    } else {
        Pair::Negative
    }
}

#[test]
fn siglip_is_algorithm_1_of_zhai_et_al() -> Test {
    for (n, m) in [(6, 6), (4, 9), (9, 4)] {
        for (tau, bias) in [(TAU, BIAS), (1.0, 0.75), (0.125, -10.0)] {
            let batch = Batch::new(Contrast::siglip(tau, bias)?, pairs(n, m));
            batch.has_formula(&format!("{n} x {m} at {tau}, {bias}"), |at| {
                sigmoid_sum(at, |_| 1.0, diagonal) / n as f64
            })?;
        }
    }
    Ok(())
}

#[test]
fn siglip_divides_by_the_anchors_not_by_the_pairs() -> Test {
    // Rows of zeros: one positive and four negatives at logit b in each row.
    let zeros = |rows| Dense::from_fn(rows, DIM, |_, _| 0.0);
    let batch = Batch::new(Contrast::siglip(1.0, -2.0)?, vec![zeros(3), zeros(5)]);
    let expected = 2f64.exp().ln_1p() + 4.0 * (-2f64).exp().ln_1p();
    // σ(−2) of each negative, σ(−2) − 1 of the positive.
    let of_bias = f64::from(UPSTREAM) * (5.0 / (1.0 + 2f64.exp()) - 1.0);
    for found in [batch.in_float64()?, batch.on(&CpuEngine::new())?] {
        assert_near(&[found.loss], &[expected], 1e-6, "loss");
        assert_near(&found.dbias, &[of_bias], 1e-6, "dbias");
    }
    Ok(())
}

#[test]
fn siglip_takes_sets_ids_weights_and_a_sum() -> Test {
    let (n, m) = (5, 8);
    let of_anchors = [0, 1, NO_POSITIVE, 2, 7];
    let of_candidates = [0, 1, 0, 2, NO_POSITIVE, 0, 1, NO_POSITIVE];
    let labels = Positives::Labels {
        anchors: of_anchors.to_vec(),
        candidates: of_candidates.to_vec(),
    };
    let by_label = |i: usize, j: usize| of_anchors[i] == of_candidates[j] && i != 2;
    let lists: [&[u32]; 5] = [&[1, 4, 7], &[], &[0], &[2, 3], &[]];
    let by_list = |i: usize, j: usize| lists[i].contains(&(j as u32));
    let listed = Positives::Lists {
        starts: vec![0, 3, 3, 4, 6, 6],
        candidates: lists.concat(),
    };
    let index = Positives::Index(vec![7, NO_POSITIVE, 0, 0, 2]);
    let by_index = |i: usize, j: usize| [7, 99, 0, 0, 2][i] == j;
    // Candidates of the anchor's id are left out unless they are positives; NO_ID is nobody's.
    let ids = Ids {
        anchors: vec![0, 3, NO_ID, 3, 1],
        candidates: vec![3, 0, NO_ID, 0, 1, 3, NO_ID, 0],
    };
    let weights = [0.5, 2.0, 0.0, 1.0, 1.5];
    let sets: [(_, &dyn Fn(usize, usize) -> bool); 3] =
        [(labels, &by_label), (listed, &by_list), (index, &by_index)];
    for (number, (positives, is_positive)) in sets.into_iter().enumerate() {
        // Ids, weights and a sum by the bits of a number.
        for options in 0..8 {
            let has = |bit: u32| options & 1 << bit != 0;
            let reduction = if has(2) {
                Reduction::Sum
            } else {
                Reduction::Mean
            };
            let contrast = Contrast::siglip(TAU, BIAS)?.with_reduction(reduction);
            let batch = Batch {
                positives: positives.clone(),
                ids: has(0).then(|| ids.clone()),
                weights: has(1).then(|| weights.to_vec()),
                ..Batch::new(contrast, pairs(n, m))
            };
            let pair = |i: usize, j: usize| {
                let has_id = ids.anchors[i] == ids.candidates[j] && ids.anchors[i] != NO_ID;
                match is_positive(i, j) {
                    true => Pair::Positive,
                    false if has(0) && has_id => Pair::Excluded,
                    false => Pair::Negative,
                }
            };
            let weight = |i: usize| if has(1) { f64::from(weights[i]) } else { 1.0 };
            let divisor = if has(2) { 1.0 } else { n as f64 };
            batch.has_formula(&format!("set {number}, options {options}"), |at| {
                sigmoid_sum(at, weight, pair) / divisor
            })?;
        }
    }
    Ok(())
}

#[test]
fn scale_and_bias_in_memory_replace_those_of_the_contrast() -> Test {
    for (scale, bias) in [
        (Some(8.0), Some(BIAS)),
        (None, Some(-0.5)),
        (Some(3.0), None),
    ] {
        let batch = Batch {
            scale,
            logit_bias: bias,
            ..Batch::new(Contrast::siglip(0.5, 0.25)?, pairs(4, 6))
        };
        let at = batch.point();
        assert_eq!(at.scale, f64::from(scale.unwrap_or(2.0)));
        assert_eq!(at.bias, f64::from(bias.unwrap_or(0.25)));
        batch.has_formula("siglip in memory", |at| {
            sigmoid_sum(at, |_| 1.0, diagonal) / 4.0
        })?;
    }
    Ok(())
}

#[test]
fn swapped_matrices_have_the_same_siglip_loss() -> Test {
    let there = Batch::new(Contrast::siglip(TAU, BIAS)?, pairs(7, 7));
    let back = Batch {
        matrices: there.matrices.iter().rev().cloned().collect(),
        ..there.clone()
    };
    let there = [there.in_float64()?, there.on(&CpuEngine::new())?];
    let back = [back.in_float64()?, back.on(&CpuEngine::new())?];
    for ((there, back), share) in there.into_iter().zip(back).zip([1e-12, 1e-5]) {
        assert_near(&[there.loss], &[back.loss], share, "loss");
        assert_near(&there.dq, &back.dk, share, "dq");
        assert_near(&there.dk, &back.dq, share, "dk");
        assert_near(&there.dbias, &back.dbias, share, "dbias");
        assert_near(&[there.dscale], &[back.dscale], share, "dscale");
    }
    Ok(())
}

/// Candidates from `cuts` on, as shards.
fn shards<'a>(
    contrast: &Contrast,
    [q, k]: [&'a [f32]; 2],
    cuts: &[usize],
) -> Result<Vec<Problem<Rows<'a, f32>>>, Error> {
    let shard = |cut: &[usize]| {
        contrast.on(Inputs::Pair {
            q: Rows::new(q, q.len() / DIM, DIM)?,
            k: Rows::new(&k[cut[0] * DIM..cut[1] * DIM], cut[1] - cut[0], DIM)?,
            positives: Positives::Offset(-(cut[0] as i64)),
        })
    };
    cuts.windows(2).map(shard).collect()
}

#[test]
fn shards_of_the_candidates_add_up() -> Test {
    on_engines!(shards_add_up)
}

fn shards_add_up(engine: &impl Engine<Memory = HostMemory>) -> Test {
    let (n, m) = (6, 13);
    // The last shard holds no positive.
    let cuts = [0, 3, 4, 8, m];
    let contrast = Contrast::siglip(TAU, BIAS)?;
    let whole = Batch::new(contrast, pairs(n, m));
    // By the transcription, as `siglip_is_algorithm_1_of_zhai_et_al` shows.
    let expected = whole.in_float64()?;
    let loss = sigmoid_sum(&whole.point(), |_| 1.0, diagonal) / n as f64;
    let [q, k] = [0, 1].map(|which| narrow(&whole.matrices[which]));
    let problems = shards(&contrast, [&q, &k], &cuts)?;

    let (mut dq, mut dk, mut dbias) = (vec![0.0; q.len()], vec![0.0; k.len()], [0.0]);
    let mut sums = [0.0; 2];
    let mut of_last = 0.0;
    for (problem, cut) in problems.iter().zip(cuts.windows(2)) {
        let dk = RowsMut::new(&mut dk[cut[0] * DIM..cut[1] * DIM], cut[1] - cut[0], DIM)?;
        let gradients = Gradients::new(RowsMut::new(&mut dq, n, DIM)?, Some(dk))
            .with_bias(RowsMut::new(&mut dbias, 1, 1)?)
            .accumulating();
        let value = engine.value_and_grad(problem, UPSTREAM, gradients)?;
        sums[0] += f64::from(value.loss);
        sums[1] += f64::from(value.dscale);
        of_last = f64::from(value.loss);
    }
    let beyond = |_, j| {
        if j < 8 {
            Pair::Excluded
        } else {
            Pair::Negative
        }
    };
    let without_positive = sigmoid_sum(&whole.point(), |_| 1.0, beyond) / n as f64;
    assert_near(
        &[of_last],
        &[without_positive],
        2e-5,
        "rows without a positive",
    );
    assert!(without_positive > 0.0);
    assert_near(&sums[..1], &[loss], 2e-5, "loss");
    assert_near(&sums[1..], &[expected.dscale], 2e-5, "dscale");
    assert_near(&wide(&dq), &expected.dq, 2e-5, "dq");
    assert_near(&wide(&dk), &expected.dk, 2e-5, "dk");
    assert_near(&wide(&dbias), &expected.dbias, 2e-5, "dbias");

    let merged = engine.forward_over(&problems)?;
    let of_merged = engine.loss_over(&problems[0], &merged)?;
    assert_near(&[of_merged.into()], &[loss], 2e-5, "merged loss");
    let mut dk: Vec<Vec<f32>> = cuts
        .windows(2)
        .map(|cut| vec![f32::NAN; (cut[1] - cut[0]) * DIM])
        .collect();
    dq.fill(f32::NAN);
    let outputs: Result<Vec<_>, Error> = dk
        .iter_mut()
        .map(|dk| {
            let rows = dk.len() / DIM;
            RowsMut::new(dk, rows, DIM).map(Some)
        })
        .collect();
    let to = RowsMut::new(&mut dq, n, DIM)?;
    let [found, dscale] = engine.value_and_grad_over(&problems, UPSTREAM, to, outputs?)?;
    assert_near(&[found.into()], &[loss], 2e-5, "loss over all");
    assert_near(
        &[dscale.into()],
        &[expected.dscale],
        2e-5,
        "dscale over all",
    );
    assert_near(&wide(&dq), &expected.dq, 2e-5, "dq over all");
    assert_near(&wide(&dk.concat()), &expected.dk, 2e-5, "dk over all");
    Ok(())
}

#[test]
fn byol_is_equation_2_of_grill_et_al() -> Test {
    on_engines!(byol_with_normalisation)
}

/// The mean of ‖q/‖q‖ − k/‖k‖‖² and its gradient by q, of rows of any length.
fn byol_with_normalisation(engine: &impl Engine<Memory = HostMemory>) -> Test {
    const STEP: f64 = 1e-5;
    let n = 6;
    let stretched = |seed: u64| {
        let x = unit_rows(n, DIM, seed);
        Dense::from_fn(n, DIM, |i, d| x.row(i)[d] * [0.5, 1.0, 2.0][i % 3])
    };
    let (x, y) = (stretched(3), stretched(4));
    let formula = |x: &Dense| {
        let row = |i: usize| {
            let [x, y] = [x.row(i), y.row(i)];
            let [of_x, of_y] = [x, y].map(|x| dot(x, x).sqrt());
            let pairs = x.iter().zip(y);
            pairs
                .map(|(x, y)| (x / of_x - y / of_y).powi(2))
                .sum::<f64>()
        };
        (0..n).map(row).sum::<f64>() / n as f64
    };
    let mut unit = [(); 2].map(|()| vec![f32::NAN; n * DIM]);
    let mut norms = [(); 2].map(|()| vec![f32::NAN; n]);
    for (which, x) in [&x, &y].into_iter().enumerate() {
        let to = RowsMut::new(&mut unit[which], n, DIM)?;
        engine.normalize(Rows::new(&narrow(x), n, DIM)?, to, &mut norms[which], 1e-12)?;
    }
    let [q, k] = [0, 1].map(|which| Rows::new(&unit[which], n, DIM));
    let (q, k) = (q?, k?);
    let (mut dq, mut dx) = (vec![f32::NAN; n * DIM], vec![f32::NAN; n * DIM]);
    let problem = Contrast::byol()?.on(Inputs::pair(q, k))?;
    let gradients = Gradients::new(RowsMut::new(&mut dq, n, DIM)?, None);
    let value = engine.value_and_grad(&problem, UPSTREAM, gradients)?;
    let to = RowsMut::new(&mut dx, n, DIM)?;
    engine.normalize_backward(q, &norms[0], Rows::new(&dq, n, DIM)?, to, 1e-12)?;

    assert_near(&[value.loss.into()], &[formula(&x)], 1e-5, "loss");
    let slope = |place: usize| {
        let at = |step: f64| {
            let mut moved = x.clone();
            moved.as_mut_slice()[place] += step;
            formula(&moved)
        };
        f64::from(UPSTREAM) * (at(STEP) - at(-STEP)) / (2.0 * STEP)
    };
    let expected: Vec<f64> = (0..n * DIM).map(slope).collect();
    assert_near(&wide(&dx), &expected, 1e-5, "dx");
    Ok(())
}

#[test]
fn alignment_has_gaps_weights_and_every_row_wise_layout() -> Test {
    let (n, m) = (6, 9);
    let index = [8, NO_POSITIVE, 0, 0, NO_POSITIVE, 5];
    let weights = [1.0, 3.0, 0.0, 0.5, 0.0, 2.0];
    let moco = Contrast::moco(0.25)?.with_rule(RowRule::Alignment)?;
    let info_nce = Contrast::info_nce(0.25)?.with_rule(RowRule::Alignment)?;
    assert!(info_nce.has_dk() && !moco.has_dk() && !Contrast::byol()?.has_dk());
    for contrast in [Contrast::byol()?, info_nce, moco] {
        for reduction in [Reduction::Mean, Reduction::Sum, Reduction::MeanOfPositives] {
            for (is_weighted, scale) in [(false, None), (true, None), (true, Some(3.0))] {
                let mut matrices = pairs(n, m);
                if contrast.has_own_keys() {
                    matrices.insert(1, unit_rows(n, DIM, 5));
                }
                let batch = Batch {
                    positives: Positives::Index(index.to_vec()),
                    weights: is_weighted.then(|| weights.to_vec()),
                    scale,
                    ..Batch::new(contrast.with_reduction(reduction), matrices)
                };
                // Own keys have no gaps.
                let positive = |i: usize| match contrast.has_own_keys() {
                    true => Some(i),
                    false => (index[i] != NO_POSITIVE).then_some(index[i] as usize),
                };
                let weight = |i: usize| {
                    if is_weighted {
                        f64::from(weights[i])
                    } else {
                        1.0
                    }
                };
                let counted = (0..n).filter(|&i| positive(i).is_some() && weight(i) > 0.0);
                let divisor = match reduction {
                    Reduction::Mean => n as f64,
                    Reduction::Sum => 1.0,
                    Reduction::MeanOfPositives => counted.count() as f64,
                };
                let what = format!("{contrast:?}, {reduction:?}, {is_weighted} {scale:?}");
                // Without the scale, so that its derivative is 0.
                batch.has_formula(&what, |at| {
                    let row = |i: usize| match positive(i) {
                        Some(j) => 2.0 - 2.0 * dot(at.matrices[0].row(i), at.matrices[1].row(j)),
                        None => 0.0,
                    };
                    (0..n).map(|i| weight(i) * row(i)).sum::<f64>() / divisor
                })?;
            }
        }
    }
    Ok(())
}

#[test]
fn alignment_over_several_matrices_has_no_slope_by_scale() -> Test {
    on_engines!(alignment_over_several)
}

fn alignment_over_several(engine: &impl Engine<Memory = HostMemory>) -> Test {
    let (n, m) = (6, 9);
    let contrast = Contrast::info_nce(0.25)?.with_rule(RowRule::Alignment)?;
    let matrices = pairs(n, m);
    let [q, k] = [0, 1].map(|which| narrow(&matrices[which]));
    let problems = shards(&contrast, [&q, &k], &[0, 4, m])?;
    let (mut dq, mut first, mut second) = (vec![f32::NAN; n * DIM], [f32::NAN; 20], [f32::NAN; 25]);
    let dk = vec![
        Some(RowsMut::new(&mut first, 4, DIM)?),
        Some(RowsMut::new(&mut second, 5, DIM)?),
    ];
    let to = RowsMut::new(&mut dq, n, DIM)?;
    let [loss, dscale] = engine.value_and_grad_over(&problems, 1.0, to, dk)?;
    let cosine = |i| dot(matrices[0].row(i), matrices[1].row(i));
    let expected = 2.0 - 2.0 * (0..n).map(cosine).sum::<f64>() / n as f64;
    assert_near(&[loss.into()], &[expected], 1e-5, "loss");
    // ∂/∂q_i of the mean of 2 − 2⟨q_i, k_i⟩.
    let expected: Vec<f64> = matrices[1].as_slice()[..n * DIM]
        .iter()
        .map(|k| -2.0 * k / n as f64)
        .collect();
    assert_near(&wide(&dq), &expected, 1e-5, "dq");
    assert!(dscale.abs() < 1e-6, "{dscale}");
    Ok(())
}

#[test]
fn what_pointwise_losses_do_not_take_is_named() -> Test {
    for bad in [f32::NAN, f32::INFINITY] {
        let expected = format!("`bias` is {bad}; it must be finite");
        assert_eq!(message(Contrast::siglip(0.1, bad)), expected);
        let by_rule = Contrast::info_nce(0.1)?.with_rule(RowRule::Sigmoid { bias: bad });
        assert_eq!(message(by_rule), expected);
    }
    for bad in [0.0, -1.0, f32::NAN] {
        let expected = format!("`temperature` is {bad}; it must be finite and greater than 0");
        assert_eq!(message(Contrast::siglip(bad, 0.0)), expected);
    }
    let (siglip, byol) = (Contrast::siglip(0.1, 0.0)?, Contrast::byol()?);
    let sigmoid = RowRule::Sigmoid { bias: 0.0 };
    let columns = "columns have a loss too";
    let alone = "without negatives only rows of a matrix of their own have a loss";
    let own_key = "an own key is one positive, not a set";
    let set = "a set has no one positive to compare with";
    let no_negatives = "the rule has no negatives";
    for (refused, option, reason) in [
        (Contrast::clip(2.0)?.with_rule(sigmoid), "rule", columns),
        (Contrast::moco(0.1)?.with_rule(sigmoid), "rule", own_key),
        (siglip.with_guard(0.1), "guard", set),
        (byol.with_guard(0.1), "guard", no_negatives),
        (
            Contrast::clip(2.0)?.with_rule(RowRule::Alignment),
            "rule",
            alone,
        ),
        (
            Contrast::nt_xent(0.1)?.with_rule(RowRule::Alignment),
            "rule",
            alone,
        ),
        (
            Contrast::sup_con(0.1)?.with_rule(RowRule::Alignment),
            "rule",
            alone,
        ),
    ] {
        assert_eq!(message(refused), unsupported(option, reason));
    }

    let data = [0.5f32; 8];
    let (q, k) = (Rows::new(&data[..6], 3, 2)?, Rows::new(&data, 4, 2)?);
    let on = |contrast: Contrast| contrast.on(Inputs::pair(q, k));
    let ids = Ids {
        anchors: &[0; 3][..],
        candidates: &[0; 4],
    };
    let bias = [0.5];
    let no_bias = "the rule has none; candidates have a column bias";
    let one_bias = "the rule has one bias for all; `with_logit_bias` gives it";
    let no_positive = "rows without a positive have a loss";
    let of_positives = siglip.with_reduction(Reduction::MeanOfPositives);
    for (refused, option, reason) in [
        (on(of_positives), "reduction", no_positive),
        (
            on(siglip)?.with_column_bias(&[0.0; 4]),
            "column_bias",
            one_bias,
        ),
        (
            on(byol)?.with_column_bias(&[0.0; 4]),
            "column_bias",
            no_negatives,
        ),
        (on(byol)?.excluding(ids), "ids", no_negatives),
        (on(byol)?.with_logit_bias(&bias), "logit_bias", no_bias),
        (
            on(Contrast::info_nce(0.1)?)?.with_logit_bias(&bias),
            "logit_bias",
            no_bias,
        ),
        (
            on(siglip)?.with_target_bias(&[0.0; 4]),
            "target_bias",
            "there are no targets",
        ),
    ] {
        assert_eq!(message(refused), unsupported(option, reason));
    }
    Ok(())
}

#[test]
fn a_refused_pointwise_call_has_written_nothing() -> Test {
    on_engines!(refused_calls)
}

fn refused_calls(engine: &impl Engine<Memory = HostMemory>) -> Test {
    let data = [0.5f32; 8];
    let (q, k) = (Rows::new(&data[..6], 3, 2)?, Rows::new(&data, 4, 2)?);
    let siglip = Contrast::siglip(0.1, 0.0)?.on(Inputs::pair(q, k))?;
    let byol = Contrast::byol()?.on(Inputs::pair(q, k))?;
    let info_nce = Contrast::info_nce(0.1)?.on(Inputs::pair(q, k))?;
    let two = siglip.with_logit_bias(&[0.5, 0.5])?;
    let no_bias = unsupported("gradients.dbias", "the problem has no column bias");
    for (problem, (rows, dim), expected) in [
        (
            &siglip,
            (1, 4),
            "`gradients.dbias` has dimension 4; the anchors have 1",
        ),
        (
            &siglip,
            (2, 1),
            "`gradients.dbias` has 2 rows; it must have 1",
        ),
        (&siglip, (1, 1), "accepted"),
        (&byol, (1, 1), &no_bias),
        (
            &two,
            (1, 1),
            "`logit_bias` holds 2 elements; its shape needs 1",
        ),
    ] {
        let (mut dq, mut dbias) = ([UNTOUCHED; 6], vec![UNTOUCHED; rows * dim]);
        let gradients = Gradients::new(RowsMut::new(&mut dq, 3, 2)?, None)
            .with_bias(RowsMut::new(&mut dbias, rows, dim)?);
        let text = message(engine.value_and_grad(problem, 1.0, gradients));
        assert_eq!(text, expected);
        let is_untouched = dq.iter().chain(&dbias).all(|&x| x == UNTOUCHED);
        assert_eq!(is_untouched, text != "accepted");
    }
    // Statistics of another rule.
    let statistics = engine.forward(&info_nce)?.statistics;
    let mut dq = [UNTOUCHED; 6];
    let gradients = Gradients::new(RowsMut::new(&mut dq, 3, 2)?, None);
    let text = message(engine.backward(&siglip, &statistics, 1.0, gradients));
    assert_eq!(text, "`statistics.rows` has 0 rows; it must have 3");
    assert_eq!(dq, [UNTOUCHED; 6]);
    Ok(())
}
