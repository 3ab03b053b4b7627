//! CUDA devices: memory, streams, launches and graphs, over the driver's API alone.
//!
//! The driver's library is loaded at run time, and no CUDA library is linked. A machine without a driver gets an
//! [`Error::Unavailable`](crate::Error::Unavailable), never a panic:
//! ```
//! match infonce::cuda::probe() {
//!     Ok(devices) => println!("{} is device 0", devices[0].name),
//!     Err(error) => println!("{error}"),
//! }
//! ```
//!
//! A file uses only files above it:
//!
//! | file | what it is for |
//! |---|---|
//! | `driver`, `image`, `region` | the driver's errors as values, the kernels in this binary, the address range of a matrix |
//! | `probe`, `stream` | the devices of this machine, the order of work |
//! | `module`, `staging`, `event` | kernels loaded into a context, uploads through page-locked memory, device time |
//! | `trace` | names and times of the kernels that are launched |
//! | `device` | a device with a stream and a memory pool: the handle that all else takes |
//! | `launch`, `graph`, `view` | copies and launches, recorded work, matrices that borrow memory |
//! | `buffer`, `argument`, `results`, `cust` | owned memory, checked arguments, results of a call, the crate `cust` |
//! | `queue`, `memory` | the key queue, the types of a device's memory |
//! | `engine`, `step` | the verbs, and a whole step of training in one graph |

mod argument;
mod buffer;
#[cfg(feature = "cust")]
mod cust;
mod device;
mod driver;
mod engine;
mod event;
mod graph;
mod image;
mod launch;
mod memory;
mod module;
mod probe;
mod queue;
mod region;
mod results;
mod staging;
mod step;
mod stream;
mod trace;
mod view;

pub use buffer::CudaBuffer;
pub use device::CudaDevice;
pub use engine::CudaEngine;
pub use event::CudaEvent;
pub use graph::CudaGraph;
pub use image::{KernelResources, MachineCode, compiler, kernels};
pub use probe::{CudaDeviceInfo, probe};
pub use queue::CudaQueue;
pub use region::CudaRegion;
pub use results::{CudaNumber, CudaResults, CudaStatistics, CudaTopK};
pub use step::{CudaStep, CudaStepBuilder, StepInputs};
pub use stream::CudaStream;
pub use trace::{CudaTrace, TracedKernel};
pub use view::{CudaRows, CudaRowsMut, CudaVector, CudaVectorMut};
