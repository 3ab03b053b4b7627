//! An engine's verbs on host memory: arguments are copied to the engine's memory, results back.

use crate::contrast::Shape;
use crate::element::Element;
use crate::engine::{Engine, EvaluationOf, MomentumSlices, MomentumTensor, RowsMutOf, RowsOf};
use crate::error::Error;
use crate::gradients::Gradients;
use crate::memory::{Evaluated, Evaluation, Memory, Read, TopK};
use crate::problem::Problem;
use crate::queue::KeyQueue;
use crate::rows::{Matrix, Rows};
use crate::statistics::Statistics;
use crate::triplet::{TripletProblem, Triplets};

/// The verbs of an [`Engine`] on host memory. Arguments and errors are those of the verb of the same name.
#[derive(Debug, Clone, Copy)]
pub struct OnHost<'e, E>(pub &'e E);

/// Gradients full of NaN, so that an element that is never written shows.
pub fn poisoned<G: Element>(shape: Shape, wants_dk: bool) -> Gradients<Vec<G>> {
    let matrix = |rows: usize| vec![G::from_f32(f32::NAN); rows * shape.dim];
    Gradients::new(
        matrix(shape.anchors),
        wants_dk.then(|| matrix(shape.candidates)),
    )
}

fn read<E: Engine>(value: &EvaluationOf<E>) -> Result<Evaluated, Error> {
    Ok(Evaluated {
        loss: value.loss()?,
        dscale: value.dscale()?,
        statistics: value.statistics().read()?,
    })
}

impl<E: Engine> OnHost<'_, E> {
    pub fn forward<T: Element>(&self, problem: &Problem<Rows<'_, T>>) -> Result<Evaluated, Error> {
        self.with_problem(problem, |problem| read::<E>(&self.0.forward(problem)?))
    }

    pub fn value_and_grad<T: Element, G: Element>(
        &self,
        problem: &Problem<Rows<'_, T>>,
        upstream: f32,
        gradients: &mut Gradients<Vec<G>>,
    ) -> Result<Evaluated, Error> {
        self.with_problem(problem, |problem| {
            self.with_gradients(problem.shape(), gradients, |gradients| {
                read::<E>(&self.0.value_and_grad(problem, upstream, gradients)?)
            })
        })
    }

    pub fn backward<T: Element, G: Element>(
        &self,
        problem: &Problem<Rows<'_, T>>,
        statistics: &Statistics,
        upstream: f32,
        gradients: &mut Gradients<Vec<G>>,
    ) -> Result<f32, Error> {
        let statistics = &self.0.memory().statistics(statistics)?;
        self.with_problem(problem, |problem| {
            self.with_gradients(problem.shape(), gradients, |gradients| {
                let dscale = self.0.backward(problem, statistics, upstream, gradients)?;
                dscale.read()
            })
        })
    }

    /// Calls with the problem copied to the engine's memory.
    fn with_problem<T: Element, R>(
        &self,
        problem: &Problem<Rows<'_, T>>,
        call: impl FnOnce(&Problem<RowsOf<'_, E, T>>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let memory = self.0.memory();
        let (mut matrices, mut indices) = (Vec::new(), Vec::new());
        let (mut floats, mut scalars) = (Vec::new(), Vec::new());
        problem.try_map::<Rows<'_, T>>(
            |_, rows| {
                matrices.push(memory.upload(&rows.contiguous())?);
                Ok(*rows)
            },
            |_, given| {
                indices.push(memory.upload(given)?);
                Ok(*given)
            },
            |_, given| {
                floats.push(memory.upload(given)?);
                Ok(*given)
            },
            |_, given| {
                scalars.push(memory.upload(given)?);
                Ok(*given)
            },
        )?;
        let (mut matrices, mut indices) = (matrices.iter(), indices.iter());
        let (mut floats, mut scalars) = (floats.iter(), scalars.iter());
        let lost = "as many views as uploads";
        call(&problem.try_map(
            |_, rows| memory.rows(matrices.next().expect(lost), rows.rows(), rows.dim()),
            |_, _| memory.vector(indices.next().expect(lost)),
            |_, _| memory.vector(floats.next().expect(lost)),
            |_, _| memory.vector(scalars.next().expect(lost)),
        )?)
    }

    fn with_gradients<G: Element, R>(
        &self,
        shape: Shape,
        gradients: &mut Gradients<Vec<G>>,
        call: impl FnOnce(Gradients<RowsMutOf<'_, E, G>>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let memory = self.0.memory();
        let mut dq = memory.upload(&gradients.dq)?;
        let upload = |x: &Option<Vec<G>>| x.as_ref().map(|x| memory.upload(x)).transpose();
        let (mut dk, mut dbias) = (upload(&gradients.dk)?, upload(&gradients.dbias)?);
        let result = call(Gradients {
            dq: memory.rows_mut(&mut dq, shape.anchors, shape.dim)?,
            dk: dk
                .as_mut()
                .map(|dk| memory.rows_mut(dk, shape.candidates, shape.dim))
                .transpose()?,
            dbias: dbias
                .as_mut()
                .zip(gradients.dbias.as_ref().map(Vec::len))
                .map(|(dbias, biases)| memory.rows_mut(dbias, 1, biases))
                .transpose()?,
            accumulate: gradients.accumulate,
        })?;
        gradients.dq = memory.download(&dq)?;
        if let Some(dk) = &dk {
            gradients.dk = Some(memory.download(dk)?);
        }
        if let Some(dbias) = &dbias {
            gradients.dbias = Some(memory.download(dbias)?);
        }
        Ok(result)
    }

    pub fn merge(&self, statistics: &Statistics, others: &Statistics) -> Result<Statistics, Error> {
        let memory = self.0.memory();
        let mut merged = memory.statistics(statistics)?;
        self.0.merge(&mut merged, &memory.statistics(others)?)?;
        merged.read()
    }

    pub fn top_k<T: Element>(
        &self,
        queries: Rows<'_, T>,
        candidates: Rows<'_, T>,
        k: usize,
        exclude_self: bool,
    ) -> Result<TopK, Error> {
        let memory = self.0.memory();
        let q = memory.upload(&queries.contiguous())?;
        let c = memory.upload(&candidates.contiguous())?;
        let queries = memory.rows(&q, queries.rows(), queries.dim())?;
        let candidates = memory.rows(&c, candidates.rows(), candidates.dim())?;
        self.0.top_k(queries, candidates, k, exclude_self)?.read()
    }

    pub fn triplet<T: Element, G: Element>(
        &self,
        problem: &TripletProblem<Rows<'_, T>>,
        upstream: f32,
        gradients: &mut Gradients<Vec<G>>,
    ) -> Result<f32, Error> {
        let memory = self.0.memory();
        let Triplets {
            q,
            k,
            positives,
            negatives,
        } = problem.triplets();
        let anchors = memory.upload(&q.contiguous())?;
        let candidates = k.map(|k| memory.upload(&k.contiguous())).transpose()?;
        let (positives, negatives) = (memory.upload(positives)?, memory.upload(negatives)?);
        let shape = problem.shape();
        let k = candidates.as_ref();
        let k = k.map(|k| memory.rows(k, shape.candidates, shape.dim));
        let problem = problem.triplet().on(Triplets {
            q: memory.rows(&anchors, shape.anchors, shape.dim)?,
            k: k.transpose()?,
            positives: memory.vector(&positives)?,
            negatives: memory.vector(&negatives)?,
        })?;
        self.with_gradients(shape, gradients, |gradients| {
            self.0.triplet(&problem, upstream, gradients)?.read()
        })
    }

    /// y and the norms, written over NaN.
    pub fn normalize<T: Element, O: Element>(
        &self,
        x: Rows<'_, T>,
        epsilon: f32,
    ) -> Result<(Vec<O>, Vec<f32>), Error> {
        let memory = self.0.memory();
        let (rows, dim) = (x.rows(), x.dim());
        let mut y = memory.upload(&vec![O::from_f32(f32::NAN); rows * dim])?;
        let mut norms = memory.upload(&vec![f32::NAN; rows])?;
        let x = memory.upload(&x.contiguous())?;
        self.0.normalize(
            memory.rows(&x, rows, dim)?,
            memory.rows_mut(&mut y, rows, dim)?,
            memory.vector_mut(&mut norms)?,
            epsilon,
        )?;
        Ok((memory.download(&y)?, memory.download(&norms)?))
    }

    /// dx, written over NaN.
    pub fn normalize_backward<T: Element, G: Element>(
        &self,
        y: Rows<'_, T>,
        norms: &[f32],
        dy: Rows<'_, G>,
        epsilon: f32,
    ) -> Result<Vec<G>, Error> {
        let memory = self.0.memory();
        let (rows, dim) = (y.rows(), y.dim());
        let mut dx = memory.upload(&vec![G::from_f32(f32::NAN); rows * dim])?;
        let norms = memory.upload(norms)?;
        let y = memory.upload(&y.contiguous())?;
        let dy = memory.upload(&dy.contiguous())?;
        self.0.normalize_backward(
            memory.rows(&y, rows, dim)?,
            memory.vector(&norms)?,
            memory.rows(&dy, rows, dim)?,
            memory.rows_mut(&mut dx, rows, dim)?,
            epsilon,
        )?;
        memory.download(&dx)
    }

    pub fn momentum_update<T: Element>(
        &self,
        momentum: f32,
        tensors: &mut [MomentumSlices<'_, T>],
    ) -> Result<(), Error> {
        let memory = self.0.memory();
        let mut held = Vec::new();
        for tensor in &*tensors {
            let shadow = tensor.shadow.as_ref().map(|shadow| memory.upload(shadow));
            let (query, key) = (memory.upload(tensor.query)?, memory.upload(tensor.key)?);
            held.push((query, key, shadow.transpose()?));
        }
        let mut there = Vec::new();
        for (query, key, shadow) in &mut held {
            there.push(MomentumTensor {
                query: memory.vector(query)?,
                key: memory.vector_mut(key)?,
                shadow: shadow.as_mut().map(|x| memory.vector_mut(x)).transpose()?,
            });
        }
        self.0.momentum_update(momentum, &mut there)?;
        drop(there);
        for ((_, key, shadow), tensor) in held.iter().zip(tensors) {
            tensor.key.copy_from_slice(&memory.download(key)?);
            if let (Some(shadow), Some(to)) = (shadow, &mut tensor.shadow) {
                to.copy_from_slice(&memory.download(shadow)?);
            }
        }
        Ok(())
    }

    /// The bank after the update.
    pub fn update_rows<T: Element>(
        &self,
        bank: Rows<'_, T>,
        rows: &[u32],
        keys: Rows<'_, T>,
        momentum: f32,
    ) -> Result<Vec<T>, Error> {
        let memory = self.0.memory();
        let (count, dim) = (bank.rows(), bank.dim());
        let mut bank = memory.upload(&bank.contiguous())?;
        let (indices, there) = (memory.upload(rows)?, memory.upload(&keys.contiguous())?);
        self.0.update_rows(
            memory.rows_mut(&mut bank, count, dim)?,
            memory.vector(&indices)?,
            memory.rows(&there, keys.rows(), keys.dim())?,
            momentum,
        )?;
        memory.download(&bank)
    }

    pub fn enqueue<T: Element>(
        &self,
        queue: &mut KeyQueue<T>,
        keys: Rows<'_, T>,
    ) -> Result<(), Error> {
        self.with_queue(queue, keys, |there, keys| self.0.enqueue(there, keys))
    }

    pub fn enqueue_labelled<T: Element>(
        &self,
        queue: &mut KeyQueue<T>,
        keys: Rows<'_, T>,
        labels: &[u32],
    ) -> Result<(), Error> {
        let memory = self.0.memory();
        let labels = memory.upload(labels)?;
        self.with_queue(queue, keys, |there, keys| {
            self.0
                .enqueue_labelled(there, keys, memory.vector(&labels)?)
        })
    }

    fn with_queue<T: Element>(
        &self,
        queue: &mut KeyQueue<T>,
        keys: Rows<'_, T>,
        call: impl FnOnce(&mut <E::Memory as Memory>::Queue<T>, RowsOf<'_, E, T>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let memory = self.0.memory();
        let mut there = memory.queue(queue.clone())?;
        let buffer = memory.upload(&keys.contiguous())?;
        call(&mut there, memory.rows(&buffer, keys.rows(), keys.dim())?)?;
        *queue = memory.saved(&there)?;
        Ok(())
    }
}
