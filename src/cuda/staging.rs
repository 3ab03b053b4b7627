//! [`Staging`]: copies from host memory to the device through page-locked slots.
//!
//! The CPU copies bytes into one of a few page-locked slots, so the caller may change its memory at once. The driver
//! reads the slot when the stream reaches the copy; then an event marks the slot as free. A copy straight from pageable
//! memory might read it after the call has returned, or make the call wait for the stream.

use std::ffi::c_void;
use std::sync::Mutex;

use cudarc::driver::{CudaEvent, result, sys};

use super::driver::{RelaxedCapture, check, lock};
use super::stream::CudaStream;
use crate::error::Error;

const SLOTS: usize = 4;
const SLOT_BYTES: usize = 1 << 20;

/// The slots of one stream.
#[derive(Debug)]
pub(super) struct Staging {
    ring: Mutex<Ring>,
    stream: CudaStream,
}

#[derive(Debug, Default)]
struct Ring {
    slots: Vec<Slot>,
    next: usize,
    /// Memory that recorded graphs copy from each time they run.
    recorded: Vec<Pinned>,
}

#[derive(Debug)]
struct Slot {
    memory: Pinned,
    copied: CudaEvent,
}

/// Page-locked host memory.
#[derive(Debug)]
struct Pinned {
    start: *mut c_void,
    bytes: usize,
    stream: CudaStream,
}

// SAFETY: the memory is owned, and the driver lets any thread use it.
unsafe impl Send for Pinned {}

impl Pinned {
    fn new(stream: &CudaStream, bytes: usize) -> Result<Self, Error> {
        stream.bind()?;
        let _relaxed = RelaxedCapture::new()?;
        // SAFETY: the context is current; the memory is written before anything reads it.
        let start = unsafe { result::malloc_host(bytes, 0) };
        Ok(Self {
            start: check("cuMemHostAlloc", start)?,
            bytes,
            stream: stream.clone(),
        })
    }

    /// Puts a copy of `bytes` to `address` on the stream. Until it has run, the memory must neither
    /// be written nor freed.
    fn send(&mut self, stream: sys::CUstream, address: u64, bytes: &[u8]) -> Result<(), Error> {
        assert!(bytes.len() <= self.bytes);
        // SAFETY: `start` is the start of at least as many bytes, which belong to `self` alone.
        let staged = unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.cast(), bytes.len());
            std::slice::from_raw_parts(self.start.cast::<u8>(), bytes.len())
        };
        // SAFETY: `address` names as many bytes of device memory, by the contract of `Device::write`,
        // and the staged bytes stay as they are until the copy has run, by this function's.
        let sent = unsafe { result::memcpy_htod_async(address, staged, stream) };
        check("cuMemcpyHtoDAsync", sent)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let context = self.stream.context();
        context.record_err(context.bind_to_thread());
        // The memory is freed even where this fails.
        let _relaxed = RelaxedCapture::new();
        // SAFETY: `start` comes from cuMemHostAlloc, and no copy from it is under way: `Staging` has
        // waited for the stream, and graphs keep the staging that they copy from.
        context.record_err(unsafe { result::free_host(self.start) });
    }
}

impl Staging {
    pub(super) fn new(stream: CudaStream) -> Self {
        let ring = Mutex::default();
        Self { ring, stream }
    }

    /// Copies `bytes` to `address` in stream order. A graph that is being recorded copies the present bytes each time
    /// it runs.
    pub(super) fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Error> {
        if bytes.is_empty() {
            return Ok(());
        }
        let mut ring = lock(&self.ring);
        let raw = self.stream.bind()?;
        if self.stream.is_capturing()? {
            let mut memory = Pinned::new(&self.stream, bytes.len())?;
            let sent = memory.send(raw, address, bytes);
            ring.recorded.push(memory);
            return sent;
        }
        for (chunk, address) in bytes
            .chunks(SLOT_BYTES)
            .zip((address..).step_by(SLOT_BYTES))
        {
            let index = ring.next;
            ring.next = (index + 1) % SLOTS;
            if ring.slots.len() == index {
                ring.slots.push(self.slot()?);
            }
            let slot = &mut ring.slots[index];
            check("cuEventSynchronize", slot.copied.synchronize())?;
            slot.memory.send(raw, address, chunk)?;
            check("cuEventRecord", slot.copied.record(&self.stream.handle))?;
        }
        Ok(())
    }

    /// Allocates all slots now rather than when they are first written to.
    pub(super) fn reserve(&self) -> Result<(), Error> {
        let mut ring = lock(&self.ring);
        while ring.slots.len() < SLOTS {
            ring.slots.push(self.slot()?);
        }
        Ok(())
    }

    fn slot(&self) -> Result<Slot, Error> {
        Ok(Slot {
            memory: Pinned::new(&self.stream, SLOT_BYTES)?,
            copied: check("cuEventCreate", self.stream.context().new_event(None))?,
        })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // A stream that is being recorded runs nothing, and cannot be waited for.
        if let Ok(false) = self.stream.is_capturing() {
            let context = self.stream.context();
            context.record_err(self.stream.handle.synchronize());
        }
    }
}
