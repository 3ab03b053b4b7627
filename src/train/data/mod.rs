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

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

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
        && let Some(&first) = labels.train.first()
        && labels
            .train
            .iter()
            .chain(&labels.test)
            .all(|&label| label == first)
    {
        dataset.notes.push(format!(
            "all images are of one class, {:?}, so that labels tell nothing apart",
            labels.class_names[first as usize]
        ));
        dataset.labels = None;
    }
    Ok(dataset)
}

/// Images, each with its class.
type Classed<Image> = Vec<(Image, u32)>;

/// Images to train on and held-out images, where files have no division of their own:
/// of each class one in [`HELD_OUT`] is held out by a shuffle that follows from seed and class, at
/// least one, but never the only one. Both halves keep their order.
fn divide<Image>(images: Classed<Image>, seed: u64) -> (Classed<Image>, Classed<Image>) {
    let mut classes: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (place, (_, class)) in images.iter().enumerate() {
        classes.entry(*class).or_default().push(place);
    }
    let mut kept = vec![true; images.len()];
    for (class, mut places) in classes {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(class.into());
        places.shuffle(&mut random);
        places.truncate((places.len() / HELD_OUT).max(1).min(places.len() - 1));
        places.into_iter().for_each(|place| kept[place] = false);
    }
    let mut kept = kept.into_iter();
    images.into_iter().partition(|_| kept.next() == Some(true))
}

/// A data set of training and held-out images with their labels, which count where classes have
/// names; augmented as suits small images that come as arrays.
fn dataset(
    (train, train_labels): (ImageSet, Vec<u32>),
    (test, test_labels): (ImageSet, Vec<u32>),
    class_names: Option<Vec<String>>,
) -> Dataset {
    Dataset {
        augment: match train.channels {
            1 => AugmentConfig::grey(),
            _ => AugmentConfig::cifar10(),
        },
        train,
        test,
        labels: class_names.map(|class_names| Labels {
            class_names,
            train: train_labels,
            test: test_labels,
        }),
        notes: Vec::new(),
    }
}

/// The images in an array of bytes, `[images, height, width]` or `[images, height, width, channels]`,
/// with at least one pixel and 1 or 3 channels; `None` where its shape is another.
fn images_of_array(shape: &[usize], pixels: Vec<u8>) -> Option<ImageSet> {
    let (height, width, channels) = match *shape {
        [_, height @ (1..), width @ (1..)] => (height, width, 1),
        [_, height @ (1..), width @ (1..), channels @ (1 | 3)] => (height, width, channels),
        _ => return None,
    };
    Some(ImageSet {
        height,
        width,
        channels,
        pixels,
    })
}

/// Checks that `images`, read from `path`, have as many labels, read from `labels_path`.
fn require_labels(
    images: &ImageSet,
    path: &Path,
    labels: usize,
    labels_path: &Path,
) -> Result<(), DataError> {
    if images.len() == labels {
        return Ok(());
    }
    Err(DataError::CountMismatch {
        images_path: path.to_path_buf(),
        images: images.len(),
        labels_path: labels_path.to_path_buf(),
        labels,
    })
}

/// Checks that held-out images, read from `path`, are of the size of the training images.
fn require_same_shape(train: &ImageSet, test: &ImageSet, path: &Path) -> Result<(), DataError> {
    let shape = |set: &ImageSet| format!("{}x{}x{}", set.height, set.width, set.channels);
    if shape(train) == shape(test) {
        return Ok(());
    }
    let found = format!("has images of {}", shape(test));
    let allowed = format!("but the training images are {}", shape(train));
    Err(DataError::unfit(path, found, allowed))
}

/// The first of the files `names` in `directory` that is there; `wanted` tells what they are.
fn locate(
    directory: &Path,
    names: &[impl AsRef<Path>],
    wanted: &str,
) -> Result<PathBuf, DataError> {
    let mut paths = names.iter().map(|name| directory.join(name));
    let found = paths.find(|path| path.is_file());
    found.ok_or_else(|| missing(&directory.join(&names[0]), wanted))
}

/// Reads a whole file that the user named, directly or by naming its directory.
fn read_file(path: &Path) -> Result<Vec<u8>, DataError> {
    std::fs::read(path).map_err(|source| access_error(path, "a file", source))
}

/// Checks that `path` is a directory that can be looked into.
fn require_directory(path: &Path) -> Result<(), DataError> {
    let wanted = "a directory";
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(missing(path, wanted)),
        Err(source) => Err(access_error(path, wanted, source)),
    }
}

/// Sorts a failure to open or read `path` into bad input (it is not there) or I/O.
fn access_error(path: &Path, wanted: &str, source: std::io::Error) -> DataError {
    match source.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory => {
            missing(path, wanted)
        }
        _ => DataError::Io {
            path: path.to_path_buf(),
            source,
        },
    }
}

fn missing(path: &Path, wanted: &str) -> DataError {
    DataError::Missing {
        path: path.to_path_buf(),
        wanted: wanted.to_owned(),
    }
}

#[cfg(test)]
mod tests;
