//! [`EmulatedDevice`]: the [`Device`] that runs kernels in the emulator, kernels/emulator.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Error;
use crate::launch::pool::{Block, Pool};
use crate::launch::{Counter, Device, Hardware, Launch, Matrix, TensorMap};

/// When asynchronous copies and products complete. A correct kernel gives the same bits under each schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Schedule {
    /// As late as the next wait for it allows.
    #[default]
    Late,
    /// At once, where it is issued.
    Early,
    /// Late or early, by the seed.
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

/// The emulator under a schedule. The seed decides the order of threads and blocks; each launch has the next seed.
#[derive(Debug)]
pub(crate) struct EmulatedDevice {
    schedule: Schedule,
    seed: AtomicU64,
    sm_count: u32,
    /// Bytes of the reported L2 cache.
    pub(crate) cache_bytes: usize,
    /// Whether the kernels for sm_90a run.
    pub(crate) warpgroups: bool,
    /// Counts the bytes that a GPU's memory pool would hold.
    counted: Arc<Pool<Counter>>,
}

/// Memory of the emulator, which checks every access.
#[derive(Debug)]
pub(crate) struct EmulatedBuffer {
    address: u64,
    /// Its block in the counting pool.
    counted: Option<Block<Counter>>,
}

impl Drop for EmulatedBuffer {
    fn drop(&mut self) {
        // SAFETY: the address came from `infonce_emulator_allocate` and is freed once.
        unsafe { infonce_emulator_free(self.address as *mut c_void) }
    }
}

impl EmulatedDevice {
    pub(crate) fn new(schedule: Schedule, seed: u64, sm_count: u32) -> Self {
        Self {
            schedule,
            seed: AtomicU64::new(seed),
            sm_count,
            cache_bytes: 50 << 20,
            warpgroups: false,
            counted: Pool::new(Counter::default()),
        }
    }

    /// Memory that is not counted: the caller's.
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

    /// Bytes that a GPU's memory pool would hold after all calls so far.
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
        // SAFETY: the emulator refuses a range that it has not allocated; `bytes` is that long.
        match unsafe { infonce_emulator_write(to, from, bytes.len() as u64) } {
            0 => Ok(()),
            _ => Err(fault("none", "a write outside allocated memory")),
        }
    }

    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Error> {
        let (from, to) = (address as *const c_void, bytes.as_mut_ptr().cast());
        // SAFETY: the emulator refuses a range that it has not allocated; `bytes` is that long.
        match unsafe { infonce_emulator_read(from, to, bytes.len() as u64) } {
            0 => Ok(()),
            _ => Err(fault("none", "a read outside allocated memory")),
        }
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<(), Error> {
        let kernel = CString::new(launch.kernel.name).unwrap_or_default();
        let mut report: [c_char; REPORT] = [0; REPORT];
        let description = EmulatorLaunch {
            kernel: kernel.as_ptr(),
            grid: launch.grid,
            threads: launch.kernel.threads,
            shared_bytes: launch.kernel.shared_bytes,
            schedule: self.schedule as u32,
            params: launch.params.as_ptr().cast(),
            params_bytes: launch.params.len() as u64,
            seed: self.seed.fetch_add(1, Ordering::Relaxed),
        };
        // SAFETY: all pointers live through the call; the emulator checks the parameters' size and every
        // address that a kernel makes of them.
        let status =
            unsafe { infonce_emulator_launch(&description, report.as_mut_ptr(), REPORT as u64) };
        if status == 0 {
            return Ok(());
        }
        // SAFETY: the emulator ends the report with a zero within its bytes.
        let reason = unsafe { CStr::from_ptr(report.as_ptr()) };
        Err(fault(launch.kernel.name, &reason.to_string_lossy()))
    }

    fn tensor_map(&self, matrix: &Matrix, box_rows: u32) -> Result<TensorMap, Error> {
        Ok(bytemuck::cast(TensorMapWords {
            mark: TENSOR_MAP,
            data: matrix.data,
            stride: matrix.stride,
            rows: matrix.rows,
            row_bytes: matrix.row_bytes,
            box_rows,
            number_bytes: matrix.element_bytes() as u32,
            unused: [0; 11],
        }))
    }

    fn hardware(&self) -> Hardware {
        Hardware {
            warpgroups: self.warpgroups,
            sms: self.sm_count,
            cache_bytes: self.cache_bytes,
        }
    }
}
