//! The settings that all methods with a momentum encoder share.

use serde::{Deserialize, Serialize};

use crate::MomentumSchedule;
use crate::train::error::TrainError;
use crate::train::setting::{number, require};

/// Settings of a momentum encoder.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MomentumSettings {
    /// m of the encoder's update.
    pub momentum: f64,
    /// How m changes over training.
    pub momentum_course: MomentumCourse,
}

/// How the momentum of an encoder changes over training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MomentumCourse {
    /// The same at every step (He et al. 2020).
    Constant,
    /// Along a cosine to 1 at the last step (Grill et al. 2020).
    Cosine,
}

impl MomentumSettings {
    pub(super) fn validate(&self) -> Result<(), TrainError> {
        let share = (0.0..=1.0).contains(&self.momentum);
        require("momentum", number(self.momentum), "between 0 and 1", share)
    }

    /// The schedule over a run of `total_steps` steps.
    pub(super) fn schedule(&self, total_steps: u64) -> Result<MomentumSchedule, crate::Error> {
        let momentum = self.momentum as f32;
        match self.momentum_course {
            MomentumCourse::Constant => MomentumSchedule::constant(momentum),
            MomentumCourse::Cosine => MomentumSchedule::cosine(momentum, total_steps),
        }
    }
}
