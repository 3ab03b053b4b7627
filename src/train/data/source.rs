//! The names of data sources on the command line and in `config.toml`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Every form, for messages.
const FORMS: &str = "demo, folder:DIR, idx:DIR, cifar10:DIR, cifar100:DIR, cifar100-coarse:DIR, \
                     npy:DIR and npy:IMAGES.npy[,LABELS.npy]";

/// A source of images; [`Display`](fmt::Display) writes it as the command line takes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DataSource {
    /// `demo`: the built-in set of procedurally drawn textures.
    Demo,
    /// `folder:DIR`: images in folders, one per class, or without any.
    Folder(PathBuf),
    /// `idx:DIR`: a directory with MNIST's four IDX files.
    Idx(PathBuf),
    /// `cifar10:DIR`: a directory with CIFAR-10's binary version.
    Cifar10(PathBuf),
    /// `cifar100:DIR`: a directory with CIFAR-100's binary version; 100 fine labels.
    Cifar100(PathBuf),
    /// `cifar100-coarse:DIR`: the same with its 20 coarse labels.
    Cifar100Coarse(PathBuf),
    /// `npy:DIR` or `npy:IMAGES.npy[,LABELS.npy]`: arrays as NumPy saves them.
    Npy {
        /// An array of images, or a directory with arrays for training and held-out images.
        images: PathBuf,
        /// An array with a label per image.
        labels: Option<PathBuf>,
    },
}

/// A data source that is none of the known ones.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown data source {given:?}: allowed are {FORMS}, with DIR not empty")]
pub struct ParseDataSourceError {
    pub given: String,
}

impl DataSource {
    /// The word before the colon, and the file or directory behind it.
    fn word_and_path(&self) -> (&'static str, Option<&Path>) {
        match self {
            Self::Demo => ("demo", None),
            Self::Folder(path) => ("folder", Some(path)),
            Self::Idx(path) => ("idx", Some(path)),
            Self::Cifar10(path) => ("cifar10", Some(path)),
            Self::Cifar100(path) => ("cifar100", Some(path)),
            Self::Cifar100Coarse(path) => ("cifar100-coarse", Some(path)),
            Self::Npy { images, .. } => ("npy", Some(images)),
        }
    }

    /// The file or directory.
    pub fn path(&self) -> Option<&Path> {
        self.word_and_path().1
    }
}

impl FromStr for DataSource {
    type Err = ParseDataSourceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseDataSourceError {
            given: text.to_owned(),
        };
        let (word, path) = text.split_once(':').unwrap_or((text, ""));
        Ok(match word {
            "demo" if text == word => Self::Demo,
            _ if path.is_empty() => return Err(error()),
            "folder" => Self::Folder(path.into()),
            "idx" => Self::Idx(path.into()),
            "cifar10" => Self::Cifar10(path.into()),
            "cifar100" => Self::Cifar100(path.into()),
            "cifar100-coarse" => Self::Cifar100Coarse(path.into()),
            "npy" => {
                // A comma may also belong to a name.
                let (images, labels) = match path.rsplit_once(',') {
                    Some((images, labels)) if images.ends_with(".npy") => (images, Some(labels)),
                    _ => (path, None),
                };
                let (images, labels) = (images.into(), labels.map(PathBuf::from));
                Self::Npy { images, labels }
            }
            _ => return Err(error()),
        })
    }
}

impl fmt::Display for DataSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, path) = self.word_and_path();
        formatter.write_str(word)?;
        if let Some(path) = path {
            write!(formatter, ":{}", path.display())?;
        }
        if let Self::Npy {
            labels: Some(labels),
            ..
        } = self
        {
            write!(formatter, ",{}", labels.display())?;
        }
        Ok(())
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
        for text in [
            "demo",
            "folder:.",
            "idx:a/b",
            "cifar10:/data/c:d",
            "cifar100:e",
            "cifar100-coarse:e",
            "npy:arrays",
            "npy:a,b.npy",
            "npy:x.npy,y.npy",
        ] {
            let source: DataSource = text.parse().unwrap();
            assert_eq!(source.to_string(), text);
            let json = serde_json::to_string(&source).unwrap();
            assert_eq!(json, format!("{text:?}"));
            assert_eq!(serde_json::from_str::<DataSource>(&json).unwrap(), source);
        }
    }

    #[test]
    fn a_comma_after_an_array_names_its_labels() {
        let source = |text: &str| text.parse::<DataSource>().unwrap();
        let npy = |images: &str, labels: Option<&str>| DataSource::Npy {
            images: images.into(),
            labels: labels.map(PathBuf::from),
        };
        assert_eq!(source("npy:x.npy,y.npy"), npy("x.npy", Some("y.npy")));
        assert_eq!(source("npy:x,1.npy"), npy("x,1.npy", None));
    }

    #[test]
    fn anything_else_is_refused_with_the_allowed_forms() {
        for text in "|Demo|demo:x|demo:|idx|idx:|mnist:dir|:dir|npy:".split('|') {
            let error = text.parse::<DataSource>().unwrap_err();
            assert_eq!(error.given, text);
            assert!(error.to_string().contains("folder:DIR"), "{error}");
        }
    }
}
