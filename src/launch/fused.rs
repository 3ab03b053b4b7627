//! The fused gradient kernels: which there are, and a pass of one.

use super::choice::Family;
use super::gradient::{Known, Side, Sums, is_shifted};
use super::params::{GradientParams, HopperGradientParams, WorkGrid};
use super::results::Masses;
use super::similarity::Similarity;
use super::{Device, Floats, kernels};
use crate::error::Error;

/// The kernels by what the weights of a pass are made of: `Terms` of hopper/gradient.cu. The portable ones with a known
/// softmax take any terms.
const ONLINE: Family = [kernels::GRADIENT_ONLINE, kernels::HOPPER_GRADIENT_ONLINE];
const OWNER: Family = [kernels::GRADIENT_KNOWN, kernels::HOPPER_GRADIENT_OWNER];
const STREAMED: Family = [kernels::GRADIENT_KNOWN, kernels::HOPPER_GRADIENT_STREAMED];
const BOTH: Family = [kernels::GRADIENT_KNOWN, kernels::HOPPER_GRADIENT_BOTH];

impl<D: Device> Similarity<'_, D> {
    /// Whether fused kernels serve all gradients of the call, of which dk may be one.
    pub(super) fn is_fused(&self, side: &Side<'_, D>, dk: bool) -> bool {
        let prepared = side.prepared;
        if dk && self.shares_weights(prepared) {
            return false;
        }
        let terms = match prepared.contrast().is_one_way() {
            true => STREAMED,
            false => BOTH,
        };
        self.kernel(terms, prepared.arithmetic, prepared.shape.dim)
            .is_ok()
    }

    /// Σ_j W_ij k_j of every anchor, or of every candidate, in splits. Without a known softmax of the anchors of a
    /// one-way loss, whose lse is found on the way.
    pub(super) fn fused_sums(
        &self,
        side: &Side<'_, D>,
        known: Option<&Known<'_, D>>,
        of_candidates: bool,
    ) -> Result<Sums<D>, Error> {
        let prepared = side.prepared;
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
        let normalisers = known
            .is_none()
            .then(|| self.floats(2 * splits as usize * owners))
            .transpose()?;
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
        if self.is_hopper(prepared.arithmetic) {
            let params = HopperGradientParams {
                owner: self.boxes(&owner, kernel.rows)?,
                streamed: self.boxes(&streamed, kernel.columns)?,
                gradient: params,
                grid,
                padding: [0; 15],
            };
            self.launch_persistent(kernel, grid, &params)?;
        } else {
            let blocks = [grid.tiles, grid.splits, 1];
            self.device.start(kernel, blocks, &params)?;
        }
        Ok(Sums {
            sums,
            normalisers,
            splits,
            shift,
        })
    }
}
