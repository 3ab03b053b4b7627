//! Tests the formats that come as arrays, on files as other programs write them.

mod cifar;
mod idx;
mod npy;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::division::divide;
use super::files::access_error;
use super::{DataError, Dataset, ImageSet, LoadOptions, load};
use crate::train::testing::contains;

/// Files in a directory of their own, and the source that names them, in which `DIR` is that
/// directory.
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

    /// Replaces the contents of `name`; the source must be refused as bad input, with all of
    /// `words`.
    #[track_caller]
    fn refuse(&self, name: &str, bytes: &[u8], words: &[&str]) {
        self.write(name, bytes);
        let error = self.try_load().unwrap_err();
        let message = error.to_string();
        assert!(!error.is_io(), "{message}");
        contains(&message, words);
    }
}

fn size(set: &ImageSet) -> (usize, [usize; 3]) {
    (set.len(), [set.height, set.width, set.channels])
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
