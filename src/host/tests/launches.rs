//! Launches that overlap: kernels that touch global memory, or end, before they wait for the launches before.

use super::*;

#[test]
fn global_memory_touched_before_the_wait_is_a_fault() {
    let sound = Vectors {
        kernel: "planted_launch_sound",
        blocks: 2,
        threads: 64,
        shared_bytes: 1024,
        x: counting(100),
        box_rows: None,
        y: 100,
        count: Some(100),
    };
    let of_box = Vectors {
        kernel: "planted_launch_box_sound",
        blocks: 1,
        shared_bytes: 256 + 8,
        x: counting(64),
        box_rows: Some(2),
        y: 64,
        count: None,
        ..sound.clone()
    };
    let source = planted!("launches.cu");
    for (sound, kernel, marker) in [
        (&sound, "planted_launch_load", "planted load"),
        (&sound, "planted_launch_store", "planted store"),
        (&sound, "planted_launch_copy", "planted copy"),
        (&of_box, "planted_launch_box", "planted box"),
        (&of_box, "planted_launch_box_store", "planted box store"),
    ] {
        let doubled: Vec<f32> = sound.x.iter().map(|x| 2.0 * x).collect();
        sound.always_gives(&doubled);
        let symptom = "global memory is accessed with no wait_for_launches_before";
        sound
            .named(kernel)
            .always_fails(&source.place(marker), &[symptom]);
    }
    for (schedule, seed) in orders() {
        let reason = sound.named("planted_launch_leaves").fault(schedule, seed);
        let symptom = "at its end: the thread ends with no wait_for_launches_before";
        assert!(
            reason.contains("block (1, 0, 0)") && reason.contains(symptom),
            "{reason}"
        );
    }
}
