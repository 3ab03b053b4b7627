//! One call's inputs, prepared: packed candidates, the positives' logits, and a fixed offset where logits are bounded.

use std::borrow::Cow;

use rayon::prelude::*;

use super::blocks::{BLOCK, GROUP};
use super::options::Options;
use super::pack::{Panels, Workspace, pack_transposed};
use super::simd::{Item, Kernel, Left, Output};
use super::targets::Targets;
use crate::contrast::{Contrast, Shape, same_length};
use crate::element::{DType, Element};
use crate::error::Error;
use crate::inputs::Matrices;
use crate::losses::RowContext;
use crate::rows::{Matrix, Rows};
use crate::statistics::counted;

/// The largest z − o with a fixed offset o, in nats: every exponential is at most e³⁰, and a sum of 2⁶⁴ of them is
/// far from f32 overflow.
const HEADROOM: f64 = 30.0;

/// The largest bound L on |z| with a fixed offset, in nats. The offset is L − 30, so that no exponential is below
/// e^(30−2L) = e⁻⁶⁰: neither it nor 1/(row sum), times a loss scale, leaves the range of f32.
const LARGEST_BOUNDED_LOGIT: f64 = 45.0;

/// Inputs of one call.
pub(super) struct Problem<'a, T> {
    pub kernel: &'static Kernel,
    pub workspace: &'a Workspace,
    pub contrast: &'a Contrast,
    pub shape: Shape,
    /// Anchors, N × D.
    pub q: Rows<'a, T>,
    /// Candidates, M × D; for MoCo the queue.
    pub k: Rows<'a, T>,
    /// For MoCo: each anchor's own key, N × D, which is its positive.
    own_keys: Option<Rows<'a, T>>,
    /// Each anchor's positive among the candidates, if it is there.
    positives: Vec<Option<usize>>,
    /// `k`, packed for the logits.
    candidates: Panels,
    /// s.
    pub scale: f64,
    /// Negatives of a row.
    negatives: usize,
    /// s·log₂e.
    pub scale2: f32,
    /// z₊ of each row; −∞ without a positive. NaN where an input that the row depends on is not finite: exponentials
    /// could hide that from the loss.
    pub positive_logits: Vec<f64>,
    /// o·log₂e, one for all rows and columns, where logits are bounded by [`LARGEST_BOUNDED_LOGIT`].
    pub fixed_offset2: Option<f32>,
    /// What one positive a row does not describe.
    pub options: Option<Options<'a>>,
    pub targets: Option<Targets<'a, T>>,
    has_bias: bool,
    /// The rows' weights.
    pub row_weights: Option<&'a [f32]>,
}

/// The kernel that multiplies inputs of type `T`.
pub(super) fn kernel_for<T: Element>() -> &'static Kernel {
    let for_bf16 = (T::DTYPE == DType::Bf16).then(Kernel::for_bf16).flatten();
    for_bf16.unwrap_or_else(Kernel::for_f32)
}

impl<'a, T: Element> Problem<'a, T> {
    pub fn new<'d: 'a>(
        kernel: &'static Kernel,
        given: &'a crate::problem::Problem<Rows<'d, T>>,
        workspace: &'a Workspace,
    ) -> Result<Self, Error> {
        let (contrast, shape) = (given.contrast(), given.shape());
        let Matrices {
            anchors: q,
            candidates: k,
            own_keys,
            ..
        }: Matrices<Rows<'a, T>> = given.matrices();
        let one = |argument, given: Option<&[f32]>| match given {
            Some(given) => same_length(argument, given.len(), 1).map(|()| Some(given[0])),
            None => Ok(None),
        };
        let scale = one("scale", given.scale())?.unwrap_or(contrast.scale());
        let scale = f64::from(scale);
        let logit_bias = one("logit_bias", given.logit_bias())?;
        let logit_bias = logit_bias.or(contrast.rule().logit_bias());
        let (largest_q, q_finite) = largest_norm(kernel, q);
        let (largest_k, k_finite) = match contrast.is_shared() {
            true => (largest_q, q_finite),
            false => largest_norm(kernel, k),
        };
        let bound = scale * largest_q * largest_k;
        let log2_e = std::f64::consts::LOG2_E;
        let fixed_offset2 =
            (bound <= LARGEST_BOUNDED_LOGIT).then_some(((bound - HEADROOM) * log2_e) as f32);

        let all_nan = !k_finite || (contrast.has_columns() && !q_finite);
        let positives = given.positive_candidates();
        let bias = given.column_bias();
        let mut problem = Self {
            kernel,
            workspace,
            contrast,
            shape,
            q,
            k,
            own_keys,
            positives,
            candidates: pack_transposed(kernel, &k.contiguous(), shape.dim, workspace),
            scale,
            negatives: given.negatives(),
            scale2: (scale * log2_e) as f32,
            positive_logits: Vec::new(),
            fixed_offset2,
            options: None,
            targets: Targets::of(kernel, given, workspace),
            has_bias: bias.is_some(),
            row_weights: given.row_weights(),
        };
        problem.positive_logits = (0..shape.anchors)
            .into_par_iter()
            .with_min_len(GROUP)
            .map(|i| {
                let row = problem.positive_row(i);
                // Not finite exactly when an element is not: products of finite f32 do not overflow f64.
                let product = kernel.dot(q.row(i), row.unwrap_or(q.row(i)));
                let targets = problem.targets.as_ref();
                let has_finite_targets = targets.is_none_or(|x| x.are_finite(kernel, i));
                if all_nan || !product.is_finite() || !has_finite_targets {
                    f64::NAN
                } else {
                    let bias = bias.zip(problem.positives[i]);
                    let bias = bias.map_or(0.0, |(bias, j)| f64::from(bias[j]));
                    row.map_or(f64::NEG_INFINITY, |_| scale * product + bias)
                }
            })
            .collect();
        let logits = &problem.positive_logits;
        problem.options = Options::of(given, (scale, logit_bias), &problem.positives, logits);
        if contrast.has_sets() {
            // All positives are in the tile.
            problem.positives.fill(None);
            let no_positive = |z: &mut f64| *z = if z.is_nan() { *z } else { f64::NEG_INFINITY };
            problem.positive_logits.iter_mut().for_each(no_positive);
        }
        Ok(problem)
    }

    /// The positive's index among the candidates, if anchor `i` has one there.
    pub fn positive(&self, i: usize) -> Option<usize> {
        self.positives[i]
    }

    /// The positive of anchor `i`, D elements, if it has one.
    pub fn positive_row(&self, i: usize) -> Option<&'a [T]> {
        match self.own_keys {
            Some(own_keys) => Some(own_keys.row(i)),
            None => self.positives[i].map(|j| self.k.row(j)),
        }
    }

    /// The rows of `count` anchors from `first` on, without gaps.
    pub fn anchors(&self, first: usize, count: usize) -> Cow<'a, [T]> {
        self.q.slice(first, count).contiguous()
    }

    /// The context of the rows' losses; `positives` is z₊ of every row.
    pub fn context(&self, positives: &[f64]) -> RowContext {
        let positives = positives.iter().copied();
        RowContext::new(self.contrast.rule(), self.scale, self.negatives, positives)
    }

    /// w_i times N over the rows that the mean counts; `positives` is z₊ of every row.
    pub fn weights(&self, positives: &[f64]) -> Option<Vec<f64>> {
        let counted = counted(self.contrast, positives.iter().copied(), self.row_weights);
        match self.row_weights {
            Some(weights) => Some(weights.iter().map(|&w| counted * f64::from(w)).collect()),
            None => (counted != 1.0).then(|| vec![counted; positives.len()]),
        }
    }

    /// The fixed offset of sums alone, where logits are bounded with their biases too: 0, which adds no rounding. A sum
    /// of a few terms, such as a set of positives, has no others to average an error with.
    pub fn bounded_offset2(&self) -> Option<f32> {
        self.fixed_offset2.filter(|_| !self.has_bias).map(|_| 0.0)
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

    /// Writes ⟨q_i, k_j⟩ of one block of columns and the rows from `first_row` on, whose items are `anchors`, to
    /// `tile`, whose rows are BLOCK elements apart. −∞ for the positive and for an excluded candidate.
    pub fn negative_products(
        &self,
        anchors: &[Item],
        first_row: usize,
        block: usize,
        tile: &mut [f32],
    ) {
        let left = Left::of_rows(anchors, self.steps());
        block_products(self.kernel, left, &self.candidates, self.block(block), tile);
        let (first_column, columns) = self.block(block);
        for row in 0..left.rows {
            let i = first_row + row;
            let itself = self.contrast.excludes_self().then_some(i);
            for j in itself.into_iter().chain(self.positive(i)) {
                if (first_column..first_column + columns).contains(&j) {
                    tile[row * BLOCK + j - first_column] = f32::NEG_INFINITY;
                }
            }
        }
    }
}

/// Writes the products with the `columns` candidates from `first` on, a multiple of BLOCK, to `tile`, whose rows
/// are BLOCK elements apart.
pub(super) fn block_products(
    kernel: &Kernel,
    left: Left<'_>,
    candidates: &Panels,
    (first, columns): (usize, usize),
    tile: &mut [f32],
) {
    let output = Output {
        elements: tile,
        columns,
        row_stride: BLOCK,
        accumulate: false,
    };
    kernel.multiply(left, candidates.at_panel(first / kernel.panel), output);
}

/// The largest finite row norm, and whether all are finite. Norms are f64, where no square of an f32 overflows.
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
