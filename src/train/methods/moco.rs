//! MoCo: queries against the key of the same image and a queue of earlier keys (He et al. 2020,
//! algorithm 1; the two-layer head is MoCo v2's, Chen et al. 2020b). With a loss that has no queue:
//! queries against the keys of the batch, in both directions between the views (MoCo v3, Chen et
//! al. 2021, algorithm 1).
//!
//! **Batch normalisation leaks.** A query and its key that are normalised with statistics of the
//! same images let the encoders recognise the positive by its statistics instead of its content,
//! because the queue's keys were normalised with others (section 3.3). The paper shuffles the batch
//! over several GPUs. The same works on one device: each encoder normalises the batch in separate
//! groups, the queries in the batch's order and the keys in a random one, so that a query and its
//! key are normalised with different images. This keeps batch normalisation in the encoder, which
//! trains better than its substitutes, and costs no more than one large batch. The head has no
//! batch normalisation.

use burn::backend::Autodiff;
use burn::backend::autodiff::grads::Gradients as GraphGradients;
use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::step::{LossReport, Views, chance_loss, share, top1};
use crate::train::bridge::{self, Loss, UnitRows};
use crate::train::ema;
use crate::train::encoder::Model;
use crate::train::error::TrainError;
use crate::train::platform::{MemoryOf, Platform};
use crate::{
    Contrast, Engine, Evaluation, Inputs, KeyQueue, Matrix, Memory, MomentumSchedule, Read,
};

/// The state of MoCo that outlives a step, as checkpoints store it.
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
    contrast: Contrast,
    momentum: MomentumSchedule,
    groups: usize,
    /// Keys of a full queue.
    capacity: usize,
    seed: u64,
    pub(super) key: Model<Autodiff<P::Backend>>,
    pub(super) queue: <MemoryOf<P> as Memory>::Queue<f32>,
}

impl<P: Platform> Moco<P> {
    /// MoCo with a loss on [`Inputs::Queue`], or on [`Inputs::Pair`], which leaves the queue empty.
    /// The key encoder starts as an exact copy of `query`. Batches are normalised in `groups`
    /// groups; `seed` determines which keys share one.
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
            momentum,
            groups,
            seed,
            key: ema::detached_copy(query),
            queue: platform.engine().memory().queue(queue)?,
        })
    }

    /// The key encoder, which shares its running statistics with `self`, and a copy of the queue.
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
        let OneWay { report, loss, keys } = self.one_way(platform, model, views, upstream)?;
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

    /// Computes the loss of the first views' queries against the second views' keys. The batch's other
    /// keys are the negatives until the queue is full or holds as many keys as a batch.
    pub(super) fn one_way(
        &self,
        platform: &P,
        model: &Model<Autodiff<P::Backend>>,
        views: Views<'_>,
        upstream: f32,
    ) -> Result<OneWay<P>, TrainError> {
        let images = views.images();
        // Both encoders start before the first result is lent, so that an asynchronous framework
        // does not pause between them.
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
            Some(queue) => {
                let inputs = Inputs::Queue { q, own_key, queue };
                (self.contrast, inputs, 1 + queue.rows())
            }
            None => (self.contrast.in_batch(), Inputs::pair(q, own_key), images),
        };
        let problem = contrast.on(inputs)?;
        let (value, loss) = graph.attach(platform, &queries, &problem, upstream)?;
        let top1 = match (views.wants_top1, queue) {
            (false, _) => None,
            (true, Some(queue)) => {
                let own = value.statistics().read()?.rows.positive;
                let rivals = engine.top_k::<f32>(q, queue, 1, false)?.read()?.scores;
                let scale = contrast.scale();
                let pairs = own.iter().zip(&rivals);
                Some(share(pairs.map(|(own, rival)| *own > scale * *rival)))
            }
            (true, None) => Some(top1(engine, [q, own_key], false, |row| row)?),
        };
        let report = LossReport {
            loss: value.loss()?,
            top1,
            chance_loss: chance_loss(&contrast, candidates),
        };
        Ok(OneWay { report, loss, keys })
    }

    /// Embeddings of the second views by the key encoder, in the images' order.
    pub(super) fn keys(&self, views: Views<'_>) -> Tensor<P::Backend, 2> {
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
        let length = views.grid.image_len();
        let groups = (0..self.groups)
            .map(|group| {
                let border = |group: usize| group * order.len() / self.groups;
                let members: Vec<f32> = order[border(group)..border(group + 1)]
                    .iter()
                    .flat_map(|&image| &images[image * length..(image + 1) * length])
                    .copied()
                    .collect();
                let (patches, count) = views.grid.tensor(&members);
                model.embed(patches, count)
            })
            .collect();
        Tensor::cat(groups, 0)
    }
}

/// One direction: queries of one view against keys of the other.
pub(super) struct OneWay<P: Platform> {
    pub(super) report: LossReport,
    pub(super) loss: Loss<P::Backend>,
    keys: UnitRows<P>,
}
