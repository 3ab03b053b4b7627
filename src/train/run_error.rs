//! The errors of `infonce train`, and their exit codes.

use std::io::ErrorKind;
use std::path::PathBuf;

use super::config::ConfigError;
use super::data::DataError;
use super::error::{CheckpointError, TrainError};
use super::interrupt;
use super::report::ReportError;
use super::run_folder::RunFolderError;

/// Why the command ends with another exit code than 0.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The images.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The engine that was asked for is unavailable.
    #[error("{0}")]
    Engine(crate::Error),
    /// The run folder.
    #[error(transparent)]
    Folder(#[from] RunFolderError),
    /// Training itself.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The checkpoint to resume from.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A picture.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// The evaluation was given matrices that do not fit.
    #[error("evaluation: {0}")]
    Evaluation(#[from] crate::Error),
    /// The configuration cannot be written as TOML.
    #[error("could not write the configuration: {0}")]
    WriteConfig(#[from] toml::ser::Error),
    /// The system refuses a handler for Ctrl-C.
    #[error("could not catch Ctrl-C: {0}")]
    Signal(#[from] ctrlc::Error),
    /// Ctrl-C.
    #[error("interrupted; the checkpoint is {}", checkpoint.display())]
    Interrupted { checkpoint: PathBuf },
    /// `--require-improvement` for images without labels.
    #[error(
        "--require-improvement compares accuracies, and the images of {data} have no labels{}{notes}",
        if notes.is_empty() { "" } else { ": " }
    )]
    NoLabels {
        data: String,
        /// Notes of the data set, which may tell why.
        notes: String,
    },
    /// `--require-improvement` that is not finite.
    #[error("`--require-improvement` is {required}; it must be finite")]
    RequiredPoints { required: f64 },
    /// `--require-improvement` was not reached.
    #[error(
        "held-out kNN is {found:+.1} points above the better baseline; \
         --require-improvement asks for {required}"
    )]
    NotImproved { required: f64, found: f64 },
}

impl RunError {
    /// 1 for I/O, 2 for bad input, 3 for a loss that is not finite, 4 for too little improvement,
    /// 130 for Ctrl-C.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(ConfigError::Unreadable { source, .. }) => match source.kind() {
                ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory => 2,
                _ => 1,
            },
            Self::Config(_) => 2,
            Self::Data(error) if error.is_io() => 1,
            Self::Data(_)
            | Self::Engine(_)
            | Self::NoLabels { .. }
            | Self::RequiredPoints { .. } => 2,
            Self::Folder(RunFolderError::Io { .. }) => 1,
            Self::Folder(_) => 2,
            Self::Checkpoint(CheckpointError::Content { .. }) => 2,
            Self::Checkpoint(CheckpointError::Io { source, .. }) => match source.kind() {
                ErrorKind::NotFound | ErrorKind::IsADirectory => 2,
                _ => 1,
            },
            Self::Train(error) => error.exit_code(),
            Self::Report(_) | Self::Evaluation(_) | Self::WriteConfig(_) | Self::Signal(_) => 1,
            Self::NotImproved { .. } => 4,
            Self::Interrupted { .. } => interrupt::EXIT_CODE,
        }
    }
}
