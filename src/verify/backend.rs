//! An engine as the checks see it: matrices come from host memory and results return to it.

use crate::contrast::{Contrast, Inputs};
use crate::cpu::CpuEngine;
use crate::element::Element;
use crate::engine::{Engine, Forward, Gradients, MomentumSlices, TopK, ValueAndGrad};
use crate::error::Error;
use crate::queue::KeyQueue;
use crate::rows::{Rows, RowsMut};
use crate::statistics::Statistics;

/// The verbs of [`Engine`] on host memory, whatever memory the engine computes in. Arguments and
/// errors are those of the verb of the same name.
#[expect(missing_docs, reason = "each verb is documented in Engine")]
#[expect(
    clippy::missing_errors_doc,
    reason = "each verb is documented in Engine"
)]
pub trait Backend {
    fn forward<T: Element>(
        &self,
        contrast: &Contrast,
        inputs: &Inputs<Rows<'_, T>>,
    ) -> Result<Forward, Error>;

    fn value_and_grad<T: Element, G: Element>(
        &self,
        contrast: &Contrast,
        inputs: &Inputs<Rows<'_, T>>,
        upstream: f32,
        gradients: Gradients<RowsMut<'_, G>>,
    ) -> Result<ValueAndGrad, Error>;

    fn backward<T: Element, G: Element>(
        &self,
        contrast: &Contrast,
        inputs: &Inputs<Rows<'_, T>>,
        statistics: &Statistics,
        upstream: f32,
        gradients: Gradients<RowsMut<'_, G>>,
    ) -> Result<f32, Error>;

    fn top_k<T: Element>(
        &self,
        queries: Rows<'_, T>,
        candidates: Rows<'_, T>,
        k: usize,
        exclude_self: bool,
    ) -> Result<TopK, Error>;

    fn normalize<T: Element, O: Element>(
        &self,
        x: Rows<'_, T>,
        y: RowsMut<'_, O>,
        norms: &mut [f32],
        epsilon: f32,
    ) -> Result<(), Error>;

    fn normalize_backward<T: Element, G: Element>(
        &self,
        y: Rows<'_, T>,
        norms: &[f32],
        dy: Rows<'_, G>,
        dx: RowsMut<'_, G>,
        epsilon: f32,
    ) -> Result<(), Error>;

    fn momentum_update<T: Element>(
        &self,
        momentum: f32,
        tensors: &mut [MomentumSlices<'_, T>],
    ) -> Result<(), Error>;

    fn enqueue<T: Element>(&self, queue: &mut KeyQueue<T>, keys: Rows<'_, T>) -> Result<(), Error>;
}

/// The verbs as they are, for engines that compute on host memory.
macro_rules! on_host_memory {
    ($engine:ty) => {
        impl Backend for $engine {
            fn forward<T: Element>(
                &self,
                contrast: &Contrast,
                inputs: &Inputs<Rows<'_, T>>,
            ) -> Result<Forward, Error> {
                Engine::forward(self, contrast, inputs)
            }

            fn value_and_grad<T: Element, G: Element>(
                &self,
                contrast: &Contrast,
                inputs: &Inputs<Rows<'_, T>>,
                upstream: f32,
                gradients: Gradients<RowsMut<'_, G>>,
            ) -> Result<ValueAndGrad, Error> {
                Engine::value_and_grad(self, contrast, inputs, upstream, gradients)
            }

            fn backward<T: Element, G: Element>(
                &self,
                contrast: &Contrast,
                inputs: &Inputs<Rows<'_, T>>,
                statistics: &Statistics,
                upstream: f32,
                gradients: Gradients<RowsMut<'_, G>>,
            ) -> Result<f32, Error> {
                Engine::backward(self, contrast, inputs, statistics, upstream, gradients)
            }

            fn top_k<T: Element>(
                &self,
                queries: Rows<'_, T>,
                candidates: Rows<'_, T>,
                k: usize,
                exclude_self: bool,
            ) -> Result<TopK, Error> {
                Engine::top_k(self, queries, candidates, k, exclude_self)
            }

            fn normalize<T: Element, O: Element>(
                &self,
                x: Rows<'_, T>,
                y: RowsMut<'_, O>,
                norms: &mut [f32],
                epsilon: f32,
            ) -> Result<(), Error> {
                Engine::normalize(self, x, y, norms, epsilon)
            }

            fn normalize_backward<T: Element, G: Element>(
                &self,
                y: Rows<'_, T>,
                norms: &[f32],
                dy: Rows<'_, G>,
                dx: RowsMut<'_, G>,
                epsilon: f32,
            ) -> Result<(), Error> {
                Engine::normalize_backward(self, y, norms, dy, dx, epsilon)
            }

            fn momentum_update<T: Element>(
                &self,
                momentum: f32,
                tensors: &mut [MomentumSlices<'_, T>],
            ) -> Result<(), Error> {
                Engine::momentum_update(self, momentum, tensors)
            }

            fn enqueue<T: Element>(
                &self,
                queue: &mut KeyQueue<T>,
                keys: Rows<'_, T>,
            ) -> Result<(), Error> {
                Engine::enqueue(self, queue, keys)
            }
        }
    };
}

on_host_memory!(CpuEngine);
#[cfg(feature = "emulator")]
on_host_memory!(crate::host::HostEngine);
