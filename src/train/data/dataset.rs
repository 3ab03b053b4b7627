//! Two image sets with their labels, and the checks that hold between them.

use std::path::Path;

use super::error::DataError;
use crate::train::augment::AugmentConfig;
use crate::train::image_set::ImageSet;

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

/// A data set of training and held-out images with their labels, which count where classes have
/// names; augmented as suits small images that come as arrays.
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

/// The images in an array of bytes, `[images, height, width]` or `[images, height, width, channels]`,
/// with at least one pixel and 1 or 3 channels; `None` where its shape is another.
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
    Err(DataError::CountMismatch {
        images_path: path.to_path_buf(),
        images: images.len(),
        labels_path: labels_path.to_path_buf(),
        labels,
    })
}

/// Checks that held-out images, read from `path`, are of the size of the training images.
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
