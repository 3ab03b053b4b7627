//! [`CudaTrace`]: the names of the kernels that a handle launches, and their times.

use std::sync::{Arc, Mutex};

use super::driver::lock;
use super::event::{CudaEvent, require_time};
use super::stream::CudaStream;
#[cfg(doc)]
use crate::error::CudaError;
use crate::error::Error;

/// Records the name of every kernel that is launched through a handle with this trace. Clones are the same trace.
/// [`CudaEngine::traced`](super::CudaEngine::traced) and [`CudaDevice::traced`](super::CudaDevice::traced) make such
/// handles.
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
    /// Start and end of each timed launch.
    spans: Vec<[CudaEvent; 2]>,
}

/// A kernel that was launched.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct TracedKernel {
    /// Its name, as in the table of kernels/README.md.
    pub kernel: &'static str,
    /// Device time of all its launches together; each includes the few microseconds between two kernels. `None` in a
    /// trace without time, and where all launches were recorded into graphs.
    pub seconds: Option<f64>,
}

impl CudaTrace {
    /// A trace of names alone, which costs a launch next to nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// A trace of names and times. Launches that are recorded into a graph have no time.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the driver is older than CUDA 12.8.
    pub fn timed() -> Result<Self, Error> {
        require_time()?;
        Ok(Self {
            is_timed: true,
            ..Self::default()
        })
    }

    /// Every kernel once, in the order of their first launches. It waits for timed launches to end.
    ///
    /// # Errors
    /// [`CudaError::Driver`] when a kernel has failed.
    pub fn kernels(&self) -> Result<Vec<TracedKernel>, Error> {
        let of = |noted: &Noted| {
            let seconds = noted.spans.iter();
            let seconds = seconds.map(|[start, end]| end.seconds_since(start));
            let sum = seconds.sum::<Result<f64, Error>>()?;
            Ok(TracedKernel {
                kernel: noted.kernel,
                seconds: (!noted.spans.is_empty()).then_some(sum),
            })
        };
        lock(&self.noted).iter().map(of).collect()
    }

    /// Runs `launch`, which puts `kernel` on `stream`, and notes it. `launch` is told whether it is timed.
    pub(super) fn note(
        &self,
        kernel: &'static str,
        stream: &CudaStream,
        launch: impl FnOnce(bool) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let span = if self.is_timed && !stream.is_capturing()? {
            Some([CudaEvent::new(stream)?, CudaEvent::new(stream)?])
        } else {
            None
        };
        span.iter().try_for_each(|[start, _]| start.record())?;
        launch(span.is_some())?;
        span.iter().try_for_each(|[_, end]| end.record())?;
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
