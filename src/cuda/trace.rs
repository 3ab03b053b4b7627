//! Which kernels serve the calls of a handle, and how long each takes.

use std::sync::{Arc, Mutex};

use cudarc::driver;

use super::device::CudaDevice;
use super::driver::{check, lock};
use super::engine::CudaEngine;
use super::event;
use super::stream::CudaStream;
#[cfg(doc)]
use crate::error::CudaError;
use crate::error::Error;

/// Notes every kernel that is launched through the handles it was given to. Clones are the same trace.
///
/// ```no_run
/// use infonce::cuda::{CudaEngine, CudaTrace};
/// let trace = CudaTrace::timed()?;
/// let engine = CudaEngine::new(0)?.traced(&trace);
/// // … calls of `engine` …
/// for kernel in trace.kernels()? {
///     println!("{} {:?}", kernel.kernel, kernel.seconds);
/// }
/// # Ok::<(), infonce::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct CudaTrace {
    is_timed: bool,
    noted: Arc<Mutex<Vec<Noted>>>,
}

#[derive(Debug)]
struct Noted {
    kernel: &'static str,
    /// Start and end of each launch that was timed.
    spans: Vec<[driver::CudaEvent; 2]>,
}

/// A kernel that was launched.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct TracedKernel {
    /// Its name.
    pub kernel: &'static str,
    /// Device time of all its launches together, each with the microseconds between two kernels. None without
    /// time, and where all were recorded into graphs.
    pub seconds: Option<f64>,
}

impl CudaTrace {
    /// A trace that keeps names alone, which costs a launch next to nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// A trace that keeps the time too of launches that are not being recorded into a graph.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the driver is older than CUDA 12.8.
    pub fn timed() -> Result<Self, Error> {
        event::require_time()?;
        Ok(Self {
            is_timed: true,
            ..Self::default()
        })
    }

    /// Every kernel once, in the order of their first launches; waits for those that are timed.
    ///
    /// # Errors
    /// [`CudaError::Driver`] when a kernel has failed.
    pub fn kernels(&self) -> Result<Vec<TracedKernel>, Error> {
        let of = |noted: &Noted| {
            let seconds = noted.spans.iter();
            let seconds = seconds.map(|[start, end]| event::seconds_between(start, end));
            let sum = seconds.sum::<Result<f64, Error>>()?;
            Ok(TracedKernel {
                kernel: noted.kernel,
                seconds: (!noted.spans.is_empty()).then_some(sum),
            })
        };
        lock(&self.noted).iter().map(of).collect()
    }

    /// Runs `launch`, which puts `kernel` on `stream` and is told whether its time is kept, and notes it.
    pub(super) fn note(
        &self,
        kernel: &'static str,
        stream: &CudaStream,
        launch: impl FnOnce(bool) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let span = if self.is_timed && !stream.is_capturing()? {
            let event = || event::with_time(stream);
            Some([event()?, event()?])
        } else {
            None
        };
        let record =
            |event: &driver::CudaEvent| check("cuEventRecord", event.record(&stream.handle));
        span.iter().try_for_each(|[start, _]| record(start))?;
        launch(span.is_some())?;
        span.iter().try_for_each(|[_, end]| record(end))?;
        let mut noted = lock(&self.noted);
        match noted.iter_mut().find(|noted| noted.kernel == kernel) {
            Some(noted) => noted.spans.extend(span),
            None => noted.push(Noted {
                kernel,
                spans: span.into_iter().collect(),
            }),
        }
        Ok(())
    }
}

impl CudaDevice {
    /// The same handle, which notes what it launches in `trace`, as do its clones and streams made with it.
    #[must_use]
    pub fn traced(&self, trace: &CudaTrace) -> Self {
        let mut device = self.clone();
        device.trace = Some(trace.clone());
        device
    }
}

impl CudaEngine {
    /// The same engine, which notes what it launches in `trace`.
    #[must_use]
    pub fn traced(&self, trace: &CudaTrace) -> Self {
        let mut engine = self.clone();
        engine.device = self.device.traced(trace);
        engine
    }
}
