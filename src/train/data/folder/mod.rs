//! Reads a folder of images.
//!
//! - `DIR/CLASS/…/IMAGE`: the class is the top folder, at any depth of its images.
//! - `DIR/IMAGE`: without class folders the images have no labels.
//! - `DIR/train` with `DIR/test` (or `DIR/val`) beside it: each has one of the layouts above, and
//!   the division is kept. Otherwise one image in five of each class is held out. A `DIR/train` that
//!   holds all images is read as if it were `DIR`.
//!
//! Folders and files are read in sorted order, so that the same files give the same set on every
//! machine. Hidden files, files without an extension of an image, and run folders are skipped. A
//! file with such an extension must decode completely, unless unreadable files are skipped.
//!
//! All images become squares of one side: the median of their short sides, at most
//! [`LARGEST_SIDE`]. The median keeps most images close to their resolution, whatever the size of a
//! few others. An image is rotated by its EXIF orientation and scaled until it covers the square;
//! its overhang is cut evenly. Transparency is laid over white; grey becomes red = green = blue.

mod decode;
mod jpeg;
mod walk;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::mem;
use std::path::{Path, PathBuf};

use image::imageops::FilterType;
use image::{DynamicImage, RgbImage};
use rayon::prelude::*;

use super::dataset::{Dataset, dataset};
use super::division::{Classed, divide};
use super::error::DataError;
use super::files::require_directory;
use crate::train::augment::AugmentConfig;
use crate::train::image_set::ImageSet;
use walk::{Split, listed, too_few_images};

/// The largest side. A small encoder on a CPU gains little from larger images, and its time grows
/// with the square of the side.
const LARGEST_SIDE: u32 = 64;

/// Reads the folder `directory`; `seed` chooses the held-out images where the folder does not.
pub(super) fn load(directory: &Path, seed: u64, skip: bool) -> Result<Dataset, DataError> {
    require_directory(directory)?;
    let (mut train, test, mut notes) = walk::find(directory)?;
    if let Some(test) = &test {
        require_same_classes(&train, test)?;
    }
    let mut unreadable = Vec::new();
    let mut read = |split: &mut Split| read_split(split, skip, &mut unreadable, &mut notes);
    let pictures = read(&mut train)?;
    let (train_pictures, test_pictures) = match test {
        Some(mut test) => {
            let test_pictures = read(&mut test)?;
            require_same_classes(&train, &test)?;
            (pictures, test_pictures)
        }
        None => {
            let found = pictures.len();
            let (kept, test) = divide(pictures, seed);
            if test.is_empty() {
                let expected = "a class with at least two, one to train on and one to hold out";
                return Err(too_few_images(&train.path, found, expected));
            }
            (kept, test)
        }
    };
    if let Some(first) = unreadable.first() {
        let (count, first) = (unreadable.len(), first.display());
        let (files, were) = [("files", "were"), ("file", "was")][usize::from(count == 1)];
        notes.push(format!(
            "{count} {files} could not be read and {were} left out, the first is {first}"
        ));
    }
    let class_names: Option<Vec<String>> =
        train.classes.into_iter().map(|class| class.name).collect();
    let (train, train_labels): (Vec<_>, Vec<_>) = train_pictures.into_iter().unzip();
    let (test, test_labels): (Vec<_>, Vec<_>) = test_pictures.into_iter().unzip();
    notes.extend(note_of_twins(&train, &test));
    let side = median_side(&train, &test);
    Ok(Dataset {
        augment: AugmentConfig::simclr(1.0),
        notes,
        ..dataset(
            (assemble(&train, side), train_labels),
            (assemble(&test, side), test_labels),
            class_names,
        )
    })
}

/// Requires the same classes in both splits: a class of one alone would be trained on and never
/// evaluated, or the reverse.
fn require_same_classes(train: &Split, test: &Split) -> Result<(), DataError> {
    for (split, other) in [(test, train), (train, test)] {
        for class in &other.classes {
            if !split.classes.iter().any(|known| known.name == class.name) {
                let found = match &class.name {
                    Some(name) => format!("has no images of class {name:?}"),
                    None => "has no images without a class folder".to_owned(),
                };
                let wanted = format!("which {} has", other.path.display());
                return Err(DataError::unfit(&split.path, found, wanted));
            }
        }
    }
    Ok(())
}

/// A decoded square image, its side at most [`LARGEST_SIDE`].
struct Picture {
    path: PathBuf,
    /// A hash of the file's bytes, which finds equal files.
    hash: u64,
    square: RgbImage,
}

impl Picture {
    /// Reads a file and scales its image to at most [`LARGEST_SIDE`] at once, so that no folder of
    /// photographs is in memory at full size.
    fn read(path: PathBuf) -> Result<Self, DataError> {
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(source) => return Err(DataError::UnreadableImage { path, source }),
        };
        let image = match decode::decode(&bytes) {
            Ok(image) => image,
            Err(source) => return Err(DataError::Undecodable { path, source }),
        };
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let side = image.width().min(image.height()).min(LARGEST_SIDE);
        Ok(Self {
            path,
            hash: hasher.finish(),
            square: fill_square(image, side),
        })
    }
}

/// Every picture in order, with the index of its class. With `skip`, paths that cannot be read go
/// to `unreadable`, and classes without other files leave `split`.
fn read_split(
    split: &mut Split,
    skip: bool,
    unreadable: &mut Vec<PathBuf>,
    notes: &mut Vec<String>,
) -> Result<Classed<Picture>, DataError> {
    let read = |path: &PathBuf| match Picture::read(path.clone()) {
        Err(_) if skip => Ok(Err(path.clone())),
        picture => picture.map(Ok),
    };
    let files: Vec<Vec<Result<Picture, PathBuf>>> = split
        .classes
        .par_iter()
        .map(|class| class.images.par_iter().map(read).collect())
        .collect::<Result<_, _>>()?;
    let (mut pictures, mut emptied) = (Vec::new(), Vec::new());
    for (class, files) in mem::take(&mut split.classes).into_iter().zip(files) {
        let (before, label) = (pictures.len(), split.classes.len() as u32);
        for file in files {
            match file {
                Ok(picture) => pictures.push((picture, label)),
                Err(path) => unreadable.push(path),
            }
        }
        if pictures.len() > before {
            split.classes.push(class);
        } else {
            emptied.push(class.path);
        }
    }
    if pictures.is_empty() {
        let expected = "at least one that can be read";
        return Err(too_few_images(&split.path, 0, expected));
    }
    if !emptied.is_empty() {
        notes.push(format!(
            "class folders without an image that can be read are left out: {}",
            listed(&emptied)
        ));
    }
    Ok(pictures)
}

/// A note of equal files: they weigh double, and one in training reveals a held-out twin.
fn note_of_twins(train: &[Picture], test: &[Picture]) -> Option<String> {
    let mut groups: HashMap<u64, [Vec<&Path>; 2]> = HashMap::new();
    for (side, pictures) in [train, test].into_iter().enumerate() {
        for picture in pictures {
            groups.entry(picture.hash).or_default()[side].push(&picture.path);
        }
    }
    groups.retain(|_, [train, test]| train.len() + test.len() > 1);
    let (mut files, mut divided) = (0, 0);
    for [train, test] in groups.values() {
        files += train.len() + test.len();
        divided += train.len() * test.len();
    }
    // The first pair, those with one twin on each side before others.
    let (_, first, second) = groups
        .into_values()
        .map(|sides| match sides.each_ref().map(Vec::as_slice) {
            [[first, ..], [second, ..]] => (false, *first, *second),
            _ => (true, sides.concat()[0], sides.concat()[1]),
        })
        .min()?;
    Some(format!(
        "{files} files have a twin of equal bytes, such as {} and {}; pairs with one twin in \
         training and one held out: {divided}",
        first.display(),
        second.display()
    ))
}

/// Scales the image to cover the square and cuts its overhang. The triangle filter widens when it
/// shrinks an image, against aliasing.
fn fill_square(image: RgbImage, side: u32) -> RgbImage {
    if image.dimensions() == (side, side) {
        return image;
    }
    DynamicImage::ImageRgb8(image)
        .resize_to_fill(side, side, FilterType::Triangle)
        .into_rgb8()
}

/// The median side over both splits (the upper one of an even number).
fn median_side(train: &[Picture], test: &[Picture]) -> u32 {
    let mut sides: Vec<u32> = train
        .iter()
        .chain(test)
        .map(|picture| picture.square.width())
        .collect();
    sides.sort_unstable();
    sides[sides.len() / 2]
}

/// Scales all squares to one side and concatenates them.
fn assemble(pictures: &[Picture], side: u32) -> ImageSet {
    let images: Vec<Vec<u8>> = pictures
        .par_iter()
        .map(|picture| fill_square(picture.square.clone(), side).into_raw())
        .collect();
    ImageSet {
        height: side as usize,
        width: side as usize,
        channels: 3,
        pixels: images.concat(),
    }
}
