//! Moments on a stream, to tell how long the device took.

use cudarc::driver::{self, sys};

use super::device::CudaDevice;
use super::driver::check;
use super::probe::{has, unavailable};
use super::stream::CudaStream;
#[cfg(doc)]
use crate::error::CudaError;
use crate::error::Error;

/// Since CUDA 12.8. The bindings panic where it is missing.
const ELAPSED: &str = "cuEventElapsedTime_v2";

/// The moment when everything asked of a [`CudaDevice`] handle before [`record`](Self::record) has ended.
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
    device: CudaDevice,
}

impl CudaDevice {
    /// An event that keeps the time.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the driver is older than CUDA 12.8; [`CudaError::Driver`] when it fails.
    pub fn event(&self) -> Result<CudaEvent, Error> {
        require_time()?;
        Ok(CudaEvent {
            event: with_time(self.stream())?,
            device: self.clone(),
        })
    }
}

/// Refuses drivers that cannot tell how much lies between two events.
pub(super) fn require_time() -> Result<(), Error> {
    if has(ELAPSED) {
        return Ok(());
    }
    Err(unavailable(format!(
        "the CUDA driver has no {ELAPSED}; one for CUDA 12.8 or newer is needed to keep time"
    )))
}

/// A driver's event that keeps the time.
pub(super) fn with_time(stream: &CudaStream) -> Result<driver::CudaEvent, Error> {
    let flags = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
    check("cuEventCreate", stream.context().new_event(flags))
}

pub(super) fn seconds_between(
    start: &driver::CudaEvent,
    end: &driver::CudaEvent,
) -> Result<f64, Error> {
    let milliseconds = check("cuEventElapsedTime", start.elapsed_ms(end))?;
    Ok(f64::from(milliseconds) / 1e3)
}

impl CudaEvent {
    /// Makes this the moment when everything asked of the handle so far has ended, in place of a former one.
    ///
    /// # Errors
    /// [`CudaError::Driver`] when the driver refuses.
    pub fn record(&self) -> Result<(), Error> {
        let stream = &self.device.stream().handle;
        check("cuEventRecord", self.event.record(stream))
    }

    /// Seconds from `start` to this moment, once both have come, counted in half microseconds, roughly.
    ///
    /// # Errors
    /// [`CudaError::Driver`] when one of the two was never recorded, or when work before has failed.
    pub fn seconds_since(&self, start: &CudaEvent) -> Result<f64, Error> {
        seconds_between(&start.event, &self.event)
    }
}
