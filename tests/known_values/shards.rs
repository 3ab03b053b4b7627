//! Problems that are split: accumulated gradients, anchors without a positive, candidates in shards, a scale in the
//! engine's memory.

use approx::assert_abs_diff_eq;
use infonce::Gradients;

use super::*;

pub(super) fn promises<E: Engine>() -> [(&'static str, Promise<E>); 5] {
    [
        ("gradients accumulate with one rounding", accumulated),
        ("an anchor without a positive adds nothing", no_positive),
        ("no positive at all is loss 0 and gradient 0", none_at_all),
        ("shards of candidates merge to the whole", merged),
        ("a scale in memory is the contrast's own", scale_in_memory),
    ]
}

/// All layouts, and InfoNCE by each rule.
fn all_kinds(n: usize, m: usize) -> Result<Vec<Kind>, Error> {
    let mut all = kinds(0.2, n, m)?;
    let rules = rules(0.2)?.into_iter().skip(1);
    all.extend(rules.map(|contrast| Kind::new(contrast, &[n, m])));
    Ok(all)
}

/// D of fused kernels, and of stored weights.
const DIMS: [usize; 2] = [24, 272];

fn accumulated<E: Engine>(new: New<E>) -> Result<(), Error> {
    fn check<E: Engine, T: Element>(engine: &E) -> Result<(), Error> {
        for (kind, dim) in all_kinds(10, 37)?.iter().zip(DIMS.into_iter().cycle()) {
            let batch = Batch::<T>::new(&kind.unit_rows(dim, 11));
            let problem = batch.problem(kind)?;
            let shape = problem.shape();
            let mut alone = poisoned::<f32>(shape, kind.contrast.has_dk());
            let value = OnHost(engine).value_and_grad(&problem, 1.5, &mut alone)?;
            for backward in [false, true] {
                let old = |rows: usize, seed| rounded::<T>(&randn(rows, dim, seed));
                let old_dq = old(shape.anchors, 1);
                let old_dk = alone.dk.as_ref().map(|_| old(shape.candidates, 2));
                let mut sum = Gradients::new(old_dq.clone(), old_dk.clone()).accumulating();
                if backward {
                    let statistics = &value.statistics;
                    OnHost(engine).backward(&problem, statistics, 1.5, &mut sum)?;
                    OnHost(engine).backward(&problem, statistics, 1.5, &mut alone)?;
                } else {
                    OnHost(engine).value_and_grad(&problem, 1.5, &mut sum)?;
                }
                let added = |old: &[T], new: &[f32]| -> Vec<T> {
                    let pairs = old.iter().zip(new);
                    pairs
                        .map(|(old, new)| T::from_f32(old.to_f32() + new))
                        .collect()
                };
                let what = format!("{} of {}, backward: {backward}", kind.name(), T::DTYPE);
                assert_eq!(sum.dq, added(&old_dq, &alone.dq), "dq, {what}");
                let old_dk = old_dk.unwrap_or_default();
                let dk = alone.dk.as_deref().unwrap_or_default();
                assert_eq!(sum.dk.unwrap_or_default(), added(&old_dk, dk), "dk, {what}");
            }
        }
        Ok(())
    }
    let engine = &new()?;
    in_all_types!(check::<E>(engine));
    Ok(())
}

/// Each of `found` is as expected to within `share` of the largest.
fn all_near(found: &[f32], expected: &[f64], share: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected
        .iter()
        .fold(0.0f64, |largest, x| largest.max(x.abs()));
    for (place, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let off = (f64::from(found) - expected).abs();
        let is_near = off <= share * largest || f64::from(found) == expected;
        assert!(is_near, "{what} [{place}]: {found} in place of {expected}");
    }
}

/// InfoNCE by each rule but the pointwise one, of which a row without a positive has a loss.
fn rules_of_positives() -> Result<Vec<Contrast>, Error> {
    let mut rules = rules(0.2)?;
    rules.retain(|contrast| !contrast.rule().is_pointwise());
    Ok(rules)
}

fn no_positive<E: Engine>(new: New<E>) -> Result<(), Error> {
    let engine = &new()?;
    let (n, m, dim) = (9, 21, 24);
    let index: Vec<u32> = (0..n as u32)
        .map(|i| if i % 4 == 2 { NO_POSITIVE } else { i * 2 })
        .collect();
    for contrast in rules_of_positives()? {
        // The positives of the last three anchors lie past the last candidate.
        let by_offset = Kind {
            positives: Positives::Offset((m - n + 3) as i64),
            ..Kind::new(contrast, &[n, m])
        };
        let by_index = Kind::by_index(contrast, &[n, m], index.clone());
        // Candidates 2j and 2j + 1 have label j: the first is the positive, the other a negative.
        let by_label = Kind {
            positives: Positives::Labels {
                anchors: (0..n as u32)
                    .map(|i| match i {
                        2 => NO_POSITIVE,
                        6 => m as u32,
                        i => i,
                    })
                    .collect(),
                candidates: (0..m as u32).map(|j| j / 2).collect(),
            },
            ..Kind::new(contrast, &[n, m])
        };
        let value = |kind: &Kind| evaluate::<E, f32>(engine, kind, &kind.unit_rows(dim, 12));
        if !contrast.has_sets() {
            assert_eq!(value(&by_label)?, value(&by_index)?, "{}", by_index.name());
        }
        let has_none: [fn(usize) -> bool; 2] = [|i| i >= 6, |i| i % 4 == 2];
        for (kind, has_none) in [by_offset, by_index].iter().zip(has_none) {
            let matrices = kind.unit_rows(dim, 12);
            let (value, expected) = (
                evaluate::<E, f32>(engine, kind, &matrices)?,
                reference_of::<f32>(kind, &matrices)?,
            );
            let what = kind.name();
            for i in 0..n {
                let is_none = value.statistics.rows.positive[i] == f32::NEG_INFINITY;
                assert_eq!(is_none, has_none(i), "{what}: anchor {i}");
                let dq = &value.dq[i * dim..][..dim];
                assert_eq!(dq.iter().all(|&x| x == 0.0), is_none, "{what}: anchor {i}");
            }
            assert_near(value.loss, expected.loss, 1e-5, &what);
            let dk = expected.dk.as_ref().map_or(&[][..], Dense::as_slice);
            all_near(&value.dq, expected.dq.as_slice(), 1e-5, &what);
            all_near(&value.dk, dk, 1e-5, &what);
        }
    }
    Ok(())
}

fn none_at_all<E: Engine>(new: New<E>) -> Result<(), Error> {
    let engine = &new()?;
    for contrast in rules_of_positives()? {
        let mut all = vec![Kind::by_index(contrast, &[5, 7], vec![NO_POSITIVE; 5])];
        for (anchors, candidates) in [(NO_POSITIVE, NO_POSITIVE), (0, 1)] {
            all.push(Kind {
                positives: Positives::Labels {
                    anchors: vec![anchors; 5],
                    candidates: vec![candidates; 7],
                },
                ..Kind::new(contrast, &[5, 7])
            });
        }
        for offset in [-5, 7, i64::MIN, i64::MAX] {
            all.push(Kind {
                positives: Positives::Offset(offset),
                ..Kind::new(contrast, &[5, 7])
            });
        }
        for kind in all {
            let value = evaluate::<E, f32>(engine, &kind, &kind.unit_rows(24, 13))?;
            let what = kind.name();
            assert_eq!((value.loss, value.dscale), (0.0, 0.0), "{what}");
            let mut gradients = value.dq.iter().chain(&value.dk);
            assert!(gradients.all(|&x| x == 0.0), "{what}: {value:?}");
        }
    }
    Ok(())
}

/// Two shards of the candidates share statistics alone.
fn merged<E: Engine>(new: New<E>) -> Result<(), Error> {
    let engine = &OnHost(&new()?);
    let (n, m) = (20, 51);
    let index: Vec<u32> = (0..n).map(|i| (i * 13 % m) as u32).collect();
    for (contrast, dim) in rules(0.2)?.into_iter().zip(DIMS.into_iter().cycle()) {
        let labels = Positives::Labels {
            anchors: index.clone(),
            candidates: (0..m as u32).collect(),
        };
        let by_index = Positives::Index(index.clone());
        let mut given = vec![Positives::DIAGONAL, by_index, labels];
        if contrast.has_sets() {
            // Two positives of each anchor, in one shard or in both, but for the first.
            given.push(Positives::Lists {
                starts: std::iter::once(0)
                    .chain((0..n as u32).map(|i| 2 * i))
                    .collect(),
                candidates: (1..n as u32).flat_map(|i| [i % 12, 11 + 2 * i]).collect(),
            });
        }
        for positives in given {
            let whole = Kind {
                positives,
                ..Kind::new(contrast, &[n, m])
            };
            let matrices = whole.unit_rows(dim, 14);
            let expected = reference_of::<f32>(&whole, &matrices)?;
            let shards = [(0, 17), (17, m)].map(|(first, end)| {
                let positives = match &whole.positives {
                    Positives::Offset(offset) => Positives::Offset(offset - first as i64),
                    Positives::Labels {
                        anchors,
                        candidates,
                    } => Positives::Labels {
                        anchors: anchors.clone(),
                        candidates: candidates[first..end].to_vec(),
                    },
                    Positives::Lists { starts, candidates } => {
                        let is_here = |j: &&u32| (first..end).contains(&(**j as usize));
                        let here = |of: &[u32]| -> Vec<u32> {
                            of.iter()
                                .filter(is_here)
                                .map(|j| j - first as u32)
                                .collect()
                        };
                        let before = |&start: &u32| here(&candidates[..start as usize]).len();
                        Positives::Lists {
                            starts: starts.iter().map(|start| before(start) as u32).collect(),
                            candidates: here(candidates),
                        }
                    }
                    Positives::Index(index) => Positives::Index(
                        index
                            .iter()
                            .map(|&j| match (first..end).contains(&(j as usize)) {
                                true => j - first as u32,
                                false => NO_POSITIVE,
                            })
                            .collect(),
                    ),
                };
                let k = Dense::from_fn(end - first, dim, |j, d| matrices[1].row(first + j)[d]);
                let kind = Kind {
                    positives,
                    ..Kind::new(contrast, &[n, end - first])
                };
                (kind, Batch::<f32>::new(&[matrices[0].clone(), k]))
            });
            let what = whole.name();
            let mut statistics = Vec::new();
            for (kind, batch) in &shards {
                statistics.push(engine.forward(&batch.problem(kind)?)?.statistics);
            }
            let statistics = engine.merge(&statistics[0], &statistics[1])?;
            all_near(
                &statistics.rows.positive,
                &expected.rows.positive,
                1e-6,
                &what,
            );
            let lse = &expected.rows.negatives_lse;
            all_near(&statistics.rows.negatives_lse, lse, 1e-6, &what);
            assert_near(statistics.loss(&contrast, m), expected.loss, 1e-5, &what);

            let (mut dq, mut dk, mut dscale) = (vec![0.0f32; n * dim], Vec::new(), 0.0);
            for (kind, batch) in &shards {
                // Debiasing counts the negatives of all shards.
                let problem = batch.problem(kind)?.as_shard_of(m);
                // dk is written over zeros, dq added to the other shard's.
                let own_dk = Some(vec![0.0; problem.shape().candidates * dim]);
                let mut gradients = Gradients::new(dq, own_dk).accumulating();
                dscale += engine.backward(&problem, &statistics, 1.0, &mut gradients)?;
                dq = gradients.dq;
                dk.extend(gradients.dk.unwrap_or_default());
            }
            let expected_dk = expected.dk.as_ref().map_or(&[][..], Dense::as_slice);
            all_near(&dq, expected.dq.as_slice(), 1e-5, &what);
            all_near(&dk, expected_dk, 1e-5, &what);
            let terms: f64 = expected.dz.as_slice().iter().map(|dz| dz.abs()).sum();
            assert_abs_diff_eq!(f64::from(dscale), expected.dscale, epsilon = 1e-5 * terms);
        }
    }
    Ok(())
}

fn scale_in_memory<E: Engine>(new: New<E>) -> Result<(), Error> {
    let engine = &OnHost(&new()?);
    // Rules keep their hyper-parameters, which may depend on a loss's own temperature.
    let at = all_kinds(10, 37)?;
    let mut elsewhere = kinds(1.3, 10, 37)?;
    for kind in &at[elsewhere.len()..] {
        let contrast = Contrast::info_nce(1.3)?.with_rule(kind.contrast.rule())?;
        elsewhere.push(Kind::new(contrast, &kind.rows));
    }
    for ((kind, other), dim) in at.iter().zip(&elsewhere).zip(DIMS.into_iter().cycle()) {
        let batch = Batch::<f32>::new(&kind.unit_rows(dim, 15));
        let (problem, scale) = (batch.problem(kind)?, [kind.contrast.scale()]);
        let scaled = batch.problem(other)?.with_scale(&scale);
        let mut gradients = poisoned::<f32>(problem.shape(), kind.contrast.has_dk());
        let value = engine.value_and_grad(&problem, 1.0, &mut gradients)?;
        let mut others = poisoned::<f32>(problem.shape(), kind.contrast.has_dk());
        let other = engine.value_and_grad(&scaled, 1.0, &mut others)?;
        let wide = |x: &[f32]| -> Vec<f64> { x.iter().map(|&x| f64::from(x)).collect() };
        let what = kind.name();
        assert_near(other.loss, f64::from(value.loss), 1e-6, &what);
        assert_near(other.dscale, f64::from(value.dscale), 1e-5, &what);
        all_near(&others.dq, &wide(&gradients.dq), 1e-5, &what);
        let dk = [others.dk, gradients.dk].map(Option::unwrap_or_default);
        all_near(&dk[0], &wide(&dk[1]), 1e-5, &what);

        let forward = engine.forward(&scaled)?;
        assert_near(forward.loss, f64::from(value.loss), 1e-6, &what);
        let statistics = &forward.statistics;
        let mut again = poisoned::<f32>(problem.shape(), kind.contrast.has_dk());
        let dscale = engine.backward(&scaled, statistics, 1.0, &mut again)?;
        assert_near(dscale, f64::from(value.dscale), 1e-5, &what);
    }
    Ok(())
}
