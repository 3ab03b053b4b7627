//! Values and gradients of losses.

use approx::assert_abs_diff_eq;
use infonce::Inputs;
use infonce::losses::LogScale;

use super::*;

pub(super) fn promises<E: Engine>() -> [(&'static str, Promise<E>); 10] {
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
fn loss_is<E: Engine, T: Element>(
    engine: &E,
    kind: &Kind,
    matrices: &[Dense],
    expected: f64,
    share: f64,
) -> Result<(), Error> {
    let what = format!("{} of {}", kind.name(), T::DTYPE);
    let reference = reference_of::<T>(kind, matrices)?;
    assert_near(
        reference.loss,
        expected,
        share,
        &format!("reference, {what}"),
    );
    let value = evaluate::<E, T>(engine, kind, matrices)?;
    assert_near(value.loss, expected, share, &what);
    assert!(value.is_finite(), "{what}: {value:?}");
    Ok(())
}

fn identical_vectors<E: Engine>(new: New<E>) -> Result<(), Error> {
    let engine = &new()?;
    let equal = [Dense::from_fn(16, 2, |_, d| [0.6, 0.8][d])];
    for temperature in [0.01, 0.07, 0.5, 1.0, 20.0] {
        let kind = &Kind::new(Contrast::nt_xent(temperature)?, &[16]);
        in_all_types!(loss_is::<E>(engine, kind, &equal, 2.708050, 1e-5));
    }
    Ok(())
}

fn identical_views<E: Engine>(new: New<E>) -> Result<(), Error> {
    let engine = &new()?;
    let views = [matrix(&[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])];
    for (temperature, expected) in [(1.0, 0.551445), (0.07, 1.24975e-6)] {
        let kind = &Kind::new(Contrast::nt_xent(temperature)?, &[4]);
        in_all_types!(loss_is::<E>(engine, kind, &views, expected, 1e-5));
    }
    Ok(())
}

/// exp z_ii is left out of the sum, not subtracted from it. Rows are not normalised, so that ⟨z_i, z_i⟩ is not 1.
fn own_sum<E: Engine>(new: New<E>) -> Result<(), Error> {
    const STEP: f64 = 1e-5;
    let engine = &new()?;
    let kind = Kind::new(Contrast::nt_xent(0.5)?, &[4]);
    loss_is::<E, f32>(engine, &kind, &[two_views()], 0.430190, 2e-6)?;

    let z = randn(6, 3, 1);
    let value = evaluate::<E, f32>(engine, &kind, std::slice::from_ref(&z))?;
    for (place, &found) in value.dq.iter().enumerate() {
        let at = |step: f64| {
            let mut moved = z.clone();
            moved.as_mut_slice()[place] += step;
            let problem = kind.contrast.on(Inputs::Shared { z: &moved })?;
            Ok::<f64, Error>(reference::value_and_grad(&problem, 1.0).loss)
        };
        let expected = (at(STEP)? - at(-STEP)?) / (2.0 * STEP);
        assert_abs_diff_eq!(f64::from(found), expected, epsilon = 1e-5);
    }
    Ok(())
}

fn zero_rows<E: Engine>(new: New<E>) -> Result<(), Error> {
    fn check<E: Engine, T: Element>(engine: &E) -> Result<(), Error> {
        for kind in kinds(0.07, 2, 4)? {
            // The first row of every matrix, then all of them.
            for zeros in [1, 4] {
                let with_zeros = |&rows: &usize| {
                    let z = unit(&randn(rows, 5, rows as u64));
                    Dense::from_fn(rows, 5, |i, d| if i < zeros { 0.0 } else { z.row(i)[d] })
                };
                let matrices: Vec<Dense> = kind.rows.iter().map(with_zeros).collect();
                let expected = reference_of::<T>(&kind, &matrices)?.loss;
                loss_is::<E, T>(engine, &kind, &matrices, expected, 1e-5)?;
            }
        }
        Ok(())
    }
    let engine = &new()?;
    in_all_types!(check::<E>(engine));
    Ok(())
}

/// Logits reach hundreds, so a softmax without an offset overflows.
fn unnormalised<E: Engine>(new: New<E>) -> Result<(), Error> {
    fn check<E: Engine, T: Element>(engine: &E) -> Result<(), Error> {
        for kind in kinds(0.07, 24, 48)? {
            let seeds = kind.rows.iter().zip(2..);
            let matrices: Vec<Dense> = seeds.map(|(&rows, seed)| randn(rows, 128, seed)).collect();
            let expected = reference_of::<T>(&kind, &matrices)?.loss;
            assert!(expected > 100.0, "{}: {expected}", kind.name());
            loss_is::<E, T>(engine, &kind, &matrices, expected, 1e-5)?;
        }
        Ok(())
    }
    let engine = &new()?;
    in_all_types!(check::<E>(engine));
    Ok(())
}

/// Keys have no ids, so a copy of an anchor's own key in the queue is a negative.
fn counted_twice<E: Engine>(new: New<E>) -> Result<(), Error> {
    let engine = &new()?;
    let batch = matrix(&[[1.0, 0.0], [0.0, 1.0]]);
    let matrices = [batch.clone(), batch.clone(), batch];
    let kind = &Kind::new(Contrast::moco(0.5)?, &[2, 2, 2]);
    // The own key has logit 2, the queue 2 and 0: ln(2 + e⁻²). Without the copy it would be ln(1 + e⁻²).
    in_all_types!(loss_is::<E>(engine, kind, &matrices, 0.758_626, 1e-5));
    Ok(())
}

fn smaller_batch<E: Engine>(new: New<E>) -> Result<(), Error> {
    fn check<E: Engine, T: Element>(new: New<E>) -> Result<(), Error> {
        let [large, small] = [kinds(0.07, 128, 128)?, kinds(0.07, 32, 32)?];
        for pair in large.iter().zip(&small) {
            let engine = new()?;
            for kind in [pair.0, pair.1] {
                let batch = kind.unit_rows(24, 5);
                let found = evaluate::<E, T>(&engine, kind, &batch)?;
                let alone = evaluate::<E, T>(&new()?, kind, &batch)?;
                assert!(found.is_finite());
                assert_eq!(found, alone, "{} of {}", kind.name(), T::DTYPE);
            }
        }
        Ok(())
    }
    in_all_types!(check::<E>(new));
    Ok(())
}

/// Candidates P, N, N, P, N, N of two anchors: the loss and the gradients of P, P, N, N, N, N.
fn any_layout<E: Engine>(new: New<E>) -> Result<(), Error> {
    fn check<E: Engine, T: Element>(engine: &E) -> Result<(), Error> {
        let (q, k) = (unit(&randn(2, 8, 3)), unit(&randn(6, 8, 4)));
        let order = [0, 3, 1, 2, 4, 5];
        let sorted = Dense::from_fn(6, 8, |j, d| k.row(order[j])[d]);
        let info_nce = Contrast::info_nce(0.5)?;
        let by_index = Kind::by_index(info_nce, &[2, 6], vec![0, 3]);
        let diagonal = Kind::new(info_nce, &[2, 6]);
        let expected = reference_of::<T>(&diagonal, &[q.clone(), sorted.clone()])?;
        let matrices = [q, k];
        loss_is::<E, T>(engine, &by_index, &matrices, expected.loss, 1e-5)?;

        let value = evaluate::<E, T>(engine, &by_index, &matrices)?;
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
    in_all_types!(check::<E>(engine));
    Ok(())
}

/// Rank r has n anchors and sees the candidates of all ranks: its positives start at r·n.
fn shards<E: Engine>(new: New<E>) -> Result<(), Error> {
    let engine = &new()?;
    let (ranks, n, dim) = (3, 4, 8);
    let rows = ranks * n;
    let whole = Kind::new(Contrast::info_nce(0.5)?, &[rows, rows]);
    let matrices = whole.unit_rows(dim, 6);
    let expected = reference_of::<f32>(&whole, &matrices)?;
    let (mut loss, mut dq, mut dk) = (0.0, Vec::new(), vec![0.0; rows * dim]);
    for r in 0..ranks {
        let anchors = Dense::from_fn(n, dim, |i, d| matrices[0].row(r * n + i)[d]);
        let own = Kind {
            rows: vec![n, rows],
            positives: Positives::Offset((r * n) as i64),
            ..Kind::new(whole.contrast, &[])
        };
        let batch = Batch::<f32>::new(&[anchors, matrices[1].clone()]);
        let problem = batch.problem(&own)?;
        let mut gradients = poisoned::<f32>(problem.shape(), true);
        // A rank's loss is the mean over its own rows.
        let share = 1.0 / ranks as f32;
        let value = OnHost(engine).value_and_grad(&problem, share, &mut gradients)?;
        loss += share * value.loss;
        dq.extend(gradients.dq);
        for (dk, own_dk) in dk.iter_mut().zip(gradients.dk.unwrap_or_default()) {
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

fn swapped<E: Engine>(new: New<E>) -> Result<(), Error> {
    let engine = &new()?;
    let matrices = [
        matrix(&[[1.0, 0.0], [0.0, 1.0]]),
        matrix(&[[0.0, 1.0], [1.0, 0.0]]),
    ];
    let mut log_scale = LogScale::from_temperature(0.07)?;
    log_scale.step(10.0);
    let kind = &Kind::new(log_scale.contrast()?, &[2, 2]);
    in_all_types!(loss_is::<E>(engine, kind, &matrices, 100.0, 1e-6));
    Ok(())
}
