//! [`EmulatedEngine`]: the verbs on host memory, computed by the CUDA kernels' sources in the emulator.

use super::device::{EmulatedDevice, Schedule};
use super::memory::Memory;
use crate::bank::check_rows;
use crate::contrast::{Contrast, Shape, Work, same_dim, same_length};
use crate::element::{DType, Element};
use crate::engine::{Engine, MomentumSlices};
use crate::error::Error;
use crate::gradients::Gradients;
use crate::launch::{
    DeviceMatrix, DeviceMomentum, DeviceStatistics, Rowwise, Similarity, workspace_bytes,
};
use crate::memory::{Evaluated, HostMemory, TopK};
use crate::problem::Problem;
use crate::queue::{KeyQueue, check_labels};
use crate::rows::{Matrix, Rows, RowsMut};
use crate::statistics::Statistics;
use crate::triplet::TripletProblem;

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

/// Number of SMs of the emulated GPU: few, so that a block has several work tiles in small problems.
pub(crate) const SM_COUNT: u32 = 3;
/// Bytes that a chunk of weights or scores may take: few, so that small problems have several chunks.
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

    /// Emulates a GPU of compute capability 9.0: the kernels for sm_90a run where they serve the type.
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

    /// Bytes that `work` takes besides inputs and gradients, with positives by index: what
    /// `CudaEngine::workspace_bytes` returns on a device with this engine's number of SMs and budget.
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

    /// Bytes that a GPU's memory pool would hold after all calls so far.
    pub fn held_bytes(&self) -> usize {
        self.device.held_bytes()
    }

    fn similarity(&self) -> Similarity<'_, EmulatedDevice> {
        Similarity::new(&self.device, self.budget).with_fp8(self.fp8)
    }

    fn call(&self) -> Memory<&EmulatedDevice> {
        Memory::on(&self.device)
    }

    fn push<T: Element>(
        &self,
        queue: &mut KeyQueue<T>,
        keys: Rows<'_, T>,
        labels: Option<&[u32]>,
    ) -> Result<(), Error> {
        let dim = queue.dim();
        same_dim("keys", keys.dim(), dim)?;
        let kept = queue.label_storage();
        check_labels(kept.is_some(), labels.map(<[u32]>::len), keys.rows())?;
        // The whole ring is copied back, so that a write outside the new keys shows.
        let memory = self.call();
        let to = memory.given(queue.storage(), dim, 0)?;
        let mut copies = vec![[memory.copied(keys)?, to]];
        if let Some((labels, kept)) = labels.zip(kept) {
            let [labels, kept] = [memory.words(labels)?, memory.words(kept)?];
            copies.push([labels.as_column(), kept.as_column()]);
        }
        let mut ring = queue.ring();
        Rowwise::new(&self.device).push(&copies, &mut ring, 0)?;
        let keys = memory.elements(to)?;
        let labels = copies
            .get(1)
            .map(|[_, kept]| memory.read(kept.address, kept.rows));
        *queue = KeyQueue::from_storage(ring, dim, &keys, labels.transpose()?)?;
        Ok(())
    }

    /// Runs `work` with gradients in the emulator's memory and copies them back.
    fn with_gradients<G: Element, R>(
        memory: &Memory<&EmulatedDevice>,
        mut gradients: Gradients<RowsMut<'_, G>>,
        work: impl FnOnce(&Gradients<DeviceMatrix>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let accumulate = gradients.accumulate;
        // Gradients that are overwritten start as unwritten memory, so that the emulator reports a read.
        let copied = |rows: &RowsMut<'_, G>, is_added| match is_added {
            true => memory.copied(rows.as_rows()),
            false => memory.like(rows),
        };
        let of_candidates = |rows| copied(rows, accumulate.candidates);
        let dq = copied(&gradients.dq, accumulate.anchors)?;
        let dk = gradients.dk.as_ref().map(of_candidates).transpose()?;
        let dbias = gradients.dbias.as_ref().map(of_candidates).transpose()?;
        let result = work(&Gradients {
            dq,
            dk,
            dbias,
            accumulate,
        })?;
        gradients.dq.fill_from(&memory.elements(dq)?);
        if let (Some(result), Some(dk)) = (dk, &mut gradients.dk) {
            dk.fill_from(&memory.elements(result)?);
        }
        if let (Some(result), Some(dbias)) = (dbias, &mut gradients.dbias) {
            dbias.fill_from(&memory.elements(result)?);
        }
        Ok(result)
    }
}

impl Memory<&EmulatedDevice> {
    fn copied<T: Element>(&self, rows: Rows<'_, T>) -> Result<DeviceMatrix, Error> {
        self.given(&rows.contiguous(), rows.dim(), 0)
    }

    /// Unwritten memory for a result of the shape and type of `rows`.
    fn like<T: Element>(&self, rows: &RowsMut<'_, T>) -> Result<DeviceMatrix, Error> {
        self.matrix([rows.rows(), rows.dim()], T::DTYPE, 0)
    }

    /// The problem in the emulator's memory.
    fn problem<T: Element>(
        &self,
        problem: &Problem<Rows<'_, T>>,
    ) -> Result<Problem<DeviceMatrix>, Error> {
        problem.try_map(
            |_, rows| self.copied(*rows),
            |_, index| self.words(index),
            |_, floats| self.words(floats),
            |argument, given| {
                same_length(argument, given.len(), 1)?;
                self.upload(given)
            },
        )
    }
}

impl Engine for EmulatedEngine {
    type Memory = HostMemory;

    fn memory(&self) -> &HostMemory {
        &HostMemory
    }

    fn forward<T: Element>(&self, problem: &Problem<Rows<'_, T>>) -> Result<Evaluated, Error> {
        let memory = self.call();
        let problem = memory.problem(problem)?;
        self.similarity().forward(&problem)?.read(&self.device)
    }

    fn value_and_grad<T: Element, G: Element>(
        &self,
        problem: &Problem<Rows<'_, T>>,
        upstream: f32,
        gradients: Gradients<RowsMut<'_, G>>,
    ) -> Result<Evaluated, Error> {
        let memory = self.call();
        let problem = memory.problem(problem)?;
        Self::with_gradients(&memory, gradients, |gradients| {
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
        let memory = self.call();
        let problem = memory.problem(problem)?;
        let statistics = DeviceStatistics::upload(&self.device, statistics)?;
        Self::with_gradients(&memory, gradients, |gradients| {
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
        let memory = self.call();
        let (queries, candidates) = (memory.copied(queries)?, memory.copied(candidates)?);
        let similarity = self.similarity();
        let best = similarity.top_k(queries, candidates, k, exclude_self)?;
        best.read(&self.device)
    }

    fn triplet<T: Element, G: Element>(
        &self,
        problem: &TripletProblem<Rows<'_, T>>,
        upstream: f32,
        gradients: Gradients<RowsMut<'_, G>>,
    ) -> Result<f32, Error> {
        let memory = self.call();
        let problem = problem.try_map(
            |_, rows| memory.copied(*rows),
            |_, index| memory.words(index),
        )?;
        Self::with_gradients(&memory, gradients, |gradients| {
            let loss = self.similarity().triplet(&problem, upstream, gradients)?;
            Ok(loss.read(&self.device)?[0])
        })
    }

    fn normalize<T: Element, O: Element>(
        &self,
        x: Rows<'_, T>,
        mut y: RowsMut<'_, O>,
        norms: &mut [f32],
        epsilon: f32,
    ) -> Result<(), Error> {
        let memory = self.call();
        let (x, unit) = (memory.copied(x)?, memory.like(&y)?);
        let lengths = (memory.unwritten(4 * norms.len())?, norms.len());
        Rowwise::new(&self.device).normalize(x, unit, lengths, epsilon)?;
        y.fill_from(&memory.elements(unit)?);
        norms.copy_from_slice(&memory.read(lengths.0, lengths.1)?);
        Ok(())
    }

    fn normalize_backward<T: Element, G: Element>(
        &self,
        y: Rows<'_, T>,
        norms: &[f32],
        dy: Rows<'_, G>,
        mut dx: RowsMut<'_, G>,
        epsilon: f32,
    ) -> Result<(), Error> {
        let memory = self.call();
        let (y, dy, result) = (memory.copied(y)?, memory.copied(dy)?, memory.like(&dx)?);
        let lengths = (memory.upload(norms)?, norms.len());
        Rowwise::new(&self.device).normalize_backward(y, lengths, dy, result, epsilon)?;
        dx.fill_from(&memory.elements(result)?);
        Ok(())
    }

    fn momentum_update<T: Element>(
        &self,
        momentum: f32,
        tensors: &mut [MomentumSlices<'_, T>],
    ) -> Result<(), Error> {
        let (memory, mut on_device) = (self.call(), Vec::new());
        for tensor in &*tensors {
            let length = tensor.key.len();
            let shadow = tensor.shadow.as_ref();
            same_length("query", tensor.query.len(), length)?;
            same_length("shadow", shadow.map_or(length, |s| s.len()), length)?;
            on_device.push(DeviceMomentum {
                query: memory.upload(tensor.query)?,
                key: memory.upload(tensor.key)?,
                shadow: match shadow {
                    Some(shadow) => memory.unwritten(size_of_val(&**shadow))?,
                    None => 0,
                },
                length,
            });
        }
        Rowwise::new(&self.device).momentum_update(momentum, T::DTYPE, &on_device)?;
        for (updated, tensor) in on_device.iter().zip(tensors) {
            let length = updated.length;
            tensor
                .key
                .copy_from_slice(&memory.read(updated.key, length)?);
            if let Some(shadow) = &mut tensor.shadow {
                shadow.copy_from_slice(&memory.read(updated.shadow, length)?);
            }
        }
        Ok(())
    }

    fn update_rows<T: Element>(
        &self,
        mut bank: RowsMut<'_, T>,
        rows: &[u32],
        keys: Rows<'_, T>,
        momentum: f32,
    ) -> Result<(), Error> {
        check_rows("rows", rows, bank.rows())?;
        let memory = self.call();
        let (there, keys) = (memory.copied(bank.as_rows())?, memory.copied(keys)?);
        let rows = memory.words(rows)?;
        Rowwise::new(&self.device).update_rows(there, rows, keys, momentum)?;
        bank.fill_from(&memory.elements(there)?);
        Ok(())
    }

    fn enqueue<T: Element>(&self, queue: &mut KeyQueue<T>, keys: Rows<'_, T>) -> Result<(), Error> {
        self.push(queue, keys, None)
    }

    fn enqueue_labelled<T: Element>(
        &self,
        queue: &mut KeyQueue<T>,
        keys: Rows<'_, T>,
        labels: &[u32],
    ) -> Result<(), Error> {
        self.push(queue, keys, Some(labels))
    }
}
