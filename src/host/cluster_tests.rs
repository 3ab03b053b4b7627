//! Clusters under the runner: copies into several blocks, arrivals at another block's mbarriers, and what
//! goes wrong with them.

use half::bf16;

use super::device::{HostDevice, Schedule};
use crate::device::{Arithmetic, BoxedMatrix, Device, Launch, TensorMap};
use crate::error::Error;

const SOURCE: &str = include_str!("../../kernels/host/planted/cluster.cu");
/// Rows of a block, and of b.
const SIDE: usize = 64;
/// Two stages of two slabs of 64 rows, and four mbarriers.
const SHARED_BYTES: u32 = 4 * 64 * 128 + 32;
/// Blocks of the products: two clusters.
const BLOCKS: usize = 4;

/// `ClusterParams` of kernels/host/planted/cluster.cu.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Params {
    a: TensorMap,
    b: TensorMap,
    d: u64,
    slabs: u32,
    padding: [u32; 13],
}

/// `ClusterMistakeParams`.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct MistakeParams {
    b: TensorMap,
    ranks: u64,
    mistake: u32,
    padding: [u32; 13],
}

/// Small whole numbers, so that sums are exact in any order.
fn number(row: usize, k: usize, seed: usize) -> f32 {
    ((row * 37 + k * 11 + row * k / 7 + seed) % 15) as f32 - 7.0
}

fn map(
    device: &HostDevice,
    address: u64,
    [rows, columns]: [usize; 2],
    box_rows: u32,
) -> Result<TensorMap, Error> {
    device.tensor_map(&BoxedMatrix {
        address,
        rows,
        row_bytes: 2 * columns,
        stride: 2 * columns,
        numbers: Arithmetic::Bf16,
        box_rows,
    })
}

/// a·bᵀ as `kernel` computes it: `BLOCKS` tiles of rows, `slabs` slabs of 64 of the summed axis.
fn product(
    kernel: &'static str,
    slabs: usize,
    (schedule, seed): (Schedule, u64),
) -> Result<Vec<f32>, Error> {
    let device = HostDevice::new(schedule, seed, 1);
    let (rows, columns) = (BLOCKS * SIDE, 64 * slabs);
    let numbers = |rows: usize, seed: usize| -> Vec<bf16> {
        (0..rows * columns)
            .map(|i| bf16::from_f32(number(i / columns, i % columns, seed)))
            .collect()
    };
    let (a, b) = (
        device.memory(2 * rows * columns)?,
        device.memory(2 * SIDE * columns)?,
    );
    let (at_a, at_b) = (HostDevice::address(&a), HostDevice::address(&b));
    device.write(at_a, bytemuck::cast_slice(&numbers(rows, 1)))?;
    device.write(at_b, bytemuck::cast_slice(&numbers(SIDE, 2)))?;
    let d = device.memory(4 * rows * SIDE)?;
    let params = Params {
        a: map(&device, at_a, [rows, columns], 64)?,
        b: map(&device, at_b, [SIDE, columns], 32)?,
        d: HostDevice::address(&d),
        slabs: slabs as u32,
        padding: [0; 13],
    };
    device.launch(&Launch {
        kernel,
        grid: [BLOCKS as u32, 1, 1],
        threads: 256,
        shared_bytes: SHARED_BYTES,
        params: bytemuck::bytes_of(&params),
    })?;
    let mut numbers = vec![0.0f32; rows * SIDE];
    device.read(params.d, bytemuck::cast_slice_mut(&mut numbers))?;
    Ok(numbers)
}

/// The ranks that blocks see, or the fault.
fn mistake(
    mistake: u32,
    blocks: u32,
    (schedule, seed): (Schedule, u64),
) -> Result<Vec<f32>, Error> {
    let device = HostDevice::new(schedule, seed, 1);
    let b = device.memory(2 * SIDE * SIDE)?;
    let at_b = HostDevice::address(&b);
    device.write(at_b, bytemuck::cast_slice(&[bf16::ONE; SIDE * SIDE]))?;
    let ranks = device.memory(4 * blocks as usize)?;
    let params = MistakeParams {
        b: map(&device, at_b, [SIDE, SIDE], 32)?,
        ranks: HostDevice::address(&ranks),
        mistake,
        padding: [0; 13],
    };
    device.launch(&Launch {
        kernel: "planted_cluster_mistakes",
        grid: [blocks, 1, 1],
        threads: 64,
        shared_bytes: 32 * 128 + 16,
        params: bytemuck::bytes_of(&params),
    })?;
    let mut numbers = vec![0.0f32; blocks as usize];
    device.read(params.ranks, bytemuck::cast_slice_mut(&mut numbers))?;
    Ok(numbers)
}

fn orders() -> impl Iterator<Item = (Schedule, u64)> {
    let schedules = [Schedule::Late, Schedule::Early, Schedule::Mixed];
    schedules
        .into_iter()
        .flat_map(|schedule| (0..16).map(move |seed| (schedule, seed)))
}

/// `file:line` of the one line that ends with this comment.
fn place(marker: &str) -> String {
    let comment = format!("// {marker}");
    let lines: Vec<usize> = (1..)
        .zip(SOURCE.lines())
        .filter_map(|(line, text)| text.ends_with(&comment).then_some(line))
        .collect();
    assert_eq!(lines.len(), 1, "{marker}");
    format!("kernels/host/planted/cluster.cu:{}", lines[0])
}

/// Whether `reason` names `place`, and not only a line whose number begins with its.
fn names(reason: &str, place: &str) -> bool {
    reason
        .match_indices(place)
        .any(|(at, _)| !reason[at + place.len()..].starts_with(|c: char| c.is_ascii_digit()))
}

/// The fault names one of the places, has one of the symptoms, and there is one in every order.
fn always_fails<T: std::fmt::Debug>(
    what: &str,
    run: impl Fn((Schedule, u64)) -> Result<T, Error>,
    markers: &[&str],
    symptoms: &[&str],
) {
    let places: Vec<String> = markers.iter().map(|marker| place(marker)).collect();
    for order in orders() {
        let reason = match run(order) {
            Err(Error::Kernel { reason, .. }) => reason,
            other => panic!("{what}, {order:?}: {other:?}"),
        };
        let context = format!("{what}, {order:?}: {reason}");
        assert!(reason.contains(", block ("), "{context}");
        assert!(
            places.iter().any(|place| names(&reason, place)),
            "{context}"
        );
        assert!(symptoms.iter().any(|s| reason.contains(s)), "{context}");
    }
}

#[test]
fn row_tiles_that_share_copies_of_candidates_give_the_products() {
    // Fewer slabs than stages, as many, and several turns of the ring.
    for slabs in [1, 2, 7] {
        let columns = 64 * slabs;
        for order in orders() {
            let found = product("planted_cluster_sound", slabs, order)
                .unwrap_or_else(|error| panic!("{order:?}, {slabs} slabs: {error}"));
            for (i, found) in found.into_iter().enumerate() {
                let (row, column) = (i / SIDE, i % SIDE);
                let expected: f32 = (0..columns)
                    .map(|k| number(row, k, 1) * number(column, k, 2))
                    .sum();
                assert_eq!(found, expected, "{order:?}, {slabs} slabs: {row} {column}");
            }
        }
    }
}

#[test]
fn a_stage_handed_back_to_the_own_block_alone_is_found() {
    let kernel = "planted_cluster_own_release";
    always_fails(
        kernel,
        |order| product(kernel, 7, order),
        &["copied"],
        &[
            "is written with no wait after the bulk copy",
            "is written with no barrier after",
            "is written while a copy to it",
        ],
    );
}

#[test]
fn a_stage_that_other_warps_of_the_other_block_still_read_is_found() {
    let kernel = "planted_cluster_one_release";
    always_fails(
        kernel,
        |order| product(kernel, 7, order),
        &["copied"],
        &["of the cluster: shared memory at byte"],
    );
}

#[test]
fn mbarriers_used_with_no_barrier_of_the_cluster_are_found() {
    let kernel = "planted_cluster_early_use";
    always_fails(
        kernel,
        |order| product(kernel, 7, order),
        &["copied"],
        &[
            "is used with no barrier of the cluster after thread 0 initialised it",
            "there is no initialised mbarrier",
        ],
    );
}

#[test]
fn a_block_that_ends_before_the_others_are_done_with_it_is_found() {
    let kernel = "planted_cluster_early_end";
    for slabs in [1, 7] {
        always_fails(
            kernel,
            |order| product(kernel, slabs, order),
            &["copied", "handed back"],
            &[
                "the block ends with no barrier of the cluster after an arrival",
                "an arrival at an mbarrier of block",
                "a copy into shared memory of block",
                "the block ends in the middle of a phase",
            ],
        );
    }
}

#[test]
fn a_block_that_announces_its_own_bytes_alone_is_found() {
    let kernel = "planted_cluster_few_bytes";
    always_fails(
        kernel,
        |order| product(kernel, 7, order),
        &["copied", "filled", "multiplied"],
        &[
            // The other half is not waited for; or it comes before the phase can complete, which
            // then never does.
            "a product: shared memory",
            "-4096 transaction bytes missing",
            "is written while a copy to it",
            "is written with no wait after the bulk copy",
        ],
    );
}

#[test]
fn mistakes_between_blocks_are_reported_where_they_are() {
    for order in orders() {
        assert_eq!(mistake(0, 4, order).unwrap(), [0.0, 1.0, 0.0, 1.0]);
    }
    let cases: [(u32, &str, &[&str]); 9] = [
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
    for (case, marker, symptoms) in cases {
        always_fails(
            &format!("case {case}"),
            |order| mistake(case, 2, order),
            &[marker],
            symptoms,
        );
    }
}

#[test]
fn a_grid_that_is_not_whole_clusters_is_refused() {
    let error = mistake(0, 3, (Schedule::Late, 0)).unwrap_err();
    let Error::Kernel { kernel, reason } = error else {
        panic!("{error}");
    };
    assert_eq!(kernel, "planted_cluster_mistakes");
    assert!(
        reason.contains("clusters of 2 blocks") && reason.contains("not whole clusters"),
        "{reason}"
    );
}
