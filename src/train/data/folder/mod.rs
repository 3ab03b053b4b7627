//! A folder of images.
//!
//! - `DIR/CLASS/…/IMAGE`: the class is the top folder, at whatever depth its images lie.
//! - `DIR/IMAGE`: without class folders the images have no labels.
//! - `DIR/train` with `DIR/test` (or `DIR/val`) beside it: each holds one of the above, and the
//!   division is kept. Otherwise one image in five of each class is held out. A `DIR/train` that
//!   holds all images is read as if it were `DIR`.
//!
//! Folders and files are taken in sorted order, so that the same files give the same set on every
//! machine. Hidden files, files whose name does not end like an image, and run folders are passed
//! over; a file that ends like an image must decode, completely, unless unreadable files are
//! skipped.
//!
//! All images become squares of one side: the median of their short sides, at most
//! [`LARGEST_SIDE`]. The median keeps most images close to their own resolution, whatever a few
//! thumbnails or posters among them measure. An image is turned as its EXIF orientation asks,
//! scaled until it covers the square, and its overhang is cut evenly. Transparency is laid over
//! white; grey becomes red = green = blue.

mod decode;
mod jpeg;
mod walk;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use image::imageops::FilterType;
use image::{DynamicImage, RgbImage};
use rayon::prelude::*;

use crate::train::augment::AugmentConfig;

use super::{DataError, Dataset, ImageSet, Labels, LoadOptions, held_out, require_directory};
use walk::{Class, Found, Split, listed, too_few_images};

/// The largest side that images are brought to. A small encoder on a CPU sees little more in
/// larger images, and its time grows with the square of the side.
const LARGEST_SIDE: u32 = 64;

/// Reads the folder.
pub(super) fn load(directory: &Path, options: LoadOptions) -> Result<Dataset, DataError> {
    require_directory(directory)?;
    let Found {
        train,
        test,
        mut notes,
    } = walk::find(directory)?;
    if let Some(test) = &test {
        require_same_classes(&train, test)?;
    }
    let mut unreadable = Vec::new();
    let mut read = |split| read_split(split, options.skip_unreadable, &mut unreadable, &mut notes);
    let train = read(train)?;
    let test = test.map(read).transpose()?;
    if let Some(first) = unreadable.first() {
        let (files, were) = match unreadable.len() {
            1 => ("file", "was"),
            _ => ("files", "were"),
        };
        notes.push(format!(
            "{} {files} could not be read and {were} left out, the first is {}",
            unreadable.len(),
            first.display()
        ));
    }

    let (train, test) = match test {
        Some(test) => {
            require_same_classes(&train, &test)?;
            (train, test)
        }
        None => hold_out(train, options.seed)?,
    };
    let class_names: Option<Vec<String>> = train
        .classes
        .iter()
        .map(|class| class.name.clone())
        .collect();
    let ((train, train_labels), (test, test_labels)) = (with_labels(train), with_labels(test));
    notes.extend(note_of_twins(&train, &test));
    let side = median_side(&train, &test);
    Ok(Dataset {
        train: assemble(&train, side),
        test: assemble(&test, side),
        labels: class_names.map(|class_names| Labels {
            class_names,
            train: train_labels,
            test: test_labels,
        }),
        augment: AugmentConfig::simclr(1.0),
        notes,
    })
}

/// A class that only one side has would be trained on and never judged, or judged and never seen.
fn require_same_classes<Image>(train: &Split<Image>, test: &Split<Image>) -> Result<(), DataError> {
    for (split, other) in [(test, train), (train, test)] {
        for class in &other.classes {
            if !split.classes.iter().any(|known| known.name == class.name) {
                return Err(DataError::ClassMismatch {
                    path: split.path.clone(),
                    class: class.name.clone(),
                    other: other.path.clone(),
                });
            }
        }
    }
    Ok(())
}

/// Divides each class as [`held_out`] says. Both halves stay sorted.
fn hold_out(
    whole: Split<Picture>,
    seed: u64,
) -> Result<(Split<Picture>, Split<Picture>), DataError> {
    let path = whole.path;
    let found = whole.classes.iter().map(|class| class.images.len()).sum();
    let divide = |(index, class): (usize, Class<Picture>)| {
        let chosen = held_out(class.images.len(), index, seed);
        let (mut kept, mut held_out) = (Vec::new(), Vec::new());
        for (image, chosen) in class.images.into_iter().zip(chosen) {
            if chosen { &mut held_out } else { &mut kept }.push(image);
        }
        let with = |images| Class {
            path: class.path.clone(),
            name: class.name.clone(),
            images,
        };
        (with(kept), with(held_out))
    };
    let (train, test): (Vec<_>, Vec<_>) = whole.classes.into_iter().enumerate().map(divide).unzip();
    if test.iter().all(|class| class.images.is_empty()) {
        return Err(too_few_images(
            path,
            found,
            "a class with at least two, one to train on and one to hold out",
        ));
    }
    let with = |classes| Split {
        path: path.clone(),
        classes,
    };
    Ok((with(train), with(test)))
}

/// A decoded square image, its side at most [`LARGEST_SIDE`].
struct Picture {
    path: PathBuf,
    /// Of the file's bytes: equal files are found by it.
    hash: u64,
    square: RgbImage,
}

impl Picture {
    /// Brings the image to at most [`LARGEST_SIDE`] at once, so that a folder of photographs never
    /// lies in memory at full size.
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

/// Reads every file. With `skip`, paths that cannot be read go to `unreadable`, and classes
/// without any other are left out.
fn read_split(
    split: Split<PathBuf>,
    skip: bool,
    unreadable: &mut Vec<PathBuf>,
    notes: &mut Vec<String>,
) -> Result<Split<Picture>, DataError> {
    let read = |path: PathBuf| match Picture::read(path.clone()) {
        Err(_) if skip => Ok(Err(path)),
        picture => picture.map(Ok),
    };
    let mut classes = Vec::new();
    let mut emptied = Vec::new();
    let files: Vec<Vec<Result<Picture, PathBuf>>> = split
        .classes
        .par_iter()
        .map(|class| class.images.par_iter().cloned().map(read).collect())
        .collect::<Result<_, _>>()?;
    for (class, files) in split.classes.into_iter().zip(files) {
        let mut images = Vec::new();
        for file in files {
            match file {
                Ok(picture) => images.push(picture),
                Err(path) => unreadable.push(path),
            }
        }
        let Class { path, name, .. } = class;
        if images.is_empty() {
            emptied.push(path);
        } else {
            classes.push(Class { path, name, images });
        }
    }
    let path = split.path;
    if classes.is_empty() {
        return Err(too_few_images(path, 0, "at least one that can be read"));
    }
    if !emptied.is_empty() {
        notes.push(format!(
            "class folders without an image that can be read are left out: {}",
            listed(&emptied)
        ));
    }
    Ok(Split { path, classes })
}

/// All pictures, and the index of each one's class.
fn with_labels(split: Split<Picture>) -> (Vec<Picture>, Vec<u32>) {
    split
        .classes
        .into_iter()
        .enumerate()
        .flat_map(|(label, class)| {
            let label = label as u32;
            class.images.into_iter().map(move |image| (image, label))
        })
        .unzip()
}

/// Equal files: they weigh double, and one in training tells about its twin that is held out.
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
    // A divided pair, if there is one.
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

/// Scales (with a triangle filter that widens when it shrinks, against aliasing) and cuts.
fn fill_square(image: RgbImage, side: u32) -> RgbImage {
    if image.dimensions() == (side, side) {
        return image;
    }
    DynamicImage::ImageRgb8(image)
        .resize_to_fill(side, side, FilterType::Triangle)
        .into_rgb8()
}

/// The median side over both halves (the upper one of an even number).
fn median_side(train: &[Picture], test: &[Picture]) -> u32 {
    let mut sides: Vec<u32> = train
        .iter()
        .chain(test)
        .map(|picture| picture.square.width())
        .collect();
    sides.sort_unstable();
    sides[sides.len() / 2]
}

/// Brings all squares to one side and lays them one after the other.
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
