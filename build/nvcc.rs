//! Finds nvcc: where it is told to be, on the path, in the toolkit's folders, or among the packages
//! of a Python environment.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How to get one, for every message about a missing compiler.
pub const INSTALL: &str = "pip install nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 \
    nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85 nvidia-cuda-cuobjdump==13.5.37 nvidia-cuda-nvdisasm==13.5.37";

/// Environment variables that the search reads.
pub const VARIABLES: [&str; 7] = [
    "NVCC",
    "PATH",
    "CUDA_HOME",
    "CUDA_PATH",
    "CUDA_ROOT",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
];

/// A compiler, and folders of headers that it does not search by itself.
#[derive(Debug, PartialEq, Eq)]
pub struct Nvcc {
    pub path: PathBuf,
    pub includes: Vec<PathBuf>,
}

impl From<PathBuf> for Nvcc {
    fn from(path: PathBuf) -> Self {
        let includes = Vec::new();
        Self { path, includes }
    }
}

/// Where to look.
#[derive(Debug, Default)]
pub struct Search {
    /// Values of [`VARIABLES`].
    pub variables: HashMap<&'static str, OsString>,
    /// Folders that hold `cuda` or `cuda-13.0`: /usr/local and /opt.
    pub toolkit_parents: Vec<PathBuf>,
    /// Folders that may hold a Python environment `.venv`.
    pub projects: Vec<PathBuf>,
    /// Python's own `site-packages` folders.
    pub site_packages: Vec<PathBuf>,
}

impl Search {
    /// This process's environment, and what `python3` says.
    pub fn here() -> Self {
        let variables = VARIABLES
            .into_iter()
            .filter_map(|name| Some((name, std::env::var_os(name)?)));
        Self {
            variables: variables.collect(),
            toolkit_parents: vec!["/usr/local".into(), "/opt".into()],
            projects: std::env::current_dir().into_iter().collect(),
            site_packages: python_packages(),
        }
    }

    /// The first nvcc there is.
    ///
    /// # Errors
    /// One line that says how to get one; or that the variable NVCC names none.
    pub fn nvcc(&self) -> Result<Nvcc, String> {
        if let Some(named) = self.variables.get("NVCC").filter(|value| !value.is_empty()) {
            let found = self.on_path(Path::new(named));
            let wrong = || format!("NVCC is {}, and there is no such program", named.display());
            return found.map(Nvcc::from).ok_or_else(wrong);
        }
        let found = self
            .on_path(Path::new("nvcc"))
            .or_else(|| self.in_toolkit());
        found
            .map(Nvcc::from)
            .or_else(|| self.in_python())
            .ok_or_else(missing)
    }

    fn on_path(&self, program: &Path) -> Option<PathBuf> {
        if program.components().count() > 1 {
            return executable(program.to_path_buf());
        }
        let path = self.variables.get("PATH")?;
        std::env::split_paths(path).find_map(|folder| executable(folder.join(program)))
    }

    fn in_toolkit(&self) -> Option<PathBuf> {
        // `cuda` is the default where there are several.
        let usual = self.toolkit_parents.iter().flat_map(|parent| {
            std::iter::once(parent.join("cuda")).chain(folders(parent, "cuda-"))
        });
        self.named(&["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT"])
            .chain(usual)
            .find_map(|toolkit| executable(toolkit.join("bin/nvcc")))
    }

    /// The folders that these variables name.
    fn named(&self, variables: &[&str]) -> impl Iterator<Item = PathBuf> {
        let values = variables
            .iter()
            .filter_map(|name| self.variables.get(*name));
        values.map(PathBuf::from)
    }

    fn in_python(&self) -> Option<Nvcc> {
        let named = self.named(&["VIRTUAL_ENV", "CONDA_PREFIX"]);
        let environments = named.chain(self.projects.iter().map(|project| project.join(".venv")));
        let packages = environments.flat_map(|environment| {
            let mut versions = folders(&environment.join("lib"), "python");
            versions.push(environment.join("Lib")); // Windows
            versions
                .into_iter()
                .map(|version| version.join("site-packages"))
        });
        packages
            .chain(self.site_packages.iter().cloned())
            .find_map(|packages| {
                let nvidia = packages.join("nvidia");
                // CUDA 13's packages share a folder as a toolkit does; CUDA 12's have one each.
                let mut shared = folders(&nvidia, "cu").into_iter();
                let shared = shared.find_map(|toolkit| executable(toolkit.join("bin/nvcc")));
                shared.map(Nvcc::from).or_else(|| {
                    let path = executable(nvidia.join("cuda_nvcc/bin/nvcc"))?;
                    let includes = ["cuda_runtime", "cuda_cccl", "cuda_crt"]
                        .map(|name| nvidia.join(name).join("include"));
                    Some(Nvcc {
                        path,
                        includes: includes
                            .into_iter()
                            .filter(|folder| folder.is_dir())
                            .collect(),
                    })
                })
            })
    }
}

/// The one line that ends a build without nvcc.
fn missing() -> String {
    format!(
        "the `cuda` feature needs nvcc, and there is none in NVCC, PATH, CUDA_HOME, CUDA_PATH, /usr/local/cuda*, \
         /opt/cuda or a Python environment; to install it: {INSTALL}"
    )
}

/// The release of the compiler, as `(13, 0)`, from the text of `nvcc --version`.
pub fn release(text: &str) -> Option<(u32, u32)> {
    let number = text
        .split("release ")
        .nth(1)?
        .split([',', ' ', '\n'])
        .next()?;
    let (major, minor) = number.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The same in full, as "13.0.88".
pub fn full_release(text: &str) -> Option<&str> {
    let (_, after) = text.split_once("release ")?;
    let (_, full) = after.split_once(", V")?;
    full.split_whitespace().next()
}

fn executable(path: PathBuf) -> Option<PathBuf> {
    let with_suffix = path.with_extension("exe");
    [path, with_suffix].into_iter().find(|path| path.is_file())
}

/// Folders whose names are `prefix` and a version, the newest first.
fn folders(parent: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    folders.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        path.is_dir()
            && name
                .strip_prefix(prefix)
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    });
    folders.sort_by_key(|path| std::cmp::Reverse(version_of(path)));
    folders
}

/// The numbers in a folder's name: (12, 9) and (13, 0) sort as versions, where text would not.
fn version_of(path: &Path) -> Vec<u32> {
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    name.split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

fn python_packages() -> Vec<PathBuf> {
    let program = "import site, sysconfig\nprint(sysconfig.get_paths()['purelib'])\nprint(site.getusersitepackages())";
    let output = Command::new("python3").args(["-c", program]).output();
    let text = output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    );
    text.lines().map(PathBuf::from).collect()
}
