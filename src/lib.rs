//! Contrastive-learning losses and their gradients for N anchors and M candidates. The N×M similarity matrix is never
//! stored.
//!
//! A [`Contrast`] is a loss with its temperature, a [`Problem`] is a contrast on a batch, and an [`Engine`]
//! computes it:
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
//! [`losses`] lists the losses: NT-Xent, InfoNCE, MoCo, CLIP and others. Embeddings and gradients are f32, f16 or
//! bf16; sums, losses and statistics are f32. Engines also have the [triplet loss](Triplet), top-k search, which mines
//! negatives ([`Miner`], [`semi_hard`]), row normalisation, the key queue and momentum update of MoCo ([`KeyQueue`],
//! [`MomentumSchedule`]), the memory bank of InstDisc ([`MemoryBank`]), the prototypes of PCL ([`KMeans`]), the centre of DINO ([`Centre`]) and the
//! equipartition of SwAV ([`Equipartition`]).
//! [`diagnostics`] examines what an encoder has learned: accuracy, entropy, uniformity, effective rank, collapse.
//!
//! # Engines
//! | engine | computes on | feature |
//! |---|---|---|
//! | [`CpuEngine`] | the CPU: AVX-512, AVX2 or portable code | – |
//! | `cuda::CudaEngine` | an NVIDIA GPU | `cuda` |
//! | `emulator::EmulatedEngine` | the CPU: it executes the CUDA kernels' sources, to verify them | `emulator` |
//!
//! [`mod@reference`] defines every verb (method of an engine) in float64. Tests and `infonce verify` compare each
//! engine with it.
//!
//! # Features
//! | feature | adds | needs |
//! |---|---|---|
//! | `cuda` | the CUDA engine | nvcc to build, a driver to run |
//! | `emulator` | the kernels' emulator | a C++17 compiler |
//! | `cli` | the module `verify`; the command's `infonce verify` and `infonce info` | – |
//! | `train` | the module `train`; `infonce train simclr` and `infonce train moco` | – |
//! | `cust` | matrices and streams of the crate `cust` for the CUDA engine | a CUDA toolkit and libcuda to build |

/// The version of this crate, such as "0.1.0".
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

mod bank;
mod centre;
pub mod contrast;
mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod diagnostics;
pub mod element;
#[cfg(feature = "emulator")]
pub mod emulator;
pub mod engine;
mod equipartition;
mod error;
mod gradients;
mod inputs;
#[cfg(all(feature = "cuda", feature = "train"))]
mod interop;
#[cfg(any(feature = "emulator", feature = "cuda"))]
#[cfg_attr(
    not(feature = "cuda"),
    allow(
        dead_code,
        unused_imports,
        reason = "a CUDA device needs more of it than the emulator"
    )
)]
mod launch;
pub mod losses;
mod memory;
mod mining;
mod momentum;
mod positives;
mod problem;
mod prototypes;
mod queue;
mod random;
mod ranking;
pub mod reference;
mod rows;
mod statistics;
#[cfg(all(test, target_arch = "x86_64", target_env = "gnu"))]
mod tests;
#[cfg(feature = "train")]
pub mod train;
mod triplet;
#[cfg(feature = "cli")]
pub mod verify;

pub use bank::MemoryBank;
pub use centre::Centre;
pub use contrast::{Contrast, Reduction, Shape, Work};
pub use cpu::CpuEngine;
pub use element::{DType, Element};
pub use engine::{Engine, MomentumSlices, MomentumTensor};
pub use equipartition::Equipartition;
pub use error::{CudaError, Error};
pub use gradients::{Accumulate, Gradients};
pub use inputs::{Inputs, Matrices};
pub use memory::{Evaluated, Evaluation, HostMemory, Memory, Read, TopK};
pub use mining::{Miner, semi_hard};
pub use momentum::MomentumSchedule;
pub use positives::{Ids, NO_ID, NO_POSITIVE, Positives};
pub use problem::Problem;
pub use prototypes::{KMeans, Prototypes};
pub use queue::KeyQueue;
pub use ranking::{MultipleNegativesRanking, Partition, RankingBatch};
pub use rows::{Elements, Matrix, Rows, RowsMut, View};
pub use statistics::{RowStatistics, SetStatistics, Statistics};
pub use triplet::{Triplet, TripletProblem, Triplets};

/// Makes the examples of README.md doctests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
