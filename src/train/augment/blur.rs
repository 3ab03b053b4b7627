//! Gaussian blur, one axis after the other.
//!
//! The kernel is cut off at `radius` on both sides and scaled to sum to one. The nearest pixel
//! repeats beyond the border, so that a constant image stays constant.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::config::BlurConfig;
use crate::train::image_set::ImageSet;

/// Blurs `view` (`[channels, height, width]`), a view of `set`, with the probability and width of
/// the configuration. `scratch` holds one image of the same size.
pub(super) fn maybe_blur(
    config: &BlurConfig,
    view: &mut [f32],
    scratch: &mut [f32],
    set: &ImageSet,
    random: &mut ChaCha8Rng,
) {
    if random.random::<f32>() >= config.probability {
        return;
    }
    let sigma = random.random_range(config.sigma[0]..=config.sigma[1]);
    let kernel = kernel(sigma, radius(config.kernel, set.height));
    let blur_each = |from: &[f32], to: &mut [f32], length: usize, width: usize| {
        let pairs = from.chunks_exact(length).zip(to.chunks_exact_mut(length));
        pairs.for_each(|(from, to)| blur_rows(from, to, width, &kernel));
    };
    // Along each row, then (writing back) along each column.
    blur_each(view, scratch, set.width, 1);
    blur_each(scratch, view, set.height * set.width, set.width);
}

/// Half the kernel's width in pixels, at least 1; `share` is its whole width over the image height.
fn radius(share: f32, height: usize) -> usize {
    ((share * height as f32 / 2.0) as usize).max(1)
}

/// `exp(−d² / 2σ²)` for d = 0 … radius, scaled so that the two-sided sum is one.
fn kernel(sigma: f32, radius: usize) -> Vec<f32> {
    let weights: Vec<f32> = (0..=radius)
        .map(|distance| (-0.5 * (distance as f32 / sigma).powi(2)).exp())
        .collect();
    let sum = 2.0 * weights.iter().sum::<f32>() - weights[0];
    weights.into_iter().map(|weight| weight / sum).collect()
}

/// Convolves `from`, rows of `width` values, along its columns. With a width of 1 it is one line, and
/// the convolution runs along it.
fn blur_rows(from: &[f32], to: &mut [f32], width: usize, kernel: &[f32]) {
    let last = from.len() / width - 1;
    for (row, out) in to.chunks_exact_mut(width).enumerate() {
        let centre = &from[row * width..(row + 1) * width];
        for (out, value) in out.iter_mut().zip(centre) {
            *out = kernel[0] * value;
        }
        for (distance, weight) in kernel.iter().enumerate().skip(1) {
            let before = row.saturating_sub(distance) * width;
            let after = (row + distance).min(last) * width;
            let pairs = from[before..before + width]
                .iter()
                .zip(&from[after..after + width]);
            for (out, (left, right)) in out.iter_mut().zip(pairs) {
                *out += weight * (left + right);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;
    use rand::SeedableRng;

    use super::*;

    const SET: ImageSet = ImageSet {
        height: 64,
        width: 5,
        channels: 3,
        pixels: Vec::new(),
    };
    const LENGTH: usize = 64 * 5 * 3;

    fn blurred(mut view: Vec<f32>, sigma: f32) -> Vec<f32> {
        let config = BlurConfig {
            probability: 1.0,
            sigma: [sigma, sigma],
            kernel: 0.1,
        };
        let mut scratch = vec![f32::NAN; LENGTH];
        let mut random = ChaCha8Rng::seed_from_u64(0);
        maybe_blur(&config, &mut view, &mut scratch, &SET, &mut random);
        view
    }

    #[test]
    fn a_constant_image_stays_constant() {
        let constant = vec![0.7; LENGTH];
        let view = blurred(constant.clone(), 2.0);
        assert_abs_diff_eq!(view[..], constant[..], epsilon = 1e-6);
    }

    #[test]
    fn a_point_spreads_alike_along_both_axes_and_keeps_its_mass() {
        let mut point = vec![0.0; LENGTH];
        point[30 * 5 + 2] = 1.0;
        let view = blurred(point, 0.5);
        assert_abs_diff_eq!(view.iter().sum::<f32>(), 1.0, epsilon = 1e-5);
        assert_abs_diff_eq!(view[29 * 5 + 2], view[30 * 5 + 1], epsilon = 1e-6);
        let ratio = view[29 * 5 + 2] / view[30 * 5 + 2];
        assert_abs_diff_eq!(ratio, (-2.0_f32).exp(), epsilon = 1e-5);
    }

    #[test]
    fn the_kernel_is_a_tenth_of_the_height_and_at_least_three_pixels() {
        assert_eq!(
            [8, 32, 64, 224].map(|height| radius(0.1, height)),
            [1, 1, 3, 11]
        );
    }
}
