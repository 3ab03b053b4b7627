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
    padding: [u32; 7],
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

/// What the kernel has stored, the ends of rows included.
fn stored(kernel: &'static str, (schedule, seed): (Schedule, u64)) -> Result<Vec<u16>, Error> {
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
            padding: [0; 7],
        }),
    })?;
    let mut result = vec![0; numbers.len()];
    device.read(address, bytemuck::cast_slice_mut(&mut result))?;
    Ok(result)
}

#[test]
fn boxes_arrive_and_nothing_beside_them() {
    for order in orders() {
        let result = stored("planted_box_store_sound", order).unwrap();
        for (i, found) in result.into_iter().enumerate() {
            let (row, column) = (i / STRIDE, i % STRIDE);
            let expected = if column < COLUMNS {
                number(row, column)
            } else {
                UNTOUCHED
            };
            assert_eq!(found, expected, "{order:?} {row} {column}");
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
            let Err(Error::Kernel { reason, .. }) = stored(kernel, order) else {
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
        match stored("planted_box_store_early_read", order) {
            Err(Error::Kernel { reason, .. }) => assert!(reason.contains(symptom), "{reason}"),
            found => assert!(found.is_ok() && order.0 != Schedule::Late, "{order:?}"),
        }
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
