//! Why views cannot be drawn.

/// Why a batch of views could not be drawn.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AugmentError {
    /// A parameter outside its range.
    #[error("augmentation parameter {parameter} is {given}, allowed is {least} to {most}")]
    OutOfRange {
        /// Its name in the configuration file.
        parameter: &'static str,
        given: f32,
        least: f32,
        most: f32,
    },
    /// An image index beyond the set.
    #[error("image index {given} is outside a set of {images} images")]
    IndexOutOfRange { given: usize, images: usize },
}
