//! `config.toml`: every value that determines a run, merged from defaults, a file and the command
//! line.
//!
//! Each layer is a TOML table, so that it may leave out what it does not change.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::arguments::TrainArgs;
use super::augment::AugmentConfig;
use super::data::DataSource;
use super::engine::EngineName;
use super::methods::Method;
use super::train_config::TrainConfig;

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("could not read {}: {source}", path.display())]
    Unreadable {
        path: PathBuf,
        source: std::io::Error,
    },
    /// The file is not TOML, or a key or value of it does not fit.
    #[error("{}: {reason}", path.display())]
    File { path: PathBuf, reason: String },
    /// The file belongs to another method than the one asked for.
    #[error("{} is for {found}, but the command asks for {asked}", path.display())]
    Method {
        path: PathBuf,
        found: String,
        asked: &'static str,
    },
    /// An option that the method does not have.
    #[error("{option} belongs to {owners}; {asked} has no such setting")]
    Option {
        option: &'static str,
        owners: String,
        asked: &'static str,
    },
    /// A value of the command line that does not fit.
    #[error("{0}")]
    Argument(String),
}

/// Every value that determines a run; `config.toml` is this in TOML.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunConfig {
    /// Where the images come from.
    pub data: DataSource,
    /// Whether unreadable image files are left out instead of being an error.
    #[serde(default)]
    pub skip_unreadable: bool,
    /// The engine. In the configuration of a run it is the one that computed, never auto.
    pub engine: EngineName,
    /// Method, encoder, loss and optimiser.
    pub train: TrainConfig,
    /// How views are drawn. In a file this table replaces the data set's preset as a whole, since
    /// an absent entry disables that change.
    pub augment: AugmentConfig,
}

/// The configuration before the data set is known.
#[derive(Debug, Clone)]
pub struct Request {
    /// The configuration. Its engine may still be auto.
    pub config: RunConfig,
    /// Whether the file says how views are drawn; otherwise the data set does.
    has_augment: bool,
}

impl Request {
    /// Merges the defaults, the file that `--config` names and the command line; later ones
    /// override.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key that does not fit. The trainer checks that values are in
    /// range.
    pub fn new(arguments: &TrainArgs) -> Result<Self, ConfigError> {
        let asked = arguments.method.key;
        for (option, setting, given) in [
            ("--queue", "queue", arguments.queue.is_some()),
            ("--momentum", "momentum", arguments.momentum.is_some()),
        ] {
            if given && !arguments.method.has_setting(setting) {
                let owners = Method::with_setting(setting);
                return Err(ConfigError::Option {
                    option,
                    owners,
                    asked,
                });
            }
        }
        let (path, file) = match &arguments.config {
            Some(path) => (path.clone(), read(path)?),
            None => Default::default(),
        };
        let found = file.get("train").and_then(|train| train.get("method"));
        if let Some(found) = found.and_then(Value::as_str)
            && found != asked
        {
            let found = found.to_owned();
            return Err(ConfigError::Method { path, found, asked });
        }
        let defaults = RunConfig {
            data: DataSource::Demo,
            skip_unreadable: false,
            engine: EngineName::Auto,
            train: TrainConfig::of(arguments.method),
            // Every change is off, as for an entry that is absent from a file.
            augment: AugmentConfig::default(),
        };
        let with_file = over(&defaults, &file);
        let with_file = with_file.map_err(|reason| ConfigError::File { path, reason })?;
        let config = command_line(arguments).and_then(|layer| over(&with_file, &layer));
        let config = config.map_err(ConfigError::Argument)?;
        let has_augment = file.contains_key("augment");
        Ok(Self {
            config,
            has_augment,
        })
    }

    /// The configuration of a run on `engine`, on a data set with this `preset`.
    pub fn resolve(self, engine: EngineName, preset: &AugmentConfig) -> RunConfig {
        let augment = match self.has_augment {
            true => self.config.augment,
            false => preset.clone(),
        };
        RunConfig {
            engine,
            augment,
            ..self.config
        }
    }
}

/// The command line's values under their keys.
fn command_line(arguments: &TrainArgs) -> Result<Table, String> {
    let given = Table::try_from(arguments).map_err(in_one_line)?;
    let outside = |key: &str| ["data", "skip_unreadable", "engine"].contains(&key);
    let (mut layer, train): (Table, Table) = given.into_iter().partition(|(key, _)| outside(key));
    layer.insert("train".to_owned(), Value::Table(train));
    Ok(layer)
}

fn read(path: &Path) -> Result<Table, ConfigError> {
    let syntax = |reason| ConfigError::File {
        path: path.to_path_buf(),
        reason: format!("not TOML: {reason}"),
    };
    let bytes = std::fs::read(path).map_err(|source| ConfigError::Unreadable {
        path: path.to_path_buf(),
        source,
    })?;
    let text = String::from_utf8(bytes).map_err(|error| syntax(error.utf8_error().to_string()))?;
    text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().map_or("", |span| &text[..span.start]);
        let line = before.lines().count().max(1);
        syntax(format!(
            "line {line}: {}",
            error.message().replace('\n', ", ")
        ))
    })
}

/// Merges `layer` into `config`: a table is merged key by key, anything else replaces. The error
/// names the key that does not fit.
fn over(config: &RunConfig, layer: &Table) -> Result<RunConfig, String> {
    let mut merged = Table::try_from(config).map_err(in_one_line)?;
    merge(&mut merged, layer);
    let result: RunConfig = merged.try_into().map_err(in_one_line)?;
    // A key that the type did not keep is unknown.
    let kept = Table::try_from(&result).map_err(in_one_line)?;
    check_known(layer, &kept, "")?;
    Ok(result)
}

fn in_one_line(error: impl ToString) -> String {
    error.to_string().trim().replace('\n', " ")
}

fn merge(base: &mut Table, layer: &Table) {
    for (key, value) in layer {
        match (base.get_mut(key), value) {
            (Some(Value::Table(inner)), Value::Table(change)) => merge(inner, change),
            _ => {
                base.insert(key.clone(), value.clone());
            }
        }
    }
}

fn check_known(layer: &Table, kept: &Table, prefix: &str) -> Result<(), String> {
    for (key, value) in layer {
        match (kept.get(key), value) {
            (None, _) => {
                let known = kept
                    .keys()
                    .map(String::as_str)
                    .collect::<Vec<_>>()
                    .join(", ");
                return Err(format!("unknown key `{prefix}{key}`; known here: {known}"));
            }
            (Some(Value::Table(kept)), Value::Table(layer)) => {
                check_known(layer, kept, &format!("{prefix}{key}."))?;
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        train: TrainArgs,
    }

    /// A request for MoCo with the configuration `file` and more arguments.
    fn request(file: &str, more: &[&str]) -> Result<Request, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run.toml");
        std::fs::write(&path, file).unwrap();
        let command = ["infonce", "moco", "--config", path.to_str().unwrap()];
        let arguments = Command::parse_from([&command, more].concat()).train;
        Request::new(&arguments).map_err(|error| error.to_string())
    }

    #[test]
    fn a_layer_changes_what_it_names_and_nothing_else() {
        let written = |request: Request| toml::to_string(&request.config).unwrap();
        let mut expected = written(request("", &[]).unwrap());
        for (default, set) in [
            ("skip_unreadable = false", "skip_unreadable = true"),
            ("queue = 1024", "queue = 7"),
            ("warmup = 0.05", "warmup = 0.5"),
            ("data = \"demo\"", "data = \"idx:a\""),
            ("engine = \"auto\"", "engine = \"cpu\""),
            ("learning_rate = 0.3", "learning_rate = 0.25"),
            ("seed = 0", "seed = 9"),
        ] {
            assert!(expected.contains(default), "{default} is not in {expected}");
            expected = expected.replace(default, set);
        }
        let file = "skip_unreadable = true\n[train]\nqueue = 30\nwarmup = 0.5";
        let options = "--data=idx:a --engine=cpu --queue=7 --lr=0.25 --seed=9";
        let options: Vec<&str> = options.split(' ').collect();
        assert_eq!(written(request(file, &options).unwrap()), expected);
    }

    #[test]
    fn views_are_drawn_as_the_file_says_or_else_the_data_set() {
        let preset: AugmentConfig = toml::from_str("rotation.max_degrees = 5.0").unwrap();
        for (file, expected) in [
            ("", "rotation.max_degrees = 5.0"),
            ("[augment]", ""),
            (
                "[augment.flip]\nprobability = 0.5",
                "flip.probability = 0.5",
            ),
        ] {
            let config = request(file, &[]).unwrap();
            let found = config.resolve(EngineName::Cpu, &preset).augment;
            assert_eq!(found, toml::from_str(expected).unwrap(), "{file}");
        }
    }

    #[test]
    fn an_unknown_key_is_named_with_its_path() {
        for (file, message) in [
            ("sed = 1", "unknown key `sed`; known here: augment, data"),
            (
                "[train]\nbatches = 1",
                "unknown key `train.batches`; known here: batch",
            ),
        ] {
            let found = request(file, &[]).unwrap_err();
            assert!(found.contains(message), "{found}");
        }
    }
}
