//! A whole step of training as launches that are the same each time, so that a graph can hold them:
//!
//! ```text
//! normalize            of the anchors, and of the keys
//! value_and_grad       of the unit rows
//! normalize_backward   to the gradients of what was normalised
//! momentum_update      of the key encoder's parameters
//! enqueue              of the keys
//! ```
//! Scale, momentum and the queue's cursor change from step to step, and lie in device memory. Everything else is
//! allocated and written before the first launch.

use super::held::Held;
use super::rowwise::MomentumTable;
use super::{Device, DeviceMatrix, DeviceMomentum, Floats, Results, Rowwise, Similarity, count};
use crate::element::DType;
use crate::engine::Gradients;
use crate::error::{Error, positive};
use crate::inputs::Problem;
use crate::momentum;

/// The arguments of a step. The caller's memory stays allocated as long as the step is used.
pub(crate) struct StepArguments<'a> {
    /// The problem on rows that are not normalised. The rows of the queue are: they are the whole ring. Unless the
    /// problem has a scale on the device, the step keeps the contrast's there.
    pub problem: &'a Problem<DeviceMatrix>,
    /// The row of the ring that the next key goes to.
    pub cursor: usize,
    /// With respect to the inputs as they come, before they are normalised.
    pub gradients: &'a Gradients<DeviceMatrix>,
    pub upstream: f32,
    pub epsilon: f32,
    /// m at first, the type of the query encoder's parameters, and the tensors.
    pub momentum: Option<(f32, DType, &'a [DeviceMomentum])>,
}

/// A step with all the memory that it takes between its launches.
pub(crate) struct Step<D: Device> {
    sides: Vec<Side>,
    /// On the unit rows of all sides.
    problem: Problem<DeviceMatrix>,
    /// With respect to the unit rows.
    gradients: Gradients<DeviceMatrix>,
    tensors: Option<MomentumTable<D>>,
    upstream: f32,
    epsilon: f32,
    /// s, m, and the queue's cursor, the row of the next key, as the bits of a u32.
    numbers: Floats<D>,
    /// The address of s, in `numbers` or in the caller's memory.
    scale: u64,
    _held: Vec<D::Buffer>,
}

/// A matrix that is normalised on the way in, and its gradient on the way out.
#[derive(Debug, Clone, Copy)]
struct Side {
    given: DeviceMatrix,
    unit: DeviceMatrix,
    norms: u64,
    /// With respect to the unit rows, and to the rows as given.
    gradients: Option<[DeviceMatrix; 2]>,
}

impl<D: Device> Step<D> {
    /// Checks the arguments, allocates and writes.
    pub(crate) fn new(device: &D, arguments: &StepArguments<'_>) -> Result<Self, Error> {
        let (problem, gradients) = (arguments.problem, arguments.gradients);
        problem.check_gradients(&gradients.dq, gradients.dk.as_ref())?;
        if gradients.accumulate {
            return Err(Error::Unsupported {
                option: "gradients.accumulate",
                reason: "a step overwrites the gradients of rows before they are normalised",
            });
        }
        let epsilon = positive("epsilon", arguments.epsilon)?;
        let m = momentum::check(arguments.momentum.map_or(0.0, |(m, ..)| m))?;
        let mut held = Held::new(device);
        let of_unit = Gradients::new(
            held.like(gradients.dq)?,
            gradients.dk.map(|dk| held.like(dk)).transpose()?,
        );
        let cursor = count("queue", arguments.cursor)?;
        let numbers = [problem.contrast().scale(), m, f32::from_bits(cursor)];
        let numbers = Floats::written(device, &numbers)?;
        let scale = problem.scale().unwrap_or(numbers.address());
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
            |&scale| Ok(scale),
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
            numbers,
            scale,
            _held: held.buffers,
        })
    }

    /// The step, on the device that it was made for.
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
            rowwise.update(tensors, 0.0, self.numbers.at(1))?;
        }
        let matrices = self.problem.matrices();
        if let Some(own_keys) = matrices.own_keys {
            rowwise.enqueue(own_keys, matrices.candidates, self.numbers.at(2))?;
        }
        Ok(results)
    }

    /// s of the launches from now on.
    pub(crate) fn set_scale(&self, device: &D, scale: f32) -> Result<(), Error> {
        positive("scale", scale)?;
        device.write(self.scale, &scale.to_ne_bytes())
    }

    /// m of the launches from now on.
    pub(crate) fn set_momentum(&self, device: &D, m: f32) -> Result<(), Error> {
        momentum::check(m)?;
        device.write(self.numbers.at(1), &m.to_ne_bytes())
    }
}
