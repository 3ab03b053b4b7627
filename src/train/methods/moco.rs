//! MoCo: queries against the key of the same image and a queue of earlier keys (He et al. 2020,
//! algorithm 1; the two-layer head is MoCo v2's, Chen et al. 2020b).
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
use burn::backend::autodiff::grads::Gradients;
use burn::tensor::{Int, Tensor, TensorData};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::learner::part;
use super::step::{Batch, LossReport, View, chance_loss, share, top1};
use super::{Learner, Method, MethodConfig, MomentumCourse, MomentumSettings, Run, Settings, State};
use crate::engine::RowsOf;
use crate::train::bridge::{self, Loss, Term, UnitRows};
use crate::train::ema::MomentumEncoder;
use crate::train::encoder::Model;
use crate::train::error::TrainError;
use crate::train::platform::{MemoryOf, Platform};
use crate::train::setting::require;
use crate::{Contrast, Engine, Evaluation, Inputs, KeyQueue, Matrix, Memory, Positives, Read};

pub(super) const METHOD: Method = Method {
    key: "moco",
    name: "MoCo",
    source: "He et al. 2020, algorithm 1; head of Chen et al. 2020b (v2)",
    help: "A view against a momentum encoder's key of the same image and a queue of earlier keys",
    loss: "moco",
    temperature: 0.3,
    learning_rate: 0.3,
    warmup: 0.05,
    prediction: false,
    unfit: |loss| (loss.key != "moco").then_some("it has no queue of keys"),
    settings: || MethodConfig::Moco(MocoSettings::default()),
};

/// The settings of MoCo.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MocoSettings {
    /// Keys in the queue.
    pub queue: usize,
    /// The key encoder's.
    #[serde(flatten)]
    pub momentum: MomentumSettings,
    /// Groups of a batch that are normalised separately, so that no statistics reveal the positive.
    pub norm_groups: usize,
}

impl Default for MocoSettings {
    fn default() -> Self {
        Self {
            queue: 1024,
            momentum: MomentumSettings {
                momentum: 0.99,
                momentum_course: MomentumCourse::Constant,
            },
            norm_groups: 4,
        }
    }
}

impl Settings for MocoSettings {
    fn validate(&self, batch: usize, dim: usize) -> Result<(), TrainError> {
        let (queue, groups) = (self.queue, self.norm_groups);
        let keys = (1..=1 << 24).contains(&queue);
        require("queue", queue, "between 1 and 16777216", keys)?;
        let numbers = queue.saturating_mul(dim) <= 1 << 30;
        require("queue", queue, "at most 2^30 / `dim`: 4 GiB", numbers)?;
        self.momentum.validate()?;
        require("norm_groups", groups, "at least 1", groups >= 1)?;
        let pairs = batch / 2 >= groups;
        require("batch", batch, "at least twice `norm_groups`", pairs)
    }

    fn start<P: Platform>(&self, run: &Run<'_, P>) -> Result<Box<dyn Learner<P>>, TrainError> {
        Ok(Box::new(Moco::new(self, run, run.contrast)?))
    }
}

/// The method with its state.
#[derive(Debug)]
pub(super) struct Moco<P: Platform> {
    contrast: Contrast,
    groups: usize,
    /// Keys of a full queue.
    capacity: usize,
    seed: u64,
    pub(super) key: MomentumEncoder<P::Backend>,
    pub(super) queue: <MemoryOf<P> as Memory>::Queue<f32>,
}

impl<P: Platform> Moco<P> {
    /// MoCo with a `contrast` on [`Inputs::Queue`]. The key encoder starts as an exact copy of the
    /// model, the queue empty.
    ///
    /// # Errors
    /// What the engine reports.
    pub(super) fn new(
        settings: &MocoSettings,
        run: &Run<'_, P>,
        contrast: Contrast,
    ) -> Result<Self, crate::Error> {
        let queue = KeyQueue::new(settings.queue, run.dim)?;
        let schedule = settings.momentum.schedule(run.total_steps)?;
        Ok(Self {
            contrast,
            groups: settings.norm_groups,
            capacity: settings.queue,
            seed: run.seed,
            key: MomentumEncoder::of(run.model, schedule),
            queue: run.platform.engine().memory().queue(queue)?,
        })
    }

    /// Momentum update, keys, loss, enqueue. The loss is MoCo's plus `others`.
    pub(super) fn step_with(
        &mut self,
        platform: &P,
        model: &Model<Autodiff<P::Backend>>,
        batch: Batch<'_>,
        upstream: f32,
        others: &[KeptTerm<'_, P>],
    ) -> Result<(LossReport, Gradients), TrainError> {
        self.key.follow(platform, model, batch.step)?;
        let (report, loss, keys) = self.one_way(platform, model, batch, upstream, others)?;
        let engine = platform.engine();
        engine.enqueue::<f32>(&mut self.queue, keys.matrix()?)?;
        Ok((report, loss.backward()))
    }

    /// The loss of the first views' queries against the second views' keys. The batch's other keys
    /// are the negatives until the queue is full or holds as many keys as a batch.
    fn one_way(
        &self,
        platform: &P,
        model: &Model<Autodiff<P::Backend>>,
        batch: Batch<'_>,
        upstream: f32,
        others: &[KeptTerm<'_, P>],
    ) -> Result<OneWay<P>, TrainError> {
        let images = batch.images.len();
        // Both encoders start before the first result is lent, so that an asynchronous framework
        // does not pause between them.
        let keys = self.keys(batch);
        let in_order: Vec<usize> = (0..images).collect();
        let queries = self.embed_in_groups(model, batch.views[0], &in_order);
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
        let terms = others.iter().map(|other| other.term(engine.memory(), q));
        let terms = terms.collect::<Result<Vec<_>, _>>()?;
        let (value, loss) = graph.attach_sum(platform, &queries, &problem, &terms, upstream)?;
        drop(terms);
        let top1 = match (batch.wants_top1, queue) {
            (false, _) => None,
            (true, Some(queue)) => {
                let own = value.statistics().read()?.rows.positive;
                let rivals = engine.top_k::<f32>(q, queue, 1, false)?.read()?.scores;
                let scale = contrast.scale();
                let pairs = own.iter().zip(&rivals);
                Some(share(pairs.map(|(own, rival)| *own > scale * *rival)))
            }
            (true, None) => Some(top1(engine, [q, own_key], false, |row, key| row == key)?),
        };
        let further = others.iter().map(KeptTerm::chance_loss).sum::<f64>();
        let report = LossReport {
            loss: bridge::into_floats(loss.clone().inner())?[0],
            top1,
            chance_loss: chance_loss(&contrast, candidates) + further,
        };
        Ok((report, loss, keys))
    }

    /// Embeddings of the second views by the key encoder, in the images' order.
    pub(super) fn keys(&self, batch: Batch<'_>) -> Tensor<P::Backend, 2> {
        let mut order: Vec<usize> = (0..batch.images.len()).collect();
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream(batch.step);
        order.shuffle(&mut random);
        let shuffled = self.embed_in_groups(self.key.model(), batch.views[1], &order);
        let mut places = vec![0i64; order.len()];
        for (place, &image) in order.iter().enumerate() {
            places[image] = place as i64;
        }
        let places = TensorData::new(places, [order.len()]);
        let places = Tensor::<_, 1, Int>::from_data(places, &shuffled.device());
        shuffled.inner().select(0, places)
    }

    /// Embeddings of the images `view[order]`, each of `groups` nearly equal runs of `order`
    /// normalised with its own batch statistics.
    fn embed_in_groups(
        &self,
        model: &Model<Autodiff<P::Backend>>,
        view: View<'_>,
        order: &[usize],
    ) -> Tensor<Autodiff<P::Backend>, 2> {
        let length = view.grid.image_len();
        let groups = (0..self.groups)
            .map(|group| {
                let border = |group: usize| group * order.len() / self.groups;
                let members: Vec<f32> = order[border(group)..border(group + 1)]
                    .iter()
                    .flat_map(|&image| &view.pixels[image * length..(image + 1) * length])
                    .copied()
                    .collect();
                let (patches, count) = view.grid.tensor(&members);
                model.embed(patches, count)
            })
            .collect();
        Tensor::cat(groups, 0)
    }
}

impl<P: Platform> Learner<P> for Moco<P> {
    fn step(
        &mut self,
        platform: &P,
        model: &Model<Autodiff<P::Backend>>,
        batch: Batch<'_>,
        upstream: f32,
    ) -> Result<(LossReport, Gradients), TrainError> {
        self.step_with(platform, model, batch, upstream, &[])
    }

    fn state(&self, platform: &P) -> Result<State<P::Backend>, TrainError> {
        Ok(State {
            key: Some(self.key.model().clone()),
            queue: Some(platform.engine().memory().saved(&self.queue)?),
            ..State::default()
        })
    }

    fn restore(&mut self, platform: &P, state: State<P::Backend>) -> Result<(), TrainError> {
        let queue = part("queue", state.queue, |queue| {
            queue.capacity() == self.capacity
        })?;
        self.queue = platform.engine().memory().queue(queue)?;
        self.key
            .restore(part("key encoder", state.key, |_| true)?);
        Ok(())
    }
}

/// The report of a step, its loss in the graph, and the keys to enqueue.
type OneWay<P> = (LossReport, Loss<<P as Platform>::Backend>, UnitRows<P>);

/// A further term of the loss: the queries against candidates that are kept from step to step.
pub(super) struct KeptTerm<'a, P: Platform> {
    /// A contrast on [`Inputs::Pair`].
    pub contrast: Contrast,
    /// What the term is multiplied by.
    pub weight: f32,
    /// M × D.
    pub candidates: &'a <MemoryOf<P> as Memory>::Buffer<f32>,
    /// M.
    pub count: usize,
    /// The candidate of each query.
    pub positives: <MemoryOf<P> as Memory>::Buffer<u32>,
}

impl<P: Platform> KeptTerm<'_, P> {
    fn term<'t>(
        &'t self,
        memory: &MemoryOf<P>,
        q: RowsOf<'t, P::Engine, f32>,
    ) -> Result<Term<'t, P>, crate::Error> {
        let k = memory.rows(self.candidates, self.count, q.dim())?;
        let positives = Positives::Index(memory.vector(&self.positives)?);
        let problem = self.contrast.on(Inputs::Pair { q, k, positives })?;
        Ok((problem, self.weight))
    }

    fn chance_loss(&self) -> f64 {
        f64::from(self.weight) * chance_loss(&self.contrast, self.count)
    }
}
