//! MoCo: gradient descent trains a query encoder, a key encoder follows it with momentum, and a queue of earlier keys
//! holds the negatives. At the end the queue is saved and restored.
//!
//! An image has 16 values: its two views share the first 8, the others are noise. The encoder multiplies each value by
//! a weight, and learns to ignore the noise.
//!
//! cargo run --example moco

use infonce::{
    Contrast, CpuEngine, Engine, Error, Gradients, Inputs, KeyQueue, Matrix, MomentumSchedule,
    MomentumTensor, Rows, RowsMut,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const BATCH: usize = 32;
const DIM: usize = 16;
pub const CAPACITY: usize = 256;
const STEPS: u64 = 100;

/// Unit embeddings, and the embeddings' lengths.
fn encode(engine: &CpuEngine, images: &[f32], weights: &[f32]) -> Result<[Vec<f32>; 2], Error> {
    let weights = weights.iter().cycle();
    let x: Vec<f32> = images.iter().zip(weights).map(|(x, w)| x * w).collect();
    let (mut unit, mut norms) = (vec![0.0; x.len()], vec![0.0; BATCH]);
    let rows = RowsMut::new(&mut unit, BATCH, DIM)?;
    engine.normalize(Rows::new(&x, BATCH, DIM)?, rows, &mut norms, 1e-12)?;
    Ok([unit, norms])
}

/// Keys in the queue and the loss, before each step but the first.
pub type Steps = Vec<(usize, f32)>;

/// Trains; returns the course, and the queue at the end.
pub fn run() -> Result<(Steps, KeyQueue<f32>), Error> {
    let engine = CpuEngine::new();
    let contrast = Contrast::moco(0.2)?;
    let momentum = MomentumSchedule::cosine(0.9, STEPS)?;
    let mut queue = KeyQueue::new(CAPACITY, DIM)?;
    let (mut weights, mut key_weights) = (vec![1.0; DIM], vec![1.0; DIM]);
    let (mut dq, mut dx) = (vec![0.0; BATCH * DIM], vec![0.0; BATCH * DIM]);
    let mut random = ChaCha8Rng::seed_from_u64(2);
    let mut value = || random.random_range(-1.0..1.0);

    let mut steps = Vec::new();
    for step in 0..STEPS {
        let images: Vec<f32> = (0..BATCH * DIM).map(|_| value()).collect();
        let mut others = images.clone();
        for view in others.chunks_mut(DIM) {
            view[DIM / 2..].fill_with(&mut value);
        }
        let [q, norms] = encode(&engine, &images, &weights)?;
        let [keys, _] = encode(&engine, &others, &key_weights)?;
        let (q, own_key) = (Rows::new(&q, BATCH, DIM)?, Rows::new(&keys, BATCH, DIM)?);

        if let Some(queue) = queue.filled() {
            let problem = contrast.on(Inputs::Queue { q, own_key, queue })?;
            let gradients = Gradients::new(RowsMut::new(&mut dq, BATCH, DIM)?, None);
            let evaluation = engine.value_and_grad(&problem, 1.0, gradients)?;
            steps.push((queue.rows(), evaluation.loss));
            let to = RowsMut::new(&mut dx, BATCH, DIM)?;
            engine.normalize_backward(q, &norms, Rows::new(&dq, BATCH, DIM)?, to, 1e-12)?;
            for (i, (x, dx)) in images.iter().zip(&dx).enumerate() {
                weights[i % DIM] -= 0.2 * x * dx;
            }
        }
        let tensor = MomentumTensor {
            query: &weights[..],
            key: &mut key_weights[..],
            shadow: None,
        };
        engine.momentum_update(momentum.at(step), &mut [tensor])?;
        engine.enqueue(&mut queue, own_key)?;
    }
    Ok((steps, queue))
}

/// Restores the queue from what a checkpoint would hold: four integers and the keys.
pub fn restored(queue: &KeyQueue<f32>) -> Result<KeyQueue<f32>, Error> {
    let keys = queue.filled().map(|keys| keys.contiguous());
    let keys = keys.unwrap_or_default();
    KeyQueue::restore(CAPACITY, DIM, queue.fill(), queue.cursor(), &keys)
}

fn main() -> Result<(), Error> {
    let (steps, queue) = run()?;
    println!("MoCo in batches of {BATCH}, D = {DIM}, temperature 0.2");
    for (step, (keys, loss)) in steps.iter().enumerate().step_by(4) {
        println!("step {:2}: {keys:3} keys, {loss:.3} nats", step + 1);
    }
    let same = restored(&queue)? == queue;
    println!("the restored queue is the saved one: {same}");
    Ok(())
}
