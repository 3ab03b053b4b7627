//! Rows as e4m3 with a scale each: every code, and the kernel's rows against the definition.

use half::{bf16, f16};

use super::*;
use crate::emulator::tests::e4m3::{self, quantized};
use crate::launch::held::Held;
use crate::launch::kernels::Kernel;
use crate::launch::{Device, Launch};

/// Values at which rounding to e4m3 changes: every code's value, the middle between neighbours, the two f32 beside each
/// of these, with both signs.
fn boundaries() -> Vec<f32> {
    let mut all = Vec::new();
    for code in 0..e4m3::NAN {
        let here = e4m3::value(code);
        let next = match code + 1 {
            // Where the next number would be.
            e4m3::NAN => 480.0,
            next => e4m3::value(next),
        };
        for x in [here as f32, ((here + next) / 2.0) as f32] {
            all.extend([x, x.next_up(), x.next_down()]);
        }
    }
    all.extend([f32::MIN_POSITIVE, f32::MIN_POSITIVE / 2.0, 1e-45]);
    let negative: Vec<f32> = all.iter().map(|x| -x).collect();
    all.extend(negative);
    all
}

#[test]
fn conversion_to_e4m3_rounds_to_nearest_even_and_saturates() -> Result<(), Error> {
    let mut x = boundaries();
    for size in [479.9, 480.0, 1e5, f32::MAX, f32::INFINITY] {
        x.extend([size, -size]);
    }
    x.extend([f32::NAN, -f32::NAN]);
    let memory = Memory::on(EmulatedDevice::new(Schedule::Late, 0, 1));
    let (from, to, pairs) = (memory.upload(&x)?, memory.unwritten(x.len())?, x.len() / 2);
    memory.device.launch(&Launch {
        kernel: &Kernel::planted("e4m3_of", 64, 0),
        grid: [pairs.div_ceil(64) as u32, 1, 1],
        params: bytemuck::cast_slice(&[from, to, pairs as u64]),
    })?;
    let codes: Vec<u8> = memory.read(to, x.len())?;
    for (x, code) in x.into_iter().zip(codes) {
        assert_eq!(code, e4m3::nearest(x), "{x:e}");
    }
    Ok(())
}

/// Holds the rows that `quantize_rows` makes of a matrix against the definition, bit for bit, padding included. The
/// matrix's rows lie `gap` elements apart, `gap` elements after the start of an allocation.
fn compare<T: Element>(x: &[T], dim: usize, gap: usize, sm_count: u32) -> Result<(), Error> {
    let memory = Memory::on(EmulatedDevice::new(Schedule::Late, 3, sm_count));
    let (rows, matrix) = (x.len() / dim, memory.given(x, dim, gap)?);
    let mut held = Held::new(&memory.device);
    let found = Similarity::new(&memory.device, 0).quantized(matrix, &mut held)?;
    let row_bytes = dim.next_multiple_of(16);
    assert_eq!(found.row_bytes as usize, row_bytes);
    let codes: Vec<u8> = memory.read(found.data, rows * row_bytes)?;
    let scales: Vec<f32> = memory.read(found.scales, rows.next_multiple_of(256))?;
    assert!(scales[rows..].iter().all(|&scale| scale == 0.0));
    let found = codes.chunks(row_bytes).zip(scales);
    for (i, (row, (codes, scale))) in x.chunks(dim).zip(found).enumerate() {
        let wide: Vec<f32> = row.iter().map(|x| x.to_f32()).collect();
        let (mut expected, expected_scale) = quantized(&wide);
        let context = format!("row {i} of {dim} {}, gap {gap}", T::DTYPE);
        if expected_scale.is_nan() {
            assert!(scale.is_nan(), "{context}: {scale}");
            continue;
        }
        expected.resize(row_bytes, 0);
        assert_eq!(scale.to_bits(), expected_scale.to_bits(), "{context}");
        assert_eq!(codes, expected, "{context}");
    }
    Ok(())
}

#[test]
fn rows_are_rounded_by_the_definition_bit_for_bit() -> Result<(), Error> {
    fn check<T: Element>() -> Result<(), Error> {
        // One element a row up to 1,024 and beyond; whole quads and not; several rows a warp.
        for (dim, sm_count) in [
            (1, 1),
            (7, 1),
            (64, 1),
            (64, 4),
            (128, 2),
            (130, 1),
            (200, 1),
            (512, 1),
            (1024, 8),
            (1028, 1),
        ] {
            let rows = if dim > 256 { 9 } else { 300 };
            let mut x: Vec<T> = numbers(rows, dim, 5);
            // A row of zeros; rows near both ends of the range of f32.
            x[..dim].fill(T::from_f32(0.0));
            for (row, size) in [(1, 1e-39), (2, 2e-36), (3, 3e38), (4, 6e4)] {
                for x in &mut x[row * dim..(row + 1) * dim] {
                    *x = T::from_f32(x.to_f32() * size);
                }
            }
            for (row, number) in [(5, f32::NAN), (6, f32::INFINITY), (7, f32::NEG_INFINITY)] {
                x[row * dim + dim / 2] = T::from_f32(number);
            }
            for gap in [0, 1] {
                compare(&x, dim, gap, sm_count)?;
            }
        }
        Ok(())
    }
    check::<f32>()?;
    check::<f16>()?;
    check::<bf16>()?;
    // A row with 448 has the scale 1, so every boundary is rounded unscaled.
    let mut row = boundaries();
    row.retain(|x| x.abs() <= 448.0);
    row.resize(row.len().next_multiple_of(4), 448.0);
    for row in row.chunks(508) {
        let mut row = row.to_vec();
        row.extend([448.0, 0.0, -448.0, -0.0]);
        let dim = row.len();
        assert_eq!(quantized(&row).1, 1.0);
        compare(&row, dim, 0, 1)?;
        compare(&row, dim, 1, 1)?;
    }
    Ok(())
}
