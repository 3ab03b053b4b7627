//! SimCLR: every view against all other views of the batch (Chen et al. 2020, algorithm 1).

use burn::backend::Autodiff;
use burn::backend::autodiff::grads::Gradients as GraphGradients;

use super::{Views, chance_loss, share};
use crate::train::bridge::{self, LossReport};
use crate::train::encoder::Model;
use crate::train::platform::Platform;
use crate::train::trainer::TrainError;
use crate::{Contrast, Engine, Evaluation, Inputs, Matrix, Read};

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
        let images = [views.first, views.second].concat();
        let (patches, images) = views.grid.tensor(&images);
        let (graph, unit) = bridge::detach(platform, model.embed(patches, images))?;
        let z = unit.matrix()?;
        let rows = z.rows();
        let problem = self.contrast.on(Inputs::Shared { z })?;
        let (value, loss) = graph.attach(platform, &unit, &problem, upstream)?;
        let top1 = match views.wants_top1 {
            true => {
                let nearest = platform
                    .engine()
                    .top_k::<f32>(z, z, 1, true)?
                    .read()?
                    .indices;
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
        Ok((report, loss.backward()))
    }
}
