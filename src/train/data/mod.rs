//! Labelled image sets and where they come from: the built-in demo set, MNIST's IDX files,
//! CIFAR-10's binary batches, or a folder of images per class.
//!
//! Every loader ends in the same two [`ImageSet`]s (training and held-out), so that nothing
//! after this module knows a file format. Labels are used by the evaluation only.

mod cifar10;
mod demo;
mod error;
mod folder;
mod idx;
mod motif;
mod source;

pub use error::DataError;
pub use source::{DataSource, ParseDataSourceError};

use std::io::ErrorKind;
use std::path::Path;

use crate::train::augment::AugmentConfig;

/// Images of one size with one label each.
///
/// `pixels` holds `len() · height · width · channels` bytes in the order image, row, column,
/// channel (NHWC); a byte of 255 is full intensity. `channels` is 1 (grey) or 3 (red, green,
/// blue). `labels[i]` indexes [`Dataset::class_names`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSet {
    /// Rows per image, in pixels.
    pub height: usize,
    /// Columns per image, in pixels.
    pub width: usize,
    /// Values per pixel: 1 or 3.
    pub channels: usize,
    /// NHWC, u8.
    pub pixels: Vec<u8>,
    /// One class index per image.
    pub labels: Vec<u32>,
}

impl ImageSet {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether the set holds no image.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Values of one image: `height · width · channels`.
    pub fn image_len(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// The pixels of image `index`, `[height, width, channels]`.
    ///
    /// # Panics
    /// If `index >= len()`, like any slice.
    pub fn image(&self, index: usize) -> &[u8] {
        let length = self.image_len();
        &self.pixels[index * length..(index + 1) * length]
    }
}

/// A training set, a held-out set, and how views of their images are drawn unless told otherwise.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// The source it was read from, as the user wrote it.
    pub name: String,
    /// The name of each class, by label.
    pub class_names: Vec<String>,
    /// Images to train on.
    pub train: ImageSet,
    /// Images held out for evaluation: the same height, width and channels as `train`.
    pub test: ImageSet,
    /// The augmentation preset that suits this kind of image.
    pub augment: AugmentConfig,
}

/// Reads (or draws) the data set that `source` names.
///
/// `seed` decides one thing only: which images of each class are held out when a folder has no
/// `train`/`test` division of its own. The demo set is the same for every seed.
///
/// # Errors
/// [`DataError`]; [`DataError::is_io`] tells a failing disk or missing permission from input that
/// is not what it should be.
pub fn load(source: &DataSource, seed: u64) -> Result<Dataset, DataError> {
    match source {
        DataSource::Demo => Ok(demo::generate()),
        DataSource::Idx(directory) => idx::load(directory),
        DataSource::Cifar10(directory) => cifar10::load(directory),
        DataSource::Folder(directory) => folder::load(directory, seed),
    }
}

/// Reads a whole file that the user named, directly or by naming its directory.
fn read_file(path: &Path) -> Result<Vec<u8>, DataError> {
    std::fs::read(path).map_err(|source| access_error(path, source))
}

/// Sorts a failure to open or read `path` into bad input (there is no such file) or I/O.
fn access_error(path: &Path, source: std::io::Error) -> DataError {
    match source.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory => {
            DataError::Missing {
                path: path.to_path_buf(),
                wanted: "a file".to_owned(),
            }
        }
        _ => DataError::Io {
            path: path.to_path_buf(),
            source,
        },
    }
}

/// Checks that `path` is a directory that can be looked into.
fn require_directory(path: &Path) -> Result<(), DataError> {
    let missing = || DataError::Missing {
        path: path.to_path_buf(),
        wanted: "a directory".to_owned(),
    };
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(missing()),
        Err(source) => match source.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => Err(missing()),
            _ => Err(DataError::Io {
                path: path.to_path_buf(),
                source,
            }),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_lie_one_after_the_other() {
        let set = ImageSet {
            height: 1,
            width: 2,
            channels: 3,
            pixels: (0..12).collect(),
            labels: vec![0, 1],
        };
        assert_eq!(set.len(), 2);
        assert_eq!(set.image(1), &[6, 7, 8, 9, 10, 11]);
    }

    #[test]
    fn a_missing_directory_is_bad_input_and_not_a_failure_of_the_disk() {
        let directory = tempfile::tempdir().unwrap();
        let nowhere = directory.path().join("nowhere");
        for source in [
            DataSource::Idx(nowhere.clone()),
            DataSource::Cifar10(nowhere.clone()),
            DataSource::Folder(nowhere.clone()),
        ] {
            let error = load(&source, 0).unwrap_err();
            assert!(matches!(error, DataError::Missing { .. }), "{error}");
            assert!(!error.is_io());
            assert!(error.to_string().contains("nowhere"), "{error}");
        }
    }

    #[test]
    fn a_read_that_the_system_refuses_is_a_failure_of_input_and_output() {
        let refused = std::io::Error::from(ErrorKind::PermissionDenied);
        let error = access_error(Path::new("images"), refused);
        assert!(error.is_io());
        assert!(error.to_string().contains("images"));
    }
}
