//! Events: moments of streams.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use cudarc::driver::sys::CUresult;

use super::stream::{Moment, Work};
use super::{Answer, Driver, Handle, report, status, value};

pub(super) struct Event {
    timed: bool,
    recorded: Recorded,
}

#[derive(Clone)]
enum Recorded {
    Never,
    At(Moment, Arc<OnceLock<Instant>>),
    /// In a capture, which has this number.
    Captured(Handle),
}

impl Driver {
    fn create_event(&mut self, flags: u32) -> Answer<Handle> {
        const BLOCKING_SYNC: u32 = 1;
        const DISABLE_TIMING: u32 = 2;
        self.enter()?;
        if flags & !(BLOCKING_SYNC | DISABLE_TIMING) != 0 {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        let handle = self.new_handle();
        let event = Event {
            timed: flags & DISABLE_TIMING == 0,
            recorded: Recorded::Never,
        };
        self.contents.events.insert(handle, event);
        Ok(handle)
    }

    fn destroy_event(&mut self, event: Handle) -> Answer {
        self.enter()?;
        let removed = self.contents.events.remove(&event);
        removed
            .map(|_| ())
            .ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)
    }

    fn recorded(&self, event: Handle) -> Answer<Recorded> {
        let event = self.contents.events.get(&event);
        let event = event.ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)?;
        Ok(event.recorded.clone())
    }

    fn record_event(&mut self, event: Handle, stream: Handle) -> Answer {
        self.enter()?;
        self.recorded(event)?;
        let (stream, of) = self.stream(stream)?;
        let recorded = match &of.capture {
            Some(capture) => Recorded::Captured(capture.number()?),
            None => {
                let time = Arc::new(OnceLock::new());
                self.put(stream, Work::Stamp(Arc::clone(&time)))?;
                Recorded::At(self.now(stream), time)
            }
        };
        if let Some(event) = self.contents.events.get_mut(&event) {
            event.recorded = recorded;
        }
        Ok(())
    }

    /// The moment that a call waits for; `None` where nothing was ever recorded, which counts as past.
    fn awaited(&mut self, event: Handle) -> Answer<Option<Moment>> {
        self.enter()?;
        match self.recorded(event)? {
            Recorded::Captured(number) => {
                self.spoil_capture(number);
                Err(CUresult::CUDA_ERROR_CAPTURED_EVENT)
            }
            recorded => {
                self.refuse_while_capturing()?;
                Ok(match recorded {
                    Recorded::At(moment, _) => Some(moment),
                    _ => None,
                })
            }
        }
    }

    fn synchronise_event(&mut self, event: Handle) -> Answer {
        if let Some(moment) = self.awaited(event)? {
            self.run_to(moment);
        }
        self.sound()
    }

    fn query_event(&mut self, event: Handle) -> Answer {
        match self.awaited(event)? {
            Some(moment) => self.look(moment),
            None => Ok(()),
        }
    }

    fn wait_event(&mut self, stream: Handle, event: Handle, flags: u32) -> Answer {
        self.enter()?;
        if flags != 0 {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        let recorded = self.recorded(event)?;
        let (stream, of) = self.stream(stream)?;
        let own = match &of.capture {
            Some(capture) => Some(capture.number()?),
            None => None,
        };
        match (recorded, own) {
            (Recorded::Never, _) => Ok(()),
            (Recorded::At(moment, _), None) => self.put(stream, Work::WaitFor(moment)),
            // What a graph waits for must be in the graph.
            (Recorded::At(..), Some(number)) => {
                self.spoil_capture(number);
                Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION)
            }
            (Recorded::Captured(number), Some(own)) if number == own => Ok(()),
            (Recorded::Captured(_), _) => {
                report("a capture that spreads to a second stream is not emulated");
                Err(CUresult::CUDA_ERROR_NOT_SUPPORTED)
            }
        }
    }

    fn elapsed(&mut self, start: Handle, end: Handle) -> Answer<f32> {
        self.enter()?;
        let mut times = [None; 2];
        for (time, event) in times.iter_mut().zip([start, end]) {
            let event = self.contents.events.get(&event);
            let event = event.ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)?;
            match &event.recorded {
                Recorded::At(_, stamp) if event.timed => *time = stamp.get().copied(),
                Recorded::Captured(_) => return Err(CUresult::CUDA_ERROR_CAPTURED_EVENT),
                _ => return Err(CUresult::CUDA_ERROR_INVALID_HANDLE),
            }
        }
        match times {
            [Some(start), Some(end)] => {
                Ok(1e3 * end.saturating_duration_since(start).as_secs_f32())
            }
            _ => Err(CUresult::CUDA_ERROR_NOT_READY),
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(event: *mut Handle, flags: u32) -> CUresult {
    // SAFETY: the caller's promise.
    unsafe { value(event, |driver| driver.create_event(flags)) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventDestroy_v2(event: Handle) -> CUresult {
    status(|driver| driver.destroy_event(event))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecord(event: Handle, stream: Handle) -> CUresult {
    status(|driver| driver.record_event(event, stream))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventSynchronize(event: Handle) -> CUresult {
    status(|driver| driver.synchronise_event(event))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventQuery(event: Handle) -> CUresult {
    status(|driver| driver.query_event(event))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamWaitEvent(stream: Handle, event: Handle, flags: u32) -> CUresult {
    status(|driver| driver.wait_event(stream, event, flags))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime_v2(
    milliseconds: *mut f32,
    start: Handle,
    end: Handle,
) -> CUresult {
    // SAFETY: the caller's promise.
    unsafe { value(milliseconds, |driver| driver.elapsed(start, end)) }
}
