//! The CUDA kernels' own sources, run on the processor: every thread a fiber, asynchronous copies as
//! late as their waits allow, every access to memory checked. Slow, and for verification only; the
//! engine for processors is [`CpuEngine`](crate::CpuEngine).

mod device;
mod engine;
#[cfg(all(test, feature = "emulator-tests"))]
pub(crate) mod tests;

pub use device::Schedule;
pub use engine::EmulatedEngine;
