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
//! let problem = Contrast::nt_xent(0.5)?.on(Inputs::Shared { z: Rows::new(&z, 4, 2)? })?;
//! let gradients = Gradients::new(RowsMut::new(&mut dz, 4, 2)?, None);
//! let value = CpuEngine::new().value_and_grad(&problem, 1.0, gradients)?;
//! assert!(value.loss > 0.0 && dz.iter().any(|&g| g != 0.0));
//! # Ok::<(), infonce::Error>(())
//! ```
//!
//! [`Contrast`] says what to compute, a [`Problem`] is one on a batch, an [`Engine`] computes it,
//! [`mod@reference`] defines it in float64. [`losses`] lists what there is. [`CpuEngine`] runs everywhere;
//! `cuda::CudaEngine` (feature `cuda`) on NVIDIA cards; `emulator::EmulatedEngine` (feature `emulator`) executes the
//! CUDA kernels' sources on the processor, to verify them.
//! [`KeyQueue`] and [`MomentumSchedule`] are the state that outlives a step.

/// This release, as in "0.1.0".
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

pub mod contrast;
mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod element;
#[cfg(feature = "emulator")]
pub mod emulator;
pub mod engine;
mod error;
mod inputs;
#[cfg(all(feature = "cuda", feature = "train"))]
mod interop;
#[cfg(any(feature = "emulator", feature = "cuda"))]
#[cfg_attr(
    not(feature = "cuda"),
    allow(
        dead_code,
        unused_imports,
        reason = "a CUDA device needs more of it than the runner"
    )
)]
mod launch;
pub mod losses;
mod memory;
mod momentum;
mod queue;
pub mod reference;
mod rows;
#[cfg(all(test, target_arch = "x86_64", target_env = "gnu"))]
mod same_bits;
mod statistics;
#[cfg(feature = "train")]
pub mod train;
#[cfg(feature = "cli")]
pub mod verify;

pub use contrast::{Contrast, Reduction, Shape, Work};
pub use cpu::CpuEngine;
pub use element::{DType, Element};
pub use engine::{Engine, Gradients, MomentumSlices, MomentumTensor};
pub use error::{CudaError, Error};
pub use inputs::{Inputs, Matrices, NO_POSITIVE, Positives, Problem};
pub use memory::{Evaluated, Evaluation, HostMemory, Memory, Read, TopK};
pub use momentum::MomentumSchedule;
pub use queue::KeyQueue;
pub use rows::{Indices, Matrix, Rows, RowsMut, View};
pub use statistics::{RowStatistics, Statistics};

/// The README's examples, compiled and run with the documentation's.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
