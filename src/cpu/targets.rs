//! The targets' scores: the products ⟨u_{i mod B}, p_j⟩ of a second pair of matrices, with the biases of their logits.

use super::blocks::BLOCK;
use super::pack::{Panels, Workspace, pack_transposed, row_items};
use super::problem::block_products;
use super::simd::{Item, Kernel, Left};
use crate::element::Element;
use crate::rows::{Matrix, Rows};

/// Soft targets of a problem.
pub(super) struct Targets<'a, T> {
    /// u, B × D_t.
    u: Rows<'a, T>,
    /// p, packed.
    candidates: Panels,
    /// c_j/s_t.
    bias: Option<Vec<f32>>,
    /// s_t.
    pub scale: f64,
    /// Whether all of p is finite.
    is_finite: bool,
}

impl<'a, T: Element> Targets<'a, T> {
    /// `None` for a problem without soft targets.
    pub fn of(
        kernel: &Kernel,
        given: &crate::problem::Problem<Rows<'a, T>>,
        workspace: &Workspace,
    ) -> Option<Self> {
        let [u, p] = given.matrices().targets?;
        let scale = f64::from(given.contrast().rule().target_scale()?);
        let in_products = |bias: &[f32]| -> Vec<f32> {
            bias.iter()
                .map(|&c| (f64::from(c) / scale) as f32)
                .collect()
        };
        let is_finite = (0..p.rows()).all(|j| kernel.dot(p.row(j), p.row(j)).is_finite());
        Some(Self {
            candidates: pack_transposed(kernel, &p.contiguous(), p.dim(), workspace),
            u,
            bias: given.target_bias().map(in_products),
            scale,
            is_finite,
        })
    }

    /// s_t·log₂e.
    pub fn scale2(&self) -> f32 {
        (self.scale * std::f64::consts::LOG2_E) as f32
    }

    /// Whether the targets of anchor `i` are finite.
    pub fn are_finite(&self, kernel: &Kernel, i: usize) -> bool {
        let row = self.u.row(i % self.u.rows());
        self.is_finite && kernel.dot(row, row).is_finite()
    }

    /// The items of the targets of `count` anchors from `first` on.
    pub fn items(&self, kernel: &Kernel, first: usize, count: usize) -> Vec<Item> {
        let rows = (first..first + count).flat_map(|i| self.u.row(i % self.u.rows()));
        let rows: Vec<T> = rows.copied().collect();
        row_items(kernel, &rows, self.u.dim(), &mut Vec::new()).to_vec()
    }

    /// Items of one row.
    pub fn steps(&self, kernel: &Kernel) -> usize {
        self.u.dim().div_ceil(kernel.depth)
    }

    /// Writes u_ij/s_t of the rows of `items` and a block of columns to `tile`, whose rows are BLOCK elements apart.
    pub fn products(
        &self,
        kernel: &Kernel,
        items: &[Item],
        (first, width): (usize, usize),
        tile: &mut [f32],
    ) {
        let left = Left::of_rows(items, self.steps(kernel));
        block_products(kernel, left, &self.candidates, (first, width), tile);
        let Some(bias) = &self.bias else {
            return;
        };
        for row in tile.chunks_mut(BLOCK).take(left.rows) {
            for (product, bias) in row.iter_mut().zip(&bias[first..first + width]) {
                *product += bias;
            }
        }
    }
}
