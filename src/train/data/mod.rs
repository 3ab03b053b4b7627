//! Image sets and where they come from: the built-in demo set, folders of images, MNIST's IDX files,
//! CIFAR's binary files, or arrays of NumPy's.
//!
//! Every loader ends in the same two [`ImageSet`]s (training and held-out), so that nothing
//! after this module knows a file format. Labels are used by the evaluation only.

mod cifar;
mod demo;
mod error;
mod folder;
mod idx;
mod motif;
mod npy;
mod source;

pub use error::DataError;
pub use source::{DataSource, ParseDataSourceError};

use std::io::ErrorKind;
use std::path::Path;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::train::augment::AugmentConfig;

/// The share that is held out where files have no division of their own: one in five.
const HELD_OUT: usize = 5;

/// Images of one size.
///
/// `pixels` holds `len() · height · width · channels` bytes in the order image, row, column,
/// channel (NHWC); a byte of 255 is full intensity. `channels` is 1 (grey) or 3 (red, green,
/// blue).
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
}

impl ImageSet {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.pixels.len().checked_div(self.image_len()).unwrap_or(0)
    }

    /// Whether the set holds no image.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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

/// What the images of a data set show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels {
    /// The name of each class, by label.
    pub class_names: Vec<String>,
    /// One class index per training image.
    pub train: Vec<u32>,
    /// One class index per held-out image.
    pub test: Vec<u32>,
}

/// A training set, a held-out set, and how views of their images are drawn unless told otherwise.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// Images to train on.
    pub train: ImageSet,
    /// Images held out for evaluation: the same height, width and channels as `train`.
    pub test: ImageSet,
    /// What they show: at least two classes; `None` where that is not known.
    pub labels: Option<Labels>,
    /// The augmentation preset that suits this kind of image.
    pub augment: AugmentConfig,
    /// What was passed over or is odd about the files, a sentence each without its full stop.
    pub notes: Vec<String>,
}

/// How a data set is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Decides one thing only: which images are held out where the files have no division of
    /// their own. The demo set is the same for every seed.
    pub seed: u64,
    /// Image files of a folder that cannot be read or decoded are left out and counted, in place
    /// of an error.
    pub skip_unreadable: bool,
}

/// Reads (or draws) the data set that `source` names.
///
/// Labels that tell nothing apart, because all images have the same, are dropped with a note.
///
/// # Errors
/// [`DataError`]; [`DataError::is_io`] tells a failing disk or missing permission from input that
/// is not what it should be.
pub fn load(source: &DataSource, options: LoadOptions) -> Result<Dataset, DataError> {
    let mut dataset = match source {
        DataSource::Demo => Ok(demo::generate()),
        DataSource::Folder(directory) => folder::load(directory, options),
        DataSource::Idx(directory) => idx::load(directory),
        DataSource::Cifar10(directory) => cifar::load(directory, &cifar::CIFAR10),
        DataSource::Cifar100(directory) => cifar::load(directory, &cifar::CIFAR100),
        DataSource::Cifar100Coarse(directory) => cifar::load(directory, &cifar::CIFAR100_COARSE),
        DataSource::Npy { images, labels } => npy::load(images, labels.as_deref(), options.seed),
    }?;
    if let Some(labels) = &dataset.labels
        && let Some(first) = labels.train.first()
        && labels
            .train
            .iter()
            .chain(&labels.test)
            .all(|label| label == first)
    {
        let name = labels
            .class_names
            .get(*first as usize)
            .cloned()
            .unwrap_or_default();
        dataset.notes.push(format!(
            "all images are of one class, {name:?}, so that labels tell nothing apart"
        ));
        dataset.labels = None;
    }
    Ok(dataset)
}

/// Which of the `count` images of one class are held out where files have no division of their own:
/// one in [`HELD_OUT`] by a shuffle that follows from seed and class, at least one, but never the
/// only one.
fn held_out(count: usize, class: usize, seed: u64) -> Vec<bool> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(class as u64);
    let mut order: Vec<usize> = (0..count).collect();
    order.shuffle(&mut random);
    order.truncate((count / HELD_OUT).max(1).min(count.saturating_sub(1)));
    let mut held_out = vec![false; count];
    order.into_iter().for_each(|image| held_out[image] = true);
    held_out
}

/// The preset for small images that come as arrays.
fn augment_of_arrays(images: &ImageSet) -> AugmentConfig {
    if images.channels == 1 {
        AugmentConfig::grey()
    } else {
        AugmentConfig::cifar10()
    }
}

/// Checks that held-out images, read from `path`, are of the size of the training images.
fn require_same_shape(train: &ImageSet, test: &ImageSet, path: &Path) -> Result<(), DataError> {
    let shape = |set: &ImageSet| format!("{}x{}x{}", set.height, set.width, set.channels);
    if shape(train) == shape(test) {
        return Ok(());
    }
    Err(DataError::ShapeMismatch {
        path: path.to_path_buf(),
        test: shape(test),
        train: shape(train),
    })
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
        };
        assert_eq!(set.len(), 2);
        assert_eq!(set.image(1), &[6, 7, 8, 9, 10, 11]);
    }

    #[test]
    fn one_image_in_five_is_held_out_but_never_the_only_one() {
        for (count, expected) in [(0, 0), (1, 0), (2, 1), (9, 1), (10, 2), (1000, 200)] {
            let chosen = held_out(count, 3, 7);
            let found = chosen.iter().filter(|&&held_out| held_out).count();
            assert_eq!((chosen.len(), found), (count, expected));
            assert_eq!(chosen, held_out(count, 3, 7));
        }
        assert_ne!(held_out(100, 0, 7), held_out(100, 0, 8));
        assert_ne!(held_out(100, 0, 7), held_out(100, 1, 7));
    }

    #[test]
    fn a_missing_directory_is_bad_input_and_not_a_failure_of_the_disk() {
        let directory = tempfile::tempdir().unwrap();
        let nowhere = directory.path().join("nowhere");
        for source in [
            DataSource::Idx(nowhere.clone()),
            DataSource::Cifar10(nowhere.clone()),
            DataSource::Cifar100(nowhere.clone()),
            DataSource::Npy {
                images: nowhere.clone(),
                labels: None,
            },
            DataSource::Folder(nowhere.clone()),
        ] {
            let error = load(&source, LoadOptions::default()).unwrap_err();
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
