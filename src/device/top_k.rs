//! The k best candidates of every query.

use super::params::{ScoresParams, SelectParams};
use super::prepared::{rows_from, scales_from};
use super::similarity::Similarity;
use super::{Device, DeviceMatrix, Floats};
use crate::engine::TopK;
use crate::error::Error;

/// The k best candidates of every query, on the device.
pub(crate) struct DeviceTopK<D: Device> {
    /// N × k, each the bits of an index.
    pub indices: Floats<D>,
    /// N × k.
    pub scores: Floats<D>,
}

impl<D: Device> DeviceTopK<D> {
    /// Both, read back.
    pub(crate) fn read(&self, device: &D) -> Result<TopK, Error> {
        let indices = self.indices.read(device)?;
        Ok(TopK {
            indices: indices.into_iter().map(f32::to_bits).collect(),
            scores: self.scores.read(device)?,
        })
    }
}

impl<D: Device> Similarity<'_, D> {
    pub(crate) fn top_k(
        &self,
        queries: DeviceMatrix,
        candidates: DeviceMatrix,
        k: usize,
        exclude_self: bool,
    ) -> Result<DeviceTopK<D>, Error> {
        crate::contrast::same_dim("candidates", candidates.dim, queries.dim)?;
        let available = candidates.rows - usize::from(exclude_self);
        if k == 0 || k > available {
            return Err(Error::TopK {
                given: k,
                available,
            });
        }
        let mut held = Vec::new();
        let arithmetic = self.forward_arithmetic(queries.dtype)?;
        let query_rows = self.tile_rows(arithmetic, queries, &mut held)?;
        let candidate_rows = self.tile_rows(arithmetic, candidates, &mut held)?;
        let memory = self.memory();
        let chunk = self.chunk(queries.rows, 4 * candidates.rows);
        let scores = memory.floats(chunk.min(queries.rows) * candidates.rows)?;
        let indices = memory.floats(queries.rows * k)?;
        let best = memory.floats(queries.rows * k)?;
        for first in (0..queries.rows).step_by(chunk) {
            let count = chunk.min(queries.rows - first);
            let cut = self.cut(arithmetic, query_rows.rows, count, candidates.rows);
            let params = ScoresParams {
                anchors: rows_from(query_rows.rows, first, count),
                candidates: candidate_rows.rows,
                anchor_scales: scales_from(query_rows.scales, first),
                candidate_scales: candidate_rows.scales,
                tiles_per_split: cut.per_part,
                scores: scores.address(),
                ..bytemuck::Zeroable::zeroed()
            };
            let grid = cut.grid(self.row_tiles(arithmetic, count));
            self.scores("scores", arithmetic, grid, &params)?;
            let params = SelectParams {
                scores: scores.address(),
                rows: count as u32,
                candidates: candidate_rows.rows.rows,
                k: k as u32,
                first_row: first as u32,
                excludes_self: u32::from(exclude_self),
                padding: 0,
                indices: indices.address() + 4 * (first * k) as u64,
                best: best.address() + 4 * (first * k) as u64,
            };
            self.launch(
                "select_best",
                [count.div_ceil(4) as u32, 1, 1],
                128,
                0,
                &params,
            )?;
        }
        Ok(DeviceTopK {
            indices,
            scores: best,
        })
    }
}
