//! The CUDA engine on host memory: matrices go to the device and results return.

use super::backend::Backend;
use crate::contrast::{Contrast, Inputs};
use crate::cuda::{CudaBuffer, CudaEngine, CudaQueue, CudaRows};
use crate::element::Element;
use crate::engine::{
    Engine, Forward, Gradients, MomentumSlices, MomentumTensor, TopK, ValueAndGrad,
};
use crate::error::Error;
use crate::queue::KeyQueue;
use crate::rows::{Matrix, Rows, RowsMut};
use crate::statistics::Statistics;

/// A matrix on the device.
struct Uploaded<T> {
    buffer: CudaBuffer<T>,
    rows: usize,
    dim: usize,
}

impl<T: Element> Uploaded<T> {
    fn view(&self) -> Result<CudaRows<'_, T>, Error> {
        self.buffer.rows(self.rows, self.dim)
    }
}

impl CudaEngine {
    fn uploaded<T: Element>(&self, rows: Rows<'_, T>) -> Result<Uploaded<T>, Error> {
        Ok(Uploaded {
            buffer: CudaBuffer::upload(self.device(), rows.as_slice())?,
            rows: rows.rows(),
            dim: rows.dim(),
        })
    }

    /// What an output holds before the call, on the device.
    fn poisoned<T: Element>(&self, rows: &RowsMut<'_, T>) -> Result<Uploaded<T>, Error> {
        let (rows, dim) = (rows.rows(), rows.dim());
        let poison = vec![T::from_f32(f32::NAN); rows * dim];
        Ok(Uploaded {
            buffer: CudaBuffer::upload(self.device(), &poison)?,
            rows,
            dim,
        })
    }

    /// Runs `work` with the inputs on the device.
    fn with_inputs<T: Element, R>(
        &self,
        inputs: &Inputs<Rows<'_, T>>,
        work: impl FnOnce(&Inputs<CudaRows<'_, T>>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        match *inputs {
            Inputs::Shared { z } => {
                let z = self.uploaded(z)?;
                work(&Inputs::Shared { z: z.view()? })
            }
            Inputs::Pair { q, k } => {
                let (q, k) = (self.uploaded(q)?, self.uploaded(k)?);
                work(&Inputs::Pair {
                    q: q.view()?,
                    k: k.view()?,
                })
            }
            Inputs::Queue { q, own_key, queue } => {
                let (q, own_key) = (self.uploaded(q)?, self.uploaded(own_key)?);
                let queue = self.uploaded(queue)?;
                work(&Inputs::Queue {
                    q: q.view()?,
                    own_key: own_key.view()?,
                    queue: queue.view()?,
                })
            }
        }
    }

    /// Runs `work` with gradients on the device, and copies them back.
    fn with_gradients<G: Element, R>(
        &self,
        gradients: Gradients<RowsMut<'_, G>>,
        work: impl FnOnce(Gradients<crate::cuda::CudaRowsMut<'_, G>>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let mut dq = self.poisoned(&gradients.dq)?;
        let mut dk = gradients
            .dk
            .as_ref()
            .map(|dk| self.poisoned(dk))
            .transpose()?;
        let result = work(Gradients {
            dq: dq.buffer.rows_mut(dq.rows, dq.dim)?,
            dk: match &mut dk {
                Some(dk) => Some(dk.buffer.rows_mut(dk.rows, dk.dim)?),
                None => None,
            },
        })?;
        dq.buffer.read(gradients.dq.into_slice())?;
        if let (Some(dk), Some(to)) = (dk, gradients.dk) {
            dk.buffer.read(to.into_slice())?;
        }
        Ok(result)
    }
}

impl Backend for CudaEngine {
    fn forward<T: Element>(
        &self,
        contrast: &Contrast,
        inputs: &Inputs<Rows<'_, T>>,
    ) -> Result<Forward, Error> {
        self.with_inputs(inputs, |inputs| Engine::forward(self, contrast, inputs))
    }

    fn value_and_grad<T: Element, G: Element>(
        &self,
        contrast: &Contrast,
        inputs: &Inputs<Rows<'_, T>>,
        upstream: f32,
        gradients: Gradients<RowsMut<'_, G>>,
    ) -> Result<ValueAndGrad, Error> {
        self.with_inputs(inputs, |inputs| {
            self.with_gradients(gradients, |gradients| {
                Engine::value_and_grad(self, contrast, inputs, upstream, gradients)
            })
        })
    }

    fn backward<T: Element, G: Element>(
        &self,
        contrast: &Contrast,
        inputs: &Inputs<Rows<'_, T>>,
        statistics: &Statistics,
        upstream: f32,
        gradients: Gradients<RowsMut<'_, G>>,
    ) -> Result<f32, Error> {
        self.with_inputs(inputs, |inputs| {
            self.with_gradients(gradients, |gradients| {
                Engine::backward(self, contrast, inputs, statistics, upstream, gradients)
            })
        })
    }

    fn top_k<T: Element>(
        &self,
        queries: Rows<'_, T>,
        candidates: Rows<'_, T>,
        k: usize,
        exclude_self: bool,
    ) -> Result<TopK, Error> {
        let (queries, candidates) = (self.uploaded(queries)?, self.uploaded(candidates)?);
        Engine::top_k(self, queries.view()?, candidates.view()?, k, exclude_self)
    }

    fn normalize<T: Element, O: Element>(
        &self,
        x: Rows<'_, T>,
        y: RowsMut<'_, O>,
        norms: &mut [f32],
        epsilon: f32,
    ) -> Result<(), Error> {
        let x = self.uploaded(x)?;
        let mut on_device = self.poisoned(&y)?;
        let mut lengths = CudaBuffer::upload(self.device(), norms)?;
        let target = on_device.buffer.rows_mut(on_device.rows, on_device.dim)?;
        Engine::normalize(self, x.view()?, target, lengths.vector_mut()?, epsilon)?;
        on_device.buffer.read(y.into_slice())?;
        lengths.read(norms)
    }

    fn normalize_backward<T: Element, G: Element>(
        &self,
        y: Rows<'_, T>,
        norms: &[f32],
        dy: Rows<'_, G>,
        dx: RowsMut<'_, G>,
        epsilon: f32,
    ) -> Result<(), Error> {
        let (y, dy) = (self.uploaded(y)?, self.uploaded(dy)?);
        let lengths = CudaBuffer::upload(self.device(), norms)?;
        let mut on_device = self.poisoned(&dx)?;
        let target = on_device.buffer.rows_mut(on_device.rows, on_device.dim)?;
        let lengths = lengths.vector()?;
        Engine::normalize_backward(self, y.view()?, lengths, dy.view()?, target, epsilon)?;
        on_device.buffer.read(dx.into_slice())
    }

    fn momentum_update<T: Element>(
        &self,
        momentum: f32,
        tensors: &mut [MomentumSlices<'_, T>],
    ) -> Result<(), Error> {
        let device = self.device();
        let mut held = Vec::new();
        for tensor in &*tensors {
            held.push((
                CudaBuffer::upload(device, tensor.query)?,
                CudaBuffer::upload(device, tensor.key)?,
                match &tensor.shadow {
                    Some(shadow) => Some(CudaBuffer::upload(device, shadow)?),
                    None => None,
                },
            ));
        }
        let mut on_device = Vec::new();
        for (query, key, shadow) in &mut held {
            on_device.push(MomentumTensor {
                query: query.vector()?,
                key: key.vector_mut()?,
                shadow: match shadow {
                    Some(shadow) => Some(shadow.vector_mut()?),
                    None => None,
                },
            });
        }
        Engine::momentum_update(self, momentum, &mut on_device)?;
        for ((_, key, shadow), tensor) in held.iter().zip(tensors) {
            key.read(tensor.key)?;
            if let (Some(shadow), Some(to)) = (shadow, &mut tensor.shadow) {
                shadow.read(to)?;
            }
        }
        Ok(())
    }

    fn enqueue<T: Element>(&self, queue: &mut KeyQueue<T>, keys: Rows<'_, T>) -> Result<(), Error> {
        let mut on_device = CudaQueue::from_host(self.device(), queue)?;
        let keys = self.uploaded(keys)?;
        Engine::enqueue(self, &mut on_device, keys.view()?)?;
        *queue = on_device.to_host()?;
        Ok(())
    }
}
