//! SimCLR: every view against all other views of the batch (Chen et al. 2020, algorithm 1).

use burn::backend::Autodiff;
use burn::backend::autodiff::grads::Gradients as GraphGradients;

use super::{Views, patches};
use crate::train::bridge::{self, LossReport};
use crate::train::encoder::Model;
use crate::train::platform::Platform;
use crate::train::trainer::TrainError;
use crate::{Contrast, Engine, Gradients, Inputs, Matrix};

/// The method's settings; it has no state.
#[derive(Debug)]
pub struct SimClr {
    contrast: Contrast,
}

impl SimClr {
    /// With temperature τ.
    ///
    /// # Errors
    /// [`crate::Error::Scalar`] unless τ is finite and positive.
    pub fn new(temperature: f32) -> Result<Self, crate::Error> {
        Ok(Self {
            contrast: Contrast::nt_xent(temperature)?,
        })
    }

    /// Both views go through the network as one batch of 2N images; N is at least 1.
    pub(super) fn step<P: Platform>(
        &self,
        platform: &P,
        model: &Model<Autodiff<P::Backend>>,
        views: Views<'_>,
        upstream: f32,
    ) -> Result<(LossReport, GraphGradients), TrainError> {
        let device = Default::default();
        let (patches, images) = patches(views.grid, &[views.first, views.second].concat(), &device);
        let embeddings = model.embed(patches, images);
        let engine = platform.engine();
        bridge::differentiate(platform, embeddings, |unit, gradient| {
            let unit = unit.matrix()?;
            let value = engine.value_and_grad::<f32, f32>(
                &self.contrast,
                &Inputs::Shared { z: unit },
                upstream,
                Gradients {
                    dq: gradient,
                    dk: None,
                },
            )?;
            let nearest = engine.top_k::<f32>(unit, unit, 1, true)?.indices;
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
