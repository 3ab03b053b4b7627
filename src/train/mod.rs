//! The trainer: whole SimCLR and MoCo runs from one command.
//!
//! [`data`] reads images, [`augment`] draws views of them, [`trainer`] trains an [`encoder`] with
//! this crate's losses, [`evaluate`] says what that was worth and [`report`] shows it. [`run`] is
//! the command `infonce train` that ties them together.

mod arguments;
pub mod augment;
mod batch_norm;
mod bridge;
pub mod checkpoint;
mod command;
pub mod config;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod data;
mod ema;
pub mod encoder;
mod ending;
mod engine;
mod error;
pub mod evaluate;
mod image_set;
mod interrupt;
mod judgement;
pub mod methods;
pub mod metrics;
pub mod patches;
pub mod platform;
mod recorder;
pub mod report;
mod run_error;
pub mod run_folder;
mod summary;
#[cfg(test)]
mod testing;
mod train_config;
pub mod trainer;

pub use arguments::{MethodName, TrainArgs};
pub use command::run;
pub use engine::EngineName;
pub use evaluate::Features;
pub use judgement::judge;
pub use run_error::RunError;
