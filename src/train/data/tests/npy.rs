//! Tests the reading of NumPy's arrays, alone and in directories.

use std::collections::BTreeSet;
use std::fs;

use super::{Files, size};
use crate::train::augment::AugmentConfig;
use crate::train::data::{DataError, npy as format};

/// A file as NumPy writes it: version 1, the header padded to 64 bytes.
fn npy(descr: &str, fortran_order: bool, shape: &str, elements: &[u8]) -> Vec<u8> {
    let order = if fortran_order { "True" } else { "False" };
    let header = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}");
    let length = (10 + header.len() + 1).next_multiple_of(64) - 10;
    let header = format!("{header:<width$}\n", width = length - 1);
    let length = (length as u16).to_le_bytes();
    [
        b"\x93NUMPY\x01\0" as &[u8],
        &length,
        header.as_bytes(),
        elements,
    ]
    .concat()
}

fn bytes(shape: &str, elements: &[u8]) -> Vec<u8> {
    npy("|u1", false, shape, elements)
}

/// Ten images of 1x2 whose first pixel is their number, without labels.
fn ten_images(source: &'static str) -> Files {
    let pixels: Vec<u8> = (0..10).flat_map(|image| [image, 50]).collect();
    Files::new(source, [("x.npy", bytes("(10, 1, 2)", &pixels))])
}

#[test]
fn one_array_without_labels_is_divided() {
    let data = ten_images("npy:DIR/x.npy").load();
    assert_eq!(size(&data.train), (8, [1, 2, 1]));
    assert_eq!(size(&data.test), (2, [1, 2, 1]));
    assert_eq!(data.labels, None);
    assert_eq!(data.augment, AugmentConfig::grey());
    let pixels = [data.train.pixels, data.test.pixels].concat();
    let numbers: BTreeSet<u8> = pixels.into_iter().step_by(2).collect();
    assert_eq!(numbers, BTreeSet::from_iter(0..10));
}

#[test]
fn labels_of_any_integers_stay_with_their_images() {
    let files = ten_images("npy:DIR/x.npy,DIR/y.npy");
    // Image i has label −7 below 5 and 300 from there on.
    let values = [-7_i64, -7, -7, -7, -7, 300, 300, 300, 300, 300];
    let little = values.map(i64::to_le_bytes).concat();
    let big = values.map(|value| (value as i16).to_be_bytes()).concat();
    for labels in [
        npy("<i8", false, "(10,)", &little),
        npy(">i2", false, "(10, 1)", &big),
        npy(">i2", true, "(10L, 1L)", &big),
    ] {
        files.write("y.npy", &labels);
        let data = files.load();
        let labels = data.labels.unwrap();
        assert_eq!(labels.class_names, ["-7", "300"]);
        for (set, labels) in [(&data.train, labels.train), (&data.test, labels.test)] {
            let numbers = set.pixels.iter().step_by(2);
            let expected: Vec<u32> = numbers.map(|&number| u32::from(number >= 5)).collect();
            assert_eq!(labels, expected);
        }
        // One of five of each class.
        assert_eq!(data.test.len(), 2);
    }
    for (labels, word) in [
        (bytes("(9,)", &[0; 9]), "9 labels"),
        (npy("<f8", false, "(10,)", &[0; 80]), "integers"),
        (bytes("(10, 2)", &[0; 20]), "N x 1"),
    ] {
        files.refuse("y.npy", &labels, &["y.npy", word]);
    }
    // Labels are those of one array, not of a directory.
    let directory = files.directory.path();
    let error = format::load(directory, Some(&files.path("x.npy")), 0).unwrap_err();
    assert!(matches!(error, DataError::Missing { .. }), "{error}");
}

#[test]
fn a_directory_of_arrays_keeps_its_division() {
    let colour = bytes("(1, 2, 1, 3)", &[1, 2, 3, 4, 5, 6]);
    let files = Files::new(
        "npy:DIR",
        [("x_train.npy", colour.clone()), ("test_images.npy", colour)],
    );
    let data = files.load();
    assert_eq!(
        (size(&data.train), size(&data.test)),
        ((1, [2, 1, 3]), (1, [2, 1, 3]))
    );
    assert_eq!(data.labels, None);
    files.refuse(
        "train_labels.npy",
        &bytes("(1,)", &[4]),
        &["test_labels.npy"],
    );
    files.write("y_test.npy", &npy("|b1", false, "(1,)", &[1]));
    let labels = files.load().labels.unwrap();
    assert_eq!(labels.class_names, ["1", "4"]);
    assert_eq!((labels.train, labels.test), (vec![1], vec![0]));
    let other = bytes("(1, 2, 1)", &[1, 2]);
    files.refuse("test_images.npy", &other, &["2x1x1", "2x1x3"]);
}

#[test]
fn fortran_order_becomes_c_order() {
    // a[n, y, x] = 100n + 10y + x, first index fastest.
    let elements = [0, 100, 10, 110, 1, 101, 11, 111, 2, 102, 12, 112];
    let array = npy("|u1", true, "(2, 2, 3)", &elements);
    let files = Files::new(
        "npy:DIR",
        [("x_train.npy", array.clone()), ("x_test.npy", array)],
    );
    assert_eq!(files.load().train.image(1), [100, 101, 102, 110, 111, 112]);
}

#[test]
fn what_is_no_array_of_images_is_refused_with_what_is_allowed() {
    let whole = fs::read(ten_images("").path("x.npy")).unwrap();
    let huge = format!("({0}, {0}, {0})", u64::MAX);
    let cases: [(&[u8], &[&str]); 12] = [
        (b"PK\x03\x04....", &["unpack"]),
        (b"\x93N", &["2 bytes"]),
        (&whole[..40], &["header"]),
        (&whole[..whole.len() - 1], &["147 bytes", "148", "10, 1, 2"]),
        (&[&whole as &[u8], &[0]].concat(), &["149 bytes"]),
        (&npy("<f4", false, "(1, 1, 1)", &[0; 4]), &["<f4", "uint8"]),
        (&npy("|S0", true, "(1, 1)", &[]), &["simple type"]),
        (
            &bytes("(1, 3, 1, 2)", &[0; 6]),
            &["[1, 3, 1, 2]", "H x W x 3"],
        ),
        (&bytes("(4, 4)", &[0; 16]), &["[4, 4]"]),
        (&bytes("(0, 1, 1)", &[]), &["no images"]),
        (&bytes("(1, 1, 1)", &[0]), &["at least 2"]),
        (&bytes(&huge, &[]), &["bytes", "more than there can be"]),
    ];
    for (bytes, words) in cases {
        let words = [words, &["x.npy"]].concat();
        Files::new("npy:DIR/x.npy", []).refuse("x.npy", bytes, &words);
    }
}

#[test]
fn no_header_of_any_contents_panics() {
    let files = ten_images("npy:DIR/x.npy");
    let whole = fs::read(files.path("x.npy")).unwrap();
    // Replaces each byte of the header, one at a time.
    for place in 0..128 {
        for value in [0, b'\'', b'(', b')', b'0', b'9', b'{', 0xff] {
            let mut bytes = whole.clone();
            bytes[place] = value;
            files.write("x.npy", &bytes);
            if let Err(error) = files.try_load() {
                assert!(error.to_string().contains("x.npy"), "{error}");
            }
        }
    }
}
