//! Decodes JPEG files strictly: a file that is cut off or damaged is an error, not an image with a grey area.
//!
//! zune-jpeg's strict mode refuses codes that do not exist. But it completes a stream that ends too
//! early with zeros, which are codes. [`sealed`] therefore looks for the end of the image, and puts
//! a code that does not exist behind every stream.

use image::error::{DecodingError, ImageError, ImageFormatHint};
use image::metadata::Orientation;
use image::{DynamicImage, ImageFormat, Limits, RgbImage};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

/// Start of frame: sequential with Huffman codes (baseline and extended), and progressive.
const SEQUENTIAL: std::ops::RangeInclusive<u8> = 0xc0..=0xc1;
const PROGRESSIVE: u8 = 0xc2;
const END_OF_IMAGE: u8 = 0xd9;
const START_OF_SCAN: u8 = 0xda;
/// 48 ones, each byte followed by the zero that distinguishes it from a marker. No Huffman code of
/// JPEG consists of ones only, so that the decoder stops there.
const ONES: [u8; 12] = [0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0];

/// The image in red, green and blue, and its orientation.
pub(super) fn decode(bytes: &[u8]) -> Result<(DynamicImage, Orientation), ImageError> {
    let sealed = sealed(bytes).ok_or_else(|| damaged("the file ends before the image does"))?;
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(&sealed), options);
    decoder.decode_headers().map_err(damaged)?;
    let (width, height) = decoder.dimensions().unwrap_or_default();
    Limits::default().reserve(width as u64 * height as u64 * 3)?;
    let pixels = decoder.decode().map_err(damaged)?;
    let orientation = decoder
        .exif()
        .and_then(|exif| Orientation::from_exif_chunk(exif))
        .unwrap_or(Orientation::NoTransforms);
    let image = RgbImage::from_raw(width as u32, height as u32, pixels)
        .ok_or_else(|| damaged("the pixels do not fill the image"))?;
    Ok((DynamicImage::ImageRgb8(image), orientation))
}

fn damaged(reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ImageError {
    ImageError::Decoding(DecodingError::new(
        ImageFormatHint::Exact(ImageFormat::Jpeg),
        reason,
    ))
}

/// The file up to its end-of-image marker (cameras put more behind it), with [`ONES`] after each
/// run of entropy-coded data; `None` without the marker or without all scans of the image. The
/// decoder skips the ones behind a complete stream.
///
/// Two places get no ones, because zune-jpeg looks there for a marker within the bits that it has
/// already read: after the first scan of a progressive image, and after a scan of some of a
/// sequential image's components.
fn sealed(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes.len() + ONES.len());
    let mut rest = bytes;
    let (mut components, mut progressive, mut scans) = (Vec::new(), false, 0);
    // For each component's identifier the set of coefficients that have all their bits.
    let mut arrived = [0_u64; 256];
    let mut sealable = false;
    loop {
        let (before, marker, after) = next_marker(rest)?;
        out.extend_from_slice(before);
        if sealable {
            out.extend_from_slice(&ONES);
        }
        out.extend_from_slice(&[0xff, marker]);
        rest = after;
        match marker {
            END_OF_IMAGE => {
                let complete = |&component: &u8| arrived[usize::from(component)] == u64::MAX;
                return components.iter().all(complete).then_some(out);
            }
            // Markers without a segment: restarts within a scan, start of image, TEM.
            0xd0..=0xd8 | 0x01 => continue,
            _ => {}
        }
        let length = usize::from(u16::from_be_bytes(*rest.first_chunk()?));
        let (segment, behind) = rest.split_at_checked(length)?;
        out.extend_from_slice(segment);
        rest = behind;
        sealable = false;
        if marker == START_OF_SCAN {
            scans += 1;
            let count = usize::from(*segment.get(2)?);
            let (selected, range) = segment[3..].split_at_checked(2 * count)?;
            let &[first, last, approximation] = range.first_chunk()?;
            let coefficients = match progressive {
                false => u64::MAX,
                // The lower half of the byte counts bits that later scans bring.
                true if approximation & 15 > 0 => 0,
                true => (first..=last.min(63)).fold(0, |set, index| set | 1 << index),
            };
            for component in selected.chunks_exact(2) {
                arrived[usize::from(component[0])] |= coefficients;
            }
            sealable = match progressive {
                false => count == components.len(),
                true => scans > 1,
            };
        } else if marker == PROGRESSIVE || SEQUENTIAL.contains(&marker) {
            progressive = marker == PROGRESSIVE;
            components = segment.get(8..)?.chunks_exact(3).map(|of| of[0]).collect();
        }
    }
}

/// The bytes before the next marker, the marker, and the bytes after it.
fn next_marker(bytes: &[u8]) -> Option<(&[u8], u8, &[u8])> {
    let mut at = 0;
    loop {
        at += bytes[at..].iter().position(|&byte| byte == 0xff)?;
        let code = at + bytes[at..].iter().position(|&byte| byte != 0xff)?;
        match bytes[code] {
            // A byte of 255 within entropy-coded data.
            0 => at = code + 1,
            marker => return Some((&bytes[..at], marker, &bytes[code + 1..])),
        }
    }
}
