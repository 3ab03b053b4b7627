//! Training in host memory: burn's Flex backend beside an engine whose matrices are slices.
//!
//! Values pass without a copy. The last tensor of a network has no other owner, so that its buffer
//! is lent as it is; a buffer that the engine has written becomes the storage of a tensor.

use std::fmt::Debug;

use burn::backend::Flex;
use burn::tensor::{Shape, Tensor, TensorData};

use super::error::TrainError;
use super::platform::{Platform, Values};
use crate::{CpuEngine, Engine, HostMemory, Rows, RowsMut};

/// burn's Flex backend beside the CPU engine.
pub type Cpu = FlexPlatform<CpuEngine>;

/// burn's Flex backend beside an engine `E` in host memory, which may also be the emulator.
#[derive(Debug, Default)]
pub struct FlexPlatform<E>(pub E);

impl<E: Engine<Memory = HostMemory> + Debug + 'static> Platform for FlexPlatform<E> {
    type Backend = Flex;
    type Engine = E;
    type Owned = TensorData;
    type Lent = Box<TensorData>;

    fn engine(&self) -> &E {
        &self.0
    }

    fn lend<const D: usize>(
        &self,
        tensors: Vec<Tensor<Flex, D>>,
    ) -> Result<Vec<Box<TensorData>>, TrainError> {
        let lent = tensors
            .into_iter()
            .map(|tensor| Box::new(tensor.into_data()));
        Ok(lent.collect())
    }

    fn copies<const D: usize>(
        &self,
        tensors: Vec<Tensor<Flex, D>>,
    ) -> Result<Vec<TensorData>, TrainError> {
        // burn copies a tensor that has another owner.
        Ok(tensors.into_iter().map(Tensor::into_data).collect())
    }

    fn unwritten<const N: usize>(
        &self,
        lengths: [usize; N],
    ) -> Result<[TensorData; N], TrainError> {
        Ok(lengths.map(|length| TensorData::new(vec![0.0f32; length], [length])))
    }

    fn tensor_of<const D: usize>(
        &self,
        mut values: TensorData,
        shape: impl Into<Shape>,
    ) -> Result<Tensor<Flex, D>, TrainError> {
        values.shape = shape.into();
        Ok(Tensor::from_data(values, &Default::default()))
    }
}

impl Values<HostMemory> for TensorData {
    fn matrix(&self, rows: usize, dim: usize) -> Result<Rows<'_, f32>, TrainError> {
        Ok(Rows::new(self.vector()?, rows, dim)?)
    }

    fn vector(&self) -> Result<&[f32], TrainError> {
        Ok(self.as_slice()?)
    }

    fn matrix_mut(&mut self, rows: usize, dim: usize) -> Result<RowsMut<'_, f32>, TrainError> {
        Ok(RowsMut::new(self.vector_mut()?, rows, dim)?)
    }

    fn vector_mut(&mut self) -> Result<&mut [f32], TrainError> {
        Ok(self.as_mut_slice()?)
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
        let platform = Cpu::default();
        let weight = Tensor::<Training, 2>::ones([7, 5], &device).require_grad();
        let input = Tensor::<Training, 2>::ones([12, 7], &device);
        let bias = Tensor::<Training, 2>::ones([1, 5], &device).require_grad();
        let embeddings = input.matmul(weight) + bias;
        let primitive = embeddings.into_primitive().tensor().primitive;
        let before = primitive.storage::<f32>().as_ptr();
        let values = Tensor::<Flex, 2>::from_primitive(TensorPrimitive::Float(primitive));
        let lent = platform.lend(vec![values]).unwrap();
        let rows = lent[0].matrix(12, 5).unwrap();
        assert_eq!(rows.row(0).as_ptr(), before);

        let [gradient] = platform.unwritten([12 * 5]).unwrap();
        let before = gradient.vector().unwrap().as_ptr();
        let tensor: Tensor<Flex, 2> = platform.tensor_of(gradient, [12, 5]).unwrap();
        let primitive = tensor.into_primitive().tensor();
        assert_eq!(primitive.storage::<f32>().as_ptr(), before);
    }
}
