//! Inputs and report of a step, shared by the methods.

use crate::engine::RowsOf;
use crate::losses::{RowContext, RowLogits};
use crate::train::patches::PatchGrid;
use crate::{Contrast, Engine, Read};

/// Two views of a batch of images.
#[derive(Clone, Copy, Debug)]
pub struct Views<'a> {
    /// One view of each image, NCHW.
    pub first: &'a [f32],
    /// Another view of each image, in the same order.
    pub second: &'a [f32],
    /// How images are cut into patches.
    pub grid: &'a PatchGrid,
    /// The step, counted from 0.
    pub step: u64,
    /// Whether to measure contrastive top-1, which costs a search.
    pub wants_top1: bool,
}

impl Views<'_> {
    /// N, the number of images.
    pub fn images(&self) -> usize {
        self.first.len() / self.grid.image_len()
    }

    /// These views with first and second exchanged.
    pub(super) fn swapped(self) -> Self {
        Self {
            first: self.second,
            second: self.first,
            ..self
        }
    }
}

/// The report of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossReport {
    /// The loss in nats.
    pub loss: f32,
    /// Share of anchors more similar to their positive than to every negative, where it was measured.
    pub top1: Option<f32>,
    /// The loss in nats if all logits were 0, as for an encoder that cannot tell candidates apart.
    pub chance_loss: f64,
}

/// The share of `q`'s rows whose nearest candidate in `k` is the one at index `positive(row)`.
/// `exclude_self` skips the candidate of the row's own index.
pub(super) fn top1<E: Engine>(
    engine: &E,
    [q, k]: [RowsOf<'_, E, f32>; 2],
    exclude_self: bool,
    positive: impl Fn(usize) -> usize,
) -> Result<f32, crate::Error> {
    let nearest = engine.top_k::<f32>(q, k, 1, exclude_self)?.read()?.indices;
    Ok(share(
        (0..nearest.len()).map(|row| nearest[row] as usize == positive(row)),
    ))
}

/// The share of `hits` that are true.
pub(super) fn share(hits: impl ExactSizeIterator<Item = bool>) -> f32 {
    let rows = hits.len();
    hits.filter(|&hit| hit).count() as f32 / rows as f32
}

/// The mean loss where all logits are 0.
pub(super) fn chance_loss(contrast: &Contrast, candidates: usize) -> f64 {
    let (rule, negatives) = (contrast.rule(), candidates - 1);
    let row = RowContext::new(rule, contrast.scale().into(), negatives, std::iter::empty());
    contrast.row_weight(1)
        * rule
            .values(&RowLogits::new((negatives as f64).ln(), 0.0), &row)
            .value
}
