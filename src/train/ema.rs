//! The momentum encoder, key ← m·key + (1 − m)·query, which has no gradient (He et al. 2020,
//! section 3.2).
//!
//! Only learnable parameters follow the query encoder. Running statistics are copied once, at the
//! start. From then on each network's own forward passes update its own, because they describe
//! activations of that network's weights. MoCo's published code does the same. They do not enter
//! training, which normalises with batch statistics.

use std::collections::HashMap;

use burn::backend::Autodiff;
use burn::module::{AutodiffModule, Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend};

use super::bridge::into_floats;
use super::error::TrainError;
use super::platform::{Platform, Values};
use crate::{Engine, MomentumTensor};

/// A copy of `module` that shares no state with it and has no gradients. On an autodiff backend it
/// still normalises with batch statistics.
///
/// A plain `clone` would share the running statistics; converting to the inner backend and back
/// makes new ones. Parameter identities stay, so that [`momentum_update`] finds its pairs.
pub fn detached_copy<B: AutodiffBackend, M: AutodiffModule<B>>(module: &M) -> M {
    M::from_inner(module.valid()).no_grad()
}

/// key ← m·key + (1 − m)·query for every learnable parameter, in one call to the engine.
///
/// # Errors
/// [`TrainError::Loss`] when `momentum` is not between 0 and 1; [`TrainError::Tensor`] when the
/// two are not copies of one module; what the platform reports.
pub fn momentum_update<P: Platform, M: AutodiffModule<Autodiff<P::Backend>>>(
    platform: &P,
    momentum: f32,
    query: &M,
    key: M,
) -> Result<M, TrainError> {
    let mut keys = flat_parameters(&key);
    let (mut places, mut query_values, mut key_values) = (Vec::new(), Vec::new(), Vec::new());
    for (id, (learnable, query)) in flat_parameters(query) {
        if !learnable {
            continue;
        }
        let (_, key) = keys.remove(&id).ok_or_else(|| {
            TrainError::Tensor("the key encoder lacks parameters of the query encoder".to_owned())
        })?;
        places.push((id, query.shape()));
        query_values.push(query.inner());
        key_values.push(key.inner());
    }
    let lent = platform.lend(query_values)?;
    // Copies, because the framework may share the memory of a parameter with other readers.
    let mut updated = platform.copies(key_values)?;
    let mut tensors = Vec::with_capacity(places.len());
    for (query, key) in lent.iter().zip(&mut updated) {
        tensors.push(MomentumTensor {
            query: query.vector()?,
            key: key.vector_mut()?,
            shadow: None,
        });
    }
    platform
        .engine()
        .momentum_update::<f32>(momentum, &mut tensors)?;
    drop(tensors);
    let owned = places.into_iter().zip(updated);
    let values = owned.map(|((id, shape), key)| Ok((id, platform.tensor_of(key, shape)?)));
    let values = values.collect::<Result<_, TrainError>>()?;
    Ok(key.map(&mut Replacement::<P::Backend>(values)).no_grad())
}

/// Whether each parameter is learnable, and its values. Running statistics are parameters too.
///
/// # Errors
/// [`TrainError::Tensor`] when the backend's floats are not f32.
pub(super) fn parameters<B: Backend, M: Module<B>>(
    module: &M,
) -> Result<HashMap<ParamId, (bool, Vec<f32>)>, TrainError> {
    flat_parameters(module)
        .into_iter()
        .map(|(id, (learnable, tensor))| Ok((id, (learnable, into_floats(tensor)?))))
        .collect()
}

fn flat_parameters<B: Backend, M: Module<B>>(module: &M) -> Parameters<B> {
    let mut collection = Collection(HashMap::new());
    module.visit(&mut collection);
    collection.0
}

/// Of each parameter: whether it is learnable, and its values as a vector.
type Parameters<B> = HashMap<ParamId, (bool, Tensor<B, 1>)>;

struct Collection<B: Backend>(Parameters<B>);

impl<B: Backend> ModuleVisitor<B> for Collection<B> {
    fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<B, D>>) {
        let flat = parameter.val().reshape([-1]);
        // Running statistics never require a gradient.
        self.0
            .insert(parameter.id, (parameter.is_require_grad(), flat));
    }
}

struct Replacement<B: Backend>(HashMap<ParamId, Tensor<B, 1>>);

impl<B: Backend> ModuleMapper<Autodiff<B>> for Replacement<B> {
    fn map_float<const D: usize>(
        &mut self,
        parameter: Param<Tensor<Autodiff<B>, D>>,
    ) -> Param<Tensor<Autodiff<B>, D>> {
        match self.0.remove(&parameter.id) {
            Some(values) => {
                parameter.map(|tensor| Tensor::from_inner(values.reshape(tensor.shape())))
            }
            None => parameter,
        }
    }
}

/// Whether every value of a module, running statistics included, is finite.
///
/// # Errors
/// [`TrainError::Tensor`] when the backend's floats are not f32.
pub fn is_finite<B: Backend, M: Module<B>>(module: &M) -> Result<bool, TrainError> {
    let values = parameters(module)?.into_values();
    Ok(values.flat_map(|(_, values)| values).all(f32::is_finite))
}
