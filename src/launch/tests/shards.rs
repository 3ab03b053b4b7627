//! Candidates that are a shard of a larger problem: anchors without a positive in the shard, merged statistics, sums of
//! gradients.

use half::{bf16, f16};

use super::*;
use crate::engine::Engine;
use crate::launch::params::ContrastView;
use crate::launch::{DeviceStatistics, Floats};
use crate::losses::RowRule;
use crate::positives::NO_POSITIVE;
use crate::statistics::RowStatistics;

#[test]
fn anchors_are_grouped_as_a_stable_sort_would() -> Result<(), Error> {
    let mut state = 1u32;
    let mut random = move |below: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % below
    };
    for (anchors, candidates) in [
        (1, 1),
        (5, 15),
        (40, 16),
        (1_024, 17),
        (1_025, 2),
        (2_500, 255),
        (3_000, 5_000),
    ] {
        // Positives at random, some past the last candidate; two candidates for all anchors; no positives.
        let at_random: Vec<u32> = (0..anchors).map(|_| random(candidates + 2)).collect();
        let of_two = (0..anchors).map(|_| [0, candidates - 1][random(2) as usize]);
        for (name, index) in [
            ("at random", at_random),
            ("of two", of_two.collect()),
            ("none", vec![NO_POSITIVE; anchors as usize]),
        ] {
            let memory = Memory::on(EmulatedDevice::new(Schedule::Mixed, 9, 3));
            let view = ContrastView {
                index: memory.upload(&index)?,
                anchors,
                candidates,
                ..bytemuck::Zeroable::zeroed()
            };
            let groups = Similarity::new(&memory.device, 0).group(&view)?;
            let words = |from: &Floats<_>| memory.read::<u32>(from.address(), from.len());
            let mut order: Vec<u32> = (0..anchors).collect();
            order.sort_by_key(|&i| index[i as usize].min(candidates));
            let starts: Vec<u32> = (0..=candidates)
                .map(|j| index.iter().filter(|&&i| i < j).count() as u32)
                .collect();
            let what = format!("{anchors} of {candidates}, {name}");
            assert_eq!(words(&groups.order)?, order, "{what}");
            assert_eq!(words(&groups.starts)?, starts, "{what}");
        }
    }
    Ok(())
}

#[test]
fn positives_that_mean_the_same_give_the_same_bits() -> Result<(), Error> {
    const CANDIDATES: usize = 50;
    // An index past the last candidate means no positive.
    let with = |none: [u32; 3]| {
        let mut index = index(ROWS, CANDIDATES);
        (index[0], index[31], index[ROWS - 1]) = none.into();
        index
    };
    let (past, none) = (with([50, 51, 4_000_000_000]), with([NO_POSITIVE; 3]));
    // The diagonal with fewer candidates than anchors too.
    let offsets = [5i64, -30, 40, i64::MIN, i64::MAX, 0].map(|offset| {
        let index = (0..ROWS as i64).map(|i| match i.saturating_add(offset) {
            j @ 0..50 => j as u32,
            _ => NO_POSITIVE,
        });
        (Positives::Offset(offset), index.collect::<Vec<_>>())
    });
    for (hopper, dim) in [(false, 40), (false, 264), (true, 40), (true, 264)] {
        let device = device(Schedule::Mixed, 5, 3, hopper);
        let fixture = Fixture::new(device, [ROWS, CANDIDATES, dim], 0)?;
        let indices = |index: &[u32]| fixture.memory.words(index).map(Positives::Index);
        for rule in [RowRule::SOFTMAX, RowRule::Decoupled { sigma: Some(0.5) }] {
            let contrast = Contrast::info_nce(0.1)?.with_rule(rule)?;
            let run = |positives| fixture.run(&fixture.pose(&contrast, positives)?);
            let what = format!("{rule:?}, sm_90a: {hopper}, D = {dim}");
            let found = run(indices(&past)?)?;
            assert_eq!(found, run(indices(&none)?)?, "{what}");
            let (Evaluated { loss, dscale, .. }, gradients) = found;
            let mut numbers = gradients
                .into_iter()
                .map(f32::from_bits)
                .chain([loss, dscale]);
            assert!(numbers.all(f32::is_finite), "{what}");
            for (positives, index) in &offsets {
                let expected = run(indices(index)?)?;
                assert_eq!(run(*positives)?, expected, "{what}, {positives:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn labels_are_the_indices_of_the_first_that_have_them() -> Result<(), Error> {
    // Fewer candidates than a warp compares at once; several times as many and a remainder.
    for (hopper, candidates) in [(false, 50), (false, 700), (true, 700)] {
        let device = device(Schedule::Late, 5, 3, hopper);
        let fixture = Fixture::new(device, [ROWS, candidates, 40], 0)?;
        // Candidates have every label twice, far apart. Some anchors have a label of no candidate, or none.
        let half = candidates as u32 / 2;
        let of_candidates: Vec<u32> = (0..candidates as u32).map(|j| 3 * (j % half)).collect();
        let anchor = |i: u32| match i % 8 {
            6 => NO_POSITIVE,
            7 => 3 * half,
            _ => 3 * (i * 37 % half),
        };
        let of_anchors: Vec<u32> = (0..ROWS as u32).map(anchor).collect();
        let index = of_anchors.iter().map(|&label| match label / 3 {
            j if j < half => j,
            _ => NO_POSITIVE,
        });
        let of_index = Positives::Index(fixture.memory.words(&index.collect::<Vec<_>>())?);
        let of_labels = Positives::Labels {
            anchors: fixture.memory.words(&of_anchors)?,
            candidates: fixture.memory.words(&of_candidates)?,
        };
        let contrast = Contrast::info_nce(0.1)?;
        let run = |positives| fixture.run(&fixture.pose(&contrast, positives)?);
        assert_eq!(run(of_labels)?, run(of_index)?, "{candidates}");
    }
    Ok(())
}

#[test]
fn merged_statistics_are_made_into_weights_anew() -> Result<(), Error> {
    for dim in [40, 264] {
        let fixture = Fixture::square(dim)?;
        let device = &fixture.memory.device;
        let similarity = Similarity::new(device, 0);
        let contrast = Contrast::info_nce(0.1)?.with_rule(RowRule::Debiased { prior: 0.2 })?;
        let problem = fixture.problem(&contrast)?.as_shard_of(2 * ROWS);
        let others = Positives::Offset(-(ROWS as i64));
        let others = contrast.pose([fixture.q; 3], others)?.as_shard_of(2 * ROWS);
        let others = similarity.forward(&others)?.statistics;
        let mut merged = similarity.forward(&problem)?.statistics;
        let backward = |statistics: &DeviceStatistics<EmulatedDevice>| -> Result<_, Error> {
            let dscale = similarity.backward(&problem, statistics, 1.0, &fixture.gradients)?;
            Ok((dscale.read(device)?[1], fixture.gradients()?))
        };
        let of_shard = backward(&merged)?;
        // A graph that was recorded before the merge still reads these offsets.
        let offsets = |statistics: &DeviceStatistics<EmulatedDevice>| {
            let derived = statistics.derived.as_ref();
            derived.expect("as long as these").rows.offset2.read(device)
        };
        let before = offsets(&merged)?;
        similarity.merge(&mut merged, &others)?;
        assert_eq!(offsets(&merged)?, before);
        let found = backward(&merged)?;
        let uploaded = DeviceStatistics::upload(device, &merged.read(device)?)?;
        assert_eq!(found, backward(&uploaded)?, "D = {dim}");
        assert_ne!(found, of_shard, "D = {dim}");
    }
    Ok(())
}

#[test]
fn shards_of_candidates_add_up_to_the_whole() -> Result<(), Error> {
    const SPLIT: usize = 45;
    fn check<T: Element>(hopper: bool, dim: usize, allowed: f64) -> Result<(), Error> {
        let batch = Batch::<T>::new(ROWS, ROWS, dim);
        let ([q, k, _], engine) = (batch.rows(), engine(Schedule::Mixed, 2, hopper));
        for rule in [
            RowRule::SOFTMAX,
            RowRule::Decoupled { sigma: Some(0.5) },
            RowRule::Debiased { prior: 0.2 },
        ] {
            // The temperature grows with D, so logits are as large for each D.
            let contrast = Contrast::info_nce(dim as f32 / 120.0)?.with_rule(rule)?;
            let expected = batch.expected(&contrast, Positives::DIAGONAL)?;
            // The terms of dscale cancel, so it is compared with the engine's own value for the whole.
            let whole = batch.problem(&contrast, Positives::DIAGONAL)?;
            let (whole, _) =
                with_gradients::<_, f32, _>(&whole, |to| engine.value_and_grad(&whole, 1.0, to))?;
            let shard = |first: usize, count: usize| -> Result<_, Error> {
                let positives = Positives::Offset(-(first as i64));
                let problem = contrast.pose([q, k.slice(first, count), q], positives)?;
                Ok(problem.as_shard_of(ROWS))
            };
            let shards = [shard(0, SPLIT)?, shard(SPLIT, ROWS - SPLIT)?];
            let [mut statistics, others] = [
                engine.forward(&shards[0])?.statistics,
                engine.forward(&shards[1])?.statistics,
            ];
            engine.merge(&mut statistics, &others)?;
            let (mut dq, mut dk, mut dscale) = (vec![0.0; ROWS * dim], Vec::new(), 0.0);
            for problem in &shards {
                let (of_s, [of_q, of_k]) = with_gradients::<_, f32, _>(problem, |to| {
                    engine.backward(problem, &statistics, 1.0, to)
                })?;
                dq.iter_mut().zip(of_q).for_each(|(sum, dq)| *sum += dq);
                dk.extend(of_k);
                dscale += of_s;
            }
            let (rows, expected_rows) = (&statistics.rows, &expected.rows);
            let expected_dk = expected.dk.as_ref().expect("candidates have a gradient");
            for (name, found, expected, allowed) in [
                ("z₊", &rows.positive, &expected_rows.positive[..], 1e-6),
                (
                    "lse⁻",
                    &rows.negatives_lse,
                    &expected_rows.negatives_lse,
                    1e-6,
                ),
                ("dq", &dq, expected.dq.as_slice(), allowed),
                ("dk", &dk, expected_dk.as_slice(), allowed),
                ("dscale", &vec![dscale], &[f64::from(whole.dscale)], allowed),
            ] {
                let error = relative_error(found, expected);
                let what = format!("{rule:?}, {} D = {dim}", T::DTYPE);
                assert!(error < allowed, "{what}: {name} is off by {error:.1e}");
            }
        }
        Ok(())
    }
    check::<f32>(false, 24, 2e-5)?;
    check::<f32>(false, 264, 2e-5)?;
    check::<bf16>(true, 40, 2e-3)?;
    check::<f16>(true, 264, 5e-4)
}

#[test]
fn merged_statistics_are_of_both_sets_of_candidates() -> Result<(), Error> {
    const NONE: f32 = f32::NEG_INFINITY;
    const NAN: f32 = f32::NAN;
    let statistics = |lse: [f32; 6], positive: [f32; 6]| Statistics {
        rows: RowStatistics {
            negatives_lse: lse.into(),
            positive: positive.into(),
            ..RowStatistics::default()
        },
        columns: None,
    };
    let engine = EmulatedEngine::new(Schedule::Late, 1);
    let mut first = statistics(
        [1.0, NONE, NONE, 90.0, NAN, 1.0],
        [NONE, 2.0, NONE, -3.0, 1.0, 1.0],
    );
    let second = statistics(
        [2.0, 5.0, NONE, -90.0, 1.0, 1.0],
        [4.0, NONE, NONE, NONE, NONE, NAN],
    );
    engine.merge(&mut first, &second)?;
    let RowStatistics {
        negatives_lse: lse,
        positive,
        ..
    } = &first.rows;
    assert!((lse[0] - (1f32.exp() + 2f32.exp()).ln()).abs() < 1e-6);
    assert_eq!(lse[1..4], [5.0, NONE, 90.0]);
    assert!(lse[4].is_nan() && (lse[5] - (1.0 + 2f32.ln())).abs() < 1e-6);
    assert_eq!(positive[..5], [4.0, 2.0, NONE, -3.0, 1.0]);
    assert!(positive[5].is_nan());

    let mut short = second.clone();
    short.rows.negatives_lse.pop();
    short.rows.positive.pop();
    let (argument, given, expected) = ("others.rows", 6, 5);
    let refused = Error::Rows {
        argument,
        given,
        expected,
    };
    assert_eq!(engine.merge(&mut short, &second), Err(refused));
    let empty = Statistics::default();
    let Err(Error::Empty { argument, .. }) = engine.merge(&mut empty.clone(), &empty) else {
        panic!("statistics of no rows were merged");
    };
    assert_eq!(argument, "statistics.rows");
    Ok(())
}

#[test]
fn gradients_are_added_in_f32_and_rounded_once() -> Result<(), Error> {
    fn check<G: Element>(contrast: &Contrast, dim: usize, hopper: bool) -> Result<(), Error> {
        let batch = Batch::<bf16>::new(ROWS, ROWS, dim);
        let problem = batch.problem(contrast, Positives::DIAGONAL)?;
        let engine = engine(Schedule::Mixed, 4, hopper);
        let (value, new) =
            with_gradients::<_, f32, _>(&problem, |to| engine.value_and_grad(&problem, 1.0, to))?;
        let before = [5, 6].map(|seed| numbers::<G>(ROWS, dim, seed));
        let (again, found) = with_gradients(&problem, |mut to| {
            to.dq.fill_from(&before[0]);
            if let Some(dk) = &mut to.dk {
                dk.fill_from(&before[1]);
            }
            engine.value_and_grad(&problem, 1.0, to.accumulating())
        })?;
        let what = format!("{} {} D = {dim}", contrast.name(), G::DTYPE);
        assert_eq!(again, value, "{what}");
        for ((found, before), new) in found.into_iter().zip(before).zip(new) {
            let added = before
                .iter()
                .zip(new)
                .map(|(x, y)| G::from_f32(x.to_f32() + y));
            assert!(found.into_iter().eq(added), "{what}");
        }
        Ok(())
    }
    for contrast in contrasts()? {
        // Fused, rows in no quads, in several chunks.
        for (dim, hopper) in [(40, true), (7, false), (264, false)] {
            check::<f32>(&contrast, dim, hopper)?;
            check::<bf16>(&contrast, dim, hopper)?;
        }
    }
    Ok(())
}
