//! The CUDA kernels' own sources, run on the processor: every thread a fiber, asynchronous copies as
//! late as their waits allow, every access to memory checked. Slow, and for verification only; the
//! engine for processors is [`CpuEngine`](crate::CpuEngine).

#[cfg(test)]
mod cluster_tests;
mod device;
#[cfg(test)]
pub(crate) mod e4m3;
mod engine;
#[cfg(test)]
mod pair_store_tests;
#[cfg(test)]
mod store_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod warpgroup_tests;

pub use crate::device::Call;
pub use device::Schedule;
#[cfg(test)]
pub(crate) use device::{HostBuffer, HostDevice};
pub use engine::HostEngine;
#[cfg(test)]
pub(crate) use engine::{BUDGET, MULTIPROCESSORS};
