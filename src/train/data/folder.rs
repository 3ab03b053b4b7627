//! A folder of images per class.
//!
//! `DIR/CLASS/IMAGE`, or `DIR/train/CLASS/IMAGE` with `DIR/test` (or `DIR/val`) beside it. Class
//! folders and files are taken in sorted order, so that the same files give the same set on every
//! machine. Hidden files and files whose name does not end like an image are passed over; a file
//! that ends like an image must decode.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::imageops::FilterType;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader};
use rayon::prelude::*;

use crate::train::augment::AugmentConfig;

use super::{
    DataError, Dataset, ImageSet, Labels, LoadOptions, access_error, held_out, read_file,
    require_directory,
};

/// The largest side that images are brought to. A small encoder on a CPU sees little more in
/// larger images, and its time grows with the square of the side.
const LARGEST_SIDE: u32 = 64;
/// What counts as an image.
const EXTENSIONS: &str = "png, jpg, jpeg, bmp, gif, tif, tiff, webp";

/// A class folder and its images' paths, sorted.
struct ClassFolder {
    path: PathBuf,
    name: String,
    images: Vec<PathBuf>,
}

/// Reads the folder. All images become squares of one side: the median of their short sides, at
/// most [`LARGEST_SIDE`]. The median keeps most images close to their own resolution, whatever a
/// few thumbnails or posters among them measure. An image is scaled until it covers the square and
/// its overhang is cut evenly. Transparency is dropped; grey becomes red = green = blue.
pub(super) fn load(directory: &Path, options: LoadOptions) -> Result<Dataset, DataError> {
    require_directory(directory)?;
    let train_directory = directory.join("train");
    let test_directory = ["test", "val"]
        .map(|name| directory.join(name))
        .into_iter()
        .find(|path| path.is_dir());
    let (train_classes, test_classes) = match test_directory {
        Some(test_directory) if train_directory.is_dir() => {
            let train = list_classes(&train_directory, 1)?;
            let test = list_classes(&test_directory, 1)?;
            require_same_classes(&train_directory, &train, &test_directory, &test)?;
            (train, test)
        }
        _ => hold_out(list_classes(directory, 2)?, options.seed),
    };

    let train = decode_squares(&train_classes)?;
    let test = decode_squares(&test_classes)?;
    let side = median_side(&train, &test);
    Ok(Dataset {
        train: assemble(&train, side),
        test: assemble(&test, side),
        labels: Some(Labels {
            class_names: train_classes.into_iter().map(|class| class.name).collect(),
            train: train.iter().map(|square| square.label).collect(),
            test: test.iter().map(|square| square.label).collect(),
        }),
        augment: AugmentConfig::simclr(1.0),
        notes: Vec::new(),
    })
}

/// The class folders of `directory`, each with at least `needed` images.
fn list_classes(directory: &Path, needed: usize) -> Result<Vec<ClassFolder>, DataError> {
    let mut classes = Vec::new();
    for path in sorted_entries(directory)? {
        if !path.is_dir() {
            continue;
        }
        let images: Vec<PathBuf> = sorted_entries(&path)?
            .into_iter()
            .filter(|file| file.is_file() && is_image_name(file))
            .collect();
        if images.len() < needed {
            return Err(DataError::TooFewImages {
                path,
                found: images.len(),
                needed,
                extensions: EXTENSIONS,
            });
        }
        let name = file_name(&path);
        classes.push(ClassFolder { path, name, images });
    }
    if classes.len() < 2 {
        return Err(DataError::TooFewClasses {
            path: directory.to_path_buf(),
            found: classes.len(),
        });
    }
    Ok(classes)
}

/// Everything in `directory` that is not hidden, sorted by name.
fn sorted_entries(directory: &Path) -> Result<Vec<PathBuf>, DataError> {
    let failed = |source| access_error(directory, source);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if !file_name(&path).starts_with('.') {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Whether the name ends like one of the formats of [`EXTENSIONS`].
fn is_image_name(path: &Path) -> bool {
    matches!(
        ImageFormat::from_path(path),
        Ok(ImageFormat::Png
            | ImageFormat::Jpeg
            | ImageFormat::Bmp
            | ImageFormat::Gif
            | ImageFormat::Tiff
            | ImageFormat::WebP)
    )
}

/// A class that only one side has would be trained on and never judged, or judged and never seen.
fn require_same_classes(
    train_directory: &Path,
    train: &[ClassFolder],
    test_directory: &Path,
    test: &[ClassFolder],
) -> Result<(), DataError> {
    for (path, classes, other, other_classes) in [
        (test_directory, test, train_directory, train),
        (train_directory, train, test_directory, test),
    ] {
        for class in other_classes {
            if !classes.iter().any(|known| known.name == class.name) {
                return Err(DataError::ClassMismatch {
                    path: path.to_path_buf(),
                    class: class.name.clone(),
                    other: other.to_path_buf(),
                });
            }
        }
    }
    Ok(())
}

/// Divides each class as [`held_out`] says. Both halves stay sorted.
fn hold_out(classes: Vec<ClassFolder>, seed: u64) -> (Vec<ClassFolder>, Vec<ClassFolder>) {
    let divide = |(index, class): (usize, ClassFolder)| {
        let chosen = held_out(class.images.len(), index, seed);
        let (mut kept, mut held_out) = (Vec::new(), Vec::new());
        for (path, chosen) in class.images.into_iter().zip(chosen) {
            if chosen { &mut held_out } else { &mut kept }.push(path);
        }
        let with = |images| ClassFolder {
            path: class.path.clone(),
            name: class.name.clone(),
            images,
        };
        (with(kept), with(held_out))
    };
    classes.into_iter().enumerate().map(divide).unzip()
}

/// A decoded square image, its side at most [`LARGEST_SIDE`], with its label.
struct Square {
    image: DynamicImage,
    label: u32,
}

/// Decodes every image. Each is brought to at most [`LARGEST_SIDE`] at once, so that a folder of
/// photographs never lies in memory at full size.
fn decode_squares(classes: &[ClassFolder]) -> Result<Vec<Square>, DataError> {
    let files: Vec<(&Path, u32)> = classes
        .iter()
        .enumerate()
        .flat_map(|(label, class)| {
            let label = label as u32;
            class.images.iter().map(move |path| (path.as_path(), label))
        })
        .collect();
    files
        .into_par_iter()
        .map(|(path, label)| {
            let image = decode(path)?;
            let side = image.width().min(image.height()).min(LARGEST_SIDE);
            Ok(Square {
                image: fill_square(&image, side),
                label,
            })
        })
        .collect()
}

/// Decodes one file by its contents, turned upright as its EXIF orientation asks.
fn decode(path: &Path) -> Result<DynamicImage, DataError> {
    let bytes = read_file(path)?;
    let undecodable = |source| DataError::Undecodable {
        path: path.to_path_buf(),
        source,
    };
    let mut decoder = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|source| access_error(path, source))?
        .into_decoder()
        .map_err(undecodable)?;
    let orientation = decoder.orientation().map_err(undecodable)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(undecodable)?;
    image.apply_orientation(orientation);
    Ok(DynamicImage::ImageRgb8(image.into_rgb8()))
}

/// Scales (with a triangle filter that widens when it shrinks, against aliasing) and cuts.
fn fill_square(image: &DynamicImage, side: u32) -> DynamicImage {
    if (image.width(), image.height()) == (side, side) {
        return image.clone();
    }
    image.resize_to_fill(side, side, FilterType::Triangle)
}

/// The median side over both halves (the upper one of an even number).
fn median_side(train: &[Square], test: &[Square]) -> u32 {
    let mut sides: Vec<u32> = train
        .iter()
        .chain(test)
        .map(|square| square.image.width())
        .collect();
    sides.sort_unstable();
    sides[sides.len() / 2]
}

/// Brings all squares to one side and lays them one after the other.
fn assemble(squares: &[Square], side: u32) -> ImageSet {
    let images: Vec<Vec<u8>> = squares
        .par_iter()
        .map(|square| fill_square(&square.image, side).into_rgb8().into_raw())
        .collect();
    ImageSet {
        height: side as usize,
        width: side as usize,
        channels: 3,
        pixels: images.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seeded(seed: u64) -> LoadOptions {
        LoadOptions {
            seed,
            ..LoadOptions::default()
        }
    }

    /// Writes an image of one colour, its red value telling which.
    fn write_image(path: &Path, width: u32, height: u32, red: u8) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        image::RgbImage::from_pixel(width, height, image::Rgb([red, 20, 30]))
            .save(path)
            .unwrap();
    }

    /// Two classes of ten images: `cat` 40 pixels high, `dog` 40 pixels wide.
    fn two_classes() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for index in 0..10 {
            let name = format!("{index}.png");
            write_image(
                &directory.path().join("dog").join(&name),
                40,
                90,
                100 + index,
            );
            write_image(&directory.path().join("cat").join(&name), 50, 40, index);
        }
        directory
    }

    #[test]
    fn one_image_in_five_of_each_class_is_held_out() {
        let directory = two_classes();
        let data = load(directory.path(), seeded(3)).unwrap();
        let labels = data.labels.unwrap();
        assert_eq!(labels.class_names, ["cat", "dog"]);
        assert_eq!((data.train.len(), data.test.len()), (16, 4));
        assert_eq!((data.train.height, data.train.width), (40, 40));
        assert_eq!(labels.test, [0, 0, 1, 1]);
        let reds = |set: &ImageSet| (0..set.len()).map(|i| set.image(i)[0]).collect::<Vec<_>>();
        let mut all = [reds(&data.train), reds(&data.test)].concat();
        all.sort_unstable();
        assert_eq!(all, (0..10).chain(100..110).collect::<Vec<u8>>());
        let again = load(directory.path(), seeded(3)).unwrap();
        assert_eq!((again.train, again.test), (data.train, data.test));
    }

    #[test]
    fn a_division_on_disk_is_respected() {
        let directory = tempfile::tempdir().unwrap();
        for (split, count) in [("train", 3), ("val", 2)] {
            for class in ["a", "b"] {
                for index in 0..count {
                    let name = format!("{split}/{class}/{index}.png");
                    write_image(&directory.path().join(name), 200, 100, index);
                }
            }
        }
        let data = load(directory.path(), seeded(0)).unwrap();
        assert_eq!((data.train.len(), data.test.len()), (6, 4));
        assert_eq!(data.train.width, LARGEST_SIDE as usize);
        std::fs::remove_dir_all(directory.path().join("val/b")).unwrap();
        write_image(&directory.path().join("val/c/0.png"), 8, 8, 0);
        let error = load(directory.path(), seeded(0)).unwrap_err();
        assert!(
            matches!(&error, DataError::ClassMismatch { class, .. } if class == "b"),
            "{error}"
        );
    }

    #[test]
    fn an_undecodable_image_is_named() {
        let directory = two_classes();
        std::fs::write(directory.path().join("cat/broken.jpg"), "not an image").unwrap();
        let error = load(directory.path(), seeded(0)).unwrap_err();
        assert!(matches!(error, DataError::Undecodable { .. }), "{error}");
        assert!(error.to_string().contains("broken.jpg"), "{error}");
        assert!(!error.is_io());
    }

    #[test]
    fn a_truncated_image_is_named() {
        let directory = two_classes();
        let path = directory.path().join("cat/3.png");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let error = load(directory.path(), seeded(0)).unwrap_err();
        assert!(matches!(error, DataError::Undecodable { .. }), "{error}");
        assert!(error.to_string().contains("3.png"), "{error}");
    }

    #[test]
    fn a_class_without_images_is_refused() {
        let directory = two_classes();
        std::fs::create_dir(directory.path().join("emu")).unwrap();
        std::fs::write(directory.path().join("emu/notes.txt"), "none yet").unwrap();
        let error = load(directory.path(), seeded(0)).unwrap_err();
        assert!(
            matches!(error, DataError::TooFewImages { found: 0, .. }),
            "{error}"
        );
        assert!(error.to_string().contains("emu"), "{error}");
    }

    #[test]
    fn a_folder_without_class_folders_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        write_image(&directory.path().join("lonely.png"), 8, 8, 0);
        let error = load(directory.path(), seeded(0)).unwrap_err();
        assert!(
            matches!(error, DataError::TooFewClasses { found: 0, .. }),
            "{error}"
        );
    }

    #[test]
    fn other_files_and_hidden_ones_are_passed_over() {
        let directory = two_classes();
        std::fs::write(directory.path().join("cat/.hidden.png"), "x").unwrap();
        std::fs::write(directory.path().join("cat/readme.md"), "x").unwrap();
        std::fs::write(directory.path().join("readme.md"), "x").unwrap();
        assert_eq!(load(directory.path(), seeded(0)).unwrap().train.len(), 16);
    }
}
