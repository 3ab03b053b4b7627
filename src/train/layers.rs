//! Configuration in layers: defaults, then a file, then the command line.
//!
//! Works on TOML tables, so that a file may leave out whatever it does not change.

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

/// A layer that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayerError {
    /// A key that means nothing here.
    #[error("unknown key `{key}`; known here: {known}")]
    UnknownKey {
        /// Dotted path.
        key: String,
        /// The keys allowed beside it.
        known: String,
    },
    /// A value of the wrong type or outside its set.
    #[error("{0}")]
    Value(String),
}

/// Puts `layer` over `defaults`: a table goes into a table key by key, anything else replaces.
/// Tables named in `whole` replace as a whole, because in them an absent key means something.
///
/// # Errors
/// [`LayerError`] naming the key.
pub fn over<T: Serialize + DeserializeOwned>(
    defaults: &T,
    layer: &Table,
    whole: &[&str],
) -> Result<T, LayerError> {
    let invalid = |reason: String| LayerError::Value(reason.trim().replace('\n', " "));
    let mut merged = Table::try_from(defaults).map_err(|error| invalid(error.to_string()))?;
    merge(&mut merged, layer, whole);
    let result: T = merged
        .try_into()
        .map_err(|error| invalid(error.to_string()))?;
    // What the type kept is what it knows: a key that did not survive is unknown.
    let kept = Table::try_from(&result).map_err(|error| invalid(error.to_string()))?;
    check_known(layer, &kept, "")?;
    Ok(result)
}

fn merge(base: &mut Table, layer: &Table, whole: &[&str]) {
    for (key, value) in layer {
        match (base.get_mut(key), value) {
            (Some(Value::Table(inner)), Value::Table(change)) if !whole.contains(&key.as_str()) => {
                merge(inner, change, whole);
            }
            _ => {
                base.insert(key.clone(), value.clone());
            }
        }
    }
}

fn check_known(layer: &Table, kept: &Table, prefix: &str) -> Result<(), LayerError> {
    for (key, value) in layer {
        let path = format!("{prefix}{key}");
        match (kept.get(key), value) {
            (None, _) => {
                let known: Vec<&str> = kept.keys().map(String::as_str).collect();
                return Err(LayerError::UnknownKey {
                    key: path,
                    known: known.join(", "),
                });
            }
            (Some(Value::Table(kept)), Value::Table(layer)) => {
                check_known(layer, kept, &format!("{path}."))?;
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Outer {
        seed: u64,
        inner: Inner,
        parts: Parts,
    }

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Inner {
        rate: f64,
        steps: u32,
    }

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Parts {
        #[serde(skip_serializing_if = "Option::is_none")]
        first: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        second: Option<u32>,
    }

    fn defaults() -> Outer {
        Outer {
            seed: 1,
            inner: Inner {
                rate: 0.5,
                steps: 10,
            },
            parts: Parts {
                first: Some(1),
                second: None,
            },
        }
    }

    fn layered(text: &str) -> Result<Outer, LayerError> {
        over(&defaults(), &text.parse().unwrap(), &["parts"])
    }

    #[test]
    fn a_layer_changes_what_it_names_and_nothing_else() {
        let mut expected = defaults();
        expected.inner.steps = 20;
        assert_eq!(layered("[inner]\nsteps = 20"), Ok(expected));
        assert_eq!(layered(""), Ok(defaults()));
    }

    #[test]
    fn a_whole_table_replaces_the_default_one() {
        let found = layered("[parts]\nsecond = 2").unwrap();
        assert_eq!((found.parts.first, found.parts.second), (None, Some(2)));
    }

    #[test]
    fn what_was_written_reads_back_the_same() {
        let mut other = defaults();
        other.seed = 9;
        other.parts.first = None;
        assert_eq!(layered(&toml::to_string(&other).unwrap()), Ok(other));
    }

    #[test]
    fn an_unknown_key_is_named_with_its_path() {
        for (text, key) in [("sed = 1", "sed"), ("[inner]\nstep = 1", "inner.step")] {
            match layered(text).unwrap_err() {
                LayerError::UnknownKey { key: found, .. } => assert_eq!(found, key),
                other => panic!("{other}"),
            }
        }
    }

    #[test]
    fn a_value_of_the_wrong_type_is_refused_in_one_line() {
        let message = layered("[inner]\nsteps = \"many\"")
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("many") && !message.contains('\n'),
            "{message}"
        );
    }
}
