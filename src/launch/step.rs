//! A whole step of training as launches that are the same each time, so that a graph can hold them:
//!
//! ```text
//! normalize            anchors and keys become unit rows
//! value_and_grad       loss, and gradients with respect to the unit rows
//! normalize_backward   gradients with respect to the rows before normalisation
//! momentum_update      the key encoder's parameters
//! enqueue              the keys' unit rows
//! ```
//! Scale, momentum and the queue's cursor change from step to step, so they lie in device memory. Everything else is
//! allocated and written before the first launch.

use super::held::Held;
use super::rowwise::MomentumTable;
use super::{Device, DeviceMatrix, DeviceMomentum, Floats, Results, Rowwise, Similarity, count};
use crate::element::DType;
use crate::error::{Error, positive};
use crate::gradients::{Accumulate, Gradients};
use crate::momentum;
use crate::problem::Problem;

/// The arguments of a step. The caller's memory stays allocated as long as the step is used.
pub(crate) struct StepArguments<'a> {
    /// The problem on rows before normalisation. A queue's keys are unit rows already, and fill the ring. Where the
    /// problem has no scale on the device, the step copies the contrast's there.
    pub problem: &'a Problem<DeviceMatrix>,
    /// The row of the ring that the next key goes to.
    pub cursor: usize,
    /// With respect to the rows before normalisation.
    pub gradients: &'a Gradients<DeviceMatrix>,
    pub upstream: f32,
    pub epsilon: f32,
    /// The first m, the type of the query encoder's parameters, and the tensors.
    pub momentum: Option<(f32, DType, &'a [DeviceMomentum])>,
}

/// A step, with the memory that passes data between its launches.
pub(crate) struct Step<D: Device> {
    sides: Vec<Side>,
    /// The problem on the unit rows.
    problem: Problem<DeviceMatrix>,
    /// With respect to the unit rows.
    gradients: Gradients<DeviceMatrix>,
    tensors: Option<MomentumTable<D>>,
    upstream: f32,
    epsilon: f32,
    /// Three words: s, m, and the queue's cursor (the row of the next key, the bits of a u32).
    state: Floats<D>,
    /// The address of s, in `state` or in the caller's memory.
    scale: u64,
    _held: Vec<D::Buffer>,
}

/// A matrix that the step normalises, and its gradients.
#[derive(Debug, Clone, Copy)]
struct Side {
    given: DeviceMatrix,
    unit: DeviceMatrix,
    norms: u64,
    /// With respect to the unit rows, and to the given rows.
    gradients: Option<[DeviceMatrix; 2]>,
}

impl<D: Device> Step<D> {
    /// Checks the arguments, allocates the memory and writes s, m, the cursor and the table of tensors.
    pub(crate) fn new(device: &D, arguments: &StepArguments<'_>) -> Result<Self, Error> {
        let (problem, gradients) = (arguments.problem, arguments.gradients);
        problem.check_gradients(gradients)?;
        if gradients.accumulate != Accumulate::default() {
            return Err(Error::Unsupported {
                option: "gradients.accumulate",
                reason: "a step overwrites the gradients of rows before they are normalised",
            });
        }
        let epsilon = positive("epsilon", arguments.epsilon)?;
        let m = momentum::check(arguments.momentum.map_or(0.0, |(m, ..)| m))?;
        let mut held = Held::new(device);
        let of_unit = Gradients {
            dq: held.like(gradients.dq)?,
            dk: gradients.dk.map(|dk| held.like(dk)).transpose()?,
            ..*gradients
        };
        let cursor = count("queue", arguments.cursor)?;
        let state = [problem.contrast().scale(), m, f32::from_bits(cursor)];
        let state = Floats::written(device, &state)?;
        let scale = problem.scale().unwrap_or(state.address());
        let mut sides = Vec::new();
        let unit = problem.try_map(
            |name, &given| {
                let gradients = match name {
                    "queue" => return Ok(given),
                    "z" | "q" => Some([of_unit.dq, gradients.dq]),
                    _ => of_unit.dk.zip(gradients.dk).map(<[_; 2]>::from),
                };
                let unit = held.like(given)?;
                sides.push(Side {
                    given,
                    unit,
                    norms: held.unwritten(4 * given.rows)?,
                    gradients,
                });
                Ok(unit)
            },
            |_, &index| Ok(index),
            |_, &floats| Ok(floats),
            |_, &scalar| Ok(scalar),
        )?;
        let tensors = arguments
            .momentum
            .map(|(_, dtype, tensors)| Rowwise::new(device).momentum_table(dtype, tensors));
        Ok(Self {
            problem: unit.with_scale(scale),
            gradients: of_unit,
            sides,
            tensors: tensors.transpose()?,
            upstream: arguments.upstream,
            epsilon,
            state,
            scale,
            _held: held.buffers,
        })
    }

    /// Launches the step, on the device of [`new`](Self::new).
    pub(crate) fn launch(&self, similarity: Similarity<'_, D>) -> Result<Results<D>, Error> {
        let rowwise = Rowwise::new(similarity.device);
        for side in &self.sides {
            let norms = (side.norms, side.given.rows);
            rowwise.normalize(side.given, side.unit, norms, self.epsilon)?;
        }
        let results = similarity.value_and_grad(&self.problem, self.upstream, &self.gradients)?;
        for side in &self.sides {
            if let Some([dy, dx]) = side.gradients {
                let norms = (side.norms, side.given.rows);
                rowwise.normalize_backward(side.unit, norms, dy, dx, self.epsilon)?;
            }
        }
        if let Some(tensors) = &self.tensors {
            rowwise.update(tensors, 0.0, self.state.at(1))?;
        }
        let matrices = self.problem.matrices();
        if let Some(own_keys) = matrices.own_keys {
            rowwise.enqueue(own_keys, matrices.candidates, self.state.at(2))?;
        }
        Ok(results)
    }

    /// Sets s for the following launches.
    pub(crate) fn set_scale(&self, device: &D, scale: f32) -> Result<(), Error> {
        positive("scale", scale)?;
        device.write(self.scale, &scale.to_ne_bytes())
    }

    /// Sets m for the following launches.
    pub(crate) fn set_momentum(&self, device: &D, m: f32) -> Result<(), Error> {
        momentum::check(m)?;
        device.write(self.state.at(1), &m.to_ne_bytes())
    }
}
