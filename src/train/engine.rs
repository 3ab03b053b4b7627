//! Chooses the engine of a run: the one that `--engine` names, or the best that is available.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

#[cfg(feature = "cuda")]
use super::{cuda::Cuda, platform::Platform};
use crate::{CpuEngine, Error};

/// Engines by the names that the command line and `config.toml` give them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineName {
    /// cuda where this build has it and a device is available, else cpu.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The first CUDA device.
    Cuda,
}

impl EngineName {
    /// Its name on the command line.
    pub fn key(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }
}

/// An available engine.
#[derive(Debug)]
pub enum Choice {
    /// The CPU.
    Cpu,
    /// The first CUDA device.
    #[cfg(feature = "cuda")]
    Cuda(Box<Cuda>),
}

/// The engine for `asked` and a line about it: what it computes on, or why cuda is unavailable.
/// `cpu` does not touch CUDA.
///
/// # Errors
/// [`Error::Unavailable`] when cuda was asked for and is unavailable;
/// [`CudaError::Driver`](crate::CudaError::Driver) when its driver fails.
pub fn choose(asked: EngineName) -> Result<(Choice, String), Error> {
    match asked {
        EngineName::Cpu => Ok((Choice::Cpu, CpuEngine::new().describe())),
        EngineName::Cuda => cuda(),
        EngineName::Auto => Ok(cuda().unwrap_or_else(|error| {
            let reason = match error {
                Error::Unavailable { reason, .. } => reason,
                error => error.to_string(),
            };
            (Choice::Cpu, reason)
        })),
    }
}

#[cfg(feature = "cuda")]
fn cuda() -> Result<(Choice, String), Error> {
    let cuda = Cuda::new()?;
    let device = cuda.engine().device().info().to_string();
    Ok((Choice::Cuda(Box::new(cuda)), device))
}

#[cfg(not(feature = "cuda"))]
fn cuda() -> Result<(Choice, String), Error> {
    Err(Error::Unavailable {
        engine: "cuda",
        reason: "this build lacks the feature `cuda`".to_owned(),
    })
}

impl Choice {
    /// Its name; never [`EngineName::Auto`].
    pub fn name(&self) -> EngineName {
        match self {
            Self::Cpu => EngineName::Cpu,
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => EngineName::Cuda,
        }
    }
}
