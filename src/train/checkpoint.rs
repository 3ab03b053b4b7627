//! Checkpoints: the model and MoCo's state in one safetensors file, without the optimiser's state.
//!
//! Tensors are named `model.…` (encoder and projection head). MoCo adds `key.…` (the momentum
//! encoder) and `queue` (its keys). Everything else is JSON in the file's metadata. A file appears
//! whole or not at all, because it is written under another name and then renamed. Values are
//! stored and restored bit by bit.

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};

use burn::backend::Autodiff;
use burn::module::{AutodiffModule, Module, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use burn_store::{ModuleSnapshot, SafetensorsStore};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

use super::bridge::into_floats;
use super::encoder::{Model, ModelConfig};
pub use super::error::CheckpointError;
use super::methods::MocoState;
use crate::{KeyQueue, Matrix};

/// The metadata entry that holds [`Header`] as JSON.
const HEADER: &str = "infonce";

/// The contents of a checkpoint besides its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Header {
    step: u64,
    model: ModelConfig,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<QueueHeader>,
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
    key: Option<Model<B>>,
    /// The keys that the queue holds, fill × D; absent while it is empty.
    queue: Option<Param<Tensor<B, 2>>>,
}

/// What a checkpoint restores.
#[derive(Debug)]
pub struct Checkpoint<B: Backend> {
    /// Optimiser steps taken.
    pub step: u64,
    /// The shape of the model.
    pub config: ModelConfig,
    /// Encoder and projection head.
    pub model: Model<Autodiff<B>>,
    /// Key encoder and queue, of MoCo.
    pub moco: Option<MocoState<B>>,
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

/// Writes a checkpoint to `path` in place of one that may be there.
///
/// # Errors
/// [`CheckpointError`]; what was at `path` is then still there.
pub fn save<B: Backend>(
    path: &Path,
    step: u64,
    config: &ModelConfig,
    model: &Model<Autodiff<B>>,
    moco: Option<&MocoState<B>>,
) -> Result<(), CheckpointError> {
    let queue = moco.map(|state| &state.queue);
    let header = Header {
        step,
        model: config.clone(),
        queue: queue.map(|queue| QueueHeader {
            capacity: queue.capacity(),
            fill: queue.fill(),
            cursor: queue.cursor(),
        }),
    };
    // `valid` also settles running statistics, which otherwise are one update behind.
    let tensors = Tensors::<B> {
        model: model.valid(),
        key: moco.map(|state| state.key.valid()),
        queue: queue.and_then(KeyQueue::filled).map(|keys| {
            let data = TensorData::new(keys.contiguous().into_owned(), [keys.rows(), keys.dim()]);
            Param::from_tensor(Tensor::from_data(data, &Default::default()))
        }),
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
    let device = Default::default();
    let header = header(&bytes)?;
    let dim = header.model.dim;
    let fill = header.queue.map_or(0, |queue| queue.fill);
    let new_model = || header.model.init::<B>(0, &device);
    let mut tensors = Tensors {
        model: new_model(),
        key: header.queue.map(|_| new_model()),
        queue: (fill > 0).then(|| Param::from_tensor(Tensor::zeros([fill, dim], &device))),
    };
    tensors.load_from(&mut SafetensorsStore::from_bytes(Some(bytes)))?;
    let moco = match (header.queue, tensors.key) {
        (Some(queue), Some(key)) => {
            let keys = tensors.queue.map(|keys| into_floats(keys.into_value()));
            let keys = keys.transpose()?.unwrap_or_default();
            Some(MocoState {
                key: Model::from_inner(key).no_grad(),
                queue: KeyQueue::restore(queue.capacity, dim, queue.fill, queue.cursor, &keys)?,
            })
        }
        _ => None,
    };
    Ok(Checkpoint {
        step: header.step,
        model: Model::from_inner(tensors.model),
        config: header.model,
        moco,
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
    use crate::train::ema;
    use crate::{CpuEngine, Engine, Rows};

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

    #[test]
    fn what_is_saved_comes_back_bit_by_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        let model = [0, 1, 2].map(model);
        let state = MocoState {
            key: model[2].clone(),
            queue: queue(),
        };
        save(&path, 3, &ModelConfig::small(), &model[0], None).unwrap();
        save(&path, 41, &ModelConfig::small(), &model[1], Some(&state)).unwrap();
        let found = load::<Flex>(&path).unwrap();
        assert_eq!((found.step, &found.config), (41, &ModelConfig::small()));
        assert_eq!(bits(&found.model), bits(&model[1]));
        let moco = found.moco.unwrap();
        assert_eq!(bits(&moco.key), bits(&state.key));
        assert_eq!(moco.queue, state.queue);
        let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(names.len(), 1);
    }

    #[test]
    fn a_file_cut_short_or_of_another_kind_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        save(&path, 3, &ModelConfig::small(), &model(0), None).unwrap();
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
