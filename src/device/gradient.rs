//! The gradient passes: fused where D fits the registers, over chunks of stored weights elsewhere.

use super::chunked::Softmax;
use super::fused::Pass;
use super::params::{FinishParams, ShiftParams};
use super::prepared::{Prepared, no_matrix, view};
use super::similarity::{Similarity, WARP_ROWS};
use super::statistics::{DeviceStatistics, Partial};
use super::{Device, DeviceMatrix, Floats, number_bytes};
use crate::contrast::Form;
use crate::element::DType;
use crate::engine::Gradients;
use crate::error::Error;

/// Whether weights of the type are shifted: `SHIFTED` of tile/element.h.
pub(super) fn is_shifted(dtype: DType) -> bool {
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
    /// Where the weights' shift stands, 0 if it is that of weights that are at most 1; nothing if they were not
    /// shifted.
    pub shift: Option<u64>,
}

/// Positives that no tile held, which are subtracted when sums are finished.
pub(super) enum Outside<'a, D: Device> {
    None,
    /// σ_i·k₊ from dq_i.
    Keys(&'a DeviceStatistics<D>),
    /// σ_i·q_i from dk_i: of the diagonal.
    Anchors(&'a DeviceStatistics<D>),
}

/// How sums become a gradient.
pub(super) struct Finish<'a, D: Device> {
    pub sums: &'a Sums<D>,
    /// What the weights of each row have too little, where they are no softmax yet.
    pub factors: Option<&'a Floats<D>>,
    pub outside: Outside<'a, D>,
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

impl<'a, D: Device> Outside<'a, D> {
    /// With the softmax known tiles hold all positives but MoCo's, which are columns of their own.
    pub fn of_known(prepared: &Prepared<'_, D>, rows: &'a DeviceStatistics<D>) -> Self {
        match prepared.contrast.form {
            Form::Moco => Self::Keys(rows),
            _ => Self::None,
        }
    }
}

impl<'a, D: Device> Finish<'a, D> {
    /// The whole gradient of the candidates.
    pub fn of_candidates(
        sums: &'a Sums<D>,
        outside: Outside<'a, D>,
        gradient: DeviceMatrix,
    ) -> Self {
        Self {
            sums,
            factors: None,
            outside,
            gradient,
            dots: None,
            first_row: 0,
            rows: gradient.rows,
        }
    }
}

impl<D: Device> Similarity<'_, D> {
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
                factors: None,
                outside: Outside::Keys(statistics),
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
        self.finish(side, &Finish::of_candidates(&sums, Outside::None, dk))
    }

    /// All gradients from a known softmax. Returns ⟨q_i, dq_i⟩.
    pub(super) fn gradients_known(
        &self,
        side: &Side<'_, D>,
        known: &Known<'_, D>,
        gradients: &Gradients<DeviceMatrix>,
    ) -> Result<Floats<D>, Error> {
        let prepared = side.prepared;
        let dots = self.memory().floats(prepared.shape.anchors)?;
        if !self.is_fused(side, gradients.dk.is_some()) {
            self.chunked(side, &Softmax::Known(known), gradients, &dots)?;
            return Ok(dots);
        }
        let sums = self.fused_sums(side, Pass::OfAnchors(known))?;
        self.finish(
            side,
            &Finish {
                sums: &sums,
                factors: None,
                outside: Outside::of_known(prepared, known.rows),
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
        let (keys, own_keys, positives) = match (&finish.outside, prepared.own_keys) {
            (Outside::None, _) => (no_matrix(), 0, None),
            (Outside::Keys(rows), None) => (view(prepared.candidates), 0, Some(*rows)),
            (Outside::Keys(positives), Some(own)) => (view(from(own)), rows, Some(*positives)),
            (Outside::Anchors(positives), _) => {
                let anchors = prepared.anchors;
                (view(anchors), anchors.rows, Some(*positives))
            }
        };
        let at = |floats: &Floats<D>| floats.address() + 4 * first as u64;
        let rows_of = match finish.dots {
            Some(_) => view(from(prepared.anchors)),
            None => no_matrix(),
        };
        // A warp adds up four parts or so: few rows have many.
        let warps = (finish.sums.parts as usize)
            .div_ceil(4)
            .next_power_of_two()
            .min(WARP_ROWS);
        let params = FinishParams {
            sums: finish.sums.sums.address(),
            normalisers: finish.sums.normalisers.as_ref().map_or(0, Floats::address),
            parts: finish.sums.parts,
            rows: rows as u32,
            dim: gradient.dim as u32,
            shifted: u32::from(finish.sums.shift.is_some()),
            warps: warps as u32,
            first_row: first as u32,
            factors: finish.factors.map_or(0, Floats::address),
            contrast: prepared.view,
            coefficient: side.coefficient,
            padding_2: 0,
            sigma: positives.map_or(0, |s| at(&s.sigma)),
            keys,
            own_keys: own_keys as u32,
            padding_3: 0,
            rows_of,
            gradient: view(from(gradient)),
            shift: finish.sums.shift.unwrap_or(0),
            dots: finish.dots.map_or(0, at),
        };
        let grid = [rows.div_ceil(WARP_ROWS / warps) as u32, 1, 1];
        let threads = 32 * WARP_ROWS as u32;
        // FINISH_COLUMNS numbers a thread.
        let shared_bytes = if warps > 1 { 16 * threads } else { 0 };
        self.launch("finish_gradient", grid, threads, shared_bytes, &params)
    }
}
