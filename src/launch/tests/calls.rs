//! Calls that must give the same bits; how passes are divided into splits; the error of tf32; bounded logits.

use approx::{abs_diff_eq, assert_abs_diff_eq};

use super::*;
use crate::engine::Engine;
use crate::inputs::Inputs;
use crate::launch::DeviceStatistics;
use crate::launch::positives::ExponentRange;
use crate::losses::RowRule;

#[test]
fn a_scale_on_the_device_gives_the_bits_of_one_on_the_host() -> Result<(), Error> {
    for dim in [32, 300] {
        let fixture = Fixture::square(dim)?;
        let scale = fixture.memory.upload(&[7.5f32])?;
        for rule in [RowRule::SOFTMAX, RowRule::Debiased { prior: 0.2 }] {
            let clip = |scale| fixture.problem(&Contrast::clip(scale)?.with_rule(rule)?);
            let expected = fixture.run(&clip(7.5)?)?;
            let found = fixture.run(&clip(1.0)?.with_scale(scale))?;
            assert_eq!(found, expected, "{rule:?} D = {dim}");
        }
    }
    Ok(())
}

#[test]
fn statistics_that_stay_give_the_bits_of_those_that_return() -> Result<(), Error> {
    for dim in [32, 300] {
        let fixture = Fixture::square(dim)?;
        let device = &fixture.memory.device;
        let similarity = Similarity::new(device, 0);
        let backward = |problem, statistics: &DeviceStatistics<_>| -> Result<_, Error> {
            let numbers = similarity.backward(problem, statistics, 2.0, &fixture.gradients)?;
            Ok((numbers.read(device)?[1].to_bits(), fixture.gradients()?))
        };
        let clip = fixture.problem(&Contrast::clip(7.5)?)?;
        let one_way = fixture.problem(&Contrast::info_nce(0.1)?)?;
        for problem in [&clip, &one_way] {
            let forward = similarity.forward(problem)?;
            let kept = backward(problem, &forward.statistics)?;
            let statistics = forward.statistics.read(device)?;
            let uploaded = DeviceStatistics::upload(device, &statistics)?;
            let returned = backward(problem, &uploaded)?;
            assert_eq!(kept, returned, "{} D = {dim}", problem.contrast().name());
        }
        // Masses that another loss derived from the statistics are not used.
        let dcl = Contrast::info_nce(0.1)?.with_rule(RowRule::Decoupled { sigma: None })?;
        let dcl = fixture.problem(&dcl)?;
        let from = |other| backward(&dcl, &similarity.forward(other)?.statistics);
        assert_eq!(from(&one_way)?, from(&dcl)?, "D = {dim}");

        let refused = backward(&clip, &similarity.forward(&one_way)?.statistics);
        let Err(Error::Rows { argument, .. }) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(argument, "statistics.columns");
    }
    Ok(())
}

#[test]
fn results_do_not_depend_on_which_block_has_a_work_tile() -> Result<(), Error> {
    // Seven tiles of anchors, and so few candidates that no number of SMs splits them.
    const ANCHORS: usize = 800;
    for dim in [40, 264] {
        let run = |sm_count| -> Result<_, Error> {
            let device = device(Schedule::Mixed, 5, sm_count, true);
            let mut fixture = Fixture::new(device, [ANCHORS, 30, dim], 0)?;
            fixture.gradients.dk = None;
            let positives = Positives::Index(fixture.memory.words(&index(ANCHORS, 30))?);
            let problem = fixture.pose(&Contrast::info_nce(0.1)?, positives)?;
            let device = &fixture.memory.device;
            let similarity = Similarity::new(device, 1 << 20);
            let forward = similarity.forward(&problem)?.read(device)?;
            let results = similarity.value_and_grad(&problem, 1.0, &fixture.gradients)?;
            Ok((forward, results.read(device)?, fixture.gradients()?))
        };
        let alone = run(64)?;
        for sm_count in [1, 3, 4] {
            assert_eq!(run(sm_count)?, alone, "D = {dim}, {sm_count}");
        }
    }
    Ok(())
}

#[test]
fn anchors_that_leave_the_cache_too_little_run_in_groups() -> Result<(), Error> {
    const ANCHORS: usize = 3_000;
    let run = |cache_bytes| -> Result<_, Error> {
        let mut device = device(Schedule::Mixed, 5, 48, true);
        device.cache_bytes = cache_bytes;
        let fixture = Fixture::new(device, [ANCHORS, 700, 264], 0)?;
        let similarity = Similarity::new(&fixture.memory.device, 0);
        let problem = fixture.problem(&Contrast::moco(0.1)?)?;
        let prepared = similarity.prepare(&problem)?;
        let cut = similarity.cut(prepared.arithmetic, prepared.anchor_rows, ANCHORS, 700);
        let forward = similarity.forward(&problem)?.read(&fixture.memory.device)?;
        Ok((cut, forward.statistics.rows.negatives_lse))
    };
    let (together, expected) = run(50 << 20)?;
    let (grouped, found) = run(1 << 20)?;
    // All 24 row tiles in one group, or 11 clusters a group. 24 clusters run at a time, so three splits serve 11.
    assert_eq!((together.grid(24).group, grouped.grid(24).group), (24, 11));
    assert_eq!(grouped.splits, 3);
    for (row, (x, y)) in found.iter().zip(&expected).enumerate() {
        let near = abs_diff_eq!(x, y, epsilon = 1e-5 * y.abs());
        assert!(near, "row {row}: {x}, {y}");
    }
    Ok(())
}

#[test]
fn rows_with_gaps_give_the_bits_of_those_without() -> Result<(), Error> {
    let (info_nce, clip) = (Contrast::info_nce(0.1)?, Contrast::clip(10.0)?);
    for dim in [64, 264] {
        for (contrast, by_index) in [(info_nce, false), (info_nce, true), (clip, false)] {
            let run = |gap| -> Result<_, Error> {
                let device = device(Schedule::Late, 5, 3, false);
                let fixture = Fixture::new(device, [ROWS, ROWS, dim], gap)?;
                let positives = match by_index {
                    true => Positives::Index(fixture.memory.words(&index(ROWS, 9))?),
                    false => Positives::DIAGONAL,
                };
                fixture.run(&fixture.pose(&contrast, positives)?)
            };
            assert_eq!(run(1)?, run(0)?, "{} D = {dim}", contrast.name());
        }
    }
    Ok(())
}

#[test]
fn statistics_of_long_work_tiles_ignore_the_schedule() -> Result<(), Error> {
    // One cluster of two CTAs processes all work tiles. Each has three or four tiles.
    for (rows, dim) in [(700, 40), (700, 264), (800, 40), (800, 264)] {
        in_every_order(&format!("{rows} × {dim}"), |schedule, seed| {
            let device = device(schedule, seed, 1, true);
            let fixture = Fixture::new(device, [rows, rows, dim], 0)?;
            let similarity = Similarity::new(&fixture.memory.device, 0);
            let forward = similarity.forward(&fixture.problem(&Contrast::clip(10.0)?)?)?;
            forward.read(&fixture.memory.device)
        })?;
    }
    Ok(())
}

#[test]
fn results_do_not_depend_on_schedule_or_thread_order() -> Result<(), Error> {
    for (dim, hopper) in [(40, false), (264, false), (40, true), (264, true)] {
        let batch = Batch::<half::bf16>::new(90, 150, dim);
        for contrast in [Contrast::nt_xent(0.1)?, Contrast::moco(0.1)?] {
            let problem = batch.problem(&contrast, Positives::DIAGONAL)?;
            let what = format!("{}, D = {dim}, sm_90a: {hopper}", contrast.name());
            let (_, [dq, _]) = in_every_order(&what, |schedule, seed| {
                let engine = engine(schedule, seed, hopper);
                with_gradients::<_, f32, _>(&problem, |to| engine.value_and_grad(&problem, 1.0, to))
            })?;
            assert!(dq.iter().all(|number| number.is_finite()));
        }
    }
    Ok(())
}

#[test]
fn products_of_tf32_are_off_by_their_rounding() -> Result<(), Error> {
    for dim in [48, 128, 200, 300] {
        let memory = Memory::on(device(Schedule::Late, 5, 3, false));
        let unit_rows = |seed| {
            let unit = 1.0 / (dim as f32).sqrt();
            let numbers = numbers::<f32>(ROWS, dim, seed).into_iter();
            memory.given(&numbers.map(|x| x * unit).collect::<Vec<_>>(), dim, 0)
        };
        let (q, k) = (unit_rows(0)?, unit_rows(1)?);
        let gradient = || memory.matrix([ROWS, dim], DType::F32, 0);
        let (dq, dk) = (gradient()?, gradient()?);
        let (device, gradients) = (&memory.device, Gradients::new(dq, Some(dk)));
        let largest = |numbers: &[f32]| numbers.iter().fold(0.0f32, |a, b| a.max(b.abs()));
        // The error exceeds that of three products. At most a logit is off by s·2·2⁻¹¹·⟨|q|, |k|⟩, and a weight by as
        // much of itself; differing signs make it far less.
        let judge = |what: &str, exact: &[f32], rounded: &[f32]| {
            let off = exact.iter().zip(rounded).map(|(a, b)| (a - b).abs());
            let share = off.fold(0.0f32, f32::max) / largest(exact);
            assert!((1e-5..1e-2).contains(&share), "{what}, D = {dim}: {share}");
        };
        // CLIP finds its statistics first, InfoNCE during the gradient pass.
        for contrast in [Contrast::clip(5.0)?, Contrast::info_nce(0.2)?] {
            let problem = contrast.on(Inputs::pair(q, k))?;
            let run = |tf32| -> Result<_, Error> {
                let similarity = Similarity::new(device, 0).with_tf32(tf32);
                let results = similarity.value_and_grad(&problem, 1.0, &gradients)?;
                let loss = results.read(device)?.loss;
                Ok((loss, memory.elements(dq)?, memory.elements(dk)?))
            };
            let (exact, rounded) = (run(false)?, run(true)?);
            judge("dq", &exact.1, &rounded.1);
            judge("dk", &exact.2, &rounded.2);
            assert_abs_diff_eq!(exact.0, rounded.0, epsilon = 5e-3 * exact.0);
            assert_ne!(exact.0.to_bits(), rounded.0.to_bits());
        }
        let best = |tf32| -> Result<_, Error> {
            let similarity = Similarity::new(device, 0).with_tf32(tf32);
            similarity.top_k(q, k, 3, false)?.read(device)
        };
        judge("top-k", &best(false)?.scores, &best(true)?.scores);
    }
    Ok(())
}

#[test]
fn splits_cover_all_tiles_and_none_is_empty() {
    for sm_count in [1, 3, 132] {
        let device = EmulatedDevice::new(Schedule::Late, 0, sm_count);
        let similarity = Similarity::new(&device, 0);
        for blocks in [1, 2, 64, 1000] {
            for tiles in [1, 2, 7, 1024, 100_000] {
                for resident in [1, 2] {
                    let (splits, per_split) = similarity.split(blocks, tiles, resident);
                    let (splits, per_split) = (splits as usize, per_split as usize);
                    assert!(splits * per_split >= tiles && (splits - 1) * per_split < tiles);
                }
            }
        }
    }
    // Two row tiles (256 anchors) against a queue of 1,024 tiles fill 132 SMs.
    let device = EmulatedDevice::new(Schedule::Late, 0, 132);
    let (splits, _) = Similarity::new(&device, 0).split(2, 1024, 1);
    assert!((60..=66).contains(&splits), "{splits}");
}

#[test]
fn exponentials_need_no_offset_where_logits_are_bounded() -> Result<(), Error> {
    // Rows of 16 equal elements. Where all are 1, s⟨q, k⟩ = 32, which is 46 in base 2; the largest bound is 80.
    for (q, own, queue, bounded, what) in [
        (1.0, 1.0, 1.0, 1, "all near 1"),
        (1.0, 1.0, 2.0, 0, "a candidate's logit"),
        (1.0, -2.0, 1.0, 0, "the logit of a key of its own"),
        (1e-6, 1.0, 1e5, 0, "norms far from 1"),
    ] {
        let memory = Memory::on(EmulatedDevice::new(Schedule::Mixed, 3, 4));
        let matrix = |rows: usize, size: f32| memory.given(&vec![size; rows * 16], 16, 0);
        let matrices = [matrix(3, q)?, matrix(5, queue)?, matrix(3, own)?];
        let problem = Contrast::moco(0.5)?.pose(matrices, Positives::DIAGONAL)?;
        let similarity = Similarity::new(&memory.device, 1 << 16);
        let prepared = similarity.prepare(&problem)?;
        let positives = similarity.positives(&prepared)?;
        let bound = similarity.bound(&prepared, &positives, ExponentRange::WIDE)?;
        let found = bound.read(&memory.device)?[0].to_bits();
        assert_eq!(found, bounded, "{what}");
    }
    Ok(())
}
