//! SimCLR: every view against all other views of the batch (Chen et al. 2020, algorithm 1).

use burn::backend::Autodiff;
use burn::backend::autodiff::grads::Gradients as GraphGradients;
use burn::tensor::backend::Backend;

use super::{Views, patches};
use crate::train::bridge::{self, LossReport};
use crate::train::encoder::Model;
use crate::train::trainer::TrainError;
use crate::{Contrast, CpuEngine, Engine, Gradients, Inputs, Matrix};

/// The method's settings; it has no state.
#[derive(Debug)]
pub struct SimClr {
    engine: CpuEngine,
    contrast: Contrast,
}

impl SimClr {
    /// With temperature τ.
    ///
    /// # Errors
    /// [`crate::Error::Scalar`] unless τ is finite and positive.
    pub fn new(temperature: f32) -> Result<Self, crate::Error> {
        Ok(Self {
            engine: CpuEngine::new(),
            contrast: Contrast::nt_xent(temperature)?,
        })
    }

    /// Both views go through the network as one batch of 2N images; N is at least 1.
    pub(super) fn step<B: Backend>(
        &self,
        model: &Model<Autodiff<B>>,
        views: Views<'_>,
        upstream: f32,
    ) -> Result<(LossReport, GraphGradients), TrainError> {
        let device = Default::default();
        let (patches, images) = patches(views.grid, &[views.first, views.second].concat(), &device);
        let embeddings = model.embed(patches, images);
        bridge::differentiate(&self.engine, embeddings, |unit, gradient| {
            let value = self.engine.value_and_grad(
                &self.contrast,
                &Inputs::Shared { z: unit },
                upstream,
                Gradients {
                    dq: gradient,
                    dk: None,
                },
            )?;
            let nearest = self.engine.top_k(unit, unit, 1, true)?.indices;
            let rows = unit.rows();
            let hits = (0..rows)
                .filter(|&row| nearest[row] as usize == (row + rows / 2) % rows)
                .count();
            Ok(LossReport {
                loss: value.loss,
                top1: hits as f32 / rows as f32,
                candidates: rows - 1,
            })
        })
    }
}
