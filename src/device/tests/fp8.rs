//! Forward and top-k with numbers of 8 bits: what the kernels make of them, what it costs.

use approx::abs_diff_eq;
use half::{bf16, f16};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Memory, contrasts, device, index, numbers};
use crate::contrast::{Contrast, Shape, Work};
use crate::device::Similarity;
use crate::element::{DType, Element};
use crate::engine::{Engine, Gradients};
use crate::error::Error;
use crate::host::e4m3::{self, quantized};
use crate::host::{HostEngine, Schedule};
use crate::inputs::{Inputs, Positives, Problem};
use crate::memory::Evaluated;
use crate::reference::{self, Dense};
use crate::rows::{Rows, RowsMut};

fn engine(schedule: Schedule, seed: u64) -> HostEngine {
    HostEngine::new(schedule, seed)
        .with_hopper_kernels()
        .with_fp8_scores(true)
}

// ---- Against the reference

/// Unit rows of Gaussian numbers, around one of `clusters` vectors that all matrices of this D share,
/// `spread` times as long as it is. Without clusters, around nothing.
fn unit_rows<T: Element>(
    rows: usize,
    dim: usize,
    (clusters, spread): (usize, f64),
    rng: &mut ChaCha8Rng,
) -> Vec<T> {
    let gaussian = |rng: &mut ChaCha8Rng| {
        let (u, v): (f64, f64) = (rng.random(), rng.random());
        (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    };
    let mut shared = ChaCha8Rng::seed_from_u64(dim as u64);
    let centres: Vec<f64> = (0..clusters * dim).map(|_| gaussian(&mut shared)).collect();
    let mut all = Vec::with_capacity(rows * dim);
    for row in 0..rows {
        let numbers = (0..dim).map(|d| match clusters {
            0 => gaussian(rng),
            _ => centres[row % clusters * dim + d] + spread * gaussian(rng),
        });
        let numbers: Vec<f64> = numbers.collect();
        let norm = numbers.iter().map(|x| x * x).sum::<f64>().sqrt();
        all.extend(numbers.iter().map(|x| T::from_f32((x / norm) as f32)));
    }
    all
}

/// The numbers that rows of e4m3 stand for.
fn rounded<T: Element>(rows: &[T], dim: usize) -> Dense {
    let of_row = |row: &[T]| {
        let wide: Vec<f32> = row.iter().map(|x| x.to_f32()).collect();
        let (codes, scale) = quantized(&wide);
        let numbers = codes
            .into_iter()
            .map(move |code| e4m3::value(code) * f64::from(scale));
        numbers.collect::<Vec<_>>()
    };
    let all: Vec<f64> = rows.chunks(dim).flat_map(of_row).collect();
    Dense::from_fn(rows.len() / dim, dim, |i, d| all[i * dim + d])
}

/// q, k and own keys, as given and as rounded.
struct Matrices<T> {
    shape: Shape,
    index: Vec<u32>,
    given: [Vec<T>; 3],
    exact: [Dense; 3],
    rounded: [Dense; 3],
}

impl<T: Element> Matrices<T> {
    fn new(shape: Shape, clusters: (usize, f64), seed: u64) -> Result<Self, Error> {
        let Shape {
            anchors,
            candidates,
            dim,
        } = shape;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let given = [anchors, candidates, anchors]
            .map(|rows| unit_rows::<T>(rows, dim, clusters, &mut rng));
        Ok(Self {
            shape,
            index: index(anchors, candidates),
            exact: given.each_ref().map(|x| {
                Dense::from_fn(x.len() / dim, dim, |i, d| {
                    f64::from(x[i * dim + d].to_f32())
                })
            }),
            rounded: given.each_ref().map(|x| rounded(x, dim)),
            given,
        })
    }

    fn problem(&self, contrast: &Contrast) -> Result<Problem<Rows<'_, T>>, Error> {
        let Shape {
            anchors,
            candidates,
            dim,
        } = self.shape;
        let [q, k, own] = self.given.each_ref();
        let (q, own) = (Rows::new(q, anchors, dim)?, Rows::new(own, anchors, dim)?);
        let matrices = [q, Rows::new(k, candidates, dim)?, own];
        contrast.pose(matrices, Positives::Index(&self.index))
    }

    /// The loss, lse⁻ and z₊ with logits of the rounded rows but for the positives', which are exact; and
    /// the loss and lse⁻ with exact logits.
    fn expected(&self, contrast: &Contrast) -> Result<[Values; 2], Error> {
        let of = |matrices: &[Dense; 3]| {
            let problem = contrast.pose(matrices.each_ref(), Positives::Index(&self.index))?;
            Ok::<_, Error>(reference::value_and_grad(&problem, 1.0))
        };
        let (exact, rounded) = (of(&self.exact)?, of(&self.rounded)?);
        let mut mixed = Values::default();
        let directions = [
            (Some(&exact.rows), Some(&rounded.rows)),
            (exact.columns.as_ref(), rounded.columns.as_ref()),
        ];
        for (exact, rounded) in directions {
            let (Some(exact), Some(rounded)) = (exact, rounded) else {
                continue;
            };
            let weight = contrast.row_weight(self.shape.anchors);
            for (lse, positive) in rounded.negatives_lse.iter().zip(&exact.positive) {
                let margin = lse - positive;
                mixed.loss += weight * (margin.max(0.0) + (-margin.abs()).exp().ln_1p());
                mixed.negatives_lse.push(*lse);
            }
        }
        let columns = exact.columns.as_ref().map_or(&[][..], |c| &c.negatives_lse);
        let exact = Values {
            loss: exact.loss,
            negatives_lse: [&exact.rows.negatives_lse[..], columns].concat(),
        };
        Ok([mixed, exact])
    }
}

#[derive(Debug, Default)]
struct Values {
    loss: f64,
    negatives_lse: Vec<f64>,
}

impl Values {
    fn found(forward: &Evaluated) -> Self {
        let columns = forward.statistics.columns.as_ref();
        let columns = columns.map_or(&[][..], |c| &c.negatives_lse);
        let all = [&forward.statistics.rows.negatives_lse[..], columns].concat();
        Self {
            loss: f64::from(forward.loss),
            negatives_lse: all.into_iter().map(f64::from).collect(),
        }
    }

    /// The largest distance of lse⁻, and that of the loss.
    fn off(&self, from: &Self) -> (f64, f64) {
        assert_eq!(self.negatives_lse.len(), from.negatives_lse.len());
        let both = self.negatives_lse.iter().zip(&from.negatives_lse);
        let lse = both.map(|(a, b)| if a == b { 0.0 } else { (a - b).abs() });
        (lse.fold(0.0, f64::max), (self.loss - from.loss).abs())
    }
}

/// Half a spacing of e4m3, and what rounding to multiples of its least number adds for D up to 4,096.
const ROUNDING: f64 = 0.0625 + 0.00015;
/// |Δ⟨q, k⟩| ≤ this · ‖q‖‖k‖: ⟨δq, k⟩ + ⟨q, δk⟩ + ⟨δq, δk⟩ with ‖δx‖ ≤ ROUNDING·‖x‖.
const PRODUCT_BOUND: f64 = ROUNDING * (2.0 + ROUNDING);

#[test]
fn forward_is_that_of_the_rounded_rows_and_within_the_bound_of_the_exact_one() -> Result<(), Error>
{
    fn check<T: Element>() -> Result<(), Error> {
        // Rows that stay in shared memory, up to the longest, and rows that do not; ragged tiles.
        for (anchors, candidates, dim, scale, clusters) in [
            (5usize, 3, 7, 100.0f64, 0),
            (150, 600, 40, 10.0, 4),
            (130, 257, 500, 10.0, 0),
            (30, 300, 600, 100.0, 4),
        ] {
            let temperature = 1.0 / scale as f32;
            let shape = |anchors, candidates| Shape {
                anchors,
                candidates,
                dim,
            };
            let even = anchors.next_multiple_of(2);
            for (contrast, shape) in [
                (Contrast::nt_xent(temperature)?, shape(even, even)),
                (Contrast::info_nce(temperature)?, shape(anchors, candidates)),
                (Contrast::moco(temperature)?, shape(anchors, candidates)),
                (Contrast::clip(scale as f32)?, shape(anchors, anchors)),
            ] {
                let matrices = Matrices::<T>::new(shape, (clusters, 0.5), dim as u64)?;
                let forward = engine(Schedule::Mixed, 7).forward(&matrices.problem(&contrast)?)?;
                let found = Values::found(&forward);
                let [rounded, exact] = matrices.expected(&contrast)?;
                let context = format!("{} {shape:?} {} s = {scale}", contrast.name(), T::DTYPE);
                // Sums and exponentials of f32.
                let (lse, loss) = found.off(&rounded);
                assert!(
                    lse.max(loss) < 3e-7 * scale + 3e-6,
                    "{context}: {lse:e} {loss:e}"
                );
                // Rows of unit length, to the digits of their type.
                let (lse, loss) = found.off(&exact);
                let bound = PRODUCT_BOUND * scale * 1.01;
                assert!(lse.max(loss) < bound, "{context}: {lse:e} {loss:e}");
            }
        }
        Ok(())
    }
    check::<f32>()?;
    check::<f16>()?;
    check::<bf16>()
}

#[test]
fn scores_of_top_k_are_those_of_the_rounded_rows_and_within_the_bound_of_the_exact_ones()
-> Result<(), Error> {
    fn check<T: Element>() -> Result<(), Error> {
        for (anchors, candidates, dim, k) in [(5, 9, 7, 9), (260, 300, 72, 5), (20, 515, 530, 12)] {
            let shape = Shape {
                anchors,
                candidates,
                dim,
            };
            let matrices = Matrices::<T>::new(shape, (6, 0.7), 11)?;
            let [q, c, _] = matrices.given.each_ref();
            let (q, c) = (Rows::new(q, anchors, dim)?, Rows::new(c, candidates, dim)?);
            for exclude_self in [false, true] {
                let k = k - usize::from(exclude_self);
                let best = engine(Schedule::Late, 1).top_k(q, c, k, exclude_self)?;
                let [of_q, of_c, _] = matrices.rounded.each_ref();
                let rounded = reference::top_k(of_q, of_c, k, exclude_self);
                let [q, c, _] = matrices.exact.each_ref();
                let exact = reference::top_k(q, c, k, exclude_self);
                for row in 0..anchors {
                    for place in 0..k {
                        let score = f64::from(best.scores[row * k + place]);
                        let index = best.indices[row * k + place] as usize;
                        assert!(!exclude_self || index != row);
                        let own: f64 = of_q
                            .row(row)
                            .iter()
                            .zip(of_c.row(index))
                            .map(|(a, b)| a * b)
                            .sum();
                        let context = format!("{row} {place} of {shape:?} {}", T::DTYPE);
                        for expected in [own, rounded[row][place].1] {
                            let near = abs_diff_eq!(score, expected, epsilon = 2e-6);
                            assert!(near, "{context}: {score} {expected}");
                        }
                        assert!(
                            (score - exact[row][place].1).abs() < PRODUCT_BOUND * 1.01,
                            "{context}"
                        );
                    }
                }
            }
        }
        Ok(())
    }
    check::<f32>()?;
    check::<f16>()?;
    check::<bf16>()
}

#[test]
fn rows_that_are_not_finite_give_nan() -> Result<(), Error> {
    let shape = Shape {
        anchors: 40,
        candidates: 300,
        dim: 24,
    };
    for number in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut matrices = Matrices::<f32>::new(shape, (0, 0.0), 2)?;
        let contrast = Contrast::moco(0.1)?;
        matrices.given[0][3 * 24 + 5] = number;
        let forward = engine(Schedule::Late, 1).forward(&matrices.problem(&contrast)?)?;
        assert!(forward.loss.is_nan());
        for (row, z) in forward.statistics.rows.positive.iter().enumerate() {
            assert_eq!(z.is_nan(), row == 3, "{number} {row}");
        }
        let lse = forward.statistics.rows.negatives_lse;
        assert!(
            lse.iter()
                .enumerate()
                .all(|(row, lse)| row == 3 || lse.is_finite())
        );

        matrices.given[1][299 * 24] = number;
        let [q, k, _] = matrices.given.each_ref();
        let best = engine(Schedule::Late, 1).top_k(
            Rows::new(q, 40, 24)?,
            Rows::new(k, 300, 24)?,
            2,
            false,
        )?;
        for (row, (indices, scores)) in best
            .indices
            .chunks(2)
            .zip(best.scores.chunks(2))
            .enumerate()
        {
            // NaN comes first, and equal ones by index.
            let expected = if row == 3 { [0, 1] } else { [299, indices[1]] };
            assert_eq!(indices, expected, "{number} {row}");
            assert!(
                scores[0].is_nan() && scores[1].is_nan() == (row == 3),
                "{number} {row}"
            );
        }
        matrices.given[0][3 * 24 + 5] = 0.5;
        let forward = engine(Schedule::Late, 1).forward(&matrices.problem(&contrast)?)?;
        assert!(forward.statistics.rows.positive.iter().all(|z| z.is_nan()));
    }
    Ok(())
}

#[test]
fn results_do_not_depend_on_the_schedule() -> Result<(), Error> {
    for dim in [40, 530] {
        let shape = Shape {
            anchors: 140,
            candidates: 140,
            dim,
        };
        let matrices = Matrices::<bf16>::new(shape, (0, 0.0), 5)?;
        let contrast = Contrast::clip(20.0)?;
        let [q, k, _] = matrices.given.each_ref();
        let (q, k) = (Rows::new(q, 140, dim)?, Rows::new(k, 140, dim)?);
        let run = |schedule, seed| -> Result<_, Error> {
            let engine = engine(schedule, seed);
            Ok((
                engine.forward(&contrast.on(Inputs::pair(q, k))?)?,
                engine.top_k(q, k, 3, true)?,
            ))
        };
        let expected = run(Schedule::Early, 0)?;
        for (schedule, seed) in [
            (Schedule::Late, 1),
            (Schedule::Mixed, 2),
            (Schedule::Mixed, 3),
        ] {
            assert_eq!(run(schedule, seed)?, expected, "{schedule:?}, D = {dim}");
        }
    }
    Ok(())
}

// ---- What the option does and does not touch

#[test]
fn gradients_are_the_same_with_the_option_and_without() -> Result<(), Error> {
    for dim in [40, 264] {
        let shape = Shape {
            anchors: 70,
            candidates: 140,
            dim,
        };
        let matrices = Matrices::<bf16>::new(shape, (0, 0.0), 5)?;
        let contrast = Contrast::moco(0.1)?;
        let problem = matrices.problem(&contrast)?;
        let statistics = HostEngine::new(Schedule::Early, 1)
            .forward(&problem)?
            .statistics;
        let run = |fp8| -> Result<_, Error> {
            let engine = HostEngine::new(Schedule::Early, 1)
                .with_hopper_kernels()
                .with_fp8_scores(fp8);
            let mut dq = [vec![f32::NAN; 70 * dim], vec![f32::NAN; 70 * dim]];
            let [joint, apart] = &mut dq;
            let gradients = |dq| Ok::<_, Error>(Gradients::new(RowsMut::new(dq, 70, dim)?, None));
            let value = engine.value_and_grad(&problem, 1.0, gradients(joint)?)?;
            let dscale = engine.backward(&problem, &statistics, 1.0, gradients(apart)?)?;
            Ok((value, dscale, dq))
        };
        assert_eq!(run(true)?, run(false)?, "D = {dim}");
    }
    Ok(())
}

fn is_refused<R>(result: Result<R, Error>, reason: &str) -> bool {
    match result.err() {
        Some(
            error @ Error::Unsupported {
                option: "fp8_scores",
                ..
            },
        ) => error.to_string().contains(reason),
        _ => false,
    }
}

#[test]
fn where_there_are_no_products_of_8_bits_the_option_is_refused_with_the_reason() -> Result<(), Error>
{
    let x: Vec<f32> = numbers(6, 8, 1);
    let rows = Rows::new(&x, 6, 8)?;
    let contrast = Contrast::nt_xent(0.1)?;
    let problem = contrast.on(Inputs::Shared { z: rows })?;
    let shape = Shape {
        anchors: 6,
        candidates: 6,
        dim: 8,
    };
    let other = HostEngine::new(Schedule::Late, 0).with_fp8_scores(true);
    assert!(is_refused(other.forward(&problem), "only sm_90"));
    assert!(is_refused(other.top_k(rows, rows, 2, false), "only sm_90"));
    let bytes = |call| other.workspace_bytes(call, &contrast, shape, DType::F32);
    assert!(is_refused(bytes(Work::Forward), "only sm_90"));
    assert!(bytes(Work::ValueAndGrad { dk: false }).is_ok());

    let mut memory = Memory::on(device(Schedule::Late, 0, 1, true));
    let matrix = memory.given(&x, 8, 0)?;
    let both = Similarity::new(&memory.device, 0)
        .with_fp8(true)
        .with_portable_kernels(true);
    assert!(is_refused(both.top_k(matrix, matrix, 2, false), "portable"));
    let served = Similarity::new(&memory.device, 0).with_fp8(true);
    assert!(served.top_k(matrix, matrix, 2, false).is_ok());
    Ok(())
}

#[test]
fn the_memory_of_forward_is_what_was_announced() -> Result<(), Error> {
    fn check<T: Element>() -> Result<(), Error> {
        for dim in [7, 64, 600] {
            let shape = Shape {
                anchors: 90,
                candidates: 300,
                dim,
            };
            for (which, contrast) in contrasts()?.into_iter().enumerate() {
                let candidates = if which % 3 == 0 { 90 } else { 300 };
                let shape = Shape {
                    candidates,
                    ..shape
                };
                let matrices = Matrices::<T>::new(shape, (0, 0.0), 5)?;
                let engine = engine(Schedule::Early, 1);
                let announced =
                    engine.workspace_bytes(Work::Forward, &contrast, shape, T::DTYPE)?;
                drop(engine.forward(&matrices.problem(&contrast)?)?);
                assert_eq!(
                    engine.held_bytes(),
                    announced,
                    "{} {shape:?} {}",
                    contrast.name(),
                    T::DTYPE
                );
            }
        }
        Ok(())
    }
    check::<f32>()?;
    check::<f16>()?;
    check::<bf16>()
}

// ---- What it costs

/// ⟨a, b⟩ of e4m3 as the hardware is said to sum it: what a step of 32 products adds, the sum so far
/// included, is cut off 13 bits below the leading one of the largest of them.
fn narrow_dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sum = 0.0f64;
    for (a, b) in a.chunks(32).zip(b.chunks(32)) {
        let products = a.iter().zip(b).map(|(a, b)| a * b);
        let all: Vec<f64> = products.chain([sum]).collect();
        let largest = all.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
        if largest > 0.0 {
            let unit = 2f64.powi(largest.log2().floor() as i32 - 13);
            sum = all.iter().map(|x| (x / unit).trunc() * unit).sum();
        }
    }
    sum
}

fn root_mean_square(of: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = of.fold((0.0, 0.0), |(sum, count), x| (sum + x * x, count + 1.0));
    (sum / count).sqrt()
}

/// The table of docs/performance.md, section FP8: `cargo test --features emulator-tests --lib what_rounding_costs -- --nocapture`.
#[test]
fn what_rounding_costs() -> Result<(), Error> {
    println!(
        "| rows | D | Δ⟨q, k⟩ | with sums of 14 bits | loss | its error | a row's | recall@10 |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|");
    const SCALE: f64 = 10.0;
    for (name, clusters) in [("random", (0, 0.0)), ("clustered", (16, 0.5))] {
        for dim in [64, 128, 512, 2048] {
            let shape = Shape {
                anchors: 64,
                candidates: 1024,
                dim,
            };
            let mut matrices = Matrices::<bf16>::new(shape, clusters, 1)?;
            matrices.index = (0..64).collect();
            let ([q, k, _], [q8, k8, _]) = (matrices.exact.each_ref(), matrices.rounded.each_ref());
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            let off = |rounded: fn(&[f64], &[f64]) -> f64| {
                let pairs = (0..64).flat_map(|i| (0..1024).map(move |j| (i, j)));
                root_mean_square(
                    pairs.map(|(i, j)| rounded(q8.row(i), k8.row(j)) - dot(q.row(i), k.row(j))),
                )
            };
            let (exact_sums, narrow_sums) = (
                off(|a, b| a.iter().zip(b).map(|(a, b)| a * b).sum()),
                off(narrow_dot),
            );

            let contrast = Contrast::info_nce(1.0 / SCALE as f32)?;
            let forward = engine(Schedule::Early, 1).forward(&matrices.problem(&contrast)?)?;
            let found = Values::found(&forward);
            let [_, exact] = matrices.expected(&contrast)?;
            let lse = found.negatives_lse.iter().zip(&exact.negatives_lse);
            let row_error = root_mean_square(lse.map(|(a, b)| a - b));
            let loss_error = (found.loss - exact.loss).abs();

            let [of_q, of_k, _] = matrices.given.each_ref();
            let (of_q, of_k) = (Rows::new(of_q, 64, dim)?, Rows::new(of_k, 1024, dim)?);
            let best = engine(Schedule::Early, 1).top_k(of_q, of_k, 10, false)?;
            let expected = reference::top_k(q, k, 10, false);
            let both = expected.iter().zip(best.indices.chunks(10));
            let common = both.map(|(expected, found)| {
                let is_found = |j: usize| found.contains(&(j as u32));
                expected.iter().filter(|&&(j, _)| is_found(j)).count()
            });
            let recall = common.sum::<usize>() as f64 / 640.0;
            println!(
                "| {name} | {dim} | {exact_sums:.1e} | {narrow_sums:.1e} | {:.3} | {loss_error:.1e} | {row_error:.1e} | {recall:.3} |",
                exact.loss
            );
            // Errors of different numbers have nothing to do with each other, so they add as squares: two
            // rows whose numbers are off by a fortieth of themselves, in the mean.
            let of_numbers = 2f64.sqrt() / 40.0 / (dim as f64).sqrt();
            assert!(
                (0.5..1.5).contains(&(exact_sums / of_numbers)),
                "{name} {dim}: {exact_sums:e}"
            );
            assert!(narrow_sums < PRODUCT_BOUND, "{name} {dim}: {narrow_sums:e}");
            assert!(
                loss_error < 0.1 * PRODUCT_BOUND * SCALE,
                "{name} {dim}: {loss_error:e}"
            );
            assert!(recall > 0.5, "{name} {dim}: {recall}");
        }
    }
    Ok(())
}
