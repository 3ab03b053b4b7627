//! Stores of boxes, and the fence before asynchronous reads, under the runner.

use half::bf16;

use super::device::{HostDevice, Schedule};
use crate::device::{Arithmetic, BoxedMatrix, Device, Launch, TensorMap};
use crate::error::Error;

/// Rows and columns that end within a box; a row is longer than what of it is stored.
const ROWS: usize = 75;
const COLUMNS: usize = 280;
const STRIDE: usize = 288;
const BOX_ROWS: usize = 32;
const THREADS: usize = 64;
const UNTOUCHED: u16 = 0x1234;

/// `BoxStoreParams` of kernels/host/planted/box_store.cu.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Params {
    to: TensorMap,
    from: u64,
    there: u64,
    seen: u64,
    rows: u32,
    columns: u32,
    stride: u32,
    transposed: u32,
    padding: [u64; 3],
}

/// `BoxSumParams` of kernels/host/planted/box_store.cu.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct SumParams {
    to: TensorMap,
    padding: [u64; 8],
}

/// `StoredOperandsParams` of kernels/host/planted/async_proxy.cu.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct OperandsParams {
    a: u64,
    b: u64,
    d: u64,
}

fn orders() -> impl Iterator<Item = (Schedule, u64)> {
    let schedules = [Schedule::Late, Schedule::Early, Schedule::Mixed];
    schedules
        .into_iter()
        .flat_map(|schedule| (0..8).map(move |seed| (schedule, seed)))
}

fn number(row: usize, column: usize) -> u16 {
    (row * 300 + column) as u16
}

/// What the kernel has stored, the ends of rows included, and what its threads saw of it.
fn stored(
    kernel: &'static str,
    transposed: bool,
    (schedule, seed): (Schedule, u64),
) -> Result<(Vec<u16>, Vec<u16>), Error> {
    let device = HostDevice::new(schedule, seed, 1);
    let numbers: Vec<u16> = (0..ROWS * STRIDE)
        .map(|i| number(i / STRIDE, i % STRIDE))
        .collect();
    let [from, to] = [
        device.memory(2 * numbers.len())?,
        device.memory(2 * numbers.len())?,
    ];
    let seen = device.memory(2 * THREADS)?;
    let address = HostDevice::address(&to);
    device.write(HostDevice::address(&from), bytemuck::cast_slice(&numbers))?;
    device.write(
        address,
        bytemuck::cast_slice(&vec![UNTOUCHED; numbers.len()]),
    )?;
    let map = device.tensor_map(&BoxedMatrix {
        address,
        rows: ROWS,
        row_bytes: 2 * COLUMNS,
        stride: 2 * STRIDE,
        numbers: Arithmetic::Bf16,
        box_rows: BOX_ROWS as u32,
    })?;
    device.launch(&Launch {
        kernel,
        grid: [ROWS.div_ceil(BOX_ROWS) as u32, 1, 1],
        threads: THREADS as u32,
        shared_bytes: 2 * 32 * 128,
        params: bytemuck::bytes_of(&Params {
            to: map,
            from: HostDevice::address(&from),
            there: address,
            seen: HostDevice::address(&seen),
            rows: ROWS as u32,
            columns: COLUMNS as u32,
            stride: STRIDE as u32,
            transposed: u32::from(transposed),
            padding: [0; 3],
        }),
    })?;
    let (mut result, mut of_threads) = (vec![0; numbers.len()], vec![0; THREADS]);
    device.read(address, bytemuck::cast_slice_mut(&mut result))?;
    device.read(
        HostDevice::address(&seen),
        bytemuck::cast_slice_mut(&mut of_threads),
    )?;
    Ok((result, of_threads))
}

#[test]
fn boxes_arrive_and_nothing_beside_them() {
    for order in orders() {
        for transposed in [false, true] {
            let (result, seen) = stored("planted_box_store_sound", transposed, order).unwrap();
            for (i, found) in result.into_iter().enumerate() {
                let (row, column) = (i / STRIDE, i % STRIDE);
                let expected = if column < COLUMNS {
                    number(row, column)
                } else {
                    UNTOUCHED
                };
                assert_eq!(found, expected, "{order:?} {transposed} {row} {column}");
            }
            for (thread, found) in seen.into_iter().enumerate() {
                assert_eq!(found, number(0, thread), "{order:?} {transposed} {thread}");
            }
        }
    }
}

#[test]
fn planted_mistakes_with_stores_are_found() {
    for (kernel, symptom) in [
        ("planted_box_store_fence", "with no fence_async_proxy after"),
        (
            "planted_box_store_fence_of_one",
            "with no fence_async_proxy after",
        ),
        (
            "planted_box_store_overwrite",
            "while a store from it, issued by thread 0",
        ),
        (
            "planted_box_store_ends_early",
            "ends while a store may still read its source",
        ),
        (
            "planted_box_store_no_commit",
            "ends with stores that it has not committed",
        ),
    ] {
        for order in orders() {
            let Err(Error::Kernel { reason, .. }) = stored(kernel, false, order) else {
                panic!("{kernel} passes, {order:?}");
            };
            let at = "kernels/host/planted/box_store.cu:";
            assert!(
                reason.contains(symptom) && reason.contains(at),
                "{kernel}, {order:?}: {reason}"
            );
        }
    }
}

#[test]
fn what_is_read_before_it_is_written_shows_where_stores_are_late() {
    let symptom = "reads global memory that has never been written";
    for order in orders() {
        match stored("planted_box_store_early_read", false, order) {
            Err(Error::Kernel { reason, .. }) => assert!(reason.contains(symptom), "{reason}"),
            found => assert!(found.is_ok() && order.0 != Schedule::Late, "{order:?}"),
        }
    }
}

#[test]
fn boxes_are_added_to_what_is_there() {
    const ROWS: usize = 50;
    const COLUMNS: usize = 44;
    for (schedule, seed) in orders() {
        let device = HostDevice::new(schedule, seed, 1);
        let buffer = device.memory(4 * ROWS * COLUMNS).unwrap();
        let address = HostDevice::address(&buffer);
        let before: Vec<f32> = (0..ROWS * COLUMNS).map(|i| i as f32).collect();
        device
            .write(address, bytemuck::cast_slice(&before))
            .unwrap();
        let matrix = |numbers| BoxedMatrix {
            address,
            rows: ROWS,
            row_bytes: 4 * COLUMNS,
            stride: 4 * COLUMNS,
            numbers,
            box_rows: 32,
        };
        let launch = |numbers| {
            let to = device.tensor_map(&matrix(numbers))?;
            device.launch(&Launch {
                kernel: "planted_box_sum",
                // Two blocks add to each box.
                grid: [2, 2, 2],
                threads: 32,
                shared_bytes: 32 * 128,
                params: bytemuck::bytes_of(&SumParams {
                    to,
                    padding: [0; 8],
                }),
            })
        };
        launch(Arithmetic::F32).unwrap();
        let mut found = vec![0.0f32; ROWS * COLUMNS];
        device
            .read(address, bytemuck::cast_slice_mut(&mut found))
            .unwrap();
        for (i, found) in found.into_iter().enumerate() {
            let (row, column) = (i / COLUMNS % 32, i % COLUMNS % 32);
            assert_eq!(found, before[i] + 2.0 * (100 * row + column + 1) as f32);
        }
        let Err(Error::Kernel { reason, .. }) = launch(Arithmetic::Bf16) else {
            panic!("numbers of another type are added");
        };
        assert!(reason.contains("that are not f32"), "{reason}");
    }
}

#[test]
fn products_see_what_threads_have_stored_behind_a_fence_only() {
    const SIDE: usize = 64;
    let operand = |seed: usize| -> Vec<bf16> {
        (0..SIDE * SIDE)
            .map(|i| bf16::from_f32(((i * 37 + i / 7 + seed * 11) % 15) as f32 - 7.0))
            .collect()
    };
    let [a, b] = [operand(1), operand(2)];
    for (schedule, seed) in orders() {
        let device = HostDevice::new(schedule, seed, 1);
        let upload = |numbers: &[bf16]| {
            let buffer = device.memory(2 * numbers.len()).unwrap();
            let address = HostDevice::address(&buffer);
            device
                .write(address, bytemuck::cast_slice(numbers))
                .unwrap();
            buffer
        };
        let (a_buffer, b_buffer) = (upload(&a), upload(&b));
        let d = device.memory(4 * SIDE * SIDE).unwrap();
        let launch = |kernel| {
            device.launch(&Launch {
                kernel,
                grid: [1, 1, 1],
                threads: 128,
                shared_bytes: 2 * 64 * 128,
                params: bytemuck::bytes_of(&OperandsParams {
                    a: HostDevice::address(&a_buffer),
                    b: HostDevice::address(&b_buffer),
                    d: HostDevice::address(&d),
                }),
            })
        };
        launch("planted_stored_operands_sound").unwrap();
        let mut found = vec![0.0f32; SIDE * SIDE];
        device
            .read(
                HostDevice::address(&d),
                bytemuck::cast_slice_mut(&mut found),
            )
            .unwrap();
        for (i, found) in found.into_iter().enumerate() {
            let (row, column) = (i / SIDE, i % SIDE);
            let expected: f32 = (0..SIDE)
                .map(|k| a[row * SIDE + k].to_f32() * b[column * SIDE + k].to_f32())
                .sum();
            assert_eq!(found, expected, "{row} {column}");
        }
        for kernel in [
            "planted_stored_operands_fence",
            "planted_stored_operands_late_fence",
        ] {
            let Err(Error::Kernel { reason, .. }) = launch(kernel) else {
                panic!("{kernel} passes");
            };
            assert!(
                reason.contains("with no fence_async_proxy after"),
                "{reason}"
            );
            assert!(
                reason.contains("kernels/host/planted/async_proxy.cu:"),
                "{reason}"
            );
        }
    }
}
