//! Draws a strip of training images with two random views of each, which shows whether the
//! augmentation suits the images.

use image::{Rgb, RgbImage, imageops};

use super::{Drawn, ReportError, named, png};
use crate::train::augment::{AugmentConfig, ViewKey, augment_batch, to_float};
use crate::train::evaluate::strided;
use crate::train::image_set::ImageSet;

/// Maximum number of images shown.
const COLUMNS: usize = 16;
/// White pixels between images.
const GAP: usize = 2;
/// Rows of the strip: the images and two views of each.
const ROWS: usize = 3;

/// Draws the strip; PNG at the images' own resolution.
///
/// # Errors
/// [`ReportError`].
pub fn strip(set: &ImageSet, augment: &AugmentConfig, seed: u64) -> Result<Vec<u8>, ReportError> {
    named("the views", draw(set, augment, seed))
}

fn draw(set: &ImageSet, augment: &AugmentConfig, seed: u64) -> Drawn<Vec<u8>> {
    let chosen = strided(set.len(), COLUMNS);
    let step = 0;
    let view = |view| augment_batch(augment, set, &chosen, ViewKey { seed, step, view });
    let rows: [Vec<f32>; ROWS] = [to_float(set, &chosen)?, view(0)?, view(1)?];

    let (width, height) = (set.width + GAP, set.height + GAP);
    let (all_width, all_height) = (chosen.len() * width - GAP, ROWS * height - GAP);
    let white = Rgb([255; 3]);
    let mut strip = RgbImage::from_pixel(all_width as u32, all_height as u32, white);
    for (row, images) in rows.iter().enumerate() {
        for (column, image) in images.chunks_exact(set.image_len()).enumerate() {
            let picture = RgbImage::from_fn(set.width as u32, set.height as u32, |x, y| {
                Rgb([0, 1, 2].map(|channel| {
                    let plane = channel.min(set.channels - 1) * set.height * set.width;
                    let value = image[plane + y as usize * set.width + x as usize];
                    // Views are in [−1, 1].
                    ((value + 1.0) * 127.5).round() as u8
                }))
            });
            let (x, y) = ((column * width) as i64, (row * height) as i64);
            imageops::replace(&mut strip, &picture, x, y);
        }
    }
    png(&strip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_augmentation_all_three_rows_show_the_images() {
        let set = ImageSet {
            height: 2,
            width: 3,
            channels: 1,
            pixels: (0..12).map(|value| value * 20).collect(),
        };
        let encoded = strip(&set, &AugmentConfig::default(), 1).unwrap();
        let decoded = image::load_from_memory(&encoded).unwrap().to_rgb8();
        assert_eq!(decoded.dimensions(), (8, 10));
        for row in 0..3 {
            assert_eq!(decoded.get_pixel(0, 4 * row).0, [0; 3]);
            assert_eq!(decoded.get_pixel(7, 4 * row + 1).0, [220; 3]);
        }
        assert_eq!(decoded.get_pixel(3, 0).0, [255; 3]);
    }
}
