//! The settings of the contrast verbs and of top-k, and how work is cut into splits and chunks.

use super::{Arithmetic, Device, Floats, kernels};
use crate::element::DType;
use crate::error::Error;

/// Rows of a tile of logits.
pub(super) const TILE: usize = kernels::STATISTICS[0].rows;

/// Row tiles whose partial column statistics are stored, 8 bytes a candidate and tile, before a launch adds them up.
/// NT-Xent may store one or two tiles more.
const COLUMN_SPLITS: usize = 32;

/// Computes the verbs of a contrast and top-k on a device, with these settings.
pub(crate) struct Similarity<'d, D: Device> {
    pub(super) device: &'d D,
    /// Bytes for a chunk of weights or scores.
    pub(super) budget: usize,
    /// [`COLUMN_SPLITS`]; tests set fewer.
    pub(super) column_splits: usize,
    /// Whether f32 inputs are rounded to tf32 instead of multiplied as three products of tf32.
    tf32: bool,
    /// Whether logits that no gradient needs are products of e4m3.
    fp8: bool,
    /// Whether the portable kernels serve on sm_90a too.
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

    /// The arithmetic of logits that no gradient needs (forward, top-k); an error where e4m3 is asked for but missing.
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
                true => "the portable kernels, which were asked for too, multiply no 8-bit types",
                false => "8-bit types are multiplied by `wgmma`, which only sm_90 has",
            },
        })
    }

    /// The arithmetic of everything else.
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

    /// A buffer of `length` words, where it is `wanted`.
    pub(super) fn floats_if(
        &self,
        wanted: bool,
        length: usize,
    ) -> Result<Option<Floats<D>>, Error> {
        wanted.then(|| self.floats(length)).transpose()
    }

    /// The number of splits of `tiles` tiles, and the tiles of a split, with the shortest estimated time. Each of
    /// `blocks` blocks processes one split; `resident` blocks fit an SM.
    pub(super) fn split(&self, blocks: usize, tiles: usize, resident: usize) -> (u32, u32) {
        self.split_from(1, blocks, tiles, resident)
    }

    /// [`split`](Self::split) with at least `least` splits, where there are as many tiles.
    pub(super) fn split_from(
        &self,
        least: usize,
        blocks: usize,
        tiles: usize,
        resident: usize,
    ) -> (u32, u32) {
        let places = resident * self.device.hardware().sms.max(1) as usize;
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

    /// Rows of a chunk: the whole tiles that the budget holds at `row_bytes` a row, at least one.
    pub(super) fn chunk(&self, rows: usize, row_bytes: usize) -> usize {
        let fits = (self.budget / row_bytes / TILE).max(1) * TILE;
        fits.min(rows.next_multiple_of(TILE))
    }
}
