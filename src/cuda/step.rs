//! [`CudaStep`]: a whole step of training in one graph.

use super::argument::{
    Named, gradient_regions, located_gradients, located_problem, located_tensor, require_disjoint,
};
use super::device::CudaDevice;
use super::engine::CudaEngine;
use super::graph::CudaGraph;
use super::queue::CudaQueue;
use super::results::CudaResults;
use super::view::{CudaRows, CudaRowsMut, CudaVector, CudaVectorMut};
use crate::contrast::Contrast;
use crate::element::{DType, Element};
use crate::engine::MomentumTensor;
use crate::error::{CudaError, Error};
use crate::gradients::Gradients;
use crate::inputs::Inputs;
use crate::launch::{DeviceMomentum, Step, StepArguments};
use crate::memory::Evaluation;
use crate::positives::Positives;

/// The default ε of a step's normalisation.
const EPSILON: f32 = 1e-12;

/// A step of training from embeddings to their gradients, recorded once and launched as one graph:
///
/// 1. [`normalize`](crate::Engine::normalize) of the embeddings,
/// 2. [`value_and_grad`](crate::Engine::value_and_grad) of the unit rows,
/// 3. [`normalize_backward`](crate::Engine::normalize_backward): gradients with respect to the
///    embeddings as they came,
/// 4. [`momentum_update`](crate::Engine::momentum_update), if tensors were given,
/// 5. [`enqueue`](crate::Engine::enqueue) of the keys' unit rows, if there is a queue.
///
/// The results are those of the verbs called one by one, bit for bit. A launch allocates nothing, waits for
/// nothing, and costs the host one call of the driver. Embeddings and the queue's keys are `T`. Gradients are `G`, also
/// those with respect to the unit rows.
///
/// ```no_run
/// use infonce::cuda::{CudaBuffer, CudaEngine, CudaQueue, StepInputs};
/// use infonce::{Contrast, Gradients, KeyQueue};
/// # let (keys, encode) = (Vec::<f32>::new(), || (Vec::<f32>::new(), Vec::<f32>::new()));
///
/// let engine = CudaEngine::new(0)?;
/// let device = engine.device();
/// let (batch, dim, capacity) = (256, 128, 65_536);
/// // `keys`: random unit rows.
/// let queue = KeyQueue::restore(capacity, dim, capacity, 0, &keys)?;
///
/// let zeros = || CudaBuffer::<f32>::zeroed(device, batch * dim);
/// let (mut q, mut own_key, mut dq) = (zeros()?, zeros()?, zeros()?);
/// let inputs = StepInputs::Queue {
///     q: q.rows_mut(batch, dim)?,
///     own_key: own_key.rows_mut(batch, dim)?,
///     queue: CudaQueue::from_host(device, &queue)?,
/// };
/// let gradients = Gradients::new(dq.rows_mut(batch, dim)?, None);
/// let mut step = engine.step(&Contrast::moco(0.2)?, inputs, gradients).record()?;
/// for _ in 0..100 {
///     // Queries and keys of the next batch.
///     let (queries, keys) = encode();
///     step.anchors_mut().upload(device, &queries)?;
///     if let Some(mut own_key) = step.keys_mut() {
///         own_key.upload(device, &keys)?;
///     }
///     step.launch()?;
///     println!("loss {}, dq {:?}", step.loss()?, step.gradients().dq.download(device)?);
/// }
/// # Ok::<(), infonce::Error>(())
/// ```
/// Embeddings of another library are read where they lie, through [`CudaRowsMut::from_raw`]; its work goes to the
/// stream of [`CudaDevice::with_raw_stream`].
///
/// # MoCo
/// The order is that of He et al. 2020, algorithm 1: the loss sees the queue as earlier steps left it; then
/// comes the momentum update; then the batch's keys enter the queue. In algorithm 1 the optimiser changes the query
/// encoder before the momentum update. Here the optimiser runs after the step, so the update is
/// ```text
/// θ_k ← m·θ_k + (1 − m)·θ_q      θ_q: the parameters that computed this step's queries
/// ```
/// The key encoder is one update behind that of algorithm 1. For algorithm 1 to the letter, record the
/// step without tensors, and call [`momentum_update`](crate::Engine::momentum_update) after the optimiser.
///
/// The queue must be full, as the launches are recorded for its size; MoCo starts with random unit rows.
pub struct CudaStep<'a, T, G> {
    // Dropped before the memory that it names.
    graph: CudaGraph,
    step: Step<CudaDevice>,
    results: CudaResults,
    inputs: StepInputs<'a, T>,
    gradients: Gradients<CudaRowsMut<'a, G>>,
    /// Keeps the borrow of the scale, which `set_scale` writes.
    _scale: Option<CudaVectorMut<'a>>,
}

/// The embeddings of a step before normalisation. The step borrows them as writable, because the caller overwrites them
/// through the step before each launch.
#[derive(Debug)]
pub enum StepInputs<'a, T> {
    /// Both views of N images, 2N × D (NT-Xent).
    Shared {
        /// As [`Inputs::Shared`].
        z: CudaRowsMut<'a, T>,
    },
    /// Anchors N × D and candidates M × D (InfoNCE, CLIP).
    Pair {
        /// As [`Inputs::Pair`].
        q: CudaRowsMut<'a, T>,
        /// As [`Inputs::Pair`].
        k: CudaRowsMut<'a, T>,
        /// As [`Inputs::Pair`]. Each launch reads the indices again: those that change from step to step come as
        /// [`CudaVector::from_raw`].
        positives: Positives<CudaVector<'a, u32>>,
    },
    /// Queries and keys, N × D each, and the queue that the keys enter (MoCo).
    Queue {
        /// As [`Inputs::Queue`].
        q: CudaRowsMut<'a, T>,
        /// As [`Inputs::Queue`].
        own_key: CudaRowsMut<'a, T>,
        /// Full, its keys normalised. [`CudaStep::into_queue`] gives it back.
        queue: CudaQueue<T>,
    },
}

/// A step before it is recorded.
#[derive(Debug)]
pub struct CudaStepBuilder<'a, T, G> {
    engine: CudaEngine,
    contrast: Contrast,
    inputs: StepInputs<'a, T>,
    gradients: Gradients<CudaRowsMut<'a, G>>,
    upstream: f32,
    epsilon: f32,
    scale: Option<CudaVectorMut<'a>>,
    /// The first m, the type of the query encoder's parameters, and the tensors.
    momentum: Option<(f32, DType, Vec<DeviceMomentum>)>,
    /// The memory that the momentum update writes; the next field is the memory that it reads.
    updated: Vec<Named>,
    queries: Vec<Named>,
}

impl CudaEngine {
    /// A [`CudaStep`] of `contrast`, to be completed and recorded. `gradients` are with respect to
    /// the embeddings before normalisation.
    pub fn step<'a, T: Element, G: Element>(
        &self,
        contrast: &Contrast,
        inputs: StepInputs<'a, T>,
        gradients: Gradients<CudaRowsMut<'a, G>>,
    ) -> CudaStepBuilder<'a, T, G> {
        CudaStepBuilder {
            engine: self.clone(),
            contrast: *contrast,
            inputs,
            gradients,
            upstream: 1.0,
            epsilon: EPSILON,
            scale: None,
            momentum: None,
            updated: Vec::new(),
            queries: Vec::new(),
        }
    }
}

impl<'a, T: Element, G: Element> CudaStepBuilder<'a, T, G> {
    /// dL/dloss of all launches; 1 by default.
    #[must_use]
    pub fn with_upstream(mut self, upstream: f32) -> Self {
        self.upstream = upstream;
        self
    }

    /// ε, the least length that a row is divided by; 10⁻¹² by default.
    #[must_use]
    pub fn with_epsilon(mut self, epsilon: f32) -> Self {
        self.epsilon = epsilon;
        self
    }

    /// Replaces the contrast's scale s by one element on the device, for a scale that is learned there. It must be
    /// finite and greater than 0, which is not checked.
    #[must_use]
    pub fn with_scale(mut self, scale: CudaVectorMut<'a>) -> Self {
        self.scale = Some(scale);
        self
    }

    /// Tensors of the key encoder that each launch updates, at first with the coefficient `momentum`
    /// ([`CudaStep::set_momentum`] changes it). Pass parameters that an optimiser changes as
    /// [`CudaVector::from_raw`]. Query and shadow are `P`, the key is f32.
    ///
    /// # Errors
    /// [`Error::Length`] when query, key and shadow of a tensor differ in length, [`CudaError::Device`] when one is of
    /// another handle.
    pub fn with_momentum<P: Element>(
        mut self,
        momentum: f32,
        tensors: Vec<MomentumTensor<CudaVector<'a, P>, CudaVectorMut<'a>, CudaVectorMut<'a, P>>>,
    ) -> Result<Self, Error> {
        let mut all = Vec::with_capacity(tensors.len());
        (self.updated, self.queries) = (Vec::new(), Vec::new());
        for tensor in &tensors {
            let (located, outputs, query) = located_tensor(tensor, self.engine.device())?;
            all.push(located);
            self.updated.extend(outputs);
            self.queries.push(query);
        }
        self.momentum = Some((momentum, P::DTYPE, all));
        Ok(self)
    }

    /// Allocates the step's memory and records the step without running it. An error drops the queue.
    ///
    /// # Errors
    /// [`CudaError::QueueNotFull`]; [`Error::QueueLabels`] for a queue with labels, since a step has none to enqueue;
    /// [`CudaError::Aliasing`] when an output shares memory with another argument; those
    /// of [`value_and_grad`](crate::Engine::value_and_grad) and of [`CudaDevice::record`]; [`Error::Scalar`] for an ε
    /// or a momentum out of range; [`Error::Unsupported`] for gradients that accumulate.
    pub fn record(self) -> Result<CudaStep<'a, T, G>, Error> {
        let device = self.engine.device();
        if let Some(queue) = self.inputs.queue() {
            queue.check_labels(None, 0)?;
        }
        let cursor = match self.inputs.queue() {
            Some(queue) if queue.fill() < queue.capacity() => {
                let (fill, capacity) = (queue.fill(), queue.capacity());
                return Err(CudaError::QueueNotFull { fill, capacity }.into());
            }
            queue => queue.map_or(0, CudaQueue::cursor),
        };
        let mut problem = self.contrast.on(self.inputs.views())?;
        if let Some(scale) = &self.scale {
            problem = problem.with_scale(scale.as_vector());
        }
        let (problem, mut taken) = located_problem(&problem, device)?;
        taken.extend(&self.queries);
        let gradients = located_gradients(&self.gradients, &taken, device)?;
        taken.extend(gradient_regions(&self.gradients));
        require_disjoint(&self.updated, &taken)?;
        let momentum = self.momentum.as_ref();
        let arguments = StepArguments {
            problem: &problem,
            cursor,
            gradients: &gradients,
            upstream: self.upstream,
            epsilon: self.epsilon,
            momentum: momentum.map(|(m, dtype, tensors)| (*m, *dtype, &tensors[..])),
        };
        let step = Step::new(device, &arguments)?;
        device.staging.reserve()?;
        let (results, graph) = device.record(|| step.launch(self.engine.similarity()))?;
        Ok(CudaStep {
            results: CudaResults::new(results, device),
            graph,
            step,
            inputs: self.inputs,
            gradients: self.gradients,
            _scale: self.scale,
        })
    }
}

impl<T: Element> StepInputs<'_, T> {
    fn queue(&self) -> Option<&CudaQueue<T>> {
        match self {
            StepInputs::Queue { queue, .. } => Some(queue),
            _ => None,
        }
    }

    fn views(&self) -> Inputs<CudaRows<'_, T>> {
        match self {
            StepInputs::Shared { z } => Inputs::Shared { z: z.as_rows() },
            StepInputs::Pair { q, k, positives } => Inputs::Pair {
                q: q.as_rows(),
                k: k.as_rows(),
                positives: *positives,
            },
            StepInputs::Queue { q, own_key, queue } => Inputs::Queue {
                q: q.as_rows(),
                own_key: own_key.as_rows(),
                queue: queue.all(),
            },
        }
    }
}

impl<T: Element, G: Element> CudaStep<'_, T, G> {
    /// Puts the step on the stream.
    ///
    /// # Errors
    /// [`CudaError::Driver`] when the driver refuses; [`CudaError::Capture`] while the stream is recorded.
    pub fn launch(&mut self) -> Result<(), Error> {
        if self.graph.device().stream().is_capturing()? {
            return Err(CudaError::Capture { call: "launch" }.into());
        }
        // SAFETY: the graph names memory of the step, and memory that is borrowed for as long as the step
        // lives; memory of raw views stays as long as they are used, by their contract. Outputs are borrowed
        // for writing, and read through `self` in the order of the stream.
        unsafe { self.graph.launch()? };
        if let StepInputs::Queue { own_key, queue, .. } = &mut self.inputs {
            queue.count(own_key.region().rows());
        }
        Ok(())
    }

    /// The loss of the last launch. It waits for the launch.
    ///
    /// # Errors
    /// [`CudaError::Driver`] when a kernel has failed; [`CudaError::Capture`].
    pub fn loss(&self) -> Result<f32, Error> {
        self.results.loss()
    }

    /// Loss, dscale and statistics of the last launch, on the device: the same memory each time.
    pub fn results(&self) -> &CudaResults {
        &self.results
    }

    /// The embeddings of the anchors, z or q, to be overwritten for the next launch.
    pub fn anchors_mut(&mut self) -> CudaRowsMut<'_, T> {
        match &mut self.inputs {
            StepInputs::Shared { z: anchors }
            | StepInputs::Pair { q: anchors, .. }
            | StepInputs::Queue { q: anchors, .. } => anchors.reborrow(),
        }
    }

    /// The embeddings of the keys, k or own_key, to be overwritten for the next launch; `None` for NT-Xent.
    pub fn keys_mut(&mut self) -> Option<CudaRowsMut<'_, T>> {
        match &mut self.inputs {
            StepInputs::Shared { .. } => None,
            StepInputs::Pair { k: keys, .. } | StepInputs::Queue { own_key: keys, .. } => {
                Some(keys.reborrow())
            }
        }
    }

    /// The gradients of the last launch, with respect to the embeddings before normalisation.
    pub fn gradients(&self) -> Gradients<CudaRows<'_, G>> {
        let dk = self.gradients.dk.as_ref().map(CudaRowsMut::as_rows);
        Gradients::new(self.gradients.dq.as_rows(), dk)
    }

    /// Sets the scale s of the following launches. It overwrites the element of [`CudaStepBuilder::with_scale`].
    ///
    /// # Errors
    /// [`Error::Scalar`] unless finite and greater than 0; [`CudaError::Driver`].
    pub fn set_scale(&mut self, scale: f32) -> Result<(), Error> {
        self.step.set_scale(self.graph.device(), scale)
    }

    /// Sets the momentum m of the following launches ([`MomentumSchedule::at`](crate::MomentumSchedule::at) has the
    /// usual schedule).
    ///
    /// # Errors
    /// [`Error::Scalar`] unless 0 ≤ m ≤ 1; [`CudaError::Driver`].
    pub fn set_momentum(&mut self, momentum: f32) -> Result<(), Error> {
        self.step.set_momentum(self.graph.device(), momentum)
    }

    /// The queue after the launches so far.
    pub fn queue(&self) -> Option<&CudaQueue<T>> {
        self.inputs.queue()
    }

    /// Ends the step and gives its queue back.
    pub fn into_queue(self) -> Option<CudaQueue<T>> {
        match self.inputs {
            StepInputs::Queue { queue, .. } => Some(queue),
            _ => None,
        }
    }
}

impl<T: Element, G: Element> std::fmt::Debug for CudaStep<'_, T, G> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CudaStep")
            .field("inputs", &self.inputs)
            .field("gradients", &self.gradients)
            .finish_non_exhaustive()
    }
}
