//! One call's inputs, made ready: packed candidates, masks, positive logits and the offset.

use rayon::prelude::*;

use super::pack::{Panels, Workspace, pack_transposed};
use super::simd::{Item, Kernel, Left, Output};
use crate::contrast::{Contrast, Inputs, Shape};
use crate::element::{DType, Element};
use crate::rows::{Matrix, Rows};

/// Columns of a block: a block's logits for one group of rows stay in the second-level cache.
/// A multiple of every kernel's panel and tile rows.
pub(super) const BLOCK: usize = 192;

/// Rows of a group: the rows whose logits are computed before their exponentials.
pub(super) const GROUP: usize = 48;

/// Logits of one group of rows and one block of columns.
pub(super) type LogitTile = [f32; GROUP * BLOCK];

/// Room that the fixed offset leaves above: every exponential is at most e³⁰, a row of 2⁶⁴ of
/// them is far from overflow.
const HEADROOM: f64 = 30.0;

/// The largest |z| for which a fixed offset serves: no exponential is then below e^(30−90), so that
/// neither it nor the reciprocal of a row sum times a loss scale leaves the range of f32.
const LARGEST_BOUNDED_LOGIT: f64 = 45.0;

/// Inputs of one call.
pub(super) struct Problem<'a, T> {
    pub kernel: &'static Kernel,
    pub workspace: &'a Workspace,
    pub contrast: &'a Contrast,
    pub shape: Shape,
    /// Anchors, N × D.
    pub q: Rows<'a, T>,
    /// Candidates that all anchors share, M × D: the queue for MoCo.
    pub k: Rows<'a, T>,
    /// The matrix that holds the positives: `k`, or MoCo's own keys.
    positives_from: Rows<'a, T>,
    /// `k`, packed for the logits.
    candidates: Panels,
    /// s·log₂e.
    pub scale2: f32,
    /// z₊ of each row. NaN where an input that the row depends on is not finite, so that NaN and
    /// infinity reach the loss whatever the exponentials make of them.
    pub positive_logits: Vec<f64>,
    /// A fixed offset in base 2 for all rows and columns, when the logits are bounded.
    pub fixed_offset2: Option<f32>,
}

/// The kernel that multiplies inputs of type `T`.
pub(super) fn kernel_for<T: Element>() -> &'static Kernel {
    let for_bf16 = (T::DTYPE == DType::Bf16).then(Kernel::for_bf16).flatten();
    for_bf16.unwrap_or_else(Kernel::for_f32)
}

impl<'a, T: Element> Problem<'a, T> {
    pub fn new(
        kernel: &'static Kernel,
        contrast: &'a Contrast,
        shape: Shape,
        inputs: &Inputs<Rows<'a, T>>,
        workspace: &'a Workspace,
    ) -> Self {
        let (q, k, positives_from) = match *inputs {
            Inputs::Shared { z } => (z, z, z),
            Inputs::Pair { q, k } => (q, k, k),
            Inputs::Queue { q, own_key, queue } => (q, queue, own_key),
        };
        let scale = f64::from(contrast.scale());
        let (largest_q, q_finite) = largest_norm(kernel, q);
        let (largest_k, k_finite) = match inputs {
            Inputs::Shared { .. } => (largest_q, q_finite),
            _ => largest_norm(kernel, k),
        };
        let bound = scale * largest_q * largest_k;
        let log2_e = std::f64::consts::LOG2_E;
        let fixed_offset2 =
            (bound <= LARGEST_BOUNDED_LOGIT).then_some(((bound - HEADROOM) * log2_e) as f32);

        let all_nan = !k_finite || (contrast.is_symmetric() && !q_finite);
        let mut problem = Self {
            kernel,
            workspace,
            contrast,
            shape,
            q,
            k,
            positives_from,
            candidates: pack_transposed(kernel, k.as_slice(), shape.dim, workspace),
            scale2: (scale * log2_e) as f32,
            positive_logits: Vec::new(),
            fixed_offset2,
        };
        problem.positive_logits = (0..shape.anchors)
            .into_par_iter()
            .with_min_len(GROUP)
            .map(|i| {
                // Not finite exactly when one of the numbers is not: f64 has room for all others.
                let product = kernel.dot(q.row(i), problem.positive_row(i));
                if all_nan || !product.is_finite() {
                    f64::NAN
                } else {
                    scale * product
                }
            })
            .collect();
        problem
    }

    /// The positive of anchor `i`, D numbers.
    pub fn positive_row(&self, i: usize) -> &'a [T] {
        let positive = self.contrast.positive(i, self.shape);
        self.positives_from.row(positive.unwrap_or(i))
    }

    /// Number of column blocks.
    pub fn blocks(&self) -> usize {
        self.shape.candidates.div_ceil(BLOCK)
    }

    /// First column and number of columns of a block.
    pub fn block(&self, block: usize) -> (usize, usize) {
        let first = block * BLOCK;
        (first, BLOCK.min(self.shape.candidates - first))
    }

    /// Items of one row of anchors.
    pub fn steps(&self) -> usize {
        self.shape.dim.div_ceil(self.kernel.depth)
    }

    /// ⟨q_i, k_j⟩ of `rows` rows from row `first_row` on (their items are `anchors`) and one block
    /// of columns, into rows of `tile` that are BLOCK numbers apart.
    pub fn products(&self, anchors: &[Item], rows: usize, block: usize, tile: &mut [f32]) {
        let steps = self.steps();
        let left = Left {
            items: anchors,
            rows,
            steps,
            row_stride: steps,
            step_stride: 1,
        };
        let output = Output {
            numbers: tile,
            columns: self.block(block).1,
            row_stride: BLOCK,
            accumulate: false,
        };
        let right = self.candidates.at_panel(block * BLOCK / self.kernel.panel);
        self.kernel.multiply(left, right, output);
    }

    /// As [`products`](Self::products) with everything but the row's negatives at −∞.
    pub fn negative_products(
        &self,
        anchors: &[Item],
        first_row: usize,
        rows: usize,
        block: usize,
        tile: &mut [f32],
    ) {
        self.products(anchors, rows, block, tile);
        let (first_column, columns) = self.block(block);
        for row in 0..rows {
            let i = first_row + row;
            let itself = self.contrast.excludes_self().then_some(i);
            let positive = self.contrast.positive(i, self.shape);
            for j in itself.into_iter().chain(positive) {
                if (first_column..first_column + columns).contains(&j) {
                    tile[row * BLOCK + j - first_column] = f32::NEG_INFINITY;
                }
            }
        }
    }
}

/// The largest finite row norm, and whether all are finite. f64, so that no finite f32 overflows.
fn largest_norm<T: Element>(kernel: &Kernel, rows: Rows<'_, T>) -> (f64, bool) {
    (0..rows.rows())
        .into_par_iter()
        .with_min_len(GROUP)
        .map(|row| {
            let squares = kernel.dot(rows.row(row), rows.row(row));
            if squares.is_finite() {
                (squares.sqrt(), true)
            } else {
                (0.0, false)
            }
        })
        .reduce(|| (0.0, true), |a, b| (a.0.max(b.0), a.1 && b.1))
}
