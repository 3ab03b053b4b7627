//! Random views of images, for training, and the plain view, for evaluation.
//!
//! Seed, step, view and position in the batch determine a view, so that any number of threads draws
//! the same batch.

mod blur;
mod colour;
mod config;
mod error;
mod geometry;

pub use config::{AugmentConfig, BlurConfig, ColourConfig, CropConfig, FlipConfig, RotationConfig};
pub use error::AugmentError;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::train::image_set::ImageSet;
pub(super) use colour::luminance;
use geometry::Window;

/// The mean that is subtracted from values in [0, 1].
const MEAN: f32 = 0.5;
/// The standard deviation that they are then divided by; the result is in [-1, 1].
const STANDARD_DEVIATION: f32 = 0.5;

/// Determines the randomness of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ViewKey {
    /// The run's seed.
    pub seed: u64,
    /// The training step, or any number that is new for each batch.
    pub step: u64,
    /// Which view of the batch: 0, 1, ….
    pub view: u64,
}

impl ViewKey {
    /// The generator for the image at `position` of the batch.
    fn generator(self, position: usize) -> ChaCha8Rng {
        let words = [self.seed, self.step, self.view, 0].map(u64::to_le_bytes);
        let mut random = ChaCha8Rng::from_seed(bytemuck::cast(words));
        random.set_stream(position as u64);
        random
    }
}

/// Draws one random view of each of the images `set[indices]`:
/// `[indices.len(), channels, height, width]` (NCHW), f32 in [-1, 1]. Values in [0, 1] are
/// normalised with mean ½ and standard deviation ½. Views have the images' own size.
///
/// # Errors
/// [`AugmentError`] on a parameter out of range or an index outside the set.
pub fn augment_batch(
    config: &AugmentConfig,
    set: &ImageSet,
    indices: &[usize],
    key: ViewKey,
) -> Result<Vec<f32>, AugmentError> {
    config.validate()?;
    if let Some(&given) = indices.iter().find(|&&index| index >= set.len()) {
        let images = set.len();
        return Err(AugmentError::IndexOutOfRange { given, images });
    }
    let mut views = vec![0.0; indices.len() * set.image_len()];
    views
        .par_chunks_exact_mut(set.image_len().max(1))
        .zip(indices)
        .enumerate()
        .for_each_init(
            || vec![0.0; set.image_len()],
            |scratch, (position, (view, &index))| {
                let mut random = key.generator(position);
                Window::draw(config, set, &mut random).sample(set, index, view);
                if let Some(colour) = &config.colour {
                    colour::distort(colour, view, set.height * set.width, &mut random);
                }
                if let Some(blur) = &config.blur {
                    blur::maybe_blur(blur, view, scratch, set, &mut random);
                }
                for value in view {
                    *value = (*value - MEAN) / STANDARD_DEVIATION;
                }
            },
        );
    Ok(views)
}

/// The images `set[indices]` without any change, in the layout and normalisation of
/// [`augment_batch`].
///
/// # Errors
/// [`AugmentError`] on an index outside the set.
pub fn to_float(set: &ImageSet, indices: &[usize]) -> Result<Vec<f32>, AugmentError> {
    // A view without any change does not depend on its key.
    let [seed, step, view] = [0; 3];
    let key = ViewKey { seed, step, view };
    augment_batch(&AugmentConfig::default(), set, indices, key)
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;
    use crate::train::testing::on_threads;

    const KEY: ViewKey = ViewKey {
        seed: 1,
        step: 2,
        view: 0,
    };

    fn random_set(channels: usize) -> ImageSet {
        let mut random = ChaCha8Rng::seed_from_u64(9);
        let (images, height, width) = (7, 12, 10);
        ImageSet {
            height,
            width,
            channels,
            pixels: (0..images * height * width * channels)
                .map(|_| random.random())
                .collect(),
        }
    }

    /// Every change, with probability 1.
    fn everything() -> AugmentConfig {
        let mut config = AugmentConfig::simclr(1.0);
        config.rotation = Some(RotationConfig { max_degrees: 180.0 });
        if let (Some(colour), Some(blur)) = (&mut config.colour, &mut config.blur) {
            colour.probability = 1.0;
            colour.hue = 0.5;
            blur.probability = 1.0;
        }
        config
    }

    fn batch(config: &AugmentConfig, set: &ImageSet, key: ViewKey) -> Vec<f32> {
        let indices: Vec<usize> = (0..set.len()).rev().collect();
        augment_batch(config, set, &indices, key).unwrap()
    }

    #[test]
    fn the_plain_view_is_the_image_in_planes() {
        for channels in [1, 3] {
            let set = random_set(channels);
            let plain = to_float(&set, &[3]).unwrap();
            let plane = set.height * set.width;
            for (place, &value) in plain.iter().enumerate() {
                let byte = set.image(3)[place % plane * channels + place / plane];
                assert_eq!(value, (f32::from(byte) / 255.0 - 0.5) / 0.5);
            }
        }
    }

    #[test]
    fn values_stay_in_range() {
        for channels in [1, 3] {
            let set = random_set(channels);
            for step in 0..50 {
                // Blur would hide values out of range among their neighbours.
                let mut config = everything();
                config.blur = config.blur.filter(|_| step % 2 == 0);
                let out = batch(&config, &set, ViewKey { step, ..KEY });
                assert!(out.iter().all(|value| (-1.00001..=1.00001).contains(value)));
            }
        }
    }

    #[test]
    fn one_thread_and_three_draw_the_same_batch() {
        let set = random_set(3);
        let draw_with = |threads| on_threads(threads, || batch(&everything(), &set, KEY));
        assert_eq!(draw_with(1), draw_with(3));
    }

    #[test]
    fn seed_step_view_and_position_each_change_the_view() {
        let mut set = random_set(3);
        set.pixels = set.image(0).repeat(7);
        let reference = batch(&everything(), &set, KEY);
        for key in [
            ViewKey { seed: 5, ..KEY },
            ViewKey { step: 5, ..KEY },
            ViewKey { view: 5, ..KEY },
        ] {
            assert_ne!(batch(&everything(), &set, key), reference);
        }
        let length = set.image_len();
        assert_ne!(reference[..length], reference[length..2 * length]);
    }

    #[test]
    fn wrong_arguments_are_refused_by_name() {
        let set = random_set(1);
        let config = AugmentConfig::default();
        let broken = AugmentConfig {
            flip: Some(FlipConfig { probability: 2.0 }),
            ..config.clone()
        };
        let refused = |config, indices: &[usize], words| {
            let error = augment_batch(config, &set, indices, KEY).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        };
        refused(&config, &[7], "image index 7 is outside a set of 7 images");
        refused(&broken, &[0], "flip.probability is 2");
    }
}
