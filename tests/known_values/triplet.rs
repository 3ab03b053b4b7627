//! The triplet loss on small whole numbers, whose sums are exact in every type.

use infonce::{Gradients, Reduction, Triplet, Triplets};

use super::*;

pub(super) fn promises<E: Engine>() -> [(&'static str, Promise<E>); 4] {
    [
        (
            "triplets have the loss and gradients of a sum by hand",
            by_hand,
        ),
        ("triplets of one matrix have one gradient", one_matrix),
        ("a triplet at the hinge has no gradient", at_the_hinge),
        (
            "what is not finite in a triplet makes its loss NaN",
            not_finite,
        ),
    ]
}

/// The loss, dq and dk (empty where there is no k) for rows of one or two elements.
fn triplet<E: Engine, T: Element>(
    engine: &E,
    loss: Triplet,
    [q, k]: [&Dense; 2],
    [positives, negatives]: [&[u32]; 2],
    accumulate: bool,
) -> Result<(f32, Vec<f32>, Vec<f32>), Error> {
    let numbers = [q, k].map(rounded::<T>);
    let has_k = k.rows() > 0;
    let view = |which: usize, of: &Dense| Rows::new(&numbers[which], of.rows(), of.dim());
    let problem = loss.on(Triplets {
        q: view(0, q)?,
        k: if has_k { Some(view(1, k)?) } else { None },
        positives,
        negatives,
    })?;
    let mut gradients = poisoned::<T>(problem.shape(), has_k);
    if accumulate {
        gradients.dq.fill(T::from_f32(1.0));
        gradients
            .dk
            .iter_mut()
            .for_each(|dk| dk.fill(T::from_f32(1.0)));
        gradients = gradients.accumulating();
    }
    let value = OnHost(engine).triplet(&problem, 3.0, &mut gradients)?;
    let Gradients { dq, dk, .. } = gradients;
    Ok((
        value,
        widened(&dq),
        dk.map(|dk| widened(&dk)).unwrap_or_default(),
    ))
}

const NONE: u32 = NO_POSITIVE;

fn absent() -> Dense {
    Dense::from_fn(0, 1, |_, _| 0.0)
}

/// One element a row, margin 1: the anchors 0, 1, 3, 5 and candidates 2, 4, -1. Anchor 0 has 1 + 4 − 1 = 4 (positive 2,
/// negative −1), anchor 1 has 1 + 9 − 1 = 9 (positive 4, negative 2), anchor 3 has 1 + 1 − 16 < 0, and anchor 5 none.
fn by_hand<E: Engine>(new: New<E>) -> Result<(), Error> {
    fn check<E: Engine, T: Element>(engine: &E) -> Result<(), Error> {
        let q = matrix(&[[0.0], [1.0], [3.0], [5.0]]);
        let k = matrix(&[[2.0], [4.0], [-1.0]]);
        let index: [&[u32]; 2] = [&[0, 1, 0, NONE], &[2, 0, 2, 1]];
        let sum = Triplet::new(1.0)?.with_reduction(Reduction::Sum);
        // 2·upstream = 6 times k₋ − k₊: −3 and −2; times Σ (k − q) − Σ: (2 − 0) − (2 − 1), 4 − 1, −(−1 − 0).
        let expected = |before: f32, factor: f32| {
            let times = |x: &[f32]| x.iter().map(|x| before + factor * x).collect::<Vec<f32>>();
            (times(&[-3.0, -2.0, 0.0, 0.0]), times(&[1.0, 3.0, 1.0]))
        };
        for accumulate in [false, true] {
            let before = f32::from(u8::from(accumulate));
            let (loss, dq, dk) = triplet::<E, T>(engine, sum, [&q, &k], index, accumulate)?;
            assert_eq!((loss, (dq, dk)), (13.0, expected(before, 6.0)));
            let mean = Triplet::new(1.0)?;
            let (loss, dq, dk) = triplet::<E, T>(engine, mean, [&q, &k], index, accumulate)?;
            assert_eq!((loss, (dq, dk)), (3.25, expected(before, 1.5)));
        }
        Ok(())
    }
    let engine = &new()?;
    in_all_types!(check::<E>(engine));
    Ok(())
}

/// Rows 0, 2, −1 of one matrix: row 0 has 0.5 + 4 − 1, row 1 has 0.5 + 4 − 9 < 0, and row 2 has 0.5 + 1 − 9 < 0. So
/// dz is 2·upstream times −1 − 2, 2 − 0 and 0 − (−1).
fn one_matrix<E: Engine>(new: New<E>) -> Result<(), Error> {
    fn check<E: Engine, T: Element>(engine: &E) -> Result<(), Error> {
        let z = matrix(&[[0.0], [2.0], [-1.0]]);
        let index: [&[u32]; 2] = [&[1, 0, 0], &[2, 2, 1]];
        let sum = Triplet::new(0.5)?.with_reduction(Reduction::Sum);
        for accumulate in [false, true] {
            let before = f32::from(u8::from(accumulate));
            let found = triplet::<E, T>(engine, sum, [&z, &absent()], index, accumulate)?;
            let dz = [-18.0, 12.0, 6.0].map(|x| before + x);
            assert_eq!(found, (3.5, dz.to_vec(), vec![]));
        }
        Ok(())
    }
    let engine = &new()?;
    in_all_types!(check::<E>(engine));
    Ok(())
}

fn at_the_hinge<E: Engine>(new: New<E>) -> Result<(), Error> {
    fn check<E: Engine, T: Element>(engine: &E) -> Result<(), Error> {
        // 3 + 1 − 4 = 0, without any rounding; and 4 + 1 − 4 > 0.
        let (q, k) = (matrix(&[[0.0, 0.0]]), matrix(&[[1.0, 0.0], [0.0, 2.0]]));
        let index: [&[u32]; 2] = [&[0], &[1]];
        for (margin, loss, gradient) in [(3.0, 0.0, 0.0), (4.0, 1.0, 6.0)] {
            let margin = Triplet::new(margin)?;
            let (found, dq, dk) = triplet::<E, T>(engine, margin, [&q, &k], index, false)?;
            assert_eq!((found, dq[0].abs(), dk[0]), (loss, gradient, gradient));
        }
        Ok(())
    }
    let engine = &new()?;
    in_all_types!(check::<E>(engine));
    Ok(())
}

fn not_finite<E: Engine>(new: New<E>) -> Result<(), Error> {
    fn check<E: Engine, T: Element>(engine: &E) -> Result<(), Error> {
        let index: [&[u32]; 2] = [&[0, 0, NONE], &[1, 1, 2]];
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            // A row of the second triplet; anchor 2 is left out, and no triplet names candidate 2.
            for (row, is_named) in [(1, true), (2, false), (3, true), (4, true), (5, false)] {
                let rows = Dense::from_fn(6, 2, |i, d| match i == row && d == 1 {
                    true => bad,
                    false => [0.0, 1.0, 9.0, 1.0, 9.0, 1.0][i],
                });
                let q = Dense::from_fn(3, 2, |i, d| rows.row(i)[d]);
                let k = Dense::from_fn(3, 2, |j, d| rows.row(3 + j)[d]);
                let margin = Triplet::default();
                let (loss, dq, _) = triplet::<E, T>(engine, margin, [&q, &k], index, false)?;
                assert_eq!(loss.is_nan(), is_named, "{bad} in row {row}");
                let problem = margin.on(Triplets {
                    q: &q,
                    k: Some(&k),
                    positives: index[0],
                    negatives: index[1],
                })?;
                assert_eq!(reference::triplet(&problem, 1.0).loss.is_nan(), is_named);
                assert_eq!(dq[4..], [0.0, 0.0]);
            }
        }
        Ok(())
    }
    let engine = &new()?;
    in_all_types!(check::<E>(engine));
    Ok(())
}
