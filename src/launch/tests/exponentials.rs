//! The error of f32 gradients of bf16 and f16 inputs, whatever the logits.

use half::{bf16, f16};

use super::*;
use crate::engine::Engine;
use crate::launch::params::FitParams;
use crate::launch::{Device, kernels};
use crate::losses::RowRule;
use crate::positives::NO_POSITIVE;

/// Unit rows whose cosine with the first axis is `along(row)`; their other directions are random.
fn rows<T: Element>(count: usize, dim: usize, seed: u32, along: impl Fn(usize) -> f32) -> Vec<T> {
    let mut state = seed;
    let mut number = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let mut all = Vec::with_capacity(count * dim);
    for row in 0..count {
        let others: Vec<f32> = (1..dim).map(|_| number()).collect();
        let length = others.iter().map(|x| x * x).sum::<f32>().sqrt();
        let cosine = along(row);
        let rest = (1.0 - cosine * cosine).sqrt() / length;
        all.push(T::from_f32(cosine));
        all.extend(others.iter().map(|x| T::from_f32(x * rest)));
    }
    all
}

/// Anchors, candidates and own keys with these cosines.
fn batch<T: Element>(
    [anchors, candidates, dim]: [usize; 3],
    of_anchors: impl Fn(usize) -> f32,
    of_keys: impl Fn(usize) -> f32,
) -> Batch<T> {
    let numbers = [
        rows(anchors, dim, 1, of_anchors),
        rows(candidates, dim, 2, &of_keys),
        rows(anchors, dim, 3, &of_keys),
    ];
    Batch { numbers, dim }
}

impl<T: Element> Batch<T> {
    /// Asserts that the relative errors of dq and dk are below `allowed`: for value_and_grad and backward, with the
    /// portable kernels and with those for sm_90a.
    fn has_digits(
        &self,
        contrast: &Contrast,
        positives: Positives<&[u32]>,
        allowed: f64,
        what: &str,
    ) -> Result<(), Error> {
        let problem = self.problem(contrast, positives)?;
        let expected = self.expected(contrast, positives)?;
        let what = format!("{what}, {contrast:?}, {positives:?}, D = {}", self.dim);
        for hopper in [false, true] {
            let engine = engine(Schedule::Mixed, 3, hopper);
            let statistics = engine.forward(&problem)?.statistics;
            let joint = with_gradients(&problem, |to| engine.value_and_grad(&problem, 1.0, to))?;
            let apart = with_gradients(&problem, |to| {
                engine.backward(&problem, &statistics, 1.0, to)
            })?;
            for (verb, [dq, dk]) in [("value_and_grad", joint.1), ("backward", apart.1)] {
                let what = format!("{what}, sm_90a: {hopper}, {verb}");
                let error = relative_error(&dq, expected.dq.as_slice());
                assert!(error < allowed, "{what}: dq is off by {error:.1e}");
                if let Some(expected) = &expected.dk {
                    let error = relative_error(&dk, expected.as_slice());
                    assert!(error < allowed, "{what}: dk is off by {error:.1e}");
                }
            }
        }
        Ok(())
    }
}

#[test]
fn gradients_of_f16_have_its_digits_whatever_the_logits() -> Result<(), Error> {
    type Along = fn(usize) -> f32;
    let cases: [(&str, f32, Along, Along); 10] = [
        ("directions at random", 14.3, |_| 0.0, |_| 0.0),
        ("logits near 18 in base 2", 14.3, |_| 0.95, |_| 0.95),
        ("logits near -18", 14.3, |_| 0.95, |_| -0.95),
        ("logits near -4", 14.3, |_| 0.5, |_| -0.4),
        (
            "rows near 18, -18 and 0",
            14.3,
            |i| [0.95, -0.95, 0.0][i % 3],
            |_| 0.95,
        ),
        (
            "rows from -28 to 28",
            20.0,
            |i| 1.0 - i as f32 / 70.0,
            |_| 0.98,
        ),
        // f16 holds the exponentials, but not the anchors times their factors.
        (
            "rows from -14 to 14",
            9.6,
            |i| 1.0 - (i % 128) as f32 / 63.5,
            |_| 0.98,
        ),
        // The second chunk (rows from 128 on) needs another offset.
        (
            "rows near 0, then -18",
            14.3,
            |i| if i < 128 { 0.0 } else { -0.95 },
            |_| 0.95,
        ),
        ("no bound", 100.0, |i| 0.7 - i as f32 / 100.0, |_| 0.9),
        ("a small scale", 0.5, |i| 1.0 - i as f32 / 70.0, |_| 0.9),
    ];
    let index = index(140, 50);
    // Exponentials do not depend on the positives, so cases alternate between the two kinds.
    let positives = [Positives::DIAGONAL, Positives::Index(index.as_slice())];
    for (case, positives) in cases.into_iter().zip(positives.iter().cycle()) {
        let (name, scale, of_anchors, of_keys) = case;
        // D = 272 is too long for fused kernels. The engine's budget makes two chunks of anchors.
        let batch = batch::<f16>([140, 150, 272], of_anchors, of_keys);
        let contrast = Contrast::info_nce(1.0 / scale)?;
        batch.has_digits(&contrast, *positives, 2e-4, name)?;
    }
    Ok(())
}

#[test]
fn gradients_of_f16_have_its_digits_at_different_lengths() -> Result<(), Error> {
    // The positives and other candidates are short. With one offset, exponentials of the long ones are below 2^-24.
    const SHORT: usize = 150;
    for length in [0.0, 1.0 / 64.0] {
        let along = |i| if i < SHORT { 0.0 } else { -0.42 };
        let mut batch = batch::<f16>([60, 300, 272], |_| 1.0, along);
        for x in &mut batch.numbers[1][..SHORT * 272] {
            *x = f16::from_f32(x.to_f32() * length);
        }
        let contrast = Contrast::info_nce(1.0 / 19.75)?;
        let what = format!("{length}");
        batch.has_digits(&contrast, Positives::DIAGONAL, 2e-4, &what)?;
    }
    Ok(())
}

#[test]
fn no_gradient_holds_a_rounded_positive() -> Result<(), Error> {
    let index = index(70, 50);
    let mut some = index.clone();
    some[3..9].fill(NO_POSITIVE);
    let losses = contrasts()?.map(|contrast| (contrast, Positives::DIAGONAL));
    let info_nce = losses[1].0;
    let others = [
        Positives::Index(index.as_slice()),
        Positives::Index(some.as_slice()),
        Positives::Offset(-7),
        Positives::Offset(100),
    ];
    let others = others.map(|positives| (info_nce, positives));
    // A D of every fused kernel, portable and Hopper, and one that is not fused.
    for dim in [40, 100, 200, 300] {
        let batch = batch::<bf16>([70, 150, dim], |_| 0.0, |_| 0.0);
        for (contrast, positives) in losses.into_iter().chain(others) {
            batch.has_digits(&contrast, positives, 6e-4, "bf16")?;
        }
    }
    Ok(())
}

#[test]
fn gradients_of_every_rule_have_the_digits_of_their_type() -> Result<(), Error> {
    for dim in [40, 300] {
        let batch = batch::<f16>([70, 150, dim], |_| 0.3, |_| 0.4);
        for rule in [
            RowRule::Softmax { margin: 2.0 },
            RowRule::Decoupled { sigma: Some(0.5) },
            // Weights above 1.
            RowRule::Robust {
                q: 0.8,
                lambda: 0.5,
            },
            RowRule::Debiased { prior: 0.1 },
        ] {
            for contrast in contrasts()? {
                let contrast = contrast.with_rule(rule)?;
                batch.has_digits(&contrast, Positives::DIAGONAL, 2e-4, "f16")?;
            }
        }
    }
    Ok(())
}

/// A row of the statistics that `fit_exponentials` judges, in base 2: lse⁻, lse and log2 of the anchor's length.
type Row = [f32; 3];

/// Whether `fit_exponentials` keeps the exponentials with one offset, and the shift of the folded anchors. Lengths of
/// candidates differ by up to `lengths` powers of two.
fn fit_of(rows: &[Row], offset: f32, holds: bool, lengths: f32) -> Result<(bool, f32), Error> {
    let memory = Memory::on(EmulatedDevice::new(Schedule::Late, 1, 3));
    let column = |of: fn(&Row) -> f32| memory.upload(&rows.iter().map(of).collect::<Vec<_>>());
    let bound = [f32::from_bits(u32::from(holds)), offset, lengths, 0.0];
    let (fit, shift) = (memory.unwritten(4)?, memory.unwritten(2 * 4)?);
    let params = FitParams {
        negatives_lse: column(|row| row[0] * std::f32::consts::LN_2)?,
        offset2: column(|row| row[1])?,
        square_norms: column(|row| (2.0 * row[2]).exp2())?,
        weights: 0,
        rows: rows.len() as u32,
        // Of 2^10 candidates.
        lowest: -4.0,
        range: 24.0,
        padding: 0,
        bound: memory.upload(&bound)?,
        fit,
        shift,
    };
    memory
        .device
        .start(kernels::FIT_EXPONENTIALS, [1; 3], &params)?;
    let shift: Vec<f32> = memory.read(shift, 2)?;
    assert_eq!(shift[0].exp2(), shift[1]);
    Ok((memory.read::<u32>(fit, 1)? == [1], shift[0]))
}

/// [`fit_of`] with candidates of one length.
fn fit(rows: &[Row], offset: f32, holds: bool) -> Result<(bool, f32), Error> {
    fit_of(rows, offset, holds, 0.0)
}

#[test]
fn one_offset_serves_f16_where_sums_and_rows_are_in_range() -> Result<(), Error> {
    const NONE: f32 = f32::NEG_INFINITY;
    // The sum is 2^7. The folded row has length 2^(3 - 10 - 1); the shift 23 brings it to 2^15.
    assert_eq!(fit(&[[10.0, 10.0, -1.0]], 3.0, true)?, (true, 23.0));
    // The mean of 2^10 exponentials is just above 2^-14, then just below.
    assert!(fit(&[[-0.9, 10.0, 0.0], [20.0, 20.0, 0.0]], 3.0, true)?.0);
    let rows = [[-1.1, 10.0, 0.0], [20.0, 20.0, 0.0]];
    let (fits, shift) = fit(&rows, 3.0, true)?;
    assert!(!fits);
    // With an offset a row, the longest folded anchor is the second's, 2^-14: the shift 29 brings it to 2^15.
    assert_eq!(shift, 29.0);
    // Candidates of a quarter of the length need exponentials four times as large.
    assert!(fit_of(&[[1.1, 10.0, 0.0]], 3.0, true, 2.0)?.0);
    assert!(!fit_of(&[[0.9, 10.0, 0.0]], 3.0, true, 2.0)?.0);
    assert!(!fit_of(&[[9.0, 10.0, 0.0]], 3.0, true, f32::INFINITY)?.0);
    // Lengths of q_i/Σ_j E_ij that differ by less than 2^24, or more.
    assert!(fit(&[[0.0, 0.0, 0.0], [23.9, 23.9, 0.0]], 3.0, true)?.0);
    assert!(!fit(&[[0.0, 0.0, 0.0], [24.1, 24.1, 0.0]], 3.0, true)?.0);
    assert!(!fit(&[[0.0, 0.0, 1.0], [23.9, 23.9, 0.0]], 3.0, true)?.0);
    // A folded row may be shorter where p₊ is near 1.
    assert!(fit(&[[0.0, 0.0, 0.0], [20.0, 60.0, 0.0]], 3.0, true)?.0);
    // Rows without negatives, and anchors of zeros, are left out.
    let rows = [
        [NONE, 2.0, 0.0],
        [10.0, 10.0, -1.0],
        [5.0, 5.0, NONE],
        [f32::NAN, f32::NAN, 0.0],
    ];
    assert_eq!(fit(&rows, 3.0, true)?, (true, 23.0));
    assert_eq!(fit(&[[NONE, 2.0, 0.0]], 3.0, true)?, (true, 112.0));
    // Without a bound each row has its own offset already.
    assert_eq!(fit(&[[500.0, 503.0, 0.0]], 9.0, false)?, (true, 32.0));
    // The shift is limited to powers of two that are normal f32.
    assert_eq!(fit(&[[0.0, 300.0, 0.0]], 3.0, true)?, (true, 112.0));
    Ok(())
}
