//! A whole step of training as launches that are the same each time, so that a graph can hold them:
//!
//! ```text
//! normalize            of the anchors, and of the keys
//! value_and_grad       of the unit rows
//! normalize_backward   to the gradients of what was normalised
//! momentum_update      of the key encoder's parameters
//! enqueue              of the keys
//! ```
//! What changes from step to step (scale, momentum, where the queue's next key goes) stands in device
//! memory; everything else is allocated and written before the first launch.

use super::rowwise::MomentumTable;
use super::{
    Device, DeviceMatrix, DeviceMomentum, Results, Rowwise, Similarity, count, number_bytes,
};
use crate::contrast::{Contrast, Inputs};
use crate::element::DType;
use crate::engine::Gradients;
use crate::error::{Error, positive};
use crate::momentum;

/// What a step works on. The caller's memory stays where it is as long as the step is used.
pub(crate) struct StepArguments<'a> {
    pub contrast: &'a Contrast,
    /// Not normalised, but for the queue, whose rows are the whole ring.
    pub inputs: Inputs<DeviceMatrix>,
    /// The row of the ring that the next key goes to.
    pub cursor: usize,
    /// Of the inputs as they come, before they are normalised.
    pub gradients: &'a Gradients<DeviceMatrix>,
    pub upstream: f32,
    pub epsilon: f32,
    /// Where s stands on the device; without it the step has a place of its own, with the contrast's.
    pub scale: Option<u64>,
    /// m at first, the type of the query encoder's parameters, and the tensors.
    pub momentum: Option<(f32, DType, &'a [DeviceMomentum])>,
}

/// A step with all the memory that it takes between its launches.
pub(crate) struct Step<D: Device> {
    contrast: Contrast,
    sides: Vec<Side>,
    /// The unit rows of all sides.
    inputs: Inputs<DeviceMatrix>,
    /// Of the unit rows.
    gradients: Gradients<DeviceMatrix>,
    tensors: Option<MomentumTable<D>>,
    upstream: f32,
    epsilon: f32,
    /// Where s, m and the row of the queue that the next key goes to stand.
    scale: u64,
    momentum: u64,
    cursor: u64,
    _held: Vec<D::Buffer>,
}

/// A matrix that is normalised on the way in, and its gradient on the way out.
#[derive(Debug, Clone, Copy)]
struct Side {
    given: DeviceMatrix,
    unit: DeviceMatrix,
    norms: u64,
    /// Of the unit rows, and of the rows as given.
    gradients: Option<[DeviceMatrix; 2]>,
}

/// Memory that a step keeps.
struct Kept<'d, D: Device> {
    device: &'d D,
    buffers: Vec<D::Buffer>,
}

impl<D: Device> Kept<'_, D> {
    fn room(&mut self, bytes: usize) -> Result<u64, Error> {
        let buffer = self.device.allocate(bytes)?;
        let address = D::address(&buffer);
        self.buffers.push(buffer);
        Ok(address)
    }

    fn written(&mut self, words: &[u32]) -> Result<u64, Error> {
        let bytes = bytemuck::cast_slice(words);
        let address = self.room(bytes.len())?;
        self.device.write(address, bytes)?;
        Ok(address)
    }

    /// Room for a matrix of the same shape and type, without gaps.
    fn beside(&mut self, matrix: DeviceMatrix) -> Result<DeviceMatrix, Error> {
        let bytes = matrix.rows * matrix.dim * number_bytes(matrix.dtype);
        Ok(DeviceMatrix {
            address: self.room(bytes)?,
            stride: matrix.dim,
            ..matrix
        })
    }

    fn side(
        &mut self,
        given: DeviceMatrix,
        gradients: Option<[DeviceMatrix; 2]>,
    ) -> Result<Side, Error> {
        Ok(Side {
            given,
            unit: self.beside(given)?,
            norms: self.room(4 * given.rows)?,
            gradients,
        })
    }
}

impl<D: Device> Step<D> {
    /// Checks the arguments, allocates and writes.
    pub(crate) fn new(device: &D, arguments: &StepArguments<'_>) -> Result<Self, Error> {
        let (contrast, gradients) = (arguments.contrast, arguments.gradients);
        let shape = contrast.check(&arguments.inputs)?;
        contrast.check_gradients(shape, &gradients.dq, gradients.dk.as_ref())?;
        let epsilon = positive("epsilon", arguments.epsilon)?;
        let m = momentum::check(arguments.momentum.map_or(0.0, |(m, ..)| m))?;
        let mut kept = Kept {
            device,
            buffers: Vec::new(),
        };
        let (anchors, keys) = match arguments.inputs {
            Inputs::Shared { z } => (z, None),
            Inputs::Pair { q, k } => (q, Some(k)),
            Inputs::Queue { q, own_key, .. } => (q, Some(own_key)),
        };
        let of_unit = Gradients {
            dq: kept.beside(gradients.dq)?,
            dk: gradients.dk.map(|dk| kept.beside(dk)).transpose()?,
        };
        let anchors = kept.side(anchors, Some([of_unit.dq, gradients.dq]))?;
        let dk = of_unit.dk.zip(gradients.dk).map(<[_; 2]>::from);
        let keys = keys.map(|keys| kept.side(keys, dk)).transpose()?;
        let cursor = count("queue", arguments.cursor)?;
        let numbers = [contrast.scale().to_bits(), m.to_bits(), cursor];
        let numbers = kept.written(&numbers)?;
        Ok(Self {
            contrast: contrast.clone(),
            inputs: match (arguments.inputs, keys) {
                (Inputs::Queue { queue, .. }, Some(keys)) => Inputs::Queue {
                    q: anchors.unit,
                    own_key: keys.unit,
                    queue,
                },
                (_, Some(keys)) => Inputs::Pair {
                    q: anchors.unit,
                    k: keys.unit,
                },
                (_, None) => Inputs::Shared { z: anchors.unit },
            },
            gradients: of_unit,
            sides: [Some(anchors), keys].into_iter().flatten().collect(),
            tensors: match arguments.momentum {
                Some((_, dtype, tensors)) => {
                    Some(Rowwise::new(device).momentum_table(dtype, tensors)?)
                }
                None => None,
            },
            upstream: arguments.upstream,
            epsilon,
            scale: arguments.scale.unwrap_or(numbers),
            momentum: numbers + 4,
            cursor: numbers + 8,
            _held: kept.buffers,
        })
    }

    /// The step, on the device that it was made for.
    pub(crate) fn launch(&self, similarity: Similarity<'_, D>) -> Result<Results<D>, Error> {
        let similarity = similarity.with_scale(self.scale);
        let rowwise = Rowwise::new(similarity.device);
        for side in &self.sides {
            let norms = (side.norms, side.given.rows);
            rowwise.normalize(side.given, side.unit, norms, self.epsilon)?;
        }
        let (inputs, gradients) = (&self.inputs, &self.gradients);
        let results =
            similarity.value_and_grad(&self.contrast, inputs, self.upstream, gradients)?;
        for side in &self.sides {
            if let Some([dy, dx]) = side.gradients {
                let norms = (side.norms, side.given.rows);
                rowwise.normalize_backward(side.unit, norms, dy, dx, self.epsilon)?;
            }
        }
        if let Some(tensors) = &self.tensors {
            rowwise.update(tensors, 0.0, self.momentum)?;
        }
        if let Inputs::Queue { own_key, queue, .. } = self.inputs {
            rowwise.enqueue(own_key, queue, self.cursor)?;
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
        device.write(self.momentum, &m.to_ne_bytes())
    }
}
