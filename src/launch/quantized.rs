//! Rows as 8-bit elements with a scale each.

use super::params::{DTYPE_E4M3, Matrix, QuantizeParams};
use super::similarity::{Similarity, TILE};
use super::{Device, DeviceMatrix, Rowwise, count, kernels};
use crate::error::Error;

impl<D: Device> Similarity<'_, D> {
    /// The matrix as e4m3, x_id ≈ scale_i · code_id with scale_i = max_d |x_id| / 448: N·D bytes, and
    /// 4 for each row.
    ///
    /// Rows grow by 2⁻⁴ of their length at most, and so a bounded logit (`bound_logits` of
    /// similarity/positives.cu) to 1.13 of its bound, from 80 to 91 in base 2: powers of it are normal
    /// numbers still.
    pub(super) fn quantized(
        &self,
        matrix: DeviceMatrix,
        held: &mut Vec<D::Buffer>,
    ) -> Result<Matrix, Error> {
        let DeviceMatrix { rows, dim, .. } = matrix;
        let row_bytes = dim.next_multiple_of(16);
        // A tile's scales, and those of the tile after it, are read without asking where the matrix ends.
        let scaled_rows = rows.next_multiple_of(TILE) + TILE;
        let counted = count("rows", rows)?;
        let codes = self.device.allocate(rows * row_bytes)?;
        let scales = self.device.allocate(4 * scaled_rows)?;
        let quantized = Matrix {
            data: D::address(&codes),
            scales: D::address(&scales),
            stride: row_bytes as u64,
            rows: counted,
            row_bytes: row_bytes as u32,
            dtype: DTYPE_E4M3,
            padding: 0,
        };
        held.extend([codes, scales]);
        let rowwise = Rowwise::new(self.device);
        let kernel = kernels::QUANTIZE_ROWS;
        let warp_rows = rowwise.warp_rows(kernel, &[matrix], kernels::QUANTIZE_QUADS);
        let params = QuantizeParams {
            x: matrix.into(),
            codes: quantized,
            rows: counted,
            dim: dim as u32,
            scaled_rows: count("rows", scaled_rows)?,
            warp_rows: warp_rows as u32,
        };
        let warps = scaled_rows.div_ceil(warp_rows.max(1));
        self.device.start_rows(kernel, warps, &params)?;
        Ok(quantized)
    }
}
