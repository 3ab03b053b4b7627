//! The number of rows that a warp holds does not change the results; indices of a memory bank in device memory.

use approx::abs_diff_eq;
use half::{bf16, f16};

use super::*;
use crate::launch::Rowwise;

const ROWS: usize = 301;
const EPSILON: f32 = 1e-3;

/// y, the norms and dx.
type Left<O> = (Vec<O>, Vec<f32>, Vec<f32>);

/// Both kernels, on a device of `sm_count` SMs.
fn run<T: Element, O: Element>(
    x: &[T],
    dy: &[f32],
    dim: usize,
    sm_count: u32,
    gap: usize,
) -> Result<Left<O>, Error> {
    let memory = Memory::on(EmulatedDevice::new(Schedule::Late, 7, sm_count));
    let given = memory.given(x, dim, gap)?;
    let unit = memory.matrix([ROWS, dim], O::DTYPE, gap)?;
    let of_unit = memory.given(dy, dim, gap)?;
    let of_given = memory.matrix([ROWS, dim], DType::F32, gap)?;
    let lengths = (memory.unwritten(4 * ROWS)?, ROWS);
    let rowwise = Rowwise::new(&memory.device);
    rowwise.normalize(given, unit, lengths, EPSILON)?;
    rowwise.normalize_backward(unit, lengths, of_unit, of_given, EPSILON)?;
    Ok((
        memory.elements(unit)?,
        memory.read(lengths.0, ROWS)?,
        memory.elements(of_given)?,
    ))
}

fn compare<T: Element, O: Element>(dim: usize) -> Result<(), Error> {
    let mut x: Vec<T> = numbers(ROWS, dim, 1);
    let dy: Vec<f32> = numbers(ROWS, dim, 2);
    // Among rows of moderate length: zeros, shorter than ε, huge, infinity and NaN, one of them last.
    for (row, number) in [
        (0, 0.0),
        (9, 1e-6),
        (10, 3e4),
        (77, f32::INFINITY),
        (300, f32::NAN),
    ] {
        x[row * dim..(row + 1) * dim].fill(T::from_f32(number));
    }
    if T::DTYPE != DType::F16 {
        x[12 * dim..13 * dim].fill(T::from_f32(1e30));
    }
    let bits = |(y, norms, dx): &Left<O>| {
        let rows = [
            bytemuck::cast_slice::<_, u8>(y),
            bytemuck::cast_slice(norms),
            bytemuck::cast_slice(dx),
        ];
        rows.concat()
    };
    let one_row = run::<T, O>(&x, &dy, dim, 1000, 0)?;
    let expected = bits(&one_row);
    // 8, 4 and 2 rows a warp, where D lets it hold them.
    for sm_count in [1, 2, 4] {
        let several = run::<T, O>(&x, &dy, dim, sm_count, 0)?;
        assert!(bits(&several) == expected, "D = {dim}, {sm_count}");
    }
    // Rows that are not aligned quads are read element by element.
    let single = run::<T, O>(&x, &dy, dim, 1, 1)?;
    let close = |a: f32, b: f32, spacing: f32| {
        a.to_bits() == b.to_bits()
            || abs_diff_eq!(a, b, epsilon = spacing * a.abs().max(1.0))
            || a.is_nan() && b.is_nan()
    };
    let norms = one_row.1.iter().zip(&single.1);
    assert!(
        norms.into_iter().all(|(&a, &b)| close(a, b, 1e-6)),
        "D = {dim}"
    );
    let mut y = one_row.0.iter().zip(&single.0);
    assert!(
        y.all(|(a, b)| close(a.to_f32(), b.to_f32(), O::EPSILON)),
        "D = {dim}"
    );
    Ok(())
}

#[test]
fn rows_that_share_a_warp_have_the_bits_of_rows_alone() -> Result<(), Error> {
    // Rows that fill a warp's quads and rows that do not, and rows too long for registers.
    for dim in [4, 128, 132, 256, 516, 1024, 1028] {
        compare::<f32, f32>(dim)?;
        compare::<bf16, bf16>(dim)?;
        compare::<f16, f32>(dim)?;
    }
    Ok(())
}

#[test]
fn a_banks_last_key_counts_in_any_order_of_blocks() -> Result<(), Error> {
    // 70 keys are 9 blocks, and more later keys than a warp has lanes. Row 5 does not occur.
    let (rows, dim, count) = (9, 20, 70);
    let bank: Vec<bf16> = numbers(rows, dim, 1);
    let keys: Vec<bf16> = numbers(count, dim, 2);
    let mut index: Vec<u32> = (0..count as u32)
        .map(|i| [0, 3, 8, 3, 1][i as usize % 5])
        .collect();
    // The host cannot check indices in device memory: these name no row.
    for (place, beyond) in [(2, 9), (40, u32::MAX), (69, 1 << 31)] {
        index[place] = beyond;
    }
    let updated = in_every_order("bank", |schedule, seed| {
        let memory = Memory::on(EmulatedDevice::new(schedule, seed, 3));
        let there = memory.given(&bank, dim, 1)?;
        let (rows, keys) = (memory.words(&index)?, memory.given(&keys, dim, 0)?);
        Rowwise::new(&memory.device).update_rows(there, rows, keys, 0.25)?;
        memory.elements::<bf16>(there)
    })?;
    // One key at a time, each the last of its row.
    let mut expected = bank.clone();
    for row in 0..rows {
        let Some(last) = index.iter().rposition(|&named| named == row as u32) else {
            continue;
        };
        let memory = Memory::on(EmulatedDevice::new(Schedule::Late, 1, 3));
        let there = memory.given(&expected, dim, 0)?;
        let key = memory.given(&keys[last * dim..(last + 1) * dim], dim, 0)?;
        let named = memory.words(&[row as u32])?;
        Rowwise::new(&memory.device).update_rows(there, named, key, 0.25)?;
        expected = memory.elements(there)?;
    }
    assert_eq!(updated, expected);
    assert_eq!(updated[5 * dim..6 * dim], bank[5 * dim..6 * dim]);
    assert_ne!(updated[8 * dim..], bank[8 * dim..]);
    Ok(())
}
