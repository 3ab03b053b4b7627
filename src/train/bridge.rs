//! Adds a loss of this crate's engine to the tensor framework's graph.
//!
//! [`detach`] takes embeddings out of the graph and scales their rows to length 1.
//! [`Graph::attach`] has the engine compute loss and gradient, and adds both to the graph as one
//! operation, [`EngineLoss`]; [`attach_pair`] does so for two graphs. The framework computes nothing
//! of the loss.

use std::sync::Arc;

use burn::backend::Autodiff;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients as GraphGradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Tensor, TensorData, TensorPrimitive};

use super::encoder::Model;
use super::error::TrainError;
use super::patches::PatchGrid;
use super::platform::{Platform, Values};
use crate::engine::{EvaluationOf, RowsOf};
use crate::{Engine, Evaluation, Gradients, Problem};

/// Features and embeddings are divided by this if their length is smaller, so that zeros stay
/// zeros.
pub(super) const NORM_EPSILON: f32 = 1e-12;

/// The values of a tensor as a vector.
///
/// # Errors
/// [`TrainError::Tensor`] when the backend's floats are not f32.
pub fn into_floats<B: Backend, const D: usize>(
    tensor: Tensor<B, D>,
) -> Result<Vec<f32>, TrainError> {
    Ok(tensor.into_data().into_vec()?)
}

/// Rows scaled to length 1, N × D in f32, and their lengths before.
#[derive(Debug)]
pub struct UnitRows<P: Platform> {
    values: P::Owned,
    lengths: P::Owned,
    shape: [usize; 2],
}

impl<P: Platform> UnitRows<P> {
    /// Scales the rows of `embeddings` to length 1.
    ///
    /// # Errors
    /// [`TrainError::Loss`] when there are no rows; what the platform reports.
    pub fn of(platform: &P, embeddings: Tensor<P::Backend, 2>) -> Result<Self, TrainError> {
        let shape @ [rows, dim] = embeddings.dims();
        let [mut values, mut lengths] = platform.unwritten([rows * dim, rows])?;
        let lent = platform.lend(vec![embeddings])?;
        platform.engine().normalize::<f32, f32>(
            lent[0].matrix(rows, dim)?,
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

    /// The rows, N × D, for the engine to read.
    ///
    /// # Errors
    /// [`TrainError::Loss`] when there are no rows.
    pub fn matrix(&self) -> Result<RowsOf<'_, P::Engine, f32>, TrainError> {
        let [rows, dim] = self.shape;
        self.values.matrix(rows, dim)
    }

    /// The rows in host memory, N · D values.
    ///
    /// # Errors
    /// What the platform reports.
    pub fn into_floats(self, platform: &P) -> Result<Vec<f32>, TrainError> {
        let tensor: Tensor<_, 2> = platform.tensor_of(self.values, self.shape)?;
        into_floats(tensor)
    }
}

/// The graph of detached embeddings, which [`attach`](Self::attach) continues with the loss.
pub struct Graph<B: Backend> {
    operation: OpsKind<EngineLoss, B, FloatTensor<B>, NoCheckpointing, 1>,
    /// Keeps the embeddings' node of the graph alive.
    _end: Arc<NodeId>,
}

/// A loss in the framework's graph.
pub type Loss<B> = Tensor<Autodiff<B>, 1>;

/// Takes `embeddings`, N × D, out of their graph and scales their rows to length 1.
///
/// # Errors
/// As [`UnitRows::of`].
pub fn detach<P: Platform>(
    platform: &P,
    embeddings: Tensor<Autodiff<P::Backend>, 2>,
) -> Result<(Graph<P::Backend>, UnitRows<P>), TrainError> {
    let end = embeddings.into_primitive().tensor();
    let graph = Graph {
        operation: EngineLoss
            .prepare::<NoCheckpointing>([end.node])
            .compute_bound()
            .stateful(),
        _end: end.rc,
    };
    let values = Tensor::from_primitive(TensorPrimitive::Float(end.primitive));
    Ok((graph, UnitRows::of(platform, values)?))
}

/// What the engine has evaluated, and the loss in the framework's graph.
pub type Attached<P> = (
    EvaluationOf<<P as Platform>::Engine>,
    Loss<<P as Platform>::Backend>,
);

/// A problem with the weight of its loss in a sum.
pub type Term<'a, P> = (Problem<RowsOf<'a, <P as Platform>::Engine, f32>>, f32);

impl<B: Backend> Graph<B> {
    /// Evaluates `problem`, whose anchors are `unit`, and adds its loss to the graph that they came
    /// from. `upstream` multiplies the gradient, not the loss.
    ///
    /// # Errors
    /// What the engine or the platform reports.
    pub fn attach<P: Platform<Backend = B>>(
        self,
        platform: &P,
        unit: &UnitRows<P>,
        problem: &Problem<RowsOf<'_, P::Engine, f32>>,
        upstream: f32,
    ) -> Result<Attached<P>, TrainError> {
        self.attach_sum(platform, unit, problem, &[], upstream)
    }

    /// As [`attach`](Self::attach), of the sum of `problem` and `others`, which all have the anchors
    /// `unit`. Returns the evaluation of `problem`, and the loss of all.
    ///
    /// # Errors
    /// What the engine or the platform reports.
    pub fn attach_sum<P: Platform<Backend = B>>(
        self,
        platform: &P,
        unit: &UnitRows<P>,
        problem: &Problem<RowsOf<'_, P::Engine, f32>>,
        others: &[Term<'_, P>],
        upstream: f32,
    ) -> Result<Attached<P>, TrainError> {
        let [rows, dim] = unit.shape;
        let engine = platform.engine();
        let [mut gradient] = platform.unwritten([rows * dim])?;
        let gradients = Gradients::new(gradient.matrix_mut(rows, dim)?, None);
        let first = engine.value_and_grad::<f32, f32>(problem, upstream, gradients)?;
        let mut sum = first.loss()?;
        for (problem, weight) in others {
            let gradients = Gradients::new(gradient.matrix_mut(rows, dim)?, None).accumulating();
            let value = engine.value_and_grad::<f32, f32>(problem, weight * upstream, gradients)?;
            sum += weight * value.loss()?;
        }
        Ok((first, self.finish(platform, unit, gradient, sum)?))
    }

    /// Adds a loss to the graph whose gradient with respect to `unit` is `unit_gradient`.
    fn finish<P: Platform<Backend = B>>(
        self,
        platform: &P,
        unit: &UnitRows<P>,
        unit_gradient: P::Owned,
        loss: f32,
    ) -> Result<Loss<B>, TrainError> {
        let [rows, dim] = unit.shape;
        let [mut gradient] = platform.unwritten([rows * dim])?;
        platform.engine().normalize_backward::<f32, f32>(
            unit.matrix()?,
            unit.lengths.vector()?,
            unit_gradient.matrix(rows, dim)?,
            gradient.matrix_mut(rows, dim)?,
            NORM_EPSILON,
        )?;
        let gradient: Tensor<B, 2> = platform.tensor_of(gradient, unit.shape)?;
        let gradient = gradient.into_primitive().tensor();
        let loss = TensorData::new(vec![loss], [1]);
        let loss = B::float_from_data(loss, &Default::default());
        let attached = match self.operation {
            OpsKind::Tracked(operation) => operation.finish(gradient, loss),
            OpsKind::UnTracked(operation) => operation.finish(loss),
        };
        Ok(Tensor::from_primitive(TensorPrimitive::Float(attached)))
    }
}

/// Evaluates `problem`, whose anchors and candidates are the two `units`, and adds its loss to both
/// graphs that they came from. `upstream` multiplies the gradients, not the loss.
///
/// # Errors
/// What the engine or the platform reports.
pub fn attach_pair<P: Platform>(
    platform: &P,
    [anchors, candidates]: [Graph<P::Backend>; 2],
    [q, k]: [&UnitRows<P>; 2],
    problem: &Problem<RowsOf<'_, P::Engine, f32>>,
    upstream: f32,
) -> Result<Attached<P>, TrainError> {
    let ([rows, dim], [others, _]) = (q.shape, k.shape);
    let [mut dq, mut dk] = platform.unwritten([rows * dim, others * dim])?;
    let gradients = Gradients::new(dq.matrix_mut(rows, dim)?, Some(dk.matrix_mut(others, dim)?));
    let engine = platform.engine();
    let value = engine.value_and_grad::<f32, f32>(problem, upstream, gradients)?;
    let loss = anchors.finish(platform, q, dq, value.loss()?)?;
    // The loss counts once.
    let nothing = candidates.finish(platform, k, dk, 0.0)?;
    Ok((value, loss + nothing))
}

/// Unit-length embeddings, N × D, of N images (NCHW) by a model that is not trained here, `at_a_time`
/// images at a time.
///
/// # Errors
/// As [`UnitRows::of`].
pub fn embed<P: Platform>(
    platform: &P,
    model: &Model<P::Backend>,
    grid: &PatchGrid,
    images: &[f32],
    at_a_time: usize,
) -> Result<Vec<f32>, TrainError> {
    let mut embeddings = Vec::new();
    for images in images.chunks(at_a_time * grid.image_len()) {
        let (patches, count) = grid.tensor(images);
        let unit = UnitRows::of(platform, model.embed(patches, count))?;
        embeddings.extend(unit.into_floats(platform)?);
    }
    Ok(embeddings)
}

/// The graph's operation for a loss that the engine has computed. Its state is the embeddings' gradient.
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
    use crate::train::cpu::Cpu;
    use crate::{Contrast, Inputs};

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

    fn draw(shape: [usize; 2]) -> Tensor<Training, 2> {
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Default::default())
    }

    /// The same loss by this crate's engine.
    fn nt_xent(embeddings: Tensor<Training, 2>) -> Tensor<Training, 1> {
        let platform = Cpu::default();
        let (graph, unit) = detach(&platform, embeddings).unwrap();
        let z = unit.matrix().unwrap();
        let contrast = Contrast::nt_xent(TEMPERATURE).unwrap();
        let problem = contrast.on(Inputs::Shared { z }).unwrap();
        graph.attach(&platform, &unit, &problem, 1.0).unwrap().1
    }

    #[test]
    fn gradients_agree_with_the_frameworks_own_loss() {
        let input = draw([12, 7]);
        let weight = draw([7, 5]).require_grad();
        let shift = draw([1, 5]).require_grad();
        let embed = || (input.clone().matmul(weight.clone()) + shift.clone()).tanh();

        let loss = native_loss(embed());
        let expected = loss.backward();
        let engine_loss = nt_xent(embed());
        let found = engine_loss.backward();

        let (ours, theirs) = (engine_loss.into_scalar(), loss.into_scalar());
        assert_abs_diff_eq!(ours, theirs, epsilon = 1e-5);
        for parameter in [&weight, &shift] {
            let [found, expected] = [&found, &expected].map(|all| parameter.grad(all).unwrap());
            let (found, expected) = (found.into_data(), expected.into_data());
            found.assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-5));
        }
    }

    #[test]
    fn gradients_of_two_losses_join_in_one_graph() {
        let weight = draw([7, 5]).require_grad();
        let inputs = [draw([12, 7]), draw([6, 7])];
        let losses = || {
            inputs
                .clone()
                .map(|input| nt_xent(input.matmul(weight.clone())))
        };
        let gradient = |loss: Tensor<Training, 1>| weight.grad(&loss.backward()).unwrap();
        let [one, other] = losses();
        let together = gradient(one + other);
        let [one, other] = losses().map(gradient);
        let apart = (one + other).into_data();
        together
            .into_data()
            .assert_approx_eq::<f32>(&apart, Tolerance::absolute(1e-5));
    }

    #[test]
    fn a_graph_without_parameters_has_no_gradients() {
        let loss = nt_xent(draw([4, 3]));
        loss.backward();
        assert!(loss.into_scalar() > 0.0);
    }
}
