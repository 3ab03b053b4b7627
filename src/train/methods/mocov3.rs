//! MoCo v3: queries of each view against the momentum encoder's keys of the other, in the batch and
//! without a queue (Chen, Xie and He 2021, algorithm 1).
//!
//! The encoder has a prediction head, which the momentum encoder has not; the momentum rises to 1 along
//! a cosine. Every candidate is normalised with the same images, so that batch statistics reveal
//! nothing and a view is encoded as one batch. The paper's heads have batch normalisation and its
//! projection head a third layer; the heads here have neither.

use burn::backend::Autodiff;
use burn::backend::autodiff::grads::Gradients;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::learner::part;
use super::step::{Batch, LossReport, chance_loss, top1};
use super::{Learner, Method, MethodConfig, MomentumCourse, MomentumSettings, Run, Settings, State};
use crate::train::bridge::{self, Loss, UnitRows};
use crate::train::ema::MomentumEncoder;
use crate::train::encoder::Model;
use crate::train::error::TrainError;
use crate::train::platform::Platform;
use crate::{Contrast, Evaluation, Inputs};

pub(super) const METHOD: Method = Method {
    key: "mocov3",
    name: "MoCo v3",
    source: "Chen, Xie and He 2021, algorithm 1",
    help: "Each view's prediction against a momentum encoder's keys of the other views in the batch",
    loss: "moco_v3",
    temperature: 0.3,
    learning_rate: 1.0,
    warmup: 0.05,
    prediction: true,
    unfit: |loss| (loss.key != "moco_v3").then_some("its keys are not a momentum encoder's of the batch"),
    settings: || MethodConfig::Mocov3(Mocov3Settings::default()),
};

/// The settings of MoCo v3.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mocov3Settings {
    /// The momentum encoder's.
    #[serde(flatten)]
    pub momentum: MomentumSettings,
}

impl Default for Mocov3Settings {
    fn default() -> Self {
        Self {
            momentum: MomentumSettings {
                momentum: 0.99,
                momentum_course: MomentumCourse::Cosine,
            },
        }
    }
}

impl Settings for Mocov3Settings {
    fn validate(&self, _batch: usize, _dim: usize) -> Result<(), TrainError> {
        self.momentum.validate()
    }

    fn start<P: Platform>(&self, run: &Run<'_, P>) -> Result<Box<dyn Learner<P>>, TrainError> {
        let schedule = self.momentum.schedule(run.total_steps)?;
        Ok(Box::new(MocoV3::<P> {
            contrast: run.contrast,
            key: MomentumEncoder::of(run.model, schedule),
        }))
    }
}

#[derive(Debug)]
struct MocoV3<P: Platform> {
    contrast: Contrast,
    key: MomentumEncoder<P::Backend>,
}

impl<P: Platform> Learner<P> for MocoV3<P> {
    /// Momentum update, then ctr(q₁, k₂) + ctr(q₂, k₁).
    fn step(
        &mut self,
        platform: &P,
        model: &Model<Autodiff<P::Backend>>,
        batch: Batch<'_>,
        upstream: f32,
    ) -> Result<(LossReport, Gradients), TrainError> {
        self.key.follow(platform, model, batch.step)?;
        let views = [batch.views[0], batch.views[1]];
        // All encodings start before the first result is lent.
        let keys = views.map(|view| {
            let (patches, count) = view.patches();
            self.key.model().embed(patches, count).inner()
        });
        let queries = views.map(|view| {
            let (patches, count) = view.patches();
            model.predict(patches, count)
        });
        let [first_keys, second_keys] = keys.map(|keys| UnitRows::of(platform, keys));
        let [first, second] = queries;
        let one = self.one_way(platform, first, &second_keys?, batch, upstream)?;
        let other = self.one_way(platform, second, &first_keys?, batch, upstream)?;
        let (report, reverse) = (one.0, other.0);
        let top1 = report.top1.zip(reverse.top1);
        let both = LossReport {
            loss: report.loss + reverse.loss,
            top1: top1.map(|(one, other)| (one + other) / 2.0),
            chance_loss: report.chance_loss + reverse.chance_loss,
        };
        Ok((both, (one.1 + other.1).backward()))
    }

    fn state(&self, _platform: &P) -> Result<State<P::Backend>, TrainError> {
        Ok(State {
            key: Some(self.key.model().clone()),
            ..State::default()
        })
    }

    fn restore(&mut self, _platform: &P, state: State<P::Backend>) -> Result<(), TrainError> {
        self.key
            .restore(part("key encoder", state.key, |_| true)?);
        Ok(())
    }
}

impl<P: Platform> MocoV3<P> {
    /// ctr(q, k): the queries of one view against the keys of the other.
    fn one_way(
        &self,
        platform: &P,
        queries: Tensor<Autodiff<P::Backend>, 2>,
        keys: &UnitRows<P>,
        batch: Batch<'_>,
        upstream: f32,
    ) -> Result<(LossReport, Loss<P::Backend>), TrainError> {
        let (graph, queries) = bridge::detach(platform, queries)?;
        let (q, k) = (queries.matrix()?, keys.matrix()?);
        let problem = self.contrast.on(Inputs::pair(q, k))?;
        let (value, loss) = graph.attach(platform, &queries, &problem, upstream)?;
        let is_positive = |row, key| row == key;
        let top1 = batch
            .wants_top1
            .then(|| top1(platform.engine(), [q, k], false, is_positive));
        let report = LossReport {
            loss: value.loss()?,
            top1: top1.transpose()?,
            chance_loss: chance_loss(&self.contrast, batch.images.len()),
        };
        Ok((report, loss))
    }
}
