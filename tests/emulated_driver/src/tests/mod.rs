//! Tests that the driver shows mistakes: missing waits, memory reused or freed too early, calls that a capture forbids,
//! faults. Each test creates its own driver.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::thread;

use cudarc::driver::sys::{
    CUlaunchAttribute, CUlaunchAttributeID_enum as Launch, CUlaunchAttributeValue, CUresult,
};

use super::capture::{Mode, exchange_mode};
use super::context::{SHARED_MOST, SHARED_USUAL};
use super::module::{Shape, check_attributes};
use super::stream::LEGACY;
use super::{Answer, Driver, Handle, Settings};

const ELEMENTS: usize = 64;
const BYTES: usize = 4 * ELEMENTS;
const IMAGE: [u8; 4] = 0xBA55_ED50_u32.to_le_bytes();
/// Numbers of mistakes of the kernel `planted_mistakes`: none, and a read of memory that was never written.
const SOUND: u32 = 0;
const UNWRITTEN: u32 = 7;

/// A driver whose context is current on this thread.
fn started() -> Driver {
    let mut driver = Driver::new(Settings {
        sms: 4,
        memory_bytes: 1 << 20,
    });
    driver.initialise(0).unwrap();
    let context = driver.retain(0).unwrap();
    driver.make_current(context).unwrap();
    exchange_mode(Mode::Global);
    driver
}

fn stream(driver: &mut Driver) -> Handle {
    const NON_BLOCKING: u32 = 1;
    driver.create_stream(NON_BLOCKING).unwrap()
}

/// [`started`], with a stream.
fn with_stream() -> (Driver, Handle) {
    let mut driver = started();
    let stream = stream(&mut driver);
    (driver, stream)
}

/// Device memory in which nothing is written.
fn memory(driver: &mut Driver) -> u64 {
    driver.allocate(BYTES).unwrap()
}

/// Device memory whose 64 elements have one value, written when the stream runs.
fn filled(driver: &mut Driver, value: f32, stream: Handle) -> u64 {
    let address = memory(driver);
    let unit = value.to_le_bytes();
    driver.fill(address, &unit, ELEMENTS, stream).unwrap();
    address
}

/// Page-locked memory for 64 elements.
fn page_locked(driver: &mut Driver) -> *mut f32 {
    driver.allocate_host(BYTES).unwrap() as *mut f32
}

fn set(memory: *mut f32, value: f32) {
    // SAFETY: of `page_locked`, and not freed.
    unsafe { std::slice::from_raw_parts_mut(memory, ELEMENTS) }.fill(value);
}

/// Copies `from`, page-locked, to the device.
fn send(driver: &mut Driver, to: u64, from: *const f32, stream: Handle) {
    // SAFETY: of `page_locked`, and not freed.
    unsafe { driver.copy_to_device(to, from.cast(), BYTES, stream) }.unwrap();
}

/// Copies the first element to `to`, when the stream runs.
fn fetch(driver: &mut Driver, to: &Cell<f32>, from: u64, stream: Handle) {
    let to = to.as_ptr().cast();
    driver.copy_to_host(to, from, 4, stream).unwrap();
}

/// The first element, after all work on the stream.
fn read(driver: &mut Driver, from: u64, stream: Handle) -> f32 {
    let number = Cell::new(0.0);
    fetch(driver, &number, from, stream);
    driver.synchronise_stream(stream).unwrap();
    number.get()
}

fn function(driver: &mut Driver) -> Handle {
    let module = driver.load(&IMAGE).unwrap();
    driver.find(module, c"planted_mistakes").unwrap()
}

const SHAPE: Shape = Shape {
    grid: [1, 1, 1],
    block: [64, 1, 1],
    shared_bytes: 512,
};

/// Parameters of `planted_mistakes`, which copies 64 elements from `x` to `y`.
fn params(x: u64, y: u64, mistake: u32) -> Vec<u8> {
    let words = [x, y, u64::from(mistake)];
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn launch(
    driver: &mut Driver,
    function: Handle,
    [x, y]: [u64; 2],
    mistake: u32,
    stream: Handle,
) -> Answer {
    driver.launch(function, SHAPE, &params(x, y, mistake), stream)
}

#[test]
fn work_runs_when_something_waits_for_it_and_no_sooner() {
    let (mut driver, stream) = with_stream();
    let (x, y) = (filled(&mut driver, 3.0, stream), memory(&mut driver));
    let copy = function(&mut driver);
    launch(&mut driver, copy, [x, y], SOUND, stream).unwrap();
    let number = Cell::new(0.0);
    fetch(&mut driver, &number, y, stream);
    assert_eq!(number.get(), 0.0);
    driver.synchronise_stream(stream).unwrap();
    assert_eq!(number.get(), 3.0);
}

#[test]
fn page_locked_memory_that_is_reused_too_early_gives_wrong_data() {
    let (mut driver, stream) = with_stream();
    let (slot, to) = (page_locked(&mut driver), memory(&mut driver));
    set(slot, 1.0);
    send(&mut driver, to, slot, stream);
    set(slot, 2.0);
    assert_eq!(read(&mut driver, to, stream), 2.0);

    let copied = driver.create_event(0).unwrap();
    set(slot, 3.0);
    send(&mut driver, to, slot, stream);
    driver.record_event(copied, stream).unwrap();
    driver.synchronise_event(copied).unwrap();
    set(slot, 4.0);
    assert_eq!(read(&mut driver, to, stream), 3.0);
}

#[test]
fn page_locked_memory_that_is_freed_too_early_is_a_fault() {
    let (mut driver, stream) = with_stream();
    let (slot, to) = (page_locked(&mut driver), memory(&mut driver));
    set(slot, 1.0);
    send(&mut driver, to, slot, stream);
    driver.free_host(slot as usize).unwrap();
    // This allocation may lie at the same address.
    page_locked(&mut driver);
    let waited = driver.synchronise_stream(stream);
    assert_eq!(waited, Err(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS));
}

#[test]
fn device_memory_is_freed_after_the_work_on_it() {
    let (mut driver, stream) = with_stream();
    let (x, y) = (filled(&mut driver, 5.0, stream), memory(&mut driver));
    let copy = function(&mut driver);
    launch(&mut driver, copy, [x, y], SOUND, stream).unwrap();
    driver.free(x).unwrap();
    assert_eq!(read(&mut driver, y, stream), 5.0);
    // Launched after it was freed.
    launch(&mut driver, copy, [x, y], SOUND, stream).unwrap();
    let waited = driver.synchronise_stream(stream);
    assert_eq!(waited, Err(CUresult::CUDA_ERROR_LAUNCH_FAILED));
}

#[test]
fn an_event_runs_its_stream_up_to_it_and_no_further() {
    let (mut driver, stream) = with_stream();
    let (x, event) = (
        filled(&mut driver, 1.0, stream),
        driver.create_event(0).unwrap(),
    );
    let (before, after) = (Cell::new(0.0), Cell::new(0.0));
    fetch(&mut driver, &before, x, stream);
    driver.record_event(event, stream).unwrap();
    fetch(&mut driver, &after, x, stream);
    driver.synchronise_event(event).unwrap();
    assert_eq!((before.get(), after.get()), (1.0, 0.0));
    driver.synchronise_context().unwrap();
    assert_eq!(after.get(), 1.0);
}

#[test]
fn streams_see_each_others_work_only_after_a_wait() {
    let mut driver = started();
    let (first, second) = (stream(&mut driver), stream(&mut driver));
    let x = filled(&mut driver, 1.0, first);
    assert!(read(&mut driver, x, second).is_nan());
    let event = driver.create_event(0).unwrap();
    driver.record_event(event, first).unwrap();
    driver.wait_event(second, event, 0).unwrap();
    assert_eq!(read(&mut driver, x, second), 1.0);
}

#[test]
fn the_default_stream_and_blocking_streams_wait_for_each_other() {
    let mut driver = started();
    let blocking = driver.create_stream(0).unwrap();
    let x = filled(&mut driver, 1.0, blocking);
    assert_eq!(read(&mut driver, x, LEGACY), 1.0);
    let y = filled(&mut driver, 2.0, LEGACY);
    assert_eq!(read(&mut driver, y, blocking), 2.0);
    let free = stream(&mut driver);
    let z = filled(&mut driver, 3.0, free);
    assert!(read(&mut driver, z, LEGACY).is_nan());
}

#[test]
fn queued_work_runs_after_its_stream_was_destroyed() {
    let (mut driver, stream) = with_stream();
    let x = filled(&mut driver, 2.0, stream);
    driver.destroy_stream(stream).unwrap();
    let gone = driver.synchronise_stream(stream);
    assert_eq!(gone, Err(CUresult::CUDA_ERROR_INVALID_HANDLE));
    driver.synchronise_context().unwrap();
    assert_eq!(read(&mut driver, x, LEGACY), 2.0);
}

#[test]
fn a_kernels_fault_fails_every_later_call() {
    let (mut driver, stream) = with_stream();
    let (x, y) = (filled(&mut driver, 1.0, stream), memory(&mut driver));
    let copy = function(&mut driver);
    launch(&mut driver, copy, [x, y], UNWRITTEN, stream).unwrap();
    // Nothing has waited for it yet.
    memory(&mut driver);
    let failed = CUresult::CUDA_ERROR_LAUNCH_FAILED;
    assert_eq!(driver.synchronise_stream(stream), Err(failed));
    assert_eq!(driver.synchronise_context(), Err(failed));
    assert_eq!(driver.allocate(BYTES), Err(failed));
    assert_eq!(
        launch(&mut driver, copy, [x, y], SOUND, stream),
        Err(failed)
    );
    // A new context does not help.
    assert_eq!(driver.release(0), Err(failed));
    assert_eq!(driver.retain(0), Err(failed));
}

#[test]
fn a_kernel_that_runs_after_its_module_was_unloaded_is_a_fault() {
    let (mut driver, stream) = with_stream();
    let (x, y) = (filled(&mut driver, 1.0, stream), memory(&mut driver));
    let module = driver.load(&IMAGE).unwrap();
    let copy = driver.find(module, c"planted_mistakes").unwrap();
    launch(&mut driver, copy, [x, y], SOUND, stream).unwrap();
    driver.unload(module).unwrap();
    let again = launch(&mut driver, copy, [x, y], SOUND, stream);
    assert_eq!(again, Err(CUresult::CUDA_ERROR_INVALID_HANDLE));
    let waited = driver.synchronise_stream(stream);
    assert_eq!(waited, Err(CUresult::CUDA_ERROR_LAUNCH_FAILED));
}

#[test]
fn a_launch_past_a_limit_is_refused() {
    let mut driver = started();
    let dynamic_shared = 8;
    let copy = function(&mut driver);
    let params = params(0, 0, SOUND);
    let invalid = Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    let shape = |driver: &mut Driver, shape| driver.launch(copy, shape, &params, LEGACY);
    let large = Shape {
        shared_bytes: SHARED_USUAL + 1,
        ..SHAPE
    };
    assert_eq!(shape(&mut driver, large), invalid);
    for refused in [
        Shape {
            grid: [1, 0, 1],
            ..SHAPE
        },
        Shape {
            grid: [1, 1, 65_536],
            ..SHAPE
        },
        Shape {
            block: [96, 1, 1],
            ..SHAPE
        },
    ] {
        assert_eq!(shape(&mut driver, refused), invalid, "{refused:?}");
    }
    let most = SHARED_MOST as i32;
    assert_eq!(driver.grant_shared(copy, dynamic_shared, most + 1), invalid);
    driver.grant_shared(copy, dynamic_shared, most).unwrap();
    assert_eq!(shape(&mut driver, large), Ok(()));
}

#[test]
fn a_launch_may_start_early_and_has_no_other_attribute() {
    let attribute = |id, number| {
        let mut value = CUlaunchAttributeValue { pad: [0; 64] };
        value.programmaticStreamSerializationAllowed = number;
        check_attributes(&[CUlaunchAttribute {
            id,
            pad: [0; 4],
            value,
        }])
    };
    let early = Launch::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    let invalid = Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!([0, 1].map(|number| attribute(early, number)), [Ok(()); 2]);
    assert_eq!(attribute(early, 2), invalid);
    let cooperative = Launch::CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
    assert_eq!(attribute(cooperative, 1), invalid);
}

#[test]
fn what_is_no_image_or_no_kernel_is_not_found() {
    let mut driver = started();
    let module = driver.load(&IMAGE).unwrap();
    let not_found = Err(CUresult::CUDA_ERROR_NOT_FOUND);
    assert_eq!(driver.find(module, c"no_such_kernel"), not_found);
    let image = driver.load(b"\x7fELF");
    assert_eq!(image, Err(CUresult::CUDA_ERROR_INVALID_IMAGE));
}

#[test]
fn handles_that_are_gone_or_of_another_kind_are_refused() {
    let mut driver = started();
    let (stream, event) = (stream(&mut driver), driver.create_event(0).unwrap());
    let gone = Err(CUresult::CUDA_ERROR_INVALID_HANDLE);
    assert_eq!(driver.synchronise_stream(event), gone);
    assert_eq!(driver.record_event(stream, stream), gone);
    driver.destroy_event(event).unwrap();
    assert_eq!(driver.destroy_event(event), gone);
    driver.destroy_stream(stream).unwrap();
    assert_eq!(driver.destroy_stream(stream), gone);

    let invalid = Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    let x = memory(&mut driver);
    assert_eq!(driver.fill(x + 1, &[0], BYTES, LEGACY), invalid);
    assert_eq!(driver.free(x + 256), invalid);
    driver.free(x).unwrap();
    assert_eq!(driver.free(x), invalid);
    let slot = page_locked(&mut driver) as usize;
    driver.free_host(slot).unwrap();
    assert_eq!(driver.free_host(slot), invalid);
}

#[test]
fn memory_ends_where_it_was_said_to_end() {
    let mut driver = started();
    let exhausted = Err(CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    assert_eq!(driver.allocate((1 << 20) + 1), exhausted);
    let most = driver.allocate(1 << 20).unwrap();
    assert_eq!(driver.allocate(1), exhausted);
    driver.free(most).unwrap();
    assert!(driver.allocate(1).is_ok());
}

#[test]
fn each_thread_needs_the_context_for_itself() {
    let mut driver = started();
    let (context, refused) = (driver.context, Err(CUresult::CUDA_ERROR_INVALID_CONTEXT));
    let driver = &mut driver;
    thread::scope(|scope| {
        scope.spawn(move || {
            assert_eq!(driver.allocate(BYTES), refused);
            driver.make_current(context).unwrap();
            assert!(driver.allocate(BYTES).is_ok());
        });
    });
}

/// Calls that may wait for the device, or do what no graph repeats.
const UNSAFE: [fn(&mut Driver, Handle) -> Answer; 6] = [
    |driver, _| driver.allocate(BYTES).map(|_| ()),
    |driver, _| driver.allocate_host(BYTES).map(|_| ()),
    |driver, _| driver.load(&IMAGE).map(|_| ()),
    |driver, _| driver.synchronise_context(),
    |driver, _| driver.synchronise_stream(LEGACY),
    |driver, _| {
        let event = driver.create_event(0)?;
        driver.synchronise_event(event)
    },
];
/// Calls that wait for the captured stream itself.
const CONTRARY: [fn(&mut Driver, Handle) -> Answer; 2] = [
    |driver, stream| driver.synchronise_stream(stream),
    |driver, stream| {
        let event = driver.create_event(0)?;
        driver.record_event(event, stream)?;
        match driver.synchronise_event(event) {
            Err(CUresult::CUDA_ERROR_CAPTURED_EVENT) => {
                Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)
            }
            other => other,
        }
    },
];

/// The outcomes of a call during a capture and of the capture's end.
fn during(call: fn(&mut Driver, Handle) -> Answer, captured: Mode, heeds: Mode) -> [Answer; 2] {
    let (mut driver, stream) = with_stream();
    driver.begin_capture(stream, captured).unwrap();
    exchange_mode(heeds);
    let called = call(&mut driver, stream);
    exchange_mode(Mode::Global);
    [called, driver.end_capture(stream).map(|_| ())]
}

#[test]
fn an_unsafe_call_invalidates_a_capture_unless_one_is_relaxed() {
    use Mode::{Global, Relaxed, ThreadLocal};
    let refused = [
        Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED),
        Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED),
    ];
    for call in UNSAFE {
        for captured in [Global, ThreadLocal] {
            assert_eq!(during(call, captured, Global), refused);
            assert_eq!(during(call, captured, ThreadLocal), refused);
            assert_eq!(during(call, captured, Relaxed), [Ok(()); 2]);
        }
        assert_eq!(during(call, Relaxed, Global), [Ok(()); 2]);
    }
    for call in CONTRARY {
        assert_eq!(during(call, ThreadLocal, Relaxed), refused);
        assert_eq!(during(call, Relaxed, Relaxed), refused);
    }
}

#[test]
fn another_threads_capture_matters_only_if_it_is_global() {
    for (captured, allowed) in [(Mode::Global, false), (Mode::ThreadLocal, true)] {
        let (mut driver, stream) = with_stream();
        driver.begin_capture(stream, captured).unwrap();
        let shared = &mut driver;
        thread::scope(|scope| {
            scope.spawn(move || {
                shared.make_current(shared.context).unwrap();
                assert_eq!(shared.allocate(BYTES).is_ok(), allowed);
                let ended = shared.end_capture(stream);
                assert_eq!(ended, Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD));
            });
        });
        assert_eq!(driver.end_capture(stream).is_ok(), allowed);
    }
}

#[test]
fn a_capture_takes_no_dependency_from_outside() {
    let mut driver = started();
    let (captured, other) = (driver.create_stream(0).unwrap(), stream(&mut driver));
    let event = driver.create_event(0).unwrap();
    driver.record_event(event, other).unwrap();
    driver.begin_capture(captured, Mode::ThreadLocal).unwrap();
    let waited = driver.wait_event(captured, event, 0);
    assert_eq!(waited, Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION));
    let ended = driver.end_capture(captured);
    assert_eq!(ended, Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED));

    // The default stream would wait for the captured one.
    let x = memory(&mut driver);
    driver.begin_capture(captured, Mode::ThreadLocal).unwrap();
    let put = driver.fill(x, &[0], BYTES, LEGACY);
    assert_eq!(put, Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT));
    assert_eq!(driver.capture_status(captured), Ok(2));
    assert!(driver.end_capture(captured).is_err());
    assert_eq!(driver.capture_status(captured), Ok(0));
}

#[test]
fn a_graph_keeps_parameters_and_reads_page_locked_memory() {
    let (mut driver, stream) = with_stream();
    let (x, y) = (memory(&mut driver), memory(&mut driver));
    let (slot, copy) = (page_locked(&mut driver), function(&mut driver));
    let mut params = params(x, y, SOUND);
    set(slot, 1.0);
    driver.begin_capture(stream, Mode::ThreadLocal).unwrap();
    send(&mut driver, x, slot, stream);
    driver.launch(copy, SHAPE, &params, stream).unwrap();
    params.fill(0xff);
    let graph = driver.end_capture(stream).unwrap();
    let graph = driver.instantiate(graph, 0).unwrap();
    driver.synchronise_stream(stream).unwrap();
    assert!(
        read(&mut driver, y, stream).is_nan(),
        "a capture runs nothing"
    );
    for number in [1.0, 2.0] {
        set(slot, number);
        driver.launch_graph(graph, stream).unwrap();
        assert_eq!(read(&mut driver, y, stream), number);
    }
}

#[test]
fn ordinary_memory_is_not_captured() {
    let (mut driver, stream) = with_stream();
    let x = memory(&mut driver);
    driver.begin_capture(stream, Mode::ThreadLocal).unwrap();
    let elements = [1.0f32; ELEMENTS];
    // SAFETY: the elements live through the call.
    let sent = unsafe { driver.copy_to_device(x, elements.as_ptr().cast(), BYTES, stream) };
    assert_eq!(sent, Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED));
    let ended = driver.end_capture(stream);
    assert_eq!(ended, Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED));
}

#[test]
fn a_context_that_ends_says_what_was_not_freed() {
    let (mut driver, stream) = with_stream();
    let x = memory(&mut driver);
    let left = driver.contents.left_behind();
    assert_eq!(
        left.as_deref(),
        Some("1 allocations on the device, 1 streams")
    );
    driver.free(x).unwrap();
    driver.destroy_stream(stream).unwrap();
    assert_eq!(driver.contents.left_behind(), None);
}

/// The crate looks up all functions that it calls, itself or through its bindings, before the first call: the library
/// has no others.
#[test]
fn the_crate_looks_for_every_function_that_is_here() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
    let looked_for = include_str!("../../../../src/cuda/probe.rs");
    let mut found = BTreeSet::new();
    let entries = std::fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    for path in paths.filter(|path| path.is_file()) {
        let text = std::fs::read_to_string(path).unwrap();
        for line in text.lines() {
            // A definition, or a line of `functions!`.
            let (_, start) = line
                .split_once("extern \"C\" fn ")
                .unwrap_or(("", line.trim()));
            let name = start.split('(').next().unwrap_or_default();
            if start.contains('(') && name.starts_with("cu") {
                assert!(looked_for.contains(&format!("\"{name}\"")), "{name}");
                found.insert(name.to_owned());
            }
        }
    }
    assert!(found.len() > 40, "{found:?}");
}
