//! Forward, value-and-gradient and backward as sequences of launches.
//!
//! ```text
//! positives            z₊ of every anchor, and whether any element is not finite
//! statistics, combine  lse⁻, and the offsets and masses of rows, where a gradient needs them first
//! gradient…, finish    dq and dk; the pass over the anchors of a one-way loss finds lse on its way
//! reduce               loss and ∂loss/∂s
//! ```

use super::{Arithmetic, Device, Floats, kernels};
use crate::element::DType;
use crate::error::Error;

/// Rows of a tile of logits.
pub(super) const TILE: usize = kernels::STATISTICS[0].rows;

/// Anchor tiles whose column statistics are kept before they are added up: with 128 rows a tile,
/// 256 bytes a candidate. NT-Xent may keep one or two more.
const COLUMN_SPLITS: usize = 32;

/// How the verbs of a contrast are computed, and on what.
pub(crate) struct Similarity<'d, D: Device> {
    pub(super) device: &'d D,
    /// Bytes for a chunk of weights or scores.
    pub(super) budget: usize,
    /// Anchor tiles whose column statistics are kept before they are added up.
    pub(super) column_splits: usize,
    /// Whether f32 inputs are rounded to tf32, in place of three products.
    tf32: bool,
    /// Whether logits that no gradient needs are products of e4m3.
    fp8: bool,
    /// Whether kernels for one architecture are left aside.
    pub(super) portable: bool,
}

impl<'d, D: Device> Similarity<'d, D> {
    pub(crate) fn new(device: &'d D, budget: usize) -> Self {
        Self {
            device,
            budget,
            column_splits: COLUMN_SPLITS,
            tf32: false,
            fp8: false,
            portable: false,
        }
    }

    /// The same on another device.
    pub(super) fn on<'e, E: Device>(&self, device: &'e E) -> Similarity<'e, E> {
        Similarity {
            device,
            budget: self.budget,
            column_splits: self.column_splits,
            tf32: self.tf32,
            fp8: self.fp8,
            portable: self.portable,
        }
    }

    pub(crate) fn with_portable_kernels(self, portable: bool) -> Self {
        Self { portable, ..self }
    }

    pub(crate) fn with_tf32(self, tf32: bool) -> Self {
        Self { tf32, ..self }
    }

    pub(crate) fn with_fp8(self, fp8: bool) -> Self {
        Self { fp8, ..self }
    }

    /// Of logits that no gradient needs.
    pub(super) fn forward_arithmetic(&self, dtype: DType) -> Result<Arithmetic, Error> {
        if !self.fp8 {
            return Ok(self.arithmetic(dtype));
        }
        if self.is_hopper(Arithmetic::E4m3) {
            return Ok(Arithmetic::E4m3);
        }
        Err(Error::Unsupported {
            option: "fp8_scores",
            reason: match self.device.hardware().warpgroups {
                true => "the portable kernels, which were asked for too, multiply no 8-bit numbers",
                false => "8-bit numbers are multiplied by `wgmma`, which only sm_90 has",
            },
        })
    }

    /// Of everything else.
    pub(super) fn arithmetic(&self, dtype: DType) -> Arithmetic {
        match dtype {
            DType::F32 if self.tf32 => Arithmetic::Tf32,
            DType::F32 => Arithmetic::F32,
            DType::F16 => Arithmetic::F16,
            DType::Bf16 => Arithmetic::Bf16,
        }
    }

    /// A buffer of `length` words.
    pub(super) fn floats(&self, length: usize) -> Result<Floats<D>, Error> {
        Floats::unwritten(self.device, length)
    }

    /// The number of splits of `tiles` tiles, and tiles per split, that make the device finish first. Each of
    /// `blocks` blocks takes one split; `resident` blocks fit an SM.
    pub(super) fn split(&self, blocks: usize, tiles: usize, resident: usize) -> (u32, u32) {
        self.split_from(1, blocks, tiles, resident)
    }

    /// The same with at least `least` splits, where there are as many tiles.
    pub(super) fn split_from(
        &self,
        least: usize,
        blocks: usize,
        tiles: usize,
        resident: usize,
    ) -> (u32, u32) {
        let places = resident * self.device.hardware().multiprocessors.max(1) as usize;
        // A block's start and end take about as long as two tiles.
        let time =
            |splits: usize| (blocks * splits).div_ceil(places) * (tiles.div_ceil(splits) + 2);
        let least = least.min(tiles).max(1);
        let most = tiles.clamp(1, (2 * places).div_ceil(blocks.max(1)));
        let splits = (least..=most.max(least))
            .min_by_key(|&splits| time(splits))
            .unwrap_or(1);
        let per_split = tiles.div_ceil(splits).max(1);
        (tiles.div_ceil(per_split).max(1) as u32, per_split as u32)
    }

    /// Rows of a chunk of which each needs `row_bytes` of the budget: whole tiles, at least one.
    pub(super) fn chunk(&self, rows: usize, row_bytes: usize) -> usize {
        let fits = (self.budget / row_bytes / TILE).max(1) * TILE;
        fits.min(rows.next_multiple_of(TILE))
    }
}
