//! Candidates that are a shard of a larger problem: anchors without a positive among them, statistics that are
//! merged, gradients that add up.

use half::{bf16, f16};

use super::{Fixture, ROWS, device, engine, index, numbers};
use crate::contrast::Contrast;
use crate::device::params::ContrastView;
use crate::device::{Device, DeviceStatistics, Similarity};
use crate::element::Element;
use crate::engine::{Engine, Gradients};
use crate::error::Error;
use crate::host::{HostDevice, HostEngine, Schedule};
use crate::inputs::{Inputs, NO_POSITIVE, Positives, Problem};
use crate::losses::RowRule;
use crate::rows::{Rows, RowsMut};
use crate::statistics::{RowStatistics, Statistics};

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
        // At random, a few past the last; all of two candidates; none at all.
        let at_random: Vec<u32> = (0..anchors).map(|_| random(candidates + 2)).collect();
        let of_two = (0..anchors).map(|_| [0, candidates - 1][random(2) as usize]);
        for (name, index) in [
            ("at random", at_random),
            ("of two", of_two.collect()),
            ("none", vec![NO_POSITIVE; anchors as usize]),
        ] {
            let device = HostDevice::new(Schedule::Mixed, 9, 3);
            let similarity = Similarity::new(&device, 0);
            let given = similarity.floats(index.len())?;
            device.write(given.address(), bytemuck::cast_slice(&index))?;
            let view = ContrastView {
                index: given.address(),
                anchors,
                candidates,
                ..bytemuck::Zeroable::zeroed()
            };
            let groups = similarity.group(&view)?;
            let words =
                |numbers: Vec<f32>| -> Vec<u32> { numbers.into_iter().map(f32::to_bits).collect() };
            let mut order: Vec<u32> = (0..anchors).collect();
            order.sort_by_key(|&i| index[i as usize].min(candidates));
            let starts: Vec<u32> = (0..=candidates)
                .map(|j| index.iter().filter(|&&i| i < j).count() as u32)
                .collect();
            let what = format!("{anchors} of {candidates}, {name}");
            assert_eq!(words(groups.order.read(&device)?), order, "{what}");
            assert_eq!(words(groups.starts.read(&device)?), starts, "{what}");
        }
    }
    Ok(())
}

#[test]
fn an_index_past_all_candidates_is_no_positive() -> Result<(), Error> {
    const CANDIDATES: usize = 50;
    const WITHOUT: [usize; 3] = [0, 31, ROWS - 1];
    for (hopper, dim) in [(false, 40), (false, 264), (true, 40), (true, 264)] {
        let run = |none: [u32; 3], rule| -> Result<_, Error> {
            let device = device(Schedule::Mixed, 5, 3, hopper);
            let mut fixture = Fixture::on(device, ROWS, CANDIDATES, dim)?;
            let mut index = index(ROWS, CANDIDATES);
            for (row, none) in WITHOUT.into_iter().zip(none) {
                index[row] = none;
            }
            let positives = Positives::Index(fixture.memory.indices(&index)?);
            fixture.run(&Contrast::info_nce(0.1)?.with_rule(rule)?, positives)
        };
        for rule in [RowRule::SOFTMAX, RowRule::Decoupled { sigma: Some(0.5) }] {
            let past = run([50, 51, 4_000_000_000], rule)?;
            let (([loss, dscale], statistics), gradients) = &past;
            let what = format!("{rule:?}, sm_90a: {hopper}, D = {dim}");
            assert_eq!(past, run([NO_POSITIVE; 3], rule)?, "{what}");
            assert!(loss.is_finite() && dscale.is_finite(), "{what}");
            for (row, z) in statistics.rows.positive.iter().enumerate() {
                let without = WITHOUT.contains(&row);
                assert_eq!(*z == f32::NEG_INFINITY, without, "{what}");
                let dq = &gradients[4 * row * dim..4 * (row + 1) * dim];
                let dq: &[f32] = &bytemuck::pod_collect_to_vec(dq);
                assert!(
                    dq.iter().all(|x| x.is_finite() && (*x == 0.0) == without),
                    "{what} {row}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn offsets_are_the_indices_that_they_stand_for() -> Result<(), Error> {
    const CANDIDATES: usize = 50;
    // The diagonal with fewer candidates than anchors too.
    for (hopper, dim, offset) in [
        (false, 40, 5i64),
        (false, 40, -30),
        (false, 264, 40),
        (false, 40, i64::MIN),
        (false, 40, i64::MAX),
        (false, 40, 0),
        (true, 40, 0),
        (true, 264, 0),
    ] {
        let device = device(Schedule::Late, 5, 3, hopper);
        let mut fixture = Fixture::on(device, ROWS, CANDIDATES, dim)?;
        let index = (0..ROWS as i64).map(|i| match i.saturating_add(offset) {
            j @ 0..50 => j as u32,
            _ => NO_POSITIVE,
        });
        let index: Vec<u32> = index.collect();
        let of_index = Positives::Index(fixture.memory.indices(&index)?);
        let contrast = Contrast::info_nce(0.1)?;
        let found = fixture.run(&contrast, Positives::Offset(offset))?;
        assert_eq!(found, fixture.run(&contrast, of_index)?, "{offset}");
    }
    Ok(())
}

#[test]
fn merged_statistics_are_made_into_weights_anew() -> Result<(), Error> {
    for dim in [40, 264] {
        let fixture = Fixture::new(dim)?;
        let device = &fixture.memory.device;
        let similarity = Similarity::new(device, 0);
        let contrast = Contrast::info_nce(0.1)?.with_rule(RowRule::Debiased { prior: 0.2 })?;
        let problem = fixture.problem(&contrast)?.as_shard_of(2 * ROWS);
        let others = Positives::Offset(-(ROWS as i64));
        let others = contrast.pose([fixture.q, fixture.q, fixture.q], others)?;
        let others = similarity
            .forward(&others.as_shard_of(2 * ROWS))?
            .statistics;
        let mut merged = similarity.forward(&problem)?.statistics;
        let backward = |statistics: &DeviceStatistics<HostDevice>| -> Result<_, Error> {
            let dscale = similarity.backward(&problem, statistics, 1.0, &fixture.gradients)?;
            Ok((dscale.read(device)?[1], fixture.gradients()?))
        };
        let of_shard = backward(&merged)?;
        // What a graph that was recorded before reads stays as it was.
        let offsets = |statistics: &DeviceStatistics<HostDevice>| {
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

/// ‖x − y‖ / ‖y‖.
fn off(x: &[f32], y: &[f32]) -> f32 {
    let square = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|x| x * x).sum::<f32>();
    let differences = x.iter().zip(y).map(|(x, y)| x - y);
    (square(&mut { differences }) / square(&mut y.iter().copied())).sqrt()
}

#[test]
fn shards_of_candidates_add_up_to_the_whole() -> Result<(), Error> {
    const SPLIT: usize = 45;
    fn check<T: Element>(engine: &HostEngine, dim: usize, allowed: f32) -> Result<(), Error> {
        let (q, k) = (numbers::<T>(ROWS, dim, 1), numbers::<T>(ROWS, dim, 2));
        let q = Rows::new(&q, ROWS, dim)?;
        let shards = [
            (Rows::new(&k[..SPLIT * dim], SPLIT, dim)?, 0),
            (
                Rows::new(&k[SPLIT * dim..], ROWS - SPLIT, dim)?,
                -(SPLIT as i64),
            ),
        ];
        for rule in [
            RowRule::SOFTMAX,
            RowRule::Decoupled { sigma: Some(0.5) },
            RowRule::Debiased { prior: 0.2 },
        ] {
            // Logits as far from 0 whatever the length of rows.
            let contrast = Contrast::info_nce(dim as f32 / 120.0)?.with_rule(rule)?;
            let what = format!("{rule:?}, {} D = {dim}", T::DTYPE);
            let whole = contrast.on(Inputs::pair(q, Rows::new(&k, ROWS, dim)?))?;
            let zeros = || vec![0.0f32; ROWS * dim];
            let (mut dq, mut dk) = (zeros(), zeros());
            let gradients = Gradients::new(
                RowsMut::new(&mut dq, ROWS, dim)?,
                Some(RowsMut::new(&mut dk, ROWS, dim)?),
            );
            let expected = engine.value_and_grad(&whole, 1.0, gradients)?;

            let problems = shards.map(|(k, offset)| -> Result<Problem<Rows<'_, T>>, Error> {
                contrast.on(Inputs::Pair {
                    q,
                    k,
                    positives: Positives::Offset(offset),
                })
            });
            let [first, second] = problems;
            let (first, second) = (first?.as_shard_of(ROWS), second?.as_shard_of(ROWS));
            let mut statistics = engine.forward(&first)?.statistics;
            engine.merge(&mut statistics, &engine.forward(&second)?.statistics)?;
            for (x, y) in [
                (
                    &statistics.rows.positive,
                    &expected.statistics.rows.positive,
                ),
                (
                    &statistics.rows.negatives_lse,
                    &expected.statistics.rows.negatives_lse,
                ),
            ] {
                assert!(off(x, y) < 1e-6, "{what}: {x:?} {y:?}");
            }
            let (mut dq_sum, mut dk_parts, mut dscale) = (zeros(), zeros(), 0.0);
            let (upper, lower) = dk_parts.split_at_mut(SPLIT * dim);
            for (problem, dk) in [(first, upper), (second, lower)] {
                let rows = problem.shape().candidates;
                let gradients = Gradients::new(
                    RowsMut::new(&mut dq_sum, ROWS, dim)?,
                    Some(RowsMut::new(dk, rows, dim)?),
                );
                dscale += engine.backward(&problem, &statistics, 1.0, gradients.accumulating())?;
            }
            assert!(
                off(&dq_sum, &dq) < allowed,
                "{what}: dq {}",
                off(&dq_sum, &dq)
            );
            assert!(
                off(&dk_parts, &dk) < allowed,
                "{what}: dk {}",
                off(&dk_parts, &dk)
            );
            let near = (dscale - expected.dscale).abs() < allowed * expected.dscale.abs();
            assert!(near, "{what}: {dscale} {}", expected.dscale);
        }
        Ok(())
    }
    let engine = HostEngine::new(Schedule::Mixed, 2);
    check::<f32>(&engine, 24, 2e-5)?;
    check::<f32>(&engine, 264, 2e-5)?;
    let hopper = HostEngine::new(Schedule::Mixed, 2).with_hopper_kernels();
    check::<bf16>(&hopper, 40, 2e-3)?;
    check::<f16>(&hopper, 264, 5e-4)
}

#[test]
fn merged_statistics_are_of_both_sets_of_candidates() -> Result<(), Error> {
    const NONE: f32 = f32::NEG_INFINITY;
    let statistics = |lse: [f32; 6], positive: [f32; 6]| Statistics {
        rows: RowStatistics {
            negatives_lse: lse.into(),
            positive: positive.into(),
        },
        columns: None,
    };
    let engine = HostEngine::new(Schedule::Late, 1);
    let nan = f32::NAN;
    let mut first = statistics(
        [1.0, NONE, NONE, 90.0, nan, 1.0],
        [NONE, 2.0, NONE, -3.0, 1.0, 1.0],
    );
    let second = statistics(
        [2.0, 5.0, NONE, -90.0, 1.0, 1.0],
        [4.0, NONE, NONE, NONE, NONE, nan],
    );
    engine.merge(&mut first, &second)?;
    let RowStatistics {
        negatives_lse: lse,
        positive,
    } = &first.rows;
    assert!((lse[0] - (1f32.exp() + 2f32.exp()).ln()).abs() < 1e-6);
    assert_eq!(lse[1..4], [5.0, NONE, 90.0]);
    assert!(lse[4].is_nan() && (lse[5] - (1.0 + 2f32.ln())).abs() < 1e-6);
    assert_eq!(positive[..5], [4.0, 2.0, NONE, -3.0, 1.0]);
    assert!(positive[5].is_nan());

    let mut short = second.clone();
    short.rows.negatives_lse.pop();
    short.rows.positive.pop();
    let refused = engine.merge(&mut short, &second);
    assert!(matches!(
        refused,
        Err(Error::Rows {
            argument: "others.rows",
            given: 6,
            expected: 5
        })
    ));
    let empty = Statistics::default();
    let refused = engine.merge(&mut empty.clone(), &empty);
    assert!(matches!(
        refused,
        Err(Error::Empty {
            argument: "statistics.rows",
            ..
        })
    ));
    Ok(())
}

#[test]
fn gradients_are_added_in_f32_and_rounded_once() -> Result<(), Error> {
    fn check<G: Element>(contrast: &Contrast, dim: usize, hopper: bool) -> Result<(), Error> {
        let (q, k) = (numbers::<bf16>(ROWS, dim, 1), numbers::<bf16>(ROWS, dim, 2));
        let (q, k) = (Rows::new(&q, ROWS, dim)?, Rows::new(&k, ROWS, dim)?);
        let problem = contrast.pose([q, k, k], Positives::DIAGONAL)?;
        let engine = engine(Schedule::Mixed, 4, hopper);
        let has_dk = contrast.has_dk();
        let (mut dq, mut dk) = (vec![f32::NAN; ROWS * dim], vec![f32::NAN; ROWS * dim]);
        let both = |dq, dk| -> Result<_, Error> {
            let dk = RowsMut::new(dk, ROWS, dim)?;
            Ok(Gradients::new(
                RowsMut::new(dq, ROWS, dim)?,
                has_dk.then_some(dk),
            ))
        };
        let value = engine.value_and_grad(&problem, 1.0, both(&mut dq, &mut dk)?)?;
        let before = [numbers::<G>(ROWS, dim, 5), numbers::<G>(ROWS, dim, 6)];
        let [mut of_q, mut of_k] = before.clone();
        let to = Gradients {
            dq: RowsMut::new(&mut of_q, ROWS, dim)?,
            dk: match has_dk {
                true => Some(RowsMut::new(&mut of_k, ROWS, dim)?),
                false => None,
            },
            accumulate: true,
        };
        assert_eq!(engine.value_and_grad(&problem, 1.0, to)?, value);
        let added = [(of_q, &before[0], dq, true), (of_k, &before[1], dk, has_dk)];
        for (found, before, new, _) in added.into_iter().filter(|(.., wanted)| *wanted) {
            let expected = before
                .iter()
                .zip(&new)
                .map(|(x, y)| G::from_f32(x.to_f32() + y));
            let name = contrast.name();
            assert!(
                found.into_iter().eq(expected),
                "{name} {} D = {dim}",
                G::DTYPE
            );
        }
        Ok(())
    }
    for contrast in super::contrasts()? {
        // Fused, rows in no quads, in several chunks.
        for (dim, hopper) in [(40, true), (7, false), (264, false)] {
            check::<f32>(&contrast, dim, hopper)?;
            check::<bf16>(&contrast, dim, hopper)?;
        }
    }
    Ok(())
}
