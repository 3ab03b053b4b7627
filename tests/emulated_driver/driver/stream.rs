//! Streams: queues of work that runs when something waits for it.

use std::collections::VecDeque;
use std::ffi::CString;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use cudarc::driver::sys::CUresult;

use super::capture::Capture;
use super::memory::{Source, Target};
use super::{Answer, Driver, Handle, report, runner, status, value};

/// The default stream, which waits for all blocking streams, and they for it.
pub(super) const LEGACY: Handle = 0;

pub(super) struct Stream {
    queue: VecDeque<Work>,
    /// How many pieces of work were ever put here, and how many of them have run.
    submitted: u64,
    ended: u64,
    /// Whether it and the default stream wait for each other.
    blocking: bool,
    /// The handle is gone; the work is not.
    pub destroyed: bool,
    pub capture: Option<Capture>,
}

/// The end of what a stream was given up to here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    stream: Handle,
    position: u64,
}

/// One piece of work, all that it needs at hand. A captured one is run again and again.
#[derive(Clone)]
pub(super) enum Work {
    ToDevice {
        to: u64,
        from: Source,
        bytes: usize,
    },
    ToHost {
        from: u64,
        to: Target,
        bytes: usize,
    },
    Within {
        from: u64,
        to: u64,
        bytes: usize,
    },
    Fill {
        to: u64,
        unit: Arc<[u8]>,
        count: usize,
    },
    Launch {
        kernel: Arc<CString>,
        module: Handle,
        grid: [u32; 3],
        threads: u32,
        shared_bytes: u32,
        params: Arc<[u8]>,
    },
    Stamp(Arc<OnceLock<Instant>>),
    WaitFor(Moment),
}

impl Stream {
    pub(super) fn new(blocking: bool) -> Self {
        Self {
            queue: VecDeque::new(),
            submitted: 0,
            ended: 0,
            blocking,
            destroyed: false,
            capture: None,
        }
    }
}

impl Driver {
    pub(super) fn create_stream(&mut self, flags: u32) -> Answer<Handle> {
        const NON_BLOCKING: u32 = 1;
        self.enter()?;
        if flags & !NON_BLOCKING != 0 {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        let handle = self.new_handle();
        let stream = Stream::new(flags & NON_BLOCKING == 0);
        self.contents.streams.insert(handle, stream);
        Ok(handle)
    }

    /// A stream by the handle that the caller gave.
    pub(super) fn stream(&mut self, handle: Handle) -> Answer<(Handle, &mut Stream)> {
        const LEGACY_BY_NAME: Handle = 1;
        const PER_THREAD: Handle = 2;
        let handle = match handle {
            LEGACY_BY_NAME => LEGACY,
            PER_THREAD => {
                report("the default stream of a thread is not emulated");
                return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
            }
            _ => handle,
        };
        match self.contents.streams.get_mut(&handle) {
            Some(stream) if !stream.destroyed => Ok((handle, stream)),
            _ => Err(CUresult::CUDA_ERROR_INVALID_HANDLE),
        }
    }

    /// "The stream will be destroyed once all work has been completed": what is queued still runs.
    pub(super) fn destroy_stream(&mut self, handle: Handle) -> Answer {
        self.enter()?;
        let (handle, stream) = self.stream(handle)?;
        if handle == LEGACY {
            return Err(CUresult::CUDA_ERROR_INVALID_HANDLE);
        }
        if stream.capture.is_some() {
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
        stream.destroyed = true;
        if stream.queue.is_empty() {
            self.contents.streams.remove(&handle);
        }
        Ok(())
    }

    /// Puts work on a stream, or into the graph that is captured from it.
    pub(super) fn put(&mut self, handle: Handle, work: Work) -> Answer {
        let (handle, stream) = self.stream(handle)?;
        if let Some(capture) = &mut stream.capture {
            return capture.add(work);
        }
        if stream.blocking {
            self.order_with_legacy(handle)?;
        }
        self.append(handle, work);
        Ok(())
    }

    pub(super) fn append(&mut self, handle: Handle, work: Work) {
        if let Some(stream) = self.contents.streams.get_mut(&handle) {
            stream.queue.push_back(work);
            stream.submitted += 1;
        }
    }

    /// Work on the default stream comes after what blocking streams have, and theirs after its.
    fn order_with_legacy(&mut self, handle: Handle) -> Answer {
        let mut before = Vec::new();
        let mut captured = false;
        for (&other, stream) in &mut self.contents.streams {
            if other == handle || !stream.blocking || (handle != LEGACY && other != LEGACY) {
                continue;
            }
            // Waiting for what is captured would be a dependency that no graph can hold.
            if let Some(capture) = &mut stream.capture {
                capture.spoil();
                captured = true;
            }
            let position = stream.submitted;
            before.push(Moment {
                stream: other,
                position,
            });
        }
        if captured {
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
        }
        for moment in before {
            if !self.is_past(moment) {
                self.append(handle, Work::WaitFor(moment));
            }
        }
        Ok(())
    }

    /// All that a stream has been given until now.
    pub(super) fn now(&self, stream: Handle) -> Moment {
        let position = self
            .contents
            .streams
            .get(&stream)
            .map_or(0, |stream| stream.submitted);
        Moment { stream, position }
    }

    pub(super) fn is_past(&self, moment: Moment) -> bool {
        let stream = self.contents.streams.get(&moment.stream);
        stream.is_none_or(|stream| stream.ended >= moment.position)
    }

    /// Runs a stream up to a moment, and of other streams what that waits for.
    pub(super) fn run_to(&mut self, moment: Moment) {
        while self.fault.is_none() && !self.is_past(moment) {
            self.step(moment.stream);
        }
    }

    /// Runs a stream's next piece of work, if there is one.
    fn step(&mut self, handle: Handle) {
        let next = self.contents.streams.get_mut(&handle);
        let Some(work) = next.and_then(|stream| stream.queue.pop_front()) else {
            return;
        };
        if let Err((error, words)) = self.execute(work) {
            report(&words);
            self.fault = Some(error);
        }
        if let Some(stream) = self.contents.streams.get_mut(&handle) {
            stream.ended += 1;
            if stream.destroyed && stream.queue.is_empty() {
                self.contents.streams.remove(&handle);
            }
        }
    }

    pub(super) fn run_everything(&mut self) {
        let handles: Vec<Handle> = self.contents.streams.keys().copied().collect();
        for handle in handles {
            self.run_to(self.now(handle));
        }
    }

    fn execute(&mut self, work: Work) -> Result<(), (CUresult, String)> {
        let memory = &self.contents.memory;
        let copied = match work {
            Work::ToDevice { to, from, bytes } => memory.copy_to_device(to, &from, bytes),
            Work::ToHost { from, to, bytes } => memory.copy_to_host(from, &to, bytes),
            Work::Within { from, to, bytes } => memory.copy_within(from, to, bytes),
            Work::Fill { to, unit, count } => memory.fill(to, &unit, count),
            Work::Launch {
                kernel,
                module,
                grid,
                threads,
                shared_bytes,
                params,
            } => {
                let seed = self.contents.modules.next_launch();
                let ran = if self.contents.modules.is_loaded(module) {
                    runner::launch(&kernel, grid, threads, shared_bytes, &params, seed)
                } else {
                    let kernel = kernel.to_string_lossy();
                    Err(format!("{kernel} runs after its module was unloaded"))
                };
                return ran.map_err(|words| (CUresult::CUDA_ERROR_LAUNCH_FAILED, words));
            }
            Work::Stamp(time) => {
                time.get_or_init(Instant::now);
                Ok(())
            }
            Work::WaitFor(moment) => {
                self.run_to(moment);
                Ok(())
            }
        };
        copied.map_err(|words| (CUresult::CUDA_ERROR_ILLEGAL_ADDRESS, words))
    }

    pub(super) fn synchronise_stream(&mut self, handle: Handle) -> Answer {
        self.enter()?;
        let handle = self.waiting_for(handle)?;
        self.run_to(self.now(handle));
        self.sound()
    }

    /// Work goes on by itself, so it may have come one step further each time someone looks.
    pub(super) fn query_stream(&mut self, handle: Handle) -> Answer {
        self.enter()?;
        let handle = self.waiting_for(handle)?;
        self.look(self.now(handle))
    }

    pub(super) fn look(&mut self, moment: Moment) -> Answer {
        if self.is_past(moment) {
            return Ok(());
        }
        self.step(moment.stream);
        self.sound()?;
        Err(CUresult::CUDA_ERROR_NOT_READY)
    }

    /// The stream of a call that waits for it or asks how far it is.
    fn waiting_for(&mut self, handle: Handle) -> Answer<Handle> {
        let (handle, stream) = self.stream(handle)?;
        if let Some(capture) = &mut stream.capture {
            capture.spoil();
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
        self.refuse_while_capturing()?;
        Ok(handle)
    }

    pub(super) fn synchronise_context(&mut self) -> Answer {
        self.enter()?;
        self.refuse_while_capturing()?;
        self.run_everything();
        self.sound()
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreate(stream: *mut Handle, flags: u32) -> CUresult {
    // SAFETY: the caller's promise.
    unsafe { value(stream, |driver| driver.create_stream(flags)) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamDestroy_v2(stream: Handle) -> CUresult {
    status(|driver| driver.destroy_stream(stream))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(stream: Handle) -> CUresult {
    status(|driver| driver.synchronise_stream(stream))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamQuery(stream: Handle) -> CUresult {
    status(|driver| driver.query_stream(stream))
}
