//! MoCo: queries against the key of the same image and a queue of earlier keys (He et al. 2020,
//! algorithm 1; the two-layer head is MoCo v2's, Chen et al. 2020b), or, where the loss has no queue,
//! against the keys of the batch, both ways over the views (MoCo v3, Chen et al. 2021, algorithm 1).
//!
//! **Batch normalisation leaks.** When a query and its key are normalised with statistics of the
//! same images, the encoders can recognise the positive by its statistics instead of its content,
//! because the queue's keys were normalised with others (section 3.3). The paper's answer, shuffled
//! batch normalisation over several GPUs, works on one device too: both encoders see the batch in
//! groups that are normalised apart, the queries in the batch's order and the keys in a random one,
//! so that a query and its key are normalised with different images. It keeps batch normalisation
//! in the encoder, which trains better than what could replace it, and costs no more than one
//! large batch. The head has no batch normalisation.

use burn::backend::Autodiff;
use burn::backend::autodiff::grads::Gradients as GraphGradients;
use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::{Views, chance_loss, patches, share};
use crate::train::bridge::{self, LossReport, UnitRows};
use crate::train::ema;
use crate::train::encoder::Model;
use crate::train::platform::{MemoryOf, Platform, ValuesMut};
use crate::train::trainer::TrainError;
use crate::{
    Contrast, Engine, Evaluation, Gradients, Inputs, KeyQueue, Matrix, Memory, MomentumSchedule,
    Read,
};

/// Everything of MoCo that outlives a step, as checkpoints hold it.
#[derive(Debug)]
pub struct MocoState<B: Backend> {
    /// The key encoder with its head.
    pub key: Model<Autodiff<B>>,
    /// Earlier keys, unit length.
    pub queue: KeyQueue<f32>,
}

/// The method: its settings and its state.
#[derive(Debug)]
pub struct Moco<P: Platform> {
    pub(super) contrast: Contrast,
    /// The loss while the queue is too short, or of every step where there is none.
    against_batch: Contrast,
    momentum: MomentumSchedule,
    groups: usize,
    /// Keys that the queue holds when it is full.
    capacity: usize,
    seed: u64,
    key: Model<Autodiff<P::Backend>>,
    queue: <MemoryOf<P> as Memory>::Queue<f32>,
}

impl<P: Platform> Moco<P> {
    /// With a loss on [`Inputs::Queue`], or on [`Inputs::Pair`], which leaves the queue empty. The key
    /// encoder starts as an exact copy of `query`. Batches are normalised in `groups` groups; `seed`
    /// decides which keys share one.
    ///
    /// # Errors
    /// What the engine reports.
    pub fn new(
        platform: &P,
        contrast: Contrast,
        momentum: MomentumSchedule,
        queue: KeyQueue<f32>,
        groups: usize,
        seed: u64,
        query: &Model<Autodiff<P::Backend>>,
    ) -> Result<Self, crate::Error> {
        Ok(Self {
            capacity: queue.capacity(),
            contrast,
            against_batch: contrast.in_batch(),
            momentum,
            groups,
            seed,
            key: ema::detached_copy(query),
            queue: platform.engine().memory().queue(queue)?,
        })
    }

    /// The key encoder, which shares its running statistics with this, and a copy of the queue.
    ///
    /// # Errors
    /// What the engine reports.
    pub fn state(&self, platform: &P) -> Result<MocoState<P::Backend>, crate::Error> {
        Ok(MocoState {
            key: self.key.clone(),
            queue: platform.engine().memory().saved(&self.queue)?,
        })
    }

    /// Momentum update, keys, loss, enqueue.
    pub(super) fn step(
        &mut self,
        platform: &P,
        model: &Model<Autodiff<P::Backend>>,
        views: Views<'_>,
        upstream: f32,
    ) -> Result<(LossReport, GraphGradients), TrainError> {
        let momentum = self.momentum.at(views.step);
        let key = self.key.clone();
        self.key = ema::momentum_update(platform, momentum, model, key)?;
        let Way { report, loss, keys } = self.one_way(platform, model, views, upstream)?;
        if self.contrast.has_own_keys() {
            let engine = platform.engine();
            engine.enqueue::<f32>(&mut self.queue, keys.matrix()?)?;
            return Ok((report, loss.backward()));
        }
        let reverse = self.one_way(platform, model, views.swapped(), upstream)?;
        let other = reverse.report;
        let both = LossReport {
            loss: report.loss + other.loss,
            top1: report
                .top1
                .zip(other.top1)
                .map(|(one, other)| (one + other) / 2.0),
            chance_loss: report.chance_loss + other.chance_loss,
        };
        Ok((both, (loss + reverse.loss).backward()))
    }

    /// The loss of the first views' queries against the second views' keys. Until the queue is full or
    /// holds one batch, the other keys of the batch are the negatives.
    fn one_way(
        &self,
        platform: &P,
        model: &Model<Autodiff<P::Backend>>,
        views: Views<'_>,
        upstream: f32,
    ) -> Result<Way<P>, TrainError> {
        let images = views.images();
        // Both before the first is lent, so that a framework that works ahead goes on to the second.
        let keys = self.keys(views);
        let in_order: Vec<usize> = (0..images).collect();
        let queries = self.embed_in_groups(model, views.first, &in_order, views);
        let keys = UnitRows::of(platform, keys)?;
        let (graph, queries) = bridge::detach(platform, queries)?;

        let engine = platform.engine();
        let (q, own_key) = (queries.matrix()?, keys.matrix()?);
        let queue = MemoryOf::<P>::filled(&self.queue);
        let queue = queue.filter(|queue| queue.rows() >= images.min(self.capacity));
        let (contrast, inputs, candidates) = match queue {
            Some(queue) => (
                &self.contrast,
                Inputs::Queue { q, own_key, queue },
                1 + queue.rows(),
            ),
            None => (&self.against_batch, Inputs::pair(q, own_key), images),
        };
        let problem = contrast.on(inputs)?;
        let [mut gradient] = platform.room([images * q.dim()])?;
        let gradients = Gradients::new(gradient.matrix_mut(images, q.dim())?, None);
        let value = engine.value_and_grad::<f32, f32>(&problem, upstream, gradients)?;
        let top1 = match (views.wants_top1, queue) {
            (false, _) => None,
            (true, Some(queue)) => {
                let own = value.statistics().read()?.rows.positive;
                let rivals = engine.top_k::<f32>(q, queue, 1, false)?.read()?.scores;
                let scale = contrast.scale();
                let pairs = own.iter().zip(&rivals);
                Some(share(pairs.map(|(own, rival)| *own > scale * *rival)))
            }
            (true, None) => {
                let nearest = engine.top_k::<f32>(q, own_key, 1, false)?.read()?.indices;
                Some(share((0..images).map(|row| nearest[row] as usize == row)))
            }
        };
        let report = LossReport {
            loss: value.loss()?,
            top1,
            chance_loss: chance_loss(contrast, candidates),
        };
        let loss = graph.attach(platform, &queries, &gradient, report.loss)?;
        Ok(Way { report, loss, keys })
    }

    /// Embeddings of the second views by the key encoder, in the images' order.
    fn keys(&self, views: Views<'_>) -> Tensor<P::Backend, 2> {
        let mut order: Vec<usize> = (0..views.images()).collect();
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream(views.step);
        order.shuffle(&mut random);
        let shuffled = self.embed_in_groups(&self.key, views.second, &order, views);
        let mut places = vec![0i64; order.len()];
        for (place, &image) in order.iter().enumerate() {
            places[image] = place as i64;
        }
        let places = TensorData::new(places, [order.len()]);
        let places = Tensor::<_, 1, Int>::from_data(places, &shuffled.device());
        shuffled.inner().select(0, places)
    }

    /// Embeddings of `images[order]`, each of `groups` nearly equal runs of `order` normalised
    /// with its own batch statistics.
    fn embed_in_groups(
        &self,
        model: &Model<Autodiff<P::Backend>>,
        images: &[f32],
        order: &[usize],
        views: Views<'_>,
    ) -> Tensor<Autodiff<P::Backend>, 2> {
        let device = Default::default();
        let length = views.grid.image_len();
        let parts = (0..self.groups)
            .map(|group| {
                let border = |group: usize| group * order.len() / self.groups;
                let members: Vec<f32> = order[border(group)..border(group + 1)]
                    .iter()
                    .flat_map(|&image| &images[image * length..(image + 1) * length])
                    .copied()
                    .collect();
                let (patches, count) = patches(views.grid, &members, &device);
                model.embed(patches, count)
            })
            .collect();
        Tensor::cat(parts, 0)
    }
}

/// What queries of one view against keys of the other gave.
struct Way<P: Platform> {
    report: LossReport,
    /// The end of the queries' graph.
    loss: Tensor<Autodiff<P::Backend>, 1>,
    keys: UnitRows<P>,
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use approx::assert_abs_diff_eq;
    use burn::backend::Flex;
    use burn::module::{AutodiffModule, ParamId};
    use burn::optim::{GradientsParams, Optimizer, SgdConfig};

    use super::*;
    use crate::train::encoder::ModelConfig;
    use crate::train::host::Host;
    use crate::train::patches::PatchGrid;

    type Training = Autodiff<Flex>;
    type Values = HashMap<ParamId, Vec<f32>>;

    const IMAGES: usize = 8;
    const DIM: usize = 5;
    const MOMENTUM: f32 = 0.75;

    struct Setting {
        grid: PatchGrid,
        query: Model<Training>,
        host: Host,
        moco: Moco<Host>,
        first: Vec<f32>,
        second: Vec<f32>,
    }

    fn views<'a>(first: &'a [f32], second: &'a [f32], grid: &'a PatchGrid, step: u64) -> Views<'a> {
        Views {
            first,
            second,
            grid,
            step,
            wants_top1: true,
        }
    }

    impl Setting {
        fn new(queue: usize, groups: usize) -> Self {
            Self::with(Contrast::moco(0.2).unwrap(), queue, groups)
        }

        fn with(contrast: Contrast, queue: usize, groups: usize) -> Self {
            let config = ModelConfig::small();
            let query = config.init::<Training>(0, &Default::default());
            let schedule = MomentumSchedule::constant(MOMENTUM).unwrap();
            let queue = KeyQueue::new(queue, DIM).unwrap();
            let host = Host::default();
            let moco = Moco::new(&host, contrast, schedule, queue, groups, 0, &query).unwrap();
            let images = |speed: f32| {
                let pixels = (0..IMAGES * 64).map(|i| (i as f32 * speed).sin());
                pixels.collect::<Vec<_>>()
            };
            Self {
                grid: config.grid(),
                query,
                host,
                moco,
                first: images(0.7),
                second: images(0.9),
            }
        }

        fn views(&self, step: u64) -> Views<'_> {
            views(&self.first, &self.second, &self.grid, step)
        }

        fn step(&mut self, step: u64) -> (LossReport, GraphGradients) {
            let views = views(&self.first, &self.second, &self.grid, step);
            self.moco.step(&self.host, &self.query, views, 1.0).unwrap()
        }

        fn keys(&self, step: u64) -> Vec<f32> {
            let keys = self.moco.keys(self.views(step));
            let keys = UnitRows::of(&self.host, keys).unwrap();
            keys.into_floats(&self.host).unwrap()
        }

        /// The query encoder after one step of the optimiser.
        fn stepped(&self, gradients: GraphGradients) -> Model<Training> {
            let gradients = GradientsParams::from_grads(gradients, &self.query);
            let mut sgd = SgdConfig::new().init::<Training, Model<Training>>();
            sgd.step(0.5, self.query.clone(), gradients)
        }

        fn learned(&self, gradients: GraphGradients) -> Values {
            learnable(&self.stepped(gradients), &self.query)
        }

        fn learn(&mut self, gradients: GraphGradients) {
            self.query = self.stepped(gradients);
        }
    }

    fn learnable(model: &Model<Training>, query: &Model<Training>) -> Values {
        let wanted = ema::parameters(query, |_, learnable| learnable).unwrap();
        ema::parameters(model, |id, _| wanted.contains_key(&id)).unwrap()
    }

    fn running_statistics(model: &Model<Training>, query: &Model<Training>) -> Values {
        let others = ema::parameters(query, |_, learnable| learnable).unwrap();
        // `valid` settles them.
        ema::parameters(&model.valid(), |id, _| !others.contains_key(&id)).unwrap()
    }

    #[test]
    fn the_key_encoder_starts_as_an_exact_copy() {
        let setting = Setting::new(16, 2);
        let everything = |model: &Model<Training>| ema::parameters(model, |_, _| true).unwrap();
        let query = everything(&setting.query);
        // Weights, γ, β and two running statistics of three normalised layers; two linear layers.
        assert_eq!(query.len(), 3 * 5 + 2 * 2);
        assert_eq!(everything(&setting.moco.key), query);
    }

    /// After a step each encoder has weights and running statistics of its own: what moves one
    /// leaves the other as it is.
    #[test]
    fn the_encoders_share_no_parameter_and_no_running_statistic() {
        let mut setting = Setting::new(16, 2);
        let (_, gradients) = setting.step(0);
        let key = learnable(&setting.moco.key, &setting.query);
        setting.learn(gradients);
        assert_eq!(learnable(&setting.moco.key, &setting.query), key);
        let query = learnable(&setting.query, &setting.query);
        assert!(query.iter().all(|(id, values)| key[id] != *values));

        let statistics = |setting: &Setting| {
            [&setting.query, &setting.moco.key]
                .map(|model| running_statistics(model, &setting.query))
        };
        let [query_before, key_before] = statistics(&setting);
        assert_eq!(query_before.len(), 3 * 2);
        setting.keys(1);
        let [query_after, key_after] = statistics(&setting);
        assert_eq!(query_after, query_before);
        assert!(key_after.iter().all(|(id, now)| key_before[id] != *now));

        let (patches, count) = patches(&setting.grid, &setting.first, &Default::default());
        setting.query.embed(patches, count);
        let [query_last, key_last] = statistics(&setting);
        assert_eq!(key_last, key_after);
        assert!(query_last.iter().all(|(id, now)| query_after[id] != *now));
    }

    /// The update comes before the keys: with the rule on paper, and the keys that are enqueued
    /// are those of the updated encoder.
    #[test]
    fn parameters_follow_and_running_statistics_do_not() {
        let mut setting = Setting::new(16, 2);
        let (_, gradients) = setting.step(0);
        setting.learn(gradients);
        let before = learnable(&setting.moco.key, &setting.query);
        let query = learnable(&setting.query, &setting.query);
        setting.step(1);
        let after = learnable(&setting.moco.key, &setting.query);
        for (id, after) in &after {
            for ((after, before), query) in after.iter().zip(&before[id]).zip(&query[id]) {
                let expected = MOMENTUM * before + (1.0 - MOMENTUM) * query;
                assert_abs_diff_eq!(*after, expected, epsilon = 1e-6);
            }
        }
        let keys = setting.keys(1);
        let queue = setting.moco.queue.filled().unwrap();
        assert_eq!(queue.contiguous()[IMAGES * DIM..], keys);

        // Even with nothing kept, the update leaves running statistics alone.
        let key = setting.moco.key.clone();
        let statistics = running_statistics(&key, &setting.query);
        let copy = ema::momentum_update(&setting.host, 0.0, &setting.query, key).unwrap();
        assert_eq!(learnable(&copy, &setting.query), query);
        assert_eq!(running_statistics(&copy, &setting.query), statistics);
        assert_ne!(
            running_statistics(&setting.query, &setting.query),
            statistics
        );
    }

    #[test]
    fn the_key_encoder_uses_batch_statistics_and_has_no_graph() {
        let mut setting = Setting::new(16, 1);
        let before = setting.keys(0);
        // Another last image moves the statistics that the first is normalised with.
        setting.second[(IMAGES - 1) * 64..].fill(0.25);
        assert_ne!(setting.keys(0)[..DIM], before[..DIM]);

        let (patches, count) = patches(&setting.grid, &setting.second, &Default::default());
        let embeddings = setting.moco.key.embed(patches, count);
        assert!(!embeddings.is_require_grad());
        let (_, gradients) = setting.step(0);
        let key = &setting.moco.key;
        assert_eq!(GradientsParams::from_grads(gradients, key).len(), 0);
    }

    /// In groups, a query is normalised with the images before and after it and its key with
    /// others; each key still comes back to its image's place.
    #[test]
    fn keys_are_normalised_with_other_images_than_their_queries() {
        let mut grouped = Setting::new(16, 4);
        let keys = grouped.keys(0);
        // The second group of queries holds images 2 and 3. If key 3 were normalised with the
        // same, changing image 3 would move key 2.
        grouped.second[3 * 64..4 * 64].fill(0.25);
        let changed = grouped.keys(0);
        let moved: Vec<usize> = (0..IMAGES)
            .filter(|image| keys[image * DIM..][..DIM] != changed[image * DIM..][..DIM])
            .collect();
        assert_eq!(moved.len(), 2, "{moved:?}");
        assert!(moved.contains(&3) && !moved.contains(&2), "{moved:?}");
    }

    /// The batch's other keys first, then the queue as it was before this step's keys.
    #[test]
    fn the_batch_gives_the_negatives_until_the_queue_holds_one_batch() {
        let mut setting = Setting::new(20, 2);
        let mut candidates = |step| setting.step(step).0.chance_loss.exp().round() as usize;
        assert_eq!(candidates(0), IMAGES);
        assert_eq!(candidates(1), 1 + IMAGES);
        assert_eq!(candidates(2), 1 + 2 * IMAGES);
        assert_eq!(candidates(3), 1 + 20);
    }

    /// Without a queue: the two ways add, in loss and in gradient, and no key is kept.
    #[test]
    fn moco_v3_goes_both_ways_over_the_views() {
        let contrast = Contrast::moco_v3(0.2).unwrap();
        let mut setting = Setting::with(contrast, 16, 2);
        let before = learnable(&setting.query, &setting.query);
        let one_way = |views| {
            let way = setting
                .moco
                .one_way(&setting.host, &setting.query, views, 1.0);
            let Way { report, loss, .. } = way.unwrap();
            (report.loss, setting.learned(loss.backward()))
        };
        let views = setting.views(0);
        let (one, other) = (one_way(views), one_way(views.swapped()));
        assert_ne!(one.0, other.0);

        let (report, gradients) = setting.step(0);
        assert_abs_diff_eq!(report.loss, one.0 + other.0, epsilon = 1e-5);
        let chance = 2.0 * 2.0 * 0.2 * (IMAGES as f64).ln();
        assert_abs_diff_eq!(report.chance_loss, chance, epsilon = 1e-6);
        for (id, both) in setting.learned(gradients) {
            for (i, both) in both.iter().enumerate() {
                let expected = one.1[&id][i] + other.1[&id][i] - before[&id][i];
                assert_abs_diff_eq!(*both, expected, epsilon = 1e-5);
            }
        }
        assert!(setting.moco.queue.filled().is_none());
    }
}
