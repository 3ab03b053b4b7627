//! The folder that a run writes its files into.
//!
//! Files appear whole, and `metrics.jsonl` grows by whole lines. A folder made for a run that never
//! starts is removed again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::checkpoint::write_whole;
use super::metrics::Record;

/// The whole configuration; `--config` reads it back.
pub const CONFIG: &str = "config.toml";
/// One JSON object per line, see [`Record`].
pub const METRICS: &str = "metrics.jsonl";
/// The last state of training with finite weights.
pub const CHECKPOINT: &str = "checkpoint.safetensors";
/// The loss and contrastive top-1 over steps.
pub const LOSS_PICTURE: &str = "loss.png";
/// Held-out embeddings before and after training.
pub const EMBEDDING_PICTURE: &str = "embedding.png";
/// Everything on one page.
pub const REPORT: &str = "report.html";

/// Why a run folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RunFolderError {
    /// The folder is not empty.
    #[error(
        "run folder {} is not empty; name another with --out, or remove it first", path.display()
    )]
    NotEmpty { path: PathBuf },
    /// The folder cannot be made or written to.
    #[error("run folder {} cannot be written to: {source}", path.display())]
    Unwritable { path: PathBuf, source: io::Error },
    /// A write failed later.
    #[error("could not write {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// A folder to write one run into.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// Folders to be removed again unless the run starts, the innermost first.
    created: Vec<PathBuf>,
}

impl RunFolder {
    /// Makes the folder where it is missing, and checks that it is empty and can be written to.
    /// Dropping it before [`started`](Self::started) removes what was made.
    ///
    /// # Errors
    /// [`RunFolderError::NotEmpty`] or [`RunFolderError::Unwritable`].
    pub fn create(path: &Path) -> Result<Self, RunFolderError> {
        let unwritable = |source| RunFolderError::Unwritable {
            path: path.to_path_buf(),
            source,
        };
        let created = path
            .ancestors()
            .take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists())
            .map(Path::to_path_buf)
            .collect();
        // Constructed before the folders are made, so that a failure halfway removes those that
        // were.
        let folder = Self {
            path: path.to_path_buf(),
            created,
        };
        fs::create_dir_all(path).map_err(unwritable)?;
        if fs::read_dir(path).map_err(unwritable)?.next().is_some() {
            return Err(RunFolderError::NotEmpty {
                path: path.to_path_buf(),
            });
        }
        let probe = folder.file(".writable");
        File::create_new(&probe)
            .and_then(|_| fs::remove_file(&probe))
            .map_err(unwritable)?;
        Ok(folder)
    }

    /// The folder of a run without `--out`: `runs/<name>`, or the first free of `runs/<name>-2`,
    /// `runs/<name>-3`, ….
    pub fn free_name(name: &str) -> PathBuf {
        let mut path = Path::new("runs").join(name);
        let mut number = 1;
        while path.exists() {
            number += 1;
            path.set_file_name(format!("{name}-{number}"));
        }
        path
    }

    /// Keeps the folder from now on.
    pub fn started(&mut self) {
        self.created.clear();
    }

    /// The path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file in the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a whole file or nothing.
    ///
    /// # Errors
    /// [`RunFolderError::Io`].
    pub fn write(&self, name: &str, contents: &[u8]) -> Result<(), RunFolderError> {
        let path = self.file(name);
        write_whole(&path, contents).map_err(|source| RunFolderError::Io { path, source })
    }

    /// Opens `metrics.jsonl` for appending.
    ///
    /// # Errors
    /// [`RunFolderError::Io`].
    pub fn metrics(&self) -> Result<Metrics, RunFolderError> {
        let path = self.file(METRICS);
        match OpenOptions::new().create(true).append(true).open(&path) {
            Ok(file) => Ok(Metrics { path, file }),
            Err(source) => Err(RunFolderError::Io { path, source }),
        }
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        // Removes only empty folders, so that no other file is lost.
        let _ = self.created.iter().try_for_each(fs::remove_dir);
    }
}

/// `metrics.jsonl`, open for appending.
#[derive(Debug)]
pub struct Metrics {
    path: PathBuf,
    file: File,
}

impl Metrics {
    /// Appends one line, in one write, so that an interrupted run leaves whole lines.
    ///
    /// # Errors
    /// [`RunFolderError::Io`].
    pub fn append(&mut self, record: &Record) -> Result<(), RunFolderError> {
        let written = serde_json::to_vec(record)
            .map_err(io::Error::from)
            .and_then(|mut line| {
                line.push(b'\n');
                self.file.write_all(&line)
            });
        written.map_err(|source| RunFolderError::Io {
            path: self.path.clone(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_run_that_never_starts_leaves_the_folders_that_were_there() {
        let directory = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(&directory.path().join("a/b/c")).unwrap();
        assert!(folder.path().is_dir());
        drop(folder);
        assert!(entries(directory.path()).is_empty());
        drop(RunFolder::create(directory.path()).unwrap());
        assert!(directory.path().is_dir());
    }

    #[test]
    fn a_write_that_fails_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(directory.path()).unwrap();
        fs::create_dir_all(directory.path().join("report.html/occupied")).unwrap();
        let error = folder.write(REPORT, b"page").unwrap_err();
        assert!(matches!(error, RunFolderError::Io { .. }), "{error}");
        assert!(error.to_string().contains(REPORT), "{error}");
        assert_eq!(entries(directory.path()), [REPORT]);
    }
}
