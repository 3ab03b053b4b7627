//! MNIST's IDX format, any image size.
//!
//! An IDX file is a big-endian header (two zero bytes, an element type, the number of dimensions,
//! then each dimension as u32) followed by the raw elements, last dimension fastest
//! (<http://yann.lecun.com/exdb/mnist>). Image files are `[images, rows, columns]` or
//! `[images, rows, columns, channels]` of u8, label files `[images]` of u8. Each may be compressed
//! with gzip, as the archives are.

use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::{
    DataError, Dataset, ImageSet, Labels, augment_of_arrays, read_file, require_directory,
    require_same_shape,
};

/// The element type "unsigned byte" in the header's third byte.
const UNSIGNED_BYTE: u8 = 0x08;

/// Reads `train-*` and `t10k-*` from `directory`.
pub(super) fn load(directory: &Path) -> Result<Dataset, DataError> {
    require_directory(directory)?;
    let (train, train_labels) = read_split(directory, "train")?;
    let (test, test_labels) = read_split(directory, "t10k")?;
    let test_path = locate(directory, "t10k", "images", &["idx3", "idx4"])?;
    require_same_shape(&train, &test, &test_path)?;
    let largest = train_labels.iter().chain(&test_labels).max();
    let class_names = (0..=largest.copied().unwrap_or(0))
        .map(|label| label.to_string())
        .collect();
    Ok(Dataset {
        augment: augment_of_arrays(&train),
        train,
        test,
        labels: Some(Labels {
            class_names,
            train: train_labels,
            test: test_labels,
        }),
        notes: Vec::new(),
    })
}

/// Reads one split's images and labels.
fn read_split(directory: &Path, split: &str) -> Result<(ImageSet, Vec<u32>), DataError> {
    let images_path = locate(directory, split, "images", &["idx3", "idx4"])?;
    let labels_path = locate(directory, split, "labels", &["idx1"])?;

    let images = IdxFile::read(&images_path, &[3, 4])?;
    let (height, width) = (images.dimensions[1], images.dimensions[2]);
    let channels = images.dimensions.get(3).copied().unwrap_or(1);
    if height == 0 || width == 0 || !matches!(channels, 1 | 3) {
        return Err(DataError::UnsupportedShape {
            path: images_path,
            found: format!("{height}x{width}x{channels}"),
            allowed: "rows and columns from 1 up, 1 or 3 channels".to_owned(),
        });
    }
    let labels = IdxFile::read(&labels_path, &[1])?;
    if images.dimensions[0] != labels.dimensions[0] {
        return Err(DataError::CountMismatch {
            images_path,
            images: images.dimensions[0],
            labels_path,
            labels: labels.dimensions[0],
        });
    }
    if images.dimensions[0] == 0 {
        return Err(DataError::Empty { path: images_path });
    }
    let set = ImageSet {
        height,
        width,
        channels,
        pixels: images.elements,
    };
    Ok((set, labels.elements.into_iter().map(u32::from).collect()))
}

/// Finds `{split}-{kind}-{form}-ubyte`, the same with a dot before the form, as some mirrors
/// unpack it, or either with `.gz`.
fn locate(directory: &Path, split: &str, kind: &str, forms: &[&str]) -> Result<PathBuf, DataError> {
    for form in forms {
        for separator in ['-', '.'] {
            for compressed in ["", ".gz"] {
                let name = format!("{split}-{kind}{separator}{form}-ubyte{compressed}");
                let path = directory.join(name);
                if path.is_file() {
                    return Ok(path);
                }
            }
        }
    }
    Err(DataError::Missing {
        path: directory.join(format!("{split}-{kind}-{}-ubyte", forms[0])),
        wanted: "an IDX file, or the same with .gz".to_owned(),
    })
}

/// Reads a file, unpacked where its contents are gzip, whatever its name.
fn read_unpacked(path: &Path) -> Result<Vec<u8>, DataError> {
    let bytes = read_file(path)?;
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes);
    }
    let mut unpacked = Vec::new();
    match MultiGzDecoder::new(bytes.as_slice()).read_to_end(&mut unpacked) {
        Ok(_) => Ok(unpacked),
        Err(error) => Err(DataError::Damaged {
            path: path.to_path_buf(),
            reason: format!("it does not unpack as gzip ({error})"),
        }),
    }
}

/// The contents of one IDX file of unsigned bytes.
struct IdxFile {
    dimensions: Vec<usize>,
    elements: Vec<u8>,
}

impl IdxFile {
    /// Reads `path`, which must have one of the `allowed` numbers of dimensions.
    fn read(path: &Path, allowed: &[usize]) -> Result<Self, DataError> {
        let mut bytes = read_unpacked(path)?;
        let found = bytes.len() as u64;
        let wrong_length = |expected: String| DataError::WrongLength {
            path: path.to_path_buf(),
            found,
            expected,
        };

        let Some(&magic) = bytes.first_chunk::<4>() else {
            return Err(wrong_length(
                "at least the 4 bytes of an IDX magic".to_owned(),
            ));
        };
        let rank = usize::from(magic[3]);
        if magic[..3] != [0, 0, UNSIGNED_BYTE] || !allowed.contains(&rank) {
            return Err(DataError::WrongMagic {
                path: path.to_path_buf(),
                found: u32::from_be_bytes(magic),
                expected: describe_magic(allowed),
            });
        }

        let header = 4 + 4 * rank;
        let Some(fields) = bytes.get(4..header) else {
            return Err(wrong_length(format!(
                "at least the {header} bytes of the header"
            )));
        };
        let dimensions: Vec<usize> = fields
            .as_chunks::<4>()
            .0
            .iter()
            .map(|field| u32::from_be_bytes(*field) as usize)
            .collect();
        // In u128, because four u32 may multiply past 64 bits.
        let elements: u128 = dimensions
            .iter()
            .map(|&dimension| dimension as u128)
            .product();
        let expected = elements + header as u128;
        if expected != u128::from(found) {
            return Err(wrong_length(format!(
                "{expected} (a header of {header} and dimensions {dimensions:?})"
            )));
        }
        bytes.drain(..header);
        Ok(Self {
            dimensions,
            elements: bytes,
        })
    }
}

/// The allowed magics in words.
fn describe_magic(allowed: &[usize]) -> String {
    let magics: Vec<String> = allowed
        .iter()
        .map(|rank| format!("0x{:08x}", (usize::from(UNSIGNED_BYTE) << 8) + rank))
        .collect();
    format!("{} (IDX of unsigned bytes)", magics.join(" or "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::augment::AugmentConfig;

    /// An IDX file's bytes.
    fn encode(dimensions: &[u32], elements: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, UNSIGNED_BYTE, dimensions.len() as u8];
        for dimension in dimensions {
            bytes.extend(dimension.to_be_bytes());
        }
        bytes.extend(elements);
        bytes
    }

    /// A directory with three 2x2 training images and one held-out image.
    fn valid_directory() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: Vec<u8>| {
            std::fs::write(directory.path().join(name), bytes).unwrap();
        };
        let pixels: Vec<u8> = (0..12).collect();
        write("train-images-idx3-ubyte", encode(&[3, 2, 2], &pixels));
        write("train-labels-idx1-ubyte", encode(&[3], &[0, 1, 4]));
        write("t10k-images.idx3-ubyte", encode(&[1, 2, 2], &[9; 4]));
        write("t10k-labels.idx1-ubyte", encode(&[1], &[2]));
        directory
    }

    const IMAGES: &str = "train-images-idx3-ubyte";

    /// The error where this file holds these bytes.
    fn error_with(file: &str, bytes: &[u8]) -> DataError {
        let directory = valid_directory();
        std::fs::write(directory.path().join(file), bytes).unwrap();
        load(directory.path()).unwrap_err()
    }

    #[test]
    fn images_and_labels_are_read_under_both_spellings() {
        let directory = valid_directory();
        let data = load(directory.path()).unwrap();
        assert_eq!(data.train.len(), 3);
        assert_eq!(data.train.image(1), &[4, 5, 6, 7]);
        let labels = data.labels.unwrap();
        assert_eq!((labels.train, labels.test), (vec![0, 1, 4], vec![2]));
        assert_eq!(labels.class_names, ["0", "1", "2", "3", "4"]);
        assert_eq!(data.augment, AugmentConfig::grey());
    }

    #[test]
    fn a_fourth_dimension_holds_colour() {
        let directory = valid_directory();
        for (split, images) in [("train", 3), ("t10k", 1)] {
            let pixels = vec![7; images as usize * 12];
            let path = |form: &str| directory.path().join(format!("{split}-images{form}-ubyte"));
            let _ = std::fs::remove_file(path("-idx3"));
            let _ = std::fs::remove_file(path(".idx3"));
            std::fs::write(path("-idx4"), encode(&[images, 2, 2, 3], &pixels)).unwrap();
        }
        let data = load(directory.path()).unwrap();
        assert_eq!((data.train.channels, data.test.channels), (3, 3));
    }

    #[test]
    fn a_truncated_file_is_refused_with_both_lengths() {
        let whole = encode(&[3, 2, 2], &Vec::from_iter(0..12));
        let error = error_with(IMAGES, &whole[..whole.len() - 1]);
        assert!(
            matches!(error, DataError::WrongLength { found: 27, .. }),
            "{error}"
        );
        assert!(error.to_string().contains("28"), "{error}");
        for length in [0, 3, 4, 9] {
            let error = error_with(IMAGES, &whole[..length]);
            assert!(matches!(error, DataError::WrongLength { .. }), "{error}");
        }
    }

    #[test]
    fn a_header_larger_than_memory_is_refused_without_allocating() {
        let directory = valid_directory();
        let path = |name: &str| directory.path().join(name);
        std::fs::remove_file(path(IMAGES)).unwrap();
        let header = encode(&[u32::MAX; 4], &[]);
        std::fs::write(path("train-images-idx4-ubyte"), header).unwrap();
        let error = load(directory.path()).unwrap_err();
        assert!(matches!(error, DataError::WrongLength { .. }), "{error}");
    }

    #[test]
    fn a_wrong_magic_is_refused() {
        let error = error_with(IMAGES, &[0, 0, 0x0d, 3]);
        assert!(matches!(error, DataError::WrongMagic { .. }), "{error}");
        assert!(error.to_string().contains("0x00000803"), "{error}");
    }

    fn compressed(bytes: &[u8]) -> Vec<u8> {
        use flate2::{Compression, read::GzEncoder};
        let mut packed = Vec::new();
        let mut encoder = GzEncoder::new(bytes, Compression::default());
        encoder.read_to_end(&mut packed).unwrap();
        packed
    }

    #[test]
    fn gzipped_files_are_read_like_unpacked_ones() {
        let directory = valid_directory();
        let plain = load(directory.path()).unwrap();
        for entry in std::fs::read_dir(directory.path()).unwrap() {
            let path = entry.unwrap().path();
            let packed = compressed(&std::fs::read(&path).unwrap());
            std::fs::write(format!("{}.gz", path.display()), packed).unwrap();
            std::fs::remove_file(path).unwrap();
        }
        let data = load(directory.path()).unwrap();
        assert_eq!(
            (data.train, data.test, data.labels),
            (plain.train, plain.test, plain.labels)
        );
    }

    #[test]
    fn a_gzipped_file_cut_off_or_damaged_is_named() {
        let packed = compressed(&encode(&[3, 2, 2], &Vec::from_iter(0..12)));
        let mut damaged = packed.clone();
        *damaged.last_mut().unwrap() ^= 1;
        for bytes in [&damaged, &packed[..packed.len() / 2], &packed[..3]] {
            let error = error_with(IMAGES, bytes);
            assert!(matches!(error, DataError::Damaged { .. }), "{error}");
            assert!(error.to_string().contains(IMAGES), "{error}");
        }
    }

    #[test]
    fn images_and_labels_must_agree_in_number() {
        let error = error_with("train-labels-idx1-ubyte", &encode(&[2], &[0, 1]));
        assert!(
            matches!(
                error,
                DataError::CountMismatch {
                    images: 3,
                    labels: 2,
                    ..
                }
            ),
            "{error}"
        );
        assert!(!error.is_io());
    }

    #[test]
    fn no_images_and_no_pixels_are_refused() {
        let directory = valid_directory();
        let write = |name: &str, bytes: Vec<u8>| {
            std::fs::write(directory.path().join(name), bytes).unwrap();
        };
        write(IMAGES, encode(&[0, 2, 2], &[]));
        write("train-labels-idx1-ubyte", encode(&[0], &[]));
        let error = load(directory.path()).unwrap_err();
        assert!(matches!(error, DataError::Empty { .. }), "{error}");
        let error = error_with(IMAGES, &encode(&[3, 0, 2], &[]));
        assert!(
            matches!(error, DataError::UnsupportedShape { .. }),
            "{error}"
        );
    }

    #[test]
    fn held_out_images_must_have_the_training_size() {
        let error = error_with("t10k-images.idx3-ubyte", &encode(&[1, 3, 3], &[0; 9]));
        assert!(matches!(error, DataError::ShapeMismatch { .. }), "{error}");
    }

    #[test]
    fn the_handwritten_digits_in_assets_load() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/optdigits");
        let data = load(&directory).unwrap();
        assert_eq!((data.train.len(), data.test.len()), (1347, 450));
        assert_eq!(
            (data.train.height, data.train.width, data.train.channels),
            (8, 8, 1)
        );
        assert_eq!(data.labels.unwrap().class_names.len(), 10);
    }
}
