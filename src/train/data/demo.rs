//! Draws the built-in demo set: ten classes of repeated motifs.
//!
//! Only local structure tells the classes apart. Phase, period, orientation, stroke weight, both
//! colours (either may be the lighter), lighting gradient, clutter and noise are drawn anew for
//! each image. Raw pixels therefore say little about the label, while every random crop, flip,
//! rotation and change of hue keeps it.

use std::f32::consts::TAU;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::dataset::{Dataset, dataset};
use super::motif::{Covers, MOTIFS};
use crate::train::augment::{AugmentConfig, luminance};
use crate::train::image_set::ImageSet;

/// Side of the square images, in pixels.
const SIDE: usize = 32;
/// Number of training images.
const TRAIN_IMAGES: usize = 4096;
/// Number of held-out images.
const TEST_IMAGES: usize = 1024;
/// The set is fixed, like a download: it does not depend on the training seed.
const SEED: u64 = 0x1F0CE;

/// Periods of the motifs, in pixels.
const PERIOD: std::ops::Range<f32> = 7.0..11.0;
/// Amplitude of the warp, in periods, and its wavelength, in pixels. The warp is a wave along each
/// axis, which keeps local structure and breaks its alignment across the image.
const WARP: std::ops::Range<f32> = 0.0..0.15;
const WARP_WAVELENGTH: std::ops::Range<f32> = 20.0..32.0;
/// Difference in luminance between the two colours (of 1), so that a motif survives conversion to
/// grey.
const CONTRAST: std::ops::Range<f32> = 0.3..0.5;
/// Mean luminance of the two colours. The range is narrower than the augmentation's changes of
/// brightness. Otherwise the luminance would distinguish an image's views from all others, and an
/// encoder would learn it instead of the motif.
const LEVEL: std::ops::Range<f32> = 0.4..0.6;
/// Distance of colours from grey; the hue is free.
const CHROMA: std::ops::Range<f32> = 0.1..0.25;
/// Largest change of the lighting gradient from one side of the image to the other.
const LIGHTING: f32 = 0.5;
/// Number of clutter blobs in front of the motif.
const CLUTTER: std::ops::RangeInclusive<usize> = 2..=5;
/// Radii of clutter blobs, in pixels.
const CLUTTER_RADIUS: std::ops::Range<f32> = 1.5..3.5;
/// Half-widths of the triangular noise on every value.
const NOISE: std::ops::Range<f32> = 0.02..0.12;
/// Sample points per pixel along each axis, against jagged edges.
const SUPERSAMPLES: usize = 3;

type Colour = [f32; 3];

/// Draws the whole set.
pub(super) fn generate() -> Dataset {
    let class_names = MOTIFS.map(|(name, _)| name.to_owned()).to_vec();
    Dataset {
        augment: AugmentConfig::demo(),
        ..dataset(
            (draw_set(0, TRAIN_IMAGES), labels(TRAIN_IMAGES)),
            (draw_set(TRAIN_IMAGES, TEST_IMAGES), labels(TEST_IMAGES)),
            Some(class_names),
        )
    }
}

/// The labels of a set of `count` images: all classes, repeated in order.
fn labels(count: usize) -> Vec<u32> {
    (0..MOTIFS.len() as u32).cycle().take(count).collect()
}

/// Draws images `first..first + count` of the endless sequence of demo images.
fn draw_set(first: usize, count: usize) -> ImageSet {
    let mut pixels = vec![0; count * SIDE * SIDE * 3];
    pixels
        .par_chunks_exact_mut(SIDE * SIDE * 3)
        .enumerate()
        .for_each(|(index, image)| {
            let mut random = ChaCha8Rng::seed_from_u64(SEED);
            random.set_stream((first + index) as u64);
            draw_image(MOTIFS[index % MOTIFS.len()].1, &mut random, image);
        });
    ImageSet {
        height: SIDE,
        width: SIDE,
        channels: 3,
        pixels,
    }
}

/// Draws one image: texture, lighting, clutter, noise.
fn draw_image(covers: Covers, random: &mut ChaCha8Rng, image: &mut [u8]) {
    let texture = Texture::draw(covers, random);
    let clutter: Vec<Blob> = (0..random.random_range(CLUTTER))
        .map(|_| Blob::draw(random))
        .collect();
    let (sine, cosine) = random.random_range(0.0..TAU).sin_cos();
    let lighting = random.random_range(0.0..LIGHTING);
    let lighting_step = [cosine, sine].map(|share| lighting * share / SIDE as f32);
    let noise = random.random_range(NOISE);

    for (index, pixel) in image.as_chunks_mut::<3>().0.iter_mut().enumerate() {
        let centre = [index % SIDE, index / SIDE].map(|place| place as f32 + 0.5);
        let mut colour = texture.colour_at(centre);
        for blob in &clutter {
            colour = blob.over(colour, centre);
        }
        let light = dot(lighting_step, centre.map(|place| place - SIDE as f32 / 2.0));
        for (value, component) in pixel.iter_mut().zip(colour) {
            let grain = noise * (random.random::<f32>() + random.random::<f32>() - 1.0);
            *value = (255.0 * (component + light + grain))
                .round()
                .clamp(0.0, 255.0) as u8;
        }
    }
}

/// A motif with its place, size and colours.
struct Texture {
    covers: Covers,
    /// Thins or thickens strokes by up to about a quarter.
    thicken: f32,
    /// The rows of the matrix from pixels to periods.
    axes: [[f32; 2]; 2],
    phase: [f32; 2],
    warp: [Wave; 2],
    covered: Colour,
    bare: Colour,
}

impl Texture {
    fn draw(covers: Covers, random: &mut ChaCha8Rng) -> Self {
        let period = random.random_range(PERIOD);
        let (sine, cosine) = random.random_range(0.0..TAU).sin_cos();
        let (covered, bare) = draw_colours(random);
        Self {
            covers,
            thicken: 1.0 + 0.25 * random.random_range(-1.0..1.0),
            axes: [
                [cosine / period, sine / period],
                [-sine / period, cosine / period],
            ],
            // The range is large against every motif's own period.
            phase: [0; 2].map(|_| random.random_range(0.0..60.0)),
            warp: [Wave::draw(random), Wave::draw(random)],
            covered,
            bare,
        }
    }

    /// The mean colour of the pixel around `centre`.
    fn colour_at(&self, centre: [f32; 2]) -> Colour {
        // The warp hardly changes within a pixel.
        let warp = self.warp.each_ref().map(|wave| wave.at(centre));
        let mut covered = 0;
        for sample in 0..SUPERSAMPLES * SUPERSAMPLES {
            let offset = [sample % SUPERSAMPLES, sample / SUPERSAMPLES]
                .map(|place| (place as f32 + 0.5) / SUPERSAMPLES as f32 - 0.5);
            let point = [centre[0] + offset[0], centre[1] + offset[1]];
            let [u, v] =
                [0, 1].map(|axis| dot(self.axes[axis], point) + self.phase[axis] + warp[axis]);
            covered += usize::from((self.covers)(u, v, self.thicken));
        }
        let share = covered as f32 / (SUPERSAMPLES * SUPERSAMPLES) as f32;
        mix(self.bare, self.covered, share)
    }
}

/// A sine wave across the image.
struct Wave {
    amplitude: f32,
    /// Radians per pixel along both axes.
    slope: [f32; 2],
    phase: f32,
}

impl Wave {
    fn draw(random: &mut ChaCha8Rng) -> Self {
        let (sine, cosine) = random.random_range(0.0..TAU).sin_cos();
        let rate = TAU / random.random_range(WARP_WAVELENGTH);
        Self {
            amplitude: random.random_range(WARP),
            slope: [rate * cosine, rate * sine],
            phase: random.random_range(0.0..TAU),
        }
    }

    fn at(&self, point: [f32; 2]) -> f32 {
        self.amplitude * (dot(self.slope, point) + self.phase).sin()
    }
}

/// A soft-edged disc of one colour.
struct Blob {
    centre: [f32; 2],
    radius: f32,
    colour: Colour,
}

impl Blob {
    fn draw(random: &mut ChaCha8Rng) -> Self {
        let side = SIDE as f32;
        Self {
            centre: [0; 2].map(|_| random.random_range(0.0..side)),
            radius: random.random_range(CLUTTER_RADIUS),
            colour: draw_colour(random.random_range(0.2..0.8), random),
        }
    }

    /// `behind`, with the blob in front of it.
    fn over(&self, behind: Colour, point: [f32; 2]) -> Colour {
        let distance = (point[0] - self.centre[0]).hypot(point[1] - self.centre[1]);
        mix(
            behind,
            self.colour,
            (self.radius - distance + 0.5).clamp(0.0, 1.0),
        )
    }
}

/// Two colours, either of which may be the lighter.
fn draw_colours(random: &mut ChaCha8Rng) -> (Colour, Colour) {
    let contrast = random.random_range(CONTRAST);
    let half = if random.random() { contrast } else { -contrast } / 2.0;
    let level = random.random_range(LEVEL);
    (
        draw_colour(level + half, random),
        draw_colour(level - half, random),
    )
}

/// A colour of the given luminance and any hue.
fn draw_colour(level: f32, random: &mut ChaCha8Rng) -> Colour {
    let hue = random.random_range(0.0..TAU);
    let chroma = random.random_range(CHROMA);
    let tint = [0.0, TAU / 3.0, 2.0 * TAU / 3.0].map(|primary| chroma * (hue - primary).cos());
    let shift = level - luminance(tint);
    tint.map(|component| component + shift)
}

fn mix(from: Colour, to: Colour, share: f32) -> Colour {
    std::array::from_fn(|i| from[i] + share * (to[i] - from[i]))
}

fn dot(a: [f32; 2], b: [f32; 2]) -> f32 {
    a[0] * b[0] + a[1] * b[1]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::testing::on_threads;

    #[test]
    fn the_set_is_the_same_whatever_the_number_of_threads() {
        let draw_with = |threads| on_threads(threads, || draw_set(0, 64));
        assert_eq!(draw_with(1), draw_with(3));
    }

    #[test]
    fn classes_are_balanced_and_the_halves_share_no_image() {
        let data = generate();
        assert_eq!(
            (data.train.len(), data.test.len()),
            (TRAIN_IMAGES, TEST_IMAGES)
        );
        let labels = data.labels.unwrap();
        for labels in [labels.train, labels.test] {
            let mut counts = [0_usize; 10];
            labels.iter().for_each(|&label| counts[label as usize] += 1);
            let (least, most) = (counts.iter().min(), counts.iter().max());
            assert!(most.unwrap() - least.unwrap() <= 1, "{counts:?}");
        }
        let train: std::collections::HashSet<&[u8]> =
            (0..data.train.len()).map(|i| data.train.image(i)).collect();
        assert_eq!(train.len(), TRAIN_IMAGES);
        assert!((0..data.test.len()).all(|i| !train.contains(data.test.image(i))));
    }

    #[test]
    fn the_two_colours_stay_apart_in_grey() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..200 {
            let (covered, bare) = draw_colours(&mut random);
            assert!((luminance(covered) - luminance(bare)).abs() >= CONTRAST.start - 1e-5);
        }
    }

    /// The nearest training image by cosine of raw pixels rarely has the same label.
    #[test]
    fn raw_pixels_say_little_about_the_label() {
        let (train, test) = (draw_set(0, 1000), draw_set(TRAIN_IMAGES, 200));
        let dot = |a: &[u8], b: &[u8]| -> f32 {
            let products = a.iter().zip(b).map(|(&a, &b)| f32::from(a) * f32::from(b));
            products.sum()
        };
        let norms: Vec<f32> = (0..train.len())
            .map(|j| dot(train.image(j), train.image(j)).sqrt())
            .collect();
        let right = (0..test.len())
            .into_par_iter()
            .filter(|&i| {
                let cosine = |j: usize| dot(train.image(j), test.image(i)) / norms[j];
                let nearest = (0..train.len()).max_by(|&a, &b| cosine(a).total_cmp(&cosine(b)));
                nearest.is_some_and(|j| j % MOTIFS.len() == i % MOTIFS.len())
            })
            .count();
        assert!(right < 50, "{right} of 200 right, chance is 20");
    }
}
