//! [`CudaEngine`]: the verbs on a CUDA device.

use super::argument::{
    located_gradients, located_problem, located_tensor, located_triplets, require_disjoint,
};
use super::device::CudaDevice;
use super::queue::CudaQueue;
use super::results::{CudaNumber, CudaResults, CudaStatistics, CudaTopK};
use super::trace::CudaTrace;
use super::view::{CudaRows, CudaRowsMut, CudaVector, CudaVectorMut};
use crate::contrast::{Contrast, Shape, Work};
use crate::element::{DType, Element};
use crate::engine::{Engine, MomentumOf};
use crate::error::Error;
use crate::gradients::Gradients;
use crate::launch::{DeviceVector, Rowwise, Similarity, workspace_bytes};
use crate::problem::Problem;
use crate::triplet::TripletProblem;

/// Default bytes of a chunk of softmax weights: 4,096 × 131,072 16-bit weights. A chunk adds 8 bytes of traffic for
/// each element of dk, which the products of so many rows hide.
const WEIGHTS_BUDGET: usize = 1 << 30;
/// By default a chunk takes at most this fraction, 1/64, of the device's memory.
const SHARE_OF_MEMORY: usize = 64;

/// Computes on a CUDA device, on the stream of its [`CudaDevice`]. Matrices are [`CudaRows`], of a
/// [`CudaBuffer`](super::CudaBuffer) or of memory that something else owns.
///
/// The verbs leave their results on the device and wait for nothing: they can be recorded into a
/// [`CudaGraph`](super::CudaGraph). After the first call of a shape they allocate nothing. Reading a result waits:
/// [`Evaluation::loss`](crate::Evaluation::loss), [`Read::read`](crate::Read::read). Indices or labels of positives
/// and a scale on the device are read each time the work runs.
///
/// Outputs must share memory neither with an argument nor with each other, else the call returns
/// [`CudaError::Aliasing`](crate::CudaError::Aliasing). All memory must belong to the engine's device handle, else it
/// returns [`CudaError::Device`](crate::CudaError::Device).
///
/// ```no_run
/// use infonce::cuda::{CudaBuffer, CudaEngine};
/// use infonce::{Contrast, Engine, Evaluation, Gradients, Inputs};
///
/// let engine = CudaEngine::new(0)?;
/// let z = CudaBuffer::upload(engine.device(), &[1.0f32, 0.0, 0.0, 1.0, 0.8, 0.6, -0.6, 0.8])?;
/// let mut dz = CudaBuffer::<f32>::zeroed(engine.device(), 8)?;
/// let problem = Contrast::nt_xent(0.5)?.on(Inputs::Shared { z: z.rows(4, 2)? })?;
/// let gradients = Gradients::new(dz.rows_mut(4, 2)?, None);
/// let value = engine.value_and_grad(&problem, 1.0, gradients)?;
/// println!("{} {:?}", value.loss()?, dz.download()?);
/// # Ok::<(), infonce::Error>(())
/// ```
///
/// D is at most 4,096. Matrices whose rows do not start at multiples of 16 bytes are copied into the workspace, once a
/// call.
#[derive(Debug, Clone)]
pub struct CudaEngine {
    device: CudaDevice,
    weights_budget: usize,
    tf32: bool,
    fp8: bool,
    portable: bool,
}

impl CudaEngine {
    /// An engine on device `ordinal`, with a stream of its own.
    ///
    /// # Errors
    /// As [`CudaDevice::new`].
    pub fn new(ordinal: usize) -> Result<Self, Error> {
        CudaDevice::new(ordinal).map(Self::on)
    }

    /// An engine on the stream of `device`.
    pub fn on(device: CudaDevice) -> Self {
        let share = device.info().memory_bytes / SHARE_OF_MEMORY;
        Self {
            device,
            weights_budget: WEIGHTS_BUDGET.min(share),
            tf32: false,
            fp8: false,
            portable: false,
        }
    }

    /// Bytes that a chunk of softmax weights or of scores (top-k) may take. Weights are stored for D above 256; on
    /// sm_90 in 16-bit types above 128 (NT-Xent, CLIP) or 64 (CLIP with dk). A chunk has at least 128 rows. More chunks
    /// cost launches and traffic, and fill the device less. The default is 1 GiB, at most a 64th of the device's
    /// memory.
    #[must_use]
    pub fn with_weights_budget(mut self, bytes: usize) -> Self {
        self.weights_budget = bytes;
        self
    }

    /// Whether f32 matrices are rounded to tf32 before they are multiplied: each element is off by at most 2⁻¹¹ of
    /// itself. Off by default: a product is then the sum of three tf32 products, with the error of f32.
    #[must_use]
    pub fn with_tf32(mut self, tf32: bool) -> Self {
        self.tf32 = tf32;
        self
    }

    /// Whether [`forward`](Engine::forward) and [`top_k`](Engine::top_k) multiply e4m3 (8 bits, 3 of them fraction),
    /// for evaluation; off by default. Each row is divided by a scale of its own and rounded. Compared with bf16, a row
    /// has half the bytes and a clock twice the products. A logit is off by 0.13·s·‖q‖‖k‖ at most, and by about
    /// 0.04·s·‖q‖‖k‖/√D for rows of random elements (`docs/performance.md` derives and measures both). The positive's
    /// logit is a product of the rows as they were given. NaN and infinity reach the loss as without e4m3; in top-k all
    /// scores of a row that holds one are NaN.
    ///
    /// Gradients keep their own arithmetic, but those from the statistics of such a `forward` hold its rounding.
    ///
    /// On a device that is not sm_90, and together with [`with_portable_kernels`](Self::with_portable_kernels),
    /// these verbs are refused with [`Error::Unsupported`], and so is `forward` of a problem with a rule of sets or of two
    /// exponents, with ids, a guard or biases, or with positives that are given for rows of one matrix.
    #[must_use]
    pub fn with_fp8_scores(mut self, fp8: bool) -> Self {
        self.fp8 = fp8;
        self
    }

    /// Whether the kernels that every card runs serve in place of those for this card's architecture, to compare the
    /// two. Off by default.
    #[must_use]
    pub fn with_portable_kernels(mut self, portable: bool) -> Self {
        self.portable = portable;
        self
    }

    /// The same engine; it notes its launches in `trace`.
    #[must_use]
    pub fn traced(&self, trace: &CudaTrace) -> Self {
        let device = self.device.traced(trace);
        Self {
            device,
            ..self.clone()
        }
    }

    /// The handle that the engine computes on.
    pub fn device(&self) -> &CudaDevice {
        &self.device
    }

    /// Bytes of device memory that `call` takes from the pool of the device: workspace and results, without inputs and
    /// gradients. They follow from the arguments, the engine's options, and the device's number of SMs and compute
    /// capability, never from what memory is free.
    ///
    /// # Errors
    /// Those of the call.
    pub fn workspace_bytes(
        &self,
        call: Work,
        contrast: &Contrast,
        shape: Shape,
        dtype: DType,
    ) -> Result<usize, Error> {
        workspace_bytes(&self.similarity(), call, contrast, shape, dtype)
    }

    pub(super) fn similarity(&self) -> Similarity<'_, CudaDevice> {
        Similarity::new(&self.device, self.weights_budget)
            .with_tf32(self.tf32)
            .with_fp8(self.fp8)
            .with_portable_kernels(self.portable)
    }
}

impl Engine for CudaEngine {
    type Memory = CudaDevice;

    fn memory(&self) -> &CudaDevice {
        &self.device
    }

    fn forward<T: Element>(
        &self,
        problem: &Problem<CudaRows<'_, T>>,
    ) -> Result<CudaResults, Error> {
        let (problem, _) = located_problem(problem, &self.device)?;
        let results = self.similarity().forward(&problem)?;
        Ok(CudaResults::new(results, &self.device))
    }

    fn value_and_grad<T: Element, G: Element>(
        &self,
        problem: &Problem<CudaRows<'_, T>>,
        upstream: f32,
        gradients: Gradients<CudaRowsMut<'_, G>>,
    ) -> Result<CudaResults, Error> {
        let (problem, taken) = located_problem(problem, &self.device)?;
        let gradients = located_gradients(&gradients, &taken, &self.device)?;
        let similarity = self.similarity();
        let results = similarity.value_and_grad(&problem, upstream, &gradients)?;
        Ok(CudaResults::new(results, &self.device))
    }

    fn backward<T: Element, G: Element>(
        &self,
        problem: &Problem<CudaRows<'_, T>>,
        statistics: &CudaStatistics,
        upstream: f32,
        gradients: Gradients<CudaRowsMut<'_, G>>,
    ) -> Result<CudaNumber, Error> {
        let (problem, mut taken) = located_problem(problem, &self.device)?;
        taken.extend(statistics.regions().map(|region| ("statistics", region)));
        let gradients = located_gradients(&gradients, &taken, &self.device)?;
        let statistics = statistics.on("statistics", &self.device)?;
        let similarity = self.similarity();
        let dscale = similarity.backward(&problem, statistics, upstream, &gradients)?;
        Ok(CudaNumber {
            words: dscale,
            word: 1,
            device: self.device.clone(),
        })
    }

    fn merge(&self, statistics: &mut CudaStatistics, others: &CudaStatistics) -> Result<(), Error> {
        statistics.on("statistics", &self.device)?;
        let others = others.on("others", &self.device)?;
        self.similarity().merge(&mut statistics.statistics, others)
    }

    fn top_k<T: Element>(
        &self,
        queries: CudaRows<'_, T>,
        candidates: CudaRows<'_, T>,
        k: usize,
        exclude_self: bool,
    ) -> Result<CudaTopK, Error> {
        let queries = queries.on("queries", &self.device)?;
        let candidates = candidates.on("candidates", &self.device)?;
        let similarity = self.similarity();
        let best = similarity.top_k(queries, candidates, k, exclude_self)?;
        let device = self.device.clone();
        Ok(CudaTopK { best, device })
    }

    fn triplet<T: Element, G: Element>(
        &self,
        problem: &TripletProblem<CudaRows<'_, T>>,
        upstream: f32,
        gradients: Gradients<CudaRowsMut<'_, G>>,
    ) -> Result<CudaNumber, Error> {
        let (problem, taken) = located_triplets(problem, &self.device)?;
        let gradients = located_gradients(&gradients, &taken, &self.device)?;
        let loss = self.similarity().triplet(&problem, upstream, &gradients)?;
        Ok(CudaNumber {
            words: loss,
            word: 0,
            device: self.device.clone(),
        })
    }

    fn normalize<T: Element, O: Element>(
        &self,
        x: CudaRows<'_, T>,
        y: CudaRowsMut<'_, O>,
        norms: CudaVectorMut<'_, f32>,
        epsilon: f32,
    ) -> Result<(), Error> {
        let outputs = [("y", y.region()), ("norms", norms.region())];
        let inputs = [("x", x.region())];
        let (x, y) = (x.on("x", &self.device)?, y.on("y", &self.device)?);
        let target = (norms.on("norms", &self.device)?, norms.len());
        require_disjoint(&outputs, &inputs)?;
        Rowwise::new(&self.device).normalize(x, y, target, epsilon)
    }

    fn normalize_backward<T: Element, G: Element>(
        &self,
        y: CudaRows<'_, T>,
        norms: CudaVector<'_, f32>,
        dy: CudaRows<'_, G>,
        dx: CudaRowsMut<'_, G>,
        epsilon: f32,
    ) -> Result<(), Error> {
        let device = &self.device;
        let outputs = [("dx", dx.region())];
        let inputs = [
            ("y", y.region()),
            ("dy", dy.region()),
            ("norms", norms.region()),
        ];
        let lengths = (norms.on("norms", device)?, norms.len());
        let (y, dy, dx) = (
            y.on("y", device)?,
            dy.on("dy", device)?,
            dx.on("dx", device)?,
        );
        require_disjoint(&outputs, &inputs)?;
        Rowwise::new(device).normalize_backward(y, lengths, dy, dx, epsilon)
    }

    fn momentum_update<T: Element>(
        &self,
        momentum: f32,
        tensors: &mut [MomentumOf<'_, Self, T>],
    ) -> Result<(), Error> {
        let device = &self.device;
        let mut located = Vec::with_capacity(tensors.len());
        for tensor in &*tensors {
            let (tensor, outputs, query) = located_tensor(tensor, device)?;
            require_disjoint(&outputs, &[query])?;
            located.push(tensor);
        }
        Rowwise::new(device).momentum_update(momentum, T::DTYPE, &located)
    }

    fn update_rows<T: Element>(
        &self,
        bank: CudaRowsMut<'_, T>,
        rows: CudaVector<'_, u32>,
        keys: CudaRows<'_, T>,
        momentum: f32,
    ) -> Result<(), Error> {
        let device = &self.device;
        let outputs = [("bank", bank.region())];
        let inputs = [("rows", rows.region()), ("keys", keys.region())];
        let indices = DeviceVector {
            address: rows.on("rows", device)?,
            length: rows.len(),
        };
        let (bank, keys) = (bank.on("bank", device)?, keys.on("keys", device)?);
        require_disjoint(&outputs, &inputs)?;
        Rowwise::new(device).update_rows(bank, indices, keys, momentum)
    }

    fn enqueue<T: Element>(
        &self,
        queue: &mut CudaQueue<T>,
        keys: CudaRows<'_, T>,
    ) -> Result<(), Error> {
        queue.push(keys, None, &self.device)
    }

    fn enqueue_labelled<T: Element>(
        &self,
        queue: &mut CudaQueue<T>,
        keys: CudaRows<'_, T>,
        labels: CudaVector<'_, u32>,
    ) -> Result<(), Error> {
        queue.push(keys, Some(labels), &self.device)
    }
}
