//! Plain Rust microkernels: f32 for CPUs without a kernel of their own, bf16 items for tests on any CPU.

use super::kernel::{Item, Kernel, Tile};

const ROWS: usize = 4;
const PANEL: usize = 16;

pub(super) static F32: Kernel = Kernel {
    name: "portable f32",
    panel: PANEL,
    depth: 1,
    tile_rows: ROWS,
    tile: tile::<1>,
    row_loops: ROW_LOOPS,
};

#[cfg(test)]
pub(super) static BF16: Kernel = Kernel {
    name: "portable bf16",
    panel: PANEL,
    depth: 2,
    tile_rows: ROWS,
    tile: tile::<2>,
    row_loops: ROW_LOOPS,
};

/// An f32 item's product, or those of the two elements of a bf16 item, added to `sum`.
#[inline(always)]
fn multiply_add<const DEPTH: usize>(sum: f32, a: Item, b: Item) -> f32 {
    if DEPTH == 1 {
        return sum + f32::from_bits(a) * f32::from_bits(b);
    }
    const UPPER: u32 = 0xffff_0000;
    let high = f32::from_bits(a & UPPER) * f32::from_bits(b & UPPER);
    let low = f32::from_bits(a << 16) * f32::from_bits(b << 16);
    sum + high + low
}

/// # Safety
/// The pointers of `tile` must be valid for its rows, steps and one panel.
unsafe fn tile<const DEPTH: usize>(tile: Tile) {
    let mut sums = [[0.0f32; PANEL]; ROWS];
    // SAFETY: the caller vouches for the pointers.
    unsafe {
        for step in 0..tile.steps {
            let b = std::slice::from_raw_parts(tile.b.add(step * PANEL), PANEL);
            for (row, sums) in sums.iter_mut().enumerate().take(tile.rows) {
                let a = *tile.a.add(row * tile.a_row + step * tile.a_step);
                for (sum, &b) in sums.iter_mut().zip(b) {
                    *sum = multiply_add::<DEPTH>(*sum, a, b);
                }
            }
        }
        for (row, sums) in sums.iter().enumerate().take(tile.rows) {
            let c = std::slice::from_raw_parts_mut(tile.c.add(row * tile.c_row), PANEL);
            for (c, &sum) in c.iter_mut().zip(sums) {
                *c = if tile.accumulate { *c + sum } else { sum };
            }
        }
    }
}

super::kernel::row_loops!(false);
