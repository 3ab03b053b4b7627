//! The fused gradient kernels: which there are, and a pass of one.

use super::choice::HOPPER_THREADS;
use super::gradient::{Known, Side, Sums, is_shifted};
use super::params::{GradientParams, HopperGradientParams, WorkGrid};
use super::results::Masses;
use super::similarity::Similarity;
use super::{Arithmetic, Device, Floats};
use crate::error::Error;

/// What the weights of a fused pass are made of: `Terms` of hopper/gradient.cu. The portable kernels
/// with a known softmax take any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Terms {
    Online,
    Owner,
    Streamed,
    Both,
}

/// A fused gradient kernel.
struct Fused {
    name: String,
    owner_rows: usize,
    streamed_rows: usize,
    threads: u32,
    shared_bytes: usize,
    /// Blocks that fit a multiprocessor of an H100 (kernels/README.md).
    resident: usize,
    hopper: bool,
}

/// The portable kernel for an arithmetic and rows of `width` numbers.
fn portable(arithmetic: Arithmetic, width: usize, terms: Terms) -> Option<Fused> {
    // Slabs, warps, streamed rows and stages as in similarity/gradient.cu.
    let (slabs, warps, streamed_rows, stages, resident) = match (arithmetic.bytes(), width) {
        (2, 64) => (1, 8, 64, 3, 1),
        (2, 128) => (2, 8, 64, 3, 1),
        (2, 256) => (4, 8, 32, 2, 1),
        (4, 64) => (2, 4, 32, 3, 3),
        (4, 128) => (4, 4, 32, 3, 2),
        (4, 256) => (8, 4, 16, 2, 2),
        _ => return None,
    };
    let terms = match terms {
        Terms::Online => "online",
        _ => "known",
    };
    Some(Fused {
        name: format!("gradient_{terms}_{arithmetic}_{width}"),
        owner_rows: 16 * warps,
        streamed_rows,
        threads: 32 * warps as u32,
        shared_bytes: slabs * 128 * (16 * warps + stages * streamed_rows),
        resident,
        hopper: false,
    })
}

/// The kernel for sm_90a for 16-bit numbers and rows of `width` of them.
fn hopper(arithmetic: Arithmetic, width: usize, terms: Terms) -> Option<Fused> {
    // Streamed rows and stages as in hopper/gradient.cu.
    let (streamed_rows, stages) = match (terms, width) {
        (Terms::Both, 256) => return None,
        (Terms::Both, _) => (96, 6),
        (_, 256) => (64, 4),
        _ => (128, 5),
    };
    let (terms, beside) = match terms {
        Terms::Online => ("online", 4),
        Terms::Owner => ("owner", 4),
        Terms::Streamed => ("streamed", 8),
        Terms::Both => ("both", 4),
    };
    let row_bytes = 2 * width;
    Some(Fused {
        name: format!("hopper_gradient_{terms}_{arithmetic}_{width}"),
        owner_rows: 128,
        streamed_rows,
        threads: HOPPER_THREADS,
        // Tiles, what comes beside each streamed row, mbarriers.
        shared_bytes: 128 * row_bytes
            + stages * streamed_rows * (row_bytes + beside)
            + (2 * stages + 2) * 8,
        resident: 1,
        hopper: true,
    })
}

impl<D: Device> Similarity<'_, D> {
    /// None when D is too large for registers.
    fn fused(&self, arithmetic: Arithmetic, dim: usize, terms: Terms) -> Option<Fused> {
        let width = [64, 128, 256].into_iter().find(|&width| dim <= width)?;
        match self.is_hopper(arithmetic) {
            true => hopper(arithmetic, width, terms),
            false => portable(arithmetic, width, terms),
        }
    }

    /// Whether fused kernels serve all gradients of the call, of which dk may be one.
    pub(super) fn is_fused(&self, side: &Side<'_, D>, dk: bool) -> bool {
        let prepared = side.prepared;
        if dk && self.shares_weights(prepared) {
            return false;
        }
        let terms = match prepared.contrast().is_one_way() {
            true => Terms::Streamed,
            false => Terms::Both,
        };
        self.fused(prepared.arithmetic, prepared.shape.dim, terms)
            .is_some()
    }

    /// Σ_j W_ij k_j of every anchor, or of every candidate, in parts. Without a known softmax of the anchors of a
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
            (None, None) => Terms::Online,
            (Some(_), None) => Terms::Owner,
            (None, Some(_)) => Terms::Streamed,
            (Some(_), Some(_)) => Terms::Both,
        };
        let kernel = self
            .fused(prepared.arithmetic, dim, terms)
            .ok_or(Error::Scalar {
                argument: "dim",
                given: dim as f64,
                allowed: "at most 256 for the fused gradient",
            })?;
        let owners = owner.rows as usize;
        let owner_tiles = owners.div_ceil(kernel.owner_rows);
        let tiles = (streamed.rows as usize).div_ceil(kernel.streamed_rows);
        let (splits, tiles_per_split) = self.split(owner_tiles, tiles, kernel.resident);
        let sums = self.floats(splits as usize * owners * dim)?;
        let normalisers = (terms == Terms::Online)
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
            owner_lse2: offset2(owner_terms),
            streamed_lse2: offset2(streamed_terms),
            far,
            shift: shift.unwrap_or(0),
            sums: sums.address(),
            normalisers: normalisers.as_ref().map_or(0, Floats::address),
        };
        let grid = WorkGrid::new(owner_tiles, splits);
        let shared_bytes = kernel.shared_bytes as u32;
        if kernel.hopper {
            let params = HopperGradientParams {
                owner: self.boxes(&owner, kernel.owner_rows as u32)?,
                streamed: self.boxes(&streamed, kernel.streamed_rows as u32)?,
                gradient: params,
                grid,
                padding: [0; 15],
            };
            self.launch_persistent(&kernel.name, 1, grid, shared_bytes, &params)?;
        } else {
            let (blocks, threads) = ([grid.tiles, grid.splits, 1], kernel.threads);
            self.device
                .start(&kernel.name, blocks, threads, shared_bytes, &params)?;
        }
        Ok(Sums {
            sums,
            normalisers,
            splits,
            shift,
        })
    }
}
