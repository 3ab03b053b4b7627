//! Device memory, page-locked host memory, and the copies between them.

use std::alloc::{Layout, alloc, dealloc};
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::sys::CUresult;

use super::stream::Work;
use super::{Answer, Driver, Handle, runner, status, value};

/// What unwritten page-locked memory holds.
const UNWRITTEN: u8 = 0xff;

#[derive(Default)]
pub(super) struct Memory {
    /// Bytes of each allocation on the device, by its address.
    device: BTreeMap<u64, usize>,
    /// By address.
    page_locked: BTreeMap<usize, PageLocked>,
}

struct PageLocked {
    layout: Layout,
    /// Tells it apart from what was at its address before.
    number: Handle,
}

/// What a copy to the device reads.
#[derive(Clone)]
pub(super) enum Source {
    /// Ordinary memory, which is read during the call.
    Ordinary(Arc<[u8]>),
    /// Page-locked memory, which is read when the copy runs.
    PageLocked { address: usize, number: Handle },
}

/// What a copy from the device writes, when it runs.
#[derive(Clone)]
pub(super) enum Target {
    Ordinary(usize),
    PageLocked { address: usize, number: Handle },
}

impl Memory {
    /// Allocations on the device and page-locked ones.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.device.len(), self.page_locked.len())
    }

    fn used(&self) -> usize {
        self.device.values().sum()
    }

    /// Whether a range on the device is part of one allocation. An empty one is refused: what the
    /// driver does with it is not documented.
    fn check(&self, address: u64, bytes: usize) -> Answer {
        let before = self.device.range(..=address).next_back();
        let inside = before.is_some_and(|(start, length)| {
            let skipped = (address - start) as usize;
            skipped < *length && bytes <= length - skipped
        });
        if inside && bytes > 0 {
            return Ok(());
        }
        Err(CUresult::CUDA_ERROR_INVALID_VALUE)
    }

    /// The page-locked allocation that holds a range.
    fn page_locked(&self, address: usize, bytes: usize) -> Option<Handle> {
        let (start, found) = self.page_locked.range(..=address).next_back()?;
        let length = found.layout.size();
        let skipped = address - start;
        (skipped < length && bytes <= length - skipped).then_some(found.number)
    }

    fn still_locked(&self, address: usize, bytes: usize, number: Handle) -> Result<(), String> {
        if self.page_locked(address, bytes) == Some(number) {
            return Ok(());
        }
        Err(format!(
            "a copy of {bytes} bytes runs after its page-locked memory was freed"
        ))
    }

    pub(super) fn copy_to_device(
        &self,
        to: u64,
        from: &Source,
        bytes: usize,
    ) -> Result<(), String> {
        let from = match from {
            Source::Ordinary(read) => read.as_ptr(),
            &Source::PageLocked { address, number } => {
                self.still_locked(address, bytes, number)?;
                address as *const u8
            }
        };
        // SAFETY: as many bytes were read, or are allocated.
        written(unsafe { runner::write(to, from, bytes) }, bytes)
    }

    pub(super) fn copy_to_host(&self, from: u64, to: &Target, bytes: usize) -> Result<(), String> {
        let to = match *to {
            Target::Ordinary(address) => address,
            Target::PageLocked { address, number } => {
                self.still_locked(address, bytes, number)?;
                address
            }
        };
        // SAFETY: page-locked memory is allocated; other memory stays until the caller has waited
        // for the copy, by the contract of cuMemcpyDtoHAsync.
        written(unsafe { runner::read(from, to as *mut u8, bytes) }, bytes)
    }

    pub(super) fn copy_within(&self, from: u64, to: u64, bytes: usize) -> Result<(), String> {
        let mut between = vec![0; bytes];
        // SAFETY: `between` has as many bytes.
        let read = unsafe { runner::read(from, between.as_mut_ptr(), bytes) };
        // SAFETY: as above.
        written(
            read && unsafe { runner::write(to, between.as_ptr(), bytes) },
            bytes,
        )
    }

    pub(super) fn fill(&self, to: u64, unit: &[u8], count: usize) -> Result<(), String> {
        let filled = unit.repeat(count);
        // SAFETY: `filled` has as many bytes.
        written(
            unsafe { runner::write(to, filled.as_ptr(), filled.len()) },
            filled.len(),
        )
    }
}

fn written(done: bool, bytes: usize) -> Result<(), String> {
    if done {
        return Ok(());
    }
    Err(format!(
        "a copy of {bytes} bytes runs after its memory on the device was freed"
    ))
}

impl Drop for Memory {
    fn drop(&mut self) {
        for &address in self.device.keys() {
            runner::free(address);
        }
        for (&address, allocation) in &self.page_locked {
            // SAFETY: allocated with this layout, and not freed.
            unsafe { dealloc(address as *mut u8, allocation.layout) };
        }
    }
}

impl Driver {
    pub(super) fn allocate(&mut self, bytes: usize) -> Answer<u64> {
        self.enter()?;
        self.refuse_while_capturing()?;
        if bytes == 0 {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        let room = self.settings.memory_bytes - self.contents.memory.used();
        let address = (bytes <= room).then(|| runner::allocate(bytes)).flatten();
        let address = address.ok_or(CUresult::CUDA_ERROR_OUT_OF_MEMORY)?;
        self.contents.memory.device.insert(address, bytes);
        Ok(address)
    }

    /// Waits for all work, as the driver does: "callers must ensure that all accesses have completed"
    /// is asked only of memory from cuMemAllocAsync.
    pub(super) fn free(&mut self, address: u64) -> Answer {
        self.enter()?;
        self.refuse_while_capturing()?;
        if !self.contents.memory.device.contains_key(&address) {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        self.run_everything();
        self.contents.memory.device.remove(&address);
        runner::free(address);
        self.sound()
    }

    pub(super) fn allocate_host(&mut self, bytes: usize) -> Answer<usize> {
        self.enter()?;
        self.refuse_while_capturing()?;
        let layout = Layout::from_size_align(bytes, 4096)
            .ok()
            .filter(|_| bytes > 0);
        let layout = layout.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
        // SAFETY: the layout is not empty.
        let memory = unsafe { alloc(layout) };
        if memory.is_null() {
            return Err(CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        }
        // SAFETY: as many bytes were allocated just now.
        unsafe { memory.write_bytes(UNWRITTEN, bytes) };
        let number = self.new_handle();
        let allocation = PageLocked { layout, number };
        self.contents
            .memory
            .page_locked
            .insert(memory as usize, allocation);
        Ok(memory as usize)
    }

    /// Waits for nothing, since no document says that it does.
    pub(super) fn free_host(&mut self, address: usize) -> Answer {
        self.enter()?;
        self.refuse_while_capturing()?;
        let allocation = self.contents.memory.page_locked.remove(&address);
        let allocation = allocation.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
        // SAFETY: allocated with this layout, and freed once.
        unsafe { dealloc(address as *mut u8, allocation.layout) };
        Ok(())
    }

    fn memory_info(&mut self) -> Answer<[usize; 2]> {
        self.enter()?;
        let total = self.settings.memory_bytes;
        Ok([total - self.contents.memory.used(), total])
    }

    /// # Safety
    /// `from` is the address of as many bytes, page-locked or readable now.
    pub(super) unsafe fn copy_to_device(
        &mut self,
        to: u64,
        from: *const u8,
        bytes: usize,
        stream: Handle,
    ) -> Answer {
        self.enter()?;
        self.contents.memory.check(to, bytes)?;
        let from = match self.contents.memory.page_locked(from as usize, bytes) {
            Some(number) => Source::PageLocked {
                address: from as usize,
                number,
            },
            None => {
                self.refuse_ordinary_memory(stream)?;
                // SAFETY: the caller's promise.
                Source::Ordinary(unsafe { std::slice::from_raw_parts(from, bytes) }.into())
            }
        };
        self.put(stream, Work::ToDevice { to, from, bytes })
    }

    /// `to` is written when the copy runs.
    pub(super) fn copy_to_host(
        &mut self,
        to: *mut u8,
        from: u64,
        bytes: usize,
        stream: Handle,
    ) -> Answer {
        self.enter()?;
        self.contents.memory.check(from, bytes)?;
        let address = to as usize;
        let to = match self.contents.memory.page_locked(address, bytes) {
            Some(number) => Target::PageLocked { address, number },
            None => {
                self.refuse_ordinary_memory(stream)?;
                Target::Ordinary(address)
            }
        };
        self.put(stream, Work::ToHost { from, to, bytes })
    }

    /// A graph would use the caller's memory each time it runs, and nothing says until when that is.
    fn refuse_ordinary_memory(&mut self, stream: Handle) -> Answer {
        let (_, of) = self.stream(stream)?;
        match &mut of.capture {
            Some(capture) => {
                capture.spoil();
                Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)
            }
            None => Ok(()),
        }
    }

    fn copy_within(&mut self, to: u64, from: u64, bytes: usize, stream: Handle) -> Answer {
        self.enter()?;
        self.contents.memory.check(from, bytes)?;
        self.contents.memory.check(to, bytes)?;
        self.put(stream, Work::Within { from, to, bytes })
    }

    pub(super) fn fill(&mut self, to: u64, unit: &[u8], count: usize, stream: Handle) -> Answer {
        self.enter()?;
        let bytes = count
            .checked_mul(unit.len())
            .ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
        self.contents.memory.check(to, bytes)?;
        if !to.is_multiple_of(unit.len() as u64) {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        let unit = unit.into();
        self.put(stream, Work::Fill { to, unit, count })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> CUresult {
    // SAFETY: the caller's promise, here and below.
    unsafe { value(address, |driver| driver.allocate(bytes)) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(address: u64) -> CUresult {
    status(|driver| driver.free(address))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostAlloc(
    address: *mut usize,
    bytes: usize,
    _flags: u32,
) -> CUresult {
    // SAFETY: as above.
    unsafe { value(address, |driver| driver.allocate_host(bytes)) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeHost(address: usize) -> CUresult {
    status(|driver| driver.free_host(address))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> CUresult {
    status(|driver| {
        let info = driver.memory_info()?;
        for (to, bytes) in [free, total].into_iter().zip(info) {
            if to.is_null() {
                return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
            }
            // SAFETY: as above.
            unsafe { to.write(bytes) };
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    to: u64,
    from: *const c_void,
    bytes: usize,
    stream: Handle,
) -> CUresult {
    // SAFETY: as above.
    status(|driver| unsafe { driver.copy_to_device(to, from.cast(), bytes, stream) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: u64,
    bytes: usize,
    stream: Handle,
) -> CUresult {
    status(|driver| driver.copy_to_host(to.cast(), from, bytes, stream))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoDAsync_v2(
    to: u64,
    from: u64,
    bytes: usize,
    stream: Handle,
) -> CUresult {
    status(|driver| driver.copy_within(to, from, bytes, stream))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8Async(to: u64, byte: u8, count: usize, stream: Handle) -> CUresult {
    status(|driver| driver.fill(to, &[byte], count, stream))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD32Async(to: u64, word: u32, count: usize, stream: Handle) -> CUresult {
    status(|driver| driver.fill(to, &word.to_le_bytes(), count, stream))
}
