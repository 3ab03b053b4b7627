//! The verbs of an engine: what can be computed, wherever the numbers live.

use crate::element::Element;
use crate::error::Error;
use crate::inputs::Problem;
use crate::memory::Memory;

/// Where gradients go; `V` is an engine's writable view.
#[derive(Debug)]
pub struct Gradients<V> {
    /// ∂loss/∂q, N × D (∂loss/∂z for NT-Xent).
    pub dq: V,
    /// ∂loss/∂k, M × D, when wanted: without it a one-way loss costs 4NMD instead of 6NMD.
    /// Must be `None` where the contrast has none ([`Contrast::has_dk`](crate::Contrast::has_dk)).
    pub dk: Option<V>,
    /// Whether they are added to what is there, in f32, rounded once; otherwise it is overwritten.
    pub accumulate: bool,
}

impl<V> Gradients<V> {
    /// Gradients that overwrite.
    pub fn new(dq: V, dk: Option<V>) -> Self {
        Self {
            dq,
            dk,
            accumulate: false,
        }
    }

    /// Gradients that are added to what is there.
    #[must_use]
    pub fn accumulating(self) -> Self {
        Self {
            accumulate: true,
            ..self
        }
    }
}

/// One tensor of a momentum update; `Q`, `K` and `S` are an engine's views of vectors.
#[derive(Debug)]
pub struct MomentumTensor<Q, K, S> {
    /// Parameters of the query encoder.
    pub query: Q,
    /// Parameters of the key encoder, always f32: at m = 0.999 a step is smaller than half a bf16 ulp.
    pub key: K,
    /// A copy of `key` rounded to the query's type, when wanted.
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

/// What an engine can do. Results stay in its memory until they are read, and are bitwise repeatable on the
/// same machine. An engine on a device returns before the work has ended; what is read later waits for it.
///
/// # Precision
/// Accumulation, loss, statistics and softmax are f32; gradients are rounded once, on output.
/// Inputs that hold NaN or infinity give NaN.
pub trait Engine {
    /// Where its matrices live.
    type Memory: Memory;

    /// The memory itself: to bring numbers there.
    fn memory(&self) -> &Self::Memory;

    /// Loss and row statistics; 2NMD FLOPs.
    ///
    /// # Errors
    /// What the engine cannot take of the problem: [`Error::Scalar`] for a D above its largest, `Error::Cuda` for
    /// memory of another device.
    fn forward<T: Element>(
        &self,
        problem: &Problem<RowsOf<'_, Self, T>>,
    ) -> Result<EvaluationOf<Self>, Error>;

    /// Loss and gradients together: the training path. `upstream` is dL/dloss; a loss scale for
    /// f16 gradients goes here.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and those of [`Problem::check_gradients`]; nothing is written then.
    fn value_and_grad<T: Element, G: Element>(
        &self,
        problem: &Problem<RowsOf<'_, Self, T>>,
        upstream: f32,
        gradients: Gradients<RowsMutOf<'_, Self, G>>,
    ) -> Result<EvaluationOf<Self>, Error>;

    /// Gradients from the statistics that [`forward`](Self::forward) found on the same inputs, for
    /// frameworks that call forward and backward apart; or from those of a larger problem, of which these
    /// candidates are a shard. Leaves upstream × ∂loss/∂s.
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

    /// Joins the statistics of the same anchors over two sets of candidates into the first: lse⁻ over both,
    /// z₊ from whichever has the positive. A key of the anchor's own ([`Inputs::Queue`](crate::Inputs::Queue))
    /// would count in every shard: a queue is not to be sharded.
    ///
    /// # Errors
    /// [`Error::Rows`] when they are not of as many rows and columns.
    fn merge(
        &self,
        statistics: &mut StatisticsOf<Self>,
        others: &StatisticsOf<Self>,
    ) -> Result<(), Error>;

    /// Fused similarity and selection of the `k` largest ⟨q_i, k_j⟩ per row. With `exclude_self`
    /// anchor i does not see candidate i.
    ///
    /// # Errors
    /// [`Error::TopK`] unless 1 ≤ k ≤ the candidates an anchor can have; [`Error::Dimension`].
    fn top_k<T: Element>(
        &self,
        queries: RowsOf<'_, Self, T>,
        candidates: RowsOf<'_, Self, T>,
        k: usize,
        exclude_self: bool,
    ) -> Result<<Self::Memory as Memory>::TopK, Error>;

    /// y_i = x_i / max(‖x_i‖, epsilon), and ‖x_i‖ into `norms` (N).
    ///
    /// # Errors
    /// [`Error`] when shapes differ or `epsilon` is not finite and positive.
    fn normalize<T: Element, O: Element>(
        &self,
        x: RowsOf<'_, Self, T>,
        y: RowsMutOf<'_, Self, O>,
        norms: VectorMutOf<'_, Self, f32>,
        epsilon: f32,
    ) -> Result<(), Error>;

    /// dx_i = (dy_i − y_i⟨y_i, dy_i⟩)/‖x_i‖ from y and ‖x_i‖ as [`normalize`](Self::normalize)
    /// left them; dy_i/epsilon where ‖x_i‖ ≤ epsilon.
    ///
    /// A row that is short (‖x_i‖ at most epsilon, or below the normal numbers of `G`) and whose
    /// gradient leaves the range of `G`, as that of a row of zeros does in f16 with epsilon = 10⁻¹², has
    /// gradient 0. Longer rows overflow to infinity, and NaN or infinity in dy reaches dx, whatever the
    /// length. [`reference::normalize_backward`](crate::reference::normalize_backward) is the definition.
    ///
    /// # Errors
    /// [`Error`] when shapes differ or `epsilon` is not finite and positive.
    fn normalize_backward<T: Element, G: Element>(
        &self,
        y: RowsOf<'_, Self, T>,
        norms: VectorOf<'_, Self, f32>,
        dy: RowsOf<'_, Self, G>,
        dx: RowsMutOf<'_, Self, G>,
        epsilon: f32,
    ) -> Result<(), Error>;

    /// key ← m·key + (1−m)·query over many tensors in one call (He et al. 2020, equation 2).
    ///
    /// # Errors
    /// [`Error::Scalar`] unless 0 ≤ m ≤ 1, [`Error::Length`] when a tensor's parts differ; nothing
    /// is written then.
    fn momentum_update<T: Element>(
        &self,
        momentum: f32,
        tensors: &mut [MomentumOf<'_, Self, T>],
    ) -> Result<(), Error>;

    /// Writes a batch of keys over the oldest keys of the queue.
    ///
    /// # Errors
    /// [`Error::Dimension`] when the keys' D is not the queue's.
    fn enqueue<T: Element>(
        &self,
        queue: &mut <Self::Memory as Memory>::Queue<T>,
        keys: RowsOf<'_, Self, T>,
    ) -> Result<(), Error>;
}
