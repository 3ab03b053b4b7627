//! Forward, value-and-gradient and backward as sequences of launches.
//!
//! ```text
//! positives            z₊ of every anchor, and whether any number is not finite
//! statistics, combine  lse⁻ and σ = 1 − p₊, where a gradient needs them first
//! gradient…, finish    dq and dk; the pass over the anchors of a one-way loss finds lse on its way
//! reduce               loss and ∂loss/∂s
//! ```

use super::choice::is_one_way;
use super::chunked::{Softmax, exponent_range};
use super::gradient::Side;
use super::prepared::{Prepared, anchors};
use super::statistics::{COLUMN_PARTS, DeviceStatistics, Partial, Results};
use super::{Arithmetic, Device, DeviceMatrix, Floats, Launch, Memory};
use crate::contrast::{Contrast, Inputs};
use crate::element::DType;
use crate::engine::Gradients;
use crate::error::Error;
use crate::statistics::{RowStatistics, Statistics};

/// Rows and columns of a tile of logits: `ScoresTile` of similarity/scores.h.
pub(super) const TILE: usize = 128;

/// Rows of a block of the kernels that take a warp a row.
pub(super) const WARP_ROWS: usize = 8;

/// The verbs that compute a contrast.
pub(crate) struct Similarity<'d, D: Device> {
    pub(super) device: &'d D,
    /// Bytes for a chunk of weights or scores.
    pub(super) budget: usize,
    /// Anchor tiles whose column statistics are kept before they are added up.
    pub(super) column_parts: usize,
    /// Where s stands on the device, in place of the contrast's; 0: it does not.
    pub(super) scale: u64,
    /// Whether f32 inputs are rounded to tf32.
    tf32: bool,
    /// Whether logits that no gradient needs are products of e4m3.
    fp8: bool,
    /// Whether kernels for one architecture are left aside.
    pub(super) portable: bool,
}

impl<'d, D: Device> Similarity<'d, D> {
    /// `budget`: bytes for a chunk of weights or scores.
    pub(crate) fn new(device: &'d D, budget: usize) -> Self {
        Self {
            device,
            budget,
            column_parts: COLUMN_PARTS,
            scale: 0,
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
            column_parts: self.column_parts,
            scale: self.scale,
            tf32: self.tf32,
            fp8: self.fp8,
            portable: self.portable,
        }
    }

    /// Whether kernels for one architecture are left aside.
    pub(crate) fn with_portable_kernels(self, portable: bool) -> Self {
        Self { portable, ..self }
    }

    /// Whether f32 inputs are rounded to tf32, in place of three products.
    pub(crate) fn with_tf32(self, tf32: bool) -> Self {
        Self { tf32, ..self }
    }

    /// Whether forward and top-k multiply numbers of 8 bits.
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
            reason: match self.device.has_warpgroups() {
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

    /// With s read from the device.
    pub(crate) fn with_scale(self, scale: u64) -> Self {
        Self { scale, ..self }
    }

    pub(super) fn memory(&self) -> Memory<'_, D> {
        Memory {
            device: self.device,
        }
    }

    pub(super) fn launch<P: bytemuck::Pod>(
        &self,
        kernel: &'static str,
        grid: [u32; 3],
        threads: u32,
        shared_bytes: u32,
        params: &P,
    ) -> Result<(), Error> {
        self.device.launch(&Launch {
            kernel,
            grid,
            threads,
            shared_bytes,
            params: bytemuck::bytes_of(params),
        })
    }

    /// Launches a kernel of one block of similarity/rows.cu: `BLOCK_THREADS`, of which each warp leaves four f32,
    /// or two f64, in shared memory.
    pub(super) fn launch_block<P: bytemuck::Pod>(
        &self,
        kernel: &'static str,
        params: &P,
    ) -> Result<(), Error> {
        self.launch(kernel, [1, 1, 1], 1024, 32 * 16, params)
    }

    /// How many parts `tiles` tiles are cut into when `blocks` blocks each take one part, and tiles
    /// per part: as many as make the device finish first. `resident` blocks fit a multiprocessor.
    pub(super) fn split(&self, blocks: usize, tiles: usize, resident: usize) -> (u32, u32) {
        self.split_from(1, blocks, tiles, resident)
    }

    /// The same in `least` parts or more, where there are as many tiles.
    pub(super) fn split_from(
        &self,
        least: usize,
        blocks: usize,
        tiles: usize,
        resident: usize,
    ) -> (u32, u32) {
        let places = resident * self.device.multiprocessors().max(1) as usize;
        // A block's start and end take about as long as two tiles.
        let time = |parts: usize| (blocks * parts).div_ceil(places) * (tiles.div_ceil(parts) + 2);
        let least = least.min(tiles).max(1);
        let most = tiles.clamp(1, (2 * places).div_ceil(blocks.max(1)));
        let parts = (least..=most.max(least))
            .min_by_key(|&parts| time(parts))
            .unwrap_or(1);
        let per_part = tiles.div_ceil(parts).max(1);
        (tiles.div_ceil(per_part).max(1) as u32, per_part as u32)
    }

    pub(crate) fn forward(
        &self,
        contrast: &Contrast,
        inputs: &Inputs<DeviceMatrix>,
    ) -> Result<Results<D>, Error> {
        let arithmetic = self.forward_arithmetic(anchors(inputs).dtype)?;
        let prepared = self.prepare_in(arithmetic, contrast, inputs)?;
        let positives = self.positives(&prepared)?;
        let (rows, columns) = self.statistics(&prepared, positives)?;
        Ok(Results {
            loss_and_dscale: self.reduce(&prepared, Some(&rows), columns.as_ref(), None)?,
            rows,
            columns,
            flags: prepared.flags,
        })
    }

    pub(crate) fn value_and_grad(
        &self,
        contrast: &Contrast,
        inputs: &Inputs<DeviceMatrix>,
        upstream: f32,
        gradients: &Gradients<DeviceMatrix>,
    ) -> Result<Results<D>, Error> {
        let shape = contrast.check(inputs)?;
        contrast.check_gradients(shape, &gradients.dq, gradients.dk.as_ref())?;
        let prepared = self.prepare(contrast, inputs)?;
        let side = Side::new(&prepared, upstream);
        let positives = self.positives(&prepared)?;
        let (rows, columns, dots) =
            if is_one_way(contrast) && self.is_fused(&side, gradients.dk.is_some()) {
                let rows = self.statistics_of(positives.logits, None)?;
                let dots = self.gradient_online(&side, &rows, gradients.dq)?;
                if let Some(dk) = gradients.dk {
                    let known = self.known(&prepared, &prepared.flags, &rows, None)?;
                    self.gradient_of_candidates(&side, &known, dk)?;
                }
                (rows, None, dots)
            } else if is_one_way(contrast) {
                let range = exponent_range(prepared.arithmetic);
                let bound = self.bound(&prepared, &positives, range)?;
                let rows = self.statistics_of(positives.logits, None)?;
                let dots = self.memory().floats(prepared.shape.anchors)?;
                let softmax = Softmax::Found {
                    statistics: &rows,
                    square_norms: &positives.square_norms,
                    bound: &bound,
                };
                self.chunked(&side, &softmax, gradients, &dots)?;
                (rows, None, dots)
            } else {
                let (rows, columns) = self.statistics(&prepared, positives)?;
                let known = self.known(&prepared, &prepared.flags, &rows, columns.as_ref())?;
                let dots = self.gradients_known(&side, &known, gradients)?;
                (rows, columns, dots)
            };
        Ok(Results {
            loss_and_dscale: self.reduce(&prepared, Some(&rows), columns.as_ref(), Some(&dots))?,
            rows,
            columns,
            flags: prepared.flags,
        })
    }

    /// Returns two numbers, the second of which is dscale.
    pub(crate) fn backward(
        &self,
        contrast: &Contrast,
        inputs: &Inputs<DeviceMatrix>,
        statistics: &Statistics,
        upstream: f32,
        gradients: &Gradients<DeviceMatrix>,
    ) -> Result<Floats<D>, Error> {
        let shape = contrast.check(inputs)?;
        contrast.check_gradients(shape, &gradients.dq, gradients.dk.as_ref())?;
        statistics.check(contrast, shape)?;
        let prepared = self.prepare(contrast, inputs)?;
        let memory = self.memory();
        let completed = |given: &RowStatistics| -> Result<DeviceStatistics<D>, Error> {
            let lse = memory.written(&given.negatives_lse)?;
            let held = self.statistics_of(memory.written(&given.positive)?, Some(lse))?;
            self.combine(&prepared, &held, 0, given.len(), Partial::default())?;
            Ok(held)
        };
        let rows = completed(&statistics.rows)?;
        let columns = match &statistics.columns {
            Some(given) if contrast.is_symmetric() => Some(completed(given)?),
            _ => None,
        };
        let flags = &prepared.flags;
        self.gradients_of(
            &prepared,
            flags,
            &rows,
            columns.as_ref(),
            upstream,
            gradients,
        )
    }

    /// [`backward`](Self::backward) from statistics that are on the device.
    pub(crate) fn backward_of(
        &self,
        contrast: &Contrast,
        inputs: &Inputs<DeviceMatrix>,
        forward: &Results<D>,
        upstream: f32,
        gradients: &Gradients<DeviceMatrix>,
    ) -> Result<Floats<D>, Error> {
        let shape = contrast.check(inputs)?;
        contrast.check_gradients(shape, &gradients.dq, gradients.dk.as_ref())?;
        let columns = forward.columns.as_ref();
        let given = [
            ("statistics.rows", Some(forward.rows.positive.len())),
            ("statistics.columns", columns.map(|s| s.positive.len())),
        ];
        let expected = [
            Some(shape.anchors),
            contrast.is_symmetric().then_some(shape.candidates),
        ];
        for ((argument, given), expected) in given.into_iter().zip(expected) {
            if given != expected {
                return Err(Error::Rows {
                    argument,
                    given: given.unwrap_or(0),
                    expected: expected.unwrap_or(0),
                });
            }
        }
        let prepared = self.prepare(contrast, inputs)?;
        let flags = &forward.flags;
        self.gradients_of(
            &prepared,
            flags,
            &forward.rows,
            columns,
            upstream,
            gradients,
        )
    }

    fn gradients_of(
        &self,
        prepared: &Prepared<'_, D>,
        flags: &Floats<D>,
        rows: &DeviceStatistics<D>,
        columns: Option<&DeviceStatistics<D>>,
        upstream: f32,
        gradients: &Gradients<DeviceMatrix>,
    ) -> Result<Floats<D>, Error> {
        let side = Side::new(prepared, upstream);
        let known = self.known(prepared, flags, rows, columns)?;
        let dots = self.gradients_known(&side, &known, gradients)?;
        self.reduce(prepared, None, None, Some(&dots))
    }

    /// Rows of a chunk of which each needs `row_bytes` of the budget: whole tiles, at least one.
    pub(super) fn chunk(&self, rows: usize, row_bytes: usize) -> usize {
        let fits = (self.budget / row_bytes / TILE).max(1) * TILE;
        fits.min(rows.next_multiple_of(TILE))
    }
}
