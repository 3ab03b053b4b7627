//! The binary versions of CIFAR-10 and CIFAR-100 (<https://www.cs.toronto.edu/~kriz/cifar.html>).
//!
//! A file is a sequence of records: one label (CIFAR-10) or a coarse and a fine one (CIFAR-100), a
//! byte each, then 1,024 red, 1,024 green and 1,024 blue values, each plane row by row. They are
//! interleaved here into the NHWC order of [`ImageSet`].

use std::path::Path;

use super::dataset::{Dataset, dataset};
use super::error::DataError;
use super::files::{read_file, require_directory};
use crate::train::image_set::ImageSet;

const SIDE: usize = 32;
pub(super) const PLANE: usize = SIDE * SIDE;

/// An archive, and which of its labels are used.
pub(super) struct Version {
    /// The folder that the archive unpacks into.
    folder: &'static str,
    train: &'static [&'static str],
    test: &'static str,
    /// The file with a class name a line.
    names_file: &'static str,
    /// Its usual contents, for archives without that file; if empty, classes are numbered.
    names: &'static str,
    /// Label bytes of a record, and the index of the one that is used.
    label_bytes: usize,
    label: usize,
    classes: usize,
}

/// 10 classes.
pub(super) const CIFAR10: Version = Version {
    folder: "cifar-10-batches-bin",
    train: &[
        "data_batch_1.bin",
        "data_batch_2.bin",
        "data_batch_3.bin",
        "data_batch_4.bin",
        "data_batch_5.bin",
    ],
    test: "test_batch.bin",
    names_file: "batches.meta.txt",
    names: "airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck",
    label_bytes: 1,
    label: 0,
    classes: 10,
};

/// 100 fine classes.
pub(super) const CIFAR100: Version = Version {
    folder: "cifar-100-binary",
    train: &["train.bin"],
    test: "test.bin",
    names_file: "fine_label_names.txt",
    names: "",
    label_bytes: 2,
    label: 1,
    classes: 100,
};

/// The same images in 20 coarse classes.
pub(super) const CIFAR100_COARSE: Version = Version {
    names_file: "coarse_label_names.txt",
    label: 0,
    classes: 20,
    ..CIFAR100
};

/// Reads the training files and the test file of `version` from `directory` or from the folder that
/// the archive unpacks into.
pub(super) fn load(directory: &Path, version: &Version) -> Result<Dataset, DataError> {
    require_directory(directory)?;
    let unpacked = directory.join(version.folder);
    let directory = if unpacked.is_dir() {
        &unpacked
    } else {
        directory
    };
    let train = version.read(directory, version.train)?;
    let test = version.read(directory, &[version.test])?;
    let class_names = version.class_names(&directory.join(version.names_file))?;
    Ok(dataset(train, test, Some(class_names)))
}

impl Version {
    /// Every record of `files`, in order.
    fn read(&self, directory: &Path, files: &[&str]) -> Result<(ImageSet, Vec<u32>), DataError> {
        let record_length = self.label_bytes + 3 * PLANE;
        let (mut pixels, mut labels) = (Vec::new(), Vec::new());
        for file in files {
            let path = directory.join(file);
            let bytes = read_file(&path)?;
            if bytes.is_empty() {
                return Err(DataError::empty(&path));
            }
            if !bytes.len().is_multiple_of(record_length) {
                let expected = format!("a multiple of the record size {record_length}");
                return Err(DataError::wrong_length(&path, bytes.len(), expected));
            }
            for (index, record) in bytes.chunks_exact(record_length).enumerate() {
                let label = u32::from(record[self.label]);
                if label as usize >= self.classes {
                    let found = format!("has the label {label} at image {index}");
                    let allowed = format!("allowed is 0 to {}", self.classes - 1);
                    return Err(DataError::unfit(&path, found, allowed));
                }
                labels.push(label);
                let planes = &record[self.label_bytes..];
                for pixel in 0..PLANE {
                    pixels.extend([0, PLANE, 2 * PLANE].map(|plane| planes[plane + pixel]));
                }
            }
        }
        let set = ImageSet {
            height: SIDE,
            width: SIDE,
            channels: 3,
            pixels,
        };
        Ok((set, labels))
    }

    /// The names in the file at `path`; without that file the usual names, or numbers.
    fn class_names(&self, path: &Path) -> Result<Vec<String>, DataError> {
        let text = match read_file(path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(DataError::Missing { .. }) if self.names.is_empty() => {
                return Ok((0..self.classes).map(|label| label.to_string()).collect());
            }
            Err(DataError::Missing { .. }) => self.names.to_owned(),
            Err(error) => return Err(error),
        };
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let names: Vec<String> = lines.map(str::to_owned).collect();
        if names.len() != self.classes {
            let (wanted, found) = (self.classes, names.len());
            let expected = format!("{wanted} lines with a class name each, found {found}");
            return Err(DataError::wrong_length(path, text.len(), expected));
        }
        Ok(names)
    }
}
