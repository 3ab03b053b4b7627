//! A CUDA driver for machines that have none: the functions of the driver that this crate calls, over
//! `kernels/emulator`, which executes the kernels' sources on the processor. Built as a library and found
//! as `libcuda.so`, it lets everything above the driver run: memory, streams, graphs, the engine.
//!
//! It is meant to find mistakes, not to be fast, so of what the driver's documentation allows it does
//! what hides least:
//! - work on a stream starts when something waits for it, and no sooner; a copy reads and writes
//!   page-locked memory, and writes ordinary memory, when it runs;
//! - a kernel's fault, or work that meets memory freed before it, is printed and fails every later
//!   call;
//! - while a stream is captured, what the documentation calls unsafe is refused and spoils the capture;
//! - handles, ranges and the thread's context are checked at every call;
//! - a process that leaves something unfreed says so and fails.
//!
//! Limits: one device; nothing runs at the same time as anything else; times mean nothing; a capture
//! holds one stream; images are looked at, not executed. Memory that was freed and allocated anew is
//! not told apart from its former self by a kernel.
//!
//! `INFONCE_EMULATED_MULTIPROCESSORS` and `INFONCE_EMULATED_MEMORY` (bytes) set what the device has.
#![allow(
    non_snake_case,
    clippy::missing_safety_doc,
    reason = "names and contracts are the driver's"
)]

mod capture;
mod context;
mod event;
mod exit;
mod graph;
mod memory;
mod module;
mod runner;
mod stream;
mod tensor_map;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys::CUresult;
// Links the kernels and their runner, which are part of the crate.
use infonce as _;

use event::Event;
use graph::{Executable, Graph};
use memory::Memory;
use module::Modules;
use stream::Stream;

/// What a call of the driver returns.
type Answer<T = ()> = Result<T, CUresult>;

/// A handle as the caller holds it. No two objects, of whatever kind, share one.
type Handle = usize;

/// What the device has.
#[derive(Debug, Clone, Copy)]
struct Settings {
    multiprocessors: u32,
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
            multiprocessors: number("INFONCE_EMULATED_MULTIPROCESSORS", 4).max(1) as u32,
            memory_bytes: number("INFONCE_EMULATED_MEMORY", 4 << 30),
        }
    }
}

/// The driver, its one device and that device's primary context.
struct Driver {
    settings: Settings,
    initialised: bool,
    /// How often the primary context is retained; it exists while this is above 0.
    retained: usize,
    context: Handle,
    contents: Contents,
    /// The error that every call returns, once work has failed.
    fault: Option<CUresult>,
    last_handle: Handle,
    /// Whether a context has ended with something that was not freed.
    left_something: bool,
}

/// What ends with the context.
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

/// The process's driver. One lock for everything: work runs on the thread that waits for it, and
/// other threads wait for that.
fn driver() -> MutexGuard<'static, Driver> {
    static DRIVER: LazyLock<Mutex<Driver>> = LazyLock::new(|| {
        exit::watch();
        Mutex::new(Driver::new(Settings::from_environment()))
    });
    DRIVER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A call that answers with a status alone.
fn status(call: impl FnOnce(&mut Driver) -> Answer) -> CUresult {
    match call(&mut driver()) {
        Ok(()) => CUresult::CUDA_SUCCESS,
        Err(error) => error,
    }
}

/// A call that answers with a value.
///
/// # Safety
/// `to` is null or the caller's room for a value.
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

/// Says what a number alone does not.
fn report(words: &str) {
    eprintln!("emulated CUDA driver: {words}");
}
