//! Selects and launches the fused gradient kernels, which keep the sums Σ_j W_ij y_j of a block's rows in registers.

use super::gradient::{Call, Known, Sums, is_shifted};
use super::kernels::Family;
use super::params::{GradientParams, HopperGradientParams, WorkGrid};
use super::results::Masses;
use super::similarity::Similarity;
use super::{Device, Floats, kernels};
use crate::error::Error;

// A family for each set of terms of W: none known, 2^(z - o) with the owner's o, with the streamed row's, or both. The
// portable kernel of known weights takes any terms.
const ONLINE: Family = [kernels::GRADIENT_ONLINE, kernels::HOPPER_GRADIENT_ONLINE];
const OWNER: Family = [kernels::GRADIENT_KNOWN, kernels::HOPPER_GRADIENT_OWNER];
const STREAMED: Family = [kernels::GRADIENT_KNOWN, kernels::HOPPER_GRADIENT_STREAMED];
const BOTH: Family = [kernels::GRADIENT_KNOWN, kernels::HOPPER_GRADIENT_BOTH];

impl<D: Device> Similarity<'_, D> {
    /// Whether fused kernels serve all gradients of the call: dq, and dk where it is wanted.
    pub(super) fn is_fused(&self, call: &Call<'_, D>, dk: bool) -> bool {
        let prepared = call.prepared;
        if prepared.options.is_some() || (dk && self.shares_weights(prepared)) {
            return false;
        }
        let terms = match prepared.contrast().is_one_way() {
            true => STREAMED,
            false => BOTH,
        };
        self.kernel(terms, prepared.arithmetic, prepared.shape.dim)
            .is_ok()
    }

    /// Σ_j W_ij k_j of every anchor, or Σ_i W_ij q_i of every candidate, as a set of partial sums for each split.
    /// Without `known` they are the anchors' of a one-way loss; the same pass computes the row sums of exponentials.
    pub(super) fn fused_sums(
        &self,
        call: &Call<'_, D>,
        known: Option<&Known<'_, D>>,
        of_candidates: bool,
    ) -> Result<Sums<D>, Error> {
        let prepared = call.prepared;
        let dim = prepared.shape.dim;
        let mut rows = [prepared.anchor_rows, prepared.candidate_rows];
        let (mut masses, far, shift) = match known {
            Some(known) => (
                [Some(known.masses.0), known.masses.1],
                known.far,
                known.shift(),
            ),
            None => (
                [None, None],
                0,
                is_shifted(prepared.matrices().anchors.dtype).then_some(0),
            ),
        };
        if of_candidates {
            rows.reverse();
            masses.reverse();
        }
        let ([owner, streamed], [owner_terms, streamed_terms]) = (rows, masses);
        let terms = match (owner_terms, streamed_terms) {
            (None, None) => ONLINE,
            (Some(_), None) => OWNER,
            (None, Some(_)) => STREAMED,
            (Some(_), Some(_)) => BOTH,
        };
        let kernel = self.kernel(terms, prepared.arithmetic, dim)?;
        let owners = owner.rows as usize;
        let owner_tiles = owners.div_ceil(kernel.rows);
        let tiles = (streamed.rows as usize).div_ceil(kernel.columns);
        let (splits, tiles_per_split) = self.split(owner_tiles, tiles, kernel.resident);
        let sums = self.floats(splits as usize * owners * dim)?;
        let normalisers = self.floats_if(known.is_none(), 2 * splits as usize * owners)?;
        let offset2 = |masses: Option<&Masses<D>>| masses.map_or(0, |m| m.offset2.address());
        let params = GradientParams {
            contrast: prepared.view,
            owner,
            streamed,
            dim: dim as u32,
            tiles_per_split,
            owner_is_anchor: u32::from(!of_candidates),
            padding: 0,
            owner_offset2: offset2(owner_terms),
            streamed_offset2: offset2(streamed_terms),
            far,
            shift: shift.unwrap_or(0),
            sums: sums.address(),
            normalisers: normalisers.as_ref().map_or(0, Floats::address),
        };
        let grid = WorkGrid::new(owner_tiles, splits);
        self.launch_tiles(kernel, prepared.arithmetic, grid, &params, || {
            Ok(HopperGradientParams {
                owner: self.boxes(&owner, kernel.rows)?,
                streamed: self.boxes(&streamed, kernel.columns)?,
                gradient: params,
                grid,
                padding: [0; 15],
            })
        })?;
        Ok(Sums {
            sums,
            normalisers,
            splits,
            shift,
        })
    }
}
