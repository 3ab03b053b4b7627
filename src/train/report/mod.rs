//! Draws the pictures of a finished run and writes its page, `report.html`.

pub mod html;
pub mod plots;
pub mod views;

use std::io::Cursor;

use image::{ImageFormat, RgbImage};

/// Why a picture could not be drawn.
#[derive(Debug, thiserror::Error)]
#[error("could not draw {picture}: {reason}")]
pub struct ReportError {
    pub picture: &'static str,
    pub reason: String,
}

/// The result of drawing, with the error of any library.
type Drawn<T> = Result<T, Box<dyn std::error::Error>>;

/// Adds the name of the picture to an error.
fn named<T>(picture: &'static str, drawn: Drawn<T>) -> Result<T, ReportError> {
    drawn.map_err(|error| ReportError {
        picture,
        reason: error.to_string(),
    })
}

/// An image as PNG.
fn png(image: &RgbImage) -> Drawn<Vec<u8>> {
    let mut encoded = Cursor::new(Vec::new());
    image.write_to(&mut encoded, ImageFormat::Png)?;
    Ok(encoded.into_inner())
}
