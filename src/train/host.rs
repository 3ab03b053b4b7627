//! Training in host memory: the framework's CPU backend, and an engine that works on slices.
//!
//! Neither way copies. The last tensor of a network is nobody else's, so its buffer is handed out,
//! and a vector that the engine has filled becomes a tensor's buffer.

use std::fmt::Debug;

use burn::backend::Flex;
use burn::tensor::{Shape, Tensor, TensorData};

use super::bridge::into_floats;
use super::platform::{Platform, Values, ValuesMut};
use super::trainer::TrainError;
use crate::{CpuEngine, Engine, HostMemory, Rows, RowsMut};

/// This machine's cores.
pub type Host = InHostMemory<CpuEngine>;

/// The framework's CPU backend with an engine `E` whose matrices lie in host memory.
#[derive(Debug, Default)]
pub struct InHostMemory<E> {
    engine: E,
}

impl<E> InHostMemory<E> {
    /// With this engine.
    pub fn new(engine: E) -> Self {
        Self { engine }
    }
}

impl<E: Engine<Memory = HostMemory> + Debug> Platform for InHostMemory<E> {
    type Backend = Flex;
    type Engine = E;
    type Lent = TensorData;
    type Owned = Vec<f32>;

    fn engine(&self) -> &E {
        &self.engine
    }

    fn lend<const D: usize>(&self, tensor: Tensor<Flex, D>) -> Result<TensorData, TrainError> {
        Ok(tensor.into_data())
    }

    fn copies<const D: usize>(
        &self,
        tensors: Vec<Tensor<Flex, D>>,
    ) -> Result<Vec<Vec<f32>>, TrainError> {
        tensors.into_iter().map(into_floats).collect()
    }

    fn room<const N: usize>(&self, lengths: [usize; N]) -> Result<[Vec<f32>; N], TrainError> {
        Ok(lengths.map(|length| vec![0.0; length]))
    }

    fn tensor_of<const D: usize>(
        &self,
        values: Vec<f32>,
        shape: Shape,
    ) -> Result<Tensor<Flex, D>, TrainError> {
        let data = TensorData::new(values, shape);
        Ok(Tensor::from_data(data, &Default::default()))
    }
}

impl Values<HostMemory> for TensorData {
    fn matrix(&self, rows: usize, dim: usize) -> Result<Rows<'_, f32>, TrainError> {
        Ok(Rows::new(floats(self)?, rows, dim)?)
    }

    fn vector(&self) -> Result<&[f32], TrainError> {
        floats(self)
    }
}

/// The values where they lie. [`into_floats`] would copy them when the framework has allocated
/// them with another alignment than a `Vec` of floats has.
fn floats(data: &TensorData) -> Result<&[f32], TrainError> {
    data.as_slice()
        .map_err(|error| TrainError::Tensor(error.to_string()))
}

impl Values<HostMemory> for Vec<f32> {
    fn matrix(&self, rows: usize, dim: usize) -> Result<Rows<'_, f32>, TrainError> {
        Ok(Rows::new(self, rows, dim)?)
    }

    fn vector(&self) -> Result<&[f32], TrainError> {
        Ok(self)
    }
}

impl ValuesMut<HostMemory> for Vec<f32> {
    fn matrix_mut(&mut self, rows: usize, dim: usize) -> Result<RowsMut<'_, f32>, TrainError> {
        Ok(RowsMut::new(self, rows, dim)?)
    }

    fn vector_mut(&mut self) -> Result<&mut [f32], TrainError> {
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::Autodiff;
    use burn::tensor::TensorPrimitive;

    use super::*;

    type Training = Autodiff<Flex>;

    #[test]
    fn embeddings_cross_without_a_copy() {
        let device = Default::default();
        let host = Host::default();
        let weight = Tensor::<Training, 2>::ones([7, 5], &device).require_grad();
        let input = Tensor::<Training, 2>::ones([12, 7], &device);
        let bias = Tensor::<Training, 2>::ones([1, 5], &device).require_grad();
        let embeddings = input.matmul(weight) + bias;
        let primitive = embeddings.into_primitive().tensor().primitive;
        let before = primitive.storage::<f32>().as_ptr();
        let values = Tensor::<Flex, 2>::from_primitive(TensorPrimitive::Float(primitive));
        let lent = host.lend(values).unwrap();
        let rows = lent.matrix(12, 5).unwrap();
        assert_eq!(rows.row(0).as_ptr(), before);

        let [gradient] = host.room([12 * 5]).unwrap();
        let before = gradient.as_ptr();
        let tensor: Tensor<Flex, 2> = host.tensor_of(gradient, [12, 5].into()).unwrap();
        let primitive = tensor.into_primitive().tensor();
        assert_eq!(primitive.storage::<f32>().as_ptr(), before);
    }
}
