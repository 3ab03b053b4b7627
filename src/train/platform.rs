//! Where training runs: a backend of the tensor framework beside an engine that reads its tensors.
//!
//! The framework computes the encoder. The engine computes normalisation, loss, momentum update and
//! key queue. A *lent* tensor is one that the engine reads. An *owned* buffer is one that the
//! engine writes and that becomes a tensor. The training methods are written once, over this trait.
//! Each platform decides how framework and engine wait for each other.

use std::fmt::Debug;
use std::ops::Deref;

use burn::tensor::backend::Backend;
use burn::tensor::{Shape, Tensor};
use serde::{Deserialize, Serialize};

use super::error::TrainError;
use crate::{Engine, Memory};

/// The memory of the platform's engine.
pub type MemoryOf<P> = <<P as Platform>::Engine as Engine>::Memory;

/// A backend of the framework, an engine, and how values pass between them.
pub trait Platform: Debug + 'static {
    /// The framework's backend; its floats are f32.
    type Backend: Backend;
    /// Computes everything but the encoder.
    type Engine: Engine<Memory: Memory<Queue<f32>: Debug, Buffer<f32>: Debug>>;
    /// A buffer that no tensor shares.
    type Owned: Values<MemoryOf<Self>>;
    /// A tensor's values, for the engine to read. The framework does not change them while this
    /// lives.
    type Lent: Deref<Target = Self::Owned>;

    /// The engine.
    fn engine(&self) -> &Self::Engine;

    /// Lends tensors to the engine, once the framework has computed them.
    ///
    /// # Errors
    /// [`TrainError::Tensor`] when the floats are not f32; what the framework reports.
    fn lend<const D: usize>(
        &self,
        tensors: Vec<Tensor<Self::Backend, D>>,
    ) -> Result<Vec<Self::Lent>, TrainError>;

    /// Copies of tensors, for the engine to change.
    ///
    /// # Errors
    /// As [`lend`](Self::lend).
    fn copies<const D: usize>(
        &self,
        tensors: Vec<Tensor<Self::Backend, D>>,
    ) -> Result<Vec<Self::Owned>, TrainError>;

    /// Buffers of `lengths` values, for the engine to write.
    ///
    /// # Errors
    /// What the framework reports.
    fn unwritten<const N: usize>(
        &self,
        lengths: [usize; N],
    ) -> Result<[Self::Owned; N], TrainError>;

    /// Makes a tensor of a buffer, after the engine has written it.
    ///
    /// # Errors
    /// What the engine reports of earlier work.
    fn tensor_of<const D: usize>(
        &self,
        values: Self::Owned,
        shape: impl Into<Shape>,
    ) -> Result<Tensor<Self::Backend, D>, TrainError>;

    /// How long framework and engine have waited for each other so far; `None` where both compute
    /// before they return.
    fn waits(&self) -> Option<Waits> {
        None
    }
}

/// A buffer as an engine reads and writes it. Views fail with [`TrainError::Loss`] when the buffer
/// is empty or does not have as many values as the matrix.
pub trait Values<M: Memory> {
    /// As a matrix of `rows` × `dim`.
    fn matrix(&self, rows: usize, dim: usize) -> Result<M::Rows<'_, f32>, TrainError>;
    /// As a vector.
    fn vector(&self) -> Result<M::Vector<'_, f32>, TrainError>;
    /// As a matrix of `rows` × `dim`, to be written.
    fn matrix_mut(&mut self, rows: usize, dim: usize) -> Result<M::RowsMut<'_, f32>, TrainError>;
    /// As a vector, to be written.
    fn vector_mut(&mut self) -> Result<M::VectorMut<'_, f32>, TrainError>;
}

/// Seconds that the calling thread has waited between framework and engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Waits {
    /// For the framework to compute what it lends: what was left of the encoder's own time when the
    /// wait began.
    pub framework_seconds: f64,
    /// For the engine to write what becomes a tensor.
    pub engine_seconds: f64,
}

impl Waits {
    /// The mean over `steps` steps.
    #[must_use]
    pub fn per(self, steps: usize) -> Self {
        let steps = steps.max(1) as f64;
        Self {
            framework_seconds: self.framework_seconds / steps,
            engine_seconds: self.engine_seconds / steps,
        }
    }
}
