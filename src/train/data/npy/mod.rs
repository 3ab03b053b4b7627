//! Images and labels in arrays as NumPy saves them.
//!
//! Images are uint8, N×H×W or N×H×W×C with C of 1 or 3; labels are integers, N or N×1.

mod array;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use array::Array;

use super::{
    DataError, Dataset, ImageSet, Labels, augment_of_arrays, held_out, require_directory,
    require_same_shape,
};

/// Reads one array of images, of which some are held out, or a directory with both.
///
/// In a directory the arrays have the names that Keras' and MedMNIST's archives give them; labels
/// are optional.
pub(super) fn load(images: &Path, labels: Option<&Path>, seed: u64) -> Result<Dataset, DataError> {
    // What is not there was meant as an array when it is named like one.
    let is_directory = images.is_dir()
        || !images.exists() && images.extension().is_none_or(|ending| ending != "npy");
    let (train, test, values) = if is_directory && labels.is_none() {
        read_directory(images)?
    } else {
        let all = read_images(images)?;
        let values = labels.map(|labels| read_labels(labels, &all, images));
        divide(&all, values.transpose()?, seed).ok_or_else(|| DataError::NothingHeldOut {
            path: images.to_path_buf(),
            found: all.len(),
        })?
    };
    Ok(Dataset {
        augment: augment_of_arrays(&train),
        train,
        test,
        labels: values.map(|(train, test)| name_classes(&train, &test)),
        notes: Vec::new(),
    })
}

/// Training images, held-out images, and the labels of both.
type Divided = (ImageSet, ImageSet, Option<(Vec<i128>, Vec<i128>)>);

/// Arrays that are divided already; labels belong to both sides or to none.
fn read_directory(directory: &Path) -> Result<Divided, DataError> {
    require_directory(directory)?;
    let train_path = locate(directory, ["train_images.npy", "x_train.npy"])?;
    let test_path = locate(directory, ["test_images.npy", "x_test.npy"])?;
    let (train, test) = (read_images(&train_path)?, read_images(&test_path)?);
    require_same_shape(&train, &test, &test_path)?;
    let train_labels = locate(directory, ["train_labels.npy", "y_train.npy"]);
    let test_labels = locate(directory, ["test_labels.npy", "y_test.npy"]);
    if train_labels.is_err() && test_labels.is_err() {
        return Ok((train, test, None));
    }
    let train_labels = read_labels(&train_labels?, &train, &train_path)?;
    let test_labels = read_labels(&test_labels?, &test, &test_path)?;
    Ok((train, test, Some((train_labels, test_labels))))
}

fn locate(directory: &Path, names: [&str; 2]) -> Result<PathBuf, DataError> {
    let paths = names.map(|name| directory.join(name));
    let found = paths.iter().find(|path| path.is_file()).cloned();
    found.ok_or_else(|| DataError::Missing {
        path: paths[0].clone(),
        wanted: format!("that array, or {}", names[1]),
    })
}

/// Holds images of every class out; `None` when that leaves one side empty.
fn divide(all: &ImageSet, values: Option<Vec<i128>>, seed: u64) -> Option<Divided> {
    let mut classes: BTreeMap<Option<i128>, Vec<usize>> = BTreeMap::new();
    for image in 0..all.len() {
        let class = values.as_ref().map(|values| values[image]);
        classes.entry(class).or_default().push(image);
    }
    let mut is_held_out = vec![false; all.len()];
    for (class, images) in classes.into_values().enumerate() {
        let chosen = held_out(images.len(), class, seed);
        for (image, chosen) in images.into_iter().zip(chosen) {
            is_held_out[image] = chosen;
        }
    }
    let side = |wanted: bool| -> Vec<usize> {
        (0..all.len())
            .filter(|&image| is_held_out[image] == wanted)
            .collect()
    };
    let (train, test) = (side(false), side(true));
    if train.is_empty() || test.is_empty() {
        return None;
    }
    let set = |images: &[usize]| ImageSet {
        pixels: images
            .iter()
            .flat_map(|&image| all.image(image))
            .copied()
            .collect(),
        ..*all
    };
    let choose = |values: &[i128], images: &[usize]| -> Vec<i128> {
        images.iter().map(|&image| values[image]).collect()
    };
    let values = values.map(|values| (choose(&values, &train), choose(&values, &test)));
    Some((set(&train), set(&test), values))
}

/// Classes are the values that occur, in their order, under the value as a name.
fn name_classes(train: &[i128], test: &[i128]) -> Labels {
    let classes: Vec<i128> = BTreeSet::from_iter(train.iter().chain(test).copied())
        .into_iter()
        .collect();
    let indices = |values: &[i128]| -> Vec<u32> {
        let index = |value: &i128| classes.partition_point(|class| class < value) as u32;
        values.iter().map(index).collect()
    };
    Labels {
        train: indices(train),
        test: indices(test),
        class_names: classes.iter().map(i128::to_string).collect(),
    }
}

fn read_images(path: &Path) -> Result<ImageSet, DataError> {
    let array = Array::read(path)?;
    if array.kind != ('u', 1) {
        return Err(array.wrong_type("uint8 ('|u1')"));
    }
    let (height, width, channels) = match array.shape[..] {
        [_, height, width] => (height, width, 1),
        [_, height, width, channels @ (1 | 3)] => (height, width, channels),
        _ => (0, 0, 0),
    };
    if height == 0 || width == 0 {
        return Err(
            array.wrong_shape("N x H x W, N x H x W x 1 or N x H x W x 3, with H and W from 1 up")
        );
    }
    if array.shape[0] == 0 {
        return Err(DataError::Empty { path: array.path });
    }
    Ok(ImageSet {
        height,
        width,
        channels,
        pixels: array.elements,
    })
}

/// A value for each of `images`, which were read from `images_path`.
fn read_labels(path: &Path, images: &ImageSet, images_path: &Path) -> Result<Vec<i128>, DataError> {
    let array = Array::read(path)?;
    let (signed, size) = match array.kind {
        ('i', size @ (1 | 2 | 4 | 8)) => (true, size),
        ('u' | 'b', size @ (1 | 2 | 4 | 8)) => (false, size),
        _ => return Err(array.wrong_type("integers of 1 to 8 bytes")),
    };
    if !matches!(array.shape[..], [_] | [_, 1]) {
        return Err(array.wrong_shape("N or N x 1"));
    }
    if array.shape[0] != images.len() {
        return Err(DataError::CountMismatch {
            images_path: images_path.to_path_buf(),
            images: images.len(),
            labels_path: array.path,
            labels: array.shape[0],
        });
    }
    let value = |bytes: &[u8]| {
        // Extends the sign to 16 bytes, little-endian.
        let mut ordered = bytes.to_vec();
        if array.big_endian {
            ordered.reverse();
        }
        let negative = signed && ordered[size - 1] >= 0x80;
        let mut wide = [if negative { 0xff } else { 0 }; 16];
        wide[..size].copy_from_slice(&ordered);
        i128::from_le_bytes(wide)
    };
    Ok(array.elements.chunks_exact(size).map(value).collect())
}

#[cfg(test)]
mod tests {
    use super::array::MAGIC;
    use super::*;
    use crate::train::augment::AugmentConfig;

    /// A file as NumPy writes it: version 1, the header padded to 64 bytes.
    fn encode(descr: &str, fortran_order: bool, shape: &str, elements: &[u8]) -> Vec<u8> {
        let order = if fortran_order { "True" } else { "False" };
        let header =
            format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}");
        let length = (10 + header.len() + 1).next_multiple_of(64) - 10;
        let header = format!("{header:<width$}\n", width = length - 1);
        [
            MAGIC as &[u8],
            &[1, 0],
            &(length as u16).to_le_bytes(),
            header.as_bytes(),
            elements,
        ]
        .concat()
    }

    fn bytes(shape: &str, elements: &[u8]) -> Vec<u8> {
        encode("|u1", false, shape, elements)
    }

    fn write(directory: &tempfile::TempDir, name: &str, bytes: &[u8]) -> PathBuf {
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Ten images of 1x2 whose first pixel is their number.
    fn ten_images() -> Vec<u8> {
        let pixels: Vec<u8> = (0..10).flat_map(|image| [image, 50]).collect();
        bytes("(10, 1, 2)", &pixels)
    }

    #[test]
    fn one_array_without_labels_is_divided() {
        let directory = tempfile::tempdir().unwrap();
        let path = write(&directory, "x.npy", &ten_images());
        let data = load(&path, None, 1).unwrap();
        assert_eq!((data.train.len(), data.test.len()), (8, 2));
        assert_eq!(data.labels, None);
        let shape = (data.train.height, data.train.width, data.train.channels);
        assert_eq!(shape, (1, 2, 1));
        assert_eq!(data.augment, AugmentConfig::grey());
        let mut numbers: Vec<u8> = [&data.train, &data.test]
            .into_iter()
            .flat_map(|set| (0..set.len()).map(|i| set.image(i)[0]))
            .collect();
        numbers.sort_unstable();
        assert_eq!(numbers, Vec::from_iter(0..10));
    }

    #[test]
    fn labels_of_any_integers_stay_with_their_images() {
        let directory = tempfile::tempdir().unwrap();
        let images = write(&directory, "x.npy", &ten_images());
        // Image i has label −7 below 5 and 300 from there on.
        let values = |i: i64| if i < 5 { -7i64 } else { 300 };
        let little: Vec<u8> = (0..10).flat_map(|i| values(i).to_le_bytes()).collect();
        let big: Vec<u8> = (0..10)
            .flat_map(|i| (values(i) as i16).to_be_bytes())
            .collect();
        for labels in [
            encode("<i8", false, "(10,)", &little),
            encode(">i2", false, "(10, 1)", &big),
            encode(">i2", true, "(10L, 1L)", &big),
        ] {
            let labels = write(&directory, "y.npy", &labels);
            let data = load(&images, Some(&labels), 1).unwrap();
            let labels = data.labels.unwrap();
            assert_eq!(labels.class_names, ["-7", "300"]);
            for (set, labels) in [(&data.train, labels.train), (&data.test, labels.test)] {
                let expected: Vec<u32> = (0..set.len())
                    .map(|i| u32::from(set.image(i)[0] >= 5))
                    .collect();
                assert_eq!(labels, expected);
            }
            // One of five of each class.
            assert_eq!(data.test.len(), 2);
        }
    }

    #[test]
    fn a_directory_of_arrays_keeps_its_division() {
        let directory = tempfile::tempdir().unwrap();
        let colour = bytes("(1, 2, 1, 3)", &[1, 2, 3, 4, 5, 6]);
        write(&directory, "x_train.npy", &colour);
        write(&directory, "test_images.npy", &colour);
        let data = load(directory.path(), None, 0).unwrap();
        assert_eq!((data.train.len(), data.test.len()), (1, 1));
        assert_eq!((data.train.height, data.train.channels), (2, 3));
        assert_eq!(data.labels, None);
        write(&directory, "train_labels.npy", &bytes("(1,)", &[4]));
        let error = load(directory.path(), None, 0).unwrap_err();
        assert!(error.to_string().contains("test_labels.npy"), "{error}");
        write(
            &directory,
            "y_test.npy",
            &encode("|b1", false, "(1,)", &[1]),
        );
        let labels = load(directory.path(), None, 0).unwrap().labels.unwrap();
        assert_eq!(labels.class_names, ["1", "4"]);
        assert_eq!((labels.train, labels.test), (vec![1], vec![0]));
        write(&directory, "test_images.npy", &bytes("(1, 2, 1)", &[1, 2]));
        let error = load(directory.path(), None, 0).unwrap_err();
        assert!(matches!(error, DataError::ShapeMismatch { .. }), "{error}");
    }

    #[test]
    fn fortran_order_is_turned_into_rows() {
        let directory = tempfile::tempdir().unwrap();
        // a[n, y, x] = 100n + 10y + x, first index fastest.
        let mut elements = Vec::new();
        for x in 0..3 {
            for y in 0..2 {
                elements.extend((0..2).map(|n| 100 * n + 10 * y + x));
            }
        }
        let path = write(
            &directory,
            "x.npy",
            &encode("|u1", true, "(2, 2, 3)", &elements),
        );
        let set = read_images(&path).unwrap();
        assert_eq!(set.image(1), [100, 101, 102, 110, 111, 112]);
    }

    #[test]
    fn what_is_no_array_of_images_is_refused_with_what_is_allowed() {
        let cases: [(&str, Vec<u8>, &[&str]); 11] = [
            ("archive", b"PK\x03\x04....".to_vec(), &["unpack"]),
            ("short", b"\x93N".to_vec(), &["2 bytes"]),
            ("header", ten_images()[..40].to_vec(), &["header"]),
            (
                "cut",
                ten_images()[..ten_images().len() - 1].to_vec(),
                &["(10, 1, 2)".trim_matches(['(', ')'])],
            ),
            ("long", [ten_images(), vec![0]].concat(), &["bytes"]),
            (
                "floats",
                encode("<f4", false, "(1, 1, 1)", &[0; 4]),
                &["<f4", "uint8"],
            ),
            (
                "planes",
                bytes("(1, 3, 1, 2)", &[0; 6]),
                &["[1, 3, 1, 2]", "H x W x 3"],
            ),
            ("flat", bytes("(4, 4)", &[0; 16]), &["[4, 4]"]),
            ("none", bytes("(0, 1, 1)", &[]), &["no images"]),
            ("one", bytes("(1, 1, 1)", &[0]), &["at least 2"]),
            (
                "huge",
                bytes(
                    "(18446744073709551615, 18446744073709551615, 18446744073709551615)",
                    &[],
                ),
                &["bytes"],
            ),
        ];
        let directory = tempfile::tempdir().unwrap();
        for (name, bytes, words) in cases {
            let path = write(&directory, &format!("{name}.npy"), &bytes);
            let error = load(&path, None, 0).unwrap_err();
            let message = error.to_string();
            assert!(!error.is_io(), "{message}");
            for word in words.iter().chain(&[&*format!("{name}.npy")]) {
                assert!(message.contains(word), "{word} is not in {message}");
            }
        }
    }

    #[test]
    fn no_header_of_any_contents_panics() {
        let directory = tempfile::tempdir().unwrap();
        let whole = ten_images();
        // Every byte of the header, replaced in turn.
        for place in 0..128 {
            for value in [0, b'\'', b'(', b')', b'9', b'{', 0xff] {
                let mut bytes = whole.clone();
                bytes[place] = value;
                let path = write(&directory, "x.npy", &bytes);
                if let Err(error) = load(&path, None, 0) {
                    assert!(error.to_string().contains("x.npy"), "{error}");
                }
            }
        }
    }

    #[test]
    fn labels_must_be_integers_and_one_per_image() {
        let directory = tempfile::tempdir().unwrap();
        let images = write(&directory, "x.npy", &ten_images());
        for (labels, word) in [
            (bytes("(9,)", &[0; 9]), "9 labels"),
            (encode("<f8", false, "(10,)", &[0; 80]), "integers"),
            (bytes("(10, 2)", &[0; 20]), "N x 1"),
        ] {
            let labels = write(&directory, "y.npy", &labels);
            let error = load(&images, Some(&labels), 0).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
        let error = load(directory.path(), Some(&images), 0).unwrap_err();
        assert!(matches!(error, DataError::Missing { .. }), "{error}");
    }
}
