//! Errors of the trainer and of its checkpoints.

use std::path::PathBuf;

use burn::tensor::DataError;

use super::augment::AugmentError;

/// Why training could not start or go on. `argument` is the setting's name, `given` its value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A setting outside its range.
    #[error("`{argument}` is {given}; it must be {allowed}")]
    Argument {
        argument: &'static str,
        given: String,
        allowed: &'static str,
    },
    /// A loss that the method cannot train with.
    #[error("`loss` is {given}: {reason}; {method} takes {fits}")]
    UnfitLoss {
        given: String,
        reason: &'static str,
        method: &'static str,
        /// The keys of the losses that it can train with.
        fits: String,
    },
    /// A loss of labelled rows for images without labels.
    #[error("`loss` is {given}: its positives are images of one class, and these have no labels")]
    NoLabels { given: &'static str },
    /// A checkpoint that another run left.
    #[error("cannot resume from this checkpoint: {reason}")]
    Resume { reason: String },
    /// Fewer training images than one step takes.
    #[error("`batch` is {batch}, but there are only {images} training images")]
    TooFewImages { images: usize, batch: usize },
    /// The loss or a weight became infinite or not a number.
    #[error(
        "the loss is not finite at step {step}: {cause}; the last good checkpoint, after \
         {saved_step} steps, is {}",
        checkpoint.display()
    )]
    NotFinite {
        /// The step, counted from 1.
        step: u64,
        cause: String,
        /// Steps before the checkpoint that is kept.
        saved_step: u64,
        checkpoint: PathBuf,
    },
    /// A checkpoint could not be written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The augmentation does not fit.
    #[error(transparent)]
    Augment(#[from] AugmentError),
    /// The engine refused.
    #[error(transparent)]
    Loss(#[from] crate::Error),
    /// The framework returned a tensor of another type or other parameters than expected.
    #[error("unexpected tensor: {0}")]
    Tensor(String),
    /// The framework failed.
    #[error("the tensor framework failed: {0}")]
    Framework(String),
}

impl TrainError {
    /// The command's exit code: 1 for I/O, 2 for bad input, 3 for a loss that is not finite.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Argument { .. }
            | Self::UnfitLoss { .. }
            | Self::NoLabels { .. }
            | Self::Resume { .. }
            | Self::TooFewImages { .. }
            | Self::Augment(_) => 2,
            Self::NotFinite { .. } => 3,
            Self::Checkpoint(_) | Self::Loss(_) | Self::Tensor(_) | Self::Framework(_) => 1,
        }
    }
}

impl From<DataError> for TrainError {
    fn from(error: DataError) -> Self {
        Self::Tensor(error.to_string())
    }
}

/// Why a checkpoint could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The system refused.
    #[error("checkpoint {}: {source}", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    /// The file is not a checkpoint of this trainer, or a tensor is missing or has another shape.
    #[error("checkpoint {} is not usable: {reason}", path.display())]
    Content { path: PathBuf, reason: String },
}
