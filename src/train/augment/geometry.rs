//! Crop, rotation and flip in one bilinear resampling.
//!
//! A window is a rectangle of the image, rotated about its centre and perhaps mirrored. The view
//! spreads it over the full output. The output is as large as the image and the window never
//! larger, so that neighbouring output pixels are at most one image pixel apart, and bilinear
//! interpolation needs no filter against aliasing.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::config::{AugmentConfig, CropConfig};
use crate::train::image_set::ImageSet;

/// Maximum number of draws of a window; if none fits the image, the last is made to fit.
const CROP_ATTEMPTS: usize = 10;

/// The window of an image that a view shows.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Window {
    /// Middle, as (column, row) with pixel edges at whole numbers.
    centre: [f32; 2],
    /// Width and height in pixels.
    size: [f32; 2],
    /// Rotation in radians.
    angle: f32,
    /// Whether left and right are exchanged.
    flipped: bool,
}

impl Window {
    /// The whole of an image, as it is.
    fn whole(set: &ImageSet) -> Self {
        let size = [set.width as f32, set.height as f32];
        Self {
            centre: size.map(|side| side / 2.0),
            size,
            angle: 0.0,
            flipped: false,
        }
    }

    /// Draws a window as the configuration allows.
    pub(super) fn draw(config: &AugmentConfig, set: &ImageSet, random: &mut ChaCha8Rng) -> Self {
        let mut window = Self::whole(set);
        if let Some(crop) = &config.crop {
            window.crop(crop, random);
        }
        if let Some(rotation) = &config.rotation {
            let most = rotation.max_degrees.to_radians();
            window.angle = random.random_range(-most..=most);
        }
        if let Some(flip) = &config.flip {
            window.flipped = random.random::<f32>() < flip.probability;
        }
        window
    }

    /// Shrinks the whole image to a window of random area, shape and position. Area and shape are
    /// redrawn together while they do not fit. After the last draw its area stays and its shape
    /// becomes the nearest that fits.
    fn crop(&mut self, config: &CropConfig, random: &mut ChaCha8Rng) {
        let [width, height] = self.size;
        let [least_ratio, most_ratio] = config.ratio.map(f32::ln);
        let mut area = 0.0;
        let mut ratio = 1.0;
        for _ in 0..CROP_ATTEMPTS {
            area = width * height * random.random_range(config.scale[0]..=config.scale[1]);
            ratio = random.random_range(least_ratio..=most_ratio).exp();
            if (area * ratio).sqrt() <= width && (area / ratio).sqrt() <= height {
                break;
            }
        }
        let flattest = width * width / area;
        let tallest = area / (height * height);
        ratio = ratio.max(tallest).min(flattest);
        self.size = [
            (area * ratio).sqrt().min(width),
            (area / ratio).sqrt().min(height),
        ];
        self.centre = [
            self.size[0] / 2.0 + (width - self.size[0]) * random.random::<f32>(),
            self.size[1] / 2.0 + (height - self.size[1]) * random.random::<f32>(),
        ];
    }

    /// Samples image `index` of `set` through the window into `view`, `[channels, height, width]`,
    /// 0 to 1.
    pub(super) fn sample(&self, set: &ImageSet, index: usize, view: &mut [f32]) {
        let image = set.image(index);
        let (height, width, channels) = (set.height, set.width, set.channels);
        if *self == Self::whole(set) {
            return copy_planes(set, index, view);
        }
        // The steps in the image for one output column and one output row.
        let (sine, cosine) = self.angle.sin_cos();
        let mirror = if self.flipped { -1.0 } else { 1.0 };
        let along = mirror * self.size[0] / width as f32;
        let down = self.size[1] / height as f32;
        let column_step = [along * cosine, along * sine];
        let row_step = [-down * sine, down * cosine];

        let plane = height * width;
        for row in 0..height {
            let v = row as f32 + 0.5 - height as f32 / 2.0;
            for column in 0..width {
                let u = column as f32 + 0.5 - width as f32 / 2.0;
                let [x, y] = [0, 1].map(|axis| {
                    // Pixel values sit at the middles of pixels.
                    self.centre[axis] + u * column_step[axis] + v * row_step[axis] - 0.5
                });
                let columns = taps(x, width);
                let corners = taps(y, height).map(|(row, row_share)| {
                    columns.map(|(column, share)| {
                        ((row * width + column) * channels, row_share * share)
                    })
                });
                for channel in 0..channels {
                    let value: f32 = corners
                        .as_flattened()
                        .iter()
                        .map(|&(place, weight)| weight * f32::from(image[place + channel]))
                        .sum();
                    // Four rounded weights may sum to a hair more than one.
                    view[channel * plane + row * width + column] = (value / 255.0).min(1.0);
                }
            }
        }
    }
}

/// The two pixels around `position` on an axis of `length` pixels, each with its share.
fn taps(position: f32, length: usize) -> [(usize, f32); 2] {
    let below = position.floor();
    let (first, share) = (below as isize, position - below);
    [
        (reflect(first, length), 1.0 - share),
        (reflect(first + 1, length), share),
    ]
}

/// Continues an axis of `length` pixels by mirror images: …1 0 | 0 1 2 … n−1 | n−1 n−2….
fn reflect(index: isize, length: usize) -> usize {
    if (0..length as isize).contains(&index) {
        return index as usize;
    }
    let folded = index.rem_euclid(2 * length as isize) as usize;
    folded.min(2 * length - 1 - folded)
}

/// Image `index` of `set` as it is, in `[channels, height, width]` and 0 to 1.
fn copy_planes(set: &ImageSet, index: usize, view: &mut [f32]) {
    let planes = view.chunks_exact_mut(set.height * set.width);
    for (channel, plane) in planes.enumerate() {
        let values = set.image(index)[channel..].iter().step_by(set.channels);
        for (out, &value) in plane.iter_mut().zip(values) {
            *out = f32::from(value) / 255.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;
    use rand::SeedableRng;

    use super::*;

    const PLANE: usize = 6 * 9;

    fn set(pixels: Vec<u8>) -> ImageSet {
        ImageSet {
            height: 6,
            width: 9,
            channels: 3,
            pixels,
        }
    }

    fn random_image(seed: u64) -> ImageSet {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        set((0..PLANE * 3).map(|_| random.random()).collect())
    }

    /// The whole image, rotated by `angle` and perhaps mirrored.
    fn view(image: &ImageSet, angle: f32, flipped: bool) -> Vec<f32> {
        let window = Window {
            angle,
            flipped,
            ..Window::whole(image)
        };
        let mut view = vec![f32::NAN; image.pixels.len()];
        window.sample(image, 0, &mut view);
        view
    }

    const EPSILON: f32 = 1e-4;

    #[test]
    fn a_full_rotation_is_the_image() {
        let image = random_image(1);
        let (rotated, whole) = (
            view(&image, std::f32::consts::TAU, false),
            view(&image, 0.0, false),
        );
        assert_abs_diff_eq!(rotated[..], whole[..], epsilon = EPSILON);
    }

    #[test]
    fn flipping_twice_is_the_identity() {
        let image = random_image(2);
        let once = view(&image, 0.0, true);
        let back = (0..3 * PLANE)
            .map(|i| (once[i % 3 * PLANE + i / 3] * 255.0).round() as u8)
            .collect();
        let back = set(back);
        assert_ne!(back, image);
        let (twice, whole) = (view(&back, 0.0, true), view(&image, 0.0, false));
        assert_abs_diff_eq!(twice[..], whole[..], epsilon = EPSILON);
    }

    #[test]
    fn half_a_rotation_reverses_rows_and_columns() {
        let image = random_image(3);
        let mut expected = view(&image, 0.0, false);
        expected.chunks_exact_mut(PLANE).for_each(<[f32]>::reverse);
        let rotated = view(&image, std::f32::consts::PI, false);
        assert_abs_diff_eq!(rotated[..], expected[..], epsilon = EPSILON);
    }

    #[test]
    fn crops_keep_their_area_stay_inside_and_have_their_shape_if_it_fits() {
        let mut random = ChaCha8Rng::seed_from_u64(4);
        let whole = Window::whole(&random_image(0));
        for (size, scale) in [([32.0, 32.0], [0.08, 1.0]), ([64.0, 2.0], [0.9, 1.0])] {
            let ratio = [0.75, 4.0 / 3.0];
            let config = CropConfig { scale, ratio };
            for _ in 0..2000 {
                let mut window = Window {
                    size,
                    ..whole.clone()
                };
                window.crop(&config, &mut random);
                let [width, height] = window.size;
                let area = width * height / (size[0] * size[1]);
                assert!((scale[0] - 1e-3..=1.001).contains(&area), "area {area}");
                let shape = width / height;
                let fits = size[0] == size[1];
                assert!(!fits || (0.7499..=1.3335).contains(&shape), "ratio {shape}");
                for (axis, whole) in size.into_iter().enumerate() {
                    assert!(window.centre[axis] - window.size[axis] / 2.0 >= -1e-4);
                    assert!(window.centre[axis] + window.size[axis] / 2.0 <= whole + 1e-4);
                }
            }
        }
    }

    #[test]
    fn outside_is_the_mirror_image() {
        let indices: Vec<usize> = (-4..7).map(|index| reflect(index, 3)).collect();
        assert_eq!(indices, [2, 2, 1, 0, 0, 1, 2, 2, 1, 0, 0]);
    }
}
