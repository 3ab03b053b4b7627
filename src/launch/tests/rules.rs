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
fn listed(values: &RowValues) -> [f64; 5] {
    let RowValues {
        value,
        offset,
        negatives,
        positive,
        scale,
        ..
    } = *values;
    [value, offset, negatives, positive, scale]
}

/// The kernels' values of the first `first` rows, and the rule's context in f64.
fn found(
    contrast: Contrast,
    rows: &RowStatistics,
    first: usize,
) -> Result<(Vec<RowValues>, RowContext), Error> {
    let memory = Memory::on(EmulatedDevice::new(Schedule::Mixed, 3, 3));
    let device = &memory.device;
    let count = rows.len();
    let matrix = |rows| DeviceMatrix::new(1 << 30, [rows, 4], DType::F32);
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
    let read = |plane: Option<&Floats<_>>, none: f32| match plane {
        Some(plane) => plane.read(device),
        None => Ok(vec![none; count]),
    };
    let offset2 = read(Some(&masses.offset2), 0.0)?;
    let negatives = read(Some(&masses.negatives), 0.0)?;
    let positive = read(Some(masses.of_positive()), 0.0)?;
    let second2 = read(masses.second2.as_ref(), f32::INFINITY)?;
    let uniform = read(masses.uniform.as_ref(), 0.0)?;
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
        device.start(kernels::REDUCE, [1; 3], &params)?;
        let [value, scale] = memory.read::<f32>(result, 2)?[..] else {
            unreachable!("two are read")
        };
        let in_nats = |exponent: f32| f64::from(exponent) * std::f64::consts::LN_2;
        all.push(RowValues {
            value: value.into(),
            offset: in_nats(offset2[row]),
            negatives: negatives[row].into(),
            positive: positive[row].into(),
            scale: scale.into(),
            second: in_nats(second2[row]),
            uniform: uniform[row].into(),
        });
    }
    let positives = rows.positive.iter().map(|&z| f64::from(z));
    let scale = f64::from(SCALE);
    let context = RowContext::new(contrast.rule(), scale, problem.negatives(), positives);
    Ok((all, context))
}

/// [`found`] of a rule of one positive.
fn found_of_one(
    rule: RowRule,
    rows: &RowStatistics,
    first: usize,
) -> Result<(Vec<RowValues>, RowContext), Error> {
    found(Contrast::moco(1.0 / SCALE)?.with_rule(rule)?, rows, first)
}

/// Asserts that values are those expected, or are off by less than they change when logits change by their rounding.
fn are_near(what: &str, names: [&str; 5], found: [f64; 5], expected: [f64; 5], moved: &[[f64; 5]]) {
    for (which, name) in names.iter().enumerate() {
        let (x, y) = (found[which], expected[which]);
        let spread = moved.iter().map(|moved| (moved[which] - y).abs());
        let allowed = 3e-6 * y.abs() + 2.0 * spread.fold(0.0, f64::max);
        let is_near = x == y || (x - y).abs() <= allowed && y.is_finite();
        assert!(is_near, "{what}: {name} is {x}, not {y}");
    }
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
        let (found, context) = found_of_one(rule, &rows, rows.len())?;
        let values = |lse, z| listed(&rule.values(&RowLogits::new(lse, z), &context));
        for (row, found) in found.iter().enumerate() {
            let lse = f64::from(rows.negatives_lse[row]);
            let z = f64::from(rows.positive[row]);
            let expected = values(lse, z);
            let step = f64::from(f32::EPSILON) * (lse.abs() + z.abs() + 1.0);
            let moved = [(step, 0.0), (-step, 0.0), (0.0, step), (0.0, -step)]
                .map(|(of_lse, of_z)| values(lse + of_lse, z + of_z));
            let what = format!("{rule:?}, {lse} {z}");
            are_near(&what, NAMES, listed(found), expected, &moved);
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
        let (found, _) = found_of_one(rule, &rows, rows.len())?;
        let found: Vec<[f64; 5]> = found.iter().map(listed).collect();
        // A NaN in one z₊ makes the mean of weights NaN.
        let weighted = rule.weights().is_some();
        assert_eq!(found[0][2..], [0.0; 3], "{rule:?}");
        assert_eq!(found[0][0], 0.0, "{rule:?}");
        assert!((found[0][1] - 3.0).abs() < 1e-5, "{rule:?}: {found:?}");
        for row in &found[1..3] {
            assert_eq!(*row, [0.0, f64::INFINITY, 0.0, 0.0, 0.0], "{rule:?}");
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
    let (found, context) = found_of_one(rule, &rows, 10)?;
    assert!(context.log_mean.abs() > 0.1);
    for (row, found) in found.iter().enumerate() {
        let z = f64::from(rows.positive[row]);
        let expected = rule.values(&RowLogits::new(1.0, z), &context).positive;
        let off = (found.positive - expected).abs();
        assert!(
            off < 1e-5 * (1.0 + expected.abs()),
            "row {row}: {found:?}, {expected}"
        );
    }
    Ok(())
}

/// Value, offset, c, o₂ and ε′.
fn listed_of_two(values: &RowValues) -> [f64; 5] {
    let RowValues {
        value,
        offset,
        positive,
        second,
        uniform,
        ..
    } = *values;
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
        let contrast = Contrast::info_nce(1.0 / SCALE)?.with_rule(rule)?;
        let (found, context) = found(contrast, &rows, rows.len())?;
        for (row, found) in found.iter().enumerate() {
            let logits = rows.logits(row);
            let expected = listed_of_two(&rule.values(&logits, &context));
            let step = f64::from(f32::EPSILON) * (logits.negatives_lse.abs() + 10.0);
            let moved = [-step, step].map(|step| {
                let logits = RowLogits {
                    negatives_lse: logits.negatives_lse + step,
                    second_lse: logits.second_lse - step,
                    ..logits
                };
                listed_of_two(&rule.values(&logits, &context))
            });
            let what = format!("{rule:?}, {logits:?}");
            are_near(&what, NAMES, listed_of_two(found), expected, &moved);
        }
    }
    Ok(())
}
