//! The row rules as the kernels compute them, in f32, against f64.

use super::*;
use crate::launch::params::ReduceParams;
use crate::launch::{Device, DeviceStatistics, Floats, kernels};
use crate::losses::{RowContext, RowLogits, RowRule, RowValues, SetForm};
use crate::statistics::{RowStatistics, SetStatistics};

const RULES: [RowRule; 9] = [
    RowRule::SOFTMAX,
    RowRule::Softmax { margin: 3.0 },
    RowRule::Decoupled { sigma: None },
    RowRule::Decoupled { sigma: Some(0.5) },
    RowRule::Robust {
        q: 0.5,
        lambda: 0.025,
    },
    RowRule::Robust {
        q: 1.0,
        lambda: 1.0,
    },
    RowRule::Debiased { prior: 0.0 },
    RowRule::Debiased { prior: 0.1 },
    // The correction κ for positives among the negatives exceeds 1.
    RowRule::Debiased { prior: 0.9 },
];

const SCALE: f32 = 10.0;
const CANDIDATES: usize = 5;

/// Value, offset, both masses and ∂φ/∂s.
fn listed(values: RowValues) -> [f64; 5] {
    let RowValues {
        value,
        offset,
        negatives,
        positive,
        scale,
        ..
    } = values;
    [value, offset, negatives, positive, scale]
}

/// The kernels' values of the first `first` rows, in the order of [`listed`], and the rule's context in f64.
fn found(
    rule: RowRule,
    rows: &RowStatistics,
    first: usize,
) -> Result<(Vec<[f32; 5]>, RowContext), Error> {
    let memory = Memory::on(EmulatedDevice::new(Schedule::Mixed, 3, 3));
    let device = &memory.device;
    let count = rows.len();
    let matrix = |rows| DeviceMatrix::new(1 << 30, [rows, 4], DType::F32);
    let contrast = Contrast::moco(1.0 / SCALE)?.with_rule(rule)?;
    let matrices = [count, CANDIDATES, count].map(matrix);
    let problem = contrast.pose(matrices, Positives::DIAGONAL)?;
    let similarity = Similarity::new(device, 0);
    let prepared = similarity.prepare(&problem)?;
    let statistics = Statistics {
        rows: rows.clone(),
        columns: None,
    };
    let given = DeviceStatistics::upload(device, &statistics)?;
    similarity.mean_of_positives(&prepared, &given.rows.positive)?;
    let masses = similarity.masses_of(&prepared, &given.rows)?;
    let [offset2, a, c] = [&masses.offset2, &masses.negatives, masses.of_positive()];
    let [offset2, a, c] = [offset2, a, c].map(|numbers| numbers.read(device));
    let (offset2, a, c) = (offset2?, a?, c?);
    let (zero, result) = (memory.upload(&[0.0f32])?, memory.unwritten(2 * 4)?);
    let mut all = Vec::new();
    for row in 0..first {
        let params = ReduceParams {
            of_rows: given.rows.params(row),
            dots: zero,
            rows: 1,
            row_weight: 1.0,
            dot_weight: 1.0,
            scale_weight: 1.0,
            rule: prepared.rule,
            contrast: prepared.view,
            result,
            ..bytemuck::Zeroable::zeroed()
        };
        similarity.device.start(kernels::REDUCE, [1; 3], &params)?;
        let numbers: Vec<f32> = memory.read(result, 2)?;
        let offset = offset2[row] * std::f32::consts::LN_2;
        all.push([numbers[0], offset, a[row], c[row], numbers[1]]);
    }
    let positives = rows.positive.iter().map(|&z| f64::from(z));
    let negatives = problem.negatives();
    let context = RowContext::new(rule, f64::from(SCALE), negatives, positives);
    Ok((all, context))
}

#[test]
fn every_rule_has_the_digits_of_f64() -> Result<(), Error> {
    const NAMES: [&str; 5] = ["value", "offset", "a", "c", "∂φ/∂s"];
    let mut rows = RowStatistics::default();
    for step in -100..=100 {
        let positive = [-8.0, 0.25, 9.0][(step + 100) as usize % 3];
        rows.positive.push(positive);
        rows.negatives_lse.push(positive + step as f32 / 4.0);
    }
    let mut clamped = [false; 2];
    for rule in RULES {
        let (found, context) = found(rule, &rows, rows.len())?;
        let values = |lse, z| rule.values(&RowLogits::new(lse, z), &context);
        for (row, found) in found.iter().enumerate() {
            let lse = f64::from(rows.negatives_lse[row]);
            let z = f64::from(rows.positive[row]);
            let expected = listed(values(lse, z));
            // The change of each value when lse⁻ or z₊ changes by the rounding of f32.
            let step = f64::from(f32::EPSILON) * (lse.abs() + z.abs() + 1.0);
            let near = [(step, 0.0), (-step, 0.0), (0.0, step), (0.0, -step)]
                .map(|(of_lse, of_z)| listed(values(lse + of_lse, z + of_z)));
            for (which, name) in NAMES.iter().enumerate() {
                let (x, y) = (f64::from(found[which]), expected[which]);
                if y.is_infinite() {
                    assert_eq!(x, y, "{rule:?}, {lse} {z}: {name}");
                    continue;
                }
                let spread = near.iter().map(|near| (near[which] - y).abs());
                let allowed = 3e-6 * y.abs() + 2.0 * spread.fold(0.0, f64::max);
                let off = (x - y).abs();
                assert!(
                    off <= allowed,
                    "{rule:?}, {lse} {z}: {name} is {x}, not {y}"
                );
            }
            if matches!(rule, RowRule::Debiased { .. }) {
                clamped[usize::from(expected[2] == 0.0)] = true;
            }
        }
    }
    assert_eq!(
        clamped, [true; 2],
        "debiased rows that are clamped, and not"
    );
    Ok(())
}

#[test]
fn rows_without_negatives_or_positive_have_no_loss() -> Result<(), Error> {
    const NONE: f32 = f32::NEG_INFINITY;
    let rows = RowStatistics {
        negatives_lse: vec![NONE, 2.0, NONE, f32::NAN, 2.0, f32::NAN, 1.0],
        positive: vec![3.0, NONE, NONE, 1.0, f32::NAN, NONE, 0.5],
        ..RowStatistics::default()
    };
    for rule in RULES {
        let (found, _) = found(rule, &rows, rows.len())?;
        // A NaN in one z₊ makes the mean of weights NaN.
        let weighted = rule.weights().is_some();
        assert_eq!(found[0][2..], [0.0; 3], "{rule:?}");
        assert_eq!(found[0][0], 0.0, "{rule:?}");
        assert!((found[0][1] - 3.0).abs() < 1e-5, "{rule:?}: {found:?}");
        for row in &found[1..3] {
            assert_eq!(*row, [0.0, f32::INFINITY, 0.0, 0.0, 0.0], "{rule:?}");
        }
        for row in &found[3..6] {
            assert!(row.iter().all(|x| x.is_nan()), "{rule:?}: {row:?}");
        }
        assert_eq!(found[6][0].is_nan(), weighted, "{rule:?}");
    }
    Ok(())
}

#[test]
fn weights_take_the_mean_of_rows_with_a_positive() -> Result<(), Error> {
    // More than a block's threads, and not all of them with a positive.
    let mut positive = numbers::<f32>(1_100, 1, 4);
    for positive in &mut positive {
        *positive *= SCALE;
    }
    positive[7] = f32::NEG_INFINITY;
    let rows = RowStatistics {
        negatives_lse: vec![1.0; positive.len()],
        positive,
        ..RowStatistics::default()
    };
    let rule = RowRule::Decoupled { sigma: Some(0.5) };
    let (found, context) = found(rule, &rows, 10)?;
    assert!(context.log_mean.abs() > 0.1);
    for (row, found) in found.iter().enumerate() {
        let z = f64::from(rows.positive[row]);
        let expected = rule.values(&RowLogits::new(1.0, z), &context).positive;
        let off = (f64::from(found[3]) - expected).abs();
        assert!(
            off < 1e-5 * (1.0 + expected.abs()),
            "row {row}: {found:?}, {expected}"
        );
    }
    Ok(())
}

/// Value, offset, c, o₂ and ε′.
fn listed_of_two(values: RowValues) -> [f64; 5] {
    let RowValues {
        value,
        offset,
        positive,
        second,
        uniform,
        ..
    } = values;
    [value, offset, positive, second, uniform]
}

#[test]
fn rules_of_two_exponentials_have_the_digits_of_f64() -> Result<(), Error> {
    const NAMES: [&str; 5] = ["value", "offset", "c", "o₂", "ε′"];
    let sets = |form, smoothing| RowRule::Sets { form, smoothing };
    for rule in [
        sets(SetForm::MeanOutside, 0.0),
        sets(SetForm::MeanOutside, 0.25),
        sets(SetForm::MeanInside, 0.0),
        sets(SetForm::Decoupled, 0.0),
        RowRule::HardNegatives {
            beta: 1.5,
            prior: 0.1,
        },
    ] {
        let mut rows = RowStatistics::default();
        let mut set = SetStatistics::default();
        for step in -40..=40 {
            let positive = [-8.0, 0.25, 9.0][(step + 40) as usize % 3];
            let count = [1.0, 5.0][(step + 40) as usize % 2];
            rows.positive.push(positive);
            rows.negatives_lse.push(positive + step as f32 / 2.0);
            set.positives.push(count);
            set.positives_lse.push(positive + 2.0 * count.ln());
            let smoothed = f32::from(u8::from(rule.is_smoothed()));
            set.negatives.push(37.0 * smoothed);
            set.negatives_mean.push(-0.7 * smoothed);
        }
        match rule.takes_sets() {
            true => rows.sets = Some(set),
            false => rows.second_lse = rows.negatives_lse.iter().map(|x| 0.4 * x + 1.0).collect(),
        }
        let memory = Memory::on(EmulatedDevice::new(Schedule::Mixed, 3, 3));
        let device = &memory.device;
        let matrix = |rows| DeviceMatrix::new(1 << 30, [rows, 4], DType::F32);
        let contrast = Contrast::info_nce(1.0 / SCALE)?.with_rule(rule)?;
        let matrices = [rows.len(), CANDIDATES, rows.len()].map(matrix);
        let problem = contrast.pose(matrices, Positives::DIAGONAL)?;
        let similarity = Similarity::new(device, 0);
        let prepared = similarity.prepare(&problem)?;
        let statistics = Statistics {
            rows: rows.clone(),
            columns: None,
        };
        let given = DeviceStatistics::upload(device, &statistics)?;
        let masses = similarity.masses_of(&prepared, &given.rows)?;
        let read = |plane: Option<&Floats<_>>| -> Result<Vec<f32>, Error> {
            Ok(match plane {
                Some(plane) => plane.read(device)?,
                None => vec![0.0; rows.len()],
            })
        };
        let planes = [
            read(Some(&masses.offset2))?,
            read(Some(masses.of_positive()))?,
            read(masses.second2.as_ref())?,
            read(masses.uniform.as_ref())?,
        ];
        let context = RowContext::new(
            rule,
            f64::from(SCALE),
            problem.negatives(),
            std::iter::empty(),
        );
        let result = memory.unwritten(2 * 4)?;
        for row in 0..rows.len() {
            let params = ReduceParams {
                of_rows: given.rows.params(row),
                rows: 1,
                row_weight: 1.0,
                rule: prepared.rule,
                contrast: prepared.view,
                result,
                ..bytemuck::Zeroable::zeroed()
            };
            device.start(kernels::REDUCE, [1; 3], &params)?;
            let value = memory.read::<f32>(result, 1)?[0];
            let in_nats = |plane: &[f32]| plane[row] * std::f32::consts::LN_2;
            let [offset2, c, second2, uniform] = &planes;
            let found = [
                value,
                in_nats(offset2),
                c[row],
                in_nats(second2),
                uniform[row],
            ];
            let logits = rows.logits(row);
            let expected = listed_of_two(rule.values(&logits, &context));
            let step = f64::from(f32::EPSILON) * (logits.negatives_lse.abs() + 10.0);
            let near = [-step, step].map(|step| {
                let logits = RowLogits {
                    negatives_lse: logits.negatives_lse + step,
                    second_lse: logits.second_lse - step,
                    ..logits
                };
                listed_of_two(rule.values(&logits, &context))
            });
            for (which, name) in NAMES.iter().enumerate() {
                let (x, y) = (f64::from(found[which]), expected[which]);
                let spread = near.iter().map(|near| (near[which] - y).abs());
                let allowed = 3e-6 * y.abs() + 2.0 * spread.fold(0.0, f64::max);
                let is_near = x == y || (x - y).abs() <= allowed;
                assert!(is_near, "{rule:?}, {logits:?}: {name} is {x}, not {y}");
            }
        }
    }
    Ok(())
}
