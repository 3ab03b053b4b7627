//! Planted mistakes in kernels that compute a vector y from a vector x.

use super::*;

/// A launch of a kernel that computes y from x.
#[derive(Clone)]
pub(super) struct Vectors {
    pub kernel: &'static str,
    /// Blocks, threads of each, and bytes of shared memory.
    pub sizes: [u32; 3],
    pub x: Vec<f32>,
    /// Rows of a box, where x is given as a map of rows of 32 elements.
    pub box_rows: Option<usize>,
    /// Elements of y.
    pub y: usize,
    /// The third parameter, of the kernels that have one.
    pub count: Option<u32>,
}

impl Vectors {
    /// With y as long as x, and that length as the third parameter.
    pub fn new(kernel: &'static str, sizes: [u32; 3], x: Vec<f32>) -> Self {
        Self {
            kernel,
            sizes,
            y: x.len(),
            count: Some(x.len() as u32),
            x,
            box_rows: None,
        }
    }

    pub fn named(&self, kernel: &'static str) -> Self {
        Self {
            kernel,
            ..self.clone()
        }
    }

    /// y under an order.
    pub fn run(&self, order: Order) -> Result<Vec<f32>, Error> {
        let memory = memory(order);
        let (x, y) = (memory.upload(&self.x)?, memory.unwritten(4 * self.y)?);
        let (mut maps, mut words) = (Vec::new(), Vec::new());
        match self.box_rows {
            None => words.push(x),
            Some(box_rows) => {
                let extent = [self.x.len() / 32, 128, 128];
                maps.push(boxes(&memory, x, extent, DTYPE_F32, box_rows)?);
            }
        }
        words.push(y);
        words.extend(self.count.map(u64::from));
        launch(&memory, self.kernel, self.sizes, &maps, &words)?;
        memory.read(y, self.y)
    }

    /// The reason of the fault that the run ends with.
    pub fn fault(&self, order: Order) -> String {
        fault(self.kernel, order, self.run(order))
    }

    /// Fails in every order; the report names the thread and `place`, and has one of `symptoms`.
    fn always_fails(&self, place: &str, symptoms: &[&str]) {
        let texts = [&["thread "], &[place], symptoms];
        always_fails(self.kernel, &texts, |order| self.run(order));
    }

    /// Computes this y in every order.
    fn always_gives(&self, y: &[f32]) {
        for order in orders() {
            let what = format!("{}, {order:?}", self.kernel);
            let found = self.run(order);
            assert_same(&found.expect(&what), y, &what);
        }
    }
}

/// 1, 2, 3, …: sums of them are exact.
pub(super) fn counting(count: usize) -> Vec<f32> {
    (1..=count).map(|i| i as f32).collect()
}

fn doubled(x: &[f32]) -> Vec<f32> {
    x.iter().map(|x| 2.0 * x).collect()
}

/// Each chunk of `length` elements backwards.
fn reversed(x: &[f32], length: usize) -> Vec<f32> {
    let chunks = x.chunks(length).map(|chunk| chunk.iter().rev().copied());
    chunks.flatten().collect()
}

/// The sound kernel computes y; its twin, without `_sound` in the name, fails where vectors.cu is marked by `name`.
fn is_found(name: &'static str, sound: &Vectors, y: &[f32], symptoms: &[&str]) {
    sound.always_gives(y);
    let place = place("vectors.cu", name);
    let kernel = sound.kernel.trim_end_matches("_sound");
    sound.named(kernel).always_fails(&place, symptoms);
}

#[test]
fn a_missing_barrier_is_a_fault_in_every_order() {
    let sound = Vectors {
        y: 3,
        ..Vectors::new(
            "planted_missing_barrier_sound",
            [3, 128, 512],
            counting(300),
        )
    };
    let sums: Vec<f32> = sound.x.chunks(128).map(|x| x.iter().sum()).collect();
    let symptoms = ["never been written", "with no barrier after"];
    is_found("missing_barrier", &sound, &sums, &symptoms);
}

#[test]
fn a_missing_wait_for_cp_async_is_a_fault_under_every_schedule() {
    let sound = Vectors {
        y: 512,
        ..Vectors::new("planted_missing_wait_sound", [2, 64, 1024], counting(508))
    };
    // Elements past the vector are zero.
    let padded = [&sound.x[..], &[0.0; 4]].concat();
    let symptoms = ["has not been waited for"];
    is_found("missing_wait", &sound, &reversed(&padded, 256), &symptoms);
}

#[test]
fn two_swizzles_that_disagree_are_a_fault_in_every_order() {
    let sizes = [1, 128, 32 * 128];
    let sound = Vectors::new("planted_wrong_swizzle_sound", sizes, counting(512));
    let reordered: Vec<&[f32]> = sound.x.chunks(16).rev().collect();
    let symptoms = ["never been written"];
    is_found("wrong_swizzle", &sound, &reordered.concat(), &symptoms);
}

#[test]
fn an_arrival_before_the_write_orders_nothing() {
    let sizes = [1, 64, 16 + 128];
    let sound = Vectors::new("planted_early_arrival_sound", sizes, counting(32));
    let symptoms = ["with no barrier after thread"];
    is_found("early_arrival", &sound, &reversed(&sound.x, 32), &symptoms);
}

#[test]
fn an_arrival_too_many_is_a_fault_in_every_order() {
    let sound = Vectors {
        box_rows: Some(4),
        ..Vectors::new(
            "planted_extra_arrival_sound",
            [2, 128, 512 + 8],
            counting(256),
        )
    };
    // Before the bytes have come, at once; after, when the block ends within the phase it started.
    let symptoms = ["more arrivals than the 4", "1 of 4 arrivals"];
    is_found("extra_arrival", &sound, &reversed(&sound.x, 128), &symptoms);
    let planted = sound.named("planted_extra_arrival");
    for (schedule, symptom) in [Schedule::Late, Schedule::Early].into_iter().zip(symptoms) {
        let reason = planted.fault((schedule, 0));
        assert!(reason.contains(symptom), "{reason}");
    }
}

#[test]
fn an_access_past_the_tail_is_a_fault_of_its_thread() {
    let tail = |kernel, count: usize| {
        let sizes = [count.div_ceil(128) as u32, 128, 0];
        Vectors::new(kernel, sizes, counting(count))
    };
    for (name, kernel, sound, symptom) in [
        (
            "tail_read",
            "planted_tail_read",
            "planted_tail_read_sound",
            "reads 4 bytes",
        ),
        (
            "tail_write",
            "planted_tail_write",
            "planted_tail_write_sound",
            "writes 4 bytes",
        ),
    ] {
        let sound = tail(sound, 1000);
        is_found(name, &sound, &doubled(&sound.x), &[symptom]);
        let place = place("vectors.cu", name);
        let reason = tail(kernel, 1000).fault((Schedule::Late, 0));
        let expected = format!("{kernel}, block (7, 0, 0), thread 104, {place}: {symptom}");
        assert!(reason.starts_with(&expected), "{reason}");
        let expected = "past the end of an allocation of 4000 bytes";
        assert!(reason.contains(expected), "{reason}");
        // The mistake cannot show where the length is a multiple of the block.
        tail(kernel, 1024).run((Schedule::Late, 0)).unwrap();
    }
}

fn pipeline(kernel: &'static str) -> Vectors {
    Vectors {
        box_rows: Some(8),
        y: 256,
        count: Some(11),
        ..Vectors::new(kernel, [1, 256, 3 * 1024 + 6 * 8], counting(256 * 11))
    }
}

#[test]
fn a_ring_of_copies_gives_the_same_in_every_order() {
    let ring = pipeline("planted_pipeline_sound");
    let sum = |i: usize| ring.x.chunks(256).map(|tile| tile[255 - i]).sum();
    let sums: Vec<f32> = (0..256).map(sum).collect();
    ring.always_gives(&sums);
}

#[test]
fn too_large_a_transaction_count_is_a_deadlock() {
    let planted = pipeline("planted_large_transaction");
    let place = place("pipeline.cu", "planted transaction");
    planted.always_fails(&place, &["1 of 1 arrivals, 16 transaction bytes missing"]);
    let reason = planted.fault((Schedule::Late, 0));
    for text in [
        "deadlock",
        "mbarrier_wait",
        "the mbarrier at byte 3072, phase 0",
    ] {
        assert!(reason.contains(text), "{reason}");
    }
}

#[test]
fn a_stage_read_without_a_wait_is_always_a_fault() {
    let planted = pipeline("planted_missing_full_wait");
    let place = place("pipeline.cu", "planted read");
    let early = "with no wait after the bulk copy";
    planted.always_fails(&place, &["has not been waited for", early]);
    // Also where the copy has completed.
    let reason = planted.fault((Schedule::Early, 0));
    assert!(reason.contains(early), "{reason}");
}

#[test]
fn a_copy_that_nobody_waits_for_is_a_fault_where_it_comes_late() {
    let more = pipeline("planted_copy_too_many");
    let place = place("pipeline.cu", "planted copy");
    let expected = format!("issued by thread 0 at {place}, is under way");
    for (schedule, seed) in orders().filter(|(schedule, _)| *schedule == Schedule::Late) {
        let reason = more.fault((schedule, seed));
        assert!(reason.contains(&expected), "{reason}");
    }
    // Nothing shows where it has completed.
    more.run((Schedule::Early, 0)).unwrap();
}

/// Kernels that touch global memory, or end, before they wait for the launches before.
#[test]
fn global_memory_touched_before_the_wait_is_a_fault() {
    let sound = Vectors::new("planted_launch_sound", [2, 64, 1024], counting(100));
    let of_box = Vectors {
        box_rows: Some(2),
        ..Vectors::new("planted_launch_box_sound", [1, 64, 256 + 8], counting(64))
    };
    for sound in [&sound, &of_box] {
        sound.always_gives(&doubled(&sound.x));
    }
    for (sound, kernel, marker) in [
        (&sound, "planted_launch_load", "planted load"),
        (&sound, "planted_launch_store", "planted store"),
        (&sound, "planted_launch_copy", "planted copy"),
        (&of_box, "planted_launch_box", "planted box"),
        (&of_box, "planted_launch_box_store", "planted box store"),
    ] {
        let symptom = "global memory is accessed with no wait_for_launches_before";
        let place = place("launches.cu", marker);
        sound.named(kernel).always_fails(&place, &[symptom]);
    }
    let symptom = "at its end: the thread ends with no wait_for_launches_before";
    let leaves = sound.named("planted_launch_leaves");
    leaves.always_fails("block (1, 0, 0)", &[symptom]);
}

/// `planted_mistakes` with one of them; 0 is sound.
pub(super) fn mistake(number: u32) -> Vectors {
    Vectors {
        count: Some(number),
        ..Vectors::new("planted_mistakes", [1, 64, 512], counting(64))
    }
}

#[test]
fn every_mistake_is_reported_where_it_is_made() {
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
            &["warp 0 arrives twice in the same phase of named barrier 1"],
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
    mistake(0).always_gives(&counting(64));
    for (number, symptoms) in cases {
        let place = place("mistakes.cu", &format!("planted {number}"));
        mistake(number).always_fails(&place, symptoms);
    }
    // The report counts the threads that do not wait.
    let reason = mistake(6).fault((Schedule::Late, 0));
    assert!(reason.ends_with("; 32 threads have ended"), "{reason}");
}
