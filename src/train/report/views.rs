//! A strip of training images with two random views of each, so that a reader sees at a glance
//! whether the augmentation suits the images.

use image::ExtendedColorType;

use super::ReportError;
use super::plots::png;
use crate::train::augment::{AugmentConfig, ViewKey, augment_batch, to_float};
use crate::train::data::ImageSet;
use crate::train::evaluate::strided;

/// Images shown at most.
const COLUMNS: usize = 16;
/// White pixels between images.
const GAP: usize = 2;
/// Rows: the image and two views.
const ROWS: usize = 3;

/// Draws the strip; PNG at the images' own resolution.
///
/// # Errors
/// [`ReportError`].
pub fn strip(set: &ImageSet, augment: &AugmentConfig, seed: u64) -> Result<Vec<u8>, ReportError> {
    let failed = |reason: String| ReportError {
        picture: "the views",
        reason,
    };
    let chosen = strided(set.len(), COLUMNS);
    let mut rows = vec![vec![0.0f32; chosen.len() * set.image_len()]; ROWS];
    to_float(set, &chosen, &mut rows[0]).map_err(|error| failed(error.to_string()))?;
    for (view, row) in rows[1..].iter_mut().enumerate() {
        let key = ViewKey {
            seed,
            step: 0,
            view: view as u64,
        };
        augment_batch(augment, set, &chosen, key, row)
            .map_err(|error| failed(error.to_string()))?;
    }

    let width = chosen.len() * (set.width + GAP) - GAP;
    let height = ROWS * (set.height + GAP) - GAP;
    let mut pixels = vec![255u8; 3 * width * height];
    for (row, images) in rows.iter().enumerate() {
        for (column, image) in images.chunks_exact(set.image_len()).enumerate() {
            for y in 0..set.height {
                for x in 0..set.width {
                    let place =
                        (row * (set.height + GAP) + y) * width + column * (set.width + GAP) + x;
                    for channel in 0..3 {
                        let plane = channel.min(set.channels - 1) * set.height * set.width;
                        let value = image[plane + y * set.width + x];
                        // Views are in [−1, 1].
                        pixels[3 * place + channel] = ((value + 1.0) * 127.5).round() as u8;
                    }
                }
            }
        }
    }
    png(
        &pixels,
        (width as u32, height as u32),
        ExtendedColorType::Rgb8,
    )
    .map_err(|error| failed(error.to_string()))
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
