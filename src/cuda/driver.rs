//! Errors of the driver, locks, and driver calls during a capture.

use std::sync::{Mutex, MutexGuard, PoisonError};

use cudarc::driver::result::DriverError;
use cudarc::driver::sys;

use crate::error::{CudaError, Error};

/// Converts a driver's error to one that names the failed call. The error's own name comes from the bindings, because a
/// driver that has failed is not called again.
pub(super) fn check<T>(call: &'static str, result: Result<T, DriverError>) -> Result<T, Error> {
    result.map_err(|DriverError(code)| {
        Error::Cuda(CudaError::Driver {
            call,
            code: code as u32,
            name: format!("{code:?}"),
        })
    })
}

/// Locks, also after a thread that held the lock has panicked. Each change under a lock is one statement, so the value
/// is whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// While it lives, this thread may allocate, free and load modules although a stream is being captured. By default the
/// driver refuses such calls during a capture, because some of them wait for the stream. Those of this crate do not.
pub(super) struct RelaxedCapture {
    former: sys::CUstreamCaptureMode,
}

impl RelaxedCapture {
    pub(super) fn new() -> Result<Self, Error> {
        let relaxed = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        exchange(relaxed).map(|former| Self { former })
    }
}

impl Drop for RelaxedCapture {
    fn drop(&mut self) {
        // Where it fails, the next call of the driver returns the error again.
        let _ = exchange(self.former);
    }
}

fn exchange(mut mode: sys::CUstreamCaptureMode) -> Result<sys::CUstreamCaptureMode, Error> {
    // SAFETY: the pointer is to a live local of the right type, which the driver reads and writes.
    let result = unsafe { sys::cuThreadExchangeStreamCaptureMode(&mut mode) };
    check("cuThreadExchangeStreamCaptureMode", result.result())?;
    Ok(mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_driver_is_named_without_asking_the_driver() {
        let failed = DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        let error = check::<()>("cuMemAlloc", Err(failed)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cuMemAlloc failed: CUDA_ERROR_OUT_OF_MEMORY (CUDA error 2)"
        );
    }
}
