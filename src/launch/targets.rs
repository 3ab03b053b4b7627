//! Soft targets. A chunk's scores ⟨q_i, k_j⟩ and ⟨u_i, p_j⟩ are stored in f32; a launch over its rows makes them statistics
//! and weights P − t. With the products of the weights that is 8NMD FLOPs, as many as any loss in chunks; the targets as
//! attention of their own, with values that are not its keys, would be 18NMD.

use super::choice::SCORES;
use super::held::Held;
use super::params::{
    ContrastView, Matrix, POSITIVE_NONE, PositivesParams, ScoresParams, TargetRowsParams,
};
use super::prepared::Prepared;
use super::results::{DeviceRows, Direction};
use super::similarity::Similarity;
use super::statistics::rows_params;
use super::{Arithmetic, Device, DeviceMatrix, Floats, count, kernels};
use crate::error::Error;
use crate::problem::Problem;
use bytemuck::Zeroable;

/// The targets of a problem as the tile loops read them.
pub(super) struct Targets<D: Device> {
    /// u and p.
    anchor_rows: Matrix,
    candidate_rows: Matrix,
    scale: f32,
    /// The address of c; 0: there is none.
    bias: u64,
    /// NaN where a row of u is not finite.
    finite: Floats<D>,
}

/// A chunk of anchors, whose targets are rows from `target` on.
#[derive(Clone, Copy)]
pub(super) struct TargetChunk {
    pub first: usize,
    pub count: usize,
    target: usize,
}

/// Scores of a chunk, and the first row of the targets that are stored.
pub(super) struct Scores<D: Device> {
    own: Floats<D>,
    of_targets: Floats<D>,
    stored: Option<usize>,
}

impl<D: Device> Similarity<'_, D> {
    /// The problem's targets; a candidate that is not finite sets the second word of `flags`.
    pub(super) fn targets(
        &self,
        problem: &Problem<DeviceMatrix>,
        arithmetic: Arithmetic,
        flags: &Floats<D>,
        held: &mut Held<'_, D>,
    ) -> Result<Option<Targets<D>>, Error> {
        let (Some([u, p]), Some(scale)) = (
            problem.matrices().targets,
            problem.contrast().rule().target_scale(),
        ) else {
            return Ok(None);
        };
        let finite = self.floats(u.rows)?;
        let square_norms = self.floats(u.rows + p.rows)?;
        let params = PositivesParams {
            contrast: ContrastView {
                anchors: count("target_q", u.rows)?,
                candidates: count("target_k", p.rows)?,
                rule: POSITIVE_NONE,
                ..ContrastView::zeroed()
            },
            anchors: u.into(),
            candidates: p.into(),
            own_keys: Matrix::zeroed(),
            dim: u.dim as u32,
            padding: 0,
            not_finite: flags.address(),
            bias: 0,
            positive: finite.address(),
            square_norms: square_norms.address(),
        };
        let warps = u.rows + p.rows.div_ceil(kernels::WARP_CANDIDATES);
        self.device.start_rows(kernels::POSITIVES, warps, &params)?;
        held.buffers.push(square_norms.buffer);
        Ok(Some(Targets {
            anchor_rows: self.tile_rows(arithmetic, u, held)?,
            candidate_rows: self.tile_rows(arithmetic, p, held)?,
            scale,
            bias: problem.target_bias().map_or(0, |bias| bias.address),
            finite,
        }))
    }

    /// Chunks of at most `rows` anchors. Those with the same targets follow each other.
    pub(super) fn target_chunks(prepared: &Prepared<'_, D>, rows: usize) -> Vec<TargetChunk> {
        let Some(targets) = &prepared.targets else {
            return Vec::new();
        };
        let all = targets.anchor_rows.rows as usize;
        let of_targets = (0..all).step_by(rows).flat_map(|target| {
            let firsts = (target..prepared.shape.anchors).step_by(all);
            firsts.map(move |first| TargetChunk {
                first,
                count: rows.min(all - target),
                target,
            })
        });
        of_targets.collect()
    }

    /// Buffers for the scores of `rows` anchors.
    pub(super) fn target_scores(
        &self,
        prepared: &Prepared<'_, D>,
        rows: usize,
    ) -> Result<Scores<D>, Error> {
        let length = rows * prepared.shape.candidates;
        Ok(Scores {
            own: self.floats(length)?,
            of_targets: self.floats(length)?,
            stored: None,
        })
    }

    /// Statistics of a chunk's rows, and their weights where `to` has data.
    pub(super) fn target_rows(
        &self,
        prepared: &Prepared<'_, D>,
        scores: &mut Scores<D>,
        chunk: TargetChunk,
        rows: &DeviceRows<D>,
        (to, shift): (Matrix, u64),
    ) -> Result<(), Error> {
        let Some(targets) = &prepared.targets else {
            return Ok(());
        };
        let TargetChunk {
            first,
            count,
            target,
        } = chunk;
        let (arithmetic, candidates) = (prepared.arithmetic, prepared.shape.candidates);
        let pass = |anchors: Matrix, of: Matrix, to: &Floats<D>| {
            let cut = self.cut(arithmetic, anchors, count, candidates);
            let params = ScoresParams {
                scores: to.address(),
                ..rows_params(anchors, of)
            };
            self.pass(SCORES, arithmetic, cut, params)
        };
        if scores.stored != Some(target) {
            let anchors = targets.anchor_rows.slice(target, count);
            pass(anchors, targets.candidate_rows, &scores.of_targets)?;
            scores.stored = Some(target);
        }
        let anchors = prepared.anchor_rows.slice(first, count);
        pass(anchors, prepared.candidate_rows, &scores.own)?;
        let params = TargetRowsParams {
            contrast: prepared.view,
            scores: scores.own.address(),
            target_scores: scores.of_targets.address(),
            bias: targets.bias,
            target_scale: targets.scale,
            padding: 0,
            target_finite: targets.finite.at(target),
            not_finite: prepared.flags.address(),
            of_rows: rows.params(first),
            weights: prepared.weights_at(first),
            to,
            shift,
        };
        let grid = [count as u32, 1, 1];
        self.device.start(kernels::TARGET_ROWS, grid, &params)
    }

    /// Statistics of all rows, from a z₊ that is NaN where an anchor is not finite.
    pub(super) fn statistics_of_targets(
        &self,
        prepared: &Prepared<'_, D>,
        positive: Floats<D>,
    ) -> Result<Direction<D>, Error> {
        let rows = self.direction(prepared, positive)?;
        let most = self.target_rows_of_chunk(prepared, 0);
        let mut scores = self.target_scores(prepared, most.min(prepared.shape.anchors))?;
        for chunk in Self::target_chunks(prepared, most) {
            let nowhere = (Matrix::zeroed(), 0);
            self.target_rows(prepared, &mut scores, chunk, &rows.rows, nowhere)?;
        }
        Ok(rows)
    }

    /// Rows of a chunk whose scores are stored besides `row_bytes` of weights.
    pub(super) fn target_rows_of_chunk(
        &self,
        prepared: &Prepared<'_, D>,
        row_bytes: usize,
    ) -> usize {
        let targets = prepared.targets.as_ref();
        let all = targets.map_or(0, |targets| targets.anchor_rows.rows as usize);
        self.chunk(all, row_bytes + 8 * prepared.shape.candidates)
            .min(all)
    }
}
