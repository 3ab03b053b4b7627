//! Layouts of folders of images, each through `data::load`.
#![cfg(feature = "train")]

use std::fs;
use std::path::Path;

use infonce::train::data::{self, DataError, DataSource, Dataset, ImageSet, Labels, LoadOptions};
use infonce::train::run_folder::{CONFIG, METRICS};
use tempfile::TempDir;

/// A folder with an image at each path, its red value telling which (0, 1, 2, …).
fn folder(paths: &[impl AsRef<Path>]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (red, path) in paths.iter().enumerate() {
        write_image(&directory.path().join(path), 8, 8, red as u8);
    }
    directory
}

/// Two images in each of two classes.
fn cats_and_dogs() -> TempDir {
    folder(&["cat/a.png", "cat/b.png", "dog/c.png", "dog/d.png"])
}

fn write_image(path: &Path, width: u32, height: u32, red: u8) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    image::RgbImage::from_pixel(width, height, image::Rgb([red, 20, 30]))
        .save(path)
        .unwrap();
}

/// Paths of `count` images in one folder.
fn many(folder: &str, count: usize) -> Vec<String> {
    (0..count)
        .map(|index| format!("{folder}/{index:02}.png"))
        .collect()
}

fn with_options(directory: &Path, options: LoadOptions) -> Result<Dataset, DataError> {
    data::load(&DataSource::Folder(directory.to_path_buf()), options)
}

fn load(directory: &TempDir) -> Result<Dataset, DataError> {
    with_options(directory.path(), LoadOptions::default())
}

fn skipping(directory: &TempDir) -> Result<Dataset, DataError> {
    let options = LoadOptions {
        skip_unreadable: true,
        ..LoadOptions::default()
    };
    with_options(directory.path(), options)
}

/// Asserts bad input whose message has all of `words`.
#[track_caller]
fn refused(result: Result<Dataset, DataError>, words: &[&str]) {
    let error = result.unwrap_err();
    let message = error.to_string();
    assert!(!error.is_io() && message.lines().count() == 1, "{message}");
    for word in words {
        assert!(message.contains(word), "{word} is not in {message}");
    }
}

/// Asserts class names and counts of training and held-out images of a folder with `paths`.
#[track_caller]
fn loads(paths: &[impl AsRef<Path>], classes: &[&str], count: (usize, usize)) -> Dataset {
    let data = load(&folder(paths)).unwrap();
    let names = data.labels.as_ref().map(|labels| &labels.class_names[..]);
    assert_eq!(names.unwrap_or_default(), classes);
    assert_eq!((data.train.len(), data.test.len()), count);
    data
}

fn reds(set: &ImageSet) -> Vec<u8> {
    (0..set.len()).map(|index| set.image(index)[0]).collect()
}

fn all_reds(data: &Dataset) -> Vec<u8> {
    let mut all = [reds(&data.train), reds(&data.test)].concat();
    all.sort_unstable();
    all
}

/// Asserts that exactly one note contains all of `words`.
#[track_caller]
fn noted(data: &Dataset, words: &[&str]) {
    let found = data
        .notes
        .iter()
        .filter(|note| words.iter().all(|word| note.contains(word)));
    assert_eq!(found.count(), 1, "{words:?} in {:?}", data.notes);
}

#[test]
fn one_image_in_five_of_each_class_is_held_out() {
    let directory = tempfile::tempdir().unwrap();
    for index in 0..10 {
        let name = format!("{index}.png");
        write_image(
            &directory.path().join("dog").join(&name),
            40,
            90,
            100 + index,
        );
        write_image(&directory.path().join("cat").join(&name), 50, 40, index);
    }
    let seeded = |seed| {
        let options = LoadOptions {
            seed,
            ..LoadOptions::default()
        };
        with_options(directory.path(), options).unwrap()
    };
    let data = seeded(3);
    let labels = data.labels.clone().unwrap();
    assert_eq!(labels.class_names, ["cat", "dog"]);
    assert_eq!((data.train.len(), data.test.len()), (16, 4));
    assert_eq!((data.train.height, data.train.width), (40, 40));
    assert_eq!(labels.test, [0, 0, 1, 1]);
    assert_eq!(
        all_reds(&data),
        (0..10).chain(100..110).collect::<Vec<u8>>()
    );
    assert!(data.notes.is_empty(), "{:?}", data.notes);
    let again = seeded(3);
    assert_eq!((&again.train, &again.test), (&data.train, &data.test));
    assert_ne!(seeded(4).test, data.test);
}

#[test]
fn a_division_on_disk_is_respected() {
    let directory = tempfile::tempdir().unwrap();
    for (split, count) in [("train", 3), ("val", 2)] {
        for class in ["a", "b"] {
            for index in 0..count {
                let name = format!("{split}/{class}/{index}.png");
                write_image(&directory.path().join(name), 200, 100, index);
            }
        }
    }
    let data = load(&directory).unwrap();
    assert_eq!((data.train.len(), data.test.len()), (6, 4));
    assert_eq!(data.train.width, 64);
    fs::remove_dir_all(directory.path().join("val/b")).unwrap();
    write_image(&directory.path().join("val/c/0.png"), 8, 8, 0);
    refused(load(&directory), &["val has no images of class \"b\""]);
}

#[test]
fn flat_folders_have_no_labels() {
    let data = loads(&many(".", 10), &[], (8, 2));
    assert_eq!(all_reds(&data), (0..10).collect::<Vec<u8>>());
    let paths = ["train/a.png", "train/b.png", "train/c.png", "test/d.png"];
    let data = loads(&paths, &[], (3, 1));
    assert_eq!(reds(&data.test), [3]);
    for (paths, word) in [
        (["train/x/a.png", "train/y/b.png", "test/c.png"], "\"x\""),
        (
            ["train/a.png", "test/x/b.png", "test/y/c.png"],
            "without a class folder",
        ),
    ] {
        refused(load(&folder(&paths)), &[word]);
    }
}

#[test]
fn nested_folders_belong_to_the_class_at_the_top() {
    let paths = [
        "cat/2024/may/a.png",
        "cat/2025/b.png",
        "cat/c.png",
        "dog/x/y/z/d.png",
        "dog/x/y/e.png",
    ];
    let data = loads(&paths, &["cat", "dog"], (3, 2));
    assert_eq!(all_reds(&data), [0, 1, 2, 3, 4]);
    let labels = data.labels.unwrap();
    for (red, label) in reds(&data.train).into_iter().zip(labels.train) {
        assert_eq!(label, u32::from(red > 2));
    }
}

#[cfg(unix)]
#[test]
fn links_are_followed_but_never_in_a_circle() {
    use std::os::unix::fs::symlink;
    let directory = cats_and_dogs();
    let elsewhere = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    write_image(&elsewhere.path().join("deep/e.png"), 8, 8, 4);
    write_image(&elsewhere.path().join("f.png"), 8, 8, 5);
    symlink(elsewhere.path().join("deep"), path("dog/linked")).unwrap();
    symlink(elsewhere.path().join("f.png"), path("dog/f.png")).unwrap();
    symlink(path("nowhere"), path("dog/broken.png")).unwrap();
    for (target, link) in [("cat", "cat/itself"), (".", "cat/up"), (".", "root")] {
        symlink(path(target), path(link)).unwrap();
    }
    let data = load(&directory).unwrap();
    assert_eq!(all_reds(&data), [0, 1, 2, 3, 4, 5]);
    noted(&data, &["links", "cat/itself", "cat/up", "root"]);
}

#[test]
fn an_empty_class_folder_is_left_out_and_named() {
    let directory = cats_and_dogs();
    fs::create_dir_all(directory.path().join("emu/deeper")).unwrap();
    fs::write(directory.path().join("emu/deeper/notes.txt"), "none yet").unwrap();
    let data = load(&directory).unwrap();
    assert_eq!(data.labels.as_ref().unwrap().class_names, ["cat", "dog"]);
    noted(&data, &["class folders without images", "emu"]);
}

#[test]
fn images_beside_class_folders_are_left_out_and_counted() {
    let directory = cats_and_dogs();
    for name in ["e.png", "f.png"] {
        write_image(&directory.path().join(name), 8, 8, 9);
    }
    let data = load(&directory).unwrap();
    assert_eq!(all_reds(&data), [0, 1, 2, 3]);
    noted(&data, &["images beside class folders", ": 2 in "]);
}

#[test]
fn one_class_folder_alone_loads_without_labels() {
    let data = loads(&many("cat", 5), &[], (4, 1));
    noted(&data, &["one class", "cat"]);
}

#[test]
fn train_alone_is_the_folder_and_beside_others_a_class() {
    let paths = [many("train/cat", 5), many("train/dog", 5)].concat();
    loads(&paths, &["cat", "dog"], (8, 2));
    loads(&many("train", 5), &[], (4, 1));
    let paths = [many("bus", 2), many("train", 2)].concat();
    loads(&paths, &["bus", "train"], (2, 2));
}

#[test]
fn a_third_split_is_left_unread_and_named() {
    let paths = [
        "train/a.png",
        "test/b.png",
        "val/c.png",
        "extra/d.png",
        "e.png",
    ];
    let data = loads(&paths, &[], (1, 1));
    assert_eq!(all_reds(&data), [0, 1]);
    noted(&data, &["only", "/val", "/extra", "/e.png"]);
}

#[test]
fn run_folders_among_the_images_are_left_out_and_named() {
    let directory = cats_and_dogs();
    for run in ["runs/simclr-1", "cat/mine"] {
        let run = directory.path().join(run);
        write_image(&run.join("loss.png"), 8, 8, 9);
        for file in [CONFIG, METRICS] {
            fs::write(run.join(file), "").unwrap();
        }
    }
    let data = load(&directory).unwrap();
    assert_eq!(all_reds(&data), [0, 1, 2, 3]);
    noted(&data, &["run folders", "runs/simclr-1", "cat/mine"]);
    noted(&data, &["class folders without images", "runs"]);

    let run = directory.path().join("runs/simclr-1");
    let result = with_options(&run, LoadOptions::default());
    refused(result, &["simclr-1 is the folder of a run"]);
}

#[test]
fn a_class_of_one_image_is_trained_on_whole() {
    let paths = ["cat/a.png", "cat/b.png", "dog/c.png"];
    let data = loads(&paths, &["cat", "dog"], (2, 1));
    assert!(reds(&data.train).contains(&2));
}

#[test]
fn too_few_images_are_refused_with_what_was_looked_for() {
    for paths in [&[] as &[&str], &["lonely.png"], &["cat/a.png", "dog/b.png"]] {
        let directory = folder(paths);
        let name = directory.path().display().to_string();
        let found = format!("{name} holds {} images (png, apng, jpg", paths.len());
        refused(load(&directory), &[&found]);
    }
    let directory = folder(&["train/a.png", "train/b.png"]);
    fs::create_dir(directory.path().join("test")).unwrap();
    refused(load(&directory), &["/test holds 0 images"]);
}

#[test]
fn equal_files_are_noted_and_pairs_that_leak_counted() {
    let directory = folder(&[
        "train/x/a.png",
        "train/x/b.png",
        "train/y/c.png",
        "test/x/d.png",
        "test/y/e.png",
    ]);
    let copy = |from: &str, to: &str| {
        fs::copy(directory.path().join(from), directory.path().join(to)).unwrap();
    };
    let unlike = load(&directory).unwrap();
    assert!(unlike.notes.is_empty(), "{:?}", unlike.notes);
    copy("train/x/b.png", "train/x/b2.png");
    noted(
        &load(&directory).unwrap(),
        &["2 files", "x/b.png", "x/b2.png", "held out: 0"],
    );
    copy("train/y/c.png", "test/y/c2.png");
    copy("train/y/c.png", "test/y/c3.png");
    let data = load(&directory).unwrap();
    noted(
        &data,
        &["5 files", "train/y/c.png", "test/y/c2.png", "held out: 2"],
    );
}

#[test]
fn unreadable_files_are_named_or_left_out_and_counted() {
    let directory = cats_and_dogs();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("cat/broken.jpg"), "not an image").unwrap();
    let hint = "(--skip-unreadable leaves such files out)";
    refused(load(&directory), &["broken.jpg cannot be decoded", hint]);
    let data = skipping(&directory).unwrap();
    assert_eq!(all_reds(&data), [0, 1, 2, 3]);
    noted(&data, &["1 file could not be read", "broken.jpg"]);

    fs::create_dir(path("emu")).unwrap();
    fs::write(path("emu/half.gif"), "GIF89a").unwrap();
    fs::write(path("emu/empty.png"), "").unwrap();
    let data = skipping(&directory).unwrap();
    assert_eq!(data.labels.as_ref().unwrap().class_names, ["cat", "dog"]);
    noted(&data, &["3 files could not be read", "broken.jpg"]);
    noted(
        &data,
        &["class folders without an image that can be read", "emu"],
    );

    for name in ["cat/a.png", "cat/b.png", "dog/c.png", "dog/d.png"] {
        fs::write(path(name), "no more").unwrap();
    }
    refused(skipping(&directory), &["holds 0 images"]);
}

/// Reading the beginning of a process's memory fails with an error of input and output, even for
/// root, whom no missing permission stops.
#[cfg(target_os = "linux")]
#[test]
fn a_file_that_the_system_refuses_is_a_failure_of_io() {
    let directory = cats_and_dogs();
    std::os::unix::fs::symlink("/proc/self/mem", directory.path().join("cat/x.png")).unwrap();
    let error = load(&directory).unwrap_err();
    assert!(error.is_io(), "{error}");
    let message = error.to_string();
    assert!(
        message.contains("x.png") && message.contains("--skip-unreadable"),
        "{message}"
    );
    let data = skipping(&directory).unwrap();
    noted(&data, &["1 file could not be read", "x.png"]);
}

#[test]
fn other_files_and_hidden_ones_are_passed_over() {
    let directory = cats_and_dogs();
    for name in ["cat/.hidden.png", "cat/readme.md", "readme.md"] {
        fs::write(directory.path().join(name), "x").unwrap();
    }
    let data = load(&directory).unwrap();
    let Labels { train, test, .. } = data.labels.clone().unwrap();
    assert_eq!((train, test), (vec![0, 1], vec![0, 1]));
    assert!(data.notes.is_empty(), "{:?}", data.notes);
}
