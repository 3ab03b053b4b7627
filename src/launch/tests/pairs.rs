//! NT-Xent's statistics, which compute the logit of each pair of rows once.

use approx::abs_diff_eq;
use half::{bf16, f16};

use super::*;
use crate::launch::positives::ExponentRange;

/// How statistics are computed.
#[derive(Debug, Clone, Copy)]
struct Way {
    hopper: bool,
    tf32: bool,
    fp8: bool,
    sm_count: u32,
    /// `Similarity::column_splits`; fewer means more launches.
    column_splits: usize,
    schedule: Schedule,
    seed: u64,
}

const PORTABLE: Way = Way {
    hopper: false,
    tf32: false,
    fp8: false,
    sm_count: 3,
    column_splits: 32,
    schedule: Schedule::Late,
    seed: 1,
};
const HOPPER: Way = Way {
    hopper: true,
    schedule: Schedule::Mixed,
    ..PORTABLE
};

/// Rows of about unit length, whose elements are exact in all types but e4m3.
fn batch<T: Element>(rows: usize, dim: usize) -> Batch<T> {
    let size = 1.0 / (dim as f32 / 2.0).sqrt();
    let round = |x: f32| T::from_f32((x * size * 64.0).round() / 64.0);
    let z: Vec<T> = numbers(rows, dim, rows).into_iter().map(round).collect();
    let numbers = [z.clone(), z.clone(), z];
    Batch { numbers, dim }
}

/// Temperatures: with the first the logits of [`batch`] are bounded, with the second they are not.
const TEMPERATURES: [f32; 2] = [1.0, 0.01];

fn forward<T: Element>(way: Way, batch: &Batch<T>, temperature: f32) -> Result<Evaluated, Error> {
    let device = device(way.schedule, way.seed, way.sm_count, way.hopper);
    let memory = Memory::on(device);
    let z = memory.given(&batch.numbers[0], batch.dim, 0)?;
    let device = &memory.device;
    let mut similarity = Similarity::new(device, 0)
        .with_tf32(way.tf32)
        .with_fp8(way.fp8);
    similarity.column_splits = way.column_splits;
    let problem = Contrast::nt_xent(temperature)?.pose([z; 3], Positives::DIAGONAL)?;
    let prepared = similarity.prepare(&problem)?;
    let positives = similarity.positives(&prepared)?;
    let bound = similarity.bound(&prepared, &positives, ExponentRange::WIDE)?;
    let holds = bound.read(device)?[0].to_bits() != 0;
    assert_eq!(holds, temperature == TEMPERATURES[0]);
    similarity.forward(&problem)?.read(device)
}

/// lse⁻ and the loss against f64, with logits that have a bound and that have none.
fn check<T: Element>(way: Way, rows: usize, dim: usize) -> Result<(), Error> {
    let batch = batch::<T>(rows, dim);
    let exact = batch.exact();
    let rounded = way.fp8.then(|| batch.rounded());
    for temperature in TEMPERATURES {
        let found = Values::found(&forward(way, &batch, temperature)?);
        let matrices = [&exact, rounded.as_ref().unwrap_or(&exact)];
        let contrast = Contrast::nt_xent(temperature)?;
        let expected = Values::expected(&contrast, matrices, Positives::DIAGONAL)?;
        let what = format!("{way:?}, {rows} × {dim}, {temperature}");
        let lse = found.negatives_lse.iter().zip(&expected.negatives_lse);
        for (i, (&found, &expected)) in lse.enumerate() {
            let allowed = 2e-6 * (4.0 + expected.abs());
            // A batch of two rows has no negatives: both are −∞.
            let near = found == expected || abs_diff_eq!(found, expected, epsilon = allowed);
            assert!(near, "{what}, row {i}: {found}, {expected}");
        }
        let allowed = 1e-5 * (1.0 + expected.loss);
        let near = abs_diff_eq!(found.loss, expected.loss, epsilon = allowed);
        assert!(near, "{what}: {}, {}", found.loss, expected.loss);
    }
    Ok(())
}

/// Rows of 1 to 5 blocks of 256, an even and an odd number of them; with a last block of few rows, of one tile of
/// 128, of more.
const ROWS: [usize; 10] = [2, 4, 130, 256, 258, 384, 514, 700, 770, 1026];

#[test]
fn each_pair_of_rows_counts_once_for_either() -> Result<(), Error> {
    for rows in ROWS {
        check::<bf16>(HOPPER, rows, 16)?;
        check::<bf16>(PORTABLE, rows, 16)?;
    }
    // Anchors that do not stay in shared memory.
    for rows in [258, 770, 1026] {
        check::<bf16>(HOPPER, rows, 264)?;
    }
    Ok(())
}

#[test]
fn pairs_of_rows_count_once_in_every_arithmetic() -> Result<(), Error> {
    let tf32 = Way {
        tf32: true,
        ..PORTABLE
    };
    let fp8 = Way {
        fp8: true,
        ..HOPPER
    };
    for rows in [130, 514, 642] {
        check::<f32>(PORTABLE, rows, 16)?;
        check::<f32>(tf32, rows, 16)?;
        check::<f16>(PORTABLE, rows, 16)?;
        check::<f16>(HOPPER, rows, 16)?;
        check::<bf16>(fp8, rows, 16)?;
    }
    check::<bf16>(fp8, 770, 520)
}

#[test]
fn pairs_of_rows_may_take_several_launches() -> Result<(), Error> {
    for (column_splits, sm_count) in [(1, 8), (2, 1), (4, 3)] {
        for way in [HOPPER, PORTABLE] {
            let way = Way {
                column_splits,
                sm_count,
                ..way
            };
            for rows in [258, 900, 1030] {
                check::<bf16>(way, rows, 16)?;
            }
        }
    }
    Ok(())
}

#[test]
fn pairs_of_rows_do_not_depend_on_the_schedule() -> Result<(), Error> {
    for (way, dim) in [(HOPPER, 16), (HOPPER, 264), (PORTABLE, 16)] {
        for (rows, column_splits) in [(514, 32), (770, 2)] {
            let batch = batch::<bf16>(rows, dim);
            for temperature in TEMPERATURES {
                let what = format!("{way:?}, {rows} × {dim}, {temperature}");
                let found = in_every_order(&what, |schedule, seed| {
                    let way = Way {
                        sm_count: 1,
                        column_splits,
                        schedule,
                        seed,
                        ..way
                    };
                    forward(way, &batch, temperature)
                })?;
                assert!(found.loss.is_finite(), "{what}");
            }
        }
    }
    Ok(())
}
