//! Packs the operands of matrix products in the order in which the microkernels read them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use super::simd::{Item, Kernel, Right};
use crate::element::{DType, Element};

/// One cache line of items. Lines are aligned to 64 bytes, so no vector load of a panel crosses two of them.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([Item; 16]);

/// Buffers that later calls use again, because the page faults of fresh memory cost more than the packing.
#[derive(Clone, Default)]
pub(super) struct Workspace {
    /// Free buffers, the smallest first.
    free: Arc<Mutex<Vec<Vec<Line>>>>,
}

impl Workspace {
    /// A buffer of `items` items with arbitrary contents.
    pub fn take(&self, items: usize) -> Buffer {
        let lines = items.div_ceil(16);
        let mut free = self.free();
        let place = free.partition_point(|buffer| buffer.len() < lines);
        let reused = match place < free.len() {
            true => free.remove(place),
            false => {
                // The new buffer is larger than all free ones: it replaces the largest.
                free.pop();
                Vec::new()
            }
        };
        drop(free);
        Buffer {
            lines: match reused.len() < lines {
                true => bytemuck::allocation::zeroed_vec(lines),
                false => reused,
            },
            items,
            workspace: self.clone(),
        }
    }

    fn free(&self) -> MutexGuard<'_, Vec<Vec<Line>>> {
        // No panic leaves the list half-changed, so a poisoned lock may be used.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Workspace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lines: usize = self.free().iter().map(Vec::len).sum();
        write!(f, "Workspace({} bytes)", lines * size_of::<Line>())
    }
}

/// A buffer of items that starts on a cache line and returns to its workspace when dropped.
pub(super) struct Buffer {
    lines: Vec<Line>,
    items: usize,
    workspace: Workspace,
}

impl Buffer {
    pub fn items(&self) -> &[Item] {
        &bytemuck::cast_slice(&self.lines)[..self.items]
    }

    pub fn items_mut(&mut self) -> &mut [Item] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.items]
    }

    /// The items as f32.
    pub fn f32_mut(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(self.items_mut())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut free = self.workspace.free();
        let place = free.partition_point(|buffer| buffer.len() < self.lines.len());
        free.insert(place, std::mem::take(&mut self.lines));
    }
}

/// A packed right operand B: panels of `width` columns, in which the items of one step (the summed axis) are adjacent.
pub(super) struct Panels {
    buffer: Buffer,
    /// Items from panel to panel.
    stride: usize,
    /// Items of one step: columns of a panel.
    width: usize,
}

impl Panels {
    /// Memory for `columns` columns and `steps` steps, with arbitrary contents.
    fn new(kernel: &Kernel, columns: usize, steps: usize, workspace: &Workspace) -> Self {
        Self {
            buffer: workspace.take(panel_items(kernel, columns, steps)),
            stride: steps * kernel.panel,
            width: kernel.panel,
        }
    }

    /// The operand from column panel `panel` on.
    pub fn at_panel(&self, panel: usize) -> Right<'_> {
        self.at(panel * self.stride)
    }

    /// The operand from step `step` of the summed axis on.
    pub fn at_step(&self, step: usize) -> Right<'_> {
        self.at(step * self.width)
    }

    fn at(&self, first: usize) -> Right<'_> {
        Right {
            items: &self.buffer.items()[first..],
            panel_stride: self.stride,
        }
    }
}

/// Items in a packed operand of `columns` columns and `steps` steps.
pub(super) fn panel_items(kernel: &Kernel, columns: usize, steps: usize) -> usize {
    columns.div_ceil(kernel.panel) * steps * kernel.panel
}

/// Packs a row-major matrix so that its **rows** are the product's columns and `dim` is the summed axis: the
/// candidates, for the logits.
pub(super) fn pack_transposed<T: Element>(
    kernel: &Kernel,
    rows: &[T],
    dim: usize,
    workspace: &Workspace,
) -> Panels {
    /// Steps of a panel that are written together, few enough for the L1 cache.
    const STEPS: usize = 16;
    let steps = dim.div_ceil(kernel.depth);
    let mut panels = Panels::new(kernel, rows.len() / dim, steps, workspace);
    let (width, stride) = (panels.width, panels.stride);
    let items = panels.buffer.items_mut();
    items
        .par_chunks_mut(stride)
        .zip(rows.par_chunks(width * dim))
        .for_each_init(
            || vec![0; stride],
            |along_rows, (panel, rows)| {
                let (used, unused) = along_rows.split_at_mut(rows.len() / dim * steps);
                for (items, row) in used.chunks_exact_mut(steps).zip(rows.chunks_exact(dim)) {
                    row_to_items(kernel, row, items);
                }
                unused.fill(0);
                for (index, panel) in panel.chunks_mut(STEPS * width).enumerate() {
                    for (column, row) in along_rows.chunks_exact(steps).enumerate() {
                        let row = &row[index * STEPS..];
                        for (step, &item) in panel.chunks_exact_mut(width).zip(row) {
                            step[column] = item;
                        }
                    }
                }
            },
        );
    panels
}

/// Packs a row-major matrix so that its columns are the product's columns and its **rows** are summed, each row
/// times its factor: the right operands of the gradients.
pub(super) fn pack_summed<T: Element>(
    kernel: &Kernel,
    rows: &[T],
    dim: usize,
    factors: Option<&[f32]>,
    workspace: &Workspace,
) -> Panels {
    let count = rows.len() / dim;
    let steps = count.div_ceil(kernel.depth);
    let mut panels = Panels::new(kernel, dim, steps, workspace);
    let (width, stride) = (panels.width, panels.stride);
    let items = panels.buffer.items_mut();
    items
        .par_chunks_mut(stride)
        .enumerate()
        .for_each(|(panel, items)| {
            let first = panel * width;
            let columns = width.min(dim - first);
            if kernel.depth > 1 || columns < width {
                items.fill(0);
            }
            let mut elements = [0.0f32; MAX_PANEL];
            let elements = &mut elements[..columns];
            for (index, row) in rows.chunks_exact(dim).enumerate() {
                T::widen(&row[first..first + columns], elements);
                if let Some(factors) = factors {
                    let factor = factors[index];
                    elements.iter_mut().for_each(|element| *element *= factor);
                }
                let step = &mut items[index / kernel.depth * width..][..columns];
                if kernel.depth == 1 {
                    step.copy_from_slice(bytemuck::cast_slice(elements));
                    continue;
                }
                let place = 16 * (index % kernel.depth);
                for (item, &element) in step.iter_mut().zip(&*elements) {
                    *item |= pair_to_item(element, 0.0) << place;
                }
            }
        });
    panels
}

/// The widest panel of any kernel.
const MAX_PANEL: usize = 32;

/// Converts one row to items along the row.
fn row_to_items<T: Element>(kernel: &Kernel, row: &[T], items: &mut [Item]) {
    if kernel.depth == 1 {
        T::widen(row, bytemuck::cast_slice_mut(items));
        return;
    }
    for (item, elements) in items.iter_mut().zip(row.chunks(2)) {
        let second = elements.get(1).map_or(0.0, |element| element.to_f32());
        *item = pair_to_item(elements[0].to_f32(), second);
    }
}

/// A row-major matrix as items along each row: borrowed where its bits are already items, else converted into
/// `storage`.
pub(super) fn row_items<'a, T: Element>(
    kernel: &Kernel,
    rows: &'a [T],
    dim: usize,
    storage: &'a mut Vec<Item>,
) -> &'a [Item] {
    let in_place = match T::DTYPE {
        DType::F32 => kernel.depth == 1,
        DType::Bf16 => kernel.depth == 2 && dim.is_multiple_of(2),
        DType::F16 => false,
    };
    if in_place && let Ok(items) = bytemuck::try_cast_slice(rows) {
        return items;
    }
    let steps = dim.div_ceil(kernel.depth);
    storage.resize(rows.len() / dim * steps, 0);
    storage
        .par_chunks_mut(steps)
        .zip(rows.par_chunks(dim))
        .for_each(|(items, row)| row_to_items(kernel, row, items));
    storage
}

/// Rounds a row of f32 weights to bf16 items along the row.
pub(super) fn weights_to_items(weights: &[f32], items: &mut [Item]) {
    for (item, pair) in items.iter_mut().zip(weights.chunks_exact(2)) {
        *item = pair_to_item(pair[0], pair[1]);
    }
}

/// Rounds two rows of f32 weights to bf16 items along the columns.
pub(super) fn weight_rows_to_items(upper: &[f32], lower: &[f32], items: &mut [Item]) {
    for ((item, &first), &second) in items.iter_mut().zip(upper).zip(lower) {
        *item = pair_to_item(first, second);
    }
}

/// Rounds two elements to bf16 in one item: to nearest even, by integer arithmetic so that the loops above
/// vectorise. A NaN becomes a quiet NaN.
#[inline(always)]
fn pair_to_item(first: f32, second: f32) -> Item {
    (round_to_bf16(first) >> 16) | (round_to_bf16(second) & 0xffff_0000)
}

#[inline(always)]
fn round_to_bf16(element: f32) -> u32 {
    let bits = element.to_bits();
    if element.is_nan() {
        return bits | 0x0040_0000;
    }
    bits + 0x7fff + ((bits >> 16) & 1)
}
