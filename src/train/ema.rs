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
use super::encoder::Model;
use super::error::TrainError;
use super::platform::{Platform, Values};
use crate::{Engine, MomentumSchedule, MomentumTensor};

/// A momentum encoder with the schedule of its momentum. It has no prediction head.
#[derive(Debug)]
pub struct MomentumEncoder<B: Backend> {
    model: Model<Autodiff<B>>,
    schedule: MomentumSchedule,
}

impl<B: Backend> MomentumEncoder<B> {
    /// An exact copy of `query`.
    pub fn of(query: &Model<Autodiff<B>>, schedule: MomentumSchedule) -> Self {
        let model = detached_copy(&query.clone().without_prediction());
        Self { model, schedule }
    }

    /// The encoder in its present state.
    pub fn model(&self) -> &Model<Autodiff<B>> {
        &self.model
    }

    /// The momentum update of `step`, counted from 0, towards `query`.
    ///
    /// # Errors
    /// As [`momentum_update`].
    pub fn follow<P: Platform<Backend = B>>(
        &mut self,
        platform: &P,
        query: &Model<Autodiff<B>>,
        step: u64,
    ) -> Result<(), TrainError> {
        let query = query.clone().without_prediction();
        let momentum = self.schedule.at(step);
        self.model = momentum_update(platform, momentum, &query, self.model.clone())?;
        Ok(())
    }

    /// Takes up the state of a checkpoint, whose parameters have the identities of the query encoder's.
    pub fn restore(&mut self, model: Model<Autodiff<B>>) {
        self.model = model;
    }
}

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
    let values = owned.map(|((id, shape), key)| {
        let key = platform.tensor_of(key, shape)?;
        Ok((id, Tensor::from_inner(key)))
    });
    let values = values.collect::<Result<_, TrainError>>()?;
    Ok(with_values(key, values).no_grad())
}

/// The module with these values, each a vector, in place of the parameters of their identities.
/// Learnable parameters stay so.
pub(super) fn with_values<B: Backend, M: Module<B>>(
    module: M,
    values: HashMap<ParamId, Tensor<B, 1>>,
) -> M {
    module.map(&mut Replacement(values))
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

/// Whether each parameter is learnable, and its values as a vector.
pub(super) fn flat_parameters<B: Backend, M: Module<B>>(module: &M) -> Parameters<B> {
    let mut collection = Collection(HashMap::new());
    module.visit(&mut collection);
    collection.0
}

/// Of each parameter: whether it is learnable, and its values as a vector.
pub(super) type Parameters<B> = HashMap<ParamId, (bool, Tensor<B, 1>)>;

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

impl<B: Backend> ModuleMapper<B> for Replacement<B> {
    fn map_float<const D: usize>(&mut self, parameter: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        match self.0.remove(&parameter.id) {
            Some(values) => {
                let learnable = parameter.is_require_grad();
                parameter.map(|tensor| {
                    let values = values.reshape(tensor.shape());
                    values.set_require_grad(learnable)
                })
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
