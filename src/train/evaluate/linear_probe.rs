//! Linear probe: how well a linear classifier separates the labels on frozen features.
//!
//! Multinomial logistic regression with L2 on standardised features,
//! ```text
//! f(W, b) = (1/N) Σ_i ( log Σ_c exp z_ic − z_{i,y_i} ) + (λ/2)‖W‖²,   z_ic = ⟨w_c, x_i⟩ + b_c
//! ```
//! minimised over the whole training set by burn's L-BFGS. The problem is convex, so that there is
//! no learning rate and no seed. The result is the same for any number of threads.

use burn::backend::{Autodiff, Flex};
use burn::module::AutodiffModule;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{Initializer, Linear, LinearConfig};
use burn::optim::{GradientsParams, LBFGSConfig, LineSearchFn};
use burn::tensor::backend::Backend;
use burn::tensor::{ElementConversion, Int, Tensor, TensorData};

use super::knn::Labelled;
use super::statistics::{self, Column};
use crate::{Matrix, Rows};

/// λ, the weight of ‖W‖²/2 against the mean loss.
pub const WEIGHT_DECAY: f64 = 1e-3;
/// Pairs of steps and gradient changes that L-BFGS remembers.
const MEMORY: usize = 10;
/// Maximum number of iterations of L-BFGS.
const MAXIMUM_ITERATIONS: usize = 300;
/// L-BFGS stops when the largest gradient entry is below this.
const GRADIENT_TOLERANCE: f64 = 1e-4;
/// Features that vary less than this are constant and become 0.
const SMALLEST_DEVIATION: f64 = 1e-8;

/// The share of held-out images that a linear classifier fitted to the training features labels
/// correctly, between 0 and 1.
///
/// Both sets must have the same feature dimension; labels from 0 up.
pub fn accuracy(train: Labelled<'_>, test: Labelled<'_>) -> f64 {
    debug_assert_eq!(train.features.dim(), test.features.dim());
    let columns = statistics::columns(train.features);
    let probe = fit(standardised(train.features, &columns), train.labels);
    let logits = probe.valid().forward(standardised(test.features, &columns));
    let predictions: Vec<u32> = logits.argmax(1).into_data().iter().collect();
    statistics::share_equal(&predictions, test.labels)
}

/// Features minus the training features' mean, divided by their deviation.
fn standardised<B: Backend>(features: Rows<'_, f32>, columns: &[Column]) -> Tensor<B, 2> {
    let mut values = features.contiguous().into_owned();
    for row in values.chunks_exact_mut(features.dim()) {
        for (value, column) in row.iter_mut().zip(columns) {
            *value = match column.deviation {
                constant if constant <= SMALLEST_DEVIATION => 0.0,
                deviation => ((f64::from(*value) - column.mean) / deviation) as f32,
            };
        }
    }
    let shape = [features.rows(), features.dim()];
    Tensor::from_data(TensorData::new(values, shape), &Default::default())
}

/// The classifier at the minimum of f.
fn fit(features: Tensor<Autodiff<Flex>, 2>, labels: &[u32]) -> Linear<Autodiff<Flex>> {
    let device = Default::default();
    let classes = statistics::classes(labels);
    let labels = Tensor::<_, 1, Int>::from_data(labels, &device);
    let cross_entropy = CrossEntropyLossConfig::new().init(&device);
    let objective = |probe: Linear<Autodiff<Flex>>| {
        let loss = cross_entropy.forward(probe.forward(features.clone()), labels.clone());
        let penalty = probe.weight.val().square().sum() * (WEIGHT_DECAY / 2.0);
        let value = loss + penalty;
        let gradients = GradientsParams::from_grads(value.backward(), &probe);
        (value.into_scalar().elem(), gradients)
    };
    let start = LinearConfig::new(features.dims()[1], classes)
        .with_initializer(Initializer::Zeros)
        .init(&device);
    let mut search = LBFGSConfig::new()
        .with_max_iter(MAXIMUM_ITERATIONS)
        .with_history_size(MEMORY)
        .with_tolerance_grad(GRADIENT_TOLERANCE)
        .with_line_search_fn(LineSearchFn::StrongWolfe)
        .init();
    search.step(1.0, start, objective).0
}

#[cfg(test)]
mod tests {
    use burn::tensor::activation::softmax;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::train::testing::on_threads;

    /// Points around the corners of a simplex: class c has its mass on coordinate c.
    fn clusters(per_class: usize, noise: f32, seed: u64) -> (Vec<f32>, Vec<u32>) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut features = Vec::new();
        let mut labels = Vec::new();
        for index in 0..3 * per_class {
            let label = index % 3;
            for coordinate in 0..5 {
                let centre = if coordinate == label { 1.0 } else { 0.0 };
                features.push(1e3 * (centre + noise * random.random_range(-1.0f32..1.0)));
            }
            labels.push(label as u32);
        }
        (features, labels)
    }

    fn labelled<'a>((features, labels): &'a (Vec<f32>, Vec<u32>)) -> Labelled<'a> {
        Labelled::new(features, 5, labels).unwrap()
    }

    #[test]
    fn separable_classes_are_separated_on_points_never_seen() {
        let (train, test) = (clusters(200, 0.4, 1), clusters(100, 0.4, 2));
        assert_eq!(accuracy(labelled(&train), labelled(&test)), 1.0);
    }

    #[test]
    fn features_that_do_not_depend_on_the_label_give_chance() {
        let (mut train, test) = (clusters(300, 0.4, 1), clusters(300, 0.4, 2));
        let mut random = ChaCha8Rng::seed_from_u64(3);
        train.1.fill_with(|| random.random_range(0..3));
        let found = accuracy(labelled(&train), labelled(&test));
        assert!(found < 0.6, "{found}");
    }

    #[test]
    fn constant_features_predict_the_commonest_class() {
        let data = (vec![7.0; 25], vec![0, 1, 1, 1, 2]);
        assert_eq!(accuracy(labelled(&data), labelled(&data)), 0.6);
    }

    #[test]
    fn features_that_are_not_finite_do_not_end_the_run() {
        let data = (vec![f32::NAN; 25], vec![0, 1, 1, 1, 2]);
        assert!(accuracy(labelled(&data), labelled(&data)) <= 1.0);
    }

    #[test]
    fn the_gradient_of_the_objective_vanishes_at_the_result() {
        let data = clusters(100, 2.0, 4);
        let columns = statistics::columns(labelled(&data).features);
        let features: Tensor<Autodiff<Flex>, 2> = standardised(labelled(&data).features, &columns);
        let probe = fit(features.clone(), &data.1).valid();
        let features = features.inner();
        let labels = Tensor::<Flex, 1, Int>::from_data(&data.1[..], &Default::default());
        let surplus = softmax(probe.forward(features.clone()), 1) - labels.one_hot(3).float();
        let by_bias = surplus.clone().mean_dim(0);
        let by_weight =
            features.transpose().matmul(surplus) / 300.0 + probe.weight.val() * WEIGHT_DECAY as f32;
        for gradient in [by_bias, by_weight] {
            let largest = gradient.abs().max().into_scalar();
            assert!(largest < 2.0 * GRADIENT_TOLERANCE as f32, "{largest}");
        }
    }

    #[test]
    fn the_result_does_not_depend_on_the_number_of_threads() {
        let (features, labels) = clusters(400, 2.0, 6);
        let features = Tensor::<Autodiff<Flex>, 1>::from_floats(&features[..], &Default::default());
        let with = |threads| {
            let probe = on_threads(threads, || {
                fit(features.clone().reshape([1200, 5]), &labels)
            });
            probe.weight.val().into_data()
        };
        assert_eq!(with(1), with(3));
    }
}
