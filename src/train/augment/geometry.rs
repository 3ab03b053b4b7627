//! Crop, rotation and flip in one bilinear resampling.
//!
//! A view is a window on the image: a rectangle of pixels with a centre, turned and perhaps
//! mirrored, spread over the full output. The output is as large as the image and the window
//! never larger, so that each step between output pixels is at most one image pixel: bilinear
//! interpolation needs no filter against aliasing.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::{AugmentConfig, CropConfig};

/// How often a window is redrawn until it fits the image.
const CROP_ATTEMPTS: usize = 10;

/// The size of an image and its number of channels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) channels: usize,
}

/// The part of an image that a view shows.
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
    /// The whole image as it is.
    pub(super) fn whole(shape: Shape) -> Self {
        let size = [shape.width as f32, shape.height as f32];
        Self {
            centre: size.map(|side| side / 2.0),
            size,
            angle: 0.0,
            flipped: false,
        }
    }

    /// Draws a window as the configuration allows.
    pub(super) fn draw(config: &AugmentConfig, shape: Shape, random: &mut ChaCha8Rng) -> Self {
        let mut window = Self::whole(shape);
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

    /// Shrinks the whole image to a window of random area, shape and place. Area and shape are
    /// redrawn together while they do not fit; if they never do, the last area is kept with the
    /// nearest shape that fits.
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

    /// Samples `image` (`[height, width, channels]`, 0 to 255) through the window into `view`
    /// (`[channels, height, width]`, 0 to 1).
    pub(super) fn sample(&self, image: &[u8], shape: Shape, view: &mut [f32]) {
        if *self == Self::whole(shape) {
            return copy_planes(image, shape, view);
        }
        // The image positions one output column and one output row apart.
        let (sine, cosine) = self.angle.sin_cos();
        let mirror = if self.flipped { -1.0 } else { 1.0 };
        let along = mirror * self.size[0] / shape.width as f32;
        let down = self.size[1] / shape.height as f32;
        let column_step = [along * cosine, along * sine];
        let row_step = [-down * sine, down * cosine];

        let (half_width, half_height) = (shape.width as f32 / 2.0, shape.height as f32 / 2.0);
        let plane = shape.height * shape.width;
        for row in 0..shape.height {
            let v = row as f32 + 0.5 - half_height;
            for column in 0..shape.width {
                let u = column as f32 + 0.5 - half_width;
                let [x, y] = [0, 1].map(|axis| {
                    // Pixel values sit at the middles of pixels.
                    self.centre[axis] + u * column_step[axis] + v * row_step[axis] - 0.5
                });
                let columns = Taps::around(x, shape.width);
                let rows = Taps::around(y, shape.height);
                let at = |row: usize, column: usize| (row * shape.width + column) * shape.channels;
                let corners = [
                    (
                        at(rows.first, columns.first),
                        (1.0 - rows.share) * (1.0 - columns.share),
                    ),
                    (
                        at(rows.first, columns.second),
                        (1.0 - rows.share) * columns.share,
                    ),
                    (
                        at(rows.second, columns.first),
                        rows.share * (1.0 - columns.share),
                    ),
                    (at(rows.second, columns.second), rows.share * columns.share),
                ];
                for channel in 0..shape.channels {
                    let value: f32 = corners
                        .iter()
                        .map(|&(place, weight)| weight * f32::from(image[place + channel]))
                        .sum();
                    // Four rounded weights may sum to a hair more than one.
                    view[channel * plane + row * shape.width + column] = (value / 255.0).min(1.0);
                }
            }
        }
    }
}

/// Two neighbouring pixels along one axis and the second one's share.
struct Taps {
    first: usize,
    second: usize,
    share: f32,
}

impl Taps {
    fn around(position: f32, length: usize) -> Self {
        let below = position.floor();
        let first = below as isize;
        Self {
            first: reflect(first, length),
            second: reflect(first + 1, length),
            share: position - below,
        }
    }
}

/// Continues an axis of `length` pixels by mirror images: …1 0 | 0 1 2 … n−1 | n−1 n−2….
fn reflect(index: isize, length: usize) -> usize {
    if (0..length as isize).contains(&index) {
        return index as usize;
    }
    let folded = index.rem_euclid(2 * length as isize) as usize;
    folded.min(2 * length - 1 - folded)
}

/// `[height, width, channels]` bytes to `[channels, height, width]` in [0, 1].
pub(super) fn copy_planes(image: &[u8], shape: Shape, view: &mut [f32]) {
    let planes = view.chunks_exact_mut(shape.height * shape.width);
    for (channel, plane) in planes.enumerate() {
        let values = image[channel..].iter().step_by(shape.channels);
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

    const SHAPE: Shape = Shape {
        height: 6,
        width: 9,
        channels: 3,
    };

    fn random_image(seed: u64) -> Vec<u8> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        (0..SHAPE.height * SHAPE.width * SHAPE.channels)
            .map(|_| random.random())
            .collect()
    }

    fn view_through(window: &Window, image: &[u8]) -> Vec<f32> {
        let mut view = vec![f32::NAN; image.len()];
        window.sample(image, SHAPE, &mut view);
        view
    }

    const EPSILON: f32 = 1e-4;

    #[test]
    fn the_whole_window_is_the_image() {
        let image = random_image(1);
        let whole = view_through(&Window::whole(SHAPE), &image);
        let mut planes = vec![0.0; image.len()];
        copy_planes(&image, SHAPE, &mut planes);
        assert_eq!(whole, planes);
        // Not the shortcut: a full turn goes through the interpolation.
        let turned = Window {
            angle: std::f32::consts::TAU,
            ..Window::whole(SHAPE)
        };
        let turned = view_through(&turned, &image);
        assert_abs_diff_eq!(turned[..], planes[..], epsilon = EPSILON);
    }

    #[test]
    fn flipping_twice_is_the_identity() {
        let flip = Window {
            flipped: true,
            ..Window::whole(SHAPE)
        };
        let image = random_image(2);
        let once = view_through(&flip, &image);
        let plane = SHAPE.height * SHAPE.width;
        let back: Vec<u8> = (0..image.len())
            .map(|i| (once[i % 3 * plane + i / 3] * 255.0).round() as u8)
            .collect();
        assert_ne!(back, image);
        let twice = view_through(&flip, &back);
        let whole = view_through(&Window::whole(SHAPE), &image);
        assert_abs_diff_eq!(twice[..], whole[..], epsilon = EPSILON);
    }

    #[test]
    fn half_a_turn_reverses_rows_and_columns() {
        let turned = Window {
            angle: std::f32::consts::PI,
            ..Window::whole(SHAPE)
        };
        let image = random_image(3);
        let mut expected = view_through(&Window::whole(SHAPE), &image);
        for plane in expected.chunks_exact_mut(SHAPE.height * SHAPE.width) {
            plane.reverse();
        }
        let turned = view_through(&turned, &image);
        assert_abs_diff_eq!(turned[..], expected[..], epsilon = EPSILON);
    }

    #[test]
    fn crops_keep_their_declared_area_and_shape_and_stay_inside() {
        let square = Shape {
            height: 32,
            width: 32,
            channels: 1,
        };
        let config = CropConfig {
            scale: [0.08, 1.0],
            ratio: [0.75, 4.0 / 3.0],
        };
        let mut random = ChaCha8Rng::seed_from_u64(4);
        for _ in 0..2000 {
            let mut window = Window::whole(square);
            window.crop(&config, &mut random);
            let [width, height] = window.size;
            let (area, ratio) = (width * height / 1024.0, width / height);
            assert!((0.0799..=1.0001).contains(&area), "area {area}");
            assert!((0.7499..=1.3335).contains(&ratio), "ratio {ratio}");
            for axis in 0..2 {
                assert!(window.centre[axis] - window.size[axis] / 2.0 >= -1e-4);
                assert!(window.centre[axis] + window.size[axis] / 2.0 <= 32.0001);
            }
        }
    }

    #[test]
    fn a_crop_that_cannot_have_its_shape_keeps_its_area() {
        let long = Shape {
            height: 2,
            width: 64,
            channels: 1,
        };
        let config = CropConfig {
            scale: [0.9, 1.0],
            ratio: [0.75, 4.0 / 3.0],
        };
        let mut random = ChaCha8Rng::seed_from_u64(5);
        for _ in 0..200 {
            let mut window = Window::whole(long);
            window.crop(&config, &mut random);
            let area = window.size[0] * window.size[1] / 128.0;
            assert!((0.899..=1.001).contains(&area), "area {area}");
        }
    }

    #[test]
    fn outside_is_the_mirror_image() {
        let indices: Vec<usize> = (-4..7).map(|index| reflect(index, 3)).collect();
        assert_eq!(indices, [2, 2, 1, 0, 0, 1, 2, 2, 1, 0, 0]);
    }
}
