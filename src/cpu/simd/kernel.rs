//! [`Kernel`], a microkernel: one instruction set's inner loops, and the matrix product and row loops made of them.

use super::set::{Set, SetTerms};
use crate::element::{DType, Element};

/// Four bytes of an operand: an f32, or a pair of bf16.
pub(crate) type Item = u32;

/// Steps (items along the summed axis) that are multiplied in all panels and rows before the next ones: few enough
/// for their share of a panel to stay in the L1 cache.
const STEPS_PER_BLOCK: usize = 256;

/// Arguments of [`Kernel::tile`]: C = A·B, or C += A·B with `accumulate`. A is `rows` × `steps` items, `rows` at most
/// [`Kernel::tile_rows`]; B is `steps` × one panel. Strides are in items (A) and elements (C).
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub rows: usize,
    pub steps: usize,
    pub a: *const Item,
    pub a_row: usize,
    pub a_step: usize,
    pub b: *const Item,
    pub c: *mut f32,
    pub c_row: usize,
    pub accumulate: bool,
}

/// The inner loops of one instruction set.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// Name as `infonce info` prints it.
    pub name: &'static str,
    /// Columns of a packed panel.
    pub panel: usize,
    /// Elements of an item: 1 for f32, 2 for bf16.
    pub depth: usize,
    /// Rows of a tile.
    pub(super) tile_rows: usize,
    pub(super) tile: unsafe fn(Tile),
    pub(super) row_loops: RowLoops,
}

/// One number of each of two exponentials.
type Two = [f32; 2];

/// Loops over rows; the methods of [`Kernel`] of the same names say what they compute.
#[derive(Debug)]
pub(super) struct RowLoops {
    pub exp_row: unsafe fn(&mut [f32], f32, f32) -> f32,
    pub exp_row_into_columns: unsafe fn(&mut [f32], f32, f32, &mut [f32]) -> f32,
    pub exp_row_both: unsafe fn(&mut [f32], f32, f32, &[f32]),
    pub max_row: unsafe fn(&[f32]) -> f32,
    pub max_sets: unsafe fn(&[f32], Set<'_>) -> [f32; 2],
    pub sum_exp_sets: unsafe fn(&[f32], f32, [f32; 2], Set<'_>) -> [f32; 2],
    pub sum_set: unsafe fn(&[f32], Set<'_>, bool) -> [f32; 2],
    pub is_empty: unsafe fn(Set<'_>) -> bool,
    pub weigh_sets: unsafe fn(&mut [f32], f32, &SetTerms, Set<'_>),
    pub sum_exp_two: unsafe fn(&[f32], Two, Two) -> Two,
    pub weigh_two: unsafe fn(&mut [f32], [f32; 2], [f32; 2]),
    pub weigh_pointwise: unsafe fn(&mut [f32], f32, f32, f32, Set<'_>) -> f32,
    pub sum_targets: unsafe fn([&[f32]; 2], Two, Two) -> [f32; 4],
    pub weigh_targets: unsafe fn(&mut [f32], &[f32], Two, Two, f32),
    pub exclude_equal: unsafe fn(&mut [f32], Set<'_>, Option<Set<'_>>),
    pub exclude_above: unsafe fn(&mut [f32], f32),
    pub dot: unsafe fn(&[f32], &[f32]) -> f64,
}

/// The left operand of a product: element (row, step) is `items[row * row_stride + step * step_stride]`.
#[derive(Clone, Copy)]
pub(crate) struct Left<'a> {
    pub items: &'a [Item],
    pub rows: usize,
    pub steps: usize,
    pub row_stride: usize,
    pub step_stride: usize,
}

impl<'a> Left<'a> {
    /// Whole rows of `steps` items, one after the other.
    pub fn of_rows(items: &'a [Item], steps: usize) -> Self {
        Self {
            items,
            rows: items.len() / steps,
            steps,
            row_stride: steps,
            step_stride: 1,
        }
    }
}

/// The right operand: panels of `panel` columns, items of one step side by side, `panel_stride`
/// items from panel to panel. Columns past the last are zero.
#[derive(Clone, Copy)]
pub(crate) struct Right<'a> {
    pub items: &'a [Item],
    pub panel_stride: usize,
}

/// The output C of a product: `columns` elements a row, `row_stride` elements from row to row.
pub(crate) struct Output<'a> {
    pub elements: &'a mut [f32],
    pub columns: usize,
    pub row_stride: usize,
    /// Whether the product is added to `elements`.
    pub accumulate: bool,
}

impl Kernel {
    /// Output = left · right. When `output.columns` is not a multiple of the panel, a row's stride
    /// must not be smaller than its columns; nothing past them is written.
    pub fn multiply(&self, left: Left<'_>, right: Right<'_>, output: Output<'_>) {
        let Output {
            elements,
            columns,
            row_stride,
            accumulate,
        } = output;
        let panels = columns.div_ceil(self.panel);
        assert!(
            left.rows.min(left.steps).min(panels) > 0,
            "an empty operand"
        );
        let last_left = (left.rows - 1) * left.row_stride + (left.steps - 1) * left.step_stride;
        assert!(last_left < left.items.len(), "left operand too short");
        let last_right = (panels - 1) * right.panel_stride + left.steps * self.panel;
        assert!(last_right <= right.items.len(), "right operand too short");
        assert!(
            row_stride >= columns && (left.rows - 1) * row_stride + columns <= elements.len(),
            "output too short"
        );
        let c = elements.as_mut_ptr();
        for first_step in (0..left.steps).step_by(STEPS_PER_BLOCK) {
            let steps = STEPS_PER_BLOCK.min(left.steps - first_step);
            let accumulate = accumulate || first_step > 0;
            for panel in 0..panels {
                let column = panel * self.panel;
                let width = self.panel.min(columns - column);
                for row in (0..left.rows).step_by(self.tile_rows) {
                    let rows = self.tile_rows.min(left.rows - row);
                    // SAFETY: the offsets below stay inside the three slices by the assertions
                    // above, and the kernel was chosen for this CPU.
                    unsafe {
                        let tile = Tile {
                            rows,
                            steps,
                            a: left
                                .items
                                .as_ptr()
                                .add(row * left.row_stride + first_step * left.step_stride),
                            a_row: left.row_stride,
                            a_step: left.step_stride,
                            b: right
                                .items
                                .as_ptr()
                                .add(panel * right.panel_stride + first_step * self.panel),
                            c: c.add(row * row_stride + column),
                            c_row: row_stride,
                            accumulate,
                        };
                        if width == self.panel {
                            (self.tile)(tile);
                        } else {
                            self.narrow_tile(tile, width);
                        }
                    }
                }
            }
        }
    }

    /// Computes a tile of the last, partial panel in a buffer, because tiles write whole panels.
    ///
    /// # Safety
    /// As for `tile`, but C needs only `width` elements a row.
    unsafe fn narrow_tile(&self, tile: Tile, width: usize) {
        let mut buffer = [0.0f32; MAX_TILE];
        // SAFETY: the buffer holds the largest tile of any kernel; C is touched only at
        // `rows` × `width`, which the caller vouches for.
        unsafe {
            (self.tile)(Tile {
                c: buffer.as_mut_ptr(),
                c_row: self.panel,
                accumulate: false,
                ..tile
            });
            for row in 0..tile.rows {
                for column in 0..width {
                    let target = tile.c.add(row * tile.c_row + column);
                    let product = buffer[row * self.panel + column];
                    *target = if tile.accumulate {
                        *target + product
                    } else {
                        product
                    };
                }
            }
        }
    }

    /// row_j ← 2^(scale₂·row_j − offset₂); returns the sum.
    pub fn exp_row(&self, row: &mut [f32], scale2: f32, offset2: f32) -> f32 {
        // SAFETY: the kernel was chosen for this CPU.
        unsafe { (self.row_loops.exp_row)(row, scale2, offset2) }
    }

    /// As [`exp_row`](Self::exp_row), and adds each exponential to its column's sum.
    pub fn exp_row_into_columns(
        &self,
        row: &mut [f32],
        scale2: f32,
        offset2: f32,
        columns: &mut [f32],
    ) -> f32 {
        // SAFETY: the kernel was chosen for this CPU.
        unsafe { (self.row_loops.exp_row_into_columns)(row, scale2, offset2, columns) }
    }

    /// row_j ← 2^(scale₂·row_j − offset₂) + 2^(scale₂·row_j − column_offsets₂_j).
    pub fn exp_row_both(
        &self,
        row: &mut [f32],
        scale2: f32,
        offset2: f32,
        column_offsets2: &[f32],
    ) {
        // SAFETY: the kernel was chosen for this CPU.
        unsafe { (self.row_loops.exp_row_both)(row, scale2, offset2, column_offsets2) }
    }

    /// The largest element of a row; −∞ for an empty row. NaN is ignored.
    pub fn max_row(&self, row: &[f32]) -> f32 {
        // SAFETY: the kernel was chosen for this CPU.
        unsafe { (self.row_loops.max_row)(row) }
    }

    /// The largest elements of a row outside of the set and in it, as [`max_row`](Self::max_row).
    pub fn max_sets(&self, row: &[f32], set: Set<'_>) -> [f32; 2] {
        // SAFETY: the kernel was chosen for this CPU.
        unsafe { (self.row_loops.max_sets)(row, set) }
    }

    /// Σ 2^(scale₂·row_j − offset₂) outside of the set and in it, each with its offset.
    pub fn sum_exp_sets(
        &self,
        row: &[f32],
        scale2: f32,
        offsets2: [f32; 2],
        set: Set<'_>,
    ) -> [f32; 2] {
        // SAFETY: the kernel was chosen for this CPU.
        unsafe { (self.row_loops.sum_exp_sets)(row, scale2, offsets2, set) }
    }

    /// Sum and number of the elements other than −∞ in the set, or outside of it.
    pub fn sum_set(&self, row: &[f32], set: Set<'_>, of_positives: bool) -> [f32; 2] {
        // SAFETY: the kernel was chosen for this CPU.
        unsafe { (self.row_loops.sum_set)(row, set, of_positives) }
    }

    /// Whether no element is in the set.
    pub fn is_empty(&self, set: Set<'_>) -> bool {
        // SAFETY: the kernel was chosen for this CPU.
        unsafe { (self.row_loops.is_empty)(set) }
    }

    /// row_j ← factor·2^(scale₂·row_j − offset₂) + summand with the terms of its class; 0 where it is −∞.
    pub fn weigh_sets(&self, row: &mut [f32], scale2: f32, terms: &SetTerms, set: Set<'_>) {
        // SAFETY: the kernel was chosen for this CPU.
        unsafe { (self.row_loops.weigh_sets)(row, scale2, terms, set) }
    }

    /// Σ 2^(scale₂·row_j − offset₂) for two scales and offsets.
    pub fn sum_exp_two(&self, row: &[f32], scales2: [f32; 2], offsets2: [f32; 2]) -> [f32; 2] {
        // SAFETY: the kernel was chosen for this CPU.
        unsafe { (self.row_loops.sum_exp_two)(row, scales2, offsets2) }
    }

    /// row_j ← 2^(scale₂·row_j − offset₂) of the first scale and offset less that of the second.
    pub fn weigh_two(&self, row: &mut [f32], scales2: [f32; 2], offsets2: [f32; 2]) {
        // SAFETY: the kernel was chosen for this CPU.
        unsafe { (self.row_loops.weigh_two)(row, scales2, offsets2) }
    }

    /// With x = (scale₂·row_j + bias₂)·ln 2, row_j ← factor·σ(x) outside of the set and −factor·σ(−x) in it, 0 where it is
    /// −∞; returns the sum of softplus(x) outside and of softplus(−x) in it.
    pub fn weigh_pointwise(
        &self,
        row: &mut [f32],
        [scale2, bias2]: [f32; 2],
        factor: f32,
        set: Set<'_>,
    ) -> f32 {
        // SAFETY: the kernel was chosen for this CPU.
        unsafe { (self.row_loops.weigh_pointwise)(row, scale2, bias2, factor, set) }
    }

    /// With exponentials 2^(scale₂·x_j − offset₂) of the row and of its targets, each with its scale and offset: their
    /// sums, and those of the target's exponential times the row's element and times the target's.
    pub fn sum_targets(
        &self,
        row: &[f32],
        targets: &[f32],
        scales2: [f32; 2],
        offsets2: [f32; 2],
    ) -> [f32; 4] {
        // SAFETY: the kernel was chosen for this CPU.
        unsafe { (self.row_loops.sum_targets)([row, targets], scales2, offsets2) }
    }

    /// row_j ← the row's exponential less the target's, as of [`sum_targets`](Self::sum_targets). `gap2` is the row's
    /// offset less the target's, before these were rounded.
    pub fn weigh_targets(
        &self,
        row: &mut [f32],
        targets: &[f32],
        scales2: [f32; 2],
        offsets2: [f32; 2],
        gap2: f32,
    ) {
        // SAFETY: the kernel was chosen for this CPU.
        unsafe { (self.row_loops.weigh_targets)(row, targets, scales2, offsets2, gap2) }
    }

    /// row_j ← −∞ in the set `ids`, but not in `but`.
    pub fn exclude_equal(&self, row: &mut [f32], ids: Set<'_>, but: Option<Set<'_>>) {
        // SAFETY: the kernel was chosen for this CPU.
        unsafe { (self.row_loops.exclude_equal)(row, ids, but) }
    }

    /// row_j ← −∞ where it exceeds `limit`.
    pub fn exclude_above(&self, row: &mut [f32], limit: f32) {
        // SAFETY: the kernel was chosen for this CPU.
        unsafe { (self.row_loops.exclude_above)(row, limit) }
    }

    /// ⟨a, b⟩ in f64, in a fixed order; both have the same length.
    pub fn dot<T: Element, U: Element>(&self, a: &[T], b: &[U]) -> f64 {
        // SAFETY: the kernel was chosen for this CPU.
        let dot = |a: &[f32], b: &[f32]| unsafe { (self.row_loops.dot)(a, b) };
        if T::DTYPE == DType::F32 && U::DTYPE == DType::F32 {
            return dot(bytemuck::cast_slice(a), bytemuck::cast_slice(b));
        }
        /// Elements that are widened at a time.
        const CHUNK: usize = 256;
        let (mut wide_a, mut wide_b) = ([0.0f32; CHUNK], [0.0f32; CHUNK]);
        let products = a.chunks(CHUNK).zip(b.chunks(CHUNK)).map(|(a, b)| {
            let (wide_a, wide_b) = (&mut wide_a[..a.len()], &mut wide_b[..b.len()]);
            T::widen(a, wide_a);
            U::widen(b, wide_b);
            dot(wide_a, wide_b)
        });
        products.sum()
    }
}

/// Elements in the largest tile of any kernel.
const MAX_TILE: usize = 12 * 32;

/// Compiles the loops over rows for the instruction set that the attribute names.
macro_rules! row_loops {
    ($fma:literal $(, #[$feature:meta])?) => {
        $(#[$feature])?
        unsafe fn exp_row(row: &mut [f32], scale2: f32, offset2: f32) -> f32 {
            $crate::cpu::simd::exp::exp_row::<$fma>(row, scale2, offset2)
        }
        $(#[$feature])?
        unsafe fn exp_row_into_columns(
            row: &mut [f32],
            scale2: f32,
            offset2: f32,
            columns: &mut [f32],
        ) -> f32 {
            $crate::cpu::simd::exp::exp_row_into_columns::<$fma>(row, scale2, offset2, columns)
        }
        $(#[$feature])?
        unsafe fn exp_row_both(
            row: &mut [f32],
            scale2: f32,
            offset2: f32,
            column_offsets2: &[f32],
        ) {
            $crate::cpu::simd::exp::exp_row_both::<$fma>(row, scale2, offset2, column_offsets2)
        }
        $(#[$feature])?
        unsafe fn max_row(row: &[f32]) -> f32 {
            $crate::cpu::simd::exp::max_row(row)
        }
        $(#[$feature])?
        unsafe fn max_sets(row: &[f32], set: $crate::cpu::simd::Set<'_>) -> [f32; 2] {
            $crate::cpu::simd::exp::max_sets(row, set)
        }
        $(#[$feature])?
        unsafe fn sum_exp_sets(row: &[f32], scale2: f32, offsets2: [f32; 2], set: $crate::cpu::simd::Set<'_>) -> [f32; 2] {
            $crate::cpu::simd::exp::sum_exp_sets::<$fma>(row, scale2, offsets2, set)
        }
        $(#[$feature])?
        unsafe fn sum_set(
            row: &[f32],
            set: $crate::cpu::simd::Set<'_>,
            of_positives: bool,
        ) -> [f32; 2] {
            $crate::cpu::simd::exp::sum_set(row, set, of_positives)
        }
        $(#[$feature])?
        unsafe fn is_empty(set: $crate::cpu::simd::Set<'_>) -> bool {
            $crate::cpu::simd::exp::is_empty(set)
        }
        $(#[$feature])?
        unsafe fn weigh_sets(row: &mut [f32], scale2: f32, terms: &$crate::cpu::simd::SetTerms, set: $crate::cpu::simd::Set<'_>) {
            $crate::cpu::simd::exp::weigh_sets::<$fma>(row, scale2, terms, set)
        }
        $(#[$feature])?
        unsafe fn sum_exp_two(row: &[f32], scales2: [f32; 2], offsets2: [f32; 2]) -> [f32; 2] {
            $crate::cpu::simd::exp::sum_exp_two::<$fma>(row, scales2, offsets2)
        }
        $(#[$feature])?
        unsafe fn weigh_two(row: &mut [f32], scales2: [f32; 2], offsets2: [f32; 2]) {
            $crate::cpu::simd::exp::weigh_two::<$fma>(row, scales2, offsets2)
        }
        $(#[$feature])?
        unsafe fn weigh_pointwise(row: &mut [f32], scale2: f32, bias2: f32, factor: f32, set: $crate::cpu::simd::Set<'_>) -> f32 {
            $crate::cpu::simd::exp::weigh_pointwise::<$fma>(row, scale2, bias2, factor, set)
        }
        $(#[$feature])?
        unsafe fn sum_targets(rows: [&[f32]; 2], scales2: [f32; 2], offsets2: [f32; 2]) -> [f32; 4] {
            $crate::cpu::simd::exp::sum_targets::<$fma>(rows, scales2, offsets2)
        }
        $(#[$feature])?
        unsafe fn weigh_targets(row: &mut [f32], targets: &[f32], scales2: [f32; 2], offsets2: [f32; 2], gap2: f32) {
            $crate::cpu::simd::exp::weigh_targets::<$fma>(row, targets, scales2, offsets2, gap2)
        }
        $(#[$feature])?
        unsafe fn exclude_equal(row: &mut [f32], ids: $crate::cpu::simd::Set<'_>, but: Option<$crate::cpu::simd::Set<'_>>) {
            $crate::cpu::simd::exp::exclude_equal(row, ids, but)
        }
        $(#[$feature])?
        unsafe fn exclude_above(row: &mut [f32], limit: f32) {
            $crate::cpu::simd::exp::exclude_above(row, limit)
        }
        $(#[$feature])?
        unsafe fn dot(a: &[f32], b: &[f32]) -> f64 {
            $crate::cpu::simd::dot::dot(a, b)
        }
        const ROW_LOOPS: $crate::cpu::simd::kernel::RowLoops = $crate::cpu::simd::kernel::RowLoops {
            exp_row,
            exp_row_into_columns,
            exp_row_both,
            max_row,
            max_sets,
            sum_exp_sets,
            sum_set,
            is_empty,
            weigh_sets,
            sum_exp_two,
            weigh_two,
            weigh_pointwise,
            sum_targets,
            weigh_targets,
            exclude_equal,
            exclude_above,
            dot,
        };
    };
}
pub(super) use row_loops;
