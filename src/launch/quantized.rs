//! Rows as e4m3 (8-bit floats) with a scale a row: x ≈ scale · code.

use super::held::Held;
use super::params::{DTYPE_E4M3, Matrix, QuantizeParams};
use super::similarity::{Similarity, TILE};
use super::{Device, DeviceMatrix, Rowwise, count, kernels};
use crate::error::Error;

impl<D: Device> Similarity<'_, D> {
    /// The matrix as e4m3, x_id ≈ scale_i · code_id with scale_i = max_d |x_id| / 448: N·D bytes of codes and 4N bytes
    /// of scales.
    ///
    /// Rounding lengthens a row by at most 2⁻⁴ of its length. A logit (base 2) that `bound_logits` of
    /// similarity/positives.cu bounds by 80 then reaches 1.13 · 80 < 91, and 2^±91 are normal f32.
    pub(super) fn quantized(
        &self,
        matrix: DeviceMatrix,
        held: &mut Held<'_, D>,
    ) -> Result<Matrix, Error> {
        let DeviceMatrix { rows, dim, .. } = matrix;
        let row_bytes = dim.next_multiple_of(16);
        // Kernels read the scales of a whole tile, and of the tile after it, without a bounds check.
        let scaled_rows = rows.next_multiple_of(TILE) + TILE;
        let counted = count("rows", rows)?;
        let quantized = Matrix {
            data: held.unwritten(rows * row_bytes)?,
            scales: held.unwritten(4 * scaled_rows)?,
            stride: row_bytes as u64,
            rows: counted,
            row_bytes: row_bytes as u32,
            dtype: DTYPE_E4M3,
            padding: 0,
        };
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
