//! The seam between the tensor framework and this crate's engine.
//!
//! Embeddings leave the framework's graph, the engine computes normalisation, loss and gradient,
//! and the gradient enters the graph again as that of one operation, [`EngineLoss`]. Nothing of the
//! loss comes from the framework.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients as GraphGradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::tensor::backend::Backend;
use burn::tensor::ops::{FloatTensor, FloatTensorOps};
use burn::tensor::{Tensor, TensorData, TensorPrimitive};

use super::platform::{MatrixMutOf, MatrixOf, Platform, Values, ValuesMut};
use super::trainer::TrainError;
use crate::Engine;

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

/// Rows of length 1, and the lengths that they had.
#[derive(Debug)]
pub struct UnitRows<P: Platform> {
    values: P::Owned,
    lengths: P::Owned,
    shape: [usize; 2],
}

impl<P: Platform> UnitRows<P> {
    /// Scales the rows of `embeddings`.
    ///
    /// # Errors
    /// [`TrainError::Loss`] when there are none; what the platform reports.
    pub fn of(platform: &P, embeddings: Tensor<P::Backend, 2>) -> Result<Self, TrainError> {
        let shape @ [rows, dim] = embeddings.dims();
        let [mut values, mut lengths] = platform.room([rows * dim, rows])?;
        let embeddings = platform.lend(embeddings)?;
        platform.engine().normalize::<f32, f32>(
            embeddings.matrix(rows, dim)?,
            values.matrix_mut(rows, dim)?,
            lengths.vector_mut()?,
            NORM_EPSILON,
        )?;
        Ok(Self {
            values,
            lengths,
            shape,
        })
    }

    /// The rows, as the engine reads them.
    ///
    /// # Errors
    /// [`TrainError::Loss`] when there are none.
    pub fn matrix(&self) -> Result<MatrixOf<'_, P>, TrainError> {
        let [rows, dim] = self.shape;
        self.values.matrix(rows, dim)
    }

    /// The rows on the host.
    ///
    /// # Errors
    /// What the platform reports.
    pub fn into_floats(self, platform: &P) -> Result<Vec<f32>, TrainError> {
        let tensor: Tensor<_, 2> = platform.tensor_of(self.values, self.shape.into())?;
        into_floats(tensor)
    }

    /// The gradient of the rows before they were scaled, from `unit`, that of the scaled ones.
    fn backward(&self, platform: &P, unit: &P::Owned) -> Result<P::Owned, TrainError> {
        let [rows, dim] = self.shape;
        let [mut gradient] = platform.room([rows * dim])?;
        platform.engine().normalize_backward::<f32, f32>(
            self.matrix()?,
            self.lengths.vector()?,
            unit.matrix(rows, dim)?,
            gradient.matrix_mut(rows, dim)?,
            NORM_EPSILON,
        )?;
        Ok(gradient)
    }
}

/// Normalises `embeddings` (N × D, the end of a graph), hands them to `loss` together with the
/// place for their gradient, and carries that gradient back through the normalisation and the
/// graph. Returns the loss's report and the gradients of everything the embeddings came from.
///
/// # Errors
/// Whatever `loss` returns; what the platform reports.
pub fn differentiate<P: Platform>(
    platform: &P,
    embeddings: Tensor<Autodiff<P::Backend>, 2>,
    loss: impl FnOnce(&UnitRows<P>, MatrixMutOf<'_, P>) -> Result<LossReport, TrainError>,
) -> Result<(LossReport, GraphGradients), TrainError> {
    let [rows, dim] = embeddings.dims();
    let device = embeddings.device();
    let end = embeddings.into_primitive().tensor();
    // Keeps the node alive while its value is away.
    let (node, _alive) = (end.node, end.rc);
    let values = Tensor::from_primitive(TensorPrimitive::Float(end.primitive));

    let unit = UnitRows::of(platform, values)?;
    let [mut unit_gradient] = platform.room([rows * dim])?;
    let report = loss(&unit, unit_gradient.matrix_mut(rows, dim)?)?;
    let gradient = unit.backward(platform, &unit_gradient)?;

    let gradient: Tensor<_, 2> = platform.tensor_of(gradient, [rows, dim].into())?;
    let gradient = gradient.into_primitive().tensor();
    let value = TensorData::new(vec![report.loss], [1]);
    let value = P::Backend::float_from_data(value, &device);
    let attached = match Backward::<P::Backend, 1>::prepare::<NoCheckpointing>(EngineLoss, [node])
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
    use approx::assert_abs_diff_eq;
    use burn::backend::Flex;
    use burn::tensor::{Distribution, Tolerance, activation::log_softmax};

    use super::*;
    use crate::train::host::Host;
    use crate::{Contrast, CpuEngine, Gradients, Inputs, RowsMut};

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
        unit: &UnitRows<Host>,
        gradient: RowsMut<'_, f32>,
    ) -> Result<LossReport, TrainError> {
        let gradients = Gradients {
            dq: gradient,
            dk: None,
        };
        let value = CpuEngine::new().value_and_grad(
            &Contrast::nt_xent(TEMPERATURE)?,
            &Inputs::Shared { z: unit.matrix()? },
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
        let (report, found) = differentiate(&Host::default(), embed(), nt_xent).unwrap();

        assert_abs_diff_eq!(report.loss, loss.into_scalar(), epsilon = 1e-5);
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
    fn a_graph_without_parameters_has_no_gradients() {
        let embeddings =
            Tensor::<Training, 2>::random([4, 3], Distribution::Default, &Default::default());
        let (report, _) = differentiate(&Host::default(), embeddings, nt_xent).unwrap();
        assert!(report.loss > 0.0);
    }
}
