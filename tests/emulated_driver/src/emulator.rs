//! The C functions of `kernels/emulator`.

use std::ffi::{CStr, CString, c_char, c_int, c_void};

/// `InfonceEmulatorLaunch`.
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

/// Asynchronous operations in kernels complete as late as their waits allow: `INFONCE_LATE`.
const LATE: u32 = 0;
/// Bytes of a report, its final zero included.
const REPORT: usize = 2048;

unsafe extern "C" {
    fn infonce_emulator_launch(
        launch: *const EmulatorLaunch,
        report: *mut c_char,
        report_bytes: u64,
    ) -> c_int;
    fn infonce_emulator_describe(
        kernel: *const c_char,
        threads: *mut u32,
        params_bytes: *mut u64,
    ) -> c_int;
    fn infonce_emulator_allocate(bytes: u64) -> *mut c_void;
    fn infonce_emulator_free(memory: *mut c_void);
    fn infonce_emulator_write(to: *mut c_void, from: *const c_void, bytes: u64) -> c_int;
    fn infonce_emulator_read(from: *const c_void, to: *mut c_void, bytes: u64) -> c_int;
}

/// A kernel's block and parameters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Description {
    pub threads: u32,
    pub params_bytes: usize,
}

pub(super) fn describe(kernel: &CStr) -> Option<Description> {
    let (mut threads, mut params_bytes) = (0, 0);
    // SAFETY: all pointers live through the call.
    let status =
        unsafe { infonce_emulator_describe(kernel.as_ptr(), &mut threads, &mut params_bytes) };
    (status == 0).then_some(Description {
        threads,
        params_bytes: params_bytes as usize,
    })
}

/// Runs a whole grid; the error is the emulator's report. The order of blocks and threads follows from `seed`.
pub(super) fn launch(
    kernel: &CString,
    grid: [u32; 3],
    threads: u32,
    shared_bytes: u32,
    params: &[u8],
    seed: u64,
) -> Result<(), String> {
    // A parameter structure is aligned to 8 bytes.
    let mut aligned = vec![0u64; params.len().div_ceil(8)];
    bytemuck::cast_slice_mut(&mut aligned)[..params.len()].copy_from_slice(params);
    let launch = EmulatorLaunch {
        kernel: kernel.as_ptr(),
        grid,
        threads,
        shared_bytes,
        schedule: LATE,
        params: aligned.as_ptr().cast(),
        params_bytes: params.len() as u64,
        seed,
    };
    let mut report: [c_char; REPORT] = [0; REPORT];
    // SAFETY: all pointers live through the call; the emulator checks the parameters' size and every
    // address that a kernel computes.
    let status = unsafe { infonce_emulator_launch(&launch, report.as_mut_ptr(), REPORT as u64) };
    if status == 0 {
        return Ok(());
    }
    // SAFETY: the emulator ends the report with a zero within its bytes.
    let words = unsafe { CStr::from_ptr(report.as_ptr()) };
    Err(words.to_string_lossy().into_owned())
}

/// Unwritten memory at a multiple of 256 bytes.
pub(super) fn allocate(bytes: usize) -> Option<u64> {
    // SAFETY: every size is legal.
    let memory = unsafe { infonce_emulator_allocate(bytes as u64) };
    (!memory.is_null()).then_some(memory as u64)
}

pub(super) fn free(address: u64) {
    // SAFETY: the emulator ignores an address that it has not allocated.
    unsafe { infonce_emulator_free(address as *mut c_void) }
}

/// Copies to the device's memory; false when the range is not allocated there.
///
/// # Safety
/// `from` is the address of as many bytes.
pub(super) unsafe fn write(to: u64, from: *const u8, bytes: usize) -> bool {
    // SAFETY: the caller's promise; the emulator refuses a range that it has not allocated.
    unsafe { infonce_emulator_write(to as *mut c_void, from.cast(), bytes as u64) == 0 }
}

/// Copies from the device's memory; false when the range is not allocated there.
///
/// # Safety
/// `to` is valid for as many bytes.
pub(super) unsafe fn read(from: u64, to: *mut u8, bytes: usize) -> bool {
    // SAFETY: the caller's promise; the emulator refuses a range that it has not allocated.
    unsafe { infonce_emulator_read(from as *const c_void, to.cast(), bytes as u64) == 0 }
}
