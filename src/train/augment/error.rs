//! Why views cannot be drawn.

/// Why a batch of views could not be drawn.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AugmentError {
    /// A parameter outside its range.
    #[error("augmentation parameter {parameter} is {given}, allowed is {least} to {most}")]
    OutOfRange {
        /// Its name in the configuration file.
        parameter: &'static str,
        /// What was given.
        given: f32,
        /// The least allowed value.
        least: f32,
        /// The largest allowed value.
        most: f32,
    },
    /// An image index beyond the set.
    #[error("image index {given} is outside a set of {images} images")]
    IndexOutOfRange {
        /// What was given.
        given: usize,
        /// The number of images.
        images: usize,
    },
    /// An output of the wrong length.
    #[error("out holds {given} values, expected {expected} (indices x channels x height x width)")]
    OutputLength {
        /// Length of `out`.
        given: usize,
        /// Length needed.
        expected: usize,
    },
}
