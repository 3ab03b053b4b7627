//! The momentum encoder: a second set of weights that follows the first, never by gradient
//! (He et al. 2020, section 3.2).
//!
//! What follows are the learnable parameters. Running statistics are copied once, with everything
//! else, and from then on are neither averaged nor copied: each network's own forward passes move
//! its own, because they describe activations of that network's own weights. This is also what
//! MoCo's published code does. They decide nothing in training, where batch statistics normalise.

use std::collections::HashMap;

use burn::module::{AutodiffModule, Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{Tensor, TensorData};

use super::bridge::into_floats;
use super::trainer::TrainError;
use crate::{CpuEngine, Engine, MomentumTensor};

/// A module with the same values, sharing no state with `module` and without gradients. On an
/// autodiff backend it still normalises with batch statistics.
///
/// A plain `clone` would share the running statistics; the way over the inner backend makes new
/// ones. Parameter identities stay, so that [`momentum_update`] finds its pairs.
pub fn detached_copy<B: AutodiffBackend, M: AutodiffModule<B>>(module: &M) -> M {
    M::from_inner(module.valid()).no_grad()
}

/// key ← m·key + (1 − m)·query for every learnable parameter, in one call to the engine.
///
/// # Errors
/// [`TrainError::Loss`] when `momentum` is not between 0 and 1; [`TrainError::Tensor`] when the
/// two are not copies of one module.
pub fn momentum_update<B: AutodiffBackend, M: AutodiffModule<B>>(
    engine: &CpuEngine,
    momentum: f32,
    query: &M,
    key: M,
) -> Result<M, TrainError> {
    let queries = parameters(query, |_, learnable| learnable)?;
    let mut keys = parameters(&key, |id, _| queries.contains_key(&id))?;
    let mut tensors = Vec::with_capacity(queries.len());
    for (id, key) in &mut keys {
        let Some(query) = queries.get(id) else {
            continue;
        };
        tensors.push(MomentumTensor {
            query: query.as_slice(),
            key: key.as_mut_slice(),
            shadow: None,
        });
    }
    if tensors.len() != queries.len() {
        return Err(TrainError::Tensor(
            "the key encoder lacks parameters of the query encoder".to_owned(),
        ));
    }
    engine.momentum_update(momentum, &mut tensors)?;
    Ok(key.map(&mut Replacement { values: keys }).no_grad())
}

/// The values of the parameters that `wanted` picks by identity and learnability, in a map.
pub(super) fn parameters<B: Backend, M: Module<B>>(
    module: &M,
    wanted: impl Fn(ParamId, bool) -> bool,
) -> Result<HashMap<ParamId, Vec<f32>>, TrainError> {
    let mut collection = Collection {
        wanted,
        values: Ok(HashMap::new()),
    };
    module.visit(&mut collection);
    collection.values
}

struct Collection<F> {
    wanted: F,
    values: Result<HashMap<ParamId, Vec<f32>>, TrainError>,
}

impl<B: Backend, F: Fn(ParamId, bool) -> bool> ModuleVisitor<B> for Collection<F> {
    fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<B, D>>) {
        // Running statistics come by here too; they never require a gradient.
        if !(self.wanted)(parameter.id, parameter.is_require_grad()) {
            return;
        }
        match (&mut self.values, into_floats(parameter.val())) {
            (Ok(values), Ok(found)) => {
                values.insert(parameter.id, found);
            }
            (values @ Ok(_), Err(error)) => *values = Err(error),
            (Err(_), _) => {}
        }
    }
}

struct Replacement {
    values: HashMap<ParamId, Vec<f32>>,
}

impl<B: Backend> ModuleMapper<B> for Replacement {
    fn map_float<const D: usize>(&mut self, parameter: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        match self.values.remove(&parameter.id) {
            Some(values) => parameter.map(|tensor| {
                Tensor::from_data(TensorData::new(values, tensor.shape()), &tensor.device())
            }),
            None => parameter,
        }
    }
}

/// Whether every value of a module, running statistics included, is finite.
///
/// # Errors
/// [`TrainError::Tensor`] when the backend's floats are not f32.
pub fn is_finite<B: Backend, M: Module<B>>(module: &M) -> Result<bool, TrainError> {
    let values = parameters(module, |_, _| true)?;
    Ok(values.values().flatten().all(|value| value.is_finite()))
}
