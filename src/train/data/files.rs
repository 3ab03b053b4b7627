//! Finds and reads files, and sorts failures into bad input and I/O.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::error::DataError;

/// The first of the files `names` that exists in `directory`; `wanted` describes them in the error.
pub(super) fn locate(
    directory: &Path,
    names: &[impl AsRef<Path>],
    wanted: &str,
) -> Result<PathBuf, DataError> {
    let mut paths = names.iter().map(|name| directory.join(name));
    let found = paths.find(|path| path.is_file());
    found.ok_or_else(|| missing(&directory.join(&names[0]), wanted))
}

/// Reads a whole file.
pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, DataError> {
    std::fs::read(path).map_err(|source| access_error(path, "a file", source))
}

/// Checks that `path` is a directory that can be accessed.
pub(super) fn require_directory(path: &Path) -> Result<(), DataError> {
    let wanted = "a directory";
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(missing(path, wanted)),
        Err(source) => Err(access_error(path, wanted, source)),
    }
}

/// Sorts a failure to open or read `path` into bad input (there is no such file) or I/O.
pub(super) fn access_error(path: &Path, wanted: &str, source: std::io::Error) -> DataError {
    match source.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory => {
            missing(path, wanted)
        }
        _ => DataError::Io {
            path: path.to_path_buf(),
            source,
        },
    }
}

pub(super) fn missing(path: &Path, wanted: &str) -> DataError {
    DataError::Missing {
        path: path.to_path_buf(),
        wanted: wanted.to_owned(),
    }
}
