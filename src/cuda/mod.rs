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
//! | `device`, `stream`, `graph` | a context, the order of its work, recorded work |
//! | `image`, `module`, `launch` | the kernels in this binary, loaded once, started |
//! | `pool`, `staging` | memory that is kept from call to call, on the device and on the host |
//! | `buffer`, `region`, `view` | owned memory, where a matrix lies, matrices that borrow memory |

mod buffer;
#[cfg(feature = "cust")]
mod cust;
mod device;
mod driver;
mod graph;
mod image;
mod launch;
mod module;
mod pool;
mod probe;
mod region;
mod staging;
mod stream;
mod view;

pub use buffer::CudaBuffer;
pub use device::CudaDevice;
pub use graph::CudaGraph;
pub use image::{KernelResources, kernel_table, kernels};
pub use probe::{CudaDeviceInfo, probe};
pub use region::CudaRegion;
pub use stream::CudaStream;
pub use view::{CudaRows, CudaRowsMut, CudaVector, CudaVectorMut};
