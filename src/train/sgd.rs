//! Stochastic gradient descent with momentum and weight decay, whose state can be saved.
//!
//! ```text
//! v ← μ·v + (g + λ·w)        w ← w − rate·v
//! ```
//! These are the operations of burn's optimiser in its order, without dampening; burn's does not show v.

use std::collections::HashMap;

use burn::backend::Autodiff;
use burn::module::{AutodiffModule, Module, ModuleMapper, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::ema;

/// μ.
const MOMENTUM: f32 = 0.9;

/// The optimiser with the velocity v of each parameter.
#[derive(Debug)]
pub(super) struct Sgd<B: Backend> {
    /// λ.
    decay: f32,
    velocity: HashMap<ParamId, Tensor<B, 1>>,
}

impl<B: Backend> Sgd<B> {
    /// Every velocity is 0; `decay` is λ.
    pub(super) fn new(decay: f64) -> Self {
        Self {
            decay: decay as f32,
            velocity: HashMap::new(),
        }
    }

    /// One step of the parameters that have a gradient.
    pub(super) fn step<M: AutodiffModule<Autodiff<B>>>(
        &mut self,
        rate: f64,
        module: M,
        gradients: GradientsParams,
    ) -> M {
        module.map(&mut Step {
            sgd: self,
            rate,
            gradients,
        })
    }

    /// The velocities in place of the parameters of `module`, zeros where there is none; `None` before the first
    /// step.
    pub(super) fn velocity<M: Module<B>>(&self, module: M) -> Option<M> {
        let mut velocity: HashMap<_, _> = ema::flat_parameters(&module)
            .into_iter()
            .map(|(id, (_, values))| (id, values.zeros_like()))
            .collect();
        velocity.extend(self.velocity.clone());
        (!self.velocity.is_empty()).then(|| ema::with_values(module, velocity))
    }

    /// Takes up the velocities that [`velocity`](Self::velocity) returned.
    pub(super) fn restore<M: Module<B>>(&mut self, velocity: &M) {
        let values = ema::flat_parameters(velocity).into_iter();
        self.velocity = values.map(|(id, (_, values))| (id, values)).collect();
    }
}

struct Step<'a, B: Backend> {
    sgd: &'a mut Sgd<B>,
    rate: f64,
    gradients: GradientsParams,
}

impl<B: Backend> ModuleMapper<Autodiff<B>> for Step<'_, B> {
    fn map_float<const D: usize>(
        &mut self,
        parameter: Param<Tensor<Autodiff<B>, D>>,
    ) -> Param<Tensor<Autodiff<B>, D>> {
        let id = parameter.id;
        let Some(gradient) = self.gradients.remove::<B, D>(id) else {
            return parameter;
        };
        parameter.map(|weights| {
            let weights = weights.inner();
            let gradient = weights.clone() * self.sgd.decay + gradient;
            let velocity = match self.sgd.velocity.remove(&id) {
                Some(before) => gradient + before.reshape(weights.shape()) * MOMENTUM,
                None => gradient,
            };
            let flat = velocity.clone().reshape([-1]);
            self.sgd.velocity.insert(id, flat);
            Tensor::from_inner(weights - velocity * self.rate).require_grad()
        })
    }
}
