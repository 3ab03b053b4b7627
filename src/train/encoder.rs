//! The network: an encoder, whose features are evaluated, a projection head, whose outputs enter the
//! loss (Chen et al. 2020, section 2.1), and where a method has one a prediction head behind it
//! (Grill et al. 2020, section 3.1).
//!
//! The encoder is a small convolutional network. Its first convolution has overlapping patches and
//! a stride that follows the image size. Every further width adds a 2 × 2 convolution of stride 2
//! and one of 1 × 1. Batch normalisation and ReLU follow each convolution; global average pooling
//! ends the encoder.
//!
//! Activations are matrices with one row per image and place and one column per channel, rows in
//! the nested order of [`PatchGrid`]. Every convolution is therefore one matrix product, and no
//! layer reorders its input. This makes a step fast on the CPU, where burn 0.21 computes the
//! gradients of its own convolutions on one thread.

use burn::module::{Module, Param};
use burn::nn::{BatchNorm, BatchNormConfig, Linear};
use burn::tensor::activation::relu;
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::batch_norm::batch_norm;
use super::patches::PatchGrid;

/// The stream of the seed's generator that weights are drawn from.
const WEIGHTS_STREAM: u64 = 1;

/// The shape of a [`Model`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// Rows per image, in pixels.
    pub height: usize,
    /// Columns per image, in pixels.
    pub width: usize,
    /// Values per pixel.
    pub channels: usize,
    /// Channels after each convolution; the last is the dimension of the features.
    pub widths: Vec<usize>,
    /// Hidden units of the projection head.
    pub hidden: usize,
    /// D, the dimension of the embeddings.
    pub dim: usize,
    /// Whether a prediction head follows the projection head.
    #[serde(default)]
    pub prediction: bool,
}

impl ModelConfig {
    /// The grid of the first convolution's patches.
    pub fn grid(&self) -> PatchGrid {
        let halvings = self.widths.len().saturating_sub(1) as u32;
        PatchGrid::new(self.height, self.width, self.channels, halvings)
    }

    /// A model with weights drawn from `seed`; seed and shape alone determine them.
    pub fn init<B: Backend>(&self, seed: u64, device: &B::Device) -> Model<B> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(WEIGHTS_STREAM);
        let mut layers = Vec::new();
        let mut add_layer = |inputs, outputs| {
            layers.push(Layer {
                filters: linear(inputs, outputs, false, &mut random, device),
                norm: BatchNormConfig::new(outputs).init(device),
            });
        };
        let mut features = 0;
        for (place, &width) in self.widths.iter().enumerate() {
            if place == 0 {
                add_layer(self.grid().patch_len(), width);
            } else {
                add_layer(4 * features, width);
                add_layer(width, width);
            }
            features = width;
        }
        let mut head = |inputs| ProjectionHead {
            hidden: linear(inputs, self.hidden, true, &mut random, device),
            output: linear(self.hidden, self.dim, true, &mut random, device),
        };
        Model {
            encoder: Encoder { layers },
            head: head(features),
            prediction: self.prediction.then(|| head(self.dim)),
        }
    }
}

/// Weights from He et al. 2015 (uniform, ± √(6 / inputs)) and, when wanted, a bias of zeros.
fn linear<B: Backend>(
    inputs: usize,
    outputs: usize,
    bias: bool,
    random: &mut ChaCha8Rng,
    device: &B::Device,
) -> Linear<B> {
    let bound = (6.0 / inputs as f32).sqrt();
    let weights: Vec<f32> = (0..inputs * outputs)
        .map(|_| random.random_range(-bound..bound))
        .collect();
    let weights = TensorData::new(weights, [inputs, outputs]);
    Linear {
        weight: Param::from_tensor(Tensor::from_data(weights, device)),
        bias: bias.then(|| Param::from_tensor(Tensor::zeros([outputs], device))),
    }
}

/// Encoder, projection head, and prediction head where there is one.
#[derive(Module, Debug)]
pub struct Model<B: Backend> {
    /// Maps images to features.
    pub encoder: Encoder<B>,
    /// Maps features to embeddings.
    pub head: ProjectionHead<B>,
    /// Maps embeddings to predictions of another encoder's embeddings.
    pub prediction: Option<ProjectionHead<B>>,
}

impl<B: Backend> Model<B> {
    /// Embeddings, N × D and not normalised, of `images` images whose patches are given as for
    /// [`Encoder::forward`].
    pub fn embed(&self, patches: Tensor<B, 2>, images: usize) -> Tensor<B, 2> {
        self.head.forward(self.encoder.forward(patches, images))
    }

    /// Predictions, N × D and not normalised, from the same patches; the embeddings where there is
    /// no prediction head.
    pub fn predict(&self, patches: Tensor<B, 2>, images: usize) -> Tensor<B, 2> {
        let embeddings = self.embed(patches, images);
        match &self.prediction {
            Some(head) => head.forward(embeddings),
            None => embeddings,
        }
    }

    /// The same model without its prediction head.
    #[must_use]
    pub fn without_prediction(self) -> Self {
        Self {
            prediction: None,
            ..self
        }
    }
}

/// The convolutional network, from images to features.
#[derive(Module, Debug)]
pub struct Encoder<B: Backend> {
    layers: Vec<Layer<B>>,
}

impl<B: Backend> Encoder<B> {
    /// Features, N × the last width, of `images` images, from all their patches as
    /// [`PatchGrid::cut`] lays them out. Batch statistics on an autodiff backend, running
    /// statistics elsewhere.
    pub fn forward(&self, patches: Tensor<B, 2>, images: usize) -> Tensor<B, 2> {
        let mut rows = patches;
        for layer in &self.layers {
            rows = layer.forward(rows);
        }
        let [places, channels] = rows.dims();
        rows.reshape([images, places / images, channels])
            .mean_dim(1)
            .reshape([images, channels])
    }
}

/// A convolution without bias, then batch normalisation and ReLU.
#[derive(Module, Debug)]
struct Layer<B: Backend> {
    filters: Linear<B>,
    norm: BatchNorm<B>,
}

impl<B: Backend> Layer<B> {
    /// Takes one row per patch, or one row per place of a finer grid, of which four are one patch.
    fn forward(&self, rows: Tensor<B, 2>) -> Tensor<B, 2> {
        let [count, channels] = rows.dims();
        let [patch_len, _] = self.filters.weight.dims();
        let patches = rows.reshape([count * channels / patch_len, patch_len]);
        relu(batch_norm(&self.norm, self.filters.forward(patches)))
    }
}

/// W₂ · ReLU(W₁ · h + b₁) + b₂, as in SimCLR and MoCo v2. It has no batch normalisation, which
/// would see only one row per image, and in MoCo would let the images of a batch leak into each
/// other. A prediction head has the same form.
#[derive(Module, Debug)]
pub struct ProjectionHead<B: Backend> {
    hidden: Linear<B>,
    output: Linear<B>,
}

impl<B: Backend> ProjectionHead<B> {
    /// Features (N × last width) to embeddings (N × D).
    pub fn forward(&self, features: Tensor<B, 2>) -> Tensor<B, 2> {
        self.output.forward(relu(self.hidden.forward(features)))
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::{Autodiff, Flex};
    use burn::module::AutodiffModule;

    use super::*;

    impl ModelConfig {
        pub(in crate::train) fn small() -> Self {
            Self {
                height: 8,
                width: 8,
                channels: 1,
                widths: vec![4, 6],
                hidden: 7,
                dim: 5,
                prediction: false,
            }
        }
    }

    fn embed<B: Backend>(model: &Model<B>, config: &ModelConfig, images: &[f32]) -> Vec<f32> {
        let (patches, count) = config.grid().tensor(images);
        let embeddings = model.embed(patches, count);
        assert_eq!(embeddings.dims(), [count, config.dim]);
        embeddings.into_data().to_vec().unwrap()
    }

    #[test]
    fn any_image_size_gives_embeddings() {
        for (side, channels) in [(1, 1), (8, 1), (28, 1), (32, 3), (50, 3)] {
            let config = ModelConfig {
                height: side,
                width: side,
                channels,
                widths: vec![4, 6, 8],
                ..ModelConfig::small()
            };
            let model = config.init::<Flex>(0, &Default::default());
            let images = vec![0.5; 3 * side * side * channels];
            let embeddings = embed(&model, &config, &images);
            assert!(embeddings.iter().all(|value| value.is_finite()));
        }
    }

    #[test]
    fn the_seed_decides_the_weights() {
        let config = ModelConfig::small();
        let images: Vec<f32> = (0..64).map(|i| (i as f32).sin()).collect();
        let with_seed = |seed| {
            let model = config.init::<Flex>(seed, &Default::default());
            embed(&model, &config, &images)
        };
        assert_eq!(with_seed(3), with_seed(3));
        assert_ne!(with_seed(3), with_seed(4));
    }

    /// With running statistics an image's embedding depends on that image alone; with batch
    /// statistics it depends on the others.
    #[test]
    fn images_see_each_other_only_in_training() {
        let config = ModelConfig::small();
        let model = config.init::<Autodiff<Flex>>(0, &Default::default());
        let first: Vec<f32> = (0..64).map(|i| (i as f32).sin()).collect();
        let second: Vec<f32> = (0..64).map(|i| (i as f32 * 0.1).cos()).collect();
        let both = [first.clone(), second].concat();
        let plain = model.valid();
        assert_eq!(
            embed(&plain, &config, &both)[..5],
            embed(&plain, &config, &first)
        );
        assert_ne!(
            embed(&model, &config, &both)[..5],
            embed(&model, &config, &first)
        );
    }
}
