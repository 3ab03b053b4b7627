//! Tests what a few steps of each method do to the encoders and to what outlives a step.

mod documentation;
mod state;

use std::collections::HashMap;

use approx::assert_abs_diff_eq;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::{Autodiff, Flex};
use burn::module::{AutodiffModule, ParamId};
use burn::optim::GradientsParams;

use super::moco::Moco;
use super::{
    Batch, Learner, LossReport, Method, MethodConfig, MocoSettings, MomentumCourse,
    MomentumSettings, Run, TABLE, View,
};
use crate::train::bridge::UnitRows;
use crate::train::cpu::Cpu;
use crate::train::ema;
use crate::train::encoder::{Model, ModelConfig};
use crate::train::image_set::ImageSet;
use crate::train::patches::PatchGrid;
use crate::train::platform::Platform;
use crate::train::sgd::Sgd;
use crate::{Contrast, CpuEngine, Engine, Inputs, Rows};

type Training = Autodiff<Flex>;
type Values = HashMap<ParamId, Vec<f32>>;

const IMAGES: usize = 8;
const DIM: usize = 5;
const MOMENTUM: f32 = 0.75;
/// The training images that the batch is of, among twelve; and their labels.
const INDICES: [usize; IMAGES] = [3, 0, 7, 11, 1, 4, 9, 2];
const LABELS: [u32; IMAGES] = [0, 1, 0, 2, 1, 0, 1, 2];
const TRAINING_IMAGES: usize = 12;

struct Views {
    grid: PatchGrid,
    first: Vec<f32>,
    second: Vec<f32>,
}

impl Views {
    fn of_size(images: usize) -> Self {
        let pixels = 0..images * 64;
        let images = |speed: f32| pixels.clone().map(|i| (i as f32 * speed).sin()).collect();
        Self {
            grid: ModelConfig::small().grid(),
            first: images(0.7),
            second: images(0.9),
        }
    }

    fn views(&self) -> [View<'_>; 2] {
        [&self.first, &self.second].map(|pixels| View {
            pixels,
            grid: &self.grid,
        })
    }
}

/// A batch at a step, of these views.
fn batch<'a>(views: &'a [View<'a>], step: u64) -> Batch<'a> {
    Batch {
        images: &INDICES,
        labels: Some(&LABELS),
        views,
        step,
        wants_top1: true,
    }
}

/// A learner with the model that it trains.
struct Setting<P: Platform<Backend = Flex>, L: ?Sized = dyn Learner<P>> {
    platform: P,
    views: Views,
    query: Model<Training>,
    learner: Box<L>,
}

fn model(method: &Method) -> Model<Training> {
    let config = ModelConfig {
        prediction: method.prediction,
        ..ModelConfig::small()
    };
    config.init(0, &Default::default())
}

/// A run of `method` with a loss at temperature 0.2.
fn run<'a, P: Platform<Backend = Flex>>(
    platform: &'a P,
    method: &Method,
    loss: &str,
    query: &'a Model<Training>,
) -> Run<'a, P> {
    let loss = method.loss(loss).unwrap();
    Run {
        platform,
        model: query,
        loss,
        temperature: 0.2,
        contrast: (loss.at)(0.2).unwrap(),
        dim: DIM,
        seed: 0,
        epochs: 3,
        total_steps: 6,
        images: TRAINING_IMAGES,
        has_labels: true,
    }
}

/// Its settings, small enough for a batch of eight of twelve images.
fn small(method: &Method) -> MethodConfig {
    let moco = MocoSettings {
        queue: 20,
        momentum: MomentumSettings {
            momentum: MOMENTUM.into(),
            momentum_course: MomentumCourse::Constant,
        },
        norm_groups: 2,
    };
    match (method.settings)() {
        MethodConfig::Moco(_) => MethodConfig::Moco(moco),
        MethodConfig::Mocov3(_) => MethodConfig::Mocov3(super::Mocov3Settings {
            momentum: moco.momentum,
        }),
        MethodConfig::Pcl(_) => MethodConfig::Pcl(super::PclSettings {
            moco,
            cluster_sizes: vec![6, 4],
            cluster_warmup: 0.0,
        }),
        settings => settings,
    }
}

fn moco(queue: usize, groups: usize) -> Setting<Cpu, Moco<Cpu>> {
    let method = Method::of("moco").unwrap();
    let (platform, query) = (Cpu::default(), model(method));
    let settings = MocoSettings {
        queue,
        norm_groups: groups,
        momentum: MomentumSettings {
            momentum: MOMENTUM.into(),
            momentum_course: MomentumCourse::Constant,
        },
    };
    let run = run(&platform, method, method.loss, &query);
    let learner = Box::new(Moco::new(&settings, &run, run.contrast).unwrap());
    Setting {
        views: Views::of_size(IMAGES),
        learner,
        platform,
        query,
    }
}

impl<P: Platform<Backend = Flex>> Setting<P> {
    fn of(platform: P, method: &Method, loss: &str, settings: &MethodConfig) -> Self {
        Self::with_model(platform, method, loss, settings, model(method))
    }

    fn with_model(
        platform: P,
        method: &Method,
        loss: &str,
        settings: &MethodConfig,
        query: Model<Training>,
    ) -> Self {
        let learner = settings.start(&run(&platform, method, loss, &query));
        Self {
            views: Views::of_size(IMAGES),
            learner: learner.unwrap(),
            platform,
            query,
        }
    }
}

impl<P: Platform<Backend = Flex>, L: Learner<P> + ?Sized> Setting<P, L> {
    fn step(&mut self, step: u64) -> (LossReport, Gradients) {
        let views = self.views.views();
        let views = &views[..self.learner.views()];
        let (platform, query) = (&self.platform, &self.query);
        let stepped = self.learner.step(platform, query, batch(views, step), 1.0);
        stepped.unwrap()
    }

    /// The query encoder after one step of the optimiser.
    fn stepped(&self, gradients: Gradients) -> Model<Training> {
        let gradients = GradientsParams::from_grads(gradients, &self.query);
        Sgd::new(0.0).step(0.1, self.query.clone(), gradients)
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

impl Setting<Cpu, Moco<Cpu>> {
    fn key(&self) -> &Model<Training> {
        self.learner.key.model()
    }

    fn keys(&self, step: u64) -> Vec<f32> {
        let keys = self.learner.keys(batch(&self.views.views(), step));
        let keys = UnitRows::of(&self.platform, keys).unwrap();
        keys.into_floats(&self.platform).unwrap()
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
    assert_eq!(setting.values(setting.key()), query);
}

/// After a step each encoder has weights and running statistics of its own: a change of one leaves
/// the other as it is.
#[test]
fn the_encoders_share_no_parameter_and_no_running_statistic() {
    let mut setting = moco(16, 2);
    let (_, gradients) = setting.step(0);
    let [key, _] = setting.values(setting.key());
    setting.query = setting.stepped(gradients);
    assert_eq!(setting.values(setting.key())[0], key);
    assert!(all_differ(&setting.values(&setting.query)[0], &key));

    let both = || [&setting.query, setting.key()].map(|model| setting.values(model));
    let [query_before, key_before] = both();
    setting.keys(1);
    let [query_after, key_after] = both();
    assert_eq!(query_after, query_before);
    assert!(all_differ(&key_after[1], &key_before[1]));

    let (patches, count) = setting.views.grid.tensor(&setting.views.first);
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
    let [before, _] = setting.values(setting.key());
    let [query, query_statistics] = setting.values(&setting.query);
    setting.step(1);
    for (id, after) in &setting.values(setting.key())[0] {
        for ((after, before), query) in after.iter().zip(&before[id]).zip(&query[id]) {
            let expected = MOMENTUM * before + (1.0 - MOMENTUM) * query;
            assert_abs_diff_eq!(*after, expected, epsilon = 1e-6);
        }
    }
    let keys = setting.keys(1);
    let queue = setting.learner.queue.filled().unwrap();
    assert_eq!(queue.contiguous()[IMAGES * DIM..], keys);

    // Even with momentum 0 the update leaves running statistics alone.
    let key = setting.key().clone();
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
    setting.views.second[(IMAGES - 1) * 64..].fill(0.25);
    assert_ne!(setting.keys(0)[..DIM], before[..DIM]);

    let (patches, count) = setting.views.grid.tensor(&setting.views.second);
    let embeddings = setting.key().embed(patches, count);
    assert!(!embeddings.is_require_grad());
    let (_, gradients) = setting.step(0);
    let key = setting.key();
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
    setting.views.second[3 * 64..4 * 64].fill(0.25);
    let changed = setting.keys(0);
    let moved: Vec<usize> = (0..IMAGES)
        .filter(|image| keys[image * DIM..][..DIM] != changed[image * DIM..][..DIM])
        .collect();
    assert_eq!(moved.len(), 2, "{moved:?}");
    assert!(moved.contains(&3) && !moved.contains(&2), "{moved:?}");
}

/// The loss of MoCo v3 is that of both directions, each of one view's predictions against the other's keys.
#[test]
fn moco_v3_goes_both_ways_and_trains_its_prediction_head() {
    let method = Method::of("mocov3").unwrap();
    let settings = small(method);
    let mut setting = Setting::of(Cpu::default(), method, method.loss, &settings);
    let [before, _] = setting.values(&setting.query);
    let (report, gradients) = setting.step(0);
    // Before the first step of the optimiser both encoders are equal, but for the prediction head.
    let rows = |view: &[f32], predict| {
        let (patches, count) = setting.views.grid.tensor(view);
        let rows = match predict {
            true => setting.query.predict(patches, count),
            false => setting.query.embed(patches, count),
        };
        let unit = UnitRows::of(&setting.platform, rows.inner()).unwrap();
        unit.into_floats(&setting.platform).unwrap()
    };
    let (one, other) = (&setting.views.first, &setting.views.second);
    let contrast = Contrast::moco_v3(0.2).unwrap();
    let expected: f32 = [(one, other), (other, one)]
        .into_iter()
        .map(|(queries, keys)| {
            let (q, k) = (rows(queries, true), rows(keys, false));
            let [q, k] = [&q, &k].map(|rows| Rows::new(rows, IMAGES, DIM).unwrap());
            let problem = contrast.on(Inputs::pair(q, k)).unwrap();
            CpuEngine::new().forward(&problem).unwrap().loss
        })
        .sum();
    assert_abs_diff_eq!(report.loss, expected, epsilon = 1e-5);
    let chance = 2.0 * 2.0 * 0.2 * (IMAGES as f64).ln();
    assert_abs_diff_eq!(report.chance_loss, chance, epsilon = 1e-6);

    setting.query = setting.stepped(gradients);
    let [after, _] = setting.values(&setting.query);
    let two_heads = 3 * 3 + 2 * 2 + 2 * 2;
    assert_eq!(after.len(), two_heads);
    assert!(all_differ(&after, &before));
    let state = setting.learner.state(&setting.platform).unwrap();
    assert!(state.key.unwrap().prediction.is_none());
}

/// The bank's rows of the batch move towards the embeddings, and no others.
#[test]
fn a_step_of_instdisc_moves_the_rows_of_its_images() {
    let method = Method::of("instdisc").unwrap();
    for (views, settings) in [1, 2].map(|views| {
        let settings = super::InstdiscSettings {
            bank_momentum: 0.5,
            views,
        };
        (views, MethodConfig::Instdisc(settings))
    }) {
        let mut setting = Setting::of(Cpu::default(), method, method.loss, &settings);
        let bank = |setting: &Setting<Cpu>| {
            let state = setting.learner.state(&setting.platform).unwrap();
            state.bank.unwrap()
        };
        let before = bank(&setting);
        // Both views go through the encoder as one batch.
        let pixels = [&setting.views.first[..], &setting.views.second].concat();
        let pixels = &pixels[..views * setting.views.first.len()];
        let (patches, count) = setting.views.grid.tensor(pixels);
        let rows = setting.query.embed(patches, count).inner();
        let rows = UnitRows::of(&setting.platform, rows).unwrap();
        let rows = rows.into_floats(&setting.platform).unwrap();
        let (report, _) = setting.step(0);
        assert_abs_diff_eq!(report.chance_loss, 12f64.ln(), epsilon = 1e-6);
        let after = bank(&setting);
        for image in 0..TRAINING_IMAGES {
            let [before, after] = [&before, &after].map(|bank| bank.as_rows().row(image).to_vec());
            let Some(place) = INDICES.iter().position(|&of| of == image) else {
                assert_eq!(after, before);
                continue;
            };
            let mut expected = before;
            for view in 0..views {
                let row = &rows[(view * IMAGES + place) * DIM..][..DIM];
                let sum = expected.iter().zip(row).map(|(a, b)| 0.5 * a + 0.5 * b);
                let sum: Vec<f32> = sum.collect();
                let length = sum.iter().map(|x| x * x).sum::<f32>().sqrt();
                expected = sum.iter().map(|x| x / length).collect();
            }
            assert_abs_diff_eq!(after[..], expected[..], epsilon = 1e-5);
        }
    }
}

/// Twelve grey images of 8 x 8 in six pairs, each pair of a brightness and a pattern of its own, so that
/// no rounding decides which images are neighbours.
fn training_images() -> ImageSet {
    let pixel = |i: usize| {
        let (image, place) = (i / 64, i % 64);
        let (pair, own) = (image / 2, image % 2);
        40 * pair + 50 * (place >> pair & 1) + 3 * own * (place % 3)
    };
    ImageSet {
        height: 8,
        width: 8,
        channels: 1,
        pixels: (0..TRAINING_IMAGES * 64).map(|i| pixel(i) as u8).collect(),
    }
}

/// Before its first clustering PCL is MoCo; then the mean of the granularities' terms is added.
#[test]
fn pcl_is_moco_and_after_the_warm_up_prototypes() {
    let method = Method::of("pcl").unwrap();
    let MethodConfig::Pcl(settings) = small(method) else {
        panic!("the settings of another method");
    };
    let late = MethodConfig::Pcl(super::PclSettings {
        cluster_warmup: 0.5,
        ..settings.clone()
    });
    let other = MethodConfig::Moco(settings.moco);
    let moco = Method::of("moco").unwrap();
    let mut moco = Setting::of(Cpu::default(), moco, "moco", &other);
    let query = moco.query.clone();
    let mut pcl = Setting::with_model(Cpu::default(), method, method.loss, &late, query);
    let images = training_images();
    let mut chance = Vec::new();
    for epoch in 0..3 {
        let grid = &pcl.views.grid;
        let started = pcl.learner.start_epoch(&pcl.platform, epoch, &images, grid);
        started.unwrap();
        let (plain, gradients) = moco.step(epoch);
        let (with, _) = pcl.step(epoch);
        let further = with.chance_loss - plain.chance_loss;
        // Clusters of six and four of twelve images are two and three.
        chance.push((2.0 * further).exp().round());
        let clustered = epoch >= 2;
        assert_eq!(
            with.loss > plain.loss + 0.1,
            clustered,
            "{plain:?} {with:?}"
        );
        moco.query = moco.stepped(gradients);
        pcl.query = moco.query.clone();
    }
    assert_eq!(chance, [1.0, 1.0, 6.0]);
}

#[test]
fn labelled_losses_take_the_rows_of_a_class_together() {
    let method = Method::of("simclr").unwrap();
    let loss = |key| {
        let mut setting = Setting::of(Cpu::default(), method, key, &small(method));
        setting.step(0).0
    };
    let [all, drawn, pairs] = ["supcon", "kcl", "nt_xent"].map(loss);
    // No class has more than two other images, four rows: all are drawn.
    assert_eq!(all, drawn);
    assert_ne!(all.loss, pairs.loss);
    assert_abs_diff_eq!(all.chance_loss, pairs.chance_loss, epsilon = 1e-6);
}

/// A loss of pairs that has them both ways has the gradient of both views.
#[test]
fn a_loss_of_pairs_trains_both_views() {
    let method = Method::of("simclr").unwrap();
    let gradients = |swapped: bool| {
        let mut setting = Setting::of(Cpu::default(), method, "clip", &small(method));
        if swapped {
            let Views { first, second, .. } = &mut setting.views;
            std::mem::swap(first, second);
        }
        let (report, gradients) = setting.step(0);
        let [learned, _] = setting.values(&setting.stepped(gradients));
        let mut learned: Vec<_> = learned.into_values().collect();
        learned.sort_by(|a, b| a.partial_cmp(b).unwrap());
        (report.loss, learned.concat())
    };
    let (one, other) = (gradients(false), gradients(true));
    assert_abs_diff_eq!(one.0, other.0, epsilon = 1e-5);
    assert_abs_diff_eq!(one.1[..], other.1[..], epsilon = 1e-4);
}

/// The emulator runs the CUDA kernels' sources.
#[cfg(feature = "emulator-tests")]
#[test]
fn methods_learn_the_same_on_either_engine() {
    use crate::KeyQueue;
    use crate::emulator::{EmulatedEngine, Schedule};
    use crate::train::cpu::FlexPlatform;

    const TOLERANCE: f32 = 2e-5;

    /// The reports of a few steps, and what they leave of the encoder and of what outlives a step.
    fn course<P: Platform<Backend = Flex>>(
        platform: P,
        method: &Method,
        loss: &str,
        query: &Model<Training>,
    ) -> (Vec<LossReport>, Vec<f32>) {
        let query = Model::from_inner(query.valid());
        let settings = small(method);
        let mut setting = Setting::with_model(platform, method, loss, &settings, query);
        let images = training_images();
        let mut reports = Vec::new();
        for step in 0..3 {
            let (learner, grid) = (&mut setting.learner, &setting.views.grid);
            let started = learner.start_epoch(&setting.platform, step, &images, grid);
            started.unwrap();
            let (report, gradients) = setting.step(step);
            setting.query = setting.stepped(gradients);
            reports.push(report);
        }
        let state = setting.learner.state(&setting.platform).unwrap();
        let mut left = Vec::new();
        for model in [Some(&setting.query), state.key.as_ref()]
            .into_iter()
            .flatten()
        {
            let [learned, _] = setting.values(model);
            let mut learned: Vec<_> = learned.into_iter().collect();
            learned.sort_by_key(|(id, _)| id.val());
            left.extend(learned.into_iter().flat_map(|(_, values)| values));
        }
        let queue = state.queue.as_ref().and_then(KeyQueue::filled);
        left.extend(queue.iter().flat_map(|keys| keys.contiguous().into_owned()));
        left.extend(state.bank.iter().flat_map(|bank| bank.elements().to_vec()));
        (reports, left)
    }

    let runs = TABLE.iter().map(|method| (method, method.loss));
    let simclr = Method::of("simclr").unwrap();
    let others = ["supcon", "kcl", "clip", "info_nce"].map(|loss| (simclr, loss));
    for (method, loss) in runs.chain(others) {
        let kernels = FlexPlatform(EmulatedEngine::new(Schedule::Mixed, 7));
        let query = model(method);
        let (cpu, left) = course(Cpu::default(), method, loss, &query);
        let (cuda, kernels_left) = course(kernels, method, loss, &query);
        assert_ne!(cpu[0].loss, cpu[1].loss);
        for (cpu, cuda) in cpu.iter().zip(&cuda) {
            println!("{} with {loss}: {cpu:?} {cuda:?}", method.key);
            assert_abs_diff_eq!(cpu.loss, cuda.loss, epsilon = TOLERANCE);
            assert!(cpu.top1.is_some());
            assert_eq!((cpu.top1, cpu.chance_loss), (cuda.top1, cuda.chance_loss));
        }
        assert_abs_diff_eq!(left[..], kernels_left[..], epsilon = TOLERANCE);
    }
}
