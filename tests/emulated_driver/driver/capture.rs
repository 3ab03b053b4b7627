//! Streams while they are captured: what is put on one is kept for a graph, and what could wait for
//! it is refused.
//!
//! The rules are those of cuStreamBeginCapture, cuThreadExchangeStreamCaptureMode (driver API) and
//! "Prohibited and Unhandled Operations" (CUDA C++ Programming Guide).

use std::cell::Cell;
use std::thread::{self, ThreadId};

use cudarc::driver::sys::CUresult;

use super::stream::{LEGACY, Work};
use super::{Answer, Driver, Handle, value};

/// Whom a capture keeps from unsafe calls; and, of a thread, which captures it heeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Global = 0,
    ThreadLocal = 1,
    Relaxed = 2,
}

thread_local! {
    static MODE: Cell<Mode> = const { Cell::new(Mode::Global) };
}

pub(super) struct Capture {
    number: Handle,
    mode: Mode,
    thread: ThreadId,
    work: Vec<Work>,
    spoiled: bool,
}

impl TryFrom<u32> for Mode {
    type Error = CUresult;

    fn try_from(number: u32) -> Answer<Self> {
        let modes = [Self::Global, Self::ThreadLocal, Self::Relaxed];
        let mode = modes.get(number as usize).copied();
        mode.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)
    }
}

impl Capture {
    /// Which capture it is, unless it can hold nothing any more.
    pub(super) fn number(&self) -> Answer<Handle> {
        if self.spoiled {
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        }
        Ok(self.number)
    }

    pub(super) fn add(&mut self, work: Work) -> Answer {
        self.number()?;
        self.work.push(work);
        Ok(())
    }

    /// From now on its stream takes nothing, until the capture ends with an error.
    pub(super) fn spoil(&mut self) {
        self.spoiled = true;
    }
}

impl Driver {
    pub(super) fn begin_capture(&mut self, stream: Handle, mode: Mode) -> Answer {
        self.enter()?;
        let number = self.new_handle();
        let (stream, of) = self.stream(stream)?;
        if stream == LEGACY {
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
        if of.capture.is_some() {
            return Err(CUresult::CUDA_ERROR_ILLEGAL_STATE);
        }
        of.capture = Some(Capture {
            number,
            mode,
            thread: thread::current().id(),
            work: Vec::new(),
            spoiled: false,
        });
        Ok(())
    }

    pub(super) fn end_capture(&mut self, stream: Handle) -> Answer<Handle> {
        self.enter()?;
        let (_, of) = self.stream(stream)?;
        let capture = of
            .capture
            .take()
            .ok_or(CUresult::CUDA_ERROR_ILLEGAL_STATE)?;
        // "If the mode is not relaxed, cuStreamEndCapture must be called from the same thread."
        if capture.mode != Mode::Relaxed && capture.thread != thread::current().id() {
            of.capture = Some(capture);
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
        }
        capture.number()?;
        Ok(self.add_graph(capture.work))
    }

    /// 0: none; 1: going on; 2: spoiled.
    pub(super) fn capture_status(&mut self, stream: Handle) -> Answer<u32> {
        self.enter()?;
        let (_, of) = self.stream(stream)?;
        Ok(of
            .capture
            .as_ref()
            .map_or(0, |capture| 1 + u32::from(capture.spoiled)))
    }

    /// Keeps the thread from a call that may wait for the device, or does something that no graph
    /// would repeat. Which these are is documented of few: here they are all that allocate, free,
    /// load, unload, wait and ask how far work is.
    pub(super) fn refuse_while_capturing(&mut self) -> Answer {
        let (here, heeds) = (thread::current().id(), MODE.get());
        let mut refused = false;
        for stream in self.contents.streams.values_mut() {
            let Some(capture) = &mut stream.capture else {
                continue;
            };
            let concerned = match heeds {
                Mode::Relaxed => false,
                _ if capture.thread == here => capture.mode != Mode::Relaxed,
                Mode::Global => capture.mode == Mode::Global,
                Mode::ThreadLocal => false,
            };
            if concerned {
                capture.spoil();
                refused = true;
            }
        }
        if refused {
            return Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
        Ok(())
    }

    /// Spoils the capture of a number, if it has not ended.
    pub(super) fn spoil_capture(&mut self, number: Handle) {
        let captures = self
            .contents
            .streams
            .values_mut()
            .filter_map(|stream| stream.capture.as_mut());
        for capture in captures.filter(|capture| capture.number == number) {
            capture.spoil();
        }
    }
}

/// Sets the thread's mode and returns the one before.
pub(super) fn exchange_mode(mode: Mode) -> Mode {
    MODE.replace(mode)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuThreadExchangeStreamCaptureMode(mode: *mut u32) -> CUresult {
    // SAFETY: the caller's promise: null, or a mode.
    let new = match unsafe { mode.as_ref() } {
        Some(&number) => Mode::try_from(number),
        None => Err(CUresult::CUDA_ERROR_INVALID_VALUE),
    };
    // SAFETY: as above.
    unsafe { value(mode, |_| Ok(exchange_mode(new?) as u32)) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamBeginCapture_v2(stream: Handle, mode: u32) -> CUresult {
    super::status(|driver| driver.begin_capture(stream, Mode::try_from(mode)?))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamEndCapture(stream: Handle, graph: *mut Handle) -> CUresult {
    if !graph.is_null() {
        // SAFETY: the caller's room for a handle, which is null where the capture fails.
        unsafe { graph.write(0) };
    }
    // SAFETY: as above.
    unsafe { value(graph, |driver| driver.end_capture(stream)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamIsCapturing(stream: Handle, captured: *mut u32) -> CUresult {
    // SAFETY: the caller's promise.
    unsafe { value(captured, |driver| driver.capture_status(stream)) }
}
