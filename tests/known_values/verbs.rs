//! Normalisation, the queue and top-k.

use approx::{abs_diff_eq, assert_abs_diff_eq};
use infonce::KeyQueue;

use super::*;

pub(super) fn promises<E: Engine>() -> [(&'static str, Promise<E>); 9] {
    [
        ("a row of zeros has a finite gradient", zero_row),
        ("a short row's gradient is kept if it fits", short_row),
        ("a longer row's gradient overflows visibly", long_row),
        ("a gradient that is not finite is not hidden", not_hidden),
        ("rows of any length become unit rows", any_length),
        (
            "the newest keys of a large batch keep order and labels",
            large_batch,
        ),
        ("the last of a row's keys moves it", last_key),
        ("the best of a set in itself are k others", others),
        ("scores that nearly tie come in order", near_ties),
    ]
}

const EPSILON: f32 = 1e-12;

/// y and the norm of one row.
fn normalized<E: Engine, T: Element>(engine: &E, x: &[f32]) -> Result<(Vec<f32>, f32), Error> {
    let x: Vec<T> = x.iter().map(|&x| T::from_f32(x)).collect();
    let x = Rows::new(&x, 1, x.len())?;
    let (y, norms) = OnHost(engine).normalize::<T, T>(x, EPSILON)?;
    Ok((widened(&y), norms[0]))
}

/// The first two elements of dx, for a row x and dy whose other elements are 0. Kernels have one path for D that is a
/// multiple of 4 and one for other D; both must give the same bits.
fn gradient<E: Engine, T: Element>(
    engine: &E,
    [first, second]: [f32; 2],
    [dy_first, dy_second]: [f32; 2],
) -> Result<[f32; 2], Error> {
    let mut found = Vec::new();
    for dim in [4, 7] {
        let wide = |first: f32, second: f32| -> Vec<f32> {
            let mut row = vec![0.0; dim];
            (row[0], row[1]) = (first, second);
            row
        };
        let (y, norm) = normalized::<E, T>(engine, &wide(first, second))?;
        let y: Vec<T> = y.into_iter().map(T::from_f32).collect();
        let dy: Vec<T> = wide(dy_first, dy_second)
            .into_iter()
            .map(T::from_f32)
            .collect();
        let (y, dy) = (Rows::new(&y, 1, dim)?, Rows::new(&dy, 1, dim)?);
        let dx = OnHost(engine).normalize_backward(y, &[norm], dy, EPSILON)?;
        let wide = |rows: Rows<'_, T>| Dense::from_rows(rows);
        let expected = reference::normalize_backward(
            &wide(y),
            &[f64::from(norm)],
            &wide(dy),
            f64::from(EPSILON),
            T::DTYPE,
        );
        let dx = [dx[0].to_f32(), dx[1].to_f32()];
        for (dx, &expected) in dx.iter().zip(expected.as_slice()) {
            let expected = T::from_f32(expected as f32).to_f32();
            let close = abs_diff_eq!(*dx, expected, epsilon = T::EPSILON * expected.abs());
            let same = *dx == expected || dx.is_nan() && expected.is_nan();
            assert!(same || close, "{} D = {dim}: {dx} for {expected}", T::DTYPE);
        }
        found.push(dx);
    }
    let bits = |dx: &[f32; 2]| dx.map(f32::to_bits);
    assert_eq!(bits(&found[0]), bits(&found[1]));
    Ok(found[0])
}

fn zero_row<E: Engine>(new: New<E>) -> Result<(), Error> {
    let engine = &new()?;
    // dy/ε is in the range of f32 and bf16, not in that of f16.
    let dy = [1.0, -0.001];
    let dx = gradient::<E, f32>(engine, [0.0, 0.0], dy)?;
    assert_eq!(dx, [1.0 / EPSILON, -0.001 / EPSILON]);
    let dx = gradient::<E, bf16>(engine, [0.0, 0.0], dy)?;
    assert!(dx[0] > 9e11 && dx[1] < -9e8 && dx[0] < 1.1e12, "{dx:?}");
    assert_eq!(gradient::<E, f16>(engine, [0.0, 0.0], dy)?, [0.0, 0.0]);
    Ok(())
}

/// 2⁻¹⁶ is below f16's normal numbers: times 2¹⁶, ½ fits and 1 does not.
fn short_row<E: Engine>(new: New<E>) -> Result<(), Error> {
    let engine = &new()?;
    let x = [2f32.powi(-16), 0.0];
    assert_eq!(gradient::<E, f16>(engine, x, [0.0, 0.5])?, [0.0, 32768.0]);
    assert_eq!(gradient::<E, f16>(engine, x, [0.25, 1.0])?, [0.0, 0.0]);
    Ok(())
}

/// Loss scaling looks for infinities: rows whose direction is meaningful keep them.
fn long_row<E: Engine>(new: New<E>) -> Result<(), Error> {
    let engine = &new()?;
    let dx = gradient::<E, f16>(engine, [2f32.powi(-10), 0.0], [0.0, 100.0])?;
    assert_eq!(dx, [0.0, f32::INFINITY]);
    let dx = gradient::<E, f32>(engine, [1e-11, 0.0], [0.0, 1e38])?;
    assert_eq!(dx, [0.0, f32::INFINITY]);
    Ok(())
}

fn not_hidden<E: Engine>(new: New<E>) -> Result<(), Error> {
    fn check<E: Engine, T: Element>(engine: &E) -> Result<(), Error> {
        let zeros = [0.0, 0.0];
        let infinite = gradient::<E, T>(engine, zeros, [f32::INFINITY, 1.0])?;
        assert_eq!(infinite[0], f32::INFINITY, "{}", T::DTYPE);
        let nan = gradient::<E, T>(engine, zeros, [f32::NAN, 1.0])?;
        assert!(nan[0].is_nan(), "{}: {nan:?}", T::DTYPE);
        Ok(())
    }
    let engine = &new()?;
    in_all_types!(check::<E>(engine));
    Ok(())
}

fn any_length<E: Engine>(new: New<E>) -> Result<(), Error> {
    fn check<E: Engine, T: Element>(engine: &E, sizes: &[f32]) -> Result<(), Error> {
        for &size in sizes {
            let x = [0.0, 0.6 * size, 0.0, -0.8 * size];
            let (y, norm) = normalized::<E, T>(engine, &x)?;
            assert_abs_diff_eq!(y[..], [0.0, 0.6, 0.0, -0.8][..], epsilon = 2.0 * T::EPSILON);
            assert_near(norm, f64::from(size), f64::from(T::EPSILON), "norm");
        }
        let (y, norm) = normalized::<E, T>(engine, &[0.0; 4])?;
        assert_eq!((y, norm), (vec![0.0; 4], 0.0));
        Ok(())
    }
    let engine = &new()?;
    check::<E, f32>(engine, &[1e-11, 1e-3, 300.0, 1e30, 3e38])?;
    check::<E, bf16>(engine, &[1e-11, 1e-3, 300.0, 1e30, 3e38])?;
    check::<E, f16>(engine, &[1e-3, 300.0, 60_000.0])?;
    // Each element is in the range of f32, the norm is not.
    let (y, norm) = normalized::<E, f32>(engine, &[3e38, 3e38])?;
    assert_abs_diff_eq!(y[0], 0.5f32.sqrt(), epsilon = 1e-6);
    assert_eq!(y[0], y[1]);
    assert_eq!(norm, f32::INFINITY);
    Ok(())
}

/// 6 keys into 4 slots: the last 4, from the oldest on.
fn large_batch<E: Engine>(new: New<E>) -> Result<(), Error> {
    fn check<E: Engine, T: Element>(engine: &E) -> Result<(), Error> {
        let keys: Vec<T> = (0..6).map(|i| T::from_f32(i as f32)).collect();
        let mut queue = KeyQueue::<T>::new(4, 1)?.with_labels(&[])?;
        // Bits that are no ordinary f32: infinity, NaN of both kinds, subnormal numbers.
        let labels = [7, 8, 0x7f80_0000, 0x7f80_0001, infonce::NO_POSITIVE, 1];
        OnHost(engine).enqueue_labelled(&mut queue, Rows::new(&keys, 6, 1)?, &labels)?;
        let held = queue.filled().map(|keys| keys.contiguous().to_vec());
        let mut held = held.unwrap_or_default();
        held.rotate_left(queue.cursor());
        assert_eq!(held, &keys[2..]);
        let mut held = queue.labels().unwrap_or_default().to_vec();
        held.rotate_left(queue.cursor());
        assert_eq!(held, labels[2..]);
        Ok(())
    }
    let engine = &new()?;
    in_all_types!(check::<E>(engine));
    Ok(())
}

fn last_key<E: Engine>(new: New<E>) -> Result<(), Error> {
    fn check<E: Engine, T: Element>(engine: &E) -> Result<(), Error> {
        let bank = [[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]];
        let keys = [[-1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [1.0, 0.0]];
        let (bank, keys) = (rounded::<T>(&matrix(&bank)), rounded::<T>(&matrix(&keys)));
        let (was, keys) = (Rows::new(&bank, 3, 2)?, Rows::new(&keys, 4, 2)?);
        let rows = [0, 0, infonce::NO_POSITIVE, 2];
        let after = OnHost(engine).update_rows(was, &rows, keys, 0.5)?;
        // (½, ½), normalised; the row that has no key; and ½(−1, 0) + ½(1, 0), which has no direction.
        let half = T::from_f32(0.5f32.sqrt());
        let zero = T::from_f32(0.0);
        assert_eq!(
            after,
            [half, half, bank[2], bank[3], zero, zero],
            "{}",
            T::DTYPE
        );
        Ok(())
    }
    let engine = &new()?;
    in_all_types!(check::<E>(engine));
    Ok(())
}

fn others<E: Engine>(new: New<E>) -> Result<(), Error> {
    fn check<E: Engine, T: Element>(engine: &E) -> Result<(), Error> {
        let rows = 40;
        // Every row twice, so that another scores as much as the row itself.
        let z = unit(&randn(rows / 2, 8, 8));
        let z = Dense::from_fn(rows, 8, |i, d| z.row(i / 2)[d]);
        let z = rounded::<T>(&z);
        let z = Rows::new(&z, rows, 8)?;
        for k in [1, 5, rows - 1] {
            let best = OnHost(engine).top_k(z, z, k, true)?;
            assert_eq!(best.indices.len(), rows * k);
            for (i, best) in best.indices.chunks(k).enumerate() {
                let mut named = best.to_vec();
                named.sort_unstable();
                named.dedup();
                assert_eq!(named.len(), k, "row {i}: {best:?}");
                assert!(!best.contains(&(i as u32)), "row {i}: {best:?}");
                assert_eq!(best[0], i as u32 ^ 1, "row {i}: {best:?}");
            }
        }
        Ok(())
    }
    let engine = &new()?;
    in_all_types!(check::<E>(engine));
    Ok(())
}

/// Scores 8 + j/256, each twice, where bf16 has a spacing of 1/16 and f16 of 1/128: they come in the order of f32,
/// equal ones in the order of their indices.
fn near_ties<E: Engine>(new: New<E>) -> Result<(), Error> {
    fn check<E: Engine, T: Element>(engine: &E) -> Result<(), Error> {
        let count = 40;
        let level = |j: usize| (j * 7 % count) / 2;
        let keys = Dense::from_fn(count, 2, |j, d| [8.0, level(j) as f64 / 256.0][d]);
        let (keys, query) = (rounded::<T>(&keys), rounded::<T>(&matrix(&[[1.0, 1.0]])));
        let (keys, query) = (Rows::new(&keys, count, 2)?, Rows::new(&query, 1, 2)?);
        let mut expected: Vec<usize> = (0..count).collect();
        expected.sort_by_key(|&j| (std::cmp::Reverse(level(j)), j));
        let best = OnHost(engine).top_k(query, keys, count, false)?;
        let indices: Vec<usize> = best.indices.iter().map(|&j| j as usize).collect();
        assert_eq!(indices, expected, "{}", T::DTYPE);
        let scores = expected.iter().map(|&j| 8.0 + level(j) as f32 / 256.0);
        assert!(best.scores.iter().copied().eq(scores), "{}", T::DTYPE);
        Ok(())
    }
    let engine = &new()?;
    in_all_types!(check::<E>(engine));
    Ok(())
}
