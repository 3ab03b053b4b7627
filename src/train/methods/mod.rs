//! The training methods: what one step does between the images and the gradients.
//!
//! Each method encodes two augmented views, builds its contrast and has this crate's engine
//! compute loss and gradient. The optimiser, the data and the loop are the trainer's.

mod moco;
mod simclr;

pub use moco::{Moco, MocoState};
pub use simclr::SimClr;

use burn::backend::Autodiff;
use burn::backend::autodiff::grads::Gradients;
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};

use super::bridge::LossReport;
use super::encoder::Model;
use super::patches::PatchGrid;
use super::platform::Platform;
use super::trainer::TrainError;
use crate::Contrast;
use crate::losses::RowContext;

/// Two views of a batch of images.
#[derive(Clone, Copy, Debug)]
pub struct Views<'a> {
    /// One view of each image, NCHW.
    pub first: &'a [f32],
    /// Another view of each image, in the same order.
    pub second: &'a [f32],
    /// How the encoder wants images cut.
    pub grid: &'a PatchGrid,
    /// The step, counted from 0.
    pub step: u64,
    /// Whether the step's report has contrastive top-1, which costs a search.
    pub wants_top1: bool,
}

impl Views<'_> {
    /// N, the number of images.
    pub fn images(&self) -> usize {
        self.first.len() / self.grid.image_len()
    }

    /// The first views as the second, and the second as the first.
    fn swapped(self) -> Self {
        Self {
            first: self.second,
            second: self.first,
            ..self
        }
    }
}

/// A training method with the state that outlives a step.
#[derive(Debug)]
pub enum Method<P: Platform> {
    /// Chen et al. 2020.
    SimClr(SimClr),
    /// He et al. 2020.
    Moco(Box<Moco<P>>),
}

impl<P: Platform> Method<P> {
    /// The loss.
    pub fn contrast(&self) -> &Contrast {
        match self {
            Self::SimClr(method) => &method.contrast,
            Self::Moco(method) => &method.contrast,
        }
    }

    /// One step's loss and the gradients of `model`'s parameters. `upstream` multiplies the
    /// gradient, not the loss.
    ///
    /// # Errors
    /// [`TrainError`] when the engine or the framework refuses.
    pub fn step(
        &mut self,
        platform: &P,
        model: &Model<Autodiff<P::Backend>>,
        views: Views<'_>,
        upstream: f32,
    ) -> Result<(LossReport, Gradients), TrainError> {
        match self {
            Self::SimClr(method) => method.step(platform, model, views, upstream),
            Self::Moco(method) => method.step(platform, model, views, upstream),
        }
    }
}

/// The patches of whole `images` as a tensor, and how many images there are.
pub(super) fn patches<B: Backend>(
    grid: &PatchGrid,
    images: &[f32],
    device: &B::Device,
) -> (Tensor<B, 2>, usize) {
    let count = images.len() / grid.image_len();
    let shape = [count * grid.patches(), grid.patch_len()];
    let data = TensorData::new(grid.cut(images), shape);
    (Tensor::from_data(data, device), count)
}

/// How many of `hits` are true, of all.
fn share(hits: impl ExactSizeIterator<Item = bool>) -> f32 {
    let rows = hits.len();
    hits.filter(|&hit| hit).count() as f32 / rows as f32
}

/// The mean loss where all logits are 0, as of an encoder that cannot tell candidates apart.
fn chance_loss(contrast: &Contrast, candidates: usize) -> f64 {
    let (rule, negatives) = (contrast.rule(), candidates - 1);
    let row = RowContext::new(rule, contrast.scale().into(), negatives, std::iter::empty());
    contrast.row_weight(1) * rule.values((negatives as f64).ln(), 0.0, &row).value
}

/// The methods on another engine than the one they were written with: the CUDA kernels' sources, run
/// on the processor.
#[cfg(all(test, feature = "emulator-tests"))]
mod tests {
    use std::collections::HashMap;

    use approx::assert_abs_diff_eq;
    use burn::backend::Flex;
    use burn::module::ParamId;
    use burn::optim::{GradientsParams, Optimizer, SgdConfig};

    use super::*;
    use crate::host::{HostEngine, Schedule};
    use crate::train::ema;
    use crate::train::encoder::ModelConfig;
    use crate::train::host::{Host, InHostMemory};
    use crate::{Contrast, KeyQueue, MomentumSchedule};

    type Training = Autodiff<Flex>;

    const IMAGES: usize = 8;
    const STEPS: u64 = 3;
    const TOLERANCE: f32 = 1e-5;

    fn model() -> (ModelConfig, Model<Training>) {
        let config = ModelConfig::small();
        let model = config.init(0, &Default::default());
        (config, model)
    }

    /// What a few steps leave behind.
    struct Course {
        reports: Vec<LossReport>,
        query: HashMap<ParamId, Vec<f32>>,
        key: HashMap<ParamId, Vec<f32>>,
        keys: Vec<f32>,
    }

    fn course<P: Platform<Backend = Flex>>(
        platform: &P,
        mut method: Method<P>,
        (config, model): &(ModelConfig, Model<Training>),
    ) -> Course {
        let images = |speed: f32| -> Vec<f32> {
            (0..IMAGES * 64).map(|i| (i as f32 * speed).sin()).collect()
        };
        let (first, second) = (images(0.7), images(0.9));
        let mut query = model.clone();
        let mut sgd = SgdConfig::new().init::<Training, Model<Training>>();
        let mut reports = Vec::new();
        for step in 0..STEPS {
            let views = Views {
                first: &first,
                second: &second,
                grid: &config.grid(),
                step,
                wants_top1: true,
            };
            let (report, gradients) = method.step(platform, &query, views, 1.0).unwrap();
            let gradients = GradientsParams::from_grads(gradients, &query);
            query = sgd.step(0.1, query, gradients);
            reports.push(report);
        }
        let learnable = |_, learnable| learnable;
        let parameters = ema::parameters(&query, learnable).unwrap();
        let (key, keys) = match &method {
            Method::SimClr(_) => Default::default(),
            Method::Moco(moco) => {
                let state = moco.state(platform).unwrap();
                let key = ema::parameters(&state.key, |id, _| parameters.contains_key(&id));
                (
                    key.unwrap(),
                    state.queue.filled().unwrap().contiguous().into_owned(),
                )
            }
        };
        Course {
            reports,
            query: parameters,
            key,
            keys,
        }
    }

    fn same(one: &Course, other: &Course) {
        for (one, other) in one.reports.iter().zip(&other.reports) {
            assert_abs_diff_eq!(one.loss, other.loss, epsilon = TOLERANCE);
            assert!(one.top1.is_some());
            assert_eq!((one.top1, one.chance_loss), (other.top1, other.chance_loss));
        }
        for (one, other) in [(&one.query, &other.query), (&one.key, &other.key)] {
            assert_eq!(one.len(), other.len());
            for (id, values) in one {
                assert_abs_diff_eq!(values[..], other[id][..], epsilon = TOLERANCE);
            }
        }
        assert_abs_diff_eq!(one.keys[..], other.keys[..], epsilon = TOLERANCE);
    }

    fn kernels() -> InHostMemory<HostEngine> {
        InHostMemory::new(HostEngine::new(Schedule::Mixed, 7))
    }

    #[test]
    fn simclr_learns_the_same_on_either_engine() {
        let model = model();
        let method = || SimClr::new(Contrast::nt_xent(0.2).unwrap());
        let cpu = course(&Host::default(), Method::SimClr(method()), &model);
        let cuda = course(&kernels(), Method::SimClr(method()), &model);
        assert_ne!(cpu.reports[0].loss, cpu.reports[1].loss);
        same(&cpu, &cuda);
    }

    /// The first step takes its negatives from the batch, the others from the queue.
    #[test]
    fn moco_learns_the_same_on_either_engine() {
        fn moco<P: Platform<Backend = Flex>>(platform: &P, model: &Model<Training>) -> Method<P> {
            let momentum = MomentumSchedule::constant(0.75).unwrap();
            let queue = KeyQueue::new(20, 5).unwrap();
            let contrast = Contrast::moco(0.2).unwrap();
            let moco = Moco::new(platform, contrast, momentum, queue, 2, 0, model).unwrap();
            Method::Moco(Box::new(moco))
        }
        let model = model();
        let (host, kernels) = (Host::default(), kernels());
        let cpu = course(&host, moco(&host, &model.1), &model);
        let cuda = course(&kernels, moco(&kernels, &model.1), &model);
        let by_chance = cpu
            .reports
            .iter()
            .map(|report| report.chance_loss.exp().round() as usize);
        assert!(by_chance.eq([IMAGES, 1 + IMAGES, 1 + 2 * IMAGES]));
        assert_ne!(cpu.key, cpu.query);
        same(&cpu, &cuda);
    }
}
