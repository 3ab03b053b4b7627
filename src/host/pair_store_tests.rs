//! A whole kernel of clusters under the runner: shared copies in, boxes of sums out.

use half::bf16;

use super::device::{HostBuffer, HostDevice, Schedule};
use crate::device::{Arithmetic, BoxedMatrix, Device, Launch, TensorMap};
use crate::error::Error;

/// Two clusters; the last block's rows end within its tile, and so do the columns within the last one.
const BLOCKS: usize = 4;
const ROWS: usize = 64 * BLOCKS - 31;
const TILES: usize = 3;
const COLUMNS: usize = 64 * TILES - 24;
/// Numbers from row to row of the result.
const STRIDE: usize = COLUMNS + 8;
const UNTOUCHED: bf16 = bf16::from_bits(0x1234);
/// Two stages of two slabs, two boxes, four mbarriers.
const SHARED_BYTES: u32 = 6 * 64 * 128 + 32;

/// `PairStoreParams` of kernels/host/planted/pair_store.cu.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Params {
    a: TensorMap,
    b: TensorMap,
    d: TensorMap,
    slabs: u32,
    tiles: u32,
    padding: [u32; 14],
}

/// Small whole numbers, so that sums are exact in any order.
fn number(row: usize, k: usize, seed: usize) -> f32 {
    ((row * 37 + k * 11 + row * k / 7 + seed) % 15) as f32 - 7.0
}

fn upload(
    device: &HostDevice,
    numbers: &[bf16],
    [rows, columns, stride]: [usize; 3],
    box_rows: u32,
) -> Result<(HostBuffer, TensorMap), Error> {
    let buffer = device.memory(2 * numbers.len())?;
    let address = HostDevice::address(&buffer);
    device.write(address, bytemuck::cast_slice(numbers))?;
    let map = device.tensor_map(&BoxedMatrix {
        address,
        rows,
        row_bytes: 2 * columns,
        stride: 2 * stride,
        numbers: Arithmetic::Bf16,
        box_rows,
    })?;
    Ok((buffer, map))
}

/// a·bᵀ as `kernel` computes it, the ends of rows included; `slabs` slabs of 64 of the summed axis.
fn product(
    kernel: &'static str,
    slabs: usize,
    (schedule, seed): (Schedule, u64),
) -> Result<Vec<bf16>, Error> {
    let device = HostDevice::new(schedule, seed, 1);
    let depth = 64 * slabs;
    let operand = |rows: usize, seed: usize, box_rows: u32| {
        let numbers: Vec<bf16> = (0..rows * depth)
            .map(|i| bf16::from_f32(number(i / depth, i % depth, seed)))
            .collect();
        upload(&device, &numbers, [rows, depth, depth], box_rows)
    };
    let ((_a, a), (_b, b)) = (operand(ROWS, 1, 64)?, operand(COLUMNS, 2, 32)?);
    let mut found = vec![UNTOUCHED; ROWS * STRIDE];
    let (buffer, d) = upload(&device, &found, [ROWS, COLUMNS, STRIDE], 64)?;
    let params = Params {
        a,
        b,
        d,
        slabs: slabs as u32,
        tiles: TILES as u32,
        padding: [0; 14],
    };
    device.launch(&Launch {
        kernel,
        grid: [BLOCKS as u32, 1, 1],
        threads: 256,
        shared_bytes: SHARED_BYTES,
        params: bytemuck::bytes_of(&params),
    })?;
    device.read(
        HostDevice::address(&buffer),
        bytemuck::cast_slice_mut(&mut found),
    )?;
    Ok(found)
}

fn orders() -> impl Iterator<Item = (Schedule, u64)> {
    let schedules = [Schedule::Late, Schedule::Early, Schedule::Mixed];
    schedules
        .into_iter()
        .flat_map(|schedule| (0..8).map(move |seed| (schedule, seed)))
}

#[test]
fn products_of_clusters_leave_as_boxes_in_every_order() {
    // Stages and tiles keep step, or not.
    for slabs in [1, 2, 3] {
        for order in orders() {
            let found = product("planted_pair_store_sound", slabs, order)
                .unwrap_or_else(|error| panic!("{order:?}, {slabs} slabs: {error}"));
            for (i, found) in found.into_iter().enumerate() {
                let (row, column) = (i / STRIDE, i % STRIDE);
                let expected = if column < COLUMNS {
                    let sum = |k| number(row, k, 1) * number(column, k, 2);
                    bf16::from_f32((0..64 * slabs).map(sum).sum())
                } else {
                    UNTOUCHED
                };
                assert_eq!(found, expected, "{order:?}, {slabs} slabs: {row} {column}");
            }
        }
    }
}

#[test]
fn mistakes_of_one_block_of_a_cluster_are_found_there() {
    let cases: [(&str, &[&str], &[&str]); 3] = [
        (
            "planted_pair_store_fence",
            &["block (1, 0, 0)", "block (3, 0, 0)"],
            &["with no fence_async_proxy after thread"],
        ),
        (
            "planted_pair_store_overwrite",
            &["block (1, 0, 0)", "block (3, 0, 0)"],
            &["while a store from it, issued by thread 0 at"],
        ),
        (
            "planted_pair_store_leaves",
            &["block ("],
            &["ends while a store may still read its source"],
        ),
    ];
    for (kernel, blocks, symptoms) in cases {
        for order in orders() {
            let reason = match product(kernel, 2, order) {
                Err(Error::Kernel { reason, .. }) => reason,
                other => panic!("{kernel}, {order:?}: {other:?}"),
            };
            let context = format!("{kernel}, {order:?}: {reason}");
            for texts in [blocks, symptoms] {
                assert!(texts.iter().any(|text| reason.contains(text)), "{context}");
            }
            assert!(
                reason.contains("kernels/host/planted/pair_store.cu:"),
                "{context}"
            );
        }
    }
}
