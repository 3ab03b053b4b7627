//! How settings are checked and shown: one line that names the setting, what was given and what is allowed.

use super::error::TrainError;

/// Refuses a setting unless its condition `holds`.
pub(super) fn require(
    argument: &'static str,
    given: impl ToString,
    allowed: &'static str,
    holds: bool,
) -> Result<(), TrainError> {
    if holds {
        return Ok(());
    }
    Err(TrainError::Argument {
        argument,
        given: given.to_string(),
        allowed,
    })
}

/// The number in plain notation, or with an exponent where that takes many digits.
pub(super) fn number(value: f64) -> String {
    if value == 0.0 || (1e-4..1e7).contains(&value.abs()) {
        value.to_string()
    } else {
        format!("{value:e}")
    }
}
