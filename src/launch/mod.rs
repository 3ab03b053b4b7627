//! The verbs (methods of an engine) as sequences of kernel launches, on any [`Device`]: a GPU, or the emulator, which
//! executes the same sources on the CPU. [`verbs`] has the sequences of a contrast; read it first.
//!
//! | files | hold |
//! |---|---|
//! | `device`, `matrix`, `params`, `kernels`, `arithmetic` | what a launch consists of |
//! | `similarity`, `choice` | settings; splits and chunks; the kernels that serve a call |
//! | `prepared`, `quantized`, `positives`, `statistics`, `results` | the launches before gradients |
//! | `gradient`, `fused`, `chunked`, `bias` | the launches of gradients |
//! | `options`, `option_passes` | what problems with options need; their tile loops |
//! | `top_k`, `triplet`, `rowwise`, `step` | the other verbs; a whole step of training |
//! | `pool`, `held`, `plan` | device memory, and how much of it a call takes |

mod arithmetic;
mod bias;
mod choice;
mod chunked;
mod device;
mod fused;
mod gradient;
mod held;
pub(crate) mod kernels;
mod matrix;
mod option_passes;
mod options;
/// Drops what build.rs alone needs of params.rs.
macro_rules! for_build {
    ($($item:item)*) => {};
}
pub(crate) mod params;
mod plan;
pub(crate) mod pool;
mod positives;
mod prepared;
mod quantized;
mod results;
mod rowwise;
mod similarity;
mod statistics;
mod step;
mod targets;
#[cfg(all(test, feature = "emulator-tests"))]
mod tests;
mod top_k;
mod triplet;
mod verbs;

pub(crate) use arithmetic::{Arithmetic, element_bytes};
use device::count;
pub(crate) use device::{Device, Floats, Hardware, Launch};
pub(crate) use matrix::{DeviceMatrix, DeviceVector};
pub(crate) use params::{Matrix, TensorMap};
#[cfg(feature = "emulator")]
pub(crate) use plan::Counter;
pub(crate) use plan::workspace_bytes;
pub(crate) use results::{DeviceRows, DeviceStatistics, Results};
pub(crate) use rowwise::{DeviceMomentum, Rowwise};
pub(crate) use similarity::Similarity;
pub(crate) use step::{Step, StepArguments};
pub(crate) use top_k::DeviceTopK;
