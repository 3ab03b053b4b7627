//! CLIP with a learned scale: gradient descent moves the embeddings of both encoders and the logarithm of the scale
//! 1/temperature, which is clamped after each step.
//!
//! cargo run --example clip

use infonce::losses::LogScale;
use infonce::{CpuEngine, Engine, Error, Gradients, Inputs, Rows, RowsMut};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Image i belongs to text i.
const PAIRS: usize = 64;
const DIM: usize = 32;
const STEPS: usize = 40;
/// The largest scale; CLIP's own is 100, which `LogScale::from_temperature` takes.
pub const MAX_SCALE: f32 = 20.0;

/// An encoder's embeddings, their unit rows and lengths, and the gradient of the unit rows.
struct Tower {
    x: Vec<f32>,
    unit: Vec<f32>,
    norms: Vec<f32>,
    d_unit: Vec<f32>,
}

impl Tower {
    fn new(random: &mut ChaCha8Rng) -> Self {
        let element = |_| random.random_range(-1.0..1.0);
        Self {
            x: (0..PAIRS * DIM).map(element).collect(),
            unit: vec![0.0; PAIRS * DIM],
            norms: vec![0.0; PAIRS],
            d_unit: vec![0.0; PAIRS * DIM],
        }
    }

    fn normalize(&mut self, engine: &CpuEngine) -> Result<(), Error> {
        let x = Rows::new(&self.x, PAIRS, DIM)?;
        let unit = RowsMut::new(&mut self.unit, PAIRS, DIM)?;
        engine.normalize(x, unit, &mut self.norms, 1e-12)
    }

    fn descend(&mut self, engine: &CpuEngine) -> Result<(), Error> {
        let unit = Rows::new(&self.unit, PAIRS, DIM)?;
        let d_unit = Rows::new(&self.d_unit, PAIRS, DIM)?;
        let mut dx = vec![0.0; PAIRS * DIM];
        let to = RowsMut::new(&mut dx, PAIRS, DIM)?;
        engine.normalize_backward(unit, &self.norms, d_unit, to, 1e-12)?;
        for (x, dx) in self.x.iter_mut().zip(dx) {
            *x -= 2.0 * dx;
        }
        Ok(())
    }
}

/// Loss and scale before each step.
pub fn run() -> Result<Vec<(f32, f32)>, Error> {
    let engine = CpuEngine::new();
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let [mut images, mut texts] = [Tower::new(&mut random), Tower::new(&mut random)];
    let mut log_scale = LogScale::with_max_scale(0.07, MAX_SCALE)?;

    let mut steps = Vec::new();
    for _ in 0..STEPS {
        images.normalize(&engine)?;
        texts.normalize(&engine)?;
        let problem = log_scale.contrast()?.on(Inputs::pair(
            Rows::new(&images.unit, PAIRS, DIM)?,
            Rows::new(&texts.unit, PAIRS, DIM)?,
        ))?;
        let gradients = Gradients::new(
            RowsMut::new(&mut images.d_unit, PAIRS, DIM)?,
            Some(RowsMut::new(&mut texts.d_unit, PAIRS, DIM)?),
        );
        let value = engine.value_and_grad(&problem, 1.0, gradients)?;
        steps.push((value.loss, log_scale.scale()));

        images.descend(&engine)?;
        texts.descend(&engine)?;
        log_scale.step(-0.5 * log_scale.gradient(value.dscale));
    }
    Ok(steps)
}

fn main() -> Result<(), Error> {
    println!("CLIP of {PAIRS} pairs, D = {DIM}, from temperature 0.07, scale at most {MAX_SCALE}");
    for (step, (loss, scale)) in run()?.iter().enumerate().step_by(3) {
        println!("step {step:2}: {loss:.3} nats, scale {scale:.2}");
    }
    Ok(())
}
