//! SimCLR: every view against all other views of the batch (Chen et al. 2020, algorithm 1). With a loss
//! of labelled rows every view against all others with the rows of its class as positives (SupCon, Khosla
//! et al. 2020); with a loss of pairs the first views against the second.

use burn::backend::Autodiff;
use burn::backend::autodiff::grads::Gradients;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::positives::{drawn_from_class, of_class};
use super::step::{Batch, LossReport, chance_loss, top1};
use super::{Learner, Method, MethodConfig, Run, Settings};
use crate::losses::{self, Keys, Layout};
use crate::train::bridge::{self, Loss};
use crate::train::encoder::Model;
use crate::train::error::TrainError;
use crate::train::platform::Platform;
use crate::{Contrast, Engine, Evaluation, Inputs, Matrix, Memory, Reduction};

pub(super) const METHOD: Method = Method {
    key: "simclr",
    name: "SimCLR",
    source: "Chen et al. 2020, algorithm 1",
    help: "Two views of each image against all other images of the batch",
    loss: "nt_xent",
    temperature: 0.3,
    learning_rate: 0.3,
    warmup: 0.05,
    prediction: false,
    unfit,
    settings: || MethodConfig::Simclr(SimclrSettings {}),
};

/// Rows that KCL draws from a row's class (Kang et al. 2021).
const DRAWN: usize = 6;

/// SimCLR has no settings of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SimclrSettings {}

fn unfit(loss: &losses::Loss) -> Option<&'static str> {
    let contrast = (loss.at)(loss.temperature).ok()?;
    match contrast.description().keys {
        Keys::Constant => Some("its keys come from a momentum encoder"),
        Keys::Kept => Some("its candidates are kept from step to step"),
        Keys::Trained if contrast.reduction() == Reduction::MeanOfPositives => {
            Some("its positives are generated images")
        }
        Keys::Trained if contrast.layout() == Layout::Targets => {
            Some("its targets are another encoder's scores of prototypes")
        }
        Keys::Trained if contrast.rule().is_pointwise() => {
            Some("its bias is learned, which this trainer does not")
        }
        Keys::Trained if loss.key == "sampled_softmax" => {
            Some("it needs the frequency of each candidate")
        }
        Keys::Trained => None,
    }
}

impl Settings for SimclrSettings {
    fn validate(&self, _batch: usize, _dim: usize) -> Result<(), TrainError> {
        Ok(())
    }

    fn start<P: Platform>(&self, run: &Run<'_, P>) -> Result<Box<dyn Learner<P>>, TrainError> {
        if run.contrast.layout() == Layout::Labelled && !run.has_labels {
            let given = run.loss.key;
            return Err(TrainError::NoLabels { given });
        }
        Ok(Box::new(SimClr {
            contrast: run.contrast,
            draws: run.loss.key == "kcl",
            seed: run.seed,
        }))
    }
}

/// Embeddings of both views, 2N × D, in their graph.
type Embeddings<P> = Tensor<Autodiff<<P as Platform>::Backend>, 2>;

#[derive(Debug)]
struct SimClr {
    contrast: Contrast,
    /// Whether positives are drawn from a row's class, not all of it.
    draws: bool,
    seed: u64,
}

impl<P: Platform> Learner<P> for SimClr {
    /// Both views go through the network as one batch of 2N images; N is at least 1.
    fn step(
        &mut self,
        platform: &P,
        model: &Model<Autodiff<P::Backend>>,
        batch: Batch<'_>,
        upstream: f32,
    ) -> Result<(LossReport, Gradients), TrainError> {
        let [first, second] = [batch.views[0], batch.views[1]];
        let images = [first.pixels, second.pixels].concat();
        let (patches, rows) = first.grid.tensor(&images);
        let embeddings = model.embed(patches, rows);
        let (report, loss) = match self.contrast.layout() {
            Layout::Pair => self.pair(platform, embeddings, batch, upstream)?,
            _ => self.one_matrix(platform, embeddings, batch, upstream)?,
        };
        Ok((report, loss.backward()))
    }
}

/// A step's report, and its loss in the graph.
type Stepped<P> = Result<(LossReport, Loss<<P as Platform>::Backend>), TrainError>;

impl SimClr {
    /// All rows against all others.
    fn one_matrix<P: Platform>(
        &self,
        platform: &P,
        embeddings: Embeddings<P>,
        batch: Batch<'_>,
        upstream: f32,
    ) -> Stepped<P> {
        let engine = platform.engine();
        let (graph, unit) = bridge::detach(platform, embeddings)?;
        let z = unit.matrix()?;
        let rows = z.rows();
        // Labels are only read where the loss takes them.
        let labels = batch.labels.filter(|_| self.contrast.takes_positives());
        let positives = labels.map(|labels| match self.draws {
            true => drawn_from_class(labels, DRAWN, self.seed, batch.step),
            false => of_class(labels),
        });
        let memory = engine.memory();
        let positives = positives.map(|of| of.try_map(|_, indices| memory.upload(indices)));
        let positives = positives.transpose()?;
        let inputs = match &positives {
            Some(there) => Inputs::Labelled {
                z,
                positives: there.try_map(|_, indices| memory.vector(indices))?,
            },
            None => Inputs::Shared { z },
        };
        let problem = self.contrast.on(inputs)?;
        let (value, loss) = graph.attach(platform, &unit, &problem, upstream)?;
        let is_positive = |row: usize, nearest: usize| match labels {
            Some(labels) => labels[row % labels.len()] == labels[nearest % labels.len()],
            None => nearest == (row + rows / 2) % rows,
        };
        let top1 = batch
            .wants_top1
            .then(|| top1(engine, [z, z], true, is_positive));
        let report = LossReport {
            loss: value.loss()?,
            top1: top1.transpose()?,
            chance_loss: chance_loss(&self.contrast, rows - 1),
        };
        Ok((report, loss))
    }

    /// The first views against the second.
    fn pair<P: Platform>(
        &self,
        platform: &P,
        embeddings: Embeddings<P>,
        batch: Batch<'_>,
        upstream: f32,
    ) -> Stepped<P> {
        let [rows, _] = embeddings.dims();
        let half = rows / 2;
        let (anchors, q) = bridge::detach(platform, embeddings.clone().narrow(0, 0, half))?;
        let (candidates, k) = bridge::detach(platform, embeddings.narrow(0, half, half))?;
        let views = [q.matrix()?, k.matrix()?];
        let problem = self.contrast.on(Inputs::pair(views[0], views[1]))?;
        let graphs = [anchors, candidates];
        let (value, loss) = bridge::attach_pair(platform, graphs, [&q, &k], &problem, upstream)?;
        let is_positive = |row, nearest| row == nearest;
        let engine = platform.engine();
        let top1 = batch
            .wants_top1
            .then(|| top1(engine, views, false, is_positive));
        let report = LossReport {
            loss: value.loss()?,
            top1: top1.transpose()?,
            chance_loss: chance_loss(&self.contrast, half),
        };
        Ok((report, loss))
    }
}
