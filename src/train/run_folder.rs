//! The folder that a run leaves behind, and the promise that nothing in it is half-written.
//!
//! Files appear whole: they are written beside their place and renamed. `metrics.jsonl` grows by
//! whole lines. A folder made for a run that never starts is removed again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::metrics::Record;

/// Every value in force; `--config` reads it back.
pub const CONFIG: &str = "config.toml";
/// One JSON object per line, see [`Record`].
pub const METRICS: &str = "metrics.jsonl";
/// The last good state of training.
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
    /// Something is there already.
    #[error(
        "run folder {} is not empty; name another with --out, or remove it first", path.display()
    )]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// It cannot be made or written to.
    #[error("run folder {} cannot be written to: {source}", path.display())]
    Unwritable {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A write failed later.
    #[error("could not write {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl RunFolderError {
    /// Whether the system failed during the run, as opposed to a folder that was wrong from the
    /// start.
    pub fn is_io(&self) -> bool {
        matches!(self, Self::Io { .. })
    }
}

/// A folder to write one run into.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// Folders that did not exist before, the innermost first.
    created: Vec<PathBuf>,
    started: bool,
}

impl RunFolder {
    /// Takes `path` for a run: makes the folder where it is missing and checks that it is empty
    /// and can be written to. Until [`started`](Self::started) is called, dropping it removes
    /// what was made.
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
        // Before the folders are made, so that a failure half-way removes those that were.
        let folder = Self {
            path: path.to_path_buf(),
            created,
            started: false,
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
        let numbered = |number: u64| match number {
            1 => Path::new("runs").join(name),
            _ => Path::new("runs").join(format!("{name}-{number}")),
        };
        (1..)
            .map(numbered)
            .find(|path| !path.exists())
            .unwrap_or_else(|| numbered(1))
    }

    /// From now on the folder stays, whatever happens.
    pub fn started(&mut self) {
        self.started = true;
    }

    /// Where the folder is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a file of the folder is.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a whole file or nothing.
    ///
    /// # Errors
    /// [`RunFolderError::Io`].
    pub fn write(&self, name: &str, contents: &[u8]) -> Result<(), RunFolderError> {
        let partial = self.file(&format!(".{name}.partial"));
        let path = self.file(name);
        fs::write(&partial, contents)
            .and_then(|()| fs::rename(&partial, &path))
            .map_err(|source| {
                // The first error is the one worth telling.
                let _ = fs::remove_file(&partial);
                RunFolderError::Io { path, source }
            })
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
        if self.started {
            return;
        }
        for folder in &self.created {
            // Removes empty folders only, so that nobody else's file is lost.
            if fs::remove_dir(folder).is_err() {
                return;
            }
        }
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
    use crate::train::metrics::EpochRecord;

    fn entries(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_folder_for_a_run_that_never_starts_is_removed_with_its_parents() {
        let directory = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(&directory.path().join("a/b/c")).unwrap();
        assert!(folder.path().is_dir());
        drop(folder);
        assert!(entries(directory.path()).is_empty());
    }

    #[test]
    fn a_folder_that_was_there_before_is_left() {
        let directory = tempfile::tempdir().unwrap();
        drop(RunFolder::create(directory.path()).unwrap());
        assert!(directory.path().is_dir());
    }

    #[test]
    fn a_started_run_keeps_its_files_and_leaves_no_partial_ones() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run");
        let mut folder = RunFolder::create(&path).unwrap();
        folder.started();
        folder.write(CONFIG, b"seed = 1").unwrap();
        folder.write(CONFIG, b"seed = 2").unwrap();
        drop(folder);
        assert_eq!(fs::read(path.join(CONFIG)).unwrap(), b"seed = 2");
        assert_eq!(entries(&path), [CONFIG]);
    }

    #[test]
    fn an_earlier_run_is_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("anything"), "").unwrap();
        let error = RunFolder::create(directory.path()).unwrap_err();
        assert!(matches!(error, RunFolderError::NotEmpty { .. }), "{error}");
        assert_eq!(entries(directory.path()), ["anything"]);
    }

    #[test]
    fn a_folder_below_a_file_is_refused_and_nothing_is_made() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let error = RunFolder::create(&file.join("run")).unwrap_err();
        assert!(
            matches!(error, RunFolderError::Unwritable { .. }),
            "{error}"
        );
        assert!(!error.is_io());
        assert_eq!(entries(directory.path()), ["file"]);
    }

    #[test]
    fn a_write_that_fails_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(directory.path()).unwrap();
        fs::create_dir_all(directory.path().join("report.html/occupied")).unwrap();
        let error = folder.write(REPORT, b"page").unwrap_err();
        assert!(
            error.is_io() && error.to_string().contains(REPORT),
            "{error}"
        );
        assert_eq!(entries(directory.path()), [REPORT]);
    }

    #[test]
    fn metrics_are_one_object_per_line_and_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(directory.path()).unwrap();
        let mut metrics = folder.metrics().unwrap();
        let records = [1, 2].map(|epoch| {
            Record::Epoch(EpochRecord {
                epoch,
                step: 10 * epoch,
                loss: 0.5,
                top1: 0.25,
                seconds: 2.0,
            })
        });
        records
            .iter()
            .for_each(|record| metrics.append(record).unwrap());
        let text = fs::read_to_string(directory.path().join(METRICS)).unwrap();
        assert!(
            text.starts_with("{\"kind\":\"epoch\",\"epoch\":1,"),
            "{text}"
        );
        let read: Vec<Record> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(read, records);
    }
}
