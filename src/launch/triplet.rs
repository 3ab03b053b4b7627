//! The triplet loss as launches: each anchor's loss with its dq; the gradient of the candidates, or of one matrix of
//! both, after the anchors are grouped by their positives and by their negatives; the sum of the losses.

use bytemuck::Zeroable;

use super::params::{ContrastView, Matrix, POSITIVE_INDEX, TripletParams};
use super::similarity::Similarity;
use super::{Device, DeviceMatrix, DeviceVector, Floats, count, kernels};
use crate::error::Error;
use crate::gradients::Gradients;
use crate::triplet::TripletProblem;

/// Columns that a warp of `triplet_gradient` adds up.
const WARP_COLUMNS: usize = 128;

impl<D: Device> Similarity<'_, D> {
    /// Returns one word, the loss.
    pub(crate) fn triplet(
        &self,
        problem: &TripletProblem<DeviceMatrix>,
        upstream: f32,
        gradients: &Gradients<DeviceMatrix>,
    ) -> Result<Floats<D>, Error> {
        problem.check_gradients(gradients)?;
        let (shape, triplet) = (problem.shape(), problem.triplet());
        let (anchors, candidates) = (count("q", shape.anchors)?, count("k", shape.candidates)?);
        let weight = triplet.row_weight(shape.anchors);
        let (losses, result) = (self.floats(shape.anchors)?, self.floats(1)?);
        let is_shared = problem.is_shared();
        let params = TripletParams {
            anchors: problem.anchors().into(),
            candidates: problem.candidates().into(),
            gradient: match is_shared {
                true => Matrix::zeroed(),
                false => gradients.dq.into(),
            },
            positives: problem.triplets().positives.address,
            negatives: problem.triplets().negatives.address,
            losses: losses.address(),
            dim: shape.dim as u32,
            margin: triplet.margin(),
            factor: (2.0 * f64::from(upstream) * weight) as f32,
            accumulates: u32::from(gradients.accumulate.anchors),
            weight,
            result: result.address(),
            ..Zeroable::zeroed()
        };
        let device = self.device;
        device.start_rows(kernels::TRIPLET_ROWS, shape.anchors, &params)?;
        if let Some(gradient) = gradients.dk.or(is_shared.then_some(gradients.dq)) {
            let group = |index: DeviceVector| {
                self.group(&ContrastView {
                    index: index.address,
                    anchors,
                    candidates,
                    rule: POSITIVE_INDEX,
                    ..Zeroable::zeroed()
                })
            };
            let positives = group(problem.triplets().positives)?;
            let negatives = group(problem.triplets().negatives)?;
            let params = TripletParams {
                gradient: gradient.into(),
                positive_starts: positives.starts.address(),
                positive_order: positives.order.address(),
                negative_starts: negatives.starts.address(),
                negative_order: negatives.order.address(),
                of_anchors: u32::from(is_shared),
                accumulates: u32::from(match is_shared {
                    true => gradients.accumulate.anchors,
                    false => gradients.accumulate.candidates,
                }),
                ..params
            };
            let warps = shape.candidates * shape.dim.div_ceil(WARP_COLUMNS);
            device.start_rows(kernels::TRIPLET_GRADIENT, warps, &params)?;
        }
        device.start(kernels::TRIPLET_LOSS, [1; 3], &params)?;
        Ok(result)
    }
}
