//! Operands in the order in which the microkernels read them.

use bytemuck::{Pod, Zeroable};
use half::bf16;
use rayon::prelude::*;

use super::simd::{Item, Kernel, Right};
use crate::element::{DType, Element};

/// One cache line of items, so that a panel's vectors never straddle two.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([Item; 16]);

/// A zeroed buffer of items that starts on a cache line.
pub(super) struct Buffer {
    lines: Vec<Line>,
    items: usize,
}

impl Buffer {
    pub fn new(items: usize) -> Self {
        let lines = bytemuck::allocation::zeroed_vec(items.div_ceil(16));
        Self { lines, items }
    }

    pub fn items(&self) -> &[Item] {
        &bytemuck::cast_slice(&self.lines)[..self.items]
    }

    pub fn items_mut(&mut self) -> &mut [Item] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.items]
    }
}

/// A packed right operand.
pub(super) struct Panels {
    buffer: Buffer,
    /// Items from panel to panel.
    stride: usize,
    /// Items of one step: the panel's width.
    width: usize,
}

impl Panels {
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

/// Packs row-major `rows` × `dim` so that **rows** are the product's columns and `dim` is summed:
/// the candidates of the logits.
pub(super) fn pack_transposed<T: Element>(kernel: &Kernel, rows: &[T], dim: usize) -> Panels {
    let steps = dim.div_ceil(kernel.depth);
    let width = kernel.panel;
    let stride = steps * width;
    let mut buffer = Buffer::new(panel_items(kernel, rows.len() / dim, steps));
    buffer
        .items_mut()
        .par_chunks_mut(stride)
        .zip(rows.par_chunks(width * dim))
        .for_each_init(
            || vec![0; steps],
            |row_items, (panel, rows)| {
                for (column, row) in rows.chunks_exact(dim).enumerate() {
                    row_to_items(kernel, row, row_items);
                    for (target, &item) in
                        panel[column..].iter_mut().step_by(width).zip(&*row_items)
                    {
                        *target = item;
                    }
                }
            },
        );
    Panels {
        buffer,
        stride,
        width,
    }
}

/// Packs row-major `rows` × `dim` so that `dim` are the product's columns and **rows** are summed,
/// each row times its factor: the operands of the gradients.
pub(super) fn pack_summed<T: Element>(
    kernel: &Kernel,
    rows: &[T],
    dim: usize,
    factors: Option<&[f32]>,
) -> Panels {
    let count = rows.len() / dim;
    let steps = count.div_ceil(kernel.depth);
    let width = kernel.panel;
    let stride = steps * width;
    let mut buffer = Buffer::new(panel_items(kernel, dim, steps));
    buffer
        .items_mut()
        .par_chunks_mut(stride)
        .enumerate()
        .for_each(|(panel, items)| {
            let first = panel * width;
            let columns = width.min(dim - first);
            let mut numbers = [0.0f32; MAX_PANEL];
            let numbers = &mut numbers[..columns];
            for (index, row) in rows.chunks_exact(dim).enumerate() {
                T::widen(&row[first..first + columns], numbers);
                if let Some(factors) = factors {
                    let factor = factors[index];
                    numbers.iter_mut().for_each(|number| *number *= factor);
                }
                if kernel.depth == 1 {
                    let step = &mut items[index * width..][..columns];
                    step.copy_from_slice(bytemuck::cast_slice(numbers));
                    continue;
                }
                let step = &mut items[index / kernel.depth * width..][..columns];
                for (item, &number) in step.iter_mut().zip(&*numbers) {
                    *item |= number_to_item(kernel, number, index % kernel.depth);
                }
            }
        });
    Panels {
        buffer,
        stride,
        width,
    }
}

/// The widest panel of any kernel.
const MAX_PANEL: usize = 32;

/// The bits of `number` at `place` of an item whose other places are zero.
fn number_to_item(kernel: &Kernel, number: f32, place: usize) -> Item {
    match kernel.depth {
        1 => number.to_bits(),
        _ => Item::from(bf16::from_f32(number).to_bits()) << (16 * place),
    }
}

/// One row of numbers as items along the row.
fn row_to_items<T: Element>(kernel: &Kernel, row: &[T], items: &mut [Item]) {
    if kernel.depth == 1 {
        T::widen(row, bytemuck::cast_slice_mut(items));
        return;
    }
    for (item, numbers) in items.iter_mut().zip(row.chunks(2)) {
        *item = 0;
        for (place, number) in numbers.iter().enumerate() {
            *item |= number_to_item(kernel, number.to_f32(), place);
        }
    }
}

/// Row-major `rows` × `dim` as items along each row: borrowed where the bits are already right,
/// else converted into `storage`.
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

/// Stores a row of f32 weights as items along the row.
pub(super) fn weights_to_items(weights: &[f32], items: &mut [Item]) {
    for (item, pair) in items.iter_mut().zip(weights.chunks_exact(2)) {
        *item = pair_to_item(pair[0], pair[1]);
    }
}

/// Stores two rows of f32 weights as items across the rows.
pub(super) fn weight_rows_to_items(upper: &[f32], lower: &[f32], items: &mut [Item]) {
    for ((item, &first), &second) in items.iter_mut().zip(upper).zip(lower) {
        *item = pair_to_item(first, second);
    }
}

/// Two bf16 in one item, rounded to nearest even by integer arithmetic so that the loops above
/// vectorise. Softmax weights are finite or NaN; a NaN keeps its upper bits, so it stays one.
#[inline(always)]
fn pair_to_item(first: f32, second: f32) -> Item {
    (round_to_bf16(first) >> 16) | (round_to_bf16(second) & 0xffff_0000)
}

#[inline(always)]
fn round_to_bf16(number: f32) -> u32 {
    let bits = number.to_bits();
    if number.is_nan() {
        return bits | 0x0040_0000;
    }
    bits + 0x7fff + ((bits >> 16) & 1)
}
