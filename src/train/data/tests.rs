//! The formats that come as arrays, each from files as others write them.

use std::collections::BTreeSet;
use std::fs;

use tempfile::TempDir;

use super::cifar::PLANE;
use super::*;

/// Files in a directory of their own, and the source that names them; in it `DIR` is the directory.
struct Files {
    directory: TempDir,
    source: &'static str,
}

impl Files {
    fn new<'a>(source: &'static str, files: impl IntoIterator<Item = (&'a str, Vec<u8>)>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let new = Self { directory, source };
        files
            .into_iter()
            .for_each(|(name, bytes)| new.write(name, &bytes));
        new
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    fn try_load(&self) -> Result<Dataset, DataError> {
        let directory = self.directory.path().display().to_string();
        let source = self.source.replace("DIR", &directory).parse().unwrap();
        load(&source, LoadOptions::default())
    }

    fn load(&self) -> Dataset {
        self.try_load().unwrap()
    }

    /// The files, `name` with other contents, are refused as bad input, with all of `words`.
    #[track_caller]
    fn refuse(&self, name: &str, bytes: &[u8], words: &[&str]) {
        self.write(name, bytes);
        let error = self.try_load().unwrap_err();
        let message = error.to_string();
        assert!(!error.is_io(), "{message}");
        for word in words {
            assert!(message.contains(word), "{word} is not in {message}");
        }
    }
}

fn size(set: &ImageSet) -> (usize, [usize; 3]) {
    (set.len(), [set.height, set.width, set.channels])
}

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

/// A record of CIFAR's whose pixels' red, green, blue is (1, 2, 3).
fn record(labels: &[u8]) -> Vec<u8> {
    let planes = [1, 2, 3].map(|value| vec![value; PLANE]).concat();
    [labels, &planes].concat()
}

/// CIFAR-10's six files of a horse and an airplane each.
fn batches(folder: &str) -> Files {
    let files = Files::new("cifar10:DIR", []);
    let numbered = (1..=5).map(|number| format!("data_batch_{number}.bin"));
    for name in numbered.chain(["test_batch.bin".to_owned()]) {
        let records = [record(&[7]), record(&[0])].concat();
        files.write(&format!("{folder}/{name}"), &records);
    }
    files
}

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
fn images_lie_one_after_the_other() {
    let set = ImageSet {
        height: 1,
        width: 2,
        channels: 3,
        pixels: (0..12).collect(),
    };
    assert_eq!(set.len(), 2);
    assert_eq!(set.image(1), &[6, 7, 8, 9, 10, 11]);
}

#[test]
fn one_image_in_five_is_held_out_but_never_the_only_one() {
    let held_out = |count: usize, class: u32, seed: u64| {
        let images: Vec<(usize, u32)> = (0..count).map(|image| (image, class)).collect();
        let (kept, held_out) = divide(images, seed);
        assert_eq!(kept.len() + held_out.len(), count);
        held_out
    };
    for (count, expected) in [(0, 0), (1, 0), (2, 1), (9, 1), (10, 2), (1000, 200)] {
        assert_eq!(held_out(count, 3, 7).len(), expected);
        assert_eq!(held_out(count, 3, 7), held_out(count, 3, 7));
    }
    let images = |class, seed| {
        held_out(100, class, seed)
            .into_iter()
            .map(|(image, _)| image)
    };
    assert!(images(0, 7).ne(images(0, 8)));
    assert!(images(0, 7).ne(images(1, 7)));
}

#[test]
fn a_missing_directory_is_bad_input_and_not_a_failure_of_the_disk() {
    for source in [
        "idx:DIR/nowhere",
        "cifar10:DIR/nowhere",
        "cifar100:DIR/nowhere",
        "npy:DIR/nowhere",
        "folder:DIR/nowhere",
    ] {
        let error = Files::new(source, []).try_load().unwrap_err();
        assert!(matches!(error, DataError::Missing { .. }), "{error}");
        assert!(!error.is_io());
        assert!(error.to_string().contains("nowhere"), "{error}");
    }
}

#[test]
fn a_read_that_the_system_refuses_is_a_failure_of_input_and_output() {
    let refused = std::io::Error::from(ErrorKind::PermissionDenied);
    let error = access_error(Path::new("images"), "a file", refused);
    assert!(error.is_io());
    assert!(error.to_string().contains("images"));
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

#[test]
fn planes_of_cifar_become_interleaved_pixels() {
    let data = batches(".").load();
    assert_eq!(size(&data.train), (10, [32, 32, 3]));
    assert_eq!(data.test.len(), 2);
    assert_eq!(data.train.pixels, [1, 2, 3].repeat(10 * PLANE));
    let labels = data.labels.unwrap();
    assert_eq!(labels.train, [7, 0].repeat(5));
    assert_eq!(labels.class_names[7], "horse");
}

#[test]
fn the_unpacked_cifar_archive_and_its_class_names_are_found() {
    let files = batches("cifar-10-batches-bin");
    let names = "cifar-10-batches-bin/batches.meta.txt";
    files.write(names, b"a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n\n");
    assert_eq!(files.load().labels.unwrap().class_names[9], "j");
    files.refuse(
        names,
        b"a\nb\n",
        &["batches.meta.txt", "10 lines", "found 2"],
    );
}

#[test]
fn cifar_100_is_read_with_fine_or_coarse_labels() {
    let coarse_names = Vec::from_iter((0..20).map(|class| format!("group {class}")));
    let files = [
        ("train.bin", [record(&[19, 99]), record(&[4, 0])].concat()),
        ("test.bin", record(&[0, 51])),
        ("coarse_label_names.txt", coarse_names.join("\n").into()),
    ];
    let fine = Files::new("cifar100:DIR", files.clone()).load();
    assert_eq!((fine.train.len(), fine.test.len()), (2, 1));
    assert_eq!(fine.train.image(1)[..6], [1, 2, 3, 1, 2, 3]);
    let labels = fine.labels.unwrap();
    assert_eq!((labels.train, labels.test), (vec![99, 0], vec![51]));
    assert_eq!(labels.class_names.len(), 100);
    assert_eq!(labels.class_names[99], "99");

    let files = Files::new("cifar100-coarse:DIR", files);
    let labels = files.load().labels.unwrap();
    assert_eq!((labels.train, labels.test), (vec![19, 4], vec![0]));
    assert_eq!(labels.class_names, coarse_names);
    files.refuse(
        "test.bin",
        &record(&[20, 99]),
        &["test.bin", "20", "0 to 19"],
    );
}

#[test]
fn a_cifar_batch_that_does_not_fit_is_refused_by_name() {
    let files = batches(".");
    files.refuse(
        "test_batch.bin",
        &record(&[10]),
        &["test_batch.bin", "10", "0 to 9"],
    );
    files.refuse("test_batch.bin", &[], &["test_batch.bin", "no images"]);
    files.refuse(
        "data_batch_4.bin",
        &[0; 3078],
        &["data_batch_4.bin", "3078 bytes"],
    );
    files.remove("data_batch_4.bin");
    let error = files.try_load().unwrap_err();
    assert!(matches!(error, DataError::Missing { .. }), "{error}");
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
    let error = npy::load(directory, Some(&files.path("x.npy")), 0).unwrap_err();
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
fn fortran_order_is_turned_into_rows() {
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
    // Every byte of the header, replaced in turn.
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
