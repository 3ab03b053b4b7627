//! The gradient passes: fused where D fits the registers, over chunks of stored weights elsewhere.

use super::params::{FinishParams, GradientParams, ShiftParams};
use super::prepared::{Prepared, no_matrix, view};
use super::similarity::{Similarity, WARP_ROWS};
use super::statistics::{DeviceStatistics, Partial};
use super::{Arithmetic, Device, DeviceMatrix, Floats, number_bytes};
use crate::contrast::Form;
use crate::element::DType;
use crate::engine::Gradients;
use crate::error::Error;

/// One of the fused gradient kernels: its names, and the tiles of similarity/gradient.cu.
struct Fused {
    online: &'static str,
    known: &'static str,
    owner_rows: usize,
    streamed_rows: usize,
    shared_bytes: u32,
    /// Blocks that fit a multiprocessor of an H100 (kernels/README.md).
    resident: usize,
}

/// The fused kernel for an arithmetic and D; none when D is too large for it.
fn fused(arithmetic: Arithmetic, dim: usize) -> Option<Fused> {
    // Slabs, warps, streamed rows and stages as in similarity/gradient.cu.
    macro_rules! kernel {
        ($name:literal, $slabs:literal, $warps:literal, $columns:literal, $stages:literal, $resident:literal) => {
            Some(Fused {
                online: concat!("gradient_online_", $name),
                known: concat!("gradient_known_", $name),
                owner_rows: 16 * $warps,
                streamed_rows: $columns,
                shared_bytes: $slabs * 128 * (16 * $warps + $stages * $columns),
                resident: $resident,
            })
        };
    }
    match (arithmetic, dim) {
        (Arithmetic::Bf16, ..=64) => kernel!("bf16_64", 1, 8, 64, 3, 1),
        (Arithmetic::Bf16, ..=128) => kernel!("bf16_128", 2, 8, 64, 3, 1),
        (Arithmetic::Bf16, ..=256) => kernel!("bf16_256", 4, 8, 32, 2, 1),
        (Arithmetic::F16, ..=64) => kernel!("f16_64", 1, 8, 64, 3, 1),
        (Arithmetic::F16, ..=128) => kernel!("f16_128", 2, 8, 64, 3, 1),
        (Arithmetic::F16, ..=256) => kernel!("f16_256", 4, 8, 32, 2, 1),
        (Arithmetic::F32, ..=64) => kernel!("f32_64", 2, 4, 32, 3, 3),
        (Arithmetic::F32, ..=128) => kernel!("f32_128", 4, 4, 32, 3, 2),
        (Arithmetic::F32, ..=256) => kernel!("f32_256", 8, 4, 16, 2, 2),
        (Arithmetic::Tf32, ..=64) => kernel!("tf32_64", 2, 4, 32, 3, 3),
        (Arithmetic::Tf32, ..=128) => kernel!("tf32_128", 4, 4, 32, 3, 2),
        (Arithmetic::Tf32, ..=256) => kernel!("tf32_256", 8, 4, 16, 2, 2),
        _ => None,
    }
}

/// Whether weights of the type are shifted: `SHIFTED` of tile/element.h.
fn is_shifted(dtype: DType) -> bool {
    dtype == DType::F16
}

/// What all gradients of a call share.
pub(super) struct Side<'a, D: Device> {
    pub prepared: &'a Prepared<'a, D>,
    /// upstream · w.
    pub coefficient: f32,
}

impl<'a, D: Device> Side<'a, D> {
    pub fn new(prepared: &'a Prepared<'a, D>, upstream: f32) -> Self {
        let weight = prepared.contrast.row_weight(prepared.shape.anchors);
        Self {
            prepared,
            coefficient: (f64::from(upstream) * weight) as f32,
        }
    }
}

/// Sums of one side, waiting to be finished.
pub(super) struct Sums<D: Device> {
    pub sums: Floats<D>,
    pub normalisers: Option<Floats<D>>,
    pub parts: u32,
    /// Where the weights' shift stands, when it was found for them.
    pub shift: u64,
}

/// How sums become a gradient.
pub(super) struct Finish<'a, D: Device> {
    pub sums: &'a Sums<D>,
    /// Whose positives no tile held: they are subtracted here.
    pub positives: Option<&'a DeviceStatistics<D>>,
    pub gradient: DeviceMatrix,
    /// Where ⟨q_i, dq_i⟩ goes, for the anchors.
    pub dots: Option<&'a Floats<D>>,
    /// The rows whose sums these are.
    pub first_row: usize,
    pub rows: usize,
}

/// A softmax that is known: W_ij = 2^(z - lse_i) + 2^(z - lse_j), the second term where columns have
/// a loss.
pub(super) struct Known<'a, D: Device> {
    pub rows: &'a DeviceStatistics<D>,
    pub columns: Option<&'a DeviceStatistics<D>>,
    /// Of the weights, where their type needs one.
    shift: Option<Floats<D>>,
}

impl<D: Device> Known<'_, D> {
    pub fn shift(&self) -> u64 {
        self.shift.as_ref().map_or(0, Floats::address)
    }
}

/// Which gradient a fused pass computes.
enum Pass<'a, D: Device> {
    /// dq, lse on the way.
    Online,
    OfAnchors(&'a Known<'a, D>),
    OfCandidates(&'a Known<'a, D>),
}

impl<'a, D: Device> Finish<'a, D> {
    /// The whole gradient of the candidates.
    pub fn of_candidates(sums: &'a Sums<D>, gradient: DeviceMatrix) -> Self {
        Self {
            sums,
            positives: None,
            gradient,
            dots: None,
            first_row: 0,
            rows: gradient.rows,
        }
    }
}

impl<D: Device> Similarity<'_, D> {
    /// Whether a fused kernel serves.
    pub(super) fn is_fused(&self, side: &Side<'_, D>) -> bool {
        let (arithmetic, dim) = (side.prepared.arithmetic, side.prepared.shape.dim);
        fused(arithmetic, dim).is_some() && self.prefers_fused(arithmetic, dim)
    }

    /// dq of a one-way loss, and the statistics that are found on the way: 4NMD FLOPs. Returns
    /// ⟨q_i, dq_i⟩.
    pub(super) fn gradient_online(
        &self,
        side: &Side<'_, D>,
        statistics: &DeviceStatistics<D>,
        dq: DeviceMatrix,
    ) -> Result<Floats<D>, Error> {
        let prepared = side.prepared;
        let sums = self.fused_sums(side, Pass::Online)?;
        let anchors = prepared.shape.anchors;
        self.combine(
            prepared,
            statistics,
            0,
            anchors,
            Partial {
                sums: sums.normalisers.as_ref().map_or(0, Floats::address),
                parts: sums.parts,
                ..Partial::default()
            },
        )?;
        let dots = self.memory().floats(anchors)?;
        self.finish(
            side,
            &Finish {
                sums: &sums,
                positives: Some(statistics),
                gradient: dq,
                dots: Some(&dots),
                first_row: 0,
                rows: anchors,
            },
        )?;
        Ok(dots)
    }

    /// A softmax from its statistics.
    pub(super) fn known<'a>(
        &self,
        prepared: &Prepared<'_, D>,
        rows: &'a DeviceStatistics<D>,
        columns: Option<&'a DeviceStatistics<D>>,
    ) -> Result<Known<'a, D>, Error> {
        // In NT-Xent the other side's rows are the same rows.
        let columns = match prepared.contrast.form {
            Form::NtXent => Some(rows),
            _ => columns,
        };
        let shift = match is_shifted(prepared.dtype) {
            true => Some(self.memory().floats(2)?),
            false => None,
        };
        if let Some(shift) = &shift {
            let params = ShiftParams {
                row_sigma: rows.sigma.address(),
                column_sigma: columns.map_or(0, |s| s.sigma.address()),
                rows: prepared.view.anchors,
                columns: prepared.view.candidates,
                shift: shift.address(),
            };
            self.launch("find_weight_shift", [1, 1, 1], 1024, 4 * 1024, &params)?;
        }
        Ok(Known {
            rows,
            columns,
            shift,
        })
    }

    /// dk from a known softmax: 4MND FLOPs.
    pub(super) fn gradient_of_candidates(
        &self,
        side: &Side<'_, D>,
        known: &Known<'_, D>,
        dk: DeviceMatrix,
    ) -> Result<(), Error> {
        let sums = self.fused_sums(side, Pass::OfCandidates(known))?;
        self.finish(side, &Finish::of_candidates(&sums, dk))
    }

    /// All gradients from a known softmax. Returns ⟨q_i, dq_i⟩.
    pub(super) fn gradients_known(
        &self,
        side: &Side<'_, D>,
        known: &Known<'_, D>,
        gradients: &Gradients<DeviceMatrix>,
    ) -> Result<Floats<D>, Error> {
        let prepared = side.prepared;
        // MoCo's positive is a column of its own, outside every tile.
        let own = prepared.contrast.form == Form::Moco;
        let dots = self.memory().floats(prepared.shape.anchors)?;
        if !self.is_fused(side) {
            self.chunked(side, known, gradients, &dots)?;
            return Ok(dots);
        }
        let sums = self.fused_sums(side, Pass::OfAnchors(known))?;
        self.finish(
            side,
            &Finish {
                sums: &sums,
                positives: own.then_some(known.rows),
                gradient: gradients.dq,
                dots: Some(&dots),
                first_row: 0,
                rows: prepared.shape.anchors,
            },
        )?;
        if let Some(dk) = gradients.dk {
            self.gradient_of_candidates(side, known, dk)?;
        }
        Ok(dots)
    }

    fn fused_sums(&self, side: &Side<'_, D>, pass: Pass<'_, D>) -> Result<Sums<D>, Error> {
        let prepared = side.prepared;
        let dim = prepared.shape.dim;
        let kernel = fused(prepared.arithmetic, dim).ok_or(Error::Scalar {
            argument: "dim",
            given: dim as f64,
            allowed: "at most 256 for the fused gradient",
        })?;
        let (anchors, candidates) = (prepared.anchor_rows, prepared.candidate_rows);
        let (owner, streamed) = match pass {
            Pass::Online | Pass::OfAnchors(_) => (anchors, candidates),
            Pass::OfCandidates(_) => (candidates, anchors),
        };
        let (owner_terms, streamed_terms, shift) = match pass {
            Pass::Online => (None, None, 0),
            Pass::OfAnchors(known) => (Some(known.rows), known.columns, known.shift()),
            Pass::OfCandidates(known) => (known.columns, Some(known.rows), known.shift()),
        };
        let owners = owner.rows as usize;
        let owner_tiles = owners.div_ceil(kernel.owner_rows);
        let tiles = (streamed.rows as usize).div_ceil(kernel.streamed_rows);
        let (parts, tiles_per_split) = self.split(owner_tiles, tiles, kernel.resident);
        let sums = self.memory().floats(parts as usize * owners * dim)?;
        let online = matches!(pass, Pass::Online);
        let normalisers = match online {
            true => Some(self.memory().floats(2 * parts as usize * owners)?),
            false => None,
        };
        let lse2 = |s: Option<&DeviceStatistics<D>>| s.map_or(0, |s| s.lse2.address());
        let sigma = |s: Option<&DeviceStatistics<D>>| s.map_or(0, |s| s.sigma.address());
        let params = GradientParams {
            contrast: prepared.view,
            owner,
            streamed,
            dim: dim as u32,
            tiles_per_split,
            owner_is_anchor: u32::from(!matches!(pass, Pass::OfCandidates(_))),
            padding: 0,
            owner_lse2: lse2(owner_terms),
            streamed_lse2: lse2(streamed_terms),
            owner_sigma: sigma(owner_terms),
            streamed_sigma: sigma(streamed_terms),
            shift,
            sums: sums.address(),
            normalisers: normalisers.as_ref().map_or(0, Floats::address),
        };
        let name = if online { kernel.online } else { kernel.known };
        let threads = 2 * kernel.owner_rows as u32;
        let grid = [owner_tiles as u32, parts, 1];
        self.launch(name, grid, threads, kernel.shared_bytes, &params)?;
        Ok(Sums {
            sums,
            normalisers,
            parts,
            shift,
        })
    }

    /// Adds up the parts and writes the gradient.
    pub(super) fn finish(&self, side: &Side<'_, D>, finish: &Finish<'_, D>) -> Result<(), Error> {
        let prepared = side.prepared;
        let (first, gradient) = (finish.first_row, finish.gradient);
        let rows = finish.rows;
        let from = |matrix: DeviceMatrix| {
            let bytes = matrix.stride * number_bytes(matrix.dtype);
            DeviceMatrix {
                address: matrix.address + (first * bytes) as u64,
                rows,
                ..matrix
            }
        };
        let keys = match (finish.positives, prepared.own_keys) {
            (None, _) => no_matrix(),
            (Some(_), Some(own)) => view(from(own)),
            (Some(_), None) => view(prepared.candidates),
        };
        let at = |floats: &Floats<D>| floats.address() + 4 * first as u64;
        let rows_of = match finish.dots {
            Some(_) => view(from(prepared.anchors)),
            None => no_matrix(),
        };
        let params = FinishParams {
            sums: finish.sums.sums.address(),
            normalisers: finish.sums.normalisers.as_ref().map_or(0, Floats::address),
            parts: finish.sums.parts,
            rows: rows as u32,
            dim: gradient.dim as u32,
            shifted: u32::from(is_shifted(prepared.dtype)),
            contrast: prepared.view,
            coefficient: side.coefficient,
            padding: 0,
            sigma: finish.positives.map_or(0, |s| at(&s.sigma)),
            keys,
            own_keys: u32::from(prepared.own_keys.is_some()),
            padding_2: 0,
            rows_of,
            gradient: view(from(gradient)),
            shift: finish.sums.shift,
            dots: finish.dots.map_or(0, at),
        };
        let grid = [rows.div_ceil(WARP_ROWS) as u32, 1, 1];
        self.launch("finish_gradient", grid, 32 * WARP_ROWS as u32, 0, &params)
    }
}
