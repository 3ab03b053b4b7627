//! Finds the image files of each class.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use image::ImageFormat;

use crate::train::data::error::DataError;
use crate::train::data::files::access_error;

/// Extensions of images.
const EXTENSIONS: &str = "png, apng, jpg, jpeg, jfif, bmp, gif, tif, tiff, webp";
/// A folder with both files is the run folder of an earlier run, with pictures of its own.
const RUN_FILES: [&str; 2] = ["config.toml", "metrics.jsonl"];
/// Maximum number of names in a note.
const NAMED: usize = 5;

/// The images of one class.
pub(super) struct Class {
    pub(super) path: PathBuf,
    /// `None` for the only class of a folder without class folders.
    pub(super) name: Option<String>,
    pub(super) images: Vec<PathBuf>,
}

/// The classes of one folder, each with at least one image.
pub(super) struct Split {
    pub(super) path: PathBuf,
    pub(super) classes: Vec<Class>,
}

/// Finds the images of `directory`: the training split, the held-out split if there is one on disk,
/// and notes. Entries are read in sorted order.
pub(super) fn find(directory: &Path) -> Result<(Split, Option<Split>, Vec<String>), DataError> {
    if is_run_folder(directory) {
        let found = "is the folder of a run".to_owned();
        let expected = "expected a folder of images".to_owned();
        return Err(DataError::unfit(directory, found, expected));
    }
    let train = directory.join("train");
    let test = ["test", "val"]
        .map(|name| directory.join(name))
        .into_iter()
        .find(|path| path.is_dir());
    let mut walk = Walk::default();
    let (train, test) = match test {
        Some(test) if train.is_dir() => {
            let mut beside = sorted_entries(directory)?;
            beside.retain(|path| *path != train && *path != test);
            beside.retain(|path| path.is_dir() || is_image(path));
            if !beside.is_empty() {
                walk.notes.push(format!(
                    "only {} and {} are read, beside them lies: {}",
                    train.display(),
                    test.display(),
                    listed(&beside)
                ));
            }
            (walk.split(&train)?, Some(walk.split(&test)?))
        }
        _ => {
            let whole = walk.split(directory)?;
            match whole.classes.as_slice() {
                [only] if only.path == train => (walk.split(&train)?, None),
                _ => (whole, None),
            }
        }
    };
    Ok((train, test, walk.into_notes()))
}

/// The state of a walk, and what it has skipped.
#[derive(Default)]
struct Walk {
    /// The folders above the present one, by their canonical names; a link may lead back to one.
    above: Vec<PathBuf>,
    run_folders: BTreeSet<PathBuf>,
    loops: BTreeSet<PathBuf>,
    empty: BTreeSet<PathBuf>,
    notes: Vec<String>,
}

impl Walk {
    /// The class folders of `directory`, or all its images as one class without a name.
    fn split(&mut self, directory: &Path) -> Result<Split, DataError> {
        let (mut classes, mut loose) = (Vec::new(), Vec::new());
        self.above = vec![canonical(directory)?];
        for path in sorted_entries(directory)? {
            if path.is_dir() {
                let mut images = Vec::new();
                self.collect(&path, &mut images)?;
                if !images.is_empty() {
                    let name = Some(file_name(&path));
                    classes.push(Class { path, name, images });
                } else if !self.run_folders.contains(&path) && !self.loops.contains(&path) {
                    self.empty.insert(path);
                }
            } else if is_image(&path) {
                loose.push(path);
            }
        }
        if classes.is_empty() && loose.is_empty() {
            return Err(too_few_images(directory, 0, "at least one"));
        }
        let path = directory.to_path_buf();
        if classes.is_empty() {
            classes.push(Class {
                path: path.clone(),
                name: None,
                images: loose,
            });
        } else if !loose.is_empty() {
            self.notes.push(format!(
                "images beside class folders belong to no class and are left out: {} in {}",
                loose.len(),
                directory.display()
            ));
        }
        Ok(Split { path, classes })
    }

    /// Adds the images of `directory` and of all folders below it.
    fn collect(&mut self, directory: &Path, images: &mut Vec<PathBuf>) -> Result<(), DataError> {
        if is_run_folder(directory) {
            self.run_folders.insert(directory.to_path_buf());
            return Ok(());
        }
        let canonical = canonical(directory)?;
        if self.above.contains(&canonical) {
            self.loops.insert(directory.to_path_buf());
            return Ok(());
        }
        self.above.push(canonical);
        for path in sorted_entries(directory)? {
            if path.is_dir() {
                self.collect(&path, images)?;
            } else if is_image(&path) {
                images.push(path);
            }
        }
        self.above.pop();
        Ok(())
    }

    fn into_notes(mut self) -> Vec<String> {
        for (what, paths) in [
            ("run folders", self.run_folders),
            ("links to a folder above them", self.loops),
            ("class folders without images", self.empty),
        ] {
            if !paths.is_empty() {
                let names = listed(&paths);
                self.notes.push(format!("{what} are left out: {names}"));
            }
        }
        self.notes
    }
}

pub(super) fn too_few_images(path: &Path, found: usize, expected: &str) -> DataError {
    let found = format!("holds {found} images ({EXTENSIONS})");
    DataError::unfit(path, found, format!("expected {expected}"))
}

/// The first few paths by name.
pub(super) fn listed<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> String {
    let names: Vec<String> = paths
        .into_iter()
        .map(|path| path.display().to_string())
        .collect();
    match names.len().checked_sub(NAMED) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..NAMED].join(", ")),
    }
}

fn is_run_folder(directory: &Path) -> bool {
    RUN_FILES.iter().all(|name| directory.join(name).is_file())
}

fn canonical(directory: &Path) -> Result<PathBuf, DataError> {
    std::fs::canonicalize(directory)
        .map_err(|source| access_error(directory, "a directory", source))
}

/// Everything in `directory` that is not hidden, sorted by name.
fn sorted_entries(directory: &Path) -> Result<Vec<PathBuf>, DataError> {
    let entries = std::fs::read_dir(directory)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    let mut paths: Vec<PathBuf> =
        entries.map_err(|source| access_error(directory, "a directory", source))?;
    paths.retain(|path| !file_name(path).starts_with('.'));
    paths.sort();
    Ok(paths)
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Whether `path` is a file with one of [`EXTENSIONS`].
fn is_image(path: &Path) -> bool {
    path.is_file()
        && matches!(
            ImageFormat::from_path(path),
            Ok(ImageFormat::Png
                | ImageFormat::Jpeg
                | ImageFormat::Bmp
                | ImageFormat::Gif
                | ImageFormat::Tiff
                | ImageFormat::WebP)
        )
}
