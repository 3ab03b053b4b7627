//! Reads MNIST's IDX format, with images of any size.
//!
//! An IDX file is a big-endian header (two zero bytes, an element type, the number of dimensions,
//! then each dimension as u32) and the elements, last dimension fastest
//! (<http://yann.lecun.com/exdb/mnist>). Image files are `[images, rows, columns]` or `[images,
//! rows, columns, channels]` of u8, label files `[images]` of u8. Each may be compressed with gzip.

use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::dataset::{Dataset, dataset, images_of_array, require_labels, require_same_shape};
use super::error::DataError;
use super::files::{locate, read_file, require_directory};
use crate::train::image_set::ImageSet;

/// The element type "unsigned byte" in the header's third byte.
const UNSIGNED_BYTE: u8 = 0x08;

/// Reads `train-*` and `t10k-*` from `directory`.
pub(super) fn load(directory: &Path) -> Result<Dataset, DataError> {
    require_directory(directory)?;
    let (train, _) = read_split(directory, "train")?;
    let (test, test_path) = read_split(directory, "t10k")?;
    require_same_shape(&train.0, &test.0, &test_path)?;
    let largest = train.1.iter().chain(&test.1).max();
    let class_names = (0..=*largest.unwrap_or(&0)).map(|label| label.to_string());
    let class_names = class_names.collect();
    Ok(dataset(train, test, Some(class_names)))
}

/// Reads the images and labels of one split; the path is that of the images.
fn read_split(directory: &Path, split: &str) -> Result<((ImageSet, Vec<u32>), PathBuf), DataError> {
    let IdxFile {
        path,
        dimensions,
        elements,
    } = IdxFile::read(directory, &format!("{split}-images"), &[3, 4])?;
    let Some(images) = images_of_array(&dimensions, elements) else {
        let (height, width) = (dimensions[1], dimensions[2]);
        let channels = dimensions.get(3).unwrap_or(&1);
        let found = format!("has images of {height}x{width}x{channels}");
        let allowed = "allowed are rows and columns from 1 up, 1 or 3 channels";
        return Err(DataError::unfit(&path, found, allowed.to_owned()));
    };
    let labels = IdxFile::read(directory, &format!("{split}-labels"), &[1])?;
    require_labels(&images, &path, labels.elements.len(), &labels.path)?;
    if images.is_empty() {
        return Err(DataError::empty(&path));
    }
    let labels = labels.elements.into_iter().map(u32::from).collect();
    Ok(((images, labels), path))
}

/// The contents of one IDX file of unsigned bytes.
struct IdxFile {
    path: PathBuf,
    dimensions: Vec<usize>,
    elements: Vec<u8>,
}

impl IdxFile {
    /// Reads `{stem}-idx{rank}-ubyte`, the same with a dot before `idx`, as some mirrors unpack
    /// it, or either with `.gz`. `ranks` are the allowed numbers of dimensions.
    fn read(directory: &Path, stem: &str, ranks: &[usize]) -> Result<Self, DataError> {
        let mut names = Vec::new();
        for rank in ranks {
            for separator in ['-', '.'] {
                let name = format!("{stem}{separator}idx{rank}-ubyte");
                names.extend([name.clone(), name + ".gz"]);
            }
        }
        let path = locate(directory, &names, "an IDX file, or the same with .gz")?;
        let bytes = read_unpacked(&path)?;
        let wrong_length =
            |expected: String| Err(DataError::wrong_length(&path, bytes.len(), expected));

        let Some((&magic, rest)) = bytes.split_first_chunk::<4>() else {
            return wrong_length("at least the 4 bytes of an IDX magic".to_owned());
        };
        let rank = usize::from(magic[3]);
        if magic[..3] != [0, 0, UNSIGNED_BYTE] || !ranks.contains(&rank) {
            let magics = ranks
                .iter()
                .map(|rank| format!("0x{:08x}", (usize::from(UNSIGNED_BYTE) << 8) + rank));
            let magics = magics.collect::<Vec<_>>().join(" or ");
            let expected = format!("{magics} (IDX of unsigned bytes)");
            return Err(DataError::wrong_magic(&path, magic, expected));
        }
        let header = 4 + 4 * rank;
        let Some((fields, elements)) = rest.split_at_checked(4 * rank) else {
            return wrong_length(format!("at least the {header} bytes of the header"));
        };
        let fields = fields.as_chunks().0.iter();
        let dimensions: Vec<usize> = fields
            .map(|field| u32::from_be_bytes(*field) as usize)
            .collect();
        // In u128, because four u32 may multiply past 64 bits.
        let count: u128 = dimensions.iter().map(|&along| along as u128).product();
        if count != elements.len() as u128 {
            return wrong_length(format!(
                "{} (a header of {header} and dimensions {dimensions:?})",
                count + header as u128
            ));
        }
        let elements = elements.to_vec();
        Ok(Self {
            path,
            dimensions,
            elements,
        })
    }
}

/// Reads a file, and unpacks it if its contents are gzip, whatever its name.
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
