//! [`CudaGraph`]: work that is recorded once and launched many times.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use cudarc::driver::{self, sys};

use super::device::CudaDevice;
use super::driver::check;
use super::stream::CudaStream;
#[cfg(doc)]
use crate::error::CudaError;
use crate::error::Error;
use crate::launch::pool::GraphMemory;

/// Work that was recorded from a device handle; one call of the driver launches it again.
///
/// Memory that the recorded calls took from the handle serves the graph alone while the graph lives.
pub struct CudaGraph {
    // Dropped before the handle whose stream and modules it uses.
    graph: driver::CudaGraph,
    _memory: GraphMemory<CudaStream>,
    device: CudaDevice,
}

impl std::fmt::Debug for CudaGraph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CudaGraph")
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

impl CudaDevice {
    /// Records what `work` puts on this handle's stream, without running it. Calls that return values to the host wait
    /// for the stream, and fail here with [`CudaError::Capture`].
    ///
    /// # Errors
    /// Those of `work`; [`CudaError::Driver`] when the driver cannot record it.
    pub fn record<R>(
        &self,
        work: impl FnOnce() -> Result<R, Error>,
    ) -> Result<(R, CudaGraph), Error> {
        let stream = &self.stream().handle;
        // Thread-local mode: calls of other threads stay legal.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        check("cuStreamBeginCapture", stream.begin_capture(mode))?;
        let memory = self.pool.record();
        let result = catch_unwind(AssertUnwindSafe(work));
        // The capture ends also after a panic; otherwise the stream would stay unusable.
        let graph = check(
            "cuStreamEndCapture",
            stream.end_capture(sys::CUgraphInstantiate_flags(0)),
        );
        memory.end_recording();
        let result = result.unwrap_or_else(|panic| resume_unwind(panic))?;
        let lost = driver::DriverError(sys::CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        let graph = check("cuStreamEndCapture", graph?.ok_or(lost))?;
        let graph = CudaGraph {
            graph,
            _memory: memory,
            device: self.clone(),
        };
        Ok((result, graph))
    }
}

impl CudaGraph {
    /// Puts the recorded work on the handle's stream.
    ///
    /// # Errors
    /// [`CudaError::Driver`] when the driver refuses.
    ///
    /// # Safety
    /// Every matrix and vector that the recorded calls were given is still allocated at the same
    /// address, and nothing else reads or writes the outputs until the work has ended.
    pub unsafe fn launch(&self) -> Result<(), Error> {
        check("cuGraphLaunch", self.graph.launch())
    }

    /// The handle that the graph was recorded from.
    pub fn device(&self) -> &CudaDevice {
        &self.device
    }
}
