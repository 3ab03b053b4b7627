//! Tests options that round the inputs further: results are off by that rounding, and by no more.

use half::{bf16, f16};
use infonce::cuda::{CudaBuffer, CudaDevice, CudaEngine};
use infonce::{Contrast, Element, Engine, Error, Evaluation, Gradients, Inputs, Read};

use super::Test;

pub const TESTS: &[(&str, Test)] = tests![
    products_of_tf32_are_off_by_their_rounding,
    scores_of_e4m3_are_within_their_bound_or_refused,
];

const ROWS: usize = 70;

/// Rows of length 1.
fn unit_rows<T: Element>(
    device: &CudaDevice,
    dim: usize,
    seed: usize,
) -> Result<CudaBuffer<T>, Error> {
    let element = |i: usize| (((i * i) % 9973 * 37 + seed * 101) as f32).sin();
    let mut rows: Vec<f32> = (0..ROWS * dim).map(element).collect();
    for row in rows.chunks_mut(dim) {
        let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.iter_mut().for_each(|x| *x /= length);
    }
    let rows: Vec<T> = rows.into_iter().map(T::from_f32).collect();
    CudaBuffer::upload(device, &rows)
}

fn largest(values: impl Iterator<Item = f32>) -> f32 {
    values.fold(0.0, |a, b| a.max(b.abs()))
}

/// Largest difference of finite elements.
fn difference(a: &[f32], b: &[f32]) -> f32 {
    largest(a.iter().zip(b).map(|(a, b)| a - b))
}

fn products_of_tf32_are_off_by_their_rounding(device: &CudaDevice) -> Result<(), Error> {
    // tf32 rounds each factor by at most 2⁻¹¹ of it. So a logit is off by at most s·2·2⁻¹¹·⟨|q|, |k|⟩, and a weight by
    // as much relative to itself; with mixed signs both are off by far less. Without the option f32 inputs are
    // multiplied as three tf32 products, whose error is below the lower bound.
    let judge = |what: &str, exact: &[f32], rounded: &[f32]| {
        assert!(rounded.iter().all(|element| element.is_finite()), "{what}");
        let share = difference(exact, rounded) / largest(exact.iter().copied());
        assert!((1e-5..1e-2).contains(&share), "{what}: {share}");
    };
    // D of the fused kernels of every size, and a D whose softmax weights are stored.
    for dim in [48, 128, 200, 300] {
        let (q, k) = (
            unit_rows::<f32>(device, dim, 1)?,
            unit_rows::<f32>(device, dim, 2)?,
        );
        let (q, k) = (q.rows(ROWS, dim)?, k.rows(ROWS, dim)?);
        for contrast in [Contrast::clip(5.0)?, Contrast::info_nce(0.2)?] {
            let run = |tf32| -> Result<_, Error> {
                let engine = CudaEngine::on(device.clone()).with_tf32(tf32);
                let mut dq = CudaBuffer::<f32>::zeroed(device, ROWS * dim)?;
                let mut dk = CudaBuffer::<f32>::zeroed(device, ROWS * dim)?;
                let gradients =
                    Gradients::new(dq.rows_mut(ROWS, dim)?, Some(dk.rows_mut(ROWS, dim)?));
                let problem = contrast.on(Inputs::pair(q, k))?;
                let value = engine.value_and_grad(&problem, 1.0, gradients)?;
                Ok((value.loss()?, dq.download()?, dk.download()?))
            };
            let (exact, rounded) = (run(false)?, run(true)?);
            judge(&format!("dq, D = {dim}"), &exact.1, &rounded.1);
            judge(&format!("dk, D = {dim}"), &exact.2, &rounded.2);
            approx::assert_abs_diff_eq!(exact.0, rounded.0, epsilon = 5e-3 * exact.0);
        }
        let best = |tf32| {
            let engine = CudaEngine::on(device.clone()).with_tf32(tf32);
            engine.top_k(q, k, 3, false)?.read()
        };
        judge(
            &format!("top-k, D = {dim}"),
            &best(false)?.scores,
            &best(true)?.scores,
        );
    }
    Ok(())
}

fn scores_of_e4m3_are_within_their_bound_or_refused(device: &CudaDevice) -> Result<(), Error> {
    scores_of_e4m3::<bf16>(device)?;
    scores_of_e4m3::<f16>(device)
}

fn scores_of_e4m3<T: Element>(device: &CudaDevice) -> Result<(), Error> {
    /// Error of a scalar product of unit rows: `CudaEngine::with_fp8_scores`.
    const BOUND: f32 = 0.13;
    let exact = CudaEngine::on(device.clone());
    let rounded = exact.clone().with_fp8_scores(true);
    let scale = 10.0;
    // D whose anchor rows stay in shared memory, and a D whose rows are too long for that.
    for dim in [128, 530] {
        let (q, k) = (
            unit_rows::<T>(device, dim, 1)?,
            unit_rows::<T>(device, dim, 2)?,
        );
        let (q, k) = (q.rows(ROWS, dim)?, k.rows(ROWS, dim)?);
        let problem = Contrast::clip(scale)?.on(Inputs::pair(q, k))?;
        if device.info().compute_capability != (9, 0) {
            let refused = [
                rounded.forward(&problem).err(),
                rounded.top_k(q, k, 3, false).err(),
            ];
            let is_refused =
                |error: &Option<Error>| matches!(error, Some(Error::Unsupported { .. }));
            assert!(refused.iter().all(is_refused), "{refused:?}");
            continue;
        }
        let [exactly, roughly] = [&exact, &rounded].map(|engine| -> Result<_, Error> {
            let forward = engine.forward(&problem)?.statistics().read()?;
            let best = engine.top_k(q, k, 3, false)?.read()?;
            Ok((forward.rows.negatives_lse, best.scores))
        });
        let (exactly, roughly) = (exactly?, roughly?);
        for (what, a, b, bound) in [
            ("lse", &exactly.0, &roughly.0, scale * BOUND),
            ("top-k", &exactly.1, &roughly.1, BOUND),
        ] {
            assert!(b.iter().all(|element| element.is_finite()), "{what}");
            let off = difference(a, b);
            assert!(off > 1e-5 && off <= bound, "{what}, D = {dim}: {off}");
        }
    }
    Ok(())
}
