//! Colour distortion: brightness, contrast, saturation and hue jitter in random order, and
//! conversion to grey (SimCLR, appendix A). Every step keeps values in [0, 1].

use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::ColourConfig;

/// One jitter with its drawn strength.
#[derive(Clone, Copy, Debug)]
enum Jitter {
    Brightness(f32),
    Contrast(f32),
    Saturation(f32),
    Hue(f32),
}

/// Distorts `view` (`[channels, height, width]`, values in [0, 1], `plane` = height · width).
pub(super) fn distort(
    config: &ColourConfig,
    view: &mut [f32],
    plane: usize,
    random: &mut ChaCha8Rng,
) {
    if random.random::<f32>() < config.probability {
        let mut factor = |range: f32| random.random_range((1.0 - range).max(0.0)..=1.0 + range);
        let mut jitters = [
            Jitter::Brightness(factor(config.brightness)),
            Jitter::Contrast(factor(config.contrast)),
            Jitter::Saturation(factor(config.saturation)),
            Jitter::Hue(random.random_range(-config.hue..=config.hue)),
        ];
        jitters.shuffle(random);
        for jitter in jitters {
            jitter.apply(view, plane);
        }
    }
    if random.random::<f32>() < config.grey_probability {
        saturate(view, plane, 0.0);
    }
}

impl Jitter {
    fn apply(self, view: &mut [f32], plane: usize) {
        match self {
            Self::Brightness(factor) => blend(view, 0.0, factor),
            Self::Contrast(factor) => {
                let mean = mean_luminance(view, plane);
                blend(view, mean, factor);
            }
            Self::Saturation(factor) => saturate(view, plane, factor),
            Self::Hue(turn) => shift_hue(view, plane, turn),
        }
    }
}

/// Moves every value away from (`factor` > 1) or towards (`factor` < 1) a fixed one.
fn blend(values: &mut [f32], fixed: f32, factor: f32) {
    let constant = (1.0 - factor) * fixed;
    for value in values {
        *value = (factor * *value + constant).clamp(0.0, 1.0);
    }
}

/// ITU-R BT.601 luma.
fn luminance(red: f32, green: f32, blue: f32) -> f32 {
    0.299 * red + 0.587 * green + 0.114 * blue
}

/// The mean luminance of a colour view, the mean value of a grey one.
fn mean_luminance(view: &[f32], plane: usize) -> f32 {
    let mean = |values: &[f32]| values.iter().sum::<f32>() / plane as f32;
    match split(view, plane) {
        Some([red, green, blue]) => luminance(mean(red), mean(green), mean(blue)),
        None => mean(view),
    }
}

/// The three planes of a colour view, nothing for a grey one.
fn split(view: &[f32], plane: usize) -> Option<[&[f32]; 3]> {
    let (red, rest) = view.split_at(plane);
    (rest.len() == 2 * plane).then(|| [red, &rest[..plane], &rest[plane..]])
}

/// [`split`], to write.
fn split_mut(view: &mut [f32], plane: usize) -> Option<[&mut [f32]; 3]> {
    let (red, rest) = view.split_at_mut(plane);
    if rest.len() != 2 * plane {
        return None;
    }
    let (green, blue) = rest.split_at_mut(plane);
    Some([red, green, blue])
}

/// Applies `change` to each pixel of a colour view; a grey view stays as it is.
fn for_each_pixel(view: &mut [f32], plane: usize, change: impl Fn([f32; 3]) -> [f32; 3]) {
    if let Some([red, green, blue]) = split_mut(view, plane) {
        for ((red, green), blue) in red.iter_mut().zip(green).zip(blue) {
            [*red, *green, *blue] = change([*red, *green, *blue]);
        }
    }
}

/// Moves each pixel away from or towards its own grey; factor 0 makes the view grey.
fn saturate(view: &mut [f32], plane: usize, factor: f32) {
    for_each_pixel(view, plane, |[red, green, blue]| {
        let grey = (1.0 - factor) * luminance(red, green, blue);
        [red, green, blue].map(|value| (factor * value + grey).clamp(0.0, 1.0))
    });
}

/// Turns the hue of each pixel by `turn` full circles; value and saturation (of the
/// hue-saturation-value cone) stay.
fn shift_hue(view: &mut [f32], plane: usize, turn: f32) {
    let sextants = 6.0 * turn.rem_euclid(1.0);
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
        let turned = hue + sextants;
        // A component falls from the value by the chroma over the two sextants around its
        // opposite hue: offset 5, 3, 1 for red, green, blue.
        [5.0, 3.0, 1.0].map(|offset| {
            let mut place = turned + offset;
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

    const EPSILON: f32 = 1e-5;

    #[test]
    fn no_turn_and_a_full_turn_of_hue_are_the_identity() {
        for turn in [0.0, 1.0, -1.0] {
            let mut view = random_view(1);
            shift_hue(&mut view, PLANE, turn);
            assert_abs_diff_eq!(view[..], random_view(1)[..], epsilon = EPSILON);
        }
    }

    #[test]
    fn a_third_of_a_turn_of_hue_passes_the_components_on() {
        let mut view = random_view(2);
        let original = view.clone();
        shift_hue(&mut view, PLANE, 1.0 / 3.0);
        let mut passed_on = original;
        passed_on.rotate_right(PLANE);
        assert_abs_diff_eq!(view[..], passed_on[..], epsilon = EPSILON);
    }

    #[test]
    fn opposite_turns_of_hue_cancel() {
        for turn in [-0.5, -0.21, 0.04, 0.37] {
            let mut view = random_view(3);
            shift_hue(&mut view, PLANE, turn);
            shift_hue(&mut view, PLANE, -turn);
            assert_abs_diff_eq!(view[..], random_view(3)[..], epsilon = EPSILON);
        }
    }

    #[test]
    fn factor_one_is_the_identity() {
        for jitter in [
            Jitter::Brightness(1.0),
            Jitter::Contrast(1.0),
            Jitter::Saturation(1.0),
        ] {
            let mut view = random_view(4);
            jitter.apply(&mut view, PLANE);
            assert_abs_diff_eq!(view[..], random_view(4)[..], epsilon = EPSILON);
        }
    }

    #[test]
    fn grey_has_equal_components_and_the_same_luminance() {
        let mut view = random_view(5);
        let mean = mean_luminance(&view, PLANE);
        saturate(&mut view, PLANE, 0.0);
        let red = view[..PLANE].repeat(3);
        assert_abs_diff_eq!(view[..], red[..], epsilon = EPSILON);
        assert_abs_diff_eq!(mean_luminance(&view, PLANE), mean, epsilon = EPSILON);
    }

    #[test]
    fn distortion_keeps_values_between_zero_and_one() {
        let config = ColourConfig {
            probability: 1.0,
            hue: 0.5,
            ..ColourConfig::simclr(1.0)
        };
        let mut random = ChaCha8Rng::seed_from_u64(6);
        for seed in 0..200 {
            let mut view = random_view(seed);
            distort(&config, &mut view, PLANE, &mut random);
            assert!(view.iter().all(|value| (0.0..=1.0).contains(value)));
            let mut grey = random_view(seed)[..PLANE].to_vec();
            distort(&config, &mut grey, PLANE, &mut random);
            assert!(grey.iter().all(|value| (0.0..=1.0).contains(value)));
        }
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
