//! SimCLR: every view against all other views of the batch (Chen et al. 2020, algorithm 1).

use burn::backend::Autodiff;
use burn::backend::autodiff::grads::Gradients as GraphGradients;

use super::step::{LossReport, Views, chance_loss, top1};
use crate::train::bridge;
use crate::train::encoder::Model;
use crate::train::error::TrainError;
use crate::train::platform::Platform;
use crate::{Contrast, Evaluation, Inputs, Matrix};

/// Both views go through the network as one batch of 2N images; N is at least 1.
pub(super) fn step<P: Platform>(
    contrast: &Contrast,
    platform: &P,
    model: &Model<Autodiff<P::Backend>>,
    views: Views<'_>,
    upstream: f32,
) -> Result<(LossReport, GraphGradients), TrainError> {
    let images = [views.first, views.second].concat();
    let (patches, images) = views.grid.tensor(&images);
    let (graph, unit) = bridge::detach(platform, model.embed(patches, images))?;
    let z = unit.matrix()?;
    let rows = z.rows();
    let problem = contrast.on(Inputs::Shared { z })?;
    let (value, loss) = graph.attach(platform, &unit, &problem, upstream)?;
    let positive = |row| (row + rows / 2) % rows;
    let engine = platform.engine();
    let top1 = views
        .wants_top1
        .then(|| top1(engine, [z, z], true, positive));
    let report = LossReport {
        loss: value.loss()?,
        top1: top1.transpose()?,
        chance_loss: chance_loss(contrast, rows - 1),
    };
    Ok((report, loss.backward()))
}
