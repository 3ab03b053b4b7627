//! Errors of reading images, sorted into bad input and failing I/O.

use std::fmt::Display;
use std::path::{Path, PathBuf};

/// Advice where one file of many is broken.
const SKIP: &str = "--skip-unreadable leaves such files out";

/// Why a data set could not be read. Each message names the file, what was found and what is
/// allowed.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The operating system refused or failed to read something that exists.
    #[error("could not read {}: {source}", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    /// A file or directory that the source needs is not there.
    #[error("{} is missing: expected {wanted}", path.display())]
    Missing { path: PathBuf, wanted: String },
    /// What was found is not what the format, the other half of the set or this crate allows.
    #[error("{} {found}, {allowed}", path.display())]
    Unfit {
        path: PathBuf,
        /// What was found, such as "holds 27 bytes".
        found: String,
        /// What is allowed, such as "expected 28".
        allowed: String,
    },
    /// The contents contradict themselves.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged { path: PathBuf, reason: String },
    /// The system refused or failed to read an image file.
    #[error("could not read {}: {source} ({SKIP})", path.display())]
    UnreadableImage {
        path: PathBuf,
        source: std::io::Error,
    },
    /// An image file that does not decode.
    #[error("{} cannot be decoded as an image: {source} ({SKIP})", path.display())]
    Undecodable {
        path: PathBuf,
        source: image::ImageError,
    },
}

impl DataError {
    pub(super) fn unfit(path: &Path, found: String, allowed: String) -> Self {
        Self::Unfit {
            path: path.to_path_buf(),
            found,
            allowed,
        }
    }

    pub(super) fn empty(path: &Path) -> Self {
        Self::unfit(
            path,
            "holds no images".into(),
            "expected at least one".into(),
        )
    }

    /// A file of `bytes`, where the format asks for `expected`.
    pub(super) fn wrong_length(path: &Path, bytes: usize, expected: impl Display) -> Self {
        let found = format!("holds {bytes} bytes");
        Self::unfit(path, found, format!("expected {expected}"))
    }

    /// A file whose first four bytes are not those of the format.
    pub(super) fn wrong_magic(path: &Path, magic: [u8; 4], expected: impl Display) -> Self {
        let found = format!("begins with 0x{:08x}", u32::from_be_bytes(magic));
        Self::unfit(path, found, format!("expected {expected}"))
    }

    /// Whether the system failed (a disk, a permission), and not the input.
    pub fn is_io(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::UnreadableImage { .. })
    }
}
