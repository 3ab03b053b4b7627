//! Tests the CUDA programs in `examples/`.

#[expect(dead_code, reason = "`main` prints what `run` returns")]
#[path = "../../examples/cuda_rows.rs"]
mod cuda_rows;
#[expect(dead_code, reason = "`main` prints what `run` returns")]
#[path = "../../examples/cuda_step.rs"]
mod cuda_step;
#[expect(dead_code, reason = "`main` prints what `run` returns")]
#[path = "../../examples/nt_xent.rs"]
mod nt_xent;

use approx::assert_abs_diff_eq;
use infonce::cuda::CudaDevice;
use infonce::{Contrast, CpuEngine, Engine, Error, Gradients, Inputs, Rows, RowsMut};

use super::Test;
use cuda_rows::{DIM, EMBEDDING, GRADIENT, ROWS, TEMPERATURE, WIDTH};

pub const TESTS: &[(&str, Test)] = tests![
    the_example_cuda_rows_leaves_the_cpus_gradients,
    the_example_cuda_step_descends_as_nt_xent_does,
];

fn the_example_cuda_rows_leaves_the_cpus_gradients(_: &CudaDevice) -> Result<(), Error> {
    let (loss, tensor) = cuda_rows::run()?;
    let before = cuda_rows::tensor();
    let z: Vec<f32> = before
        .chunks(WIDTH)
        .flat_map(|row| &row[EMBEDDING..][..DIM])
        .copied()
        .collect();
    let mut dz = vec![0.0f32; ROWS * DIM];
    let z = Rows::new(&z, ROWS, DIM)?;
    let gradients = Gradients::new(RowsMut::new(&mut dz, ROWS, DIM)?, None);
    let problem = Contrast::nt_xent(TEMPERATURE)?.on(Inputs::Shared { z })?;
    let value = CpuEngine::new().value_and_grad(&problem, 1.0, gradients)?;
    assert_abs_diff_eq!(loss, value.loss, epsilon = 1e-5 * value.loss);

    let mut expected = before;
    for (row, dz) in expected.chunks_mut(WIDTH).zip(dz.chunks(DIM)) {
        row[GRADIENT..][..DIM].copy_from_slice(dz);
    }
    let found = tensor.download()?;
    let largest = dz.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    assert_abs_diff_eq!(found[..], expected[..], epsilon = 1e-5 * largest);
    // Other columns keep their bits.
    let others = |tensor: &[f32]| -> Vec<u32> {
        let rows = tensor.chunks(WIDTH).flat_map(|row| &row[..GRADIENT]);
        rows.map(|x| x.to_bits()).collect()
    };
    assert_eq!(others(&found), others(&expected));
    Ok(())
}

/// The two examples have the same rows, sizes and rate.
fn the_example_cuda_step_descends_as_nt_xent_does(_: &CudaDevice) -> Result<(), Error> {
    let expected: Vec<f32> = nt_xent::run()?
        .into_iter()
        .step_by(cuda_step::EVERY)
        .collect();
    assert_abs_diff_eq!(cuda_step::run()?[..], expected[..], epsilon = 1e-4);
    Ok(())
}
