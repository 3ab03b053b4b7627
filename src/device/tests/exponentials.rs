//! Stored exponentials: how far off gradients in chunks are, whatever the logits, and when one offset of all
//! rows serves f16.

use half::{bf16, f16};

use crate::contrast::{Contrast, Inputs, Positives};
use crate::device::params::FitParams;
use crate::device::{Device, Launch};
use crate::element::Element;
use crate::engine::{Engine, Gradients};
use crate::error::Error;
use crate::host::{HostDevice, HostEngine, Schedule};
use crate::reference::{self, Dense};
use crate::rows::{Rows, RowsMut};

/// Longer than fused kernels take.
const DIM: usize = 272;
/// Two chunks of anchors, with the budget of `HostEngine`.
const ANCHORS: usize = 140;
const CANDIDATES: usize = 300;

/// Unit rows whose cosine with the first axis is `along(row)`, in all other directions at random.
fn rows<T: Element>(count: usize, seed: u32, along: impl Fn(usize) -> f32) -> Vec<T> {
    let mut state = seed;
    let mut number = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let mut all = Vec::with_capacity(count * DIM);
    for row in 0..count {
        let others: Vec<f32> = (1..DIM).map(|_| number()).collect();
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

/// The errors of dq and dk in f32 of both paths.
fn errors<T: Element>(contrast: &Contrast, q: &[T], k: &[T]) -> Result<[[f64; 2]; 2], Error> {
    let q = Rows::new(q, ANCHORS, DIM)?;
    let k = Rows::new(k, CANDIDATES, DIM)?;
    let (exact_q, exact_k) = (Dense::from_rows(q), Dense::from_rows(k));
    let exact = Inputs::Pair {
        q: &exact_q,
        k: &exact_k,
    };
    let expected = reference::value_and_grad(contrast, &exact, 1.0)?;
    let expected_dk = expected.dk.expect("InfoNCE has it");
    let of = |engine: HostEngine| -> Result<[f64; 2], Error> {
        let (mut dq, mut dk) = (vec![0.0f32; ANCHORS * DIM], vec![0.0f32; CANDIDATES * DIM]);
        let gradients = Gradients {
            dq: RowsMut::new(&mut dq, ANCHORS, DIM)?,
            dk: Some(RowsMut::new(&mut dk, CANDIDATES, DIM)?),
        };
        engine.value_and_grad(contrast, &Inputs::Pair { q, k }, 1.0, gradients)?;
        Ok([
            relative_error(&dq, &expected.dq),
            relative_error(&dk, &expected_dk),
        ])
    };
    let engine = || HostEngine::new(Schedule::Mixed, 3);
    Ok([of(engine())?, of(engine().with_hopper_kernels())?])
}

#[test]
fn gradients_of_f16_have_its_digits_whatever_the_logits() -> Result<(), Error> {
    type Along = fn(usize) -> f32;
    let cases: [(&str, f32, Along, Along); 8] = [
        ("directions at random", 14.3, |_| 0.0, |_| 0.0),
        ("logits near 18 in base 2", 14.3, |_| 0.95, |_| 0.95),
        ("logits near -18", 14.3, |_| 0.95, |_| -0.95),
        ("near -4", 14.3, |_| 0.5, |_| -0.4),
        (
            "rows near 18, -18 and 0",
            14.3,
            |i| [0.95, -0.95, 0.0][i % 3],
            |_| 0.95,
        ),
        (
            "rows that reach from -28 to 28",
            20.0,
            |i| 1.0 - i as f32 / 70.0,
            |_| 0.98,
        ),
        ("no bound", 100.0, |i| 0.7 - i as f32 / 100.0, |_| 0.9),
        ("a small scale", 0.5, |i| 1.0 - i as f32 / 70.0, |_| 0.9),
    ];
    let index: Vec<u32> = (0..ANCHORS).map(|i| (i * i % 50) as u32).collect();
    for positives in [Positives::Diagonal, Positives::Index(index.into())] {
        for (name, scale, of_anchors, of_candidates) in cases {
            let contrast = Contrast::info_nce(1.0 / scale, positives.clone())?;
            let q = rows::<f16>(ANCHORS, 1, of_anchors);
            let k = rows::<f16>(CANDIDATES, 2, of_candidates);
            for (path, [dq, dk]) in errors(&contrast, &q, &k)?.into_iter().enumerate() {
                println!("{name}, {positives:?}: {path} {dq:.1e} {dk:.1e}");
            }
        }
    }
    Ok(())
}

#[test]
fn the_rounding_of_the_positive_is_not_in_the_gradients() -> Result<(), Error> {
    let q = rows::<bf16>(ANCHORS, 1, |_| 0.0);
    let k = rows::<bf16>(CANDIDATES, 2, |_| 0.0);
    let contrast = Contrast::info_nce(0.07, Positives::Diagonal)?;
    for [dq, dk] in errors(&contrast, &q, &k)? {
        println!("{dq:.1e} {dk:.1e}");
    }
    Ok(())
}
