//! How much memory a call takes, found by making the call on a device that only counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::pool::{Block, Pool, Source};
use super::{BoxedMatrix, Device, DeviceMatrix, Launch, Similarity, TensorMap};
use crate::contrast::{Contrast, Form, Inputs, Shape};
use crate::element::DType;
use crate::engine::Gradients;
use crate::error::Error;
use crate::statistics::{RowStatistics, Statistics};

/// A source of addresses with nothing behind them.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    next: AtomicU64,
    bytes: AtomicUsize,
}

impl Source for Counter {
    fn allocate(&self, bytes: usize) -> Result<u64, Error> {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok((self.next.fetch_add(1, Ordering::Relaxed) + 1) << 40)
    }
    fn release(&self, _: u64) {}
    fn is_exhausted(&self, _: &Error) -> bool {
        false
    }
}

/// A device on which nothing runs.
struct Plan {
    pool: Arc<Pool<Counter>>,
    multiprocessors: u32,
    cache_bytes: usize,
    warpgroups: bool,
}

impl Device for Plan {
    type Buffer = Block<Counter>;

    fn allocate(&self, bytes: usize) -> Result<Block<Counter>, Error> {
        self.pool.allocate(bytes)
    }
    fn address(buffer: &Block<Counter>) -> u64 {
        buffer.address()
    }
    fn write(&self, _: u64, _: &[u8]) -> Result<(), Error> {
        Ok(())
    }
    fn zero(&self, _: u64, _: usize) -> Result<(), Error> {
        Ok(())
    }
    fn read(&self, _: u64, bytes: &mut [u8]) -> Result<(), Error> {
        bytes.fill(0);
        Ok(())
    }
    fn launch(&self, _: &Launch<'_>) -> Result<(), Error> {
        Ok(())
    }
    fn has_warpgroups(&self) -> bool {
        self.warpgroups
    }
    fn tensor_map(&self, _: &BoxedMatrix) -> Result<TensorMap, Error> {
        Ok(bytemuck::Zeroable::zeroed())
    }
    fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }
    fn cache_bytes(&self) -> usize {
        self.cache_bytes
    }
}

/// A call whose memory is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Call {
    /// [`Engine::forward`](crate::Engine::forward).
    Forward,
    /// [`Engine::value_and_grad`](crate::Engine::value_and_grad).
    ValueAndGrad {
        /// Whether dk is wanted.
        dk: bool,
    },
    /// [`Engine::backward`](crate::Engine::backward).
    Backward {
        /// Whether dk is wanted.
        dk: bool,
    },
}

/// Bytes of device memory that `call` takes from a pool that is empty before, inputs and gradients
/// apart, on the device of `similarity` with its settings.
pub(crate) fn workspace_bytes<D: Device>(
    similarity: &Similarity<'_, D>,
    call: Call,
    contrast: &Contrast,
    shape: Shape,
    dtype: DType,
) -> Result<usize, Error> {
    let plan = Plan {
        pool: Pool::new(Counter::default()),
        multiprocessors: similarity.device.multiprocessors(),
        cache_bytes: similarity.device.cache_bytes(),
        warpgroups: similarity.device.has_warpgroups(),
    };
    // Rows without gaps, at addresses as the driver gives them.
    let matrix = |rows: usize| DeviceMatrix {
        address: 1 << 30,
        rows,
        dim: shape.dim,
        stride: shape.dim,
        dtype,
    };
    let (anchors, candidates) = (matrix(shape.anchors), matrix(shape.candidates));
    let inputs = match contrast.form {
        Form::NtXent => Inputs::Shared { z: anchors },
        Form::Moco => Inputs::Queue {
            q: anchors,
            own_key: anchors,
            queue: candidates,
        },
        Form::InfoNce(_) | Form::Clip => Inputs::Pair {
            q: anchors,
            k: candidates,
        },
    };
    let gradients = |dk: bool| Gradients {
        dq: anchors,
        dk: dk.then_some(candidates),
    };
    for (argument, rows) in [("anchors", shape.anchors), ("candidates", shape.candidates)] {
        if rows == 0 || shape.dim == 0 {
            return Err(Error::Empty {
                argument,
                rows,
                dim: shape.dim,
            });
        }
    }
    let similarity = similarity.on(&plan);
    match call {
        Call::Forward => drop(similarity.forward(contrast, &inputs)?),
        Call::ValueAndGrad { dk } => {
            drop(similarity.value_and_grad(contrast, &inputs, 1.0, &gradients(dk))?);
        }
        Call::Backward { dk } => {
            let zeros = |rows| RowStatistics {
                negatives_lse: vec![0.0; rows],
                positive: vec![0.0; rows],
            };
            let statistics = Statistics {
                rows: zeros(shape.anchors),
                columns: contrast.is_symmetric().then(|| zeros(shape.candidates)),
            };
            let gradients = gradients(dk);
            drop(similarity.backward(contrast, &inputs, &statistics, 1.0, &gradients)?);
        }
    }
    let (used, free) = plan.pool.bytes();
    Ok(used + free)
}
