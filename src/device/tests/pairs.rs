//! NT-Xent's statistics, of which each pair of rows is computed once.

use approx::abs_diff_eq;
use half::{bf16, f16};

use super::{Memory, device, numbers};
use crate::contrast::Contrast;
use crate::device::Similarity;
use crate::device::positives::ExponentRange;
use crate::element::Element;
use crate::error::Error;
use crate::host::Schedule;
use crate::host::e4m3::{self, quantized};
use crate::inputs::Inputs;
use crate::statistics::RowStatistics;

/// How the statistics of `rows` rows come about.
#[derive(Debug, Clone, Copy)]
struct Way {
    hopper: bool,
    tf32: bool,
    fp8: bool,
    multiprocessors: u32,
    /// `Similarity::column_parts`: the fewer, the more launches.
    column_parts: usize,
    schedule: Schedule,
    seed: u64,
}

const PORTABLE: Way = Way {
    hopper: false,
    tf32: false,
    fp8: false,
    multiprocessors: 3,
    column_parts: 32,
    schedule: Schedule::Late,
    seed: 1,
};
const HOPPER: Way = Way {
    hopper: true,
    schedule: Schedule::Mixed,
    ..PORTABLE
};

/// Rows of about unit length, of numbers that are exact in all types but e4m3.
fn unit_rows(rows: usize, dim: usize) -> Vec<f32> {
    let size = 1.0 / (dim as f32 / 2.0).sqrt();
    let round = |x: &f32| (x * size * 64.0).round() / 64.0;
    numbers::<f32>(rows, dim, rows).iter().map(round).collect()
}

/// Temperatures at which their logits have a bound, and have none.
const TEMPERATURES: [f32; 2] = [1.0, 0.01];

fn forward<T: Element>(
    way: Way,
    z: &[T],
    dim: usize,
    temperature: f32,
) -> Result<(f32, RowStatistics), Error> {
    let device = device(way.schedule, way.seed, way.multiprocessors, way.hopper);
    let mut memory = Memory::on(device);
    let z = memory.given(z, dim, 0)?;
    let device = &memory.device;
    let mut similarity = Similarity::new(device, 0)
        .with_tf32(way.tf32)
        .with_fp8(way.fp8);
    similarity.column_parts = way.column_parts;
    let problem = Contrast::nt_xent(temperature)?.on(Inputs::Shared { z })?;
    let prepared = similarity.prepare(&problem)?;
    let positives = similarity.positives(&prepared)?;
    let bound = similarity.bound(&prepared, &positives, ExponentRange::WIDE)?;
    let holds = bound.read(device)?[0].to_bits() != 0;
    assert_eq!(holds, temperature == TEMPERATURES[0]);
    let results = similarity.forward(&problem)?;
    let ([loss, _], statistics) = results.read(device)?;
    Ok((loss, statistics.rows))
}

/// lse⁻ in f64, of rows that are multiplied as `multiplied`.
fn expected(multiplied: &[f64], dim: usize, temperature: f32) -> Vec<f64> {
    let rows: Vec<&[f64]> = multiplied.chunks(dim).collect();
    let half = rows.len() / 2;
    let lse = |i: usize| {
        let logits = (0..rows.len()).filter(|&j| j % half != i % half).map(|j| {
            let dot: f64 = rows[i].iter().zip(rows[j]).map(|(a, b)| a * b).sum();
            dot / f64::from(temperature)
        });
        let logits: Vec<f64> = logits.collect();
        let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = logits.iter().map(|z| (z - largest).exp()).sum();
        largest + sum.ln()
    };
    (0..rows.len())
        .map(|i| if half > 1 { lse(i) } else { f64::NEG_INFINITY })
        .collect()
}

/// lse⁻ and the loss against f64, with logits that have a bound and that have none.
fn check<T: Element>(way: Way, rows: usize, dim: usize) -> Result<(), Error> {
    let given = unit_rows(rows, dim);
    let z: Vec<T> = given.iter().map(|&x| T::from_f32(x)).collect();
    let multiplied: Vec<f64> = match way.fp8 {
        false => given.iter().map(|&x| f64::from(x)).collect(),
        true => given
            .chunks(dim)
            .flat_map(|row| {
                let (codes, scale) = quantized(row);
                let value = move |code| e4m3::value(code) * f64::from(scale);
                codes.into_iter().map(value)
            })
            .collect(),
    };
    for temperature in TEMPERATURES {
        let (loss, found) = forward(way, &z, dim, temperature)?;
        let expected = expected(&multiplied, dim, temperature);
        let what = || format!("{way:?}, {rows} × {dim}, {temperature}");
        let mut sum = 0.0;
        for (i, (&found, &expected)) in found.negatives_lse.iter().zip(&expected).enumerate() {
            let allowed = 2e-6 * (4.0 + expected.abs());
            let near = abs_diff_eq!(f64::from(found), expected, epsilon = allowed);
            let empty = rows == 2 && found == f32::NEG_INFINITY;
            assert!(near || empty, "{}, row {i}: {found}, {expected}", what());
        }
        for (&positive, &lse) in found.positive.iter().zip(&expected) {
            let margin = lse - f64::from(positive);
            sum += margin.max(0.0) + (-margin.abs()).exp().ln_1p();
        }
        let expected = sum / rows as f64;
        let allowed = 1e-5 * (1.0 + expected);
        let near = abs_diff_eq!(f64::from(loss), expected, epsilon = allowed);
        assert!(near, "{}: {loss}, {expected}", what());
    }
    Ok(())
}

/// Rows of 1 to 5 blocks of 256, an even and an odd number of them; with a last block of few rows, of one tile of
/// 128, of more.
const ROWS: [usize; 11] = [2, 4, 130, 256, 258, 384, 514, 700, 770, 1024, 1026];

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
    for (column_parts, multiprocessors) in [(1, 8), (2, 1), (4, 3)] {
        for way in [HOPPER, PORTABLE] {
            let way = Way {
                column_parts,
                multiprocessors,
                ..way
            };
            for rows in [258, 900, 1290] {
                check::<bf16>(way, rows, 16)?;
            }
        }
    }
    Ok(())
}

#[test]
fn pairs_of_rows_do_not_depend_on_the_schedule() -> Result<(), Error> {
    for (way, dim) in [(HOPPER, 16), (HOPPER, 264), (PORTABLE, 16)] {
        for (rows, column_parts) in [(770, 32), (900, 2)] {
            let z: Vec<bf16> = unit_rows(rows, dim)
                .into_iter()
                .map(bf16::from_f32)
                .collect();
            for temperature in TEMPERATURES {
                let run = |schedule, seed| {
                    let way = Way {
                        multiprocessors: 1,
                        column_parts,
                        schedule,
                        seed,
                        ..way
                    };
                    forward(way, &z, dim, temperature)
                };
                let early = run(Schedule::Early, 0)?;
                assert!(early.0.is_finite());
                for (schedule, seed) in [(Schedule::Late, 1), (Schedule::Mixed, 2)] {
                    let found = run(schedule, seed)?;
                    assert_eq!(found, early, "{way:?}, {rows} × {dim}, {schedule:?}");
                }
            }
        }
    }
    Ok(())
}
