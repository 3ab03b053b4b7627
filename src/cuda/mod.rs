//! CUDA devices: memory, streams, launches and graphs, over the driver alone.
//!
//! Nothing here is linked against a CUDA library. The driver is looked for at run time, and a
//! machine without one gets an [`Error::Unavailable`](crate::Error::Unavailable), never a panic:
//! ```
//! match infonce::cuda::probe() {
//!     Ok(devices) => println!("{} is device 0", devices[0].name),
//!     Err(error) => println!("{error}"),
//! }
//! ```
//!
//! | file | what it is for |
//! |---|---|
//! | `probe` | which devices there are, and why none |
//! | `driver` | the driver's errors as values |
//! | `device`, `stream`, `event`, `graph` | a context, the order of its work, moments in it, recorded work |
//! | `image`, `module`, `launch` | the kernels in this binary, loaded once, started |
//! | `staging` | host memory that bytes pass through on their way to the device |
//! | `engine`, `memory` | the verbs, and the memory that they work in |
//! | `queue`, `results` | the key queue, what a call leaves on the device |
//! | `trace` | which kernels served, and how long each took |
//! | `step` | a whole step of training in one graph |
//! | `argument` | where a verb's arguments lie, and what they must not share |
//! | `buffer`, `region`, `view` | owned memory, where a matrix lies, matrices that borrow memory |

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
pub use image::{KernelResources, MachineCode, compiler, kernel_table, kernels};
pub use probe::{CudaDeviceInfo, probe};
pub use queue::CudaQueue;
pub use region::CudaRegion;
pub use results::{CudaNumber, CudaResults, CudaStatistics, CudaTopK};
pub use step::{CudaStep, CudaStepBuilder, StepInputs};
pub use stream::CudaStream;
pub use trace::{CudaTrace, TracedKernel};
pub use view::{CudaRows, CudaRowsMut, CudaVector, CudaVectorMut};
