//! Reads images and labels from NumPy's arrays.
//!
//! Images are uint8, N×H×W or N×H×W×C with C of 1 or 3; labels are integers, N or N×1.

mod array;

use std::collections::BTreeSet;
use std::path::Path;

use array::Array;

use super::dataset::{Dataset, dataset, images_of_array, require_labels, require_same_shape};
use super::division::{Classed, divide};
use super::error::DataError;
use super::files::{locate, require_directory};
use crate::train::image_set::ImageSet;

/// Reads one array of images and holds some of them out, or reads a directory with both sets.
///
/// In a directory the arrays have the names of Keras' and MedMNIST's archives; labels are optional.
pub(super) fn load(images: &Path, labels: Option<&Path>, seed: u64) -> Result<Dataset, DataError> {
    // A path that does not exist means an array if its name ends in .npy.
    let is_directory = images.is_dir()
        || !images.exists() && images.extension().is_none_or(|ending| ending != "npy");
    if is_directory && labels.is_none() {
        return load_directory(images);
    }
    let all = read_images(images)?;
    let (class_names, classes) = match labels {
        Some(labels) => {
            let (names, classes) = name_classes(&read_labels(labels, &all, images)?);
            (Some(names), classes)
        }
        None => (None, vec![0; all.len()]),
    };
    let pixels = all.pixels.chunks_exact(all.image_len());
    let (train, test) = divide(pixels.zip(classes).collect(), seed);
    if test.is_empty() {
        let found = format!("holds {} images, none of which can be held out", all.len());
        let expected = "expected a class of at least 2".to_owned();
        return Err(DataError::unfit(images, found, expected));
    }
    let set = |images: Classed<&[u8]>| {
        let (pixels, classes): (Vec<_>, Vec<_>) = images.into_iter().unzip();
        let pixels = pixels.concat();
        (ImageSet { pixels, ..all }, classes)
    };
    Ok(dataset(set(train), set(test), class_names))
}

/// Arrays that are divided already; both sets have labels or neither.
fn load_directory(directory: &Path) -> Result<Dataset, DataError> {
    require_directory(directory)?;
    let find = |names: [&str; 2]| {
        let wanted = format!("that array, or {}", names[1]);
        locate(directory, &names, &wanted)
    };
    let train_path = find(["train_images.npy", "x_train.npy"])?;
    let test_path = find(["test_images.npy", "x_test.npy"])?;
    let (train, test) = (read_images(&train_path)?, read_images(&test_path)?);
    require_same_shape(&train, &test, &test_path)?;
    let train_labels = find(["train_labels.npy", "y_train.npy"]);
    let test_labels = find(["test_labels.npy", "y_test.npy"]);
    if train_labels.is_err() && test_labels.is_err() {
        return Ok(dataset((train, Vec::new()), (test, Vec::new()), None));
    }
    let mut values = read_labels(&train_labels?, &train, &train_path)?;
    values.extend(read_labels(&test_labels?, &test, &test_path)?);
    let (class_names, mut labels) = name_classes(&values);
    let test_labels = labels.split_off(train.len());
    Ok(dataset(
        (train, labels),
        (test, test_labels),
        Some(class_names),
    ))
}

/// Each distinct value is a class with the value as its name. Returns all names in the order of the
/// values, and the class of each value.
fn name_classes(values: &[i128]) -> (Vec<String>, Vec<u32>) {
    let sorted = Vec::from_iter(BTreeSet::from_iter(values));
    let class = |value| sorted.partition_point(|&class| class < value) as u32;
    let names = sorted.iter().map(|class| class.to_string()).collect();
    (names, values.iter().map(class).collect())
}

fn read_images(path: &Path) -> Result<ImageSet, DataError> {
    let array = Array::read(path)?;
    if array.kind != ('u', 1) {
        return Err(wrong_type(path, &array, "uint8 ('|u1')"));
    }
    let Some(images) = images_of_array(&array.shape, array.elements) else {
        let allowed = "N x H x W, N x H x W x 1 or N x H x W x 3, with H and W from 1 up";
        return Err(wrong_shape(path, &array.shape, allowed));
    };
    if images.is_empty() {
        return Err(DataError::empty(path));
    }
    Ok(images)
}

/// The label of each of `images`, which were read from `images_path`.
fn read_labels(path: &Path, images: &ImageSet, images_path: &Path) -> Result<Vec<i128>, DataError> {
    let array = Array::read(path)?;
    let ('i' | 'u' | 'b', size @ (1 | 2 | 4 | 8)) = array.kind else {
        return Err(wrong_type(path, &array, "integers of 1 to 8 bytes"));
    };
    let ([count] | [count, 1]) = array.shape[..] else {
        return Err(wrong_shape(path, &array.shape, "N or N x 1"));
    };
    require_labels(images, images_path, count, path)?;
    let value = |bytes: &[u8]| {
        let mut ordered = bytes.to_vec();
        if !array.descr.starts_with('>') {
            ordered.reverse();
        }
        let negative = array.kind.0 == 'i' && ordered[0] >= 0x80;
        ordered.iter().fold(-i128::from(negative), |value, &byte| {
            value << 8 | i128::from(byte)
        })
    };
    Ok(array.elements.chunks_exact(size).map(value).collect())
}

fn wrong_type(path: &Path, array: &Array, allowed: &str) -> DataError {
    let found = format!("holds elements of type {}", array.descr);
    DataError::unfit(path, found, format!("allowed are {allowed}"))
}

fn wrong_shape(path: &Path, shape: &[usize], allowed: &str) -> DataError {
    let found = format!("has images of {shape:?}");
    DataError::unfit(path, found, format!("allowed are {allowed}"))
}
