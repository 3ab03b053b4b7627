//! CIFAR-10's binary version (<https://www.cs.toronto.edu/~kriz/cifar.html>).
//!
//! A batch file is a row of 3,073-byte records: one label, then 1,024 red, 1,024 green and 1,024
//! blue values, each plane row by row. The planes are interleaved here into the NHWC order of
//! [`ImageSet`].

use std::path::{Path, PathBuf};

use crate::train::augment::AugmentConfig;

use super::{DataError, Dataset, ImageSet, Labels, read_file, require_directory};

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;
const RECORD: usize = 1 + 3 * PLANE;

/// The classes in the order of their labels, for archives without `batches.meta.txt`.
const CLASS_NAMES: [&str; 10] = [
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
];

/// Reads the five training batches and the test batch from `directory` or from the
/// `cifar-10-batches-bin` folder that the archive unpacks into.
pub(super) fn load(directory: &Path) -> Result<Dataset, DataError> {
    require_directory(directory)?;
    let batches = batch_directory(directory);
    let (mut train, mut train_labels) = (empty_set(), Vec::new());
    for batch in 1..=5 {
        let path = batches.join(format!("data_batch_{batch}.bin"));
        append_batch(&path, &mut train, &mut train_labels)?;
    }
    let (mut test, mut test_labels) = (empty_set(), Vec::new());
    append_batch(&batches.join("test_batch.bin"), &mut test, &mut test_labels)?;
    Ok(Dataset {
        train,
        test,
        labels: Some(Labels {
            class_names: class_names(&batches)?,
            train: train_labels,
            test: test_labels,
        }),
        augment: AugmentConfig::cifar10(),
        notes: Vec::new(),
    })
}

/// Where the batches are: in the archive's own folder if `directory` holds it, else in
/// `directory`.
fn batch_directory(directory: &Path) -> PathBuf {
    let unpacked = directory.join("cifar-10-batches-bin");
    if unpacked.is_dir() {
        unpacked
    } else {
        directory.to_path_buf()
    }
}

fn empty_set() -> ImageSet {
    ImageSet {
        height: SIDE,
        width: SIDE,
        channels: 3,
        pixels: Vec::new(),
    }
}

/// Appends every record of one batch file to `set` and `labels`.
fn append_batch(path: &Path, set: &mut ImageSet, labels: &mut Vec<u32>) -> Result<(), DataError> {
    let bytes = read_file(path)?;
    if bytes.is_empty() {
        return Err(DataError::Empty {
            path: path.to_path_buf(),
        });
    }
    let (records, rest) = bytes.as_chunks::<RECORD>();
    if !rest.is_empty() {
        return Err(DataError::WrongLength {
            path: path.to_path_buf(),
            found: bytes.len() as u64,
            expected: format!("a multiple of the record size {RECORD}"),
        });
    }
    set.pixels.reserve(records.len() * 3 * PLANE);
    for (index, record) in records.iter().enumerate() {
        let label = u32::from(record[0]);
        if label as usize >= CLASS_NAMES.len() {
            return Err(DataError::LabelOutOfRange {
                path: path.to_path_buf(),
                index,
                found: label,
                largest: CLASS_NAMES.len() as u32 - 1,
            });
        }
        labels.push(label);
        for pixel in 1..=PLANE {
            set.pixels
                .extend([0, PLANE, 2 * PLANE].map(|plane| record[plane + pixel]));
        }
    }
    Ok(())
}

/// The names in `batches.meta.txt`, or the well-known ones where that file is absent.
fn class_names(batches: &Path) -> Result<Vec<String>, DataError> {
    let path = batches.join("batches.meta.txt");
    let text = match read_file(&path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(DataError::Missing { .. }) => CLASS_NAMES.join("\n"),
        Err(error) => return Err(error),
    };
    let names: Vec<String> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect();
    if names.len() != CLASS_NAMES.len() {
        return Err(DataError::WrongLength {
            path,
            found: text.len() as u64,
            expected: format!("10 lines with a class name each, found {}", names.len()),
        });
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes six batches of two records; every pixel's red, green, blue is (1, 2, 3).
    fn write_batches(directory: &Path) {
        let mut record = vec![7_u8];
        for value in [1, 2, 3] {
            record.extend([value; PLANE]);
        }
        let batch = record.repeat(2);
        for batch_number in 1..=5 {
            let path = directory.join(format!("data_batch_{batch_number}.bin"));
            std::fs::write(path, &batch).unwrap();
        }
        std::fs::write(directory.join("test_batch.bin"), &batch).unwrap();
    }

    #[test]
    fn planes_become_interleaved_pixels() {
        let directory = tempfile::tempdir().unwrap();
        write_batches(directory.path());
        let data = load(directory.path()).unwrap();
        assert_eq!((data.train.len(), data.test.len()), (10, 2));
        assert_eq!(data.train.image(9)[..6], [1, 2, 3, 1, 2, 3]);
        assert_eq!(data.train.pixels.len(), 10 * 3 * PLANE);
        assert_eq!(data.labels.unwrap().class_names[7], "horse");
    }

    #[test]
    fn the_unpacked_archive_and_its_class_names_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let unpacked = directory.path().join("cifar-10-batches-bin");
        std::fs::create_dir(&unpacked).unwrap();
        write_batches(&unpacked);
        std::fs::write(
            unpacked.join("batches.meta.txt"),
            "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n\n",
        )
        .unwrap();
        let data = load(directory.path()).unwrap();
        assert_eq!(data.labels.unwrap().class_names[9], "j");
    }

    #[test]
    fn a_truncated_batch_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        write_batches(directory.path());
        let path = directory.path().join("data_batch_4.bin");
        std::fs::write(&path, vec![0; RECORD + 5]).unwrap();
        let error = load(directory.path()).unwrap_err();
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
        std::fs::write(&path, vec![10; RECORD]).unwrap();
        let error = load(directory.path()).unwrap_err();
        assert!(
            matches!(error, DataError::LabelOutOfRange { found: 10, .. }),
            "{error}"
        );
        std::fs::write(&path, []).unwrap();
        let error = load(directory.path()).unwrap_err();
        assert!(matches!(error, DataError::Empty { .. }), "{error}");
        std::fs::remove_file(&path).unwrap();
        let error = load(directory.path()).unwrap_err();
        assert!(matches!(error, DataError::Missing { .. }), "{error}");
    }
}
