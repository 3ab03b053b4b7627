//! The one-word names of data sources, as written on the command line and in `config.toml`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where images come from. Written `demo`, `idx:DIR`, `cifar10:DIR` or `folder:DIR`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DataSource {
    /// The built-in set of procedurally drawn textures.
    Demo,
    /// A directory with MNIST's four IDX files.
    Idx(PathBuf),
    /// A directory with CIFAR-10's binary batches.
    Cifar10(PathBuf),
    /// A directory with one folder of images per class.
    Folder(PathBuf),
}

/// A data source that is none of the known ones.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown data source {given:?}: allowed are demo, idx:DIR, cifar10:DIR and folder:DIR, \
     with DIR not empty"
)]
pub struct ParseDataSourceError {
    /// What was given.
    pub given: String,
}

impl FromStr for DataSource {
    type Err = ParseDataSourceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseDataSourceError {
            given: text.to_owned(),
        };
        if text == "demo" {
            return Ok(Self::Demo);
        }
        match text.split_once(':') {
            Some((_, "")) | None => Err(error()),
            Some(("idx", directory)) => Ok(Self::Idx(directory.into())),
            Some(("cifar10", directory)) => Ok(Self::Cifar10(directory.into())),
            Some(("folder", directory)) => Ok(Self::Folder(directory.into())),
            Some(_) => Err(error()),
        }
    }
}

impl fmt::Display for DataSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Demo => formatter.write_str("demo"),
            Self::Idx(directory) => write!(formatter, "idx:{}", directory.display()),
            Self::Cifar10(directory) => write!(formatter, "cifar10:{}", directory.display()),
            Self::Folder(directory) => write!(formatter, "folder:{}", directory.display()),
        }
    }
}

impl TryFrom<String> for DataSource {
    type Error = ParseDataSourceError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<DataSource> for String {
    fn from(source: DataSource) -> Self {
        source.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_reads_back_what_it_prints() {
        for text in ["demo", "idx:a/b", "cifar10:/data/c:d", "folder:."] {
            let source: DataSource = text.parse().unwrap();
            assert_eq!(source.to_string(), text);
            let json = serde_json::to_string(&source).unwrap();
            assert_eq!(json, format!("{text:?}"));
            assert_eq!(serde_json::from_str::<DataSource>(&json).unwrap(), source);
        }
    }

    #[test]
    fn anything_else_is_refused_with_the_allowed_forms() {
        for text in ["", "Demo", "demo:x", "idx", "idx:", "mnist:dir", ":dir"] {
            let error = text.parse::<DataSource>().unwrap_err();
            assert_eq!(error.given, text);
            assert!(error.to_string().contains("folder:DIR"), "{error}");
        }
    }
}
