//! Memory of another library on a CUDA device: the engine is given an address, a shape and a stride, reads the
//! embeddings there and writes their gradients there. Only the loss is copied to the host.
//!
//! A buffer stands for the tensor of the other library, whose `data_ptr()` would be the address. Work of that library
//! belongs on the stream of `CudaDevice::with_raw_stream`.
//!
//! cargo run --features cuda --example cuda_rows

use infonce::cuda::{CudaBuffer, CudaEngine, CudaRows, CudaRowsMut};
use infonce::{Contrast, Engine, Error, Evaluation, Gradients, Inputs};

/// Two views of 48 images: row i and row i + 48 belong together.
pub const ROWS: usize = 96;
pub const DIM: usize = 32;
/// A row of the tensor: 16 other elements, the embedding, and its gradient.
pub const WIDTH: usize = 16 + 2 * DIM;
pub const EMBEDDING: usize = 16;
pub const GRADIENT: usize = 16 + DIM;
pub const TEMPERATURE: f32 = 0.5;

/// The tensor's elements before the call.
pub fn tensor() -> Vec<f32> {
    let element = |i: usize| ((i * i) as f32 * 0.37).sin() / 4.0;
    (0..ROWS * WIDTH).map(element).collect()
}

/// The loss, and the tensor with gradients in it.
pub fn run() -> Result<(f32, CudaBuffer<f32>), Error> {
    let engine = CudaEngine::new(0)?;
    let device = engine.device();
    let tensor = CudaBuffer::upload(device, &tensor())?;
    let column = |column: usize| tensor.address() + (column * size_of::<f32>()) as u64;

    // SAFETY: ROWS rows of DIM elements, WIDTH apart, lie within `tensor`, which is alive until the loss
    // has been read; only the engine's stream works on it.
    let z = unsafe { CudaRows::<f32>::from_raw(column(EMBEDDING), ROWS, DIM, WIDTH, device)? };
    // SAFETY: as above; no other view has these columns.
    let dz = unsafe { CudaRowsMut::<f32>::from_raw(column(GRADIENT), ROWS, DIM, WIDTH, device)? };

    let problem = Contrast::nt_xent(TEMPERATURE)?.on(Inputs::Shared { z })?;
    let value = engine.value_and_grad(&problem, 1.0, Gradients::new(dz, None))?;
    // Nothing has waited for the device so far; more kernels could follow. `loss` waits.
    Ok((value.loss()?, tensor))
}

fn main() -> Result<(), Error> {
    match run() {
        Ok((loss, tensor)) => {
            println!("NT-Xent of {ROWS} rows, D = {DIM}, {WIDTH} elements apart: {loss:.4} nats");
            println!(
                "gradients: columns {GRADIENT}..{WIDTH} of rows from {:#x}",
                tensor.address()
            );
        }
        Err(error @ Error::Unavailable { .. }) => println!("nothing to show: {error}"),
        Err(error) => return Err(error),
    }
    Ok(())
}
