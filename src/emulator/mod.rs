//! The emulator runs the CUDA kernels' sources on the CPU, to verify them. Every thread is a fiber, every access to
//! memory is checked, and a [`Schedule`] decides when asynchronous copies complete. To compute on the CPU use
//! [`CpuEngine`](crate::CpuEngine).

mod device;
mod engine;
mod memory;
#[cfg(all(test, feature = "emulator-tests"))]
pub(crate) mod tests;

pub use device::Schedule;
pub use engine::EmulatedEngine;
