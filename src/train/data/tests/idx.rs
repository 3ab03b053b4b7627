//! Tests the reading of MNIST's IDX files, plain and compressed.

use std::fs;

use super::Files;
use crate::train::augment::AugmentConfig;

/// The bytes of an IDX file.
fn idx(dimensions: &[u32], elements: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, dimensions.len() as u8];
    bytes.extend(dimensions.iter().flat_map(|along| along.to_be_bytes()));
    bytes.extend(elements);
    bytes
}

const IDX_IMAGES: &str = "train-images-idx3-ubyte";
const IDX_LABELS: &str = "train-labels-idx1-ubyte";

/// Three 2x2 training images and one held-out image, under both spellings.
fn digits() -> Files {
    Files::new(
        "idx:DIR",
        [
            (IDX_IMAGES, idx(&[3, 2, 2], &Vec::from_iter(0..12))),
            (IDX_LABELS, idx(&[3], &[0, 1, 4])),
            ("t10k-images.idx3-ubyte", idx(&[1, 2, 2], &[9; 4])),
            ("t10k-labels.idx1-ubyte", idx(&[1], &[2])),
        ],
    )
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    use std::io::Read;
    let mut packed = Vec::new();
    let mut encoder = flate2::read::GzEncoder::new(bytes, flate2::Compression::default());
    encoder.read_to_end(&mut packed).unwrap();
    packed
}

#[test]
fn idx_images_and_labels_are_read_under_both_spellings() {
    let data = digits().load();
    assert_eq!(data.train.len(), 3);
    assert_eq!(data.train.image(1), &[4, 5, 6, 7]);
    let labels = data.labels.unwrap();
    assert_eq!((labels.train, labels.test), (vec![0, 1, 4], vec![2]));
    assert_eq!(labels.class_names, ["0", "1", "2", "3", "4"]);
    assert_eq!(data.augment, AugmentConfig::grey());
}

#[test]
fn a_fourth_dimension_of_idx_holds_colour() {
    let files = digits();
    files.remove(IDX_IMAGES);
    files.remove("t10k-images.idx3-ubyte");
    files.write("train-images-idx4-ubyte", &idx(&[3, 2, 2, 3], &[7; 36]));
    files.write("t10k-images-idx4-ubyte", &idx(&[1, 2, 2, 3], &[7; 12]));
    let data = files.load();
    assert_eq!((data.train.channels, data.test.channels), (3, 3));
}

#[test]
fn gzipped_idx_files_are_read_like_unpacked_ones() {
    let files = digits();
    let plain = files.load();
    for entry in fs::read_dir(files.directory.path()).unwrap() {
        let path = entry.unwrap().path();
        let packed = compressed(&fs::read(&path).unwrap());
        fs::write(format!("{}.gz", path.display()), packed).unwrap();
        fs::remove_file(path).unwrap();
    }
    let data = files.load();
    assert_eq!((data.train, data.test), (plain.train, plain.test));
    assert_eq!(data.labels, plain.labels);
}

#[test]
fn idx_files_that_do_not_fit_are_refused_with_what_does() {
    let whole = idx(&[3, 2, 2], &Vec::from_iter(0..12));
    let packed = compressed(&whole);
    let mut damaged = packed.clone();
    *damaged.last_mut().unwrap() ^= 1;
    let images: [(&[u8], &[&str]); 11] = [
        (&whole[..27], &["holds 27 bytes", "expected 28"]),
        (&[], &["holds 0 bytes"]),
        (&whole[..3], &["holds 3 bytes"]),
        (&whole[..4], &["holds 4 bytes"]),
        (&whole[..9], &["holds 9 bytes"]),
        (&[0, 0, 0x0d, 3], &["0x00000d03", "0x00000803"]),
        (&damaged, &["damaged", "gzip"]),
        (&packed[..packed.len() / 2], &["damaged", "gzip"]),
        (&packed[..3], &["damaged", "gzip"]),
        (&idx(&[3, 0, 2], &[]), &["images of 0x2x1", "from 1 up"]),
        (&idx(&[2, 2, 2], &[0; 8]), &["2 images", "3 labels"]),
    ];
    for (bytes, words) in images {
        digits().refuse(IDX_IMAGES, bytes, &[words, &[IDX_IMAGES]].concat());
    }
    let files = digits();
    files.refuse(IDX_LABELS, &idx(&[2], &[0, 1]), &["3 images", "2 labels"]);
    files.write(IDX_IMAGES, &idx(&[0, 2, 2], &[]));
    files.refuse(IDX_LABELS, &idx(&[0], &[]), &[IDX_IMAGES, "no images"]);
    let larger = idx(&[1, 3, 3], &[0; 9]);
    digits().refuse("t10k-images.idx3-ubyte", &larger, &["3x3x1", "2x2x1"]);
    // A header that asks for more than there is memory.
    let files = digits();
    files.remove(IDX_IMAGES);
    let header = idx(&[u32::MAX; 4], &[]);
    files.refuse("train-images-idx4-ubyte", &header, &["holds 20 bytes"]);
}
