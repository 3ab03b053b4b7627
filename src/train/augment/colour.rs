//! Colour distortion: brightness, contrast, saturation and hue jitter in random order, and
//! conversion to grey (SimCLR, appendix A). Every step keeps values in [0, 1].

use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::config::ColourConfig;

/// A jitter of a view (`[channels, height, width]`, values in [0, 1]), given the length of a plane
/// and the strength.
type Jitter = fn(&mut [f32], usize, f32);

/// Distorts `view` (`[channels, height, width]`, values in [0, 1], `plane` = height · width).
pub(super) fn distort(
    config: &ColourConfig,
    view: &mut [f32],
    plane: usize,
    random: &mut ChaCha8Rng,
) {
    if random.random::<f32>() < config.probability {
        let mut factor = |range: f32| random.random_range((1.0 - range).max(0.0)..=1.0 + range);
        let mut jitters: [(Jitter, f32); 4] = [
            (brighten, factor(config.brightness)),
            (contrast, factor(config.contrast)),
            (saturate, factor(config.saturation)),
            (shift_hue, random.random_range(-config.hue..=config.hue)),
        ];
        jitters.shuffle(random);
        for (jitter, strength) in jitters {
            jitter(view, plane, strength);
        }
    }
    if random.random::<f32>() < config.grey_probability {
        saturate(view, plane, 0.0);
    }
}

fn brighten(view: &mut [f32], _: usize, factor: f32) {
    blend(view, 0.0, factor);
}

fn contrast(view: &mut [f32], plane: usize, factor: f32) {
    let mean = mean_luminance(view, plane);
    blend(view, mean, factor);
}

/// Moves every value away from `fixed` (`factor` > 1) or towards it (`factor` < 1).
fn blend(values: &mut [f32], fixed: f32, factor: f32) {
    let constant = (1.0 - factor) * fixed;
    for value in values {
        *value = (factor * *value + constant).clamp(0.0, 1.0);
    }
}

/// ITU-R BT.601 luma of red, green and blue.
pub(in crate::train) fn luminance([red, green, blue]: [f32; 3]) -> f32 {
    0.299 * red + 0.587 * green + 0.114 * blue
}

/// The mean luminance of a colour view, the mean value of a grey one.
fn mean_luminance(view: &[f32], plane: usize) -> f32 {
    let mean = |values: &[f32]| values.iter().sum::<f32>() / plane as f32;
    let means: Vec<f32> = view.chunks_exact(plane).map(mean).collect();
    match *means {
        [red, green, blue] => luminance([red, green, blue]),
        _ => means[0],
    }
}

/// Applies `change` to each pixel of a colour view; a grey view stays as it is.
fn for_each_pixel(view: &mut [f32], plane: usize, change: impl Fn([f32; 3]) -> [f32; 3]) {
    let mut planes = view.chunks_exact_mut(plane);
    if let (Some(red), Some(green), Some(blue)) = (planes.next(), planes.next(), planes.next()) {
        for ((red, green), blue) in red.iter_mut().zip(green).zip(blue) {
            [*red, *green, *blue] = change([*red, *green, *blue]);
        }
    }
}

/// Moves each pixel away from its own grey or towards it; factor 0 makes the view grey.
fn saturate(view: &mut [f32], plane: usize, factor: f32) {
    for_each_pixel(view, plane, |colour| {
        let grey = (1.0 - factor) * luminance(colour);
        colour.map(|value| (factor * value + grey).clamp(0.0, 1.0))
    });
}

/// Rotates the hue of each pixel by `rotation` full circles. Value and saturation (of the
/// hue-saturation-value cone) stay.
fn shift_hue(view: &mut [f32], plane: usize, rotation: f32) {
    let sextants = 6.0 * rotation.rem_euclid(1.0);
    for_each_pixel(view, plane, |[red, green, blue]| {
        let most = red.max(green).max(blue);
        let chroma = most - red.min(green).min(blue);
        let per_chroma = 1.0 / chroma.max(f32::MIN_POSITIVE);
        // The hue in sextants of the circle, in [-1, 5], by which component is the largest.
        let hue = if most == red {
            (green - blue) * per_chroma
        } else if most == green {
            2.0 + (blue - red) * per_chroma
        } else {
            4.0 + (red - green) * per_chroma
        };
        let rotated = hue + sextants;
        // A component falls from the value by the chroma over the two sextants around its
        // opposite hue: offset 5, 3, 1 for red, green, blue.
        [5.0, 3.0, 1.0].map(|offset| {
            let mut place = rotated + offset;
            place -= if place >= 12.0 { 12.0 } else { 0.0 };
            place -= if place >= 6.0 { 6.0 } else { 0.0 };
            most - chroma * place.min(4.0 - place).clamp(0.0, 1.0)
        })
    });
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;
    use rand::SeedableRng;

    use super::*;

    const PLANE: usize = 50;

    fn random_view(seed: u64) -> Vec<f32> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        (0..3 * PLANE).map(|_| random.random()).collect()
    }

    /// Applies these jitters, one after the other, to `view`.
    #[track_caller]
    fn becomes(jitters: &[(Jitter, f32)], mut view: Vec<f32>, expected: &[f32]) {
        for (jitter, strength) in jitters {
            jitter(&mut view, PLANE, *strength);
        }
        assert_abs_diff_eq!(view[..], *expected, epsilon = 1e-5);
    }

    #[test]
    fn neutral_jitters_and_opposite_rotations_change_nothing() {
        let view = random_view(1);
        for (jitter, strength) in [
            (shift_hue as Jitter, 0.0),
            (shift_hue, 1.0),
            (shift_hue, -1.0),
            (brighten, 1.0),
            (contrast, 1.0),
            (saturate, 1.0),
        ] {
            becomes(&[(jitter, strength)], view.clone(), &view);
        }
        for rotation in [-0.5, -0.21, 0.04, 0.37] {
            let there_and_back = [(shift_hue as Jitter, rotation), (shift_hue, -rotation)];
            becomes(&there_and_back, view.clone(), &view);
        }
    }

    #[test]
    fn a_hue_rotation_by_a_third_permutes_the_components() {
        let view = random_view(2);
        let mut permuted = view.clone();
        permuted.rotate_right(PLANE);
        becomes(&[(shift_hue, 1.0 / 3.0)], view, &permuted);
    }

    #[test]
    fn grey_has_equal_components_and_the_same_luminance() {
        let mut view = random_view(5);
        let mean = mean_luminance(&view, PLANE);
        saturate(&mut view, PLANE, 0.0);
        assert_abs_diff_eq!(mean_luminance(&view, PLANE), mean, epsilon = 1e-5);
        let red = view[..PLANE].repeat(3);
        assert_abs_diff_eq!(view[..], red[..], epsilon = 1e-5);
    }

    #[test]
    fn saturation_and_hue_leave_a_grey_view_alone() {
        let original = random_view(7)[..PLANE].to_vec();
        let mut view = original.clone();
        shift_hue(&mut view, PLANE, 0.3);
        saturate(&mut view, PLANE, 0.2);
        assert_eq!(view, original);
    }
}
