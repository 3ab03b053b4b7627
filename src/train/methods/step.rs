//! Inputs and report of a step, shared by the methods.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use crate::engine::RowsOf;
use crate::losses::{RowContext, RowLogits};
use crate::train::patches::PatchGrid;
use crate::{Contrast, Engine, Read};

/// One random view of each image of a batch.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Whole images, NCHW.
    pub pixels: &'a [f32],
    /// How images of this size are cut into patches.
    pub grid: &'a PatchGrid,
}

impl View<'_> {
    /// The patches of all images, and how many images there are.
    pub fn patches<B: Backend>(&self) -> (Tensor<B, 2>, usize) {
        self.grid.tensor(self.pixels)
    }
}

/// A batch of images as a step sees it.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// The index of each image among the training images.
    pub images: &'a [usize],
    /// The label of each image, where there are labels.
    pub labels: Option<&'a [u32]>,
    /// As many views as the method takes, each of all images in the same order.
    pub views: &'a [View<'a>],
    /// The step, counted from 0.
    pub step: u64,
    /// Whether to measure contrastive top-1, which costs a search.
    pub wants_top1: bool,
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

/// The share of `q`'s rows whose nearest candidate in `k` is a positive: `is_positive(row, candidate)`.
/// `exclude_self` skips the candidate of the row's own index.
pub(super) fn top1<E: Engine>(
    engine: &E,
    [q, k]: [RowsOf<'_, E, f32>; 2],
    exclude_self: bool,
    is_positive: impl Fn(usize, usize) -> bool,
) -> Result<f32, crate::Error> {
    let nearest = engine.top_k::<f32>(q, k, 1, exclude_self)?.read()?.indices;
    Ok(share(
        (0..nearest.len()).map(|row| is_positive(row, nearest[row] as usize)),
    ))
}

/// The share of `hits` that are true.
pub(super) fn share(hits: impl ExactSizeIterator<Item = bool>) -> f32 {
    let rows = hits.len();
    hits.filter(|&hit| hit).count() as f32 / rows as f32
}

/// The mean loss where all logits are 0 and each row has one positive among `candidates`. A loss of
/// sets does not depend on how many there are.
pub(super) fn chance_loss(contrast: &Contrast, candidates: usize) -> f64 {
    let (rule, negatives) = (contrast.rule(), candidates - 1);
    let row = RowContext::new(rule, contrast.scale().into(), negatives, std::iter::empty());
    let softplus = |x: f64| x.exp().ln_1p();
    let lse = match rule.logit_bias().map(f64::from) {
        Some(bias) => (negatives as f64 * softplus(bias) + softplus(-bias)).ln(),
        None => (negatives as f64).ln(),
    };
    let logits = RowLogits {
        second_lse: match rule.takes_sets() {
            true => 0.0,
            false => lse,
        },
        negatives: negatives as f64,
        ..RowLogits::new(lse, 0.0)
    };
    // Columns have the loss of the rows.
    let directions = if contrast.has_columns() { 2.0 } else { 1.0 };
    directions * contrast.row_weight(1) * rule.values(&logits, &row).value
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::*;
    use crate::{CpuEngine, Inputs, Positives, Rows, losses};

    /// Against the engine on rows of zeros, for every loss of rows that have their positives in the batch.
    #[test]
    fn the_chance_loss_is_that_of_logits_of_zero() {
        let (z, labels) = ([0.0f32; 12], [0, 0, 1, 0, 0, 1]);
        let z = Rows::new(&z, 6, 2).unwrap();
        let positives = Positives::Labels {
            anchors: &labels[..],
            candidates: &labels[..],
        };
        for loss in losses::TABLE {
            let contrast = (loss.at)(0.5).unwrap();
            let (inputs, candidates) = match contrast.layout() {
                losses::Layout::Shared => (Inputs::Shared { z }, 5),
                losses::Layout::Labelled => (Inputs::Labelled { z, positives }, 5),
                losses::Layout::Pair => (Inputs::pair(z, z), 6),
                losses::Layout::Queue => {
                    let (q, own_key, queue) = (z, z, z);
                    (Inputs::Queue { q, own_key, queue }, 7)
                }
                // Their rows have no one positive.
                losses::Layout::Targets => continue,
            };
            let problem = contrast.on(inputs).unwrap();
            let expected = CpuEngine::new().forward(&problem).unwrap().loss;
            let found = chance_loss(&contrast, candidates);
            assert_abs_diff_eq!(found, f64::from(expected), epsilon = 1e-5);
        }
    }
}
