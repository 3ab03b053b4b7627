//! `config.toml`: every value that decides a run, and how it comes together from defaults, a
//! file and the command line.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::arguments::{MethodName, TrainArgs};
use super::augment::AugmentConfig;
use super::data::{DataSource, Dataset, LoadOptions};
use super::engine::EngineName;
use super::layers::{self, LayerError};
use super::trainer::TrainConfig;
use crate::Contrast;

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("could not read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{} is not TOML: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// A key or value of the file does not fit.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Which and why.
        source: LayerError,
    },
    /// The file belongs to another method than the one asked for.
    #[error("{} is for {found}, but the command asks for {asked}", path.display())]
    Method {
        /// The file.
        path: PathBuf,
        /// The method in it.
        found: String,
        /// The method asked for.
        asked: &'static str,
    },
    /// An option of MoCo's beside another method, or of its queue's beside a loss without one.
    #[error("{option} belongs to moco; {given} takes its negatives from the batch")]
    MocoOnly {
        /// The option.
        option: &'static str,
        /// The method or loss.
        given: String,
    },
    /// A value of the command line that does not fit.
    #[error("{0}")]
    Argument(LayerError),
}

/// Every value that decides a run; `config.toml` is this in TOML.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunConfig {
    /// Where the images come from.
    pub data: DataSource,
    /// Whether image files that cannot be read are left out, in place of an error.
    #[serde(default)]
    pub skip_unreadable: bool,
    /// What computes. In the configuration of a run it is the one that did, never auto.
    pub engine: EngineName,
    /// Method, encoder, loss and optimiser.
    pub train: TrainConfig,
    /// How views are drawn. In a file this table replaces the data set's preset as a whole, since
    /// an absent entry means that the change is off.
    pub augment: AugmentConfig,
}

/// A configuration file and the command line, before the data set is known.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    arguments: &'a TrainArgs,
    file: Table,
}

impl<'a> Request<'a> {
    /// Reads the file that `--config` names, if any.
    ///
    /// # Errors
    /// [`ConfigError`] when it cannot be read or contradicts the command line.
    pub fn new(arguments: &'a TrainArgs) -> Result<Self, ConfigError> {
        if arguments.method == MethodName::Simclr {
            for (option, given) in [
                ("--queue", arguments.queue.is_some()),
                ("--momentum", arguments.momentum.is_some()),
            ] {
                if given {
                    let given = arguments.method.key().to_owned();
                    return Err(ConfigError::MocoOnly { option, given });
                }
            }
        }
        let file = match &arguments.config {
            Some(path) => read(path)?,
            None => Table::new(),
        };
        let request = Self { arguments, file };
        request.check_method()?;
        Ok(request)
    }

    fn check_method(&self) -> Result<(), ConfigError> {
        let asked = self.arguments.method.key();
        match self.in_file("method").and_then(Value::as_str) {
            Some(found) if found != asked => Err(ConfigError::Method {
                path: self.path(),
                found: found.to_owned(),
                asked,
            }),
            _ => Ok(()),
        }
    }

    fn path(&self) -> PathBuf {
        self.arguments.config.clone().unwrap_or_default()
    }

    /// A value of the file's `[train]`.
    fn in_file(&self, key: &str) -> Option<&Value> {
        self.file.get("train").and_then(|train| train.get(key))
    }

    /// Where the images come from: the command line, else the file, else the demo set.
    ///
    /// # Errors
    /// [`ConfigError::File`] when the file's source is none.
    pub fn source(&self) -> Result<DataSource, ConfigError> {
        let given = self.arguments.data.clone();
        Ok(given
            .or(self.top_level("data")?)
            .unwrap_or(DataSource::Demo))
    }

    /// What is to compute: the command line's engine, else the file's, else whichever is here.
    ///
    /// # Errors
    /// [`ConfigError::File`] when the file's engine is none.
    pub fn engine(&self) -> Result<EngineName, ConfigError> {
        let given = self.arguments.engine;
        Ok(given.or(self.top_level("engine")?).unwrap_or_default())
    }

    /// A value that stands in no table of the file.
    fn top_level<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, ConfigError> {
        let value = self.file.get(key).cloned();
        let value = value.map(|value| value.try_into()).transpose();
        value.map_err(|error: toml::de::Error| ConfigError::File {
            path: self.path(),
            source: LayerError::Value(format!("{key}: {}", error.message())),
        })
    }

    /// How the images are read: what the command line says, else the file.
    ///
    /// # Errors
    /// [`ConfigError::File`] when the file's value is none.
    pub fn load_options(&self) -> Result<LoadOptions, ConfigError> {
        let in_file = self.top_level("skip_unreadable")?.unwrap_or(false);
        Ok(LoadOptions {
            seed: self.seed(),
            skip_unreadable: self.arguments.skip_unreadable || in_file,
        })
    }

    /// The run's seed, which also divides images: the command line's, else the file's, else the
    /// default.
    fn seed(&self) -> u64 {
        let in_file = || self.in_file("seed").and_then(Value::as_integer);
        self.arguments
            .seed
            .or_else(|| in_file().and_then(|seed| u64::try_from(seed).ok()))
            .unwrap_or(defaults(self.arguments.method).seed)
    }

    /// Puts the file over the defaults for this data set, and the command line over both. `engine`
    /// is the one that computes.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key that does not fit. That values are in range is checked by
    /// the trainer.
    pub fn resolve(
        &self,
        source: DataSource,
        engine: EngineName,
        dataset: &Dataset,
    ) -> Result<RunConfig, ConfigError> {
        let base = RunConfig {
            data: source.clone(),
            skip_unreadable: false,
            engine,
            train: defaults(self.arguments.method),
            augment: dataset.augment.clone(),
        };
        let with_file =
            layers::over(&base, &self.file, &["augment"]).map_err(|error| ConfigError::File {
                path: self.path(),
                source: error,
            })?;
        let mut command_line = Table::new();
        command_line.insert("data".to_owned(), Value::String(source.to_string()));
        if self.arguments.skip_unreadable {
            command_line.insert("skip_unreadable".to_owned(), Value::Boolean(true));
        }
        command_line.insert("engine".to_owned(), Value::String(engine.key().to_owned()));
        command_line.insert("train".to_owned(), Value::Table(overrides(self.arguments)));
        let config: RunConfig =
            layers::over(&with_file, &command_line, &[]).map_err(ConfigError::Argument)?;
        let in_batch = |contrast: Contrast| !contrast.has_own_keys();
        if self.arguments.queue.is_some() && config.train.contrast().is_ok_and(in_batch) {
            return Err(ConfigError::MocoOnly {
                option: "--queue",
                given: config.train.loss,
            });
        }
        Ok(config)
    }
}

fn defaults(method: MethodName) -> TrainConfig {
    match method {
        MethodName::Simclr => TrainConfig::simclr(),
        MethodName::Moco => TrainConfig::moco(),
    }
}

/// The command line's values under their keys of `[train]`.
fn overrides(arguments: &TrainArgs) -> Table {
    let integer = |value: Option<u64>| value.map(|value| Value::Integer(value.cast_signed()));
    let float = |value: Option<f64>| value.map(Value::Float);
    let values = [
        ("epochs", integer(arguments.epochs)),
        ("batch", integer(arguments.batch)),
        ("loss", arguments.loss.clone().map(Value::String)),
        ("temperature", float(arguments.temperature)),
        ("dim", integer(arguments.dim)),
        ("learning_rate", float(arguments.lr)),
        ("queue", integer(arguments.queue)),
        ("momentum", float(arguments.momentum)),
        ("seed", integer(arguments.seed)),
    ];
    let given = values
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)));
    given.collect()
}

fn read(path: &Path) -> Result<Table, ConfigError> {
    let bytes = std::fs::read(path).map_err(|source| ConfigError::Unreadable {
        path: path.to_path_buf(),
        source,
    })?;
    let text = String::from_utf8(bytes).map_err(|error| ConfigError::Syntax {
        path: path.to_path_buf(),
        reason: error.utf8_error().to_string(),
    })?;
    text.parse().map_err(|error: toml::de::Error| {
        let line = error
            .span()
            .map_or(1, |span| text[..span.start].lines().count().max(1));
        ConfigError::Syntax {
            path: path.to_path_buf(),
            reason: format!("line {line}: {}", error.message().replace('\n', ", ")),
        }
    })
}
