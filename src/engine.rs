//! [`Engine`]: the trait of the CPU, CUDA and emulated engines. Its methods are called verbs.

use crate::contrast::same_rows;
use crate::element::Element;
use crate::error::Error;
use crate::gradients::Gradients;
use crate::memory::{Evaluation, Memory, Read};
use crate::positives::Positives;
use crate::problem::Problem;
use crate::triplet::TripletProblem;

/// One tensor of a momentum update; `Q`, `K` and `S` are an engine's views of vectors.
#[derive(Debug)]
pub struct MomentumTensor<Q, K, S> {
    /// Parameters of the query encoder.
    pub query: Q,
    /// Parameters of the key encoder. Always f32: at m = 0.999 a step is below half an ulp of bf16 and would be lost.
    pub key: K,
    /// A copy of `key` rounded to the query's type, if wanted.
    pub shadow: Option<S>,
}

/// A tensor of a momentum update in host memory.
pub type MomentumSlices<'a, T> = MomentumTensor<&'a [T], &'a mut [f32], &'a mut [T]>;

/// A read-only matrix in the memory of engine `E`.
pub type RowsOf<'a, E, T> = <<E as Engine>::Memory as Memory>::Rows<'a, T>;
/// A writable matrix in the memory of engine `E`.
pub type RowsMutOf<'a, E, T> = <<E as Engine>::Memory as Memory>::RowsMut<'a, T>;
/// A read-only vector in the memory of engine `E`.
pub type VectorOf<'a, E, T> = <<E as Engine>::Memory as Memory>::Vector<'a, T>;
/// A writable vector in the memory of engine `E`.
pub type VectorMutOf<'a, E, T> = <<E as Engine>::Memory as Memory>::VectorMut<'a, T>;
/// Row statistics in the memory of engine `E`.
pub type StatisticsOf<E> = <<E as Engine>::Memory as Memory>::Statistics;
/// Loss and statistics in the memory of engine `E`.
pub type EvaluationOf<E> = <<E as Engine>::Memory as Memory>::Evaluation;
/// A tensor of a momentum update in the memory of engine `E`.
pub type MomentumOf<'a, E, T> =
    MomentumTensor<VectorOf<'a, E, T>, VectorMutOf<'a, E, f32>, VectorMutOf<'a, E, T>>;

/// What an engine computes, for N anchors and M candidates of D elements.
///
/// Results stay in the engine's memory until they are read. The same call on the same device gives the same bits. A
/// CUDA engine returns before its work has ended; reading a result waits for it.
///
/// # Precision
/// Accumulation, loss, statistics and softmax are f32; gradients are rounded once, on output.
/// NaN or infinity in an input makes the loss NaN.
pub trait Engine {
    /// The memory of its matrices.
    type Memory: Memory;

    /// The engine's memory, for copies from and to host memory.
    fn memory(&self) -> &Self::Memory;

    /// Loss and row statistics in 2NMD FLOPs.
    ///
    /// # Errors
    /// [`Error::Scalar`] for a D above the engine's largest, `Error::Cuda` for memory of another device.
    fn forward<T: Element>(
        &self,
        problem: &Problem<RowsOf<'_, Self, T>>,
    ) -> Result<EvaluationOf<Self>, Error>;

    /// Loss and gradients in one call, for training. `upstream` is dL/dloss of the objective L that is minimised. With
    /// f16 gradients it includes the trainer's loss scale.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and those of [`Problem::check_gradients`]; nothing is written then.
    fn value_and_grad<T: Element, G: Element>(
        &self,
        problem: &Problem<RowsOf<'_, Self, T>>,
        upstream: f32,
        gradients: Gradients<RowsMutOf<'_, Self, G>>,
    ) -> Result<EvaluationOf<Self>, Error>;

    /// Gradients from known statistics: those of [`forward`](Self::forward) on the same inputs, or those of a
    /// larger problem of which these candidates are a shard. Returns upstream × ∂loss/∂s, with s = 1/τ.
    ///
    /// # Errors
    /// As [`value_and_grad`](Self::value_and_grad), and [`Error::Rows`] for statistics of another shape.
    fn backward<T: Element, G: Element>(
        &self,
        problem: &Problem<RowsOf<'_, Self, T>>,
        statistics: &StatisticsOf<Self>,
        upstream: f32,
        gradients: Gradients<RowsMutOf<'_, Self, G>>,
    ) -> Result<<Self::Memory as Memory>::Number, Error>;

    /// Merges `others`, the statistics of the same anchors over other candidates, into `statistics`. lse⁻ becomes that
    /// of both sets of candidates, z₊ that of the set with the positive. Do not shard the queue of
    /// [`Inputs::Queue`](crate::Inputs::Queue), where an anchor's own key would count in every shard, candidates with one
    /// positive by label, whose first candidate every shard has, or those of a guard, which needs z₊.
    /// [`forward_over`](Self::forward_over) refuses all three.
    ///
    /// # Errors
    /// [`Error::Rows`] when the two differ in the number of rows or columns.
    fn merge(
        &self,
        statistics: &mut StatisticsOf<Self>,
        others: &StatisticsOf<Self>,
    ) -> Result<(), Error>;

    /// The merged statistics of anchors whose candidates lie in several matrices: the batch, the other view, a queue,
    /// prototypes, mined negatives. All problems have the same rule, scale and reduction, and row i of each belongs to the
    /// same row of the loss; problems without positives have [`Positives::NONE`](crate::Positives::NONE). With these statistics
    /// [`loss_over`](Self::loss_over) is the loss and [`backward`](Self::backward) of each problem, each
    /// [as a shard of all](crate::Problem::as_shard_of), gives its gradients.
    ///
    /// # Errors
    /// As [`forward`](Self::forward); [`Error::Unsupported`] for none; for problems of different losses, row weights or
    /// scales, or, where the rule counts negatives, that exclude different numbers of candidates; for own keys, columns
    /// with a loss, a guard, or one positive by label, which would be in every matrix. Weights and scales that the host
    /// cannot read must be the same, which is not checked.
    fn forward_over<T: Element>(
        &self,
        problems: &[Problem<RowsOf<'_, Self, T>>],
    ) -> Result<StatisticsOf<Self>, Error> {
        let refuse = |option, reason| Err(Error::Unsupported { option, reason });
        let Some((first, others)) = problems.split_first() else {
            return refuse("problems", "there is none");
        };
        let contrast = first.contrast();
        let contrasts = || problems.iter().map(Problem::contrast);
        if contrasts().any(|other| !other.has_losses_of(contrast)) {
            return refuse("problems", "their losses differ");
        }
        if contrasts().any(|other| other.has_own_keys() || other.has_columns()) {
            return refuse("problems", "own keys, or columns with a loss, make no sum");
        }
        if contrasts().any(|other| other.description().guard.is_some()) {
            return refuse("guard", "it needs the positive in the same matrix");
        }
        let excludes = contrast.excludes_self();
        let differ = contrasts().any(|other| other.excludes_self() != excludes);
        if differ && contrast.rule().counts_negatives() {
            let reason = "the rule counts negatives, and only some exclude the anchors";
            return refuse("problems", reason);
        }
        if others.iter().any(|other| !other.has_weights_of(first)) {
            return refuse("row_weights", "they differ from problem to problem");
        }
        let in_memory = first.scale().is_some();
        if others
            .iter()
            .any(|other| other.scale().is_some() != in_memory)
        {
            return refuse("scale", "only some problems have one in memory");
        }
        let has_labels = |problem: &Problem<_>| {
            let positives = problem.positives();
            matches!(positives, Some(Positives::Labels { .. }))
        };
        if !contrast.has_sets() && !others.is_empty() && problems.iter().any(has_labels) {
            return refuse(
                "positives",
                "a label has its first candidate in every matrix",
            );
        }
        for other in others {
            same_rows("problems", other.shape().anchors, first.shape().anchors)?;
        }
        let mut merged = self.forward(first)?.into_statistics();
        for other in others {
            self.merge(&mut merged, self.forward(other)?.statistics())?;
        }
        Ok(merged)
    }

    /// The reduced loss of merged statistics, as a `problem` of all their candidates has it: in host memory, so that it
    /// waits for the engine.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for row weights, or a scale, that the host cannot read.
    fn loss_over<T: Element>(
        &self,
        problem: &Problem<RowsOf<'_, Self, T>>,
        statistics: &StatisticsOf<Self>,
    ) -> Result<f32, Error> {
        let statistics = statistics.read()?;
        problem.loss_of(&statistics)
    }

    /// Loss and gradients of anchors whose candidates lie in several matrices, in 8NMD FLOPs for M candidates in all:
    /// [`forward_over`](Self::forward_over), then [`backward`](Self::backward) of each. `gradients` is dq and, for each
    /// problem, its dk, or `None` for constant candidates. Returns the loss and upstream × ∂loss/∂s. dq is rounded once
    /// for each problem: f32 loses nothing.
    ///
    /// # Errors
    /// Those of [`forward_over`](Self::forward_over), [`loss_over`](Self::loss_over) and
    /// [`Problem::check_gradients`]; [`Error::Rows`] unless there are as many dk as problems. Nothing is written then.
    /// What only [`backward`](Self::backward) of a problem can tell, such as memory of another device, is an error when
    /// that problem is computed, after others; that dk of different problems share memory is not found.
    fn value_and_grad_over<T: Element, G: Element>(
        &self,
        problems: &[Problem<RowsOf<'_, Self, T>>],
        upstream: f32,
        mut dq: RowsMutOf<'_, Self, G>,
        mut dk: Vec<Option<RowsMutOf<'_, Self, G>>>,
    ) -> Result<[f32; 2], Error> {
        same_rows("dk", dk.len(), problems.len())?;
        let all = problems
            .iter()
            .map(|problem| problem.shape().candidates)
            .sum();
        let problems: Vec<_> = problems
            .iter()
            .map(|problem| problem.as_shard_of(all))
            .collect();
        let statistics = self.forward_over(&problems)?;
        for (problem, dk) in problems.iter().zip(&mut dk) {
            let dk = dk.as_mut().map(Self::Memory::reborrow);
            problem.check_gradients(&Gradients::new(Self::Memory::reborrow(&mut dq), dk))?;
        }
        let loss = self.loss_over(&problems[0], &statistics)?;
        let mut dscale = 0.0;
        for (index, (problem, dk)) in problems.iter().zip(&mut dk).enumerate() {
            let dk = dk.as_mut().map(Self::Memory::reborrow);
            let mut gradients = Gradients::new(Self::Memory::reborrow(&mut dq), dk);
            gradients.accumulate.anchors = index > 0;
            dscale += self
                .backward(problem, &statistics, upstream, gradients)?
                .read()?;
        }
        Ok([loss, dscale])
    }

    /// The `k` largest ⟨q_i, k_j⟩ of N queries among M candidates: indices and scores, N × k, best first. With
    /// `exclude_self` query i skips candidate i.
    ///
    /// # Errors
    /// [`Error::TopK`] unless 1 ≤ k ≤ M (M − 1 with `exclude_self`); [`Error::Dimension`] when D differs.
    fn top_k<T: Element>(
        &self,
        queries: RowsOf<'_, Self, T>,
        candidates: RowsOf<'_, Self, T>,
        k: usize,
        exclude_self: bool,
    ) -> Result<<Self::Memory as Memory>::TopK, Error>;

    /// The triplet loss and its gradients, in O((N + M)·D). Returns the loss. Without `k` in the inputs dq holds the
    /// whole gradient of the one matrix. Distances, and the sum over the anchors that name a candidate, are f32; that
    /// sum has one order. Where margin + ‖q_i − k_p‖² − ‖q_i − k_n‖² is 0, the gradient is 0. NaN or infinity in a row
    /// that a triplet names makes the loss NaN. [`reference::triplet`](crate::reference::triplet) is the definition.
    ///
    /// # Errors
    /// Those of [`TripletProblem::check_gradients`]; nothing is written then.
    fn triplet<T: Element, G: Element>(
        &self,
        problem: &TripletProblem<RowsOf<'_, Self, T>>,
        upstream: f32,
        gradients: Gradients<RowsMutOf<'_, Self, G>>,
    ) -> Result<<Self::Memory as Memory>::Number, Error>;

    /// y_i = x_i / max(‖x_i‖, epsilon), N × D, and ‖x_i‖ into `norms`, N elements.
    ///
    /// # Errors
    /// [`Error::Rows`] or [`Error::Dimension`] when shapes differ, [`Error::Scalar`] unless `epsilon` is finite and > 0.
    fn normalize<T: Element, O: Element>(
        &self,
        x: RowsOf<'_, Self, T>,
        y: RowsMutOf<'_, Self, O>,
        norms: VectorMutOf<'_, Self, f32>,
        epsilon: f32,
    ) -> Result<(), Error>;

    /// dx_i = (dy_i − y_i⟨y_i, dy_i⟩)/‖x_i‖, N × D, from the results y and ‖x_i‖ of [`normalize`](Self::normalize).
    /// Where ‖x_i‖ ≤ epsilon, dx_i = dy_i/epsilon.
    ///
    /// A row is short where ‖x_i‖ is at most epsilon, or below the smallest normal number of `G`. A short row whose
    /// gradient overflows `G` has gradient 0: a row of zeros in f16 with epsilon = 10⁻¹², for example. The gradient of
    /// a longer row overflows to infinity. NaN and infinity in dy reach dx in both cases.
    /// [`reference::normalize_backward`](crate::reference::normalize_backward) is the definition.
    ///
    /// # Errors
    /// [`Error::Rows`] or [`Error::Dimension`] when shapes differ, [`Error::Scalar`] unless `epsilon` is finite and > 0.
    fn normalize_backward<T: Element, G: Element>(
        &self,
        y: RowsOf<'_, Self, T>,
        norms: VectorOf<'_, Self, f32>,
        dy: RowsOf<'_, Self, G>,
        dx: RowsMutOf<'_, Self, G>,
        epsilon: f32,
    ) -> Result<(), Error>;

    /// key ← m·key + (1 − m)·query over many tensors in one call (MoCo, He et al. 2020, equation 2).
    ///
    /// # Errors
    /// [`Error::Scalar`] unless 0 ≤ m ≤ 1, [`Error::Length`] when a tensor's query, key and
    /// shadow differ in length; nothing is written then.
    fn momentum_update<T: Element>(
        &self,
        momentum: f32,
        tensors: &mut [MomentumOf<'_, Self, T>],
    ) -> Result<(), Error>;

    /// Moves rows of a memory bank, M × D, towards a batch of keys, B × D (InstDisc, Wu et al. 2018; the authors' m is
    /// 0.5). For each key k_i and its row r = `rows[i]`
    /// ```text
    /// y = m·bank_r + (1 − m)·k_i        bank_r ← y / max(‖y‖, 10⁻¹²)
    /// ```
    /// in f32, rounded once. Where an index occurs several times, the last of its keys counts and the others do
    /// nothing. [`NO_POSITIVE`](crate::NO_POSITIVE) names no row. Other indices of M or more are an error in host
    /// memory; in device memory, which is not checked, they name no row either.
    /// [`reference::update_rows`](crate::reference::update_rows) is the definition,
    /// [`MemoryBank`](crate::MemoryBank) a bank in host memory.
    ///
    /// # Errors
    /// [`Error::Scalar`] unless 0 ≤ m ≤ 1, [`Error::Dimension`] when the keys' D is not the bank's, [`Error::Rows`]
    /// unless there is an index for each key, [`Error::RowOutOfRange`]; nothing is written then.
    fn update_rows<T: Element>(
        &self,
        bank: RowsMutOf<'_, Self, T>,
        rows: VectorOf<'_, Self, u32>,
        keys: RowsOf<'_, Self, T>,
        momentum: f32,
    ) -> Result<(), Error>;

    /// Writes a batch of keys, B × D, over the oldest keys of the queue.
    ///
    /// # Errors
    /// [`Error::Dimension`] when the keys' D is not the queue's, [`Error::QueueLabels`] for a queue with labels.
    fn enqueue<T: Element>(
        &self,
        queue: &mut <Self::Memory as Memory>::Queue<T>,
        keys: RowsOf<'_, Self, T>,
    ) -> Result<(), Error>;

    /// [`enqueue`](Self::enqueue) of keys with a label each, B labels, for a queue
    /// [with labels](crate::KeyQueue::with_labels).
    ///
    /// # Errors
    /// [`Error::Dimension`] when the keys' D is not the queue's, [`Error::QueueLabels`] for a queue without labels,
    /// [`Error::Rows`] unless there is a label for each key.
    fn enqueue_labelled<T: Element>(
        &self,
        queue: &mut <Self::Memory as Memory>::Queue<T>,
        keys: RowsOf<'_, Self, T>,
        labels: VectorOf<'_, Self, u32>,
    ) -> Result<(), Error>;
}
