//! Checkpoints: everything that training has learned, in one safetensors file.
//!
//! Tensors are named `model.…` (encoder and projection head), and for MoCo `key.…` (the momentum
//! encoder) and `queue` (the keys it holds). What is not a tensor stands in the file's metadata.
//! A file appears whole or not at all: it is written beside its place and renamed. Values are
//! stored and restored bit by bit.

use std::collections::HashMap;
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
use super::methods::MocoState;
use crate::KeyQueue;

/// The metadata entry that holds [`Header`] as JSON.
const HEADER: &str = "infonce";

/// Why a checkpoint could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The system refused.
    #[error("checkpoint {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not one of these checkpoints, or a part is missing or has another shape.
    #[error("checkpoint {} is not usable: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// What a checkpoint says besides its tensors.
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

/// Writes a checkpoint to `path`, over one that may be there.
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
    let device = Default::default();
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
            let shape = [keys.as_slice().len() / config.dim, config.dim];
            let data = TensorData::new(keys.as_slice().to_vec(), shape);
            Param::from_tensor(Tensor::from_data(data, &device))
        }),
    };
    let content = |reason: String| CheckpointError::Content {
        path: path.to_path_buf(),
        reason,
    };
    let header = serde_json::to_string(&header).map_err(|error| content(error.to_string()))?;
    let mut store = SafetensorsStore::from_bytes(None).metadata(HEADER, header);
    tensors
        .save_into(&mut store)
        .map_err(|error| content(error.to_string()))?;
    let bytes = store
        .get_bytes()
        .map_err(|error| content(error.to_string()))?;
    write_whole(path, &bytes).map_err(|source| CheckpointError::Io {
        path: path.to_path_buf(),
        source,
    })
}

/// Writes beside `path`, then renames.
fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let written = std::fs::File::create(&partial).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    });
    if written.is_err() {
        // Whatever is left of it is of no use; the first error is the one to report.
        let _ = std::fs::remove_file(&partial);
    }
    written
}

/// Reads what [`save`] wrote, into new modules.
///
/// # Errors
/// [`CheckpointError`].
pub fn load<B: Backend>(path: &Path) -> Result<Checkpoint<B>, CheckpointError> {
    let bytes = std::fs::read(path).map_err(|source| CheckpointError::Io {
        path: path.to_path_buf(),
        source,
    })?;
    restore(bytes).map_err(|reason| CheckpointError::Content {
        path: path.to_path_buf(),
        reason,
    })
}

fn restore<B: Backend>(bytes: Vec<u8>) -> Result<Checkpoint<B>, String> {
    let device = Default::default();
    let header = header(&bytes)?;
    let fill = header.queue.map_or(0, |queue| queue.fill);
    let new_model = || header.model.init::<B>(0, &device);
    let mut tensors = Tensors {
        model: new_model(),
        key: header.queue.map(|_| new_model()),
        queue: (fill > 0)
            .then(|| Param::from_tensor(Tensor::zeros([fill, header.model.dim], &device))),
    };
    let mut store = SafetensorsStore::from_bytes(Some(bytes));
    tensors
        .load_from(&mut store)
        .map_err(|error| error.to_string())?;
    let moco = match (header.queue, tensors.key) {
        (Some(queue), Some(key)) => {
            let keys = match tensors.queue {
                Some(keys) => into_floats(keys.into_value()).map_err(|error| error.to_string())?,
                None => Vec::new(),
            };
            let dim = header.model.dim;
            Some(MocoState {
                key: Model::from_inner(key).no_grad(),
                queue: KeyQueue::restore(queue.capacity, dim, queue.fill, queue.cursor, &keys)
                    .map_err(|error| error.to_string())?,
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

fn header(bytes: &[u8]) -> Result<Header, String> {
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
    let entry = metadata
        .metadata()
        .as_ref()
        .and_then(|entries: &HashMap<String, String>| entries.get(HEADER))
        .ok_or_else(|| format!("it has no metadata entry `{HEADER}`"))?;
    serde_json::from_str(entry).map_err(|error| error.to_string())
}
