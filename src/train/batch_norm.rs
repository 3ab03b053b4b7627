//! Batch normalisation over the rows of a matrix (Ioffe and Szegedy 2015, algorithm 1).
//!
//! Parameters and running statistics are those of burn's module, whose forward pass transposes and
//! copies the activations five times. Here a row holds the channels of one place: all work
//! is sums over rows and broadcasts of a row.

use burn::nn::BatchNorm;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

/// (x − mean)/√(variance + ε) · γ + β per column of `input`, rows × channels.
///
/// On an autodiff backend, mean and (biased) variance are those of the rows, and the running
/// statistics move towards them; elsewhere they are the running statistics.
pub fn batch_norm<B: Backend>(norm: &BatchNorm<B>, input: Tensor<B, 2>) -> Tensor<B, 2> {
    let device = input.device();
    let [_, channels] = input.dims();
    let gamma = norm.gamma.val().reshape([1, channels]);
    let beta = norm.beta.val().reshape([1, channels]);
    if !B::ad_enabled(&device) {
        // One scale and one shift per channel: (x − mean)·s + β = x·s + (β − mean·s).
        let mean = norm.running_mean.value().reshape([1, channels]);
        let variance = norm.running_var.value().reshape([1, channels]);
        let scale = gamma / (variance + norm.epsilon).sqrt();
        let shift = beta - mean * scale.clone();
        return input * scale + shift;
    }
    let mean = input.clone().mean_dim(0);
    let centred = input - mean.clone();
    let variance = centred.clone().square().mean_dim(0);
    let running = [&norm.running_mean, &norm.running_var];
    for (running, batch) in running.into_iter().zip([mean, variance.clone()]) {
        // running ← (1 − momentum)·running + momentum·batch.
        let kept = running.value_sync() * (1.0 - norm.momentum);
        let batch = batch.detach().reshape([channels]);
        running.update((kept + batch * norm.momentum).detach());
    }
    centred * (gamma / (variance + norm.epsilon).sqrt()) + beta
}

#[cfg(test)]
mod tests {
    use burn::backend::{Autodiff, Flex};
    use burn::module::AutodiffModule;
    use burn::nn::BatchNormConfig;
    use burn::tensor::{Distribution, TensorData, Tolerance};

    use super::*;

    type Training = Autodiff<Flex>;

    fn close<B: Backend, const D: usize>(left: Tensor<B, D>, right: Tensor<B, D>) {
        left.into_data()
            .assert_approx_eq::<f32>(&right.into_data(), Tolerance::absolute(1e-5));
    }

    fn running<B: Backend>(norm: &BatchNorm<B>) -> [TensorData; 2] {
        [&norm.running_mean, &norm.running_var].map(|state| state.value_sync().into_data())
    }

    /// Values, gradients and running statistics, against the framework's own layer.
    #[test]
    fn it_is_the_frameworks_layer() {
        let device = Default::default();
        let input = Tensor::<Training, 2>::random([37, 5], Distribution::Normal(0.3, 2.0), &device);
        let weights = Tensor::<Training, 2>::random([37, 5], Distribution::Default, &device);
        let [ours, theirs] = [true, false].map(|ours| {
            let norm = BatchNormConfig::new(5).init::<Training>(&device);
            let input = input.clone().require_grad();
            let output = if ours {
                batch_norm(&norm, input.clone())
            } else {
                norm.forward(input.clone())
            };
            let gradients = (output.clone() * weights.clone()).sum().backward();
            let input_gradient = input.grad(&gradients).unwrap();
            let gamma_gradient = norm.gamma.grad(&gradients).unwrap();
            (norm, output, input_gradient, gamma_gradient)
        });
        close(ours.1, theirs.1);
        close(ours.2, theirs.2);
        close(ours.3, theirs.3);
        for (ours, theirs) in running(&ours.0).iter().zip(&running(&theirs.0)) {
            ours.assert_approx_eq::<f32>(theirs, Tolerance::absolute(1e-6));
        }
        let plain = input.inner();
        close(
            batch_norm(&ours.0.valid(), plain.clone()),
            theirs.0.valid().forward(plain),
        );
    }
}
