//! Forward and top-k in e4m3 against the reference, and what the rounding costs.

use approx::abs_diff_eq;
use half::{bf16, f16};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::contrast::Work;
use crate::emulator::tests::e4m3::{self, quantized};
use crate::engine::Engine;

fn engine(schedule: Schedule, seed: u64) -> EmulatedEngine {
    super::engine(schedule, seed, true).with_fp8_scores(true)
}

// ---- Against the reference

/// Unit rows: Gaussian noise times `spread`, around one of `clusters` Gaussian vectors that all matrices of this D
/// share. With 0 clusters, Gaussian noise alone.
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

fn batch<T: Element>(
    [anchors, candidates, dim]: [usize; 3],
    clusters: (usize, f64),
    seed: u64,
) -> Batch<T> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut rows = |rows| unit_rows(rows, dim, clusters, &mut rng);
    let numbers = [anchors, candidates, anchors].map(&mut rows);
    Batch { numbers, dim }
}

impl<T: Element> Batch<T> {
    /// The values of the rows in e4m3.
    pub(super) fn rounded(&self) -> [Dense; 3] {
        self.rows().map(|x| {
            let wide: Vec<f32> = x.contiguous().iter().map(|x| x.to_f32()).collect();
            let quantized: Vec<_> = wide.chunks(self.dim).map(quantized).collect();
            Dense::from_fn(quantized.len(), self.dim, |i, d| {
                let (codes, scale) = &quantized[i];
                e4m3::value(codes[d]) * f64::from(*scale)
            })
        })
    }
}

impl Values {
    /// The largest distance of lse⁻, and that of the loss.
    fn off(&self, from: &Self) -> (f64, f64) {
        assert_eq!(self.negatives_lse.len(), from.negatives_lse.len());
        let both = self.negatives_lse.iter().zip(&from.negatives_lse);
        let lse = both.map(|(a, b)| if a == b { 0.0 } else { (a - b).abs() });
        (lse.fold(0.0, f64::max), (self.loss - from.loss).abs())
    }
}

/// Largest relative error of a row in e4m3: half a spacing, and what its subnormals add for D up to 4,096.
const ROUNDING: f64 = 0.0625 + 0.00015;
/// |Δ⟨q, k⟩| ≤ this · ‖q‖‖k‖: ⟨δq, k⟩ + ⟨q, δk⟩ + ⟨δq, δk⟩ with ‖δx‖ ≤ ROUNDING·‖x‖.
const PRODUCT_BOUND: f64 = ROUNDING * (2.0 + ROUNDING);

#[test]
fn forward_is_that_of_the_rounded_rows() -> Result<(), Error> {
    fn check<T: Element>() -> Result<(), Error> {
        // Rows that stay in shared memory, up to the longest, and rows that do not; ragged tiles.
        for (shape, scale, clusters) in [
            ([6, 3, 7], 100.0f64, 0),
            ([150, 600, 40], 10.0, 4),
            ([130, 257, 500], 10.0, 0),
            ([30, 300, 600], 100.0, 4),
        ] {
            let temperature = 1.0 / scale as f32;
            let batch = batch::<T>(shape, (clusters, 0.5), shape[2] as u64);
            let (exact, rounded) = (batch.exact(), batch.rounded());
            let index = index(shape[0], shape[1]);
            let positives = Positives::Index(&index[..]);
            for contrast in [
                Contrast::nt_xent(temperature)?,
                Contrast::info_nce(temperature)?,
                Contrast::moco(temperature)?,
                Contrast::clip(scale as f32)?,
            ] {
                let problem = batch.problem(&contrast, positives)?;
                let found = Values::found(&engine(Schedule::Mixed, 7).forward(&problem)?);
                let off = |multiplied| -> Result<(f64, f64), Error> {
                    let expected = Values::expected(&contrast, [&exact, multiplied], positives)?;
                    Ok(found.off(&expected))
                };
                let context = format!("{} {shape:?} {} s = {scale}", contrast.name(), T::DTYPE);
                // Against the rounded rows: the error of f32 sums and exponentials.
                let (lse, loss) = off(&rounded)?;
                let allowed = 3e-7 * scale + 3e-6;
                assert!(lse.max(loss) < allowed, "{context}: {lse:e} {loss:e}");
                // Against the exact rows: unit rows, up to the rounding of their type.
                let (lse, loss) = off(&exact)?;
                let allowed = PRODUCT_BOUND * scale * 1.01;
                assert!(lse.max(loss) < allowed, "{context}: {lse:e} {loss:e}");
            }
        }
        Ok(())
    }
    check::<f32>()?;
    check::<f16>()?;
    check::<bf16>()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn scores_of_top_k_are_those_of_the_rounded_rows() -> Result<(), Error> {
    fn check<T: Element>() -> Result<(), Error> {
        for (shape, k) in [([5, 9, 7], 9), ([260, 300, 72], 5), ([20, 515, 530], 12)] {
            let batch = batch::<T>(shape, (6, 0.7), 11);
            let [q, c, _] = batch.rows();
            let ([of_q, of_c, _], [exact_q, exact_c, _]) = (batch.rounded(), batch.exact());
            for exclude_self in [false, true] {
                let k = k - usize::from(exclude_self);
                let best = engine(Schedule::Late, 1).top_k(q, c, k, exclude_self)?;
                let rounded = reference::top_k(&of_q, &of_c, k, exclude_self).concat();
                let exact = reference::top_k(&exact_q, &exact_c, k, exclude_self).concat();
                for (place, (&score, &index)) in best.scores.iter().zip(&best.indices).enumerate() {
                    let (row, index) = (place / k, index as usize);
                    assert!(!exclude_self || index != row);
                    let (score, own) = (f64::from(score), dot(of_q.row(row), of_c.row(index)));
                    let context = format!("{place} of {shape:?}, {k} {}", T::DTYPE);
                    for expected in [own, rounded[place].1] {
                        let near = abs_diff_eq!(score, expected, epsilon = 2e-6);
                        assert!(near, "{context}: {score} {expected}");
                    }
                    let off = (score - exact[place].1).abs();
                    assert!(off < PRODUCT_BOUND * 1.01, "{context}: {off}");
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
    const DIM: usize = 24;
    let (engine, contrast) = (engine(Schedule::Late, 1), Contrast::moco(0.1)?);
    for number in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut batch = batch::<f32>([40, 300, DIM], (0, 0.0), 2);
        batch.numbers[0][3 * DIM + 5] = number;
        let forward = engine.forward(&batch.problem(&contrast, Positives::DIAGONAL)?)?;
        assert!(forward.loss.is_nan());
        let rows = forward.statistics.rows;
        for (row, (z, lse)) in rows.positive.iter().zip(rows.negatives_lse).enumerate() {
            assert_eq!(z.is_nan(), row == 3, "{number} {row}");
            assert!(row == 3 || lse.is_finite(), "{number} {row}");
        }

        batch.numbers[1][299 * DIM] = number;
        let [q, k, _] = batch.rows();
        let best = engine.top_k(q, k, 2, false)?;
        let rows = best.indices.chunks(2).zip(best.scores.chunks(2));
        for (row, (indices, scores)) in rows.enumerate() {
            // NaN comes first, and equal ones by index.
            let expected = if row == 3 { [0, 1] } else { [299, indices[1]] };
            assert_eq!(indices, expected, "{number} {row}");
            let are_nan = [scores[0].is_nan(), scores[1].is_nan()];
            assert_eq!(are_nan, [true, row == 3], "{number} {row}");
        }
        batch.numbers[0][3 * DIM + 5] = 0.5;
        let forward = engine.forward(&batch.problem(&contrast, Positives::DIAGONAL)?)?;
        assert!(forward.statistics.rows.positive.iter().all(|z| z.is_nan()));
    }
    Ok(())
}

#[test]
fn results_do_not_depend_on_the_schedule() -> Result<(), Error> {
    for dim in [40, 530] {
        let batch = batch::<bf16>([140, 140, dim], (0, 0.0), 5);
        let problem = batch.problem(&Contrast::clip(20.0)?, Positives::DIAGONAL)?;
        let [q, k, _] = batch.rows();
        in_every_order(&format!("D = {dim}"), |schedule, seed| {
            let engine = engine(schedule, seed);
            Ok((engine.forward(&problem)?, engine.top_k(q, k, 3, true)?))
        })?;
    }
    Ok(())
}

// ---- What the option does and does not touch

#[test]
fn gradients_are_the_same_with_the_option_and_without() -> Result<(), Error> {
    for dim in [40, 264] {
        let batch = batch::<bf16>([70, 140, dim], (0, 0.0), 5);
        let problem = batch.problem(&Contrast::moco(0.1)?, Positives::DIAGONAL)?;
        let portable = EmulatedEngine::new(Schedule::Early, 1);
        let statistics = portable.forward(&problem)?.statistics;
        let run = |fp8| -> Result<_, Error> {
            let engine = super::engine(Schedule::Early, 1, true).with_fp8_scores(fp8);
            Ok((
                with_gradients::<_, f32, _>(&problem, |to| {
                    engine.value_and_grad(&problem, 1.0, to)
                })?,
                with_gradients::<_, f32, _>(&problem, |to| {
                    engine.backward(&problem, &statistics, 1.0, to)
                })?,
            ))
        };
        assert_eq!(run(true)?, run(false)?, "D = {dim}");
    }
    Ok(())
}

fn is_refused<R>(result: Result<R, Error>, expected: &str) -> bool {
    match result.err() {
        Some(Error::Unsupported { option, reason }) => {
            option == "fp8_scores" && reason.contains(expected)
        }
        _ => false,
    }
}

#[test]
fn without_8_bit_products_the_option_is_refused() -> Result<(), Error> {
    let batch = Batch::<f32>::new(6, 6, 8);
    let contrast = Contrast::nt_xent(0.1)?;
    let problem = batch.problem(&contrast, Positives::DIAGONAL)?;
    let [rows, ..] = batch.rows();
    let other = EmulatedEngine::new(Schedule::Late, 0).with_fp8_scores(true);
    let sm_90 = "only sm_90";
    assert!(is_refused(other.forward(&problem), sm_90));
    assert!(is_refused(other.top_k(rows, rows, 2, false), sm_90));
    let bytes = |call| other.workspace_bytes(call, &contrast, problem.shape(), DType::F32);
    assert!(is_refused(bytes(Work::Forward), sm_90));
    assert!(bytes(Work::ValueAndGrad { dk: false }).is_ok());

    let memory = Memory::on(device(Schedule::Late, 0, 1, true));
    let matrix = memory.given(&batch.numbers[0], 8, 0)?;
    let served = Similarity::new(&memory.device, 0).with_fp8(true);
    assert!(served.top_k(matrix, matrix, 2, false).is_ok());
    let both = served.with_portable_kernels(true);
    assert!(is_refused(both.top_k(matrix, matrix, 2, false), "portable"));
    Ok(())
}

// ---- What it costs

/// ⟨a, b⟩ of e4m3 with the sums of the hardware (DeepSeek-V3 Technical Report, section 3.3.2): a step truncates 32
/// products and the sum so far 13 bits below the leading bit of the largest of them.
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

/// The table of docs/performance.md, section FP8:
/// `cargo test --features emulator-tests --lib what_rounding_costs -- --nocapture`.
#[test]
fn what_rounding_costs() -> Result<(), Error> {
    println!(
        "| rows | D | Δ⟨q, k⟩ | with sums of 14 bits | loss | its error | a row's | recall@10 |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|");
    const SCALE: f64 = 10.0;
    for (name, clusters) in [("random", (0, 0.0)), ("clustered", (16, 0.5))] {
        for dim in [64, 128, 512, 2048] {
            let batch = batch::<bf16>([64, 1024, dim], clusters, 1);
            let exact = batch.exact();
            let ([q, k, _], [q8, k8, _]) = (&exact, &batch.rounded());
            let off = |rounded: fn(&[f64], &[f64]) -> f64| {
                let pairs = (0..64).flat_map(|i| (0..1024).map(move |j| (i, j)));
                root_mean_square(
                    pairs.map(|(i, j)| rounded(q8.row(i), k8.row(j)) - dot(q.row(i), k.row(j))),
                )
            };
            let (exact_sums, narrow_sums) = (off(dot), off(narrow_dot));

            let (contrast, positives) =
                (Contrast::info_nce(1.0 / SCALE as f32)?, Positives::DIAGONAL);
            let engine = engine(Schedule::Early, 1);
            let forward = engine.forward(&batch.problem(&contrast, positives)?)?;
            let found = Values::found(&forward);
            let expected = Values::expected(&contrast, [&exact; 2], positives)?;
            let lse = found.negatives_lse.iter().zip(&expected.negatives_lse);
            let row_error = root_mean_square(lse.map(|(a, b)| a - b));
            let loss_error = (found.loss - expected.loss).abs();

            let [of_q, of_k, _] = batch.rows();
            let best = engine.top_k(of_q, of_k, 10, false)?;
            let of_rows = reference::top_k(q, k, 10, false);
            let common = of_rows
                .iter()
                .zip(best.indices.chunks(10))
                .map(|(row, found)| {
                    let is_found = |j: usize| found.contains(&(j as u32));
                    row.iter().filter(|&&(j, _)| is_found(j)).count()
                });
            let recall = common.sum::<usize>() as f64 / 640.0;
            println!(
                "| {name} | {dim} | {exact_sums:.1e} | {narrow_sums:.1e} | {:.3} | {loss_error:.1e} | {row_error:.1e} | {recall:.3} |",
                expected.loss
            );
            // Errors of elements are independent, so their squares add. An element of either row is off by 1/40 of
            // itself on average.
            let share = exact_sums * 40.0 * (dim as f64 / 2.0).sqrt();
            let what = format!("{name} {dim}");
            assert!((0.5..1.5).contains(&share), "{what}: {exact_sums:e}");
            assert!(narrow_sums < PRODUCT_BOUND, "{what}: {narrow_sums:e}");
            let allowed = 0.1 * PRODUCT_BOUND * SCALE;
            assert!(loss_error < allowed, "{what}: {loss_error:e}");
            assert!(recall > 0.5, "{what}: {recall}");
        }
    }
    Ok(())
}
