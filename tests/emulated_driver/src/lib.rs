//! A CUDA driver for machines without one: the functions of the driver that this crate calls. Kernels run in
//! `kernels/emulator`, which executes their sources on the CPU. Built as a library and found as `libcuda.so`, it lets
//! all code above the driver run: memory, streams, graphs, the engine.
//!
//! It is made to find mistakes: where the driver's documentation allows several behaviours, it has the one that hides
//! the fewest.
//! - Work on a stream starts when something waits for it, and no sooner. A copy reads and writes page-locked memory, and
//!   writes ordinary memory, when it runs.
//! - A kernel's fault is printed and fails every later call; so does work whose memory was freed before it ran.
//! - While a stream is captured, calls that could wait for the device, or do what no graph repeats, are refused and
//!   invalidate the capture.
//! - Handles, ranges and the thread's context are checked at every call.
//! - A process that leaves something unfreed reports that and fails.
//!
//! Limits: there is one device. Nothing runs at the same time as anything else. Times mean nothing. A capture has one
//! stream. Of a module's image only the first word is read. A kernel that uses an address of freed memory is not caught
//! once the address is allocated again.
//!
//! `INFONCE_EMULATED_MULTIPROCESSORS` and `INFONCE_EMULATED_MEMORY` (bytes) set the device's number of SMs and memory.
#![allow(
    non_snake_case,
    clippy::missing_safety_doc,
    reason = "names and contracts are the driver's"
)]

mod capture;
mod context;
mod emulator;
mod event;
mod exit;
mod functions;
mod graph;
mod memory;
mod module;
mod stream;
mod tensor_map;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys::CUresult;
// Links the kernels and their emulator, which belong to the crate.
use infonce as _;

use event::Event;
use graph::{Executable, Graph};
use memory::Memory;
use module::Modules;
use stream::Stream;

/// The outcome of a call of the driver.
type Answer<T = ()> = Result<T, CUresult>;

/// A handle, as the caller has it. Objects of different kinds have different handles too.
type Handle = usize;

/// Number of SMs and bytes of memory of the device.
#[derive(Debug, Clone, Copy)]
struct Settings {
    sms: u32,
    memory_bytes: usize,
}

impl Settings {
    fn from_environment() -> Self {
        let number = |name, usual| match std::env::var(name) {
            Err(_) => usual,
            Ok(text) => text.parse().unwrap_or_else(|_| {
                report(&format!("{name} is \"{text}\", not a number"));
                usual
            }),
        };
        Self {
            sms: number("INFONCE_EMULATED_MULTIPROCESSORS", 4).max(1) as u32,
            memory_bytes: number("INFONCE_EMULATED_MEMORY", 4 << 30),
        }
    }
}

/// The driver, its one device and that device's primary context.
struct Driver {
    settings: Settings,
    initialised: bool,
    /// Retain count of the primary context, which exists while this is above 0.
    retained: usize,
    context: Handle,
    contents: Contents,
    /// The error that every call returns, once work has failed.
    fault: Option<CUresult>,
    last_handle: Handle,
    /// Whether a context has ended with something unfreed.
    left_something: bool,
}

/// The objects that end with the context.
#[derive(Default)]
struct Contents {
    memory: Memory,
    modules: Modules,
    streams: BTreeMap<Handle, Stream>,
    events: HashMap<Handle, Event>,
    graphs: HashMap<Handle, Graph>,
    executables: HashMap<Handle, Executable>,
}

impl Driver {
    fn new(settings: Settings) -> Self {
        Self {
            settings,
            initialised: false,
            retained: 0,
            context: 0,
            contents: Contents::default(),
            fault: None,
            last_handle: 0x1000,
            left_something: false,
        }
    }

    fn new_handle(&mut self) -> Handle {
        self.last_handle += 0x10;
        self.last_handle
    }
}

/// The process's driver, behind one lock. Work runs on the thread that waits for it, and every other call waits for that
/// thread.
fn driver() -> MutexGuard<'static, Driver> {
    static DRIVER: LazyLock<Mutex<Driver>> = LazyLock::new(|| {
        exit::watch();
        Mutex::new(Driver::new(Settings::from_environment()))
    });
    DRIVER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a call that returns a status alone.
fn status(call: impl FnOnce(&mut Driver) -> Answer) -> CUresult {
    match call(&mut driver()) {
        Ok(()) => CUresult::CUDA_SUCCESS,
        Err(error) => error,
    }
}

/// Runs a call that returns a value.
///
/// # Safety
/// `to` is null or valid for a write of a value.
unsafe fn value<T>(to: *mut T, call: impl FnOnce(&mut Driver) -> Answer<T>) -> CUresult {
    if to.is_null() {
        return CUresult::CUDA_ERROR_INVALID_VALUE;
    }
    match call(&mut driver()) {
        Ok(value) => {
            // SAFETY: the caller's promise.
            unsafe { to.write(value) };
            CUresult::CUDA_SUCCESS
        }
        Err(error) => error,
    }
}

/// Prints what an error code does not tell.
fn report(words: &str) {
    eprintln!("emulated CUDA driver: {words}");
}
