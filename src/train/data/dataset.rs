//! A data set: two image sets, their labels, and the checks that hold between them.

use std::path::Path;

use super::error::DataError;
use crate::train::augment::AugmentConfig;
use crate::train::image_set::ImageSet;

/// The classes of the images of a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels {
    /// The name of each class, by label.
    pub class_names: Vec<String>,
    /// One class index per training image.
    pub train: Vec<u32>,
    /// One class index per held-out image.
    pub test: Vec<u32>,
}

/// A training set, a held-out set, and the augmentation that suits them.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// Images to train on.
    pub train: ImageSet,
    /// Images held out for evaluation: the same height, width and channels as `train`.
    pub test: ImageSet,
    /// At least two classes; `None` where they are not known.
    pub labels: Option<Labels>,
    /// The augmentation preset that suits this kind of image.
    pub augment: AugmentConfig,
    /// What was skipped or is odd about the files, each a sentence without its full stop.
    pub notes: Vec<String>,
}

/// A data set of small images that come as arrays, with the preset that suits those. Without class
/// names it has no labels.
pub(super) fn dataset(
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

/// The images of an array of bytes, `[images, height, width]` or `[images, height, width,
/// channels]`, with at least one pixel and 1 or 3 channels; `None` for another shape.
pub(super) fn images_of_array(shape: &[usize], pixels: Vec<u8>) -> Option<ImageSet> {
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
pub(super) fn require_labels(
    images: &ImageSet,
    path: &Path,
    labels: usize,
    labels_path: &Path,
) -> Result<(), DataError> {
    if images.len() == labels {
        return Ok(());
    }
    let found = format!("holds {} images", images.len());
    let allowed = format!("but {} holds {labels} labels", labels_path.display());
    Err(DataError::unfit(path, found, allowed))
}

/// Checks that held-out images, read from `path`, have the size of the training images.
pub(super) fn require_same_shape(
    train: &ImageSet,
    test: &ImageSet,
    path: &Path,
) -> Result<(), DataError> {
    let shape = |set: &ImageSet| format!("{}x{}x{}", set.height, set.width, set.channels);
    if shape(train) == shape(test) {
        return Ok(());
    }
    let found = format!("has images of {}", shape(test));
    let allowed = format!("but the training images are {}", shape(train));
    Err(DataError::unfit(path, found, allowed))
}
