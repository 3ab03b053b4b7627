//! The pictures and the page that a run ends with.

pub mod html;
pub mod plots;
pub mod views;

/// Why a picture could not be drawn.
#[derive(Debug, thiserror::Error)]
#[error("could not draw {picture}: {reason}")]
pub struct ReportError {
    /// The picture.
    pub picture: &'static str,
    /// What the drawing library said.
    pub reason: String,
}
