//! Tests what a few steps of each method do to both encoders and the queue.

use std::collections::HashMap;

use approx::assert_abs_diff_eq;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::{Autodiff, Flex};
use burn::module::{AutodiffModule, ParamId};
use burn::optim::{GradientsParams, Optimizer, SgdConfig};

use super::moco::OneWay;
use super::{LossReport, Method, Moco, Views};
use crate::train::bridge::UnitRows;
use crate::train::cpu::Cpu;
use crate::train::ema;
use crate::train::encoder::{Model, ModelConfig};
use crate::train::patches::PatchGrid;
use crate::train::platform::Platform;
use crate::{Contrast, KeyQueue, MomentumSchedule};

type Training = Autodiff<Flex>;
type Values = HashMap<ParamId, Vec<f32>>;

const IMAGES: usize = 8;
const DIM: usize = 5;
const MOMENTUM: f32 = 0.75;

struct Batch {
    grid: PatchGrid,
    first: Vec<f32>,
    second: Vec<f32>,
}

impl Batch {
    fn views(&self, step: u64) -> Views<'_> {
        Views {
            first: &self.first,
            second: &self.second,
            grid: &self.grid,
            step,
            wants_top1: true,
        }
    }
}

struct Setting<P: Platform<Backend = Flex>> {
    platform: P,
    batch: Batch,
    query: Model<Training>,
    method: Method<P>,
}

fn model() -> Model<Training> {
    ModelConfig::small().init(0, &Default::default())
}

fn moco(queue: usize, groups: usize) -> Setting<Cpu> {
    let contrast = Contrast::moco(0.2).unwrap();
    Setting::new(Cpu::default(), contrast, queue, groups, model())
}

impl<P: Platform<Backend = Flex>> Setting<P> {
    /// SimCLR with a contrast on one matrix of both views, else MoCo.
    fn new(
        platform: P,
        contrast: Contrast,
        queue: usize,
        groups: usize,
        query: Model<Training>,
    ) -> Self {
        let method = if contrast.is_shared() {
            Method::SimClr(contrast)
        } else {
            let schedule = MomentumSchedule::constant(MOMENTUM).unwrap();
            let queue = KeyQueue::new(queue, DIM).unwrap();
            let moco = Moco::new(&platform, contrast, schedule, queue, groups, 0, &query);
            Method::Moco(Box::new(moco.unwrap()))
        };
        let pixels = 0..IMAGES * 64;
        let images = |speed: f32| pixels.clone().map(|i| (i as f32 * speed).sin()).collect();
        let batch = Batch {
            grid: ModelConfig::small().grid(),
            first: images(0.7),
            second: images(0.9),
        };
        Self {
            platform,
            batch,
            query,
            method,
        }
    }

    fn step(&mut self, step: u64) -> (LossReport, Gradients) {
        let views = self.batch.views(step);
        let reported = self.method.step(&self.platform, &self.query, views, 1.0);
        reported.unwrap()
    }

    /// The query encoder after one step of the optimiser.
    fn stepped(&self, gradients: Gradients) -> Model<Training> {
        let gradients = GradientsParams::from_grads(gradients, &self.query);
        let mut sgd = SgdConfig::new().init::<Training, Model<Training>>();
        sgd.step(0.1, self.query.clone(), gradients)
    }

    fn moco(&self) -> &Moco<P> {
        match &self.method {
            Method::Moco(moco) => moco,
            Method::SimClr(_) => panic!("SimCLR has no keys"),
        }
    }

    fn keys(&self, step: u64) -> Vec<f32> {
        let keys = self.moco().keys(self.batch.views(step));
        let keys = UnitRows::of(&self.platform, keys).unwrap();
        keys.into_floats(&self.platform).unwrap()
    }

    /// The learnable parameters of a model, and its running statistics.
    fn values(&self, model: &Model<Training>) -> [Values; 2] {
        // `valid` settles running statistics.
        let parameters = ema::parameters(&model.valid()).unwrap();
        let query = ema::parameters(&self.query).unwrap();
        [true, false].map(|wanted| {
            let chosen = parameters.iter().filter(|(id, _)| query[id].0 == wanted);
            chosen
                .map(|(&id, (_, values))| (id, values.clone()))
                .collect()
        })
    }
}

fn all_differ(one: &Values, other: &Values) -> bool {
    one.iter().all(|(id, values)| other[id] != *values)
}

#[test]
fn the_key_encoder_starts_as_an_exact_copy() {
    let setting = moco(16, 2);
    let query = setting.values(&setting.query);
    // Weights, γ, β and two running statistics of three normalised layers; two linear layers.
    assert_eq!(query.each_ref().map(HashMap::len), [3 * 3 + 2 * 2, 3 * 2]);
    assert_eq!(setting.values(&setting.moco().key), query);
}

/// After a step each encoder has weights and running statistics of its own: a change of one leaves
/// the other as it is.
#[test]
fn the_encoders_share_no_parameter_and_no_running_statistic() {
    let mut setting = moco(16, 2);
    let (_, gradients) = setting.step(0);
    let [key, _] = setting.values(&setting.moco().key);
    setting.query = setting.stepped(gradients);
    assert_eq!(setting.values(&setting.moco().key)[0], key);
    assert!(all_differ(&setting.values(&setting.query)[0], &key));

    let both = || [&setting.query, &setting.moco().key].map(|model| setting.values(model));
    let [query_before, key_before] = both();
    setting.keys(1);
    let [query_after, key_after] = both();
    assert_eq!(query_after, query_before);
    assert!(all_differ(&key_after[1], &key_before[1]));

    let (patches, count) = setting.batch.grid.tensor(&setting.batch.first);
    setting.query.embed(patches, count);
    let [query_last, key_last] = both();
    assert_eq!(key_last, key_after);
    assert!(all_differ(&query_last[1], &query_after[1]));
}

/// The momentum update precedes the keys and follows its formula; the enqueued keys are those of
/// the updated encoder.
#[test]
fn parameters_follow_and_running_statistics_do_not() {
    let mut setting = moco(16, 2);
    let (_, gradients) = setting.step(0);
    setting.query = setting.stepped(gradients);
    let [before, _] = setting.values(&setting.moco().key);
    let [query, query_statistics] = setting.values(&setting.query);
    setting.step(1);
    for (id, after) in &setting.values(&setting.moco().key)[0] {
        for ((after, before), query) in after.iter().zip(&before[id]).zip(&query[id]) {
            let expected = MOMENTUM * before + (1.0 - MOMENTUM) * query;
            assert_abs_diff_eq!(*after, expected, epsilon = 1e-6);
        }
    }
    let keys = setting.keys(1);
    let queue = setting.moco().queue.filled().unwrap();
    assert_eq!(queue.contiguous()[IMAGES * DIM..], keys);

    // Even with momentum 0 the update leaves running statistics alone.
    let key = setting.moco().key.clone();
    let [_, statistics] = setting.values(&key);
    let copy = ema::momentum_update(&setting.platform, 0.0, &setting.query, key).unwrap();
    assert_eq!(setting.values(&copy), [query, statistics.clone()]);
    assert!(all_differ(&query_statistics, &statistics));
}

#[test]
fn the_key_encoder_uses_batch_statistics_and_has_no_graph() {
    let mut setting = moco(16, 1);
    let before = setting.keys(0);
    // Another last image moves the statistics that the first is normalised with.
    setting.batch.second[(IMAGES - 1) * 64..].fill(0.25);
    assert_ne!(setting.keys(0)[..DIM], before[..DIM]);

    let (patches, count) = setting.batch.grid.tensor(&setting.batch.second);
    let embeddings = setting.moco().key.embed(patches, count);
    assert!(!embeddings.is_require_grad());
    let (_, gradients) = setting.step(0);
    let key = &setting.moco().key;
    assert_eq!(GradientsParams::from_grads(gradients, key).len(), 0);
}

/// Each group of queries is normalised with other images than their keys, and each key returns to
/// its image's place.
#[test]
fn keys_are_normalised_with_other_images_than_their_queries() {
    let mut setting = moco(16, 4);
    let keys = setting.keys(0);
    // The second group of queries holds images 2 and 3. If key 3 were normalised with the same,
    // changing image 3 would move key 2.
    setting.batch.second[3 * 64..4 * 64].fill(0.25);
    let changed = setting.keys(0);
    let moved: Vec<usize> = (0..IMAGES)
        .filter(|image| keys[image * DIM..][..DIM] != changed[image * DIM..][..DIM])
        .collect();
    assert_eq!(moved.len(), 2, "{moved:?}");
    assert!(moved.contains(&3) && !moved.contains(&2), "{moved:?}");
}

/// Without a queue, loss and gradient of both directions add, and no key is kept.
#[test]
fn moco_v3_goes_both_ways_over_the_views() {
    let contrast = Contrast::moco_v3(0.2).unwrap();
    let mut setting = Setting::new(Cpu::default(), contrast, 16, 2, model());
    let learned = |setting: &Setting<Cpu>, gradients| {
        let [learned, _] = setting.values(&setting.stepped(gradients));
        learned
    };
    let [before, _] = setting.values(&setting.query);
    let one_way = |views| {
        let moco = setting.moco();
        let way = moco.one_way(&setting.platform, &setting.query, views, 1.0);
        let OneWay { report, loss, .. } = way.unwrap();
        (report.loss, learned(&setting, loss.backward()))
    };
    let views = setting.batch.views(0);
    let (one, other) = (one_way(views), one_way(views.swapped()));
    assert_ne!(one.0, other.0);

    let (report, gradients) = setting.step(0);
    assert_abs_diff_eq!(report.loss, one.0 + other.0, epsilon = 1e-5);
    let chance = 2.0 * 2.0 * 0.2 * (IMAGES as f64).ln();
    assert_abs_diff_eq!(report.chance_loss, chance, epsilon = 1e-6);
    for (id, both) in learned(&setting, gradients) {
        for (i, both) in both.iter().enumerate() {
            let expected = one.1[&id][i] + other.1[&id][i] - before[&id][i];
            assert_abs_diff_eq!(*both, expected, epsilon = 1e-5);
        }
    }
    assert!(setting.moco().queue.filled().is_none());
}

/// The emulator runs the CUDA kernels' sources. MoCo takes its negatives from the batch at the
/// first step, and from the queue at the others.
#[cfg(feature = "emulator-tests")]
#[test]
fn methods_learn_the_same_on_either_engine() {
    use crate::emulator::{EmulatedEngine, Schedule};
    use crate::train::cpu::FlexPlatform;

    const TOLERANCE: f32 = 1e-5;

    /// The reports of a few steps, and what they leave of encoders and queue.
    fn course<P: Platform<Backend = Flex>>(
        platform: P,
        contrast: Contrast,
        query: &Model<Training>,
    ) -> (Vec<LossReport>, Vec<Values>, Vec<f32>) {
        let mut setting = Setting::new(platform, contrast, 20, 2, query.clone());
        let mut reports = Vec::new();
        for step in 0..3 {
            let (report, gradients) = setting.step(step);
            setting.query = setting.stepped(gradients);
            reports.push(report);
        }
        let [query, _] = setting.values(&setting.query);
        let Method::Moco(moco) = &setting.method else {
            return (reports, vec![query], Vec::new());
        };
        let state = moco.state(&setting.platform).unwrap();
        let [key, _] = setting.values(&state.key);
        assert!(all_differ(&key, &query));
        let keys = state.queue.filled().unwrap();
        (reports, vec![query, key], keys.contiguous().into_owned())
    }

    let (in_batch, queued) = (Contrast::nt_xent(0.2), Contrast::moco(0.2));
    for (contrast, candidates) in [
        (in_batch.unwrap(), [2 * IMAGES - 1; 3]),
        (queued.unwrap(), [IMAGES, 1 + IMAGES, 1 + 2 * IMAGES]),
    ] {
        let query = model();
        let kernels = FlexPlatform(EmulatedEngine::new(Schedule::Mixed, 7));
        let (cpu, weights, keys) = course(Cpu::default(), contrast, &query);
        let (cuda, kernel_weights, kernel_keys) = course(kernels, contrast, &query);
        let found = cpu
            .iter()
            .map(|report| report.chance_loss.exp().round() as usize);
        assert!(found.eq(candidates), "{cpu:?}");
        assert_ne!(cpu[0].loss, cpu[1].loss);
        for (cpu, cuda) in cpu.iter().zip(&cuda) {
            assert_abs_diff_eq!(cpu.loss, cuda.loss, epsilon = TOLERANCE);
            assert!(cpu.top1.is_some());
            assert_eq!((cpu.top1, cpu.chance_loss), (cuda.top1, cuda.chance_loss));
        }
        for (cpu, cuda) in weights.iter().zip(&kernel_weights) {
            assert_eq!(cpu.len(), cuda.len());
            for (id, values) in cpu {
                assert_abs_diff_eq!(values[..], cuda[id][..], epsilon = TOLERANCE);
            }
        }
        assert_abs_diff_eq!(keys[..], kernel_keys[..], epsilon = TOLERANCE);
    }
}
