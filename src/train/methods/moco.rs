//! MoCo: queries against the key of the same image and a queue of earlier keys (He et al. 2020,
//! algorithm 1; the two-layer head is MoCo v2's, Chen et al. 2020b).
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
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::{Views, patches};
use crate::train::bridge::{self, LossReport};
use crate::train::ema;
use crate::train::encoder::Model;
use crate::train::trainer::TrainError;
use crate::{
    Contrast, CpuEngine, Engine, Gradients, Inputs, KeyQueue, Matrix, MomentumSchedule, Positives,
    Rows, RowsMut,
};

/// Everything of MoCo that outlives a step.
#[derive(Debug)]
pub struct MocoState<B: Backend> {
    /// The key encoder with its head.
    pub key: Model<Autodiff<B>>,
    /// Earlier keys, unit length.
    pub queue: KeyQueue<f32>,
}

/// The method: its settings and its state.
#[derive(Debug)]
pub struct Moco<B: Backend> {
    engine: CpuEngine,
    against_queue: Contrast,
    against_batch: Contrast,
    momentum: MomentumSchedule,
    groups: usize,
    seed: u64,
    state: MocoState<B>,
}

impl<B: Backend> Moco<B> {
    /// With temperature τ; the key encoder starts as an exact copy of `query`. Batches are
    /// normalised in `groups` groups; `seed` decides which keys share one.
    ///
    /// # Errors
    /// [`crate::Error`] unless τ is finite and positive.
    pub fn new(
        temperature: f32,
        momentum: MomentumSchedule,
        queue: KeyQueue<f32>,
        groups: usize,
        seed: u64,
        query: &Model<Autodiff<B>>,
    ) -> Result<Self, crate::Error> {
        Ok(Self {
            engine: CpuEngine::new(),
            against_queue: Contrast::moco(temperature)?,
            against_batch: Contrast::info_nce(temperature, Positives::Diagonal)?,
            momentum,
            groups,
            seed,
            state: MocoState {
                key: ema::detached_copy(query),
                queue,
            },
        })
    }

    /// The key encoder and the queue.
    pub fn state(&self) -> &MocoState<B> {
        &self.state
    }

    /// Momentum update, keys, loss, enqueue. Until the queue holds one batch, the other keys of
    /// the batch are the negatives.
    pub(super) fn step(
        &mut self,
        model: &Model<Autodiff<B>>,
        views: Views<'_>,
        upstream: f32,
    ) -> Result<(LossReport, GraphGradients), TrainError> {
        let momentum = self.momentum.at(views.step);
        let key = self.state.key.clone();
        self.state.key = ema::momentum_update(&self.engine, momentum, model, key)?;

        let images = views.images();
        let dim = self.state.queue.dim();
        let keys = self.keys(views)?;
        let keys = Rows::new(&keys, images, dim)?;
        let in_order: Vec<usize> = (0..images).collect();
        let queries = self.embed_in_groups(model, views.first, &in_order, views);
        let result = bridge::differentiate(&self.engine, queries, |unit, gradient| {
            match self.state.queue.filled() {
                Some(queue) if queue.rows() >= images => {
                    self.queue_loss(unit, keys, queue, gradient, upstream)
                }
                _ => self.batch_loss(unit, keys, gradient, upstream),
            }
        })?;
        self.engine.enqueue(&mut self.state.queue, keys)?;
        Ok(result)
    }

    /// Unit-length keys of the second views, in the images' order.
    fn keys(&self, views: Views<'_>) -> Result<Vec<f32>, TrainError> {
        let mut order: Vec<usize> = (0..views.images()).collect();
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream(views.step);
        order.shuffle(&mut random);
        let embeddings = self.embed_in_groups(&self.state.key, views.second, &order, views);
        let [rows, dim] = embeddings.dims();
        let shuffled = bridge::into_floats(embeddings.inner())?;
        let (unit, _) = bridge::normalize(&self.engine, Rows::new(&shuffled, rows, dim)?)?;
        let mut keys = vec![0.0; rows * dim];
        for (row, &image) in unit.chunks_exact(dim).zip(&order) {
            keys[image * dim..(image + 1) * dim].copy_from_slice(row);
        }
        Ok(keys)
    }

    /// Embeddings of `images[order]`, each of `groups` nearly equal runs of `order` normalised
    /// with its own batch statistics.
    fn embed_in_groups(
        &self,
        model: &Model<Autodiff<B>>,
        images: &[f32],
        order: &[usize],
        views: Views<'_>,
    ) -> Tensor<Autodiff<B>, 2> {
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

    fn queue_loss(
        &self,
        query: Rows<'_, f32>,
        own_key: Rows<'_, f32>,
        queue: Rows<'_, f32>,
        gradient: RowsMut<'_, f32>,
        upstream: f32,
    ) -> Result<LossReport, crate::Error> {
        let value = self.engine.value_and_grad(
            &self.against_queue,
            &Inputs::Queue {
                q: query,
                own_key,
                queue,
            },
            upstream,
            Gradients {
                dq: gradient,
                dk: None,
            },
        )?;
        let rivals = self.engine.top_k(query, queue, 1, false)?.scores;
        let hits = (0..query.rows())
            .filter(|&row| dot(query.row(row), own_key.row(row)) > rivals[row])
            .count();
        Ok(LossReport {
            loss: value.loss,
            top1: hits as f32 / query.rows() as f32,
            candidates: 1 + queue.rows(),
        })
    }

    fn batch_loss(
        &self,
        query: Rows<'_, f32>,
        keys: Rows<'_, f32>,
        gradient: RowsMut<'_, f32>,
        upstream: f32,
    ) -> Result<LossReport, crate::Error> {
        let value = self.engine.value_and_grad(
            &self.against_batch,
            &Inputs::Pair { q: query, k: keys },
            upstream,
            Gradients {
                dq: gradient,
                dk: None,
            },
        )?;
        let nearest = self.engine.top_k(query, keys, 1, false)?.indices;
        let hits = (0..query.rows())
            .filter(|&row| nearest[row] as usize == row)
            .count();
        Ok(LossReport {
            loss: value.loss,
            top1: hits as f32 / query.rows() as f32,
            candidates: keys.rows(),
        })
    }
}

fn dot(left: &[f32], right: &[f32]) -> f32 {
    left.iter().zip(right).map(|(a, b)| a * b).sum()
}
