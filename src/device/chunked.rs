//! Gradients over chunks of stored weights, where D is too large for the fused kernels.

use super::DeviceMatrix;
use super::gradient::{Finish, Known, Side, Sums};
use super::params::{GlobalRows, ProductParams, ScoresParams};
use super::prepared::rows_from;
use super::similarity::Similarity;
use super::statistics::scores_params;
use super::{Device, Floats, number_bytes};
use crate::contrast::{Form, Shape};
use crate::engine::Gradients;
use crate::error::Error;

/// Rows of a tile of a product.
const PRODUCT_ROWS: usize = 128;

impl<D: Device> Similarity<'_, D> {
    /// Both gradients over chunks of stored weights: 6NMD FLOPs after the statistics.
    pub(super) fn chunked(
        &self,
        side: &Side<'_, D>,
        known: &Known<'_, D>,
        gradients: &Gradients<DeviceMatrix>,
        dots: &Floats<D>,
    ) -> Result<(), Error> {
        let prepared = side.prepared;
        let (rows, columns) = (known.rows, known.columns);
        let Shape {
            anchors,
            candidates,
            dim,
        } = prepared.shape;
        let bytes = number_bytes(prepared.dtype);
        let stride = candidates.next_multiple_of(16);
        let chunk = self.chunk(anchors, stride * bytes);
        let weights = self.device.allocate(chunk.min(anchors) * stride * bytes)?;
        let columns_of_product = dim.div_ceil(self.product_columns(prepared.arithmetic));
        let slab = 128 / bytes;
        let (parts, slabs) = self.split(
            chunk.div_ceil(PRODUCT_ROWS) * columns_of_product,
            candidates.div_ceil(slab),
            1,
        );
        let dq_sums = Sums {
            sums: self
                .memory()
                .floats(parts as usize * chunk.min(anchors) * dim)?,
            normalisers: None,
            parts,
            shift: known.shift(),
        };
        let dk_sums = match gradients.dk {
            Some(_) => Some(self.memory().floats(candidates * dim)?),
            None => None,
        };
        let tiles = candidates.div_ceil(PRODUCT_ROWS);
        let weight_tiles = candidates.div_ceil(self.scores_columns(prepared.arithmetic));
        for first in (0..anchors).step_by(chunk) {
            let count = chunk.min(anchors - first);
            let count_tiles = count.div_ceil(PRODUCT_ROWS) as u32;
            let at = |floats: &Floats<D>| floats.address() + 4 * first as u64;
            let (weight_parts, per_part) = self.split(count_tiles as usize, weight_tiles, 1);
            let params = ScoresParams {
                tiles_per_split: per_part,
                row_lse2: at(&rows.lse2),
                row_sigma: at(&rows.sigma),
                column_lse2: columns.map_or(0, |s| s.lse2.address()),
                column_sigma: columns.map_or(0, |s| s.sigma.address()),
                shift: known.shift(),
                weights: D::address(&weights),
                weights_stride: stride as u64,
                ..scores_params(prepared, first, count)
            };
            let grid = [count_tiles, weight_parts, 1];
            self.scores("weights", prepared.arithmetic, grid, &params)?;
            let left = GlobalRows {
                data: D::address(&weights),
                stride: (stride * bytes) as u64,
                rows: count as u32,
                row_bytes: super::count("k", stride * bytes)?,
            };
            let mut product = ProductParams {
                left,
                right: prepared.candidate_rows,
                rows: count as u32,
                columns: dim as u32,
                summed: candidates as u32,
                slabs_per_split: slabs,
                accumulate: 0,
                padding: 0,
                // A chunk is finished before the next one overwrites its sums.
                sums: dq_sums.sums.address(),
            };
            let grid = [count_tiles, columns_of_product as u32, parts];
            self.product(false, prepared.arithmetic, grid, &product)?;
            let own = prepared.contrast.form == Form::Moco;
            self.finish(
                side,
                &Finish {
                    sums: &dq_sums,
                    positives: own.then_some(rows),
                    gradient: gradients.dq,
                    dots: Some(dots),
                    first_row: first,
                    rows: count,
                },
            )?;
            if let Some(sums) = &dk_sums {
                product.right = rows_from(prepared.anchor_rows, first, count);
                product.rows = candidates as u32;
                product.summed = count as u32;
                product.slabs_per_split = u32::MAX;
                product.accumulate = u32::from(first > 0);
                product.sums = sums.address();
                let grid = [tiles as u32, columns_of_product as u32, 1];
                self.product(true, prepared.arithmetic, grid, &product)?;
            }
        }
        if let (Some(sums), Some(dk)) = (dk_sums, gradients.dk) {
            let sums = Sums {
                sums,
                normalisers: None,
                parts: 1,
                shift: known.shift(),
            };
            self.finish(side, &Finish::of_candidates(&sums, dk))?;
        }
        Ok(())
    }
}
