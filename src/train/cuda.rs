//! Training on a CUDA device: burn's CUDA backend beside the CUDA engine.
//!
//! Embeddings, keys, gradients and parameters stay on the device. Every step copies its images to
//! the device and its loss back. Steps that measure contrastive top-1 also copy back what it is
//! computed from.

use burn::tensor::ops::FloatTensor;
use burn::tensor::{Shape, Tensor, TensorPrimitive};

use super::error::TrainError;
use super::platform::{MemoryOf, Platform, Values, Waits};
use crate::Error;
use crate::cuda::{CudaDevice, CudaEngine, CudaRows, CudaRowsMut, CudaVector, CudaVectorMut};
use crate::interop::burn::{BurnCuda, Lent, Owned, Seam, SeamError};

/// The first CUDA device.
#[derive(Debug)]
pub struct Cuda {
    engine: CudaEngine,
    seam: Seam,
}

impl Cuda {
    /// The platform on device 0.
    ///
    /// # Errors
    /// [`Error::Unavailable`] without a driver, without a device of compute capability 8.0, or
    /// without a compiler for the framework's kernels;
    /// [`CudaError::Driver`](crate::CudaError::Driver) when the driver fails.
    pub fn new() -> Result<Self, Error> {
        let device = CudaDevice::new(0)?;
        Ok(Self {
            seam: Seam::new(device.clone())?,
            engine: CudaEngine::on(device),
        })
    }
}

impl From<SeamError> for TrainError {
    fn from(error: SeamError) -> Self {
        match error {
            SeamError::Burn(reason) => Self::Framework(reason),
            SeamError::Type(_) => Self::Tensor(error.to_string()),
            SeamError::Engine(error) => Self::Loss(error),
        }
    }
}

fn primitive<const D: usize>(tensor: Tensor<BurnCuda, D>) -> FloatTensor<BurnCuda> {
    tensor.into_primitive().tensor()
}

impl Platform for Cuda {
    type Backend = BurnCuda;
    type Engine = CudaEngine;
    type Owned = Owned;
    type Lent = Lent;

    fn engine(&self) -> &CudaEngine {
        &self.engine
    }

    fn lend<const D: usize>(
        &self,
        tensors: Vec<Tensor<BurnCuda, D>>,
    ) -> Result<Vec<Lent>, TrainError> {
        Ok(self.seam.lend(tensors.into_iter().map(primitive))?)
    }

    fn copies<const D: usize>(
        &self,
        tensors: Vec<Tensor<BurnCuda, D>>,
    ) -> Result<Vec<Owned>, TrainError> {
        Ok(self.seam.copies(tensors.into_iter().map(primitive))?)
    }

    fn unwritten<const N: usize>(&self, lengths: [usize; N]) -> Result<[Owned; N], TrainError> {
        let Ok(unwritten) = self.seam.unwritten(lengths)?.try_into() else {
            unreachable!("the seam returns one value for each length")
        };
        Ok(unwritten)
    }

    fn tensor_of<const D: usize>(
        &self,
        values: Owned,
        shape: impl Into<Shape>,
    ) -> Result<Tensor<BurnCuda, D>, TrainError> {
        let vector = TensorPrimitive::Float(self.seam.tensor_of(values)?);
        Ok(Tensor::<_, 1>::from_primitive(vector).reshape(shape.into()))
    }

    fn waits(&self) -> Option<Waits> {
        let [framework, engine] = self.seam.waited();
        Some(Waits {
            framework_seconds: framework.as_secs_f64(),
            engine_seconds: engine.as_secs_f64(),
        })
    }
}

impl Values<MemoryOf<Cuda>> for Owned {
    fn matrix(&self, rows: usize, dim: usize) -> Result<CudaRows<'_, f32>, TrainError> {
        Ok(Owned::matrix(self, rows, dim)?)
    }

    fn vector(&self) -> Result<CudaVector<'_, f32>, TrainError> {
        Ok(Owned::vector(self)?)
    }

    fn matrix_mut(&mut self, rows: usize, dim: usize) -> Result<CudaRowsMut<'_, f32>, TrainError> {
        Ok(Owned::matrix_mut(self, rows, dim)?)
    }

    fn vector_mut(&mut self) -> Result<CudaVectorMut<'_, f32>, TrainError> {
        Ok(Owned::vector_mut(self)?)
    }
}
