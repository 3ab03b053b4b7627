//! [`EmulatedEngine`]: the verbs on host memory, computed by the CUDA kernels' sources in the emulator.

use super::device::{EmulatedBuffer, EmulatedDevice, Schedule};
use crate::contrast::{Contrast, Shape, Work, same_dim, same_length};
use crate::element::{DType, Element};
use crate::engine::{Engine, Gradients, MomentumSlices};
use crate::error::Error;
use crate::inputs::Problem;
use crate::launch::{
    Device, DeviceIndices, DeviceMatrix, DeviceMomentum, DeviceStatistics, Rowwise, Similarity,
    number_bytes, workspace_bytes,
};
use crate::memory::{Evaluated, HostMemory, TopK};
use crate::queue::KeyQueue;
use crate::rows::{Matrix, Rows, RowsMut};
use crate::statistics::Statistics;

/// Runs the kernels' sources on the CPU under a [`Schedule`], to verify them: some thousand times slower than
/// [`CpuEngine`](crate::CpuEngine).
///
/// A fault in a kernel (a race, a read of unwritten memory, an access out of bounds, a deadlock) is an
/// [`Error::Kernel`] that names kernel, block, thread and source line.
#[derive(Debug)]
pub struct EmulatedEngine {
    device: EmulatedDevice,
    budget: usize,
    fp8: bool,
}

/// SMs that work is split for: few, so that blocks of small problems have several work tiles.
pub(crate) const SM_COUNT: u32 = 3;
/// Bytes for a chunk of weights or scores: small, so that small problems have several.
pub(crate) const BUDGET: usize = 64 << 10;

impl EmulatedEngine {
    /// An engine under `schedule`; `seed` decides the order of threads and blocks.
    pub fn new(schedule: Schedule, seed: u64) -> Self {
        Self {
            device: EmulatedDevice::new(schedule, seed, SM_COUNT),
            budget: BUDGET,
            fp8: false,
        }
    }

    /// Reports compute capability 9.0, so that the kernels for sm_90a run where they can.
    #[must_use]
    pub fn with_hopper_kernels(mut self) -> Self {
        self.device.warpgroups = true;
        self
    }

    /// Forward and top-k in e4m3, as `CudaEngine::with_fp8_scores`; refused without
    /// [`with_hopper_kernels`](Self::with_hopper_kernels). Products are summed in f32, where a GPU keeps fewer bits.
    #[must_use]
    pub fn with_fp8_scores(mut self, fp8: bool) -> Self {
        self.fp8 = fp8;
        self
    }

    /// Bytes that `work` takes besides inputs and gradients, with positives by index where they are given: what
    /// `CudaEngine::workspace_bytes` says on a device with this engine's number of SMs and budget.
    ///
    /// # Errors
    /// Those of the call.
    pub fn workspace_bytes(
        &self,
        work: Work,
        contrast: &Contrast,
        shape: Shape,
        dtype: DType,
    ) -> Result<usize, Error> {
        workspace_bytes(&self.similarity(), work, contrast, shape, dtype)
    }

    /// Bytes that a pool would hold after all calls so far.
    pub fn held_bytes(&self) -> usize {
        self.device.held_bytes()
    }

    fn similarity(&self) -> Similarity<'_, EmulatedDevice> {
        Similarity::new(&self.device, self.budget).with_fp8(self.fp8)
    }

    /// A copy in the emulator's memory.
    fn copied<T: Element>(&self, rows: Rows<'_, T>) -> Result<Copied, Error> {
        let buffer = self.written(&rows.contiguous())?;
        Ok(Copied {
            matrix: matrix::<T>(&buffer, rows.rows(), rows.dim()),
            buffer,
        })
    }

    fn written<T: bytemuck::Pod>(&self, numbers: &[T]) -> Result<EmulatedBuffer, Error> {
        let bytes = bytemuck::cast_slice(numbers);
        let buffer = self.device.memory(bytes.len())?;
        self.device.write(EmulatedDevice::address(&buffer), bytes)?;
        Ok(buffer)
    }

    /// Unwritten memory for a result.
    fn unwritten<T: Element>(&self, rows: usize, dim: usize) -> Result<Copied, Error> {
        let buffer = self.device.memory(rows * dim * number_bytes(T::DTYPE))?;
        Ok(Copied {
            matrix: matrix::<T>(&buffer, rows, dim),
            buffer,
        })
    }

    fn read<T: Element>(&self, from: DeviceMatrix, to: &mut RowsMut<'_, T>) -> Result<(), Error> {
        let mut elements = vec![T::from_f32(0.0); from.rows * from.dim];
        let bytes = bytemuck::cast_slice_mut(&mut elements);
        self.device.read(from.address, bytes)?;
        to.fill_from(&elements);
        Ok(())
    }

    /// The problem in the emulator's memory.
    fn problem<T: Element>(
        &self,
        problem: &Problem<Rows<'_, T>>,
    ) -> Result<(Problem<DeviceMatrix>, Vec<EmulatedBuffer>), Error> {
        let (mut held, mut indices, mut scale) = (Vec::new(), Vec::new(), None);
        let copied = problem.try_map(
            |_, rows| {
                let copied = self.copied(*rows)?;
                held.push(copied.buffer);
                Ok(copied.matrix)
            },
            |_, given| {
                let buffer = self.written(given)?;
                let address = EmulatedDevice::address(&buffer);
                indices.push(buffer);
                Ok(DeviceIndices {
                    address,
                    length: given.len(),
                })
            },
            |given| {
                same_length("scale", given.len(), 1)?;
                Ok(EmulatedDevice::address(scale.insert(self.written(given)?)))
            },
        )?;
        held.extend(indices.into_iter().chain(scale));
        Ok((copied, held))
    }

    /// Runs `work` with gradients in the emulator's memory and copies them back.
    fn with_gradients<G: Element, R>(
        &self,
        mut gradients: Gradients<RowsMut<'_, G>>,
        work: impl FnOnce(&Gradients<DeviceMatrix>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let accumulate = gradients.accumulate;
        // Gradients that are overwritten start as unwritten memory: the emulator reports a read of it.
        let copied = |rows: &RowsMut<'_, G>| match accumulate {
            true => self.copied(rows.as_rows()),
            false => self.unwritten::<G>(rows.rows(), rows.dim()),
        };
        let dq = copied(&gradients.dq)?;
        let dk = gradients.dk.as_ref().map(copied).transpose()?;
        let result = work(&Gradients {
            dq: dq.matrix,
            dk: dk.as_ref().map(|dk| dk.matrix),
            accumulate,
        })?;
        self.read(dq.matrix, &mut gradients.dq)?;
        if let (Some(result), Some(dk)) = (dk, &mut gradients.dk) {
            self.read(result.matrix, dk)?;
        }
        Ok(result)
    }
}

/// A matrix in the emulator's memory.
struct Copied {
    matrix: DeviceMatrix,
    buffer: EmulatedBuffer,
}

fn matrix<T: Element>(buffer: &EmulatedBuffer, rows: usize, dim: usize) -> DeviceMatrix {
    DeviceMatrix {
        address: EmulatedDevice::address(buffer),
        rows,
        dim,
        stride: dim,
        dtype: T::DTYPE,
    }
}

impl Engine for EmulatedEngine {
    type Memory = HostMemory;

    fn memory(&self) -> &HostMemory {
        &HostMemory
    }

    fn forward<T: Element>(&self, problem: &Problem<Rows<'_, T>>) -> Result<Evaluated, Error> {
        let (problem, _held) = self.problem(problem)?;
        self.similarity().forward(&problem)?.read(&self.device)
    }

    fn value_and_grad<T: Element, G: Element>(
        &self,
        problem: &Problem<Rows<'_, T>>,
        upstream: f32,
        gradients: Gradients<RowsMut<'_, G>>,
    ) -> Result<Evaluated, Error> {
        let (problem, _held) = self.problem(problem)?;
        self.with_gradients(gradients, |gradients| {
            let similarity = self.similarity();
            let results = similarity.value_and_grad(&problem, upstream, gradients)?;
            results.read(&self.device)
        })
    }

    fn backward<T: Element, G: Element>(
        &self,
        problem: &Problem<Rows<'_, T>>,
        statistics: &Statistics,
        upstream: f32,
        gradients: Gradients<RowsMut<'_, G>>,
    ) -> Result<f32, Error> {
        let (problem, _held) = self.problem(problem)?;
        let statistics = DeviceStatistics::upload(&self.device, statistics)?;
        self.with_gradients(gradients, |gradients| {
            let similarity = self.similarity();
            let dscale = similarity.backward(&problem, &statistics, upstream, gradients)?;
            Ok(dscale.read(&self.device)?[1])
        })
    }

    fn merge(&self, statistics: &mut Statistics, others: &Statistics) -> Result<(), Error> {
        let mut merged = DeviceStatistics::upload(&self.device, statistics)?;
        let others = DeviceStatistics::upload(&self.device, others)?;
        self.similarity().merge(&mut merged, &others)?;
        *statistics = merged.read(&self.device)?;
        Ok(())
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
        mut y: RowsMut<'_, O>,
        norms: &mut [f32],
        epsilon: f32,
    ) -> Result<(), Error> {
        let x = self.copied(x)?;
        let result = self.unwritten::<O>(y.rows(), y.dim())?;
        let lengths = self.unwritten::<f32>(norms.len(), 1)?;
        let target = (lengths.matrix.address, norms.len());
        Rowwise::new(&self.device).normalize(x.matrix, result.matrix, target, epsilon)?;
        self.read(result.matrix, &mut y)?;
        let address = lengths.matrix.address;
        self.device.read(address, bytemuck::cast_slice_mut(norms))
    }

    fn normalize_backward<T: Element, G: Element>(
        &self,
        y: Rows<'_, T>,
        norms: &[f32],
        dy: Rows<'_, G>,
        mut dx: RowsMut<'_, G>,
        epsilon: f32,
    ) -> Result<(), Error> {
        let (y, dy) = (self.copied(y)?, self.copied(dy)?);
        let lengths = self.written(norms)?;
        let result = self.unwritten::<G>(dx.rows(), dx.dim())?;
        let lengths = (EmulatedDevice::address(&lengths), norms.len());
        let rowwise = Rowwise::new(&self.device);
        rowwise.normalize_backward(y.matrix, lengths, dy.matrix, result.matrix, epsilon)?;
        self.read(result.matrix, &mut dx)
    }

    fn momentum_update<T: Element>(
        &self,
        momentum: f32,
        tensors: &mut [MomentumSlices<'_, T>],
    ) -> Result<(), Error> {
        let mut held = Vec::new();
        for tensor in &*tensors {
            let expected = tensor.key.len();
            let shadow = tensor.shadow.as_ref().map_or(expected, |s| s.len());
            same_length("query", tensor.query.len(), expected)?;
            same_length("shadow", shadow, expected)?;
            let query = self.written(tensor.query)?;
            let key = self.written(tensor.key)?;
            let bytes = expected * number_bytes(T::DTYPE);
            let shadow = tensor.shadow.as_ref().map(|_| self.device.memory(bytes));
            held.push((query, key, shadow.transpose()?));
        }
        let on_device: Vec<_> = held
            .iter()
            .zip(&*tensors)
            .map(|((query, key, shadow), tensor)| DeviceMomentum {
                query: EmulatedDevice::address(query),
                key: EmulatedDevice::address(key),
                shadow: shadow.as_ref().map_or(0, EmulatedDevice::address),
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
        // The whole ring, so that a write outside the new keys shows.
        let mut ring = queue.storage().to_vec();
        let on_device = self.copied(Rows::new(&ring, capacity, dim)?)?;
        let keys = self.copied(keys)?;
        Rowwise::new(&self.device).push(keys.matrix, on_device.matrix, &mut after, 0)?;
        let address = on_device.matrix.address;
        self.device
            .read(address, bytemuck::cast_slice_mut(&mut ring))?;
        let (fill, cursor) = (after.fill, after.cursor);
        *queue = KeyQueue::restore(capacity, dim, fill, cursor, &ring[..fill * dim])?;
        Ok(())
    }
}
