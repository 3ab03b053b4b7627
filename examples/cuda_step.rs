//! A step of training recorded into one CUDA graph: normalise, NT-Xent and its gradient, the gradient of the
//! normalisation. A launch of the graph is one call of the driver, which waits for nothing.
//!
//! Gradient descent runs on the CPU here, so gradients are downloaded after each launch. With an encoder on the device
//! they stay there, and only the loss is read, every few steps.
//!
//! cargo run --features cuda --example cuda_step

use infonce::cuda::{CudaBuffer, CudaEngine, StepInputs};
use infonce::{Contrast, Error, Gradients};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Two views of 64 images: row i and row i + 64 belong together.
const ROWS: usize = 128;
const DIM: usize = 32;
const STEPS: usize = 30;
pub const EVERY: usize = 5;
const LEARNING_RATE: f32 = 10.0;

/// The loss of each `EVERY`-th step.
pub fn run() -> Result<Vec<f32>, Error> {
    let engine = CudaEngine::new(0)?;
    let device = engine.device();
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut x: Vec<f32> = (0..ROWS * DIM)
        .map(|_| random.random_range(-1.0..1.0))
        .collect();

    let mut z = CudaBuffer::<f32>::zeroed(device, ROWS * DIM)?;
    let mut dz = CudaBuffer::<f32>::zeroed(device, ROWS * DIM)?;
    let inputs = StepInputs::Shared {
        z: z.rows_mut(ROWS, DIM)?,
    };
    let gradients = Gradients::new(dz.rows_mut(ROWS, DIM)?, None);
    let mut step = engine
        .step(&Contrast::nt_xent(0.2)?, inputs, gradients)
        .record()?;

    let mut losses = Vec::new();
    for number in 0..STEPS {
        step.anchors_mut().upload(device, &x)?;
        step.launch()?;
        if number % EVERY == 0 {
            losses.push(step.loss()?);
        }
        for (x, dx) in x.iter_mut().zip(step.gradients().dq.download(device)?) {
            *x -= LEARNING_RATE * dx;
        }
    }
    Ok(losses)
}

fn main() -> Result<(), Error> {
    match run() {
        Ok(losses) => {
            println!("NT-Xent of 64 images in two views, D = {DIM}, as one graph");
            for (i, loss) in losses.iter().enumerate() {
                println!("launch {:2}: {loss:.3} nats", i * EVERY);
            }
        }
        Err(error @ Error::Unavailable { .. }) => println!("nothing to show: {error}"),
        Err(error) => return Err(error),
    }
    Ok(())
}
