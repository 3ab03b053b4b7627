//! Products of a warpgroup and copies of boxes, under the runner.

use half::bf16;

use super::device::{HostBuffer, HostDevice, Schedule};
use super::e4m3;
use crate::device::{Arithmetic, BoxedMatrix, Device, Launch, TensorMap};
use crate::error::Error;

const SIDE: usize = 64;
/// Two stages of two slabs of 64 rows, and four mbarriers.
const SHARED_BYTES: u32 = 4 * 64 * 128 + 32;

/// `WarpgroupParams` of kernels/host/planted/warpgroup.cu.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Params {
    a: TensorMap,
    b: TensorMap,
    d: u64,
    slabs: u32,
    across: u32,
    padding: [u64; 6],
}

/// A matrix of small whole numbers, so that sums are exact in any order.
struct Matrix {
    rows: usize,
    columns: usize,
    numbers: Vec<bf16>,
}

impl Matrix {
    fn new(rows: usize, columns: usize, seed: usize) -> Self {
        let number = |i: usize| ((i * 37 + i / 7 + seed * 11) % 15) as f32 - 7.0;
        Self {
            rows,
            columns,
            numbers: (0..rows * columns)
                .map(|i| bf16::from_f32(number(i)))
                .collect(),
        }
    }

    fn at(&self, row: usize, column: usize) -> f64 {
        self.numbers[row * self.columns + column].to_f64()
    }

    fn uploaded(&self, device: &HostDevice) -> Result<(HostBuffer, TensorMap), Error> {
        let buffer = device.memory(2 * self.numbers.len())?;
        let address = HostDevice::address(&buffer);
        device.write(address, bytemuck::cast_slice(&self.numbers))?;
        let map = device.tensor_map(&BoxedMatrix {
            address,
            rows: self.rows,
            row_bytes: 2 * self.columns,
            stride: 2 * self.columns,
            numbers: Arithmetic::Bf16,
            box_rows: SIDE as u32,
        })?;
        Ok((buffer, map))
    }
}

/// a·bᵀ, or aᵀ·b across, as the kernel computes it.
fn product(
    kernel: &'static str,
    [a, b]: [&Matrix; 2],
    across: bool,
    (schedule, seed): (Schedule, u64),
) -> Result<Vec<f32>, Error> {
    let device = HostDevice::new(schedule, seed, 1);
    let ((_a, a_map), (_b, b_map)) = (a.uploaded(&device)?, b.uploaded(&device)?);
    let d = device.memory(4 * SIDE * SIDE)?;
    let summed = if across { a.rows } else { a.columns };
    let params = Params {
        a: a_map,
        b: b_map,
        d: HostDevice::address(&d),
        slabs: summed.div_ceil(64) as u32,
        across: u32::from(across),
        padding: [0; 6],
    };
    device.launch(&Launch {
        kernel,
        grid: [1, 1, 1],
        threads: 256,
        shared_bytes: SHARED_BYTES,
        params: bytemuck::bytes_of(&params),
    })?;
    let mut numbers = vec![0.0f32; SIDE * SIDE];
    device.read(params.d, bytemuck::cast_slice_mut(&mut numbers))?;
    Ok(numbers)
}

fn orders() -> impl Iterator<Item = (Schedule, u64)> {
    let schedules = [Schedule::Late, Schedule::Early, Schedule::Mixed];
    schedules
        .into_iter()
        .flat_map(|schedule| (0..8).map(move |seed| (schedule, seed)))
}

#[test]
fn products_of_both_layouts_are_those_of_the_matrices() {
    // Rows of 88 numbers: the last box ends outside the matrix, and what lies there counts as zero.
    for summed in [64, 88, 320] {
        let along = [Matrix::new(SIDE, summed, 1), Matrix::new(SIDE, summed, 2)];
        let across = [Matrix::new(summed, SIDE, 3), Matrix::new(summed, SIDE, 4)];
        for order in orders() {
            let found = product(
                "planted_warpgroup_sound",
                [&along[0], &along[1]],
                false,
                order,
            )
            .unwrap();
            let turned = product(
                "planted_warpgroup_sound",
                [&across[0], &across[1]],
                true,
                order,
            )
            .unwrap();
            for (i, (found, turned)) in found.into_iter().zip(turned).enumerate() {
                let (row, column) = (i / SIDE, i % SIDE);
                let expected: f64 = (0..summed)
                    .map(|k| along[0].at(row, k) * along[1].at(column, k))
                    .sum();
                assert_eq!(
                    f64::from(found),
                    expected,
                    "{order:?} {row} {column} of {summed}"
                );
                let expected: f64 = (0..summed)
                    .map(|k| across[0].at(k, row) * across[1].at(k, column))
                    .sum();
                assert_eq!(
                    f64::from(turned),
                    expected,
                    "{order:?} {row} {column} of {summed}"
                );
            }
        }
    }
}

#[test]
fn fragments_in_registers_multiply_as_those_in_shared_memory() {
    let (a, b) = (Matrix::new(SIDE, SIDE, 5), Matrix::new(SIDE, SIDE, 6));
    let device = HostDevice::new(Schedule::Late, 0, 1);
    let (_b, b_map) = b.uploaded(&device).unwrap();
    // a follows d.
    let d = device.memory(4 * SIDE * SIDE + 2 * SIDE * SIDE).unwrap();
    let address = HostDevice::address(&d);
    device
        .write(
            address + 4 * (SIDE * SIDE) as u64,
            bytemuck::cast_slice(&a.numbers),
        )
        .unwrap();
    let params = Params {
        a: b_map,
        b: b_map,
        d: address,
        slabs: 1,
        across: 0,
        padding: [0; 6],
    };
    device
        .launch(&Launch {
            kernel: "planted_warpgroup_registers",
            grid: [1, 1, 1],
            threads: 128,
            shared_bytes: 64 * 128 + 16,
            params: bytemuck::bytes_of(&params),
        })
        .unwrap();
    let mut found = vec![0.0f32; SIDE * SIDE];
    device
        .read(address, bytemuck::cast_slice_mut(&mut found))
        .unwrap();
    for (i, found) in found.into_iter().enumerate() {
        let (row, column) = (i / SIDE, i % SIDE);
        let expected: f64 = (0..SIDE).map(|k| a.at(row, k) * b.at(k, column)).sum();
        assert_eq!(f64::from(found), expected, "{row} {column}");
    }
}

/// a·bᵀ of 64 and 256 rows of `dim` codes of e4m3.
fn product_of_codes(a: &[u8], b: &[u8], dim: usize, order: (Schedule, u64)) -> Vec<f32> {
    const COLUMNS: usize = 256;
    let device = HostDevice::new(order.0, order.1, 1);
    let uploaded = |codes: &[u8], rows: usize| {
        let buffer = device.memory(codes.len()).unwrap();
        let address = HostDevice::address(&buffer);
        device.write(address, codes).unwrap();
        let map = device.tensor_map(&BoxedMatrix {
            address,
            rows,
            row_bytes: dim,
            stride: dim,
            numbers: Arithmetic::E4m3,
            box_rows: rows as u32,
        });
        (buffer, map.unwrap())
    };
    let ((_a, a), (_b, b)) = (uploaded(a, SIDE), uploaded(b, COLUMNS));
    let d = device.memory(4 * SIDE * COLUMNS).unwrap();
    let params = Params {
        a,
        b,
        d: HostDevice::address(&d),
        slabs: dim.div_ceil(128) as u32,
        across: 0,
        padding: [0; 6],
    };
    device
        .launch(&Launch {
            kernel: "planted_warpgroup_e4m3",
            grid: [1, 1, 1],
            threads: 128,
            shared_bytes: (64 + 256) * 128 + 8,
            params: bytemuck::bytes_of(&params),
        })
        .unwrap();
    let mut found = vec![0.0f32; SIDE * COLUMNS];
    device
        .read(params.d, bytemuck::cast_slice_mut(&mut found))
        .unwrap();
    found
}

#[test]
fn products_of_e4m3_are_those_of_the_numbers_that_codes_stand_for() {
    // Small whole numbers, so that sums are exact; 144 and 320: the last box ends outside the matrix.
    let code = |i: usize| e4m3::nearest(((i * 37 + i / 7) % 15) as f32 - 7.0);
    for dim in [128, 144, 320] {
        let a: Vec<u8> = (0..SIDE * dim).map(code).collect();
        let b: Vec<u8> = (0..256 * dim).map(|i| code(i + 5)).collect();
        let expected: Vec<f64> = (0..SIDE * 256)
            .map(|i| {
                let rows = (&a[i / 256 * dim..][..dim], &b[i % 256 * dim..][..dim]);
                let products = rows.0.iter().zip(rows.1);
                products
                    .map(|(&a, &b)| e4m3::value(a) * e4m3::value(b))
                    .sum()
            })
            .collect();
        for order in orders() {
            let found = product_of_codes(&a, &b, dim, order);
            let found: Vec<f64> = found.into_iter().map(f64::from).collect();
            assert_eq!(found, expected, "{order:?}, {dim}");
        }
    }
}

#[test]
fn every_code_of_e4m3_is_multiplied_as_its_number() {
    // Times the unit matrix. Row r of a holds all codes from r on; what is no number would be in all sums.
    let is_number = |code: u8| code & e4m3::NAN != e4m3::NAN;
    let code = |r: usize, k: usize| {
        Some((r + k) as u8)
            .filter(|&code| is_number(code))
            .unwrap_or(0)
    };
    let a: Vec<u8> = (0..SIDE * 256).map(|i| code(i / 256, i % 256)).collect();
    let one = e4m3::nearest(1.0);
    let b: Vec<u8> = (0..256 * 256)
        .map(|i| if i / 256 == i % 256 { one } else { 0 })
        .collect();
    let found = product_of_codes(&a, &b, 256, (Schedule::Late, 0));
    for (i, (found, &code)) in found.into_iter().zip(&a).enumerate() {
        assert_eq!(f64::from(found), e4m3::value(code), "{i}: {code:#x}");
    }
    // NaN reaches every sum of its row, and no other.
    let mut a = a;
    a[3 * 256 + 9] = e4m3::NAN;
    let found = product_of_codes(&a, &b, 256, (Schedule::Late, 0));
    for (i, found) in found.into_iter().enumerate() {
        assert_eq!(found.is_nan(), i / 256 == 3, "{i}");
    }
}

/// The reasons of the faults under every order; none where the run passes.
fn faults(kernel: &'static str) -> Vec<Option<String>> {
    let matrices = [Matrix::new(SIDE, 320, 1), Matrix::new(SIDE, 320, 2)];
    let [a, b] = &matrices;
    orders()
        .map(|order| match product(kernel, [a, b], false, order) {
            Ok(_) => None,
            Err(Error::Kernel { reason, .. }) => Some(reason),
            Err(error) => panic!("{error}"),
        })
        .collect()
}

fn always_fails(kernel: &'static str, symptoms: &[&str]) {
    for reason in faults(kernel) {
        let reason = reason.unwrap_or_else(|| panic!("{kernel} passes"));
        assert!(
            symptoms.iter().any(|symptom| reason.contains(symptom)),
            "{kernel}: {reason}"
        );
        assert!(
            reason.contains("kernels/host/planted/warpgroup.cu:"),
            "{kernel}: {reason}"
        );
    }
}

#[test]
fn planted_mistakes_with_products_are_found() {
    always_fails(
        "planted_warpgroup_fence",
        &["a product with no wgmma_fence"],
    );
    always_fails(
        "planted_warpgroup_descriptor",
        &["has queued another product"],
    );
    always_fails(
        "planted_warpgroup_early_release",
        &[
            "a product: shared memory",
            "is written with no barrier after",
            "is read while a copy to it",
        ],
    );
}

#[test]
fn sums_that_are_read_before_the_wait_are_not_numbers() {
    let [a, b] = &[Matrix::new(SIDE, 64, 1), Matrix::new(SIDE, 64, 2)];
    for order in orders() {
        let found = product("planted_warpgroup_early_read", [a, b], false, order).unwrap();
        assert!(found.iter().all(|number| number.is_nan()), "{order:?}");
    }
}
