//! The AVX-512 microkernels of C = A·B: 12×32 tiles of C in 24 registers. f32 items use FMA; bf16 items use
//! `vdpbf16ps`, which does two products an item at the same rate.

use std::arch::x86_64::{
    __m512bh, __m512i, _mm512_add_ps, _mm512_castsi512_ps, _mm512_dpbf16_ps, _mm512_fmadd_ps,
    _mm512_loadu_ps, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_ps, _mm512_storeu_ps,
};

use super::kernel::{Item, Kernel, Tile, row_loops};

const ROWS: usize = 12;
const PANEL: usize = 32;
const VECTOR: usize = 16;

static F32: Kernel = Kernel {
    name: "avx512f f32",
    panel: PANEL,
    depth: 1,
    tile_rows: ROWS,
    tile: tile_f32,
    row_loops: ROW_LOOPS,
};

static BF16: Kernel = Kernel {
    name: "avx512bf16",
    panel: PANEL,
    depth: 2,
    tile_rows: ROWS,
    tile: tile_bf16,
    row_loops: ROW_LOOPS,
};

pub(super) fn f32_kernel() -> Option<&'static Kernel> {
    is_x86_feature_detected!("avx512f").then_some(&F32)
}

pub(super) fn bf16_kernel() -> Option<&'static Kernel> {
    (is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16")).then_some(&BF16)
}

macro_rules! multiply_add_f32 {
    ($a:expr, $b:expr, $sum:expr) => {
        _mm512_fmadd_ps(_mm512_castsi512_ps($a), _mm512_castsi512_ps($b), $sum)
    };
}
macro_rules! multiply_add_bf16 {
    ($a:expr, $b:expr, $sum:expr) => {
        _mm512_dpbf16_ps(
            $sum,
            std::mem::transmute::<__m512i, __m512bh>($a),
            std::mem::transmute::<__m512i, __m512bh>($b),
        )
    };
}
macro_rules! tile {
    ($tile:ident, $rows:ident, $features:literal, $multiply_add:ident) => {
        /// # Safety
        /// Needs the instruction set; the pointers of `tile` must be valid for its rows, steps
        /// and one panel.
        unsafe fn $tile(tile: Tile) {
            // SAFETY: passed on to the caller.
            unsafe {
                match tile.rows {
                    1 => $rows::<1>(tile),
                    2 => $rows::<2>(tile),
                    3 => $rows::<3>(tile),
                    4 => $rows::<4>(tile),
                    5 => $rows::<5>(tile),
                    6 => $rows::<6>(tile),
                    7 => $rows::<7>(tile),
                    8 => $rows::<8>(tile),
                    9 => $rows::<9>(tile),
                    10 => $rows::<10>(tile),
                    11 => $rows::<11>(tile),
                    _ => $rows::<ROWS>(tile),
                }
            }
        }

        /// # Safety
        /// As for the tile, with R rows.
        #[target_feature(enable = $features)]
        unsafe fn $rows<const R: usize>(tile: Tile) {
            let mut sums = [[_mm512_setzero_ps(); 2]; R];
            let mut a: *const Item = tile.a;
            let mut b: *const Item = tile.b;
            // SAFETY: the caller vouches for the pointers.
            unsafe {
                for _ in 0..tile.steps {
                    let low = _mm512_loadu_si512(b.cast());
                    let high = _mm512_loadu_si512(b.add(VECTOR).cast());
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let a = _mm512_set1_epi32(*a.add(row * tile.a_row) as i32);
                        sums[0] = $multiply_add!(a, low, sums[0]);
                        sums[1] = $multiply_add!(a, high, sums[1]);
                    }
                    a = a.add(tile.a_step);
                    b = b.add(PANEL);
                }
                for (row, sums) in sums.into_iter().enumerate() {
                    let c = tile.c.add(row * tile.c_row);
                    let [mut low, mut high] = sums;
                    if tile.accumulate {
                        low = _mm512_add_ps(_mm512_loadu_ps(c), low);
                        high = _mm512_add_ps(_mm512_loadu_ps(c.add(VECTOR)), high);
                    }
                    _mm512_storeu_ps(c, low);
                    _mm512_storeu_ps(c.add(VECTOR), high);
                }
            }
        }
    };
}

tile!(tile_f32, rows_f32, "avx512f", multiply_add_f32);
tile!(
    tile_bf16,
    rows_bf16,
    "avx512f,avx512bf16",
    multiply_add_bf16
);

row_loops!(true, #[target_feature(enable = "avx512f")]);
