//! SimCLR: every view against all other views of the batch (Chen et al. 2020, algorithm 1).

use burn::backend::Autodiff;
use burn::backend::autodiff::grads::Gradients as GraphGradients;

use super::{Views, chance_loss, patches, share};
use crate::train::bridge::{self, LossReport};
use crate::train::encoder::Model;
use crate::train::platform::{Platform, ValuesMut};
use crate::train::trainer::TrainError;
use crate::{Contrast, Engine, Evaluation, Gradients, Inputs, Matrix, Read};

/// The method's settings; it has no state.
#[derive(Debug)]
pub struct SimClr {
    pub(super) contrast: Contrast,
}

impl SimClr {
    /// With a loss on [`Inputs::Shared`].
    pub fn new(contrast: Contrast) -> Self {
        Self { contrast }
    }

    /// Both views go through the network as one batch of 2N images; N is at least 1.
    pub(super) fn step<P: Platform>(
        &self,
        platform: &P,
        model: &Model<Autodiff<P::Backend>>,
        views: Views<'_>,
        upstream: f32,
    ) -> Result<(LossReport, GraphGradients), TrainError> {
        let engine = platform.engine();
        let images = [views.first, views.second].concat();
        let (patches, images) = patches(views.grid, &images, &Default::default());
        let (graph, unit) = bridge::detach(platform, model.embed(patches, images))?;
        let z = unit.matrix()?;
        let [rows, dim] = [z.rows(), z.dim()];
        let problem = self.contrast.on(Inputs::Shared { z })?;
        let [mut gradient] = platform.room([rows * dim])?;
        let gradients = Gradients::new(gradient.matrix_mut(rows, dim)?, None);
        let value = engine.value_and_grad::<f32, f32>(&problem, upstream, gradients)?;
        let top1 = match views.wants_top1 {
            true => {
                let nearest = engine.top_k::<f32>(z, z, 1, true)?.read()?.indices;
                let hits = (0..rows).map(|row| nearest[row] as usize == (row + rows / 2) % rows);
                Some(share(hits))
            }
            false => None,
        };
        let report = LossReport {
            loss: value.loss()?,
            top1,
            chance_loss: chance_loss(&self.contrast, rows - 1),
        };
        let loss = graph.attach(platform, &unit, &gradient, report.loss)?;
        Ok((report, loss.backward()))
    }
}
