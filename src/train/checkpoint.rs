//! Checkpoints: model, optimiser and what a method keeps from step to step, in one safetensors file.
//!
//! Tensors are named `model.…` (encoder and heads), `velocity.…` (the optimiser's, in the model's form),
//! `key.…` (the momentum encoder), `queue` (its keys), `bank`, and `prototypes.N.…` for each granularity.
//! Everything else is JSON in the file's metadata. A file appears whole or not at all, because it is
//! written under another name and then renamed. Values are stored and restored bit by bit.

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};

use burn::backend::Autodiff;
use burn::module::{AutodiffModule, Module, Param, ParamId};
use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};
use burn_store::{ModuleSnapshot, SafetensorsStore};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

use super::bridge::into_floats;
use super::ema;
use super::encoder::{Model, ModelConfig};
pub use super::error::CheckpointError;
use super::methods::State;
use crate::{KeyQueue, Matrix, MemoryBank, Prototypes};

/// The metadata entry that holds [`Header`] as JSON.
const HEADER: &str = "infonce";

/// The contents of a checkpoint besides its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Header {
    step: u64,
    settings: String,
    model: ModelConfig,
    /// Whether the optimiser has velocities.
    velocity: bool,
    /// Whether there is a momentum encoder.
    key: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<QueueHeader>,
    /// Rows of the bank.
    #[serde(skip_serializing_if = "Option::is_none")]
    bank: Option<usize>,
    /// Clusters and rows of each granularity.
    prototypes: Vec<[usize; 2]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct QueueHeader {
    capacity: usize,
    fill: usize,
    cursor: usize,
}

/// The tensors of a checkpoint under their names.
#[derive(Module, Debug)]
struct Tensors<B: Backend> {
    model: Model<B>,
    velocity: Option<Model<B>>,
    key: Option<Model<B>>,
    /// The keys that the queue holds, fill × D; absent while it is empty.
    queue: Option<Param<Tensor<B, 2>>>,
    bank: Option<Param<Tensor<B, 2>>>,
    prototypes: Vec<PrototypeTensors<B>>,
}

#[derive(Module, Debug)]
struct PrototypeTensors<B: Backend> {
    /// K × D.
    centroids: Param<Tensor<B, 2>>,
    /// K.
    concentrations: Param<Tensor<B, 1>>,
    /// The cluster of each row, N.
    assignments: Param<Tensor<B, 1, Int>>,
}

/// What a checkpoint holds.
#[derive(Debug)]
pub struct Checkpoint<B: Backend> {
    /// Optimiser steps taken.
    pub step: u64,
    /// The settings of the run, as TOML.
    pub settings: String,
    /// The shape of the model.
    pub config: ModelConfig,
    /// Encoder, projection head and prediction head.
    pub model: Model<Autodiff<B>>,
    /// The optimiser's velocities, in place of the parameters of `model` and with their identities;
    /// `None` before the first step.
    pub velocity: Option<Model<B>>,
    /// What the method keeps from step to step. Parameters of the momentum encoder have the identities
    /// of those of `model`.
    pub state: State<B>,
}

fn io(path: &Path, source: std::io::Error) -> CheckpointError {
    let path = path.to_path_buf();
    CheckpointError::Io { path, source }
}

fn content(path: &Path, reason: impl ToString) -> CheckpointError {
    CheckpointError::Content {
        path: path.to_path_buf(),
        reason: reason.to_string(),
    }
}

fn matrix<B: Backend>(values: &[f32], shape: [usize; 2]) -> Param<Tensor<B, 2>> {
    let data = TensorData::new(values.to_vec(), shape);
    Param::from_tensor(Tensor::from_data(data, &Default::default()))
}

impl<B: Backend> PrototypeTensors<B> {
    fn of(prototypes: &Prototypes) -> Self {
        let centroids = prototypes.centroids();
        let shape = [centroids.rows(), centroids.dim()];
        let concentrations = TensorData::from(prototypes.concentrations());
        let assignments = prototypes.assignments().iter().map(|&c| i64::from(c));
        let assignments = TensorData::from(&*assignments.collect::<Vec<_>>());
        let device = Default::default();
        Self {
            centroids: matrix(&centroids.contiguous(), shape),
            concentrations: Param::from_tensor(Tensor::from_data(concentrations, &device)),
            assignments: Param::initialized(
                ParamId::new(),
                Tensor::from_data(assignments, &device),
            ),
        }
    }

    fn zeros([clusters, rows]: [usize; 2], dim: usize) -> Self {
        let device = Default::default();
        Self {
            centroids: matrix(&vec![0.0; clusters * dim], [clusters, dim]),
            concentrations: Param::from_tensor(Tensor::zeros([clusters], &device)),
            assignments: Param::initialized(ParamId::new(), Tensor::zeros([rows], &device)),
        }
    }

    fn restored(self, dim: usize) -> Result<Prototypes, Box<dyn Error>> {
        let centroids = into_floats(self.centroids.into_value())?;
        let concentrations = into_floats(self.concentrations.into_value())?;
        let assignments = self.assignments.into_value().into_data();
        let assignments: Vec<u32> = assignments.iter::<i64>().map(|c| c as u32).collect();
        Ok(Prototypes::restore(
            dim,
            &centroids,
            &assignments,
            &concentrations,
        )?)
    }
}

/// Writes a checkpoint to `path` in place of one that may be there.
///
/// # Errors
/// [`CheckpointError`]; what was at `path` is then still there.
pub fn save<B: Backend>(path: &Path, checkpoint: &Checkpoint<B>) -> Result<(), CheckpointError> {
    let State {
        key,
        queue,
        bank,
        prototypes,
    } = &checkpoint.state;
    let header = Header {
        step: checkpoint.step,
        settings: checkpoint.settings.clone(),
        model: checkpoint.config.clone(),
        velocity: checkpoint.velocity.is_some(),
        key: key.is_some(),
        queue: queue.as_ref().map(|queue| QueueHeader {
            capacity: queue.capacity(),
            fill: queue.fill(),
            cursor: queue.cursor(),
        }),
        bank: bank.as_ref().map(|bank| bank.as_rows().rows()),
        prototypes: prototypes
            .iter()
            .map(|of| [of.centroids().rows(), of.assignments().len()])
            .collect(),
    };
    // `valid` also settles running statistics, which otherwise are one update behind.
    let tensors = Tensors::<B> {
        model: checkpoint.model.valid(),
        velocity: checkpoint.velocity.clone(),
        key: key.as_ref().map(AutodiffModule::valid),
        queue: queue
            .as_ref()
            .and_then(KeyQueue::filled)
            .map(|keys| matrix(&keys.contiguous(), [keys.rows(), keys.dim()])),
        bank: bank.as_ref().map(|bank| {
            let rows = bank.as_rows();
            matrix(bank.elements(), [rows.rows(), rows.dim()])
        }),
        prototypes: prototypes.iter().map(PrototypeTensors::of).collect(),
    };
    let header = serde_json::to_string(&header).map_err(|error| content(path, error))?;
    let mut store = SafetensorsStore::from_bytes(None).metadata(HEADER, header);
    let saved = tensors.save_into(&mut store);
    let bytes = saved.and_then(|()| store.get_bytes());
    let bytes = bytes.map_err(|error| content(path, error))?;
    write_whole(path, &bytes).map_err(|error| io(path, error))
}

/// Writes a whole file or nothing: under another name beside `path`, which is then renamed.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let written = std::fs::File::create(&partial).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    });
    if written.is_err() {
        // The first error is reported, not one of removing the rest.
        let _ = std::fs::remove_file(&partial);
    }
    written
}

/// Reads what [`save`] wrote, into new modules.
///
/// # Errors
/// [`CheckpointError`].
pub fn load<B: Backend>(path: &Path) -> Result<Checkpoint<B>, CheckpointError> {
    let bytes = std::fs::read(path).map_err(|error| io(path, error))?;
    restore(bytes).map_err(|error| content(path, error))
}

fn restore<B: Backend>(bytes: Vec<u8>) -> Result<Checkpoint<B>, Box<dyn Error>> {
    let header = header(&bytes)?;
    let dim = header.model.dim;
    let learnable = header.model.init::<Autodiff<B>>(0, &Default::default());
    // With the identities of the model's parameters, and running statistics of its own.
    let copy = || learnable.valid();
    let zeros = |rows: usize| matrix(&vec![0.0; rows * dim], [rows, dim]);
    let fill = header.queue.map_or(0, |queue| queue.fill);
    let mut tensors = Tensors {
        velocity: header.velocity.then(copy),
        key: header.key.then(|| copy().without_prediction()),
        queue: (fill > 0).then(|| zeros(fill)),
        bank: header.bank.map(zeros),
        prototypes: header
            .prototypes
            .iter()
            .map(|&sizes| PrototypeTensors::zeros(sizes, dim))
            .collect(),
        model: copy(),
    };
    tensors.load_from(&mut SafetensorsStore::from_bytes(Some(bytes)))?;
    // What is loaded is not learnable, so its values go into a model that is.
    let loaded = ema::flat_parameters(&tensors.model).into_iter();
    let loaded = loaded.map(|(id, (_, values))| (id, Tensor::from_inner(values)));
    let model = ema::with_values(learnable, loaded.collect());
    let floats = |matrix: Option<Param<Tensor<B, 2>>>| {
        let floats = matrix.map(|matrix| into_floats(matrix.into_value()));
        floats.transpose().map(Option::unwrap_or_default)
    };
    let keys = floats(tensors.queue)?;
    let queue = header.queue.map(|queue| {
        let QueueHeader {
            capacity,
            fill,
            cursor,
        } = queue;
        KeyQueue::restore(capacity, dim, fill, cursor, &keys)
    });
    let elements = floats(tensors.bank)?;
    let bank = header
        .bank
        .map(|rows| MemoryBank::restore(rows, dim, &elements));
    let prototypes = tensors.prototypes.into_iter();
    Ok(Checkpoint {
        step: header.step,
        settings: header.settings,
        model,
        config: header.model,
        velocity: tensors.velocity,
        state: State {
            key: tensors.key.map(|key| Model::from_inner(key).no_grad()),
            queue: queue.transpose()?,
            bank: bank.transpose()?,
            prototypes: prototypes
                .map(|of| of.restored(dim))
                .collect::<Result<_, _>>()?,
        },
    })
}

fn header(bytes: &[u8]) -> Result<Header, Box<dyn Error>> {
    let (_, metadata) = SafeTensors::read_metadata(bytes)?;
    let entries = metadata.metadata().as_ref();
    let entry = entries.and_then(|entries| entries.get(HEADER));
    let entry = entry.ok_or_else(|| format!("it has no metadata entry `{HEADER}`"))?;
    Ok(serde_json::from_str(entry)?)
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;
    use burn::tensor::Distribution;

    use super::*;
    use crate::{CpuEngine, Engine, KMeans, Rows};

    /// A model whose running statistics have moved.
    fn model(seed: u64) -> Model<Autodiff<Flex>> {
        let (config, device) = (ModelConfig::small(), Default::default());
        let model = config.init::<Autodiff<Flex>>(seed, &device);
        let grid = config.grid();
        let shape = [3 * grid.patches(), grid.patch_len()];
        model.embed(Tensor::random(shape, Distribution::Default, &device), 3);
        model
    }

    /// A queue that has wrapped around.
    fn queue() -> KeyQueue<f32> {
        let mut queue = KeyQueue::new(7, 5).unwrap();
        for batch in 0..3 {
            let keys: Vec<f32> = (0..20).map(|i| (i * 7 + batch) as f32 / 9.0).collect();
            let keys = Rows::new(&keys, 4, 5).unwrap();
            CpuEngine::new().enqueue(&mut queue, keys).unwrap();
        }
        queue
    }

    fn bits(model: &Model<Autodiff<Flex>>) -> Vec<Vec<u32>> {
        // Sorted, because a restored module has other identities.
        let values = ema::parameters(&model.valid()).unwrap().into_values();
        let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect();
        let mut values: Vec<_> = values.map(|(_, values)| bits(values)).collect();
        values.sort();
        values
    }

    /// A checkpoint of `model` after `step` steps, with nothing else.
    fn bare(step: u64, model: Model<Autodiff<Flex>>) -> Checkpoint<Flex> {
        Checkpoint {
            step,
            settings: format!("seed = {step}"),
            config: ModelConfig::small(),
            model,
            velocity: None,
            state: State::default(),
        }
    }

    #[test]
    fn what_is_saved_comes_back_bit_by_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        let models = [0, 1, 2, 3].map(model);
        save(&path, &bare(3, models[0].clone())).unwrap();
        let rows = MemoryBank::<f32>::random(20, 5, 3).unwrap();
        let prototypes = KMeans::default();
        let prototypes = prototypes.cluster(&CpuEngine::new(), rows.as_rows(), &[3, 6]);
        let saved = Checkpoint {
            velocity: Some(models[3].valid()),
            state: State {
                key: Some(models[2].clone()),
                queue: Some(queue()),
                bank: Some(MemoryBank::random(9, 5, 1).unwrap()),
                prototypes: prototypes.unwrap(),
            },
            ..bare(41, models[1].clone())
        };
        save(&path, &saved).unwrap();
        let found = load::<Flex>(&path).unwrap();
        assert_eq!((found.step, &*found.settings), (41, "seed = 41"));
        assert_eq!(found.config, saved.config);
        assert_eq!(bits(&found.model), bits(&saved.model));
        let velocity = Model::from_inner(found.velocity.unwrap());
        assert_eq!(bits(&velocity), bits(&models[3]));
        assert_eq!(bits(&found.state.key.unwrap()), bits(&models[2]));
        assert_eq!(found.state.queue, saved.state.queue);
        assert_eq!(found.state.bank, saved.state.bank);
        assert_eq!(found.state.prototypes, saved.state.prototypes);
        let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(names.len(), 1);
    }

    #[test]
    fn a_file_cut_short_or_of_another_kind_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        save(&path, &bare(3, model(0))).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for length in [0, 7, 100, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..length]).unwrap();
            let error = load::<Flex>(&path).unwrap_err();
            assert!(matches!(error, CheckpointError::Content { .. }), "{error}");
        }
        std::fs::remove_file(&path).unwrap();
        let error = load::<Flex>(&path).unwrap_err();
        assert!(matches!(error, CheckpointError::Io { .. }), "{error}");
    }
}
