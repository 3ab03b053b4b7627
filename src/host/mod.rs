//! The CUDA kernels' own sources, run on the processor: every thread a fiber, asynchronous copies as
//! late as their waits allow, every access to memory checked. Slow, and for verification only; the
//! engine for processors is [`CpuEngine`](crate::CpuEngine).

#[cfg(all(test, feature = "emulator-tests"))]
mod cluster_tests;
mod device;
#[cfg(all(test, feature = "emulator-tests"))]
pub(crate) mod e4m3;
mod engine;
#[cfg(all(test, feature = "emulator-tests"))]
mod pair_store_tests;
#[cfg(all(test, feature = "emulator-tests"))]
mod store_tests;
#[cfg(all(test, feature = "emulator-tests"))]
mod tests;
#[cfg(all(test, feature = "emulator-tests"))]
mod warpgroup_tests;

pub use device::Schedule;
#[cfg(all(test, feature = "emulator-tests"))]
pub(crate) use device::{HostBuffer, HostDevice};
pub use engine::HostEngine;
#[cfg(all(test, feature = "emulator-tests"))]
pub(crate) use engine::{BUDGET, MULTIPROCESSORS};
