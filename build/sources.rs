//! The kernels' source files, and the headers that each includes.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// The source files under `kernels/`, each list sorted.
#[derive(Debug, Default)]
#[cfg_attr(
    not(feature = "emulator"),
    allow(
        dead_code,
        reason = "nvcc sees neither the emulator nor its tests' kernels"
    )
)]
pub struct Sources {
    /// The folder itself; sources include headers relative to it.
    pub root: PathBuf,
    /// `kernels/*/*.cu`: compiled by nvcc and by the C++ compiler.
    pub kernels: Vec<PathBuf>,
    /// `kernels/emulator/*.cpp`: what runs kernels on the CPU.
    pub emulator: Vec<PathBuf>,
    /// `kernels/emulator/planted/*.cu`: kernels for tests, most with planted mistakes, never seen by nvcc.
    pub planted: Vec<PathBuf>,
}

impl Sources {
    /// Lists the sources under `root`; a folder that is not there holds none.
    pub fn find(root: &Path) -> io::Result<Self> {
        let mut sources = Self {
            root: root.to_path_buf(),
            emulator: files(&root.join("emulator"), "cpp")?,
            planted: files(&root.join("emulator/planted"), "cu")?,
            ..Self::default()
        };
        for folder in entries(root)? {
            if folder.is_dir() && !folder.ends_with("emulator") {
                sources.kernels.extend(files(&folder, "cu")?);
            }
        }
        Ok(sources)
    }

    /// The texts of `source` and of the headers that it includes with quotes, directly or not.
    pub fn files(&self, source: &Path) -> io::Result<BTreeMap<PathBuf, String>> {
        let mut files = BTreeMap::new();
        let mut open = vec![source.to_path_buf()];
        while let Some(file) = open.pop() {
            if files.contains_key(&file) {
                continue;
            }
            let text = fs::read_to_string(&file)?;
            for name in quoted_includes(&text) {
                let beside = file.parent().unwrap_or(&self.root).join(name);
                // What is in neither place is the compiler's to report.
                open.extend(
                    [beside, self.root.join(name)]
                        .into_iter()
                        .find(|path| path.is_file()),
                );
            }
            files.insert(file, text);
        }
        Ok(files)
    }

    /// A number that changes when one of `files` or `settings` changes.
    pub fn fingerprint(files: &BTreeMap<PathBuf, String>, settings: &str) -> u64 {
        let mut hasher = DefaultHasher::new();
        (files, settings).hash(&mut hasher);
        hasher.finish()
    }

    /// The source's path below the root, with `/` on every system.
    pub fn name(&self, source: &Path) -> String {
        let relative = source.strip_prefix(&self.root).unwrap_or(source);
        relative.to_string_lossy().replace('\\', "/")
    }
}

fn quoted_includes(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let directive = line.trim_start().strip_prefix('#')?.trim_start();
        let quoted = directive
            .strip_prefix("include")?
            .trim_start()
            .strip_prefix('"')?;
        quoted.split('"').next()
    })
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        paths.push(entry?.path());
    }
    paths.sort();
    Ok(paths)
}

fn files(folder: &Path, extension: &str) -> io::Result<Vec<PathBuf>> {
    let mut paths = entries(folder)?;
    paths.retain(|path| path.is_file() && path.extension().is_some_and(|e| e == extension));
    Ok(paths)
}
