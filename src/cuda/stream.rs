//! [`CudaStream`]: work on a stream runs in the order in which it was put there.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{self, CudaContext, sys};

use super::driver::check;
#[cfg(doc)]
use crate::error::CudaError;
use crate::error::Error;

/// A CUDA stream, of this crate or of another library. Clones are the same stream.
#[derive(Debug, Clone)]
pub struct CudaStream {
    pub(super) handle: Arc<driver::CudaStream>,
}

impl CudaStream {
    /// A new stream, which does not wait for the default stream.
    pub(super) fn new(context: &Arc<CudaContext>) -> Result<Self, Error> {
        let handle = check("cuStreamCreate", context.new_stream())?;
        Ok(Self { handle })
    }

    /// A stream of another library; it is not destroyed here.
    ///
    /// # Safety
    /// `raw` is a stream of this context, and lives as long as the value and its clones.
    pub(super) unsafe fn borrow(context: &Arc<CudaContext>, raw: *mut c_void) -> Self {
        // SAFETY: wrap_borrowed_stream has the contract of this function.
        let handle = unsafe { context.wrap_borrowed_stream(raw.cast()) };
        Self { handle }
    }

    /// The driver's handle (`CUstream`, `cudaStream_t`), for other libraries. It is valid as long as this value; do not
    /// destroy it.
    pub fn raw(&self) -> *mut c_void {
        self.handle.cu_stream().cast()
    }

    /// Waits until all work on the stream has ended.
    ///
    /// # Errors
    /// [`CudaError::Driver`] when an earlier kernel or copy has failed.
    pub fn synchronize(&self) -> Result<(), Error> {
        check("cuStreamSynchronize", self.handle.synchronize())
    }

    /// Makes work that is put on this stream from now on wait for all work that is on `other` now.
    ///
    /// # Errors
    /// [`CudaError::Driver`] when the driver refuses.
    pub fn wait_for(&self, other: &CudaStream) -> Result<(), Error> {
        check("cuStreamWaitEvent", self.handle.join(&other.handle))
    }

    /// Whether the stream is being recorded into a graph instead of running.
    ///
    /// # Errors
    /// [`CudaError::Driver`] when the driver refuses.
    pub fn is_capturing(&self) -> Result<bool, Error> {
        let status = check("cuStreamIsCapturing", self.handle.capture_status())?;
        Ok(status != sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
    }

    pub(super) fn context(&self) -> &Arc<CudaContext> {
        self.handle.context()
    }

    /// Makes the stream's context current on this thread, as the driver's bare calls need.
    pub(super) fn bind(&self) -> Result<sys::CUstream, Error> {
        check("cuCtxSetCurrent", self.context().bind_to_thread())?;
        Ok(self.handle.cu_stream())
    }
}
