//! Tests the reading of CIFAR's binary files.

use super::{Files, size};
use crate::train::data::DataError;
use crate::train::data::cifar::PLANE;

/// A CIFAR record with all pixels' red, green, blue (1, 2, 3).
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
