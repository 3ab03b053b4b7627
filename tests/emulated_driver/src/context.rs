//! The device and its primary context.

use std::cell::Cell;
use std::ffi::{c_char, c_int};

use cudarc::driver::sys::{CUdevice_attribute_enum as Attribute, CUresult};

use super::stream::{LEGACY, Stream};
use super::{Answer, Contents, Driver, Handle, report, status};

const NAME: &str = "emulated device (kernels run on the CPU)";
/// CUDA 13.0, as 1000·major + 10·minor.
const VERSION: c_int = 13_000;
const DEVICE: c_int = 0;
/// Most bytes of dynamic shared memory of a block by default.
pub(super) const SHARED_USUAL: u32 = 48 << 10;
/// Most bytes of dynamic shared memory that a kernel can ask for, as on compute capability 9.0.
pub(super) const SHARED_MOST: u32 = 232_448;

thread_local! {
    /// The context that is current on this thread; 0 is none.
    static CURRENT: Cell<Handle> = const { Cell::new(0) };
}

impl Driver {
    pub(super) fn initialise(&mut self, flags: u32) -> Answer {
        if flags != 0 {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        if !std::mem::replace(&mut self.initialised, true) {
            report("device 0 runs kernels on the CPU");
        }
        Ok(())
    }

    pub(super) fn version(&self) -> Answer<c_int> {
        Ok(VERSION)
    }

    pub(super) fn device_count(&self) -> Answer<c_int> {
        self.device(DEVICE).map(|_| 1)
    }

    /// The device of an ordinal, which is the ordinal.
    pub(super) fn device(&self, ordinal: c_int) -> Answer<c_int> {
        if !self.initialised {
            return Err(CUresult::CUDA_ERROR_NOT_INITIALIZED);
        }
        match ordinal {
            DEVICE => Ok(DEVICE),
            _ => Err(CUresult::CUDA_ERROR_INVALID_DEVICE),
        }
    }

    pub(super) fn total_memory(&self, device: c_int) -> Answer<usize> {
        self.device(device)?;
        Ok(self.settings.memory_bytes)
    }

    /// Checks that the context is current on this thread and none of its work has failed. Every call that needs the
    /// context starts with it.
    pub(super) fn enter(&self) -> Answer {
        if !self.initialised {
            return Err(CUresult::CUDA_ERROR_NOT_INITIALIZED);
        }
        if self.retained == 0 || CURRENT.get() != self.context {
            return Err(CUresult::CUDA_ERROR_INVALID_CONTEXT);
        }
        self.sound()
    }

    /// Refuses all calls after a fault, as the driver API documents CUDA_ERROR_ILLEGAL_ADDRESS and
    /// CUDA_ERROR_LAUNCH_FAILED.
    pub(super) fn sound(&self) -> Answer {
        self.fault.map_or(Ok(()), Err)
    }

    pub(super) fn retain(&mut self, device: c_int) -> Answer<Handle> {
        self.device(device)?;
        self.sound()?;
        if self.retained == 0 {
            self.context = self.new_handle();
            let legacy = Stream::new(true);
            self.contents.streams.insert(LEGACY, legacy);
        }
        self.retained += 1;
        Ok(self.context)
    }

    pub(super) fn release(&mut self, device: c_int) -> Answer {
        self.device(device)?;
        if self.retained == 0 {
            return Err(CUresult::CUDA_ERROR_INVALID_CONTEXT);
        }
        self.retained -= 1;
        if self.retained == 0 {
            self.run_everything();
            let ended = std::mem::take(&mut self.contents);
            self.account("context", ended.left_behind());
        }
        self.sound()
    }

    /// Prints what is `left` unfreed when a context or the process ends. The process then fails.
    pub(super) fn account(&mut self, what: &str, left: Option<String>) {
        // After a fault nothing can be freed.
        if let (None, Some(left)) = (self.fault, left) {
            report(&format!("the {what} ends with {left}"));
            self.left_something = true;
        }
    }

    pub(super) fn current_context(&self) -> Answer<Handle> {
        Ok(CURRENT.get())
    }

    pub(super) fn make_current(&mut self, context: Handle) -> Answer {
        if context != 0 && (self.retained == 0 || context != self.context) {
            return Err(CUresult::CUDA_ERROR_INVALID_CONTEXT);
        }
        CURRENT.set(context);
        Ok(())
    }

    pub(super) fn device_attribute(&self, attribute: c_int, device: c_int) -> Answer<c_int> {
        use Attribute::*;
        self.device(device)?;
        let attributes = [
            (CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, self.settings.sms),
            (CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 1024),
            (CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, 1024),
            (CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y, 1),
            (CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z, 1),
            (CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, i32::MAX as u32),
            (CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y, 65_535),
            (CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z, 65_535),
            (
                CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK,
                SHARED_USUAL,
            ),
            (
                CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
                SHARED_MOST,
            ),
            (CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32),
            (CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, 1 << 20),
            (CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1),
            (CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 9),
            (CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, 0),
            (CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, 0),
        ];
        let found = attributes
            .iter()
            .find(|(known, _)| *known as c_int == attribute);
        match found {
            Some((_, number)) => Ok(*number as c_int),
            None => {
                report(&format!(
                    "the device's attribute {attribute} is not emulated"
                ));
                Err(CUresult::CUDA_ERROR_INVALID_VALUE)
            }
        }
    }
}

impl Contents {
    /// Counts of the unfreed objects, as text.
    pub(super) fn left_behind(&self) -> Option<String> {
        let (device, host) = self.memory.counts();
        let streams = self
            .streams
            .iter()
            .filter(|(handle, stream)| **handle != LEGACY && !stream.destroyed);
        let counts = [
            (device, "allocations on the device"),
            (host, "page-locked allocations"),
            (streams.count(), "streams"),
            (self.events.len(), "events"),
            (self.graphs.len() + self.executables.len(), "graphs"),
            (self.modules.count(), "modules"),
        ];
        let left: Vec<String> = counts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        (!left.is_empty()).then(|| left.join(", "))
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(
    name: *mut c_char,
    length: c_int,
    device: c_int,
) -> CUresult {
    status(|driver| {
        driver.device(device)?;
        if name.is_null() || length < 1 {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        let shown = NAME.len().min(length as usize - 1);
        // SAFETY: `name` is valid for `length` bytes, by the caller's promise.
        unsafe {
            std::ptr::copy_nonoverlapping(NAME.as_ptr().cast(), name, shown);
            name.add(shown).write(0);
        }
        Ok(())
    })
}
