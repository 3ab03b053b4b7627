//! The verbs on host memory, computed by the CUDA kernels' sources.

use super::device::{HostBuffer, HostDevice, Schedule};
use crate::contrast::{Contrast, Inputs, Shape, same_dim};
use crate::device::{
    Call, Device, DeviceMatrix, DeviceMomentum, Rowwise, Similarity, number_bytes, workspace_bytes,
};
use crate::element::{DType, Element};
use crate::engine::{Engine, Forward, Gradients, MomentumSlices, TopK, ValueAndGrad};
use crate::error::Error;
use crate::queue::KeyQueue;
use crate::rows::{Matrix, Rows, RowsMut};
use crate::statistics::Statistics;

/// Runs the kernels' sources on the processor, under a [`Schedule`]. For verification: it is some
/// thousand times slower than [`CpuEngine`](crate::CpuEngine).
///
/// A fault in a kernel (a race, a read of unwritten memory, an access out of bounds, a deadlock) is
/// [`Error::Kernel`], naming kernel, block, thread and source line.
#[derive(Debug)]
pub struct HostEngine {
    device: HostDevice,
    budget: usize,
    fp8: bool,
}

/// Multiprocessors that work is cut up for: few, so that small problems have splits and large ones
/// have tiles one after another.
pub(crate) const MULTIPROCESSORS: u32 = 3;
/// Bytes for a chunk of weights or scores: small, so that small problems have several.
pub(crate) const BUDGET: usize = 64 << 10;

impl HostEngine {
    /// An engine under `schedule`; the order of threads and blocks follows from `seed`.
    pub fn new(schedule: Schedule, seed: u64) -> Self {
        Self {
            device: HostDevice::new(schedule, seed, MULTIPROCESSORS),
            budget: BUDGET,
            fp8: false,
        }
    }

    /// Passes for a card of sm_90a: the kernels that are made for it serve where they can.
    #[must_use]
    pub fn with_hopper_kernels(mut self) -> Self {
        self.device.warpgroups = true;
        self
    }

    /// Forward and top-k with numbers of 8 bits, as `CudaEngine::with_fp8_scores` has it; refused unless this
    /// engine passes for a card of sm_90a. Products are summed in f32, where a card keeps fewer bits.
    #[must_use]
    pub fn with_fp8_scores(mut self, fp8: bool) -> Self {
        self.fp8 = fp8;
        self
    }

    /// Bytes of memory that `call` takes beside inputs and gradients, as a pool that was empty before
    /// holds it after the call: what
    /// `CudaEngine::workspace_bytes` says on a device
    /// of as many multiprocessors as this engine pretends to have, with its budget.
    ///
    /// # Errors
    /// Those of the call.
    pub fn workspace_bytes(
        &self,
        call: Call,
        contrast: &Contrast,
        shape: Shape,
        dtype: DType,
    ) -> Result<usize, Error> {
        workspace_bytes(&self.similarity(), call, contrast, shape, dtype)
    }

    /// Bytes that a pool would hold after all calls so far.
    pub fn held_bytes(&self) -> usize {
        self.device.held_bytes()
    }

    fn similarity(&self) -> Similarity<'_, HostDevice> {
        Similarity::new(&self.device, self.budget).with_fp8(self.fp8)
    }

    /// A copy in the runner's memory.
    fn copied<T: Element>(&self, rows: Rows<'_, T>) -> Result<Copied, Error> {
        let buffer = self.written(rows.as_slice())?;
        Ok(Copied {
            matrix: matrix::<T>(&buffer, rows.rows(), rows.dim()),
            _buffer: buffer,
        })
    }

    fn written<T: bytemuck::Pod>(&self, numbers: &[T]) -> Result<HostBuffer, Error> {
        let bytes = bytemuck::cast_slice(numbers);
        let buffer = self.device.memory(bytes.len())?;
        self.device.write(HostDevice::address(&buffer), bytes)?;
        Ok(buffer)
    }

    /// Room for a result.
    fn room<T: Element>(&self, rows: usize, dim: usize) -> Result<Copied, Error> {
        let buffer = self.device.memory(rows * dim * number_bytes(T::DTYPE))?;
        Ok(Copied {
            matrix: matrix::<T>(&buffer, rows, dim),
            _buffer: buffer,
        })
    }

    fn read<T: bytemuck::Pod>(&self, from: DeviceMatrix, to: &mut [T]) -> Result<(), Error> {
        self.device.read(from.address, bytemuck::cast_slice_mut(to))
    }

    fn inputs<T: Element>(
        &self,
        inputs: &Inputs<Rows<'_, T>>,
    ) -> Result<(Inputs<DeviceMatrix>, Vec<Copied>), Error> {
        let mut held = Vec::new();
        let mut copy = |rows: Rows<'_, T>| -> Result<DeviceMatrix, Error> {
            let copied = self.copied(rows)?;
            let matrix = copied.matrix;
            held.push(copied);
            Ok(matrix)
        };
        let inputs = match *inputs {
            Inputs::Shared { z } => Inputs::Shared { z: copy(z)? },
            Inputs::Pair { q, k } => Inputs::Pair {
                q: copy(q)?,
                k: copy(k)?,
            },
            Inputs::Queue { q, own_key, queue } => Inputs::Queue {
                q: copy(q)?,
                own_key: copy(own_key)?,
                queue: copy(queue)?,
            },
        };
        Ok((inputs, held))
    }

    /// Runs `work` with room for gradients and copies them back.
    fn with_gradients<G: Element, R>(
        &self,
        gradients: Gradients<RowsMut<'_, G>>,
        work: impl FnOnce(&Gradients<DeviceMatrix>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let dq = self.room::<G>(gradients.dq.rows(), gradients.dq.dim())?;
        let dk = match &gradients.dk {
            Some(dk) => Some(self.room::<G>(dk.rows(), dk.dim())?),
            None => None,
        };
        let result = work(&Gradients {
            dq: dq.matrix,
            dk: dk.as_ref().map(|dk| dk.matrix),
        })?;
        self.read(dq.matrix, gradients.dq.into_slice())?;
        if let (Some(room), Some(dk)) = (dk, gradients.dk) {
            self.read(room.matrix, dk.into_slice())?;
        }
        Ok(result)
    }
}

/// A matrix in the runner's memory.
struct Copied {
    matrix: DeviceMatrix,
    _buffer: HostBuffer,
}

fn matrix<T: Element>(buffer: &HostBuffer, rows: usize, dim: usize) -> DeviceMatrix {
    DeviceMatrix {
        address: HostDevice::address(buffer),
        rows,
        dim,
        stride: dim,
        dtype: T::DTYPE,
    }
}

impl Engine for HostEngine {
    type Matrix<'a, T: Element> = Rows<'a, T>;
    type MatrixMut<'a, T: Element> = RowsMut<'a, T>;
    type Vector<'a, T: Element> = &'a [T];
    type VectorMut<'a, T: Element> = &'a mut [T];
    type Queue<T: Element> = KeyQueue<T>;

    fn forward<T: Element>(
        &self,
        contrast: &Contrast,
        inputs: &Inputs<Rows<'_, T>>,
    ) -> Result<Forward, Error> {
        let (inputs, _held) = self.inputs(inputs)?;
        let results = self.similarity().forward(contrast, &inputs)?;
        let ([loss, _], statistics) = results.read(&self.device)?;
        Ok(Forward { loss, statistics })
    }

    fn value_and_grad<T: Element, G: Element>(
        &self,
        contrast: &Contrast,
        inputs: &Inputs<Rows<'_, T>>,
        upstream: f32,
        gradients: Gradients<RowsMut<'_, G>>,
    ) -> Result<ValueAndGrad, Error> {
        let (inputs, _held) = self.inputs(inputs)?;
        self.with_gradients(gradients, |gradients| {
            let similarity = self.similarity();
            let results = similarity.value_and_grad(contrast, &inputs, upstream, gradients)?;
            let ([loss, dscale], statistics) = results.read(&self.device)?;
            Ok(ValueAndGrad {
                loss,
                dscale,
                statistics,
            })
        })
    }

    fn backward<T: Element, G: Element>(
        &self,
        contrast: &Contrast,
        inputs: &Inputs<Rows<'_, T>>,
        statistics: &Statistics,
        upstream: f32,
        gradients: Gradients<RowsMut<'_, G>>,
    ) -> Result<f32, Error> {
        let (inputs, _held) = self.inputs(inputs)?;
        self.with_gradients(gradients, |gradients| {
            let similarity = self.similarity();
            let dscale = similarity.backward(contrast, &inputs, statistics, upstream, gradients)?;
            Ok(dscale.read(&self.device)?[1])
        })
    }

    fn top_k<T: Element>(
        &self,
        queries: Rows<'_, T>,
        candidates: Rows<'_, T>,
        k: usize,
        exclude_self: bool,
    ) -> Result<TopK, Error> {
        let (queries, candidates) = (self.copied(queries)?, self.copied(candidates)?);
        self.similarity()
            .top_k(queries.matrix, candidates.matrix, k, exclude_self)?
            .read(&self.device)
    }

    fn normalize<T: Element, O: Element>(
        &self,
        x: Rows<'_, T>,
        y: RowsMut<'_, O>,
        norms: &mut [f32],
        epsilon: f32,
    ) -> Result<(), Error> {
        let x = self.copied(x)?;
        let room = self.room::<O>(y.rows(), y.dim())?;
        let lengths = self.room::<f32>(norms.len(), 1)?;
        let target = (lengths.matrix.address, norms.len());
        Rowwise::new(&self.device).normalize(x.matrix, room.matrix, target, epsilon)?;
        self.read(room.matrix, y.into_slice())?;
        self.read(lengths.matrix, norms)
    }

    fn normalize_backward<T: Element, G: Element>(
        &self,
        y: Rows<'_, T>,
        norms: &[f32],
        dy: Rows<'_, G>,
        dx: RowsMut<'_, G>,
        epsilon: f32,
    ) -> Result<(), Error> {
        let (y, dy) = (self.copied(y)?, self.copied(dy)?);
        let lengths = self.written(norms)?;
        let room = self.room::<G>(dx.rows(), dx.dim())?;
        let lengths = (HostDevice::address(&lengths), norms.len());
        let rowwise = Rowwise::new(&self.device);
        rowwise.normalize_backward(y.matrix, lengths, dy.matrix, room.matrix, epsilon)?;
        self.read(room.matrix, dx.into_slice())
    }

    fn momentum_update<'a, T: Element>(
        &self,
        momentum: f32,
        tensors: &mut [MomentumSlices<'a, T>],
    ) -> Result<(), Error> {
        let mut held = Vec::new();
        for tensor in &*tensors {
            let expected = tensor.key.len();
            let shadow = tensor.shadow.as_ref().map_or(expected, |s| s.len());
            for (argument, given) in [("query", tensor.query.len()), ("shadow", shadow)] {
                if given != expected {
                    return Err(Error::Length {
                        argument,
                        given,
                        expected,
                    });
                }
            }
            let query = self.written(tensor.query)?;
            let key = self.written(tensor.key)?;
            let bytes = expected * number_bytes(T::DTYPE);
            let shadow = match tensor.shadow {
                Some(_) => Some(self.device.memory(bytes)?),
                None => None,
            };
            held.push((query, key, shadow));
        }
        let on_device: Vec<_> = held
            .iter()
            .zip(&*tensors)
            .map(|((query, key, shadow), tensor)| DeviceMomentum {
                query: HostDevice::address(query),
                key: HostDevice::address(key),
                shadow: shadow.as_ref().map_or(0, HostDevice::address),
                length: tensor.key.len(),
            })
            .collect();
        Rowwise::new(&self.device).momentum_update(momentum, T::DTYPE, &on_device)?;
        for (updated, tensor) in on_device.iter().zip(tensors) {
            let read = |address, to: &mut [u8]| self.device.read(address, to);
            read(updated.key, bytemuck::cast_slice_mut(tensor.key))?;
            if let Some(shadow) = &mut tensor.shadow {
                read(updated.shadow, bytemuck::cast_slice_mut(shadow))?;
            }
        }
        Ok(())
    }

    fn enqueue<T: Element>(&self, queue: &mut KeyQueue<T>, keys: Rows<'_, T>) -> Result<(), Error> {
        same_dim("keys", keys.dim(), queue.dim())?;
        let (capacity, dim) = (queue.capacity(), queue.dim());
        let mut after = queue.ring();
        // The kernel wraps around by itself.
        let [first, second] = after.advance(keys.rows());
        // The whole ring, so that what the kernel leaves alone shows.
        let mut ring = queue.storage().to_vec();
        let on_device = self.copied(Rows::new(&ring, capacity, dim)?)?;
        let keys = self.copied(keys)?;
        Rowwise::new(&self.device).copy_rows(
            keys.matrix,
            first.source,
            on_device.matrix,
            first.target,
            first.count + second.count,
        )?;
        self.read(on_device.matrix, &mut ring)?;
        let (fill, cursor) = (after.fill(), after.cursor());
        *queue = KeyQueue::restore(capacity, dim, fill, cursor, &ring[..fill * dim])?;
        Ok(())
    }
}
