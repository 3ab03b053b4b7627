//! The seam between the tensor framework and this crate's engine.
//!
//! Embeddings leave the framework as a slice, the engine computes normalisation, loss and
//! gradient, and the gradient enters the framework's graph as the gradient of one operation,
//! [`EngineLoss`]. Where the framework's tensors live in host memory, neither way copies: the last
//! tensor of a network is nobody else's, so its buffer is handed out, and the gradient's vector
//! becomes a tensor's buffer. Nothing of the loss comes from the framework.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients as GraphGradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Tensor, TensorData, TensorPrimitive};

use super::trainer::TrainError;
use crate::{CpuEngine, Engine, Rows, RowsMut};

/// Embeddings shorter than this are divided by this instead of their length.
const NORM_EPSILON: f32 = 1e-12;

/// What a loss says about unit-length embeddings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossReport {
    /// The loss in nats.
    pub loss: f32,
    /// Share of anchors more similar to their positive than to every negative.
    pub top1: f32,
    /// Candidates per anchor: the positive and the negatives.
    pub candidates: usize,
}

/// The values of a tensor as a vector.
///
/// # Errors
/// [`TrainError::Tensor`] when the backend's floats are not f32.
pub fn into_floats<B: Backend, const D: usize>(
    tensor: Tensor<B, D>,
) -> Result<Vec<f32>, TrainError> {
    tensor
        .into_data()
        .into_vec()
        .map_err(|error| TrainError::Tensor(error.to_string()))
}

/// The values where they lie. [`into_floats`] would copy them when the framework has allocated
/// them with another alignment than a `Vec` of floats has.
fn as_floats(data: &TensorData) -> Result<&[f32], TrainError> {
    data.as_slice()
        .map_err(|error| TrainError::Tensor(error.to_string()))
}

/// Rows scaled to length 1, and their lengths.
///
/// # Errors
/// [`crate::Error`] when `rows` is empty.
pub fn normalize(
    engine: &CpuEngine,
    embeddings: Rows<'_, f32>,
) -> Result<(Vec<f32>, Vec<f32>), crate::Error> {
    use crate::Matrix;
    let (rows, dim) = (embeddings.rows(), embeddings.dim());
    let mut unit = vec![0.0; rows * dim];
    let mut lengths = vec![0.0; rows];
    engine.normalize(
        embeddings,
        RowsMut::new(&mut unit, rows, dim)?,
        &mut lengths,
        NORM_EPSILON,
    )?;
    Ok((unit, lengths))
}

/// Normalises `embeddings` (N × D, the end of a graph), hands them to `loss` together with the
/// place for their gradient, and carries that gradient back through the normalisation and the
/// graph. Returns the loss's report and the gradients of everything the embeddings came from.
///
/// # Errors
/// Whatever `loss` returns; [`TrainError::Tensor`] when the backend's floats are not f32.
pub fn differentiate<B: Backend>(
    engine: &CpuEngine,
    embeddings: Tensor<Autodiff<B>, 2>,
    loss: impl FnOnce(Rows<'_, f32>, RowsMut<'_, f32>) -> Result<LossReport, crate::Error>,
) -> Result<(LossReport, GraphGradients), TrainError> {
    let [rows, dim] = embeddings.dims();
    let device = embeddings.device();
    let end = embeddings.into_primitive().tensor();
    // Keeps the node alive while its value is away.
    let (node, _alive) = (end.node, end.rc);
    let values: Tensor<B, 2> = Tensor::from_primitive(TensorPrimitive::Float(end.primitive));
    let values = values.into_data();
    let values = as_floats(&values)?;

    let (unit, lengths) = normalize(engine, Rows::new(values, rows, dim)?)?;
    let unit = Rows::new(&unit, rows, dim)?;
    let mut unit_gradient = vec![0.0; rows * dim];
    let report = loss(unit, RowsMut::new(&mut unit_gradient, rows, dim)?)?;
    let mut gradient = vec![0.0; rows * dim];
    engine.normalize_backward(
        unit,
        &lengths,
        Rows::new(&unit_gradient, rows, dim)?,
        RowsMut::new(&mut gradient, rows, dim)?,
        NORM_EPSILON,
    )?;

    let primitive = |values: TensorData| B::float_from_data(values, &device);
    let gradient = primitive(TensorData::new(gradient, [rows, dim]));
    let value = primitive(TensorData::new(vec![report.loss], [1]));
    let attached = match Backward::<B, 1>::prepare::<NoCheckpointing>(EngineLoss, [node])
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(operation) => operation.finish(gradient, value),
        OpsKind::UnTracked(operation) => operation.finish(value),
    };
    Ok((report, attached.backward()))
}

/// A loss whose value and gradient were computed elsewhere; its state is the gradient.
#[derive(Debug)]
struct EngineLoss;

impl<B: Backend> Backward<B, 1> for EngineLoss {
    type State = FloatTensor<B>;

    fn backward(
        self,
        operation: Ops<Self::State, 1>,
        gradients: &mut GraphGradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let gradient = operation.state;
        unary::<B, _>(operation.parents, operation.node, gradients, |upstream| {
            B::float_mul(gradient, B::float_reshape(upstream, [1, 1].into()))
        });
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;
    use burn::tensor::ops::FloatTensorOps;
    use burn::tensor::{Distribution, Tolerance, activation::log_softmax};

    use super::*;
    use crate::{Contrast, Gradients, Inputs};

    type Training = Autodiff<Flex>;

    const TEMPERATURE: f32 = 0.3;

    /// NT-Xent by the framework's own operations, positives from rows i and i + N.
    fn native_loss(embeddings: Tensor<Training, 2>) -> Tensor<Training, 1> {
        let [rows, _] = embeddings.dims();
        let device = embeddings.device();
        let lengths = embeddings.clone().square().sum_dim(1).sqrt();
        let unit = embeddings / lengths;
        let not_self = Tensor::<Training, 2>::eye(rows, &device) * -1e9;
        let logits = unit.clone().matmul(unit.transpose()) / TEMPERATURE + not_self;
        let half = rows / 2;
        let positive: Vec<f32> = (0..rows * rows)
            .map(|place| f32::from(place % rows == (place / rows + half) % rows))
            .collect();
        let positive =
            Tensor::<Training, 2>::from_data(TensorData::new(positive, [rows, rows]), &device);
        (log_softmax(logits, 1) * positive).sum().neg() / rows as f32
    }

    fn nt_xent(
        unit: Rows<'_, f32>,
        gradient: RowsMut<'_, f32>,
    ) -> Result<LossReport, crate::Error> {
        let gradients = Gradients {
            dq: gradient,
            dk: None,
        };
        let value = CpuEngine::new().value_and_grad(
            &Contrast::nt_xent(TEMPERATURE)?,
            &Inputs::Shared { z: unit },
            1.0,
            gradients,
        )?;
        Ok(LossReport {
            loss: value.loss,
            top1: 0.0,
            candidates: 0,
        })
    }

    #[test]
    fn gradients_agree_with_the_frameworks_own_loss() {
        let device = Default::default();
        let draw = |shape: [usize; 2]| {
            Tensor::<Training, 2>::random(shape, Distribution::Normal(0.0, 1.0), &device)
        };
        let input = draw([12, 7]);
        let weight = draw([7, 5]).require_grad();
        let shift = draw([1, 5]).require_grad();
        let embed = || (input.clone().matmul(weight.clone()) + shift.clone()).tanh();

        let loss = native_loss(embed());
        let expected = loss.backward();
        let (report, found) = differentiate(&CpuEngine::new(), embed(), nt_xent).unwrap();

        assert!((report.loss - loss.into_scalar()).abs() < 1e-5);
        for parameter in [&weight, &shift] {
            parameter
                .grad(&found)
                .unwrap()
                .into_data()
                .assert_approx_eq::<f32>(
                    &parameter.grad(&expected).unwrap().into_data(),
                    Tolerance::absolute(1e-5),
                );
        }
    }

    #[test]
    fn embeddings_cross_without_a_copy() {
        let device = Default::default();
        let weight = Tensor::<Training, 2>::ones([7, 5], &device).require_grad();
        let input = Tensor::<Training, 2>::ones([12, 7], &device);
        let bias = Tensor::<Training, 2>::ones([1, 5], &device).require_grad();
        let embeddings = input.matmul(weight) + bias;
        let primitive = embeddings.into_primitive().tensor().primitive;
        let before = primitive.storage::<f32>().as_ptr();
        let values: Tensor<Flex, 2> = Tensor::from_primitive(TensorPrimitive::Float(primitive));
        let values = values.into_data();
        assert_eq!(as_floats(&values).unwrap().as_ptr(), before);

        let gradient = vec![0.0f32; 12 * 5];
        let before = gradient.as_ptr();
        let tensor = Flex::float_from_data(TensorData::new(gradient, [12, 5]), &device);
        assert_eq!(tensor.storage::<f32>().as_ptr(), before);
    }

    #[test]
    fn a_graph_without_parameters_has_no_gradients() {
        let embeddings =
            Tensor::<Training, 2>::random([4, 3], Distribution::Default, &Default::default());
        let (report, _) = differentiate(&CpuEngine::new(), embeddings, nt_xent).unwrap();
        assert!(report.loss > 0.0);
    }
}
