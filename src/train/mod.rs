//! The trainer: whole runs of each of [`methods`] from one command, `infonce train`, which [`run`]
//! executes.
//!
//! [`data`] reads images, [`augment`] draws random views of them, [`trainer`] trains an [`encoder`]
//! with this crate's losses, [`evaluate`] measures the result, and [`report`] shows it.
//! [`platform`] names the tensor framework and the engine that compute.

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
mod setting;
mod sgd;
mod summary;
#[cfg(test)]
mod testing;
mod train_config;
pub mod trainer;

pub use arguments::TrainArgs;
pub use command::run;
pub use engine::EngineName;
pub use evaluate::Features;
pub use judgement::judge;
pub use run_error::RunError;
