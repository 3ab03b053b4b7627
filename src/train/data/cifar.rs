//! The binary versions of CIFAR-10 and CIFAR-100 (<https://www.cs.toronto.edu/~kriz/cifar.html>).
//!
//! A file is a row of records: one label (CIFAR-10) or a coarse and a fine one (CIFAR-100), a byte
//! each, then 1,024 red, 1,024 green and 1,024 blue values, each plane row by row. The planes are
//! interleaved here into the NHWC order of [`ImageSet`].

use std::path::{Path, PathBuf};

use crate::train::augment::AugmentConfig;

use super::{DataError, Dataset, ImageSet, Labels, read_file, require_directory};

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;

/// One of the archives, with the labels that are taken from it.
pub(super) struct Version {
    /// The folder that the archive unpacks into.
    folder: &'static str,
    train: &'static [&'static str],
    test: &'static str,
    /// The file with a class name a line.
    names_file: &'static str,
    /// Names for archives without that file; where there are none, numbers.
    names: &'static [&'static str],
    /// Label bytes of a record, and which of them is taken.
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
    names: &[
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ],
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
    names: &[],
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
        unpacked
    } else {
        directory.to_path_buf()
    };
    let (train, train_labels) = version.read(&directory, version.train)?;
    let (test, test_labels) = version.read(&directory, &[version.test])?;
    Ok(Dataset {
        train,
        test,
        labels: Some(Labels {
            class_names: version.class_names(directory.join(version.names_file))?,
            train: train_labels,
            test: test_labels,
        }),
        augment: AugmentConfig::cifar10(),
        notes: Vec::new(),
    })
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
                return Err(DataError::Empty { path });
            }
            if !bytes.len().is_multiple_of(record_length) {
                return Err(DataError::WrongLength {
                    path,
                    found: bytes.len() as u64,
                    expected: format!("a multiple of the record size {record_length}"),
                });
            }
            for (index, record) in bytes.chunks_exact(record_length).enumerate() {
                let label = u32::from(record[self.label]);
                if label as usize >= self.classes {
                    return Err(DataError::LabelOutOfRange {
                        path,
                        index,
                        found: label,
                        largest: self.classes as u32 - 1,
                    });
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

    /// The names in the file at `path`; without it the well-known ones, or numbers.
    fn class_names(&self, path: PathBuf) -> Result<Vec<String>, DataError> {
        let text = match read_file(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(DataError::Missing { .. }) if self.names.is_empty() => {
                return Ok((0..self.classes).map(|label| label.to_string()).collect());
            }
            Err(DataError::Missing { .. }) => self.names.join("\n"),
            Err(error) => return Err(error),
        };
        let names: Vec<String> = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect();
        if names.len() != self.classes {
            return Err(DataError::WrongLength {
                path,
                found: text.len() as u64,
                expected: format!(
                    "{} lines with a class name each, found {}",
                    self.classes,
                    names.len()
                ),
            });
        }
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record whose pixels' red, green, blue is (1, 2, 3).
    fn record(labels: &[u8]) -> Vec<u8> {
        let planes = [1, 2, 3].map(|value| vec![value; PLANE]).concat();
        [labels, &planes].concat()
    }

    /// Writes CIFAR-10's six files of two records.
    fn write_batches(directory: &Path) {
        let batch = record(&[7]).repeat(2);
        for file in CIFAR10.train.iter().chain([&CIFAR10.test]) {
            std::fs::write(directory.join(file), &batch).unwrap();
        }
    }

    #[test]
    fn planes_become_interleaved_pixels() {
        let directory = tempfile::tempdir().unwrap();
        write_batches(directory.path());
        let data = load(directory.path(), &CIFAR10).unwrap();
        assert_eq!((data.train.len(), data.test.len()), (10, 2));
        assert_eq!(data.train.image(9)[..6], [1, 2, 3, 1, 2, 3]);
        assert_eq!(data.train.pixels.len(), 10 * 3 * PLANE);
        let labels = data.labels.unwrap();
        assert_eq!(labels.train, [7; 10]);
        assert_eq!(labels.class_names[7], "horse");
    }

    #[test]
    fn the_unpacked_archive_and_its_class_names_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let unpacked = directory.path().join("cifar-10-batches-bin");
        std::fs::create_dir(&unpacked).unwrap();
        write_batches(&unpacked);
        let names = "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n\n";
        std::fs::write(unpacked.join("batches.meta.txt"), names).unwrap();
        let data = load(directory.path(), &CIFAR10).unwrap();
        assert_eq!(data.labels.unwrap().class_names[9], "j");
    }

    #[test]
    fn cifar_100_is_read_with_fine_or_coarse_labels() {
        let directory = tempfile::tempdir().unwrap();
        let unpacked = directory.path().join("cifar-100-binary");
        std::fs::create_dir(&unpacked).unwrap();
        let train = [record(&[19, 99]), record(&[4, 0])].concat();
        std::fs::write(unpacked.join("train.bin"), train).unwrap();
        std::fs::write(unpacked.join("test.bin"), record(&[0, 51])).unwrap();
        let coarse_names: Vec<String> = (0..20).map(|class| format!("group {class}")).collect();
        let names_file = unpacked.join("coarse_label_names.txt");
        std::fs::write(names_file, coarse_names.join("\n")).unwrap();

        let read = |version| load(directory.path(), version).unwrap();
        let fine = read(&CIFAR100);
        assert_eq!((fine.train.len(), fine.test.len()), (2, 1));
        assert_eq!(fine.train.image(1)[..6], [1, 2, 3, 1, 2, 3]);
        let labels = fine.labels.unwrap();
        assert_eq!((labels.train, labels.test), (vec![99, 0], vec![51]));
        assert_eq!(labels.class_names.len(), 100);
        assert_eq!(labels.class_names[99], "99");

        let labels = read(&CIFAR100_COARSE).labels.unwrap();
        assert_eq!((labels.train, labels.test), (vec![19, 4], vec![0]));
        assert_eq!(labels.class_names, coarse_names);

        std::fs::write(unpacked.join("test.bin"), record(&[20, 99])).unwrap();
        let error = load(directory.path(), &CIFAR100_COARSE).unwrap_err();
        assert!(
            matches!(
                error,
                DataError::LabelOutOfRange {
                    found: 20,
                    largest: 19,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn a_truncated_batch_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        write_batches(directory.path());
        let path = directory.path().join("data_batch_4.bin");
        std::fs::write(&path, vec![0; 3078]).unwrap();
        let error = load(directory.path(), &CIFAR10).unwrap_err();
        assert!(
            matches!(error, DataError::WrongLength { found: 3078, .. }),
            "{error}"
        );
        assert!(error.to_string().contains("data_batch_4.bin"), "{error}");
    }

    #[test]
    fn a_missing_empty_or_mislabelled_batch_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        write_batches(directory.path());
        let path = directory.path().join("test_batch.bin");
        std::fs::write(&path, record(&[10])).unwrap();
        let error = load(directory.path(), &CIFAR10).unwrap_err();
        assert!(
            matches!(error, DataError::LabelOutOfRange { found: 10, .. }),
            "{error}"
        );
        std::fs::write(&path, []).unwrap();
        let error = load(directory.path(), &CIFAR10).unwrap_err();
        assert!(matches!(error, DataError::Empty { .. }), "{error}");
        std::fs::remove_file(&path).unwrap();
        let error = load(directory.path(), &CIFAR10).unwrap_err();
        assert!(matches!(error, DataError::Missing { .. }), "{error}");
    }
}
