//! The AVX2 + FMA microkernel of C = A·B: a 6×16 tile of C in 12 registers; each step loads two vectors of B and
//! broadcasts one item of each row of A.

use std::arch::x86_64::{
    __m256, _MM_HINT_T0, _mm_prefetch, _mm256_add_ps, _mm256_broadcast_ss, _mm256_fmadd_ps,
    _mm256_loadu_ps, _mm256_setzero_ps, _mm256_storeu_ps,
};

use super::kernel::{Kernel, Tile, row_loops};

const ROWS: usize = 6;
const PANEL: usize = 16;
/// Steps unrolled where A is contiguous along the summed axis.
const UNROLL: usize = 4;

static KERNEL: Kernel = Kernel {
    name: "avx2+fma f32",
    panel: PANEL,
    depth: 1,
    tile_rows: ROWS,
    tile,
    row_loops: ROW_LOOPS,
};

pub(super) fn kernel() -> Option<&'static Kernel> {
    (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(&KERNEL)
}

/// # Safety
/// Needs AVX2 and FMA; the pointers of `tile` must be valid for its rows, steps and one panel.
unsafe fn tile(tile: Tile) {
    // SAFETY: passed on to the caller.
    unsafe {
        match tile.rows {
            1 => rows::<1>(tile),
            2 => rows::<2>(tile),
            3 => rows::<3>(tile),
            4 => rows::<4>(tile),
            5 => rows::<5>(tile),
            _ => rows::<ROWS>(tile),
        }
    }
}

/// # Safety
/// As for [`tile`], with R rows.
#[target_feature(enable = "avx2,fma")]
unsafe fn rows<const R: usize>(tile: Tile) {
    let mut sums = [[_mm256_setzero_ps(); 2]; R];
    let mut a = tile.a.cast::<f32>();
    let mut b = tile.b.cast::<f32>();
    // SAFETY: the caller vouches for the pointers.
    unsafe {
        for row in 0..R {
            let c = tile.c.add(row * tile.c_row).cast::<i8>();
            _mm_prefetch::<_MM_HINT_T0>(c);
            _mm_prefetch::<_MM_HINT_T0>(c.add(60));
        }
        if tile.a_step == 1 {
            for _ in 0..tile.steps / UNROLL {
                for step in 0..UNROLL {
                    step_of(&mut sums, a.add(step), tile.a_row, b.add(step * PANEL));
                }
                a = a.add(UNROLL);
                b = b.add(UNROLL * PANEL);
            }
            for _ in 0..tile.steps % UNROLL {
                step_of(&mut sums, a, tile.a_row, b);
                a = a.add(1);
                b = b.add(PANEL);
            }
        } else {
            for _ in 0..tile.steps {
                _mm_prefetch::<_MM_HINT_T0>(a.wrapping_add(8 * tile.a_step).cast());
                step_of(&mut sums, a, tile.a_row, b);
                a = a.add(tile.a_step);
                b = b.add(PANEL);
            }
        }
        for (row, sums) in sums.into_iter().enumerate() {
            let c = tile.c.add(row * tile.c_row);
            let [mut low, mut high] = sums;
            if tile.accumulate {
                low = _mm256_add_ps(_mm256_loadu_ps(c), low);
                high = _mm256_add_ps(_mm256_loadu_ps(c.add(8)), high);
            }
            _mm256_storeu_ps(c, low);
            _mm256_storeu_ps(c.add(8), high);
        }
    }
}

/// One step: two vectors of B, one broadcast per row of A.
///
/// # Safety
/// Needs AVX2 and FMA; R rows of A and one panel of B at the pointers.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn step_of<const R: usize>(
    sums: &mut [[__m256; 2]; R],
    a: *const f32,
    a_row: usize,
    b: *const f32,
) {
    // SAFETY: the caller vouches for the pointers.
    unsafe {
        let low = _mm256_loadu_ps(b);
        let high = _mm256_loadu_ps(b.add(8));
        for (row, sums) in sums.iter_mut().enumerate() {
            let a = _mm256_broadcast_ss(&*a.add(row * a_row));
            sums[0] = _mm256_fmadd_ps(a, low, sums[0]);
            sums[1] = _mm256_fmadd_ps(a, high, sums[1]);
        }
    }
}

row_loops!(true, #[target_feature(enable = "avx2,fma")]);
