//! The launch layer in the emulator: what the conformance suite does not see.

mod calls;
mod exponentials;
mod fp8;
mod options;
mod pairs;
mod quantize;
mod rowwise;
mod rules;
mod shards;
mod step;
mod top_k;
mod triplet;
mod two_terms;
mod workspace;

use half::bf16;

use super::{DeviceMatrix, DeviceVector, Similarity};
use crate::contrast::{Contrast, Shape};
use crate::element::{DType, Element};
use crate::emulator::tests::{EmulatedDevice, Memory};
use crate::emulator::{EmulatedEngine, Schedule};
use crate::error::Error;
use crate::gradients::Gradients;
use crate::memory::Evaluated;
use crate::positives::Positives;
use crate::problem::Problem;
use crate::reference::{self, Dense, Reference};
use crate::rows::{Rows, RowsMut, View};
use crate::statistics::Statistics;

/// Elements between -1 and 1 that do not repeat.
fn numbers<T: Element>(rows: usize, dim: usize, seed: usize) -> Vec<T> {
    let number = |i: usize| ((i * 37 + seed * 101) as f32).sin();
    (0..rows * dim).map(|i| T::from_f32(number(i))).collect()
}

/// A loss of every layout, and one of both directions.
fn contrasts() -> Result<[Contrast; 4], Error> {
    Ok([
        Contrast::nt_xent(0.1)?,
        Contrast::info_nce(0.1)?,
        Contrast::moco(0.1)?,
        Contrast::clip(10.0)?,
    ])
}

/// The index of a positive for each anchor.
fn index(anchors: usize, candidates: usize) -> Vec<u32> {
    (0..anchors).map(|i| (i * i % candidates) as u32).collect()
}

/// A device of `sm_count` SMs, for the portable kernels or for those of sm_90a.
fn device(schedule: Schedule, seed: u64, sm_count: u32, hopper: bool) -> EmulatedDevice {
    let mut device = EmulatedDevice::new(schedule, seed, sm_count);
    device.warpgroups = hopper;
    device
}

fn engine(schedule: Schedule, seed: u64, hopper: bool) -> EmulatedEngine {
    let engine = EmulatedEngine::new(schedule, seed);
    match hopper {
        true => engine.with_hopper_kernels(),
        false => engine,
    }
}

/// The result of `run`. Asserts that it is the same under every schedule and in several orders of threads.
fn in_every_order<R: PartialEq + std::fmt::Debug>(
    what: &str,
    run: impl Fn(Schedule, u64) -> Result<R, Error>,
) -> Result<R, Error> {
    let early = run(Schedule::Early, 0)?;
    for (schedule, seed) in [
        (Schedule::Late, 1),
        (Schedule::Mixed, 2),
        (Schedule::Mixed, 3),
    ] {
        assert_eq!(run(schedule, seed)?, early, "{what}, {schedule:?}");
    }
    Ok(early)
}

/// ‖x - y‖ / ‖y‖.
fn relative_error(x: &[f32], y: &[f64]) -> f64 {
    let square = |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|x| x * x).sum::<f64>();
    assert_eq!(x.len(), y.len());
    let mut differences = x.iter().zip(y).map(|(x, y)| f64::from(*x) - y);
    (square(&mut differences) / square(&mut y.iter().copied())).sqrt()
}

// ---- In host memory

/// The problem of a contrast on q, candidates and own keys. A loss with columns takes the own keys as candidates.
fn pose<V: View>(
    contrast: &Contrast,
    [q, k, own]: [V; 3],
    positives: Positives<V::Indices>,
) -> Result<Problem<V>, Error> {
    let k = if contrast.has_columns() { own } else { k };
    contrast.pose([q, k, own], positives)
}

/// q, candidates and own keys.
struct Batch<T> {
    numbers: [Vec<T>; 3],
    dim: usize,
}

impl<T: Element> Batch<T> {
    /// Elements do not repeat.
    fn new(anchors: usize, candidates: usize, dim: usize) -> Self {
        let rows = [(anchors, 1), (candidates, 2), (anchors, 3)];
        let numbers = rows.map(|(rows, seed)| numbers(rows, dim, seed));
        Self { numbers, dim }
    }

    fn rows(&self) -> [Rows<'_, T>; 3] {
        let matrices = self.numbers.each_ref();
        matrices.map(|x| Rows::new(x, x.len() / self.dim, self.dim).expect("whole rows"))
    }

    fn problem<'a>(
        &'a self,
        contrast: &Contrast,
        positives: Positives<&'a [u32]>,
    ) -> Result<Problem<Rows<'a, T>>, Error> {
        pose(contrast, self.rows(), positives)
    }

    fn exact(&self) -> [Dense; 3] {
        self.rows().map(Dense::from_rows)
    }

    /// The reference's result.
    fn expected(
        &self,
        contrast: &Contrast,
        positives: Positives<&[u32]>,
    ) -> Result<Reference, Error> {
        let exact = self.exact();
        let problem = pose(contrast, exact.each_ref(), positives)?;
        Ok(reference::value_and_grad(&problem, 1.0))
    }
}

/// The result of a call, and dq and dk, which are NaN before it. dk is empty where the loss has none.
fn with_gradients<T: Element, G: Element, R>(
    problem: &Problem<Rows<'_, T>>,
    call: impl FnOnce(Gradients<RowsMut<'_, G>>) -> Result<R, Error>,
) -> Result<(R, [Vec<G>; 2]), Error> {
    let shape = problem.shape();
    let rows = [
        shape.anchors,
        usize::from(problem.contrast().has_dk()) * shape.candidates,
    ];
    let mut all = rows.map(|rows| vec![G::from_f32(f32::NAN); rows * shape.dim]);
    let [dq, dk] = &mut all;
    let dk = match rows[1] {
        0 => None,
        candidates => Some(RowsMut::new(dk, candidates, shape.dim)?),
    };
    let dq = RowsMut::new(dq, shape.anchors, shape.dim)?;
    let result = call(Gradients::new(dq, dk))?;
    Ok((result, all))
}

/// Loss and lse⁻ of rows and columns.
#[derive(Debug, Default)]
struct Values {
    loss: f64,
    negatives_lse: Vec<f64>,
}

impl Values {
    fn found(evaluated: &Evaluated) -> Self {
        let Statistics { rows, columns } = &evaluated.statistics;
        let all = [Some(rows), columns.as_ref()].into_iter().flatten();
        let lse = all.flat_map(|direction| &direction.negatives_lse);
        Self {
            loss: f64::from(evaluated.loss),
            negatives_lse: lse.map(|&lse| f64::from(lse)).collect(),
        }
    }

    /// Logits are those of the `multiplied` rows, z₊ that of the `exact` rows.
    fn expected(
        contrast: &Contrast,
        [exact, multiplied]: [&[Dense; 3]; 2],
        positives: Positives<&[u32]>,
    ) -> Result<Self, Error> {
        let of = |matrices: &[Dense; 3]| -> Result<_, Error> {
            let problem = pose(contrast, matrices.each_ref(), positives)?;
            let Reference { rows, columns, .. } = reference::value_and_grad(&problem, 1.0);
            Ok([Some(rows), columns].into_iter().flatten())
        };
        let mut values = Self::default();
        for (exact, multiplied) in of(exact)?.zip(of(multiplied)?) {
            let weight = contrast.row_weight(exact.positive.len());
            for (lse, positive) in multiplied.negatives_lse.iter().zip(&exact.positive) {
                let margin = lse - positive;
                values.loss += weight * (margin.max(0.0) + (-margin.abs()).exp().ln_1p());
                values.negatives_lse.push(*lse);
            }
        }
        Ok(values)
    }
}

// ---- In the emulator's memory

/// Anchors and candidates of bf16, and their gradients; own keys are the anchors.
struct Fixture {
    memory: Memory,
    q: DeviceMatrix,
    k: DeviceMatrix,
    gradients: Gradients<DeviceMatrix>,
}

const ROWS: usize = 70;

/// The value, and the bits of dq and dk.
type Left = (Evaluated, Vec<u32>);

impl Fixture {
    /// For the portable kernels; as many candidates as anchors.
    fn square(dim: usize) -> Result<Self, Error> {
        Self::new(device(Schedule::Late, 5, 3, false), [ROWS, ROWS, dim], 0)
    }

    fn new(
        device: EmulatedDevice,
        [anchors, candidates, dim]: [usize; 3],
        gap: usize,
    ) -> Result<Self, Error> {
        let memory = Memory::on(device);
        let gradient = |rows| memory.matrix([rows, dim], DType::F32, gap);
        Ok(Self {
            q: memory.given::<bf16>(&numbers(anchors, dim, 1), dim, gap)?,
            k: memory.given::<bf16>(&numbers(candidates, dim, 2), dim, gap)?,
            gradients: Gradients::new(gradient(anchors)?, Some(gradient(candidates)?)),
            memory,
        })
    }

    fn pose(
        &self,
        contrast: &Contrast,
        positives: Positives<DeviceVector>,
    ) -> Result<Problem<DeviceMatrix>, Error> {
        contrast.pose([self.q, self.k, self.q], positives)
    }

    /// On the diagonal.
    fn problem(&self, contrast: &Contrast) -> Result<Problem<DeviceMatrix>, Error> {
        self.pose(contrast, Positives::DIAGONAL)
    }

    /// The results of value_and_grad.
    fn run(&self, problem: &Problem<DeviceMatrix>) -> Result<Left, Error> {
        let device = &self.memory.device;
        let results = Similarity::new(device, 0).value_and_grad(problem, 1.0, &self.gradients)?;
        Ok((results.read(device)?, self.gradients()?))
    }

    /// Bits of dq and dk.
    fn gradients(&self) -> Result<Vec<u32>, Error> {
        let mut bits = Vec::new();
        for matrix in [Some(self.gradients.dq), self.gradients.dk]
            .into_iter()
            .flatten()
        {
            let numbers = self.memory.elements::<f32>(matrix)?;
            bits.extend(numbers.into_iter().map(f32::to_bits));
        }
        Ok(bits)
    }
}
