//! The training methods: from the images of a step to the gradients. Each has a file with its
//! settings, its [`Learner`] and its row of [`TABLE`].
//!
//! A learner encodes the views of a batch and builds its contrast; this crate's engine computes loss
//! and gradient. Optimiser, data and loop belong to the trainer.

mod learner;
mod momentum;
mod positives;
mod step;

pub use learner::{Learner, Run, State};
pub use momentum::{MomentumCourse, MomentumSettings};
pub use step::{Batch, LossReport, View};

use serde::{Deserialize, Serialize};

use super::error::TrainError;
use super::platform::Platform;
use crate::losses::{self, Loss};

/// A row of [`TABLE`].
#[derive(Debug, Clone, Copy)]
pub struct Method {
    /// The name on the command line and in `config.toml`.
    pub key: &'static str,
    /// The name in papers.
    pub name: &'static str,
    /// Paper and equation or algorithm.
    pub source: &'static str,
    /// What it contrasts, in one line.
    pub help: &'static str,
    /// The default loss, by its key in [`losses::TABLE`].
    pub loss: &'static str,
    /// The default temperature.
    pub temperature: f64,
    /// The default learning rate.
    pub learning_rate: f64,
    /// The default share of all steps over which the learning rate rises.
    pub warmup: f64,
    /// Whether the encoder has a prediction head.
    pub prediction: bool,
    /// Why it cannot train with a loss; `None` where it can.
    pub unfit: fn(&Loss) -> Option<&'static str>,
    /// Its own settings with their defaults.
    pub settings: fn() -> MethodConfig,
}

/// What a method's own settings are asked for.
trait Settings {
    /// Checks them, beside the settings `batch` and `dim` of all methods.
    fn validate(&self, batch: usize, dim: usize) -> Result<(), TrainError>;

    /// The learner at the start of a run.
    fn start<P: Platform>(&self, run: &Run<'_, P>) -> Result<Box<dyn Learner<P>>, TrainError>;
}

/// Declares the methods' files; makes [`TABLE`] of their rows and [`MethodConfig`] of their settings.
macro_rules! methods {
    ($($file:ident: $variant:ident($settings:ident);)*) => {
        $(
            mod $file;
            pub use $file::$settings;
        )*

        /// All methods. The command line, `config.toml` and `docs/training.md` use it.
        pub static TABLE: &[Method] = &[$($file::METHOD),*];

        /// A method with its own settings, which `config.toml` has beside the others.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "method", rename_all = "lowercase")]
        pub enum MethodConfig {
            $(#[doc = concat!("The settings of `", stringify!($file), "`.")] $variant($settings)),*
        }

        impl MethodConfig {
            /// Its row of [`TABLE`].
            pub fn method(&self) -> &'static Method {
                match self {
                    $(Self::$variant(_) => const { &$file::METHOD }),*
                }
            }

            /// Checks the settings, beside the settings `batch` and `dim` of all methods.
            ///
            /// # Errors
            /// [`TrainError::Argument`] names the first that is outside its range.
            pub fn validate(&self, batch: usize, dim: usize) -> Result<(), TrainError> {
                match self {
                    $(Self::$variant(settings) => settings.validate(batch, dim)),*
                }
            }

            /// The learner at the start of a run.
            ///
            /// # Errors
            /// [`TrainError`] when the data do not suit it, and what the engine reports.
            pub fn start<P: Platform>(
                &self,
                run: &Run<'_, P>,
            ) -> Result<Box<dyn Learner<P>>, TrainError> {
                match self {
                    $(Self::$variant(settings) => settings.start(run)),*
                }
            }
        }
    };
}

methods! {
    simclr: Simclr(SimclrSettings);
    moco: Moco(MocoSettings);
    mocov3: Mocov3(Mocov3Settings);
    instdisc: Instdisc(InstdiscSettings);
    pcl: Pcl(PclSettings);
}

impl Method {
    /// The row of [`TABLE`] with this key.
    pub fn of(key: &str) -> Option<&'static Self> {
        TABLE.iter().find(|method| method.key == key)
    }

    /// The losses that it can train with.
    pub fn losses(&self) -> impl Iterator<Item = &'static Loss> {
        losses::TABLE
            .iter()
            .filter(|loss| (self.unfit)(loss).is_none())
    }

    /// The loss of a key.
    ///
    /// # Errors
    /// [`TrainError::UnfitLoss`] when there is none, or the method cannot train with it.
    pub fn loss(&self, key: &str) -> Result<&'static Loss, TrainError> {
        let refuse = |reason| TrainError::UnfitLoss {
            given: key.to_owned(),
            reason,
            method: self.key,
            fits: self.loss_keys(),
        };
        let loss = Loss::of(key).ok_or_else(|| refuse("there is no such loss"))?;
        match (self.unfit)(loss) {
            None => Ok(loss),
            Some(reason) => Err(refuse(reason)),
        }
    }

    /// The keys of the losses that it can train with, separated by commas.
    pub fn loss_keys(&self) -> String {
        joined(self.losses().map(|loss| loss.key))
    }

    /// Whether `config.toml` has a setting of this key for the method alone.
    pub fn has_setting(&self, key: &str) -> bool {
        self.own_settings().contains_key(key)
    }

    /// Its own settings with their defaults, as `config.toml` has them.
    fn own_settings(&self) -> toml::Table {
        let mut settings = toml::Table::try_from((self.settings)()).unwrap_or_default();
        settings.remove("method");
        settings
    }

    /// The keys of the methods that have a setting, separated by commas.
    pub fn with_setting(key: &str) -> String {
        joined(
            TABLE
                .iter()
                .filter(|method| method.has_setting(key))
                .map(|method| method.key),
        )
    }
}

fn joined<'a>(keys: impl Iterator<Item = &'a str>) -> String {
    keys.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
