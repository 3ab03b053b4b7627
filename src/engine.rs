//! The verbs of an engine: what can be computed, wherever the numbers live.

use crate::contrast::{Contrast, Inputs};
use crate::element::Element;
use crate::error::Error;
use crate::rows::Matrix;
use crate::statistics::Statistics;

/// Loss and the row statistics that [`Engine::backward`] needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Forward {
    /// The reduced loss.
    pub loss: f32,
    /// Per row (and per column for CLIP).
    pub statistics: Statistics,
}

/// Loss, ∂loss/∂scale and row statistics; dq and dk were written into the caller's buffers.
#[derive(Debug, Clone, PartialEq)]
pub struct ValueAndGrad {
    /// The reduced loss, not multiplied by the upstream gradient.
    pub loss: f32,
    /// Upstream × ∂loss/∂s, with s = 1/τ the scale.
    pub dscale: f32,
    /// Per row (and per column for CLIP).
    pub statistics: Statistics,
}

/// Where gradients go; `V` is an engine's writable view. Former contents are overwritten.
#[derive(Debug)]
pub struct Gradients<V> {
    /// ∂loss/∂q, N × D (∂loss/∂z for NT-Xent).
    pub dq: V,
    /// ∂loss/∂k, M × D, when wanted: without it one-way InfoNCE costs 4NMD instead of 6NMD.
    /// Must be `None` for NT-Xent and MoCo; CLIP and InfoNCE have it.
    pub dk: Option<V>,
}

/// The k best candidates of every query, best first; equal scores in index order.
#[derive(Debug, Clone, PartialEq)]
pub struct TopK {
    /// Candidate indices, N × k.
    pub indices: Vec<u32>,
    /// ⟨q_i, k_j⟩ of each, N × k, not scaled. NaN sorts before every number.
    pub scores: Vec<f32>,
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

/// What an engine can do. Results are bitwise repeatable on the same machine.
///
/// # Precision
/// Accumulation, loss, statistics and softmax are f32; gradients are rounded once, on output.
/// Inputs that hold NaN or infinity give NaN.
pub trait Engine {
    /// A read-only matrix in this engine's memory.
    type Matrix<'a, T: Element>: Matrix + Copy;
    /// A writable matrix in this engine's memory.
    type MatrixMut<'a, T: Element>: Matrix;
    /// A read-only vector in this engine's memory.
    type Vector<'a, T: Element>;
    /// A writable vector in this engine's memory.
    type VectorMut<'a, T: Element>;
    /// A key queue in this engine's memory.
    type Queue<T: Element>;

    /// Loss and row statistics; 2NMD FLOPs.
    ///
    /// # Errors
    /// [`Error`] naming the input that does not fit the contrast.
    fn forward<T: Element>(
        &self,
        contrast: &Contrast,
        inputs: &Inputs<Self::Matrix<'_, T>>,
    ) -> Result<Forward, Error>;

    /// Loss and gradients together: the training path. `upstream` is dL/dloss; a loss scale for
    /// f16 gradients goes here.
    ///
    /// # Errors
    /// [`Error`] naming the input or gradient that does not fit the contrast; nothing is written then.
    fn value_and_grad<T: Element, G: Element>(
        &self,
        contrast: &Contrast,
        inputs: &Inputs<Self::Matrix<'_, T>>,
        upstream: f32,
        gradients: Gradients<Self::MatrixMut<'_, G>>,
    ) -> Result<ValueAndGrad, Error>;

    /// Gradients from the statistics that [`forward`](Self::forward) saved on the same inputs, for
    /// frameworks that call forward and backward apart. Returns upstream × ∂loss/∂s.
    ///
    /// # Errors
    /// [`Error`] naming the input, gradient or statistic that does not fit; nothing is written then.
    fn backward<T: Element, G: Element>(
        &self,
        contrast: &Contrast,
        inputs: &Inputs<Self::Matrix<'_, T>>,
        statistics: &Statistics,
        upstream: f32,
        gradients: Gradients<Self::MatrixMut<'_, G>>,
    ) -> Result<f32, Error>;

    /// Fused similarity and selection of the `k` largest ⟨q_i, k_j⟩ per row. With `exclude_self`
    /// anchor i does not see candidate i.
    ///
    /// # Errors
    /// [`Error::TopK`] unless 1 ≤ k ≤ the candidates an anchor can have; [`Error::Dimension`].
    fn top_k<T: Element>(
        &self,
        queries: Self::Matrix<'_, T>,
        candidates: Self::Matrix<'_, T>,
        k: usize,
        exclude_self: bool,
    ) -> Result<TopK, Error>;

    /// y_i = x_i / max(‖x_i‖, epsilon), and ‖x_i‖ into `norms` (N).
    ///
    /// # Errors
    /// [`Error`] when shapes differ or `epsilon` is not finite and positive.
    fn normalize<T: Element, O: Element>(
        &self,
        x: Self::Matrix<'_, T>,
        y: Self::MatrixMut<'_, O>,
        norms: Self::VectorMut<'_, f32>,
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
        y: Self::Matrix<'_, T>,
        norms: Self::Vector<'_, f32>,
        dy: Self::Matrix<'_, G>,
        dx: Self::MatrixMut<'_, G>,
        epsilon: f32,
    ) -> Result<(), Error>;

    /// key ← m·key + (1−m)·query over many tensors in one call (He et al. 2020, equation 2).
    ///
    /// # Errors
    /// [`Error::Scalar`] unless 0 ≤ m ≤ 1, [`Error::Length`] when a tensor's parts differ; nothing
    /// is written then.
    #[expect(clippy::type_complexity, reason = "three views of one engine")]
    fn momentum_update<'a, T: Element>(
        &self,
        momentum: f32,
        tensors: &mut [MomentumTensor<
            Self::Vector<'a, T>,
            Self::VectorMut<'a, f32>,
            Self::VectorMut<'a, T>,
        >],
    ) -> Result<(), Error>;

    /// Writes a batch of keys over the oldest keys of the queue.
    ///
    /// # Errors
    /// [`Error::Dimension`] when the keys' D is not the queue's.
    fn enqueue<T: Element>(
        &self,
        queue: &mut Self::Queue<T>,
        keys: Self::Matrix<'_, T>,
    ) -> Result<(), Error>;
}
