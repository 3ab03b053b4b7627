//! Clusters: copies into several blocks, arrivals at another block's mbarriers, boxes of sums, and mistakes with them.

use super::stores::{UNTOUCHED, with_gaps};
use super::*;

/// Blocks of a product: two clusters of two CTAs.
const BLOCKS: usize = 4;
/// Rows end within the last block.
const ROWS: usize = SIDE * BLOCKS - 31;

/// a and b, whose summed axis has `slabs` slabs of 64.
fn operands(columns: usize, slabs: usize) -> [Matrix; 2] {
    [(ROWS, 1), (columns, 2)].map(|(rows, seed)| Matrix::new(rows, 64 * slabs, seed))
}

/// a·bᵀ in bf16 as `kernel` computes it, gaps included.
fn product(kernel: &'static str, [a, b]: &[Matrix; 2], order: Order) -> Result<Vec<u16>, Error> {
    // Two stages of two slabs, two boxes, four mbarriers.
    const SIZES: [u32; 3] = [BLOCKS as u32, 256, 6 * 64 * 128 + 32];
    let (memory, columns) = (memory(order), b.rows());
    let stride = columns + 8;
    let d = memory.upload(&vec![UNTOUCHED; ROWS * stride])?;
    let maps = [
        a.uploaded(&memory, 64)?,
        b.uploaded(&memory, 32)?,
        boxes(&memory, d, [ROWS, 2 * columns, 2 * stride], DTYPE_BF16, 64)?,
    ];
    let words = [pair(a.columns / 64, columns.div_ceil(SIDE))];
    launch(&memory, kernel, SIZES, &maps, &words)?;
    memory.read(d, ROWS * stride)
}

#[test]
fn products_of_clusters_leave_as_boxes_in_every_order() -> Result<(), Error> {
    // Fewer slabs than stages, as many, and several uses of each stage; columns end within the last of three tiles.
    for slabs in [1, 2, 7] {
        let operands = operands(168, slabs);
        let sums = operands[0].times(&operands[1]).into_iter();
        let sums: Vec<u16> = sums.map(|sum| bf16::from_f32(sum).to_bits()).collect();
        let expected = with_gaps(&sums, 168, 176);
        for order in orders() {
            let found = product("planted_cluster_sound", &operands, order)?;
            assert_same(&found, &expected, &format!("{order:?}, {slabs} slabs"));
        }
    }
    Ok(())
}

#[test]
fn mistakes_of_one_block_of_a_cluster_are_found_there() {
    let second = ["block (1, 0, 0)", "block (3, 0, 0)"];
    let operands = operands(168, 2);
    for (kernel, blocks, symptom) in [
        (
            "planted_cluster_fence",
            &second[..],
            "with no fence_async_proxy after thread",
        ),
        (
            "planted_cluster_overwrite",
            &second[..],
            "while a store from it, issued by thread 0 at",
        ),
        (
            "planted_cluster_leaves",
            &["block ("],
            "ends while a store may still read its source",
        ),
    ] {
        let place = "kernels/emulator/planted/cluster.cu:";
        always_fails(kernel, &[blocks, &[symptom], &[place]], |order| {
            product(kernel, &operands, order)
        });
    }
}

/// The fault names one of the marked places and has one of the symptoms.
fn is_found<T: Debug>(
    kernel: &str,
    markers: &[&str],
    symptoms: &[&str],
    run: impl Fn(Order) -> Result<T, Error>,
) {
    let places: Vec<String> = markers.iter().map(|m| place("cluster.cu", m)).collect();
    let places: Vec<&str> = places.iter().map(String::as_str).collect();
    always_fails(kernel, &[&places, symptoms], run);
}

#[test]
fn stages_of_a_cluster_handed_over_wrongly_are_found() {
    type Case = (
        &'static str,
        &'static [usize],
        &'static [&'static str],
        &'static [&'static str],
    );
    let cases: [Case; 5] = [
        (
            // Consumers release a stage to their own block alone.
            "planted_cluster_own_release",
            &[7],
            &["copied"],
            &[
                "is written with no wait after the bulk copy",
                "is written with no barrier after",
                "is written while a copy to it",
            ],
        ),
        (
            // One warp releases a stage while others of the block still read it.
            "planted_cluster_one_release",
            &[7],
            &["copied"],
            &["of the cluster: shared memory at byte"],
        ),
        (
            // Mbarriers are used with no barrier of the cluster after they are initialised.
            "planted_cluster_early_use",
            &[7],
            &["copied"],
            &[
                "is used with no barrier of the cluster after thread 0 initialised it",
                "there is no initialised mbarrier",
            ],
        ),
        (
            // A block ends before the other's last arrival or copy.
            "planted_cluster_early_end",
            &[1, 7],
            &["copied", "handed back"],
            &[
                "the block ends with no barrier of the cluster after an arrival",
                "an arrival at an mbarrier of block",
                "a copy into shared memory of block",
                "the block ends in the middle of a phase",
            ],
        ),
        (
            // A stage expects the block's own bytes alone: the other half is not waited for, or comes first and
            // keeps the phase from completing.
            "planted_cluster_few_bytes",
            &[7],
            &["copied", "filled", "multiplied"],
            &[
                "a product: shared memory",
                "-4096 transaction bytes missing",
                "is written while a copy to it",
                "is written with no wait after the bulk copy",
            ],
        ),
    ];
    for (kernel, slabs, markers, symptoms) in cases {
        for &slabs in slabs {
            let operands = operands(SIDE, slabs);
            is_found(kernel, markers, symptoms, |order| {
                product(kernel, &operands, order)
            });
        }
    }
}

/// Runs a kernel with mistake `number`, 0 for none: the ranks in the cluster that blocks read, or the fault.
fn mistake(number: usize, blocks: usize, order: Order) -> Result<Vec<f32>, Error> {
    let memory = memory(order);
    let map = Matrix::new(SIDE, SIDE, 0).uploaded(&memory, 32)?;
    let ranks = memory.unwritten(4 * blocks)?;
    let sizes = [blocks as u32, 64, 32 * 128 + 16];
    let words = [ranks, pair(number, 0)];
    launch(&memory, "planted_cluster_mistakes", sizes, &[map], &words)?;
    memory.read(ranks, blocks)
}

#[test]
fn mistakes_between_blocks_are_reported_where_they_are() -> Result<(), Error> {
    for order in orders() {
        assert_eq!(mistake(0, 4, order)?, [0.0, 1.0, 0.0, 1.0]);
    }
    let cases: [(usize, &str, &[&str]); 9] = [
        (1, "planted 1", &["lies outside the block's"]),
        (2, "planted 2", &["none of the cluster's"]),
        (3, "planted 3", &["block 2 of a cluster of 2"]),
        (4, "planted 4", &["mask 6 in a cluster of 2"]),
        (
            5,
            "planted 5",
            &["there is no initialised mbarrier at byte 4096 of block 1"],
        ),
        (6, "planted 5", &["with no fence_mbarrier_init"]),
        (
            7,
            "planted 7",
            &[
                "the block ends while a bulk copy",
                "the block ends with no barrier of the cluster after a copy into it",
            ],
        ),
        (
            8,
            "planted 8",
            &["there is no initialised mbarrier at byte 4104 of block 1"],
        ),
        (
            9,
            "planted 9",
            &[
                "an arrival at an mbarrier of block 1 of the cluster, which has ended",
                "the block ends with no barrier of the cluster after an arrival",
            ],
        ),
    ];
    for (number, marker, symptoms) in cases {
        is_found("planted_cluster_mistakes", &[marker], symptoms, |order| {
            mistake(number, 2, order)
        });
    }
    Ok(())
}

#[test]
fn a_grid_that_is_not_whole_clusters_is_refused() {
    let order = (Schedule::Late, 0);
    let reason = fault("planted_cluster_mistakes", order, mistake(0, 3, order));
    for text in ["clusters of 2 blocks", "not whole clusters"] {
        assert!(reason.contains(text), "{reason}");
    }
}
