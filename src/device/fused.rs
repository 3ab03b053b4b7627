//! The fused gradient kernels: which there are, and a pass of one.

use super::choice::HOPPER_THREADS;
use super::gradient::{Known, Side, Sums, is_shifted};
use super::params::{GradientParams, HopperGradientParams, WorkGrid};
use super::results::Masses;
use super::similarity::Similarity;
use super::{Arithmetic, Device, Floats};
use crate::error::Error;

/// Which gradient a fused pass computes.
pub(super) enum Pass<'a, D: Device> {
    /// dq, lse on the way.
    Online,
    OfAnchors(&'a Known<'a, D>),
    OfCandidates(&'a Known<'a, D>),
}

/// What the weights of a fused pass are made of: `Terms` of hopper/gradient.cu. The portable kernels
/// with a known softmax take any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Terms {
    Online,
    Owner,
    Streamed,
    Both,
}

/// A fused gradient kernel.
struct Fused {
    name: &'static str,
    owner_rows: usize,
    streamed_rows: usize,
    threads: u32,
    shared_bytes: u32,
    /// Blocks that fit a multiprocessor of an H100 (kernels/README.md).
    resident: usize,
    hopper: bool,
}

/// The portable kernel for an arithmetic and D; none when D is too large for it.
fn portable(arithmetic: Arithmetic, dim: usize, terms: Terms) -> Option<Fused> {
    // Slabs, warps, streamed rows and stages as in similarity/gradient.cu.
    macro_rules! kernel {
        ($name:literal, $slabs:literal, $warps:literal, $columns:literal, $stages:literal, $resident:literal) => {
            Some(Fused {
                name: match terms {
                    Terms::Online => concat!("gradient_online_", $name),
                    _ => concat!("gradient_known_", $name),
                },
                owner_rows: 16 * $warps,
                streamed_rows: $columns,
                threads: 32 * $warps,
                shared_bytes: $slabs * 128 * (16 * $warps + $stages * $columns),
                resident: $resident,
                hopper: false,
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

/// The kernel for sm_90a for 16-bit numbers and D; none when D is too large for it.
fn hopper(arithmetic: Arithmetic, dim: usize, terms: Terms) -> Option<Fused> {
    // Terms, D, slabs, streamed rows and stages as in hopper/gradient.cu: tiles, what comes with each streamed
    // row, mbarriers.
    macro_rules! kernel {
        ($terms:literal, $dim:literal, $slabs:literal, $columns:literal, $stages:literal) => {
            Some(Fused {
                name: match arithmetic {
                    Arithmetic::F16 => concat!("hopper_gradient_", $terms, "_f16_", $dim),
                    _ => concat!("hopper_gradient_", $terms, "_bf16_", $dim),
                },
                owner_rows: 128,
                streamed_rows: $columns,
                threads: HOPPER_THREADS,
                shared_bytes: $slabs * 128 * 128
                    + $stages
                        * $columns
                        * ($slabs * 128 + if terms == Terms::Streamed { 8 } else { 4 })
                    + (2 * $stages + 2) * 8,
                resident: 1,
                hopper: true,
            })
        };
    }
    match (terms, dim) {
        (Terms::Online, ..=64) => kernel!("online", "64", 1, 128, 5),
        (Terms::Online, ..=128) => kernel!("online", "128", 2, 128, 5),
        (Terms::Online, ..=256) => kernel!("online", "256", 4, 64, 4),
        (Terms::Owner, ..=64) => kernel!("owner", "64", 1, 128, 5),
        (Terms::Owner, ..=128) => kernel!("owner", "128", 2, 128, 5),
        (Terms::Owner, ..=256) => kernel!("owner", "256", 4, 64, 4),
        (Terms::Streamed, ..=64) => kernel!("streamed", "64", 1, 128, 5),
        (Terms::Streamed, ..=128) => kernel!("streamed", "128", 2, 128, 5),
        (Terms::Streamed, ..=256) => kernel!("streamed", "256", 4, 64, 4),
        (Terms::Both, ..=64) => kernel!("both", "64", 1, 96, 6),
        (Terms::Both, ..=128) => kernel!("both", "128", 2, 96, 6),
        _ => None,
    }
}

impl<D: Device> Similarity<'_, D> {
    fn fused(&self, arithmetic: Arithmetic, dim: usize, terms: Terms) -> Option<Fused> {
        match self.is_hopper(arithmetic) {
            true => hopper(arithmetic, dim, terms),
            false => portable(arithmetic, dim, terms),
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

    /// Σ_j W_ij k_j of every owner row, in parts.
    pub(super) fn fused_sums(
        &self,
        side: &Side<'_, D>,
        pass: Pass<'_, D>,
    ) -> Result<Sums<D>, Error> {
        let prepared = side.prepared;
        let dim = prepared.shape.dim;
        let (anchors, candidates) = (prepared.anchor_rows, prepared.candidate_rows);
        let (owner, streamed) = match pass {
            Pass::Online | Pass::OfAnchors(_) => (anchors, candidates),
            Pass::OfCandidates(_) => (candidates, anchors),
        };
        let (owner_terms, streamed_terms, far, shift) = match pass {
            Pass::Online => (None, None, 0, is_shifted(prepared.dtype).then_some(0)),
            Pass::OfAnchors(known) => (Some(known.rows), known.columns, known.far, known.shift()),
            Pass::OfCandidates(known) => {
                (known.columns, Some(known.rows), known.far, known.shift())
            }
        };
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
        let (parts, tiles_per_split) = self.split(owner_tiles, tiles, kernel.resident);
        let sums = self.memory().floats(parts as usize * owners * dim)?;
        let normalisers = match terms {
            Terms::Online => Some(self.memory().floats(2 * parts as usize * owners)?),
            _ => None,
        };
        let offset2 = |masses: Option<&Masses<D>>| masses.map_or(0, |m| m.offset2.address());
        let params = GradientParams {
            contrast: prepared.view,
            owner,
            streamed,
            dim: dim as u32,
            tiles_per_split,
            owner_is_anchor: u32::from(!matches!(pass, Pass::OfCandidates(_))),
            padding: 0,
            owner_lse2: offset2(owner_terms),
            streamed_lse2: offset2(streamed_terms),
            far,
            shift: shift.unwrap_or(0),
            sums: sums.address(),
            normalisers: normalisers.as_ref().map_or(0, Floats::address),
        };
        let grid = WorkGrid::new(owner_tiles, parts);
        if kernel.hopper {
            let params = HopperGradientParams {
                owner: self.boxes(owner, prepared.arithmetic, kernel.owner_rows as u32)?,
                streamed: self.boxes(streamed, prepared.arithmetic, kernel.streamed_rows as u32)?,
                gradient: params,
                grid,
                padding: [0; 3],
            };
            self.launch_persistent(kernel.name, 1, grid, kernel.shared_bytes, &params)?;
        } else {
            let blocks = [grid.tiles, grid.parts, 1];
            let (threads, shared_bytes) = (kernel.threads, kernel.shared_bytes);
            self.launch(kernel.name, blocks, threads, shared_bytes, &params)?;
        }
        Ok(Sums {
            sums,
            normalisers,
            parts,
            shift,
        })
    }
}
