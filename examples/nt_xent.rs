//! NT-Xent on plain slices: normalise the embeddings, compute loss and gradient, pass the gradient back through the
//! normalisation, and move the embeddings by gradient descent.
//!
//! cargo run --example nt_xent

use infonce::{Contrast, CpuEngine, Engine, Error, Gradients, Inputs, Rows, RowsMut};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Two views of 64 images: row i and row i + 64 belong together.
const ROWS: usize = 128;
const DIM: usize = 32;
const STEPS: usize = 30;
const LEARNING_RATE: f32 = 10.0;
/// Rows shorter than this are divided by it, not by their length.
const EPSILON: f32 = 1e-12;

/// The loss before each step. With an encoder, `x` would be its output, and `dx` would be passed back into it.
pub fn run() -> Result<Vec<f32>, Error> {
    let engine = CpuEngine::new();
    let contrast = Contrast::nt_xent(0.2)?;
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut x: Vec<f32> = (0..ROWS * DIM)
        .map(|_| random.random_range(-1.0..1.0))
        .collect();
    let (mut z, mut norms) = (vec![0.0; ROWS * DIM], vec![0.0; ROWS]);
    let (mut dz, mut dx) = (vec![0.0; ROWS * DIM], vec![0.0; ROWS * DIM]);

    let mut losses = Vec::new();
    for _ in 0..STEPS {
        let unit = RowsMut::new(&mut z, ROWS, DIM)?;
        engine.normalize(Rows::new(&x, ROWS, DIM)?, unit, &mut norms, EPSILON)?;

        let z = Rows::new(&z, ROWS, DIM)?;
        let problem = contrast.on(Inputs::Shared { z })?;
        let gradients = Gradients::new(RowsMut::new(&mut dz, ROWS, DIM)?, None);
        let value = engine.value_and_grad(&problem, 1.0, gradients)?;
        losses.push(value.loss);

        let dz = Rows::new(&dz, ROWS, DIM)?;
        engine.normalize_backward(z, &norms, dz, RowsMut::new(&mut dx, ROWS, DIM)?, EPSILON)?;
        for (x, dx) in x.iter_mut().zip(&dx) {
            *x -= LEARNING_RATE * dx;
        }
    }
    Ok(losses)
}

fn main() -> Result<(), Error> {
    println!("NT-Xent of 64 images in two views, D = {DIM}, temperature 0.2");
    println!("guessing: {:.3} nats", ((ROWS - 1) as f32).ln());
    for (step, loss) in run()?.iter().enumerate().step_by(3) {
        println!("step {step:2}: {loss:.3} nats");
    }
    Ok(())
}
