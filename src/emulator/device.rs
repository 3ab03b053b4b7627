//! A device that runs kernels under `kernels/emulator`.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Error;
use crate::launch::pool::{Block, Pool};
use crate::launch::{BoxedMatrix, Counter, Device, Hardware, Launch, TensorMap};

/// When asynchronous operations complete. A correct kernel gives the same bits whichever it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Schedule {
    /// As late as a wait allows.
    #[default]
    Late,
    /// Where they are issued.
    Early,
    /// Each one or the other, by the seed.
    Mixed,
}

/// `InfonceEmulatorLaunch` of kernels/emulator/emulator.h.
#[repr(C)]
struct EmulatorLaunch {
    kernel: *const c_char,
    grid: [u32; 3],
    threads: u32,
    shared_bytes: u32,
    schedule: u32,
    params: *const c_void,
    params_bytes: u64,
    seed: u64,
}

/// `TensorMapWords` of kernels/emulator/tensor_map.h.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct TensorMapWords {
    mark: u64,
    data: u64,
    stride: u64,
    rows: u32,
    row_bytes: u32,
    box_rows: u32,
    number_bytes: u32,
    unused: [u64; 11],
}

/// `TENSOR_MAP` of kernels/emulator/tensor_map.h.
const TENSOR_MAP: u64 = 0x696e_666f_6e63_6570;

unsafe extern "C" {
    fn infonce_emulator_launch(
        launch: *const EmulatorLaunch,
        report: *mut c_char,
        report_bytes: u64,
    ) -> c_int;
    fn infonce_emulator_allocate(bytes: u64) -> *mut c_void;
    fn infonce_emulator_free(memory: *mut c_void);
    fn infonce_emulator_write(to: *mut c_void, from: *const c_void, bytes: u64) -> c_int;
    fn infonce_emulator_read(from: *const c_void, to: *mut c_void, bytes: u64) -> c_int;
}

/// Bytes of a report, its final zero included.
const REPORT: usize = 2048;

/// The runner with a schedule. Threads and blocks run in an order that the seed decides, another one
/// for every launch.
#[derive(Debug)]
pub(crate) struct EmulatedDevice {
    schedule: Schedule,
    seed: AtomicU64,
    multiprocessors: u32,
    /// What it says of its second-level cache.
    pub(crate) cache_bytes: usize,
    /// Whether it passes for sm_90a.
    pub(crate) warpgroups: bool,
    /// Counts the memory of calls as a pool would hold it.
    counted: Arc<Pool<Counter>>,
}

/// Memory that the runner watches.
#[derive(Debug)]
pub(crate) struct EmulatedBuffer {
    address: u64,
    /// What a pool would have given.
    counted: Option<Block<Counter>>,
}

impl Drop for EmulatedBuffer {
    fn drop(&mut self) {
        // SAFETY: the address came from `infonce_emulator_allocate` and is freed once.
        unsafe { infonce_emulator_free(self.address as *mut c_void) }
    }
}

impl EmulatedDevice {
    pub(crate) fn new(schedule: Schedule, seed: u64, multiprocessors: u32) -> Self {
        Self {
            schedule,
            seed: AtomicU64::new(seed),
            multiprocessors,
            cache_bytes: 50 << 20,
            warpgroups: false,
            counted: Pool::new(Counter::default()),
        }
    }

    /// Memory of the caller's.
    pub(crate) fn memory(&self, bytes: usize) -> Result<EmulatedBuffer, Error> {
        // SAFETY: any number of bytes is legal.
        let memory = unsafe { infonce_emulator_allocate(bytes as u64) };
        if memory.is_null() {
            return Err(fault("none", &format!("no memory for {bytes} bytes")));
        }
        Ok(EmulatedBuffer {
            address: memory as u64,
            counted: None,
        })
    }

    /// Bytes that a pool would hold after the calls so far.
    pub(crate) fn held_bytes(&self) -> usize {
        let (used, free) = self.counted.bytes();
        used + free
    }
}

fn fault(kernel: &str, reason: &str) -> Error {
    Error::Kernel {
        kernel: kernel.to_owned(),
        reason: reason.to_owned(),
    }
}

impl Device for EmulatedDevice {
    type Buffer = EmulatedBuffer;

    fn allocate(&self, bytes: usize) -> Result<EmulatedBuffer, Error> {
        let mut buffer = self.memory(bytes)?;
        buffer.counted = Some(self.counted.allocate(bytes)?);
        Ok(buffer)
    }

    fn address(buffer: &EmulatedBuffer) -> u64 {
        buffer.address
    }

    fn zero(&self, address: u64, bytes: usize) -> Result<(), Error> {
        self.write(address, &vec![0; bytes])
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Error> {
        let (to, from) = (address as *mut c_void, bytes.as_ptr().cast());
        // SAFETY: the runner refuses a range that it has not allocated; `bytes` is that long.
        match unsafe { infonce_emulator_write(to, from, bytes.len() as u64) } {
            0 => Ok(()),
            _ => Err(fault("none", "a write outside allocated memory")),
        }
    }

    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Error> {
        let (from, to) = (address as *const c_void, bytes.as_mut_ptr().cast());
        // SAFETY: the runner refuses a range that it has not allocated; `bytes` is that long.
        match unsafe { infonce_emulator_read(from, to, bytes.len() as u64) } {
            0 => Ok(()),
            _ => Err(fault("none", "a read outside allocated memory")),
        }
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<(), Error> {
        let kernel = CString::new(launch.kernel).unwrap_or_default();
        let mut report: [c_char; REPORT] = [0; REPORT];
        let description = EmulatorLaunch {
            kernel: kernel.as_ptr(),
            grid: launch.grid,
            threads: launch.threads,
            shared_bytes: launch.shared_bytes,
            schedule: self.schedule as u32,
            params: launch.params.as_ptr().cast(),
            params_bytes: launch.params.len() as u64,
            seed: self.seed.fetch_add(1, Ordering::Relaxed),
        };
        // SAFETY: all pointers live through the call; the runner checks the parameters' size and
        // every address that a kernel makes of them.
        let status =
            unsafe { infonce_emulator_launch(&description, report.as_mut_ptr(), REPORT as u64) };
        if status == 0 {
            return Ok(());
        }
        // SAFETY: the runner ends the report with a zero within its bytes.
        let reason = unsafe { CStr::from_ptr(report.as_ptr()) };
        Err(fault(launch.kernel, &reason.to_string_lossy()))
    }

    fn tensor_map(&self, matrix: &BoxedMatrix) -> Result<TensorMap, Error> {
        Ok(bytemuck::cast(TensorMapWords {
            mark: TENSOR_MAP,
            data: matrix.address,
            stride: matrix.stride as u64,
            rows: matrix.rows as u32,
            row_bytes: matrix.row_bytes as u32,
            box_rows: matrix.box_rows,
            number_bytes: matrix.numbers.bytes() as u32,
            unused: [0; 11],
        }))
    }

    fn hardware(&self) -> Hardware {
        Hardware {
            warpgroups: self.warpgroups,
            multiprocessors: self.multiprocessors,
            cache_bytes: self.cache_bytes,
        }
    }
}
