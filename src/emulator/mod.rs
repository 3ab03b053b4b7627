//! The emulator: runs the CUDA kernels' sources on the CPU, to verify them. Every thread is a fiber. A [`Schedule`]
//! decides when asynchronous copies complete. Every access to memory is checked. For computing on the CPU
//! there is [`CpuEngine`](crate::CpuEngine).

mod device;
mod engine;
mod memory;
#[cfg(all(test, feature = "emulator-tests"))]
pub(crate) mod tests;

pub use device::Schedule;
pub use engine::EmulatedEngine;
