//! InstDisc: a view of each image against a memory bank that holds a row for every training image (Wu et
//! al. 2018, section 3).
//!
//! The softmax is over the whole bank; the paper estimates it by noise contrast. Its proximal term, which
//! steadies that estimate, is left out.

use burn::backend::Autodiff;
use burn::backend::autodiff::grads::Gradients;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::learner::part;
use super::step::{Batch, LossReport, chance_loss, top1};
use super::{Learner, Method, MethodConfig, Run, Settings, State};
use crate::train::bridge;
use crate::train::encoder::Model;
use crate::train::error::TrainError;
use crate::train::platform::{MemoryOf, Platform};
use crate::train::setting::{number, require};
use crate::{Contrast, Engine, Evaluation, Inputs, Matrix, Memory, MemoryBank, Positives};

pub(super) const METHOD: Method = Method {
    key: "instdisc",
    name: "InstDisc",
    source: "Wu et al. 2018, section 3",
    help: "A view of each image against a memory bank with a row for every training image",
    loss: "inst_disc",
    temperature: 0.2,
    learning_rate: 0.3,
    // The bank starts random: at a high rate its noise draws all embeddings together.
    warmup: 0.3,
    prediction: false,
    unfit: |loss| (loss.key != "inst_disc").then_some("its candidates are not a memory bank"),
    settings: || MethodConfig::Instdisc(InstdiscSettings::default()),
};

/// The settings of InstDisc.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstdiscSettings {
    /// m of the bank's update.
    pub bank_momentum: f64,
    /// Views of each image in a step: 1 as published, or 2.
    pub views: usize,
}

impl Default for InstdiscSettings {
    fn default() -> Self {
        Self {
            bank_momentum: 0.5,
            views: 1,
        }
    }
}

impl Settings for InstdiscSettings {
    fn validate(&self, _batch: usize, _dim: usize) -> Result<(), TrainError> {
        let (momentum, views) = (self.bank_momentum, self.views);
        let share = (0.0..=1.0).contains(&momentum);
        require("bank_momentum", number(momentum), "between 0 and 1", share)?;
        require("views", views, "1 or 2", (1..=2).contains(&views))
    }

    fn start<P: Platform>(&self, run: &Run<'_, P>) -> Result<Box<dyn Learner<P>>, TrainError> {
        let (images, dim) = (run.images, run.dim);
        let fits = images.saturating_mul(dim) <= 1 << 30;
        require("dim", dim, "at most 2^30 / training images: 4 GiB", fits)?;
        let bank = MemoryBank::random(images, dim, run.seed)?;
        Ok(Box::new(InstDisc::<P> {
            contrast: run.contrast,
            momentum: self.bank_momentum as f32,
            views: self.views,
            images,
            dim,
            bank: run.platform.engine().memory().upload(bank.elements())?,
        }))
    }
}

#[derive(Debug)]
struct InstDisc<P: Platform> {
    contrast: Contrast,
    momentum: f32,
    views: usize,
    images: usize,
    dim: usize,
    /// The bank, `images` × `dim`.
    bank: <MemoryOf<P> as Memory>::Buffer<f32>,
}

impl<P: Platform> Learner<P> for InstDisc<P> {
    fn views(&self) -> usize {
        self.views
    }

    /// The mean loss of the views; then the rows of the batch's images move towards the embeddings
    /// of each view, one view after the other.
    fn step(
        &mut self,
        platform: &P,
        model: &Model<Autodiff<P::Backend>>,
        batch: Batch<'_>,
        upstream: f32,
    ) -> Result<(LossReport, Gradients), TrainError> {
        let pixels: Vec<&[f32]> = batch.views.iter().map(|view| view.pixels).collect();
        let (patches, rows) = batch.views[0].grid.tensor(&pixels.concat());
        let embeddings = model.embed(patches, rows);
        let memory = platform.engine().memory();
        let images: Vec<u32> = batch.images.iter().map(|&image| image as u32).collect();
        let index = memory.upload(&images)?;
        let share = 1.0 / self.views as f32;
        let (mut units, mut losses, mut top1s) = (Vec::new(), Vec::new(), Vec::new());
        let mut mean = 0.0;
        for view in 0..self.views {
            let of_view = embeddings.clone().narrow(0, view * images.len(), images.len());
            let (graph, unit) = bridge::detach(platform, of_view)?;
            let q = unit.matrix()?;
            let k = memory.rows(&self.bank, self.images, self.dim)?;
            let positives = Positives::Index(memory.vector(&index)?);
            let problem = self.contrast.on(Inputs::Pair { q, k, positives })?;
            let (value, loss) = graph.attach(platform, &unit, &problem, share * upstream)?;
            mean += share * value.loss()?;
            if batch.wants_top1 {
                let is_positive = |row: usize, nearest| images[row] as usize == nearest;
                top1s.push(top1(platform.engine(), [q, k], false, is_positive)?);
            }
            losses.push(loss);
            units.push(unit);
        }
        for unit in units {
            let bank = memory.rows_mut(&mut self.bank, self.images, self.dim)?;
            let index = memory.vector(&index)?;
            let engine = platform.engine();
            engine.update_rows::<f32>(bank, index, unit.matrix()?, self.momentum)?;
        }
        let report = LossReport {
            loss: mean,
            top1: (!top1s.is_empty()).then(|| share * top1s.iter().sum::<f32>()),
            chance_loss: chance_loss(&self.contrast, self.images),
        };
        Ok((report, Tensor::cat(losses, 0).sum().backward()))
    }

    fn state(&self, platform: &P) -> Result<State<P::Backend>, TrainError> {
        let elements = platform.engine().memory().download(&self.bank)?;
        let bank = MemoryBank::restore(self.images, self.dim, &elements)?;
        Ok(State {
            bank: Some(bank),
            ..State::default()
        })
    }

    fn restore(&mut self, platform: &P, state: State<P::Backend>) -> Result<(), TrainError> {
        let bank = part("bank", state.bank, |bank| {
            let rows = bank.as_rows();
            [rows.rows(), rows.dim()] == [self.images, self.dim]
        })?;
        self.bank = platform.engine().memory().upload(bank.elements())?;
        Ok(())
    }
}
