//! Decodes one image file to the pixels that a person sees: upright, on white, red, green and blue.
//! A file that is cut off or visibly damaged is an error.

use std::io::Cursor;

use flate2::Crc;
use image::error::{DecodingError, ImageError, ImageFormatHint};
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, Rgb, RgbImage};

use super::jpeg;

/// Bytes before the first chunk.
const SIGNATURE_OF_PNG: usize = 8;

/// Decodes an image by its contents, whatever the file's name; of an animation the first image.
pub(super) fn decode(bytes: &[u8]) -> Result<RgbImage, ImageError> {
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    let (mut image, orientation) = match reader.format() {
        Some(ImageFormat::Jpeg) => jpeg::decode(bytes)?,
        Some(ImageFormat::Png) if check_png(bytes).is_none() => {
            return Err(damaged(ImageFormat::Png, "a checksum is wrong"));
        }
        Some(ImageFormat::WebP) if !is_whole_webp(bytes) => {
            let reason = "the file is shorter than its header says";
            return Err(damaged(ImageFormat::WebP, reason));
        }
        _ => {
            let mut decoder = reader.into_decoder()?;
            // A header may ask for any size; an image within the library's default limits is
            // allocated.
            let mut limits = Limits::default();
            limits.reserve(decoder.total_bytes())?;
            decoder.set_limits(limits)?;
            let orientation = decoder.orientation()?;
            (DynamicImage::from_decoder(decoder)?, orientation)
        }
    };
    if image.width() == 0 || image.height() == 0 {
        return Err(ImageError::Decoding(DecodingError::new(
            ImageFormatHint::Unknown,
            "the image has no pixels",
        )));
    }
    image.apply_orientation(orientation);
    Ok(on_white(image))
}

/// `None` unless the checksum of every chunk up to the end of the image is right. The library skips
/// chunks that it can do without, so that damage to one could lose the transparency.
fn check_png(bytes: &[u8]) -> Option<()> {
    let mut rest = &bytes[SIGNATURE_OF_PNG..];
    loop {
        // The checksum covers the chunk's type, four letters, and its content.
        let (length, behind) = rest.split_first_chunk()?;
        let (chunk, behind) = behind.split_at_checked(u32::from_be_bytes(*length) as usize + 4)?;
        let (checksum, behind) = behind.split_first_chunk()?;
        let mut crc = Crc::new();
        crc.update(chunk);
        if crc.sum() != u32::from_be_bytes(*checksum) {
            return None;
        }
        if chunk.starts_with(b"IEND") {
            return Some(());
        }
        rest = behind;
    }
}

/// Whether the file is as long as its header says. The decoder of a lossy image reads zeros where
/// bytes are missing.
fn is_whole_webp(bytes: &[u8]) -> bool {
    let announced = bytes[4..]
        .first_chunk()
        .map(|size| 8 + u64::from(u32::from_le_bytes(*size)));
    announced.is_some_and(|announced| announced <= bytes.len() as u64)
}

fn damaged(format: ImageFormat, reason: &str) -> ImageError {
    ImageError::Decoding(DecodingError::new(ImageFormatHint::Exact(format), reason))
}

/// Lays transparency over white: `c·a + 255·(1 - a)` for `a` in 0 to 1, rounded.
fn on_white(image: DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let image = image.into_rgba8();
    RgbImage::from_fn(image.width(), image.height(), |x, y| {
        let [red, green, blue, alpha] = image.get_pixel(x, y).0.map(u32::from);
        Rgb([red, green, blue]
            .map(|value| ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8))
    })
}
