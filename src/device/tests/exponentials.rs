//! How far off gradients are, in f32, from inputs of 16 bits: what tiles round, and whatever the logits.

use half::{bf16, f16};

use super::super::params::FitParams;
use super::super::{Floats, Similarity};
use super::{contrasts, engine};
use crate::contrast::Contrast;
use crate::element::Element;
use crate::engine::{Engine, Gradients};
use crate::error::Error;
use crate::host::{HostDevice, Schedule};
use crate::inputs::{Inputs, NO_POSITIVE, Positives, Problem};
use crate::losses::RowRule;
use crate::reference::{self, Dense};
use crate::rows::{Rows, RowsMut};

/// Unit rows whose cosine with the first axis is `along(row)`, in all other directions at random.
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

/// ‖x - y‖ / ‖y‖.
fn relative_error(values: &[f32], expected: &Dense) -> f64 {
    let square = |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|x| x * x).sum::<f64>();
    let expected = expected.as_slice();
    let differences = values.iter().zip(expected);
    let off = square(&mut differences.map(|(x, y)| f64::from(*x) - y));
    (off / square(&mut expected.iter().copied())).sqrt()
}

/// The errors of dq and, where the loss has it, of dk, of value_and_grad and of backward, by the portable kernels
/// and by those for sm_90a.
fn errors<T: Element>(problem: &Problem<Rows<'_, T>>) -> Result<Vec<(String, f64)>, Error> {
    let matrices = problem.matrices();
    let own_keys = matrices.own_keys.unwrap_or(matrices.anchors);
    let exact = [matrices.anchors, matrices.candidates, own_keys].map(Dense::from_rows);
    let exact = problem.try_map(
        |name, _| {
            Ok(match name {
                "k" | "queue" => &exact[1],
                "own_key" => &exact[2],
                _ => &exact[0],
            })
        },
        |&index| Ok(index),
        |scale| Ok(f64::from(scale[0])),
    )?;
    let expected = reference::value_and_grad(&exact, 1.0);
    let dim = problem.shape().dim;
    let mut errors = Vec::new();
    for hopper in [false, true] {
        for verb in ["value_and_grad", "backward"] {
            let engine = engine(Schedule::Mixed, 3, hopper);
            let mut dq = vec![f32::NAN; expected.dq.as_slice().len()];
            let mut dk = expected
                .dk
                .as_ref()
                .map(|dk| vec![f32::NAN; dk.as_slice().len()]);
            let rows = |numbers| {
                let numbers: &mut Vec<f32> = numbers;
                let rows = numbers.len() / dim;
                RowsMut::new(numbers, rows, dim)
            };
            let gradients = Gradients::new(rows(&mut dq)?, dk.as_mut().map(rows).transpose()?);
            if verb == "backward" {
                let statistics = engine.forward(problem)?.statistics;
                engine.backward(problem, &statistics, 1.0, gradients)?;
            } else {
                engine.value_and_grad(problem, 1.0, gradients)?;
            }
            let path = if hopper { "sm_90a" } else { "portable" };
            errors.push((
                format!("{path} {verb} dq"),
                relative_error(&dq, &expected.dq),
            ));
            if let (Some(dk), Some(expected)) = (&dk, &expected.dk) {
                errors.push((format!("{path} {verb} dk"), relative_error(dk, expected)));
            }
        }
    }
    Ok(errors)
}

#[test]
fn gradients_of_f16_have_its_digits_whatever_the_logits() -> Result<(), Error> {
    // Longer than fused kernels take; two chunks of anchors, with the budget of the engine.
    const DIM: usize = 272;
    const ANCHORS: usize = 140;
    const CANDIDATES: usize = 300;
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
        // In f16 the exponentials are all right, but not the anchors times their factors.
        (
            "rows from -14 to 14",
            9.6,
            |i| 1.0 - (i % 128) as f32 / 63.5,
            |_| 0.98,
        ),
        // The second chunk's.
        (
            "rows near 0, then -18",
            14.3,
            |i| if i < 128 { 0.0 } else { -0.95 },
            |_| 0.95,
        ),
        ("no bound", 100.0, |i| 0.7 - i as f32 / 100.0, |_| 0.9),
        ("a small scale", 0.5, |i| 1.0 - i as f32 / 70.0, |_| 0.9),
    ];
    let index: Vec<u32> = (0..ANCHORS).map(|i| (i * i % 50) as u32).collect();
    // The exponentials know nothing of positives: each case has one kind, its neighbours the other.
    let positives = [Positives::DIAGONAL, Positives::Index(index.as_slice())];
    for (case, positives) in cases.into_iter().zip(positives.iter().cycle()) {
        let (name, scale, of_anchors, of_candidates) = case;
        let contrast = Contrast::info_nce(1.0 / scale)?;
        let q = rows::<f16>(ANCHORS, DIM, 1, of_anchors);
        let k = rows::<f16>(CANDIDATES, DIM, 2, of_candidates);
        let problem = contrast.on(Inputs::Pair {
            q: Rows::new(&q, ANCHORS, DIM)?,
            k: Rows::new(&k, CANDIDATES, DIM)?,
            positives: *positives,
        })?;
        for (what, error) in errors(&problem)? {
            assert!(
                error < 2e-4,
                "{name}, {positives:?}: {what} is off by {error:.1e}"
            );
        }
    }
    Ok(())
}

#[test]
fn gradients_of_f16_have_its_digits_where_candidates_differ_in_length() -> Result<(), Error> {
    const DIM: usize = 272;
    const ANCHORS: usize = 60;
    const CANDIDATES: usize = 300;
    let contrast = Contrast::info_nce(1.0 / 19.75)?;
    // The positives and others are short; the long ones' exponentials are below 2^-24 with one offset.
    const SHORT: usize = CANDIDATES / 2;
    for length in [0.0, 1.0 / 64.0] {
        let q = rows::<f16>(ANCHORS, DIM, 1, |_| 1.0);
        let mut k = rows::<f16>(CANDIDATES, DIM, 2, |i| if i < SHORT { 0.0 } else { -0.42 });
        for x in &mut k[..SHORT * DIM] {
            *x = f16::from_f32(x.to_f32() * length);
        }
        let (q, k) = (
            Rows::new(&q, ANCHORS, DIM)?,
            Rows::new(&k, CANDIDATES, DIM)?,
        );
        for (what, error) in errors(&contrast.on(Inputs::pair(q, k))?)? {
            assert!(error < 2e-4, "{length}: {what} is off by {error:.1e}");
        }
    }
    Ok(())
}

#[test]
fn no_gradient_holds_a_rounded_positive() -> Result<(), Error> {
    const ANCHORS: usize = 70;
    const CANDIDATES: usize = 150;
    // Of both paths, every class of D that is fused, and one that is not.
    for dim in [40, 100, 200, 300] {
        let q = rows::<bf16>(ANCHORS, dim, 1, |_| 0.0);
        let k = rows::<bf16>(CANDIDATES, dim, 2, |_| 0.0);
        let own = rows::<bf16>(ANCHORS, dim, 3, |_| 0.0);
        let q = Rows::new(&q, ANCHORS, dim)?;
        let candidates = Rows::new(&k, CANDIDATES, dim)?;
        let own_key = Rows::new(&own, ANCHORS, dim)?;
        let index: Vec<u32> = (0..ANCHORS).map(|i| (i * i % 50) as u32).collect();
        let mut some = index.clone();
        some[3..9].fill(NO_POSITIVE);
        let info_nce = Contrast::info_nce(0.1)?;
        let losses = contrasts()?.map(|contrast| (contrast, Positives::DIAGONAL));
        let others = [
            Positives::Index(index.as_slice()),
            Positives::Index(some.as_slice()),
            Positives::Offset(-7),
            Positives::Offset(100),
        ]
        .map(|positives| (info_nce, positives));
        for (contrast, positives) in losses.into_iter().chain(others) {
            // As many candidates as anchors where columns have a loss.
            let k = if contrast.has_columns() {
                own_key
            } else {
                candidates
            };
            let problem = contrast.pose([q, k, own_key], positives)?;
            for (what, error) in errors(&problem)? {
                let name = contrast.name();
                assert!(
                    error < 6e-4,
                    "{name}, {positives:?}, D = {dim}: {what} is off by {error:.1e}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn gradients_of_every_rule_have_the_digits_of_their_type() -> Result<(), Error> {
    const ANCHORS: usize = 70;
    const CANDIDATES: usize = 150;
    for dim in [40, 100, 300] {
        let q = rows::<f16>(ANCHORS, dim, 1, |_| 0.3);
        let k = rows::<f16>(CANDIDATES, dim, 2, |_| 0.4);
        let own = rows::<f16>(ANCHORS, dim, 3, |_| 0.4);
        let q = Rows::new(&q, ANCHORS, dim)?;
        let candidates = Rows::new(&k, CANDIDATES, dim)?;
        let own_key = Rows::new(&own, ANCHORS, dim)?;
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
                let k = if contrast.has_columns() {
                    own_key
                } else {
                    candidates
                };
                let problem = contrast.pose([q, k, own_key], Positives::DIAGONAL)?;
                for (what, error) in errors(&problem)? {
                    let name = contrast.name();
                    assert!(
                        error < 2e-4,
                        "{name}, {rule:?}, D = {dim}: {what} is off by {error:.1e}"
                    );
                }
            }
        }
    }
    Ok(())
}

/// A row of the statistics that `fit_exponentials` judges, in base 2: lse⁻, lse and log2 of the anchor's length.
type Row = [f32; 3];

/// Whether exponentials with the offset stay, and the shift of the anchors' rows. `lengths`: of candidates, how many
/// powers of two they are apart.
fn fit_of(rows: &[Row], offset: f32, holds: bool, lengths: f32) -> Result<(bool, f32), Error> {
    let device = HostDevice::new(Schedule::Late, 1, 3);
    let similarity = Similarity::new(&device, 0);
    let column = |of: &dyn Fn(&Row) -> f32| -> Result<Floats<HostDevice>, Error> {
        Floats::written(&device, &rows.iter().map(of).collect::<Vec<_>>())
    };
    let negatives_lse = column(&|row| row[0] * std::f32::consts::LN_2)?;
    let offset2 = column(&|row| row[1])?;
    let square_norms = column(&|row| (2.0 * row[2]).exp2())?;
    let bound = [f32::from_bits(u32::from(holds)), offset, lengths, 0.0];
    let bound = Floats::written(&device, &bound)?;
    let (fit, shift) = (similarity.floats(1)?, similarity.floats(2)?);
    let params = FitParams {
        negatives_lse: negatives_lse.address(),
        offset2: offset2.address(),
        square_norms: square_norms.address(),
        rows: rows.len() as u32,
        // Of 2^10 candidates.
        lowest: -4.0,
        range: 24.0,
        padding: 0,
        bound: bound.address(),
        fit: fit.address(),
        shift: shift.address(),
    };
    similarity.launch_block("fit_exponentials", &params)?;
    let shift = shift.read(&device)?;
    assert_eq!(shift[0].exp2(), shift[1]);
    Ok((fit.read(&device)?[0].to_bits() == 1, shift[0]))
}

/// With candidates of one length.
fn fit(rows: &[Row], offset: f32, holds: bool) -> Result<(bool, f32), Error> {
    fit_of(rows, offset, holds, 0.0)
}

#[test]
fn one_offset_serves_f16_where_sums_and_folded_rows_are_in_its_reach() -> Result<(), Error> {
    const NONE: f32 = f32::NEG_INFINITY;
    // Sums of 2^7; the row times its factor is 2^(3 - 10 - 1) long, and to be 2^15.
    assert_eq!(fit(&[[10.0, 10.0, -1.0]], 3.0, true)?, (true, 23.0));
    // The mean of 2^10 exponentials is 2^-14, or below.
    assert!(fit(&[[-0.9, 10.0, 0.0], [20.0, 20.0, 0.0]], 3.0, true)?.0);
    let rows = [[-1.1, 10.0, 0.0], [20.0, 20.0, 0.0]];
    let (fits, shift) = fit(&rows, 3.0, true)?;
    assert!(!fits);
    // Then rows are 2^-14 of their σ, which is 1 of the second.
    assert_eq!(shift, 29.0);
    // A quarter of the length needs four times as large exponentials.
    assert!(fit_of(&[[1.1, 10.0, 0.0]], 3.0, true, 2.0)?.0);
    assert!(!fit_of(&[[0.9, 10.0, 0.0]], 3.0, true, 2.0)?.0);
    assert!(!fit_of(&[[9.0, 10.0, 0.0]], 3.0, true, f32::INFINITY)?.0);
    // Folded rows of the same σ, 2^24 apart or more.
    assert!(fit(&[[0.0, 0.0, 0.0], [23.9, 23.9, 0.0]], 3.0, true)?.0);
    assert!(!fit(&[[0.0, 0.0, 0.0], [24.1, 24.1, 0.0]], 3.0, true)?.0);
    assert!(!fit(&[[0.0, 0.0, 1.0], [23.9, 23.9, 0.0]], 3.0, true)?.0);
    // A row may be shorter where its σ is.
    assert!(fit(&[[0.0, 0.0, 0.0], [20.0, 60.0, 0.0]], 3.0, true)?.0);
    // Rows without negatives, and rows of zeros, say nothing.
    let rows = [
        [NONE, 2.0, 0.0],
        [10.0, 10.0, -1.0],
        [5.0, 5.0, NONE],
        [f32::NAN, f32::NAN, 0.0],
    ];
    assert_eq!(fit(&rows, 3.0, true)?, (true, 23.0));
    assert_eq!(fit(&[[NONE, 2.0, 0.0]], 3.0, true)?, (true, 112.0));
    // Without a bound offsets are those of rows already.
    assert_eq!(fit(&[[500.0, 503.0, 0.0]], 9.0, false)?, (true, 32.0));
    // Beyond the shifts that are normal numbers.
    assert_eq!(fit(&[[0.0, 300.0, 0.0]], 3.0, true)?, (true, 112.0));
    Ok(())
}
