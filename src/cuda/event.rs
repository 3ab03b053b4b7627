//! [`CudaEvent`]: a point on a stream; device time is measured between two.

use cudarc::driver::{self, sys};

use super::driver::check;
use super::probe::{has, unavailable};
use super::stream::CudaStream;
#[cfg(doc)]
use crate::error::CudaError;
use crate::error::Error;

/// Since CUDA 12.8. The bindings panic where it is missing.
const ELAPSED: &str = "cuEventElapsedTime_v2";

/// The moment when all work that was put on a stream before [`record`](Self::record) has ended.
/// [`CudaDevice::event`](super::CudaDevice::event) makes one.
///
/// ```no_run
/// use infonce::cuda::{CudaBuffer, CudaDevice};
/// let device = CudaDevice::new(0)?;
/// let from = CudaBuffer::<f32>::zeroed(&device, 1 << 28)?;
/// let mut to = CudaBuffer::<f32>::zeroed(&device, 1 << 28)?;
/// let (start, end) = (device.event()?, device.event()?);
/// start.record()?;
/// to.copy_from(&from)?;
/// end.record()?;
/// println!("{} GB/s, read and written", 2.0 * (1u64 << 30) as f64 / end.seconds_since(&start)? / 1e9);
/// # Ok::<(), infonce::Error>(())
/// ```
#[derive(Debug)]
pub struct CudaEvent {
    event: driver::CudaEvent,
    stream: CudaStream,
}

/// Refuses drivers that cannot tell the time between two events.
pub(super) fn require_time() -> Result<(), Error> {
    if has(ELAPSED) {
        return Ok(());
    }
    Err(unavailable(format!(
        "the CUDA driver has no {ELAPSED}; one for CUDA 12.8 or newer is needed to keep time"
    )))
}

impl CudaEvent {
    /// An event with a time. [`require_time`] has been called.
    pub(super) fn new(stream: &CudaStream) -> Result<Self, Error> {
        let flags = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        Ok(Self {
            event: check("cuEventCreate", stream.context().new_event(flags))?,
            stream: stream.clone(),
        })
    }

    /// Sets the moment to the end of all work that is on the stream now, in place of an earlier one.
    ///
    /// # Errors
    /// [`CudaError::Driver`] when the driver refuses.
    pub fn record(&self) -> Result<(), Error> {
        check("cuEventRecord", self.event.record(&self.stream.handle))
    }

    /// Seconds from `start` to this moment, in steps of about 0.5 µs. It waits for both moments.
    ///
    /// # Errors
    /// [`CudaError::Driver`] when one of the two was never recorded, or when earlier work has failed.
    pub fn seconds_since(&self, start: &CudaEvent) -> Result<f64, Error> {
        let milliseconds = check("cuEventElapsedTime", start.event.elapsed_ms(&self.event))?;
        Ok(f64::from(milliseconds) / 1e3)
    }
}
