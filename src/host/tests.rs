//! The runner itself: kernels with planted mistakes (`kernels/host/planted`) fail under every schedule
//! and order of threads, with a report that names the place; their sound twins pass.

use std::ops::Range;

use approx::{abs_diff_eq, assert_abs_diff_eq};

use super::device::{HostBuffer, HostDevice, Schedule};
use crate::device::{Arithmetic, BoxedMatrix, Device, Launch};
use crate::error::Error;

const SCHEDULES: [Schedule; 3] = [Schedule::Late, Schedule::Early, Schedule::Mixed];
const SEEDS: Range<u64> = 0..16;

/// Every schedule and seed.
fn orders() -> impl Iterator<Item = (Schedule, u64)> {
    SCHEDULES
        .into_iter()
        .flat_map(|schedule| SEEDS.map(move |seed| (schedule, seed)))
}

/// A source with a planted mistake.
struct Source {
    file: &'static str,
    text: &'static str,
}

macro_rules! planted {
    ($file:literal) => {
        Source {
            file: concat!("kernels/host/planted/", $file),
            text: include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/kernels/host/planted/",
                $file
            )),
        }
    };
}

impl Source {
    /// `file:line` of the one line that ends with the comment `marker`.
    fn place(&self, marker: &str) -> String {
        let comment = format!("// {marker}");
        let mut lines = (1..).zip(self.text.lines());
        let (line, _) = lines
            .find(|(_, line)| line.ends_with(&comment))
            .expect("the source has the marker");
        assert!(lines.all(|(_, line)| !line.ends_with(&comment)), "once");
        format!("{}:{line}", self.file)
    }
}

/// A kernel on x, a vector, that makes y of it.
#[derive(Clone)]
struct Vectors {
    kernel: &'static str,
    blocks: u32,
    threads: u32,
    shared_bytes: u32,
    x: Vec<f32>,
    /// Where x is given as a map of rows of 32 numbers: the rows of a box.
    box_rows: Option<u32>,
    y: usize,
    /// The third parameter, of the kernels that have one.
    count: Option<u32>,
}

impl Vectors {
    fn named(&self, kernel: &'static str) -> Self {
        Self {
            kernel,
            ..self.clone()
        }
    }

    /// y, under a schedule and a seed.
    fn run(&self, schedule: Schedule, seed: u64) -> Result<Vec<f32>, Error> {
        let device = HostDevice::new(schedule, seed, 1);
        let x = written(&device, &self.x);
        let y = device.allocate(4 * self.y)?;
        // Words of 8 bytes, as the structures' pointers have them.
        let address = HostDevice::address(&x);
        let mut params = match self.box_rows {
            None => vec![address],
            Some(box_rows) => {
                let map = device.tensor_map(&BoxedMatrix {
                    address,
                    rows: self.x.len() / 32,
                    row_bytes: 128,
                    stride: 128,
                    numbers: Arithmetic::F32,
                    box_rows,
                })?;
                map.words.to_vec()
            }
        };
        params.push(HostDevice::address(&y));
        params.extend(self.count.map(|count| bytemuck::cast::<_, u64>([count, 0])));
        if self.box_rows.is_some() {
            params.resize(params.len().next_multiple_of(8), 0);
        }
        device.launch(&Launch {
            kernel: self.kernel,
            grid: [self.blocks, 1, 1],
            threads: self.threads,
            shared_bytes: self.shared_bytes,
            params: bytemuck::cast_slice(&params),
        })?;
        let mut numbers = vec![0.0f32; self.y];
        device.read(
            HostDevice::address(&y),
            bytemuck::cast_slice_mut(&mut numbers),
        )?;
        Ok(numbers)
    }

    /// The reason of the fault that the run ends with.
    fn fault(&self, schedule: Schedule, seed: u64) -> String {
        match self.run(schedule, seed) {
            Err(Error::Kernel { kernel, reason }) => {
                assert_eq!(kernel, self.kernel);
                reason
            }
            other => panic!("{}, {schedule:?}, seed {seed}: {other:?}", self.kernel),
        }
    }

    /// Fails in every order; each report names kernel, block, thread and `place`, and has one of
    /// `symptoms`.
    fn always_fails(&self, place: &str, symptoms: &[&str]) {
        for (schedule, seed) in orders() {
            let reason = self.fault(schedule, seed);
            let context = format!("{schedule:?}, seed {seed}: {reason}");
            let start = format!("{}, block (", self.kernel);
            assert!(reason.starts_with(&start), "{context}");
            assert!(reason.contains("thread "), "{context}");
            let mut places = reason
                .match_indices(place)
                .map(|(at, _)| &reason[at + place.len()..]);
            // Line 4 is not line 40.
            assert!(
                places.any(|rest| !rest.starts_with(|c: char| c.is_ascii_digit())),
                "not at {place}: {context}"
            );
            assert!(symptoms.iter().any(|s| reason.contains(s)), "{context}");
        }
    }

    /// Makes the same y in every order.
    fn always_gives(&self, y: &[f32]) {
        for (schedule, seed) in orders() {
            let context = format!("{}, {schedule:?}, seed {seed}", self.kernel);
            match self.run(schedule, seed) {
                Ok(numbers) => assert_eq!(numbers, y, "{context}"),
                Err(error) => panic!("{context}: {error}"),
            }
        }
    }
}

fn written(device: &HostDevice, numbers: &[f32]) -> HostBuffer {
    let buffer = device.allocate(4 * numbers.len()).unwrap();
    let address = HostDevice::address(&buffer);
    device
        .write(address, bytemuck::cast_slice(numbers))
        .unwrap();
    buffer
}

/// 1, 2, 3, …: sums of them are exact.
fn counting(count: usize) -> Vec<f32> {
    (1..=count).map(|i| i as f32).collect()
}

/// Each chunk of `length` numbers backwards.
fn reversed(x: &[f32], length: usize) -> Vec<f32> {
    x.chunks(length)
        .flat_map(|chunk| chunk.iter().rev().copied())
        .collect()
}

// ---- Planted mistakes

#[test]
fn a_missing_barrier_is_a_fault_in_every_order() {
    let sound = Vectors {
        kernel: "planted_missing_barrier_sound",
        blocks: 3,
        threads: 128,
        shared_bytes: 512,
        x: counting(300),
        box_rows: None,
        y: 3,
        count: Some(300),
    };
    let sums: Vec<f32> = sound.x.chunks(128).map(|x| x.iter().sum()).collect();
    sound.always_gives(&sums);
    let place = planted!("missing_barrier.cu").place("planted");
    sound
        .named("planted_missing_barrier")
        .always_fails(&place, &["never been written", "with no barrier after"]);
}

#[test]
fn a_missing_wait_for_cp_async_is_a_fault_under_every_schedule() {
    let sound = Vectors {
        kernel: "planted_missing_wait_sound",
        blocks: 2,
        threads: 64,
        shared_bytes: 1024,
        x: counting(508),
        box_rows: None,
        y: 512,
        count: Some(508),
    };
    // What lies past the vector is zero.
    let mut padded = sound.x.clone();
    padded.resize(512, 0.0);
    sound.always_gives(&reversed(&padded, 256));
    let place = planted!("missing_wait.cu").place("planted");
    sound
        .named("planted_missing_wait")
        .always_fails(&place, &["has not been waited for"]);
}

fn tail(kernel: &'static str, count: usize) -> Vectors {
    Vectors {
        kernel,
        blocks: (count as u32).div_ceil(128),
        threads: 128,
        shared_bytes: 0,
        x: counting(count),
        box_rows: None,
        y: count,
        count: Some(count as u32),
    }
}

#[test]
fn one_element_past_the_tail_is_a_fault_of_the_thread_that_reaches_for_it() {
    let doubled: Vec<f32> = counting(1000).iter().map(|x| 2.0 * x).collect();
    let source = planted!("tail.cu");
    let cases = [
        ("planted_tail_read", "planted", "reads 4 bytes"),
        ("planted_tail_write", "planted write", "writes 4 bytes"),
    ];
    for (kernel, marker, symptom) in cases {
        let place = source.place(marker);
        tail(kernel, 1000).always_fails(&place, &[symptom]);
        let reason = tail(kernel, 1000).fault(Schedule::Late, 0);
        let expected = format!("{kernel}, block (7, 0, 0), thread 104, {place}: {symptom}");
        assert!(reason.starts_with(&expected), "{reason}");
        assert!(
            reason.contains("past the end of an allocation of 4000 bytes"),
            "{reason}"
        );
        // Where the length is a multiple of the block, the mistake cannot show.
        tail(kernel, 1024).run(Schedule::Late, 0).unwrap();
    }
    tail("planted_tail_read_sound", 1000).always_gives(&doubled);
    tail("planted_tail_write_sound", 1000).always_gives(&doubled);
}

#[test]
fn two_swizzles_that_disagree_are_a_fault_in_every_order() {
    let sound = Vectors {
        kernel: "planted_wrong_swizzle_sound",
        blocks: 1,
        threads: 128,
        shared_bytes: 32 * 128,
        x: counting(512),
        box_rows: None,
        y: 512,
        count: None,
    };
    let turned: Vec<f32> = sound.x.chunks(16).rev().flatten().copied().collect();
    sound.always_gives(&turned);
    let place = planted!("wrong_swizzle.cu").place("planted");
    sound
        .named("planted_wrong_swizzle")
        .always_fails(&place, &["never been written"]);
}

#[test]
fn an_arrival_too_many_is_a_fault_in_every_order() {
    let sound = Vectors {
        kernel: "planted_extra_arrival_sound",
        blocks: 2,
        threads: 128,
        shared_bytes: 512 + 8,
        x: counting(256),
        box_rows: Some(4),
        y: 256,
        count: None,
    };
    sound.always_gives(&reversed(&sound.x, 128));
    let place = planted!("extra_arrival.cu").place("planted");
    // Before the bytes have come, at once; after, when the block ends within the phase it started.
    let symptoms = ["more arrivals than the 4", "1 of 4 arrivals"];
    sound
        .named("planted_extra_arrival")
        .always_fails(&place, &symptoms);
    let late = sound
        .named("planted_extra_arrival")
        .fault(Schedule::Late, 0);
    assert!(late.contains(symptoms[0]), "{late}");
    let early = sound
        .named("planted_extra_arrival")
        .fault(Schedule::Early, 0);
    assert!(early.contains(symptoms[1]), "{early}");
}

fn pipeline(kernel: &'static str) -> Vectors {
    Vectors {
        kernel,
        blocks: 1,
        threads: 256,
        shared_bytes: 3 * 1024 + 6 * 8,
        x: counting(256 * 11),
        box_rows: Some(8),
        y: 256,
        count: Some(11),
    }
}

#[test]
fn a_ring_of_copies_gives_the_same_in_every_order() {
    let mut sums = vec![0.0; 256];
    for tile in pipeline("").x.chunks(256) {
        for (sum, x) in sums.iter_mut().zip(tile.iter().rev()) {
            *sum += x;
        }
    }
    pipeline("planted_pipeline_sound").always_gives(&sums);
}

#[test]
fn a_transaction_count_too_large_is_a_deadlock_that_says_what_is_missing() {
    let place = planted!("pipeline.cu").place("planted transaction");
    pipeline("planted_large_transaction")
        .always_fails(&place, &["1 of 1 arrivals, 16 transaction bytes missing"]);
    let reason = pipeline("planted_large_transaction").fault(Schedule::Late, 0);
    assert!(reason.contains("deadlock"), "{reason}");
    assert!(
        reason.contains("mbarrier_wait") && reason.contains("the mbarrier at byte 3072, phase 0"),
        "{reason}"
    );
}

#[test]
fn a_stage_read_without_waiting_for_its_bytes_is_a_fault_under_every_schedule() {
    let place = planted!("pipeline.cu").place("planted read");
    let fails = pipeline("planted_missing_full_wait");
    fails.always_fails(
        &place,
        &[
            "has not been waited for",
            "with no wait after the bulk copy",
        ],
    );
    // A copy that has in fact been made is no excuse.
    let early = fails.fault(Schedule::Early, 0);
    assert!(
        early.contains("with no wait after the bulk copy"),
        "{early}"
    );
}

#[test]
fn an_arrival_before_the_write_orders_nothing() {
    let sound = Vectors {
        kernel: "planted_early_arrival_sound",
        blocks: 1,
        threads: 64,
        shared_bytes: 16 + 128,
        x: counting(32),
        box_rows: None,
        y: 32,
        count: None,
    };
    sound.always_gives(&reversed(&sound.x, 32));
    let place = planted!("early_arrival.cu").place("planted");
    sound
        .named("planted_early_arrival")
        .always_fails(&place, &["with no barrier after thread"]);
}

// Behind the macro, which it uses.
mod launches;

// ---- What the runner refuses

fn mistake(number: u32) -> Vectors {
    Vectors {
        kernel: "planted_mistakes",
        blocks: 1,
        threads: 64,
        shared_bytes: 512,
        x: counting(64),
        box_rows: None,
        y: 64,
        count: Some(number),
    }
}

#[test]
fn every_mistake_is_reported_where_it_is_made() {
    let source = planted!("mistakes.cu");
    let cases: [(u32, &[&str]); 18] = [
        (1, &["shared address 2 is not a multiple of 4"]),
        (
            2,
            &["shared address 512 + 4 lies outside the block's 512 bytes"],
        ),
        (3, &["is read but has never been written"]),
        (
            4,
            &["shared memory at byte 0 is written with no barrier after thread"],
        ),
        (5, &["divergent warp: this thread is in shuffle, thread"]),
        (
            6,
            &["deadlock: thread 0 and following wait in block_barrier"],
        ),
        (7, &["reads global memory that has never been written"]),
        (
            8,
            &["reads 4 bytes of global memory that are not allocated"],
        ),
        (9, &["a global address is not a multiple of the 4 bytes"]),
        (10, &["there is no initialised mbarrier at byte 256"]),
        (11, &["has not been waited for", "has not committed"]),
        (
            12,
            &[
                "is read with no barrier after thread 63 wrote it",
                "is written with no barrier after",
            ],
        ),
        (
            13,
            &["warp 0 arrives twice at the same turn of named barrier 1"],
        ),
        (
            14,
            &["the block ends with 32 of 64 arrivals at a named barrier"],
        ),
        (
            16,
            &["a transaction count of 1048576 bytes is beyond the 1048575"],
        ),
        (17, &["byte 260 is written but holds an mbarrier"]),
        (18, &["byte 256 is written but holds an mbarrier"]),
        (
            19,
            &[
                "there is no initialised mbarrier at byte 264",
                "is used with no barrier after thread 0 initialised it",
            ],
        ),
    ];
    for (number, symptoms) in cases {
        let place = source.place(&format!("planted {number}"));
        mistake(number).always_fails(&place, symptoms);
    }
    mistake(0).always_gives(&counting(64));
}

#[test]
fn a_copy_that_nobody_waits_for_is_a_fault_where_it_comes_late() {
    let place = planted!("pipeline.cu").place("planted copy");
    let more = pipeline("planted_copy_too_many");
    for seed in SEEDS {
        let reason = more.fault(Schedule::Late, seed);
        let expected = format!("issued by thread 0 at {place}, is under way");
        assert!(reason.contains(&expected), "{reason}");
    }
    // Where it has completed there is nothing to see.
    more.run(Schedule::Early, 0).unwrap();
}

#[test]
fn a_deadlock_says_who_waits_and_how_many_have_ended() {
    let reason = mistake(6).fault(Schedule::Late, 0);
    assert!(reason.ends_with("; 32 threads have ended"), "{reason}");
}

#[test]
fn a_launch_that_does_not_fit_the_kernel_is_refused() {
    let refused = |launch: Vectors, expected: &str| {
        let reason = launch.fault(Schedule::Late, 0);
        assert_eq!(reason, expected);
    };
    let fits = mistake(0);
    fits.run(Schedule::Late, 0).unwrap();
    refused(fits.named("nothing"), "there is no kernel nothing");
    refused(
        Vectors {
            threads: 32,
            ..fits.clone()
        },
        "planted_mistakes has blocks of 64 threads, not 32",
    );
    refused(
        Vectors {
            count: None,
            ..fits.clone()
        },
        "planted_mistakes takes 24 bytes of parameters, not 16",
    );
    refused(
        Vectors {
            blocks: 0,
            ..fits.clone()
        },
        "planted_mistakes: the grid is empty",
    );
    refused(
        Vectors {
            shared_bytes: 228 << 10,
            ..fits
        },
        "planted_mistakes: a block has at most 232448 bytes of shared memory, whole words",
    );
}

#[test]
fn the_seed_decides_the_order_and_nothing_else_does() {
    let last_writer = |seed| {
        let launch = Vectors {
            blocks: 5,
            y: 1,
            ..mistake(0).named("planted_last_writer")
        };
        launch.run(Schedule::Late, seed).unwrap()[0]
    };
    let of_seeds: Vec<f32> = (0..32).map(last_writer).collect();
    assert_eq!(of_seeds, (0..32).map(last_writer).collect::<Vec<_>>());
    let mut blocks: Vec<u32> = of_seeds.iter().map(|&i| i as u32 / 64).collect();
    let mut threads: Vec<u32> = of_seeds.iter().map(|&i| i as u32 % 64).collect();
    for order in [&mut blocks, &mut threads] {
        order.sort_unstable();
        order.dedup();
    }
    assert_eq!(blocks, [0, 1, 2, 3, 4], "every block is last for some seed");
    assert!(threads.len() > 8, "many threads are: {threads:?}");
}

#[test]
fn memory_outside_an_allocation_is_neither_read_nor_written() {
    let device = HostDevice::new(Schedule::Late, 0, 1);
    let buffer = written(&device, &[1.0, 2.0]);
    let address = HostDevice::address(&buffer);
    let mut three = [0u8; 12];
    assert!(device.read(address, &mut three).is_err());
    assert!(device.write(address, &three).is_err());
    assert!(device.read(address, &mut three[..8]).is_ok());
    assert_eq!(bytemuck::cast_slice::<_, f32>(&three[..8]), [1.0, 2.0]);
}

#[test]
fn the_polynomial_is_as_accurate_as_the_special_function_unit() {
    let numbers: Vec<f32> = (-126_000..=127_000).map(|i| i as f32 * 1e-3).collect();
    let special = [f32::NEG_INFINITY, -1e30, -128.0, -126.6, f32::NAN, 0.0];
    let mut x = numbers.clone();
    x.extend(special);
    x.resize(x.len().next_multiple_of(128), 0.0);
    let launch = Vectors {
        kernel: "exp2_polynomial_of",
        blocks: (x.len() / 128) as u32,
        threads: 128,
        shared_bytes: 0,
        box_rows: None,
        y: x.len(),
        x,
        count: None,
    };
    let y = launch.run(Schedule::Late, 0).unwrap();
    for (x, y) in numbers.iter().zip(&y) {
        let share = f64::from(*y) / f64::from(*x).exp2();
        assert!(abs_diff_eq!(share, 1.0, epsilon = 2.2e-7), "2^{x}: {y}");
    }
    let of_special = &y[numbers.len()..numbers.len() + special.len()];
    assert_eq!(of_special[..4], [0.0; 4]);
    assert!(of_special[4].is_nan());
    assert_abs_diff_eq!(of_special[5], 1.0, epsilon = 2.2e-7);
}
