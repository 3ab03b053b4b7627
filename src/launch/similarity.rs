//! Forward, value-and-gradient and backward as sequences of launches.
//!
//! ```text
//! positives            z₊ of every anchor, and whether any number is not finite
//! statistics, combine  lse⁻, and the offsets and masses of rows, where a gradient needs them first
//! gradient…, finish    dq and dk; the pass over the anchors of a one-way loss finds lse on its way
//! reduce               loss and ∂loss/∂s
//! ```

use super::chunked::{Softmax, exponent_range};
use super::gradient::Side;
use super::prepared::Prepared;
use super::results::{DeviceStatistics, Direction, Results};
use super::statistics::COLUMN_SPLITS;
use super::{Arithmetic, Device, DeviceMatrix, Floats, kernels};
use crate::element::DType;
use crate::engine::Gradients;
use crate::error::Error;
use crate::inputs::Problem;

/// Rows of a tile of logits.
pub(super) const TILE: usize = kernels::STATISTICS[0].rows;

/// The verbs that compute a contrast.
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

    /// Room for so many numbers.
    pub(super) fn floats(&self, length: usize) -> Result<Floats<D>, Error> {
        Floats::unwritten(self.device, length)
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

    pub(crate) fn forward(&self, problem: &Problem<DeviceMatrix>) -> Result<Results<D>, Error> {
        let arithmetic = self.forward_arithmetic(problem.matrices().anchors.dtype)?;
        let prepared = self.prepare_in(arithmetic, problem)?;
        let positives = self.positives(&prepared)?;
        let (rows, columns) = self.statistics(&prepared, positives)?;
        self.results(prepared, rows, columns, None)
    }

    /// With the loss, and with dscale of ⟨q_i, dq_i⟩ and upstream.
    fn results(
        &self,
        prepared: Prepared<'_, D>,
        rows: Direction<D>,
        columns: Option<Direction<D>>,
        gradient: Option<(&Floats<D>, f32)>,
    ) -> Result<Results<D>, Error> {
        let of_columns = columns.as_ref().map(|columns| &columns.rows);
        Ok(Results {
            loss_and_dscale: self.reduce(&prepared, Some(&rows.rows), of_columns, gradient)?,
            statistics: DeviceStatistics::found(prepared, rows, columns),
        })
    }

    pub(crate) fn value_and_grad(
        &self,
        problem: &Problem<DeviceMatrix>,
        upstream: f32,
        gradients: &Gradients<DeviceMatrix>,
    ) -> Result<Results<D>, Error> {
        problem.check_gradients(&gradients.dq, gradients.dk.as_ref())?;
        let prepared = self.prepare(problem)?;
        let side = Side::new(&prepared, upstream, gradients.accumulate);
        let positives = self.positives(&prepared)?;
        let is_one_way = problem.contrast().is_one_way();
        let (rows, columns, dots) = if is_one_way && self.is_fused(&side, gradients.dk.is_some()) {
            let rows = self.direction(&prepared, positives.logits)?;
            let dots = self.gradient_online(&side, &rows, gradients.dq)?;
            if let Some(dk) = gradients.dk {
                let known = self.known(&prepared, &prepared.flags, (&rows.masses, None))?;
                self.gradient_of_candidates(&side, &known, dk)?;
            }
            (rows, None, dots)
        } else if is_one_way {
            let range = exponent_range(prepared.arithmetic);
            let bound = self.bound(&prepared, &positives, range)?;
            let rows = self.direction(&prepared, positives.logits)?;
            let dots = self.floats(prepared.shape.anchors)?;
            let found = (&positives.square_norms, &bound);
            let found = self.exponentials(&prepared, &rows, found, gradients.dk.is_some())?;
            self.chunked(&side, Softmax::Found(&found), gradients, &dots)?;
            (rows, None, dots)
        } else {
            let (rows, columns) = self.statistics(&prepared, positives)?;
            let of_columns = columns.as_ref().map(|columns| &columns.masses);
            let known = self.known(&prepared, &prepared.flags, (&rows.masses, of_columns))?;
            let dots = self.gradients_known(&side, &known, gradients)?;
            (rows, columns, dots)
        };
        self.results(prepared, rows, columns, Some((&dots, upstream)))
    }

    /// Returns two numbers, the second of which is dscale.
    pub(crate) fn backward(
        &self,
        problem: &Problem<DeviceMatrix>,
        statistics: &DeviceStatistics<D>,
        upstream: f32,
        gradients: &Gradients<DeviceMatrix>,
    ) -> Result<Floats<D>, Error> {
        problem.check_gradients(&gradients.dq, gradients.dk.as_ref())?;
        statistics.check(problem)?;
        let prepared = self.prepare(problem)?;
        let side = Side::new(&prepared, upstream, gradients.accumulate);
        let has_columns = problem.contrast().has_columns();
        let (rows, columns) = (&statistics.rows, statistics.columns.as_ref());
        let columns = columns.filter(|_| has_columns);
        let found;
        let (flags, masses) = match statistics.derived_for(problem) {
            Some(derived) => (&derived.flags, (&derived.rows, derived.columns.as_ref())),
            None => {
                self.mean_of_positives(&prepared, &rows.positive)?;
                let of_columns = columns.map(|columns| self.masses_of(&prepared, columns));
                found = (self.masses_of(&prepared, rows)?, of_columns.transpose()?);
                (&prepared.flags, (&found.0, found.1.as_ref()))
            }
        };
        let known = self.known(&prepared, flags, masses)?;
        let dots = self.gradients_known(&side, &known, gradients)?;
        // The loss is not wanted; what s itself moves is, where it moves anything.
        let moves = problem.contrast().rule().depends_on_scale();
        let (rows, columns) = (Some(rows).filter(|_| moves), columns.filter(|_| moves));
        self.reduce(&prepared, rows, columns, Some((&dots, upstream)))
    }

    /// Rows of a chunk of which each needs `row_bytes` of the budget: whole tiles, at least one.
    pub(super) fn chunk(&self, rows: usize, row_bytes: usize) -> usize {
        let fits = (self.budget / row_bytes / TILE).max(1) * TILE;
        fits.min(rows.next_multiple_of(TILE))
    }
}
