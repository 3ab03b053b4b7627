//! BYOL: predictions of each view against the momentum encoder's embeddings of the other, without
//! negatives (Grill et al. 2020, equation 2).
//!
//! A step is that of MoCo v3 with another loss. The paper's heads have batch normalisation; here
//! normalisation of each candidate's images alone keeps the encoder from collapsing.

use serde::{Deserialize, Serialize};

use super::mocov3::Swapped;
use super::{
    Learner, Method, MethodConfig, MomentumCourse, MomentumSettings, Run, Settings,
};
use crate::train::error::TrainError;
use crate::train::platform::Platform;

pub(super) const METHOD: Method = Method {
    key: "byol",
    name: "BYOL",
    source: "Grill et al. 2020, equation 2",
    help: "Each view's prediction against a momentum encoder's embedding of the other view alone",
    loss: "byol",
    temperature: 1.0,
    learning_rate: 1.0,
    prediction: true,
    unfit: |loss| (loss.key != "byol").then_some("its images have no negatives"),
    settings: || MethodConfig::Byol(ByolSettings::default()),
};

/// The settings of BYOL.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ByolSettings {
    /// The momentum encoder's.
    #[serde(flatten)]
    pub momentum: MomentumSettings,
}

impl Default for ByolSettings {
    fn default() -> Self {
        Self {
            momentum: MomentumSettings {
                momentum: 0.99,
                momentum_course: MomentumCourse::Cosine,
            },
        }
    }
}

impl Settings for ByolSettings {
    fn validate(&self, _batch: usize, _dim: usize) -> Result<(), TrainError> {
        self.momentum.validate()
    }

    fn start<P: Platform>(&self, run: &Run<'_, P>) -> Result<Box<dyn Learner<P>>, TrainError> {
        Ok(Box::new(Swapped::new(run, self.momentum)?))
    }
}
