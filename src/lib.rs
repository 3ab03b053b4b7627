//! Contrastive-learning losses and their gradients, computed without ever storing the N×M
//! similarity matrix.
//!
//! ```
//! use infonce::{Contrast, CpuEngine, Engine, Gradients, Inputs, Rows, RowsMut};
//!
//! // Two views of two images, D = 2: rows 0 and 2 belong together, and rows 1 and 3.
//! let z = [1.0f32, 0.0, 0.0, 1.0, 0.8, 0.6, -0.6, 0.8];
//! let mut dz = [0.0f32; 8];
//!
//! let value = CpuEngine::new().value_and_grad(
//!     &Contrast::nt_xent(0.5)?,
//!     &Inputs::Shared { z: Rows::new(&z, 4, 2)? },
//!     1.0,
//!     Gradients { dq: RowsMut::new(&mut dz, 4, 2)?, dk: None },
//! )?;
//! assert!(value.loss > 0.0 && dz.iter().any(|&g| g != 0.0));
//! # Ok::<(), infonce::Error>(())
//! ```
//!
//! [`Contrast`] says what to compute, an [`Engine`] computes it, [`mod@reference`] defines it in
//! float64. [`CpuEngine`] runs everywhere; `cuda::CudaEngine` (feature `cuda`) on NVIDIA cards;
//! `host::HostEngine` (feature `emulator`) executes the CUDA kernels' sources on the processor, to
//! verify them.
//! [`KeyQueue`] and [`MomentumSchedule`] are the state that outlives a step.

/// This release, as in "0.1.0".
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

pub mod contrast;
mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(any(feature = "emulator", feature = "cuda"))]
#[cfg_attr(
    not(feature = "cuda"),
    allow(
        dead_code,
        unused_imports,
        reason = "a CUDA device needs more of it than the runner"
    )
)]
mod device;
pub mod element;
pub mod engine;
mod error;
#[cfg(feature = "emulator")]
pub mod host;
#[cfg(all(feature = "cuda", feature = "train"))]
mod interop;
pub mod losses;
mod momentum;
mod queue;
pub mod reference;
mod rows;
mod statistics;
#[cfg(feature = "train")]
pub mod train;
#[cfg(feature = "cli")]
pub mod verify;

pub use contrast::{Contrast, Inputs, Positives, Reduction, Shape};
pub use cpu::CpuEngine;
pub use element::{DType, Element};
pub use engine::{Engine, Forward, Gradients, MomentumSlices, MomentumTensor, TopK, ValueAndGrad};
pub use error::Error;
pub use momentum::MomentumSchedule;
pub use queue::KeyQueue;
pub use rows::{Matrix, Rows, RowsMut};
pub use statistics::{RowStatistics, Statistics};

/// The README's examples, compiled and run with the documentation's.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
