//! Values and gradients of losses.

use approx::assert_abs_diff_eq;
use infonce::losses::LogScale;

use super::*;

pub(super) fn promises<B: Backend>() -> [(&'static str, Promise<B>); 10] {
    [
        ("identical vectors give ln(2N-1)", identical_vectors),
        ("identical views are not 0", identical_views),
        ("an anchor leaves its own sum", own_sum),
        ("rows of zeros have finite gradients", zero_rows),
        (
            "rows that are not normalised give finite losses",
            unnormalised,
        ),
        ("a queue that holds the batch counts it", counted_twice),
        ("a smaller batch is computed as if alone", smaller_batch),
        ("positives lie in any layout", any_layout),
        ("candidates of a shard start at r*n", shards),
        ("swapped pairs at CLIP's largest scale lose 100", swapped),
    ]
}

/// The loss of the reference and of the engine, in type `T`.
fn loss_is<B: Backend, T: Element>(
    engine: &B,
    contrast: &Contrast,
    matrices: &[Dense],
    expected: f64,
    share: f64,
) -> Result<(), Error> {
    let what = format!(
        "{} of {} at {}",
        contrast.name(),
        T::DTYPE,
        contrast.scale()
    );
    let reference = reference_of::<T>(contrast, matrices)?;
    assert_near(
        reference.loss,
        expected,
        share,
        &format!("reference, {what}"),
    );
    let value = evaluate::<B, T>(engine, contrast, matrices)?;
    assert_near(value.loss, expected, share, &what);
    assert!(value.is_finite(), "{what}: {value:?}");
    Ok(())
}

fn identical_vectors<B: Backend>(new: New<B>) -> Result<(), Error> {
    let engine = &new()?;
    let equal = [Dense::from_fn(16, 2, |_, d| [0.6, 0.8][d])];
    for temperature in [0.01, 0.07, 0.5, 1.0, 20.0] {
        let contrast = &Contrast::nt_xent(temperature)?;
        in_all_types!(loss_is::<B>(engine, contrast, &equal, 2.708050, 1e-5));
    }
    Ok(())
}

fn identical_views<B: Backend>(new: New<B>) -> Result<(), Error> {
    let engine = &new()?;
    let views = [matrix(&[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])];
    for (temperature, expected) in [(1.0, 0.551445), (0.07, 1.24975e-6)] {
        let contrast = &Contrast::nt_xent(temperature)?;
        in_all_types!(loss_is::<B>(engine, contrast, &views, expected, 1e-5));
    }
    Ok(())
}

/// It is left out beforehand, not taken off afterwards: seen where rows are not normalised, so that
/// ⟨z_i, z_i⟩ is not 1.
fn own_sum<B: Backend>(new: New<B>) -> Result<(), Error> {
    const STEP: f64 = 1e-5;
    let engine = &new()?;
    let contrast = Contrast::nt_xent(0.5)?;
    loss_is::<B, f32>(engine, &contrast, &[two_views()], 0.430190, 2e-6)?;

    let z = randn(6, 3, 1);
    let value = evaluate::<B, f32>(engine, &contrast, std::slice::from_ref(&z))?;
    for (place, &found) in value.dq.iter().enumerate() {
        let at = |step: f64| {
            let mut moved = z.clone();
            moved.as_mut_slice()[place] += step;
            reference::value_and_grad(&contrast, &Inputs::Shared { z: &moved }, 1.0)
        };
        let expected = (at(STEP)?.loss - at(-STEP)?.loss) / (2.0 * STEP);
        assert_abs_diff_eq!(f64::from(found), expected, epsilon = 1e-5);
    }
    Ok(())
}

fn zero_rows<B: Backend>(new: New<B>) -> Result<(), Error> {
    fn check<B: Backend, T: Element>(engine: &B) -> Result<(), Error> {
        for (contrast, rows) in contrasts(0.07, 2, 4)? {
            // The first row of every matrix, then all of them.
            for zeros in [1, 4] {
                let with_zeros = |&rows: &usize| {
                    let z = unit(&randn(rows, 5, rows as u64));
                    Dense::from_fn(rows, 5, |i, d| if i < zeros { 0.0 } else { z.row(i)[d] })
                };
                let matrices: Vec<Dense> = rows.iter().map(with_zeros).collect();
                let expected = reference_of::<T>(&contrast, &matrices)?.loss;
                loss_is::<B, T>(engine, &contrast, &matrices, expected, 1e-5)?;
            }
        }
        Ok(())
    }
    let engine = &new()?;
    in_all_types!(check::<B>(engine));
    Ok(())
}

/// Logits reach hundreds, so a softmax without an offset overflows.
fn unnormalised<B: Backend>(new: New<B>) -> Result<(), Error> {
    fn check<B: Backend, T: Element>(engine: &B) -> Result<(), Error> {
        for (contrast, rows) in contrasts(0.07, 24, 48)? {
            let seeds = rows.iter().zip(2..);
            let matrices: Vec<Dense> = seeds.map(|(&rows, seed)| randn(rows, 128, seed)).collect();
            let expected = reference_of::<T>(&contrast, &matrices)?.loss;
            assert!(expected > 100.0, "{}: {expected}", contrast.name());
            loss_is::<B, T>(engine, &contrast, &matrices, expected, 1e-5)?;
        }
        Ok(())
    }
    let engine = &new()?;
    in_all_types!(check::<B>(engine));
    Ok(())
}

/// There are no ids by which a queue's key could be told to be the anchor's own.
fn counted_twice<B: Backend>(new: New<B>) -> Result<(), Error> {
    let engine = &new()?;
    let batch = matrix(&[[1.0, 0.0], [0.0, 1.0]]);
    let matrices = [batch.clone(), batch.clone(), batch];
    let contrast = &Contrast::moco(0.5)?;
    // Logits 2 of the own key, 2 and 0 of the queue: ln(2 + e⁻²), where leaving it out gave ln(1 + e⁻²).
    in_all_types!(loss_is::<B>(engine, contrast, &matrices, 0.758_626, 1e-5));
    Ok(())
}

fn smaller_batch<B: Backend>(new: New<B>) -> Result<(), Error> {
    fn check<B: Backend, T: Element>(new: New<B>) -> Result<(), Error> {
        let batch = |rows: &[usize]| -> Vec<Dense> {
            let seeds = rows.iter().zip(5..);
            seeds
                .map(|(&rows, seed)| unit(&randn(rows, 24, seed)))
                .collect()
        };
        let [large, small] = [contrasts(0.07, 128, 128)?, contrasts(0.07, 32, 32)?];
        for ((large, large_rows), (small, small_rows)) in large.iter().zip(&small) {
            let engine = new()?;
            for (contrast, rows) in [(large, large_rows), (small, small_rows)] {
                let batch = batch(rows);
                let found = evaluate::<B, T>(&engine, contrast, &batch)?;
                let alone = evaluate::<B, T>(&new()?, contrast, &batch)?;
                assert!(found.is_finite());
                assert_eq!(found, alone, "{} of {}", contrast.name(), T::DTYPE);
            }
        }
        Ok(())
    }
    in_all_types!(check::<B>(new));
    Ok(())
}

/// Candidates P, N, N, P, N, N of two anchors: the loss and the gradients of P, P, N, N, N, N.
fn any_layout<B: Backend>(new: New<B>) -> Result<(), Error> {
    fn check<B: Backend, T: Element>(engine: &B) -> Result<(), Error> {
        let (q, k) = (unit(&randn(2, 8, 3)), unit(&randn(6, 8, 4)));
        let order = [0, 3, 1, 2, 4, 5];
        let sorted = Dense::from_fn(6, 8, |j, d| k.row(order[j])[d]);
        let by_index = Contrast::info_nce(0.5, Positives::Index(vec![0, 3].into()))?;
        let diagonal = Contrast::info_nce(0.5, Positives::Diagonal)?;
        let expected = reference_of::<T>(&diagonal, &[q.clone(), sorted.clone()])?;
        let matrices = [q, k];
        loss_is::<B, T>(engine, &by_index, &matrices, expected.loss, 1e-5)?;

        let value = evaluate::<B, T>(engine, &by_index, &matrices)?;
        let expected_dk = expected.dk.as_ref().map_or(&[][..], Dense::as_slice);
        let sorted_dk = order.iter().flat_map(|&j| &value.dk[j * 8..][..8]);
        let found = value.dq.iter().chain(sorted_dk);
        let expected = expected.dq.as_slice().iter().chain(expected_dk);
        // Weights and gradients are rounded to `T`.
        let allowed = f64::from(4.0 * T::EPSILON).max(1e-6);
        assert_eq!((value.dq.len(), value.dk.len()), (16, 48));
        for (&found, &expected) in found.zip(expected) {
            assert_abs_diff_eq!(f64::from(found), expected, epsilon = allowed);
        }
        Ok(())
    }
    let engine = &new()?;
    in_all_types!(check::<B>(engine));
    Ok(())
}

/// Rank r has n anchors and sees the candidates of all ranks; its positives are an index that starts at
/// r·n, and its anchors are a part of the whole matrix, where they lie.
fn shards<B: Backend>(new: New<B>) -> Result<(), Error> {
    let engine = &new()?;
    let (ranks, n, dim) = (3, 4, 8);
    let (q, k) = (
        unit(&randn(ranks * n, dim, 6)),
        unit(&randn(ranks * n, dim, 7)),
    );
    let whole = Contrast::info_nce(0.5, Positives::Diagonal)?;
    let expected = reference_of::<f32>(&whole, &[q.clone(), k.clone()])?;
    let (q, k) = (rounded::<f32>(&q), rounded::<f32>(&k));
    let (mut loss, mut dq, mut dk) = (0.0, Vec::new(), vec![0.0; k.len()]);
    for r in 0..ranks {
        let positives: Vec<u32> = (r * n..(r + 1) * n).map(|i| i as u32).collect();
        let contrast = Contrast::info_nce(0.5, Positives::Index(positives.into()))?;
        let inputs = Inputs::Pair {
            q: Rows::new(&q[r * n * dim..(r + 1) * n * dim], n, dim)?,
            k: Rows::new(&k, ranks * n, dim)?,
        };
        let (mut own_dq, mut own_dk) = (vec![f32::NAN; n * dim], vec![f32::NAN; k.len()]);
        let gradients = Gradients {
            dq: RowsMut::new(&mut own_dq, n, dim)?,
            dk: Some(RowsMut::new(&mut own_dk, ranks * n, dim)?),
        };
        // Each rank has the mean of its own rows.
        let share = 1.0 / ranks as f32;
        loss += share
            * engine
                .value_and_grad(&contrast, &inputs, share, gradients)?
                .loss;
        dq.extend(own_dq);
        for (dk, own_dk) in dk.iter_mut().zip(own_dk) {
            *dk += own_dk;
        }
    }
    assert_near(loss, expected.loss, 1e-6, "loss");
    let expected_dk = expected.dk.as_ref().map_or(&[][..], Dense::as_slice);
    let expected = expected.dq.as_slice().iter().chain(expected_dk);
    assert_eq!(expected.clone().count(), dq.len() + dk.len());
    for (&found, &expected) in dq.iter().chain(&dk).zip(expected) {
        assert_abs_diff_eq!(f64::from(found), expected, epsilon = 1e-6);
    }
    Ok(())
}

fn swapped<B: Backend>(new: New<B>) -> Result<(), Error> {
    let engine = &new()?;
    let matrices = [
        matrix(&[[1.0, 0.0], [0.0, 1.0]]),
        matrix(&[[0.0, 1.0], [1.0, 0.0]]),
    ];
    let mut log_scale = LogScale::from_temperature(0.07)?;
    log_scale.step(10.0);
    let contrast = &log_scale.contrast()?;
    in_all_types!(loss_is::<B>(engine, contrast, &matrices, 100.0, 1e-6));
    Ok(())
}
