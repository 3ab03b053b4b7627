//! The baseline that an encoder has to beat: the images themselves as features.

use super::Features;
use crate::train::image_set::ImageSet;

/// Pixels of training and held-out images in [0, 1], minus the mean training image, one row per
/// image.
///
/// The brightness that all images share would otherwise dominate cosine similarity and weaken the
/// baseline.
pub fn centred(train: &ImageSet, test: &ImageSet) -> Features {
    let dim = train.image_len();
    let mut sums = vec![0u64; dim];
    for image in train.pixels.chunks_exact(dim) {
        for (sum, &pixel) in sums.iter_mut().zip(image) {
            *sum += u64::from(pixel);
        }
    }
    let mean = sums.iter().map(|&sum| sum as f32 / train.len() as f32);
    let centre = |set: &ImageSet| {
        let pixels = set.pixels.iter().zip(mean.clone().cycle());
        let centred = pixels.map(|(&pixel, mean)| (f32::from(pixel) - mean) / 255.0);
        centred.collect()
    };
    Features {
        train: centre(train),
        test: centre(test),
        dim,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(pixels: &[u8]) -> ImageSet {
        ImageSet {
            height: 1,
            width: 2,
            channels: 1,
            pixels: pixels.to_vec(),
        }
    }

    #[test]
    fn the_training_mean_is_taken_from_both_sets() {
        let found = centred(&set(&[0, 10, 102, 30]), &set(&[255, 20]));
        assert_eq!(found.train, [-0.2, -10.0 / 255.0, 0.2, 10.0 / 255.0]);
        assert_eq!(found.test, [0.8, 0.0]);
    }
}
