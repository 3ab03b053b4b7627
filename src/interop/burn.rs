//! Tensors of burn's CUDA backend as vectors and matrices of the CUDA engine, without a copy.
//!
//! Both allocate in the device's primary context, so an address of one is valid in the other. burn launches on a stream
//! that it does not show, the engine on the stream of its handle. Nothing orders the two streams, so the host waits:
//!
//! | before | until |
//! |---|---|
//! | the engine is given an address | all of burn's work of this thread has ended |
//! | burn gets a tensor, or may use its memory again | all work of the engine has ended |
//!
//! The first wait is needed for new memory too: burn's pool hands out memory that running work still reads.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use burn::tensor::backend::{Backend, BackendTypes};
use burn::tensor::ops::{FloatTensor, FloatTensorOps};
use burn::tensor::{DType, FloatDType, Shape};

use crate::Error;
use crate::contrast::same_length;
use crate::cuda::{CudaDevice, CudaRows, CudaRowsMut, CudaVector, CudaVectorMut};

/// burn's CUDA backend. It is not the fusing one, whose tensors have no address until they are read.
pub type BurnCuda = burn::backend::Cuda<f32, i32>;

/// The reason why a tensor cannot be shared.
#[derive(Debug, thiserror::Error)]
pub enum SeamError {
    /// burn failed, perhaps in earlier work.
    #[error("{0}")]
    Burn(String),
    /// A tensor of another element type.
    #[error("{0:?} where F32 was expected")]
    Type(DType),
    /// The engine's side failed.
    #[error(transparent)]
    Engine(#[from] Error),
}

/// Shares tensors between burn and the engine on one device, by address.
#[derive(Debug, Clone)]
pub struct Seam {
    device: CudaDevice,
    /// Nanoseconds spent waiting for burn and for the engine.
    waits: Arc<[AtomicU64; 2]>,
}

impl Seam {
    /// For engines on `device`.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when burn could not compile its kernels here.
    pub fn new(device: CudaDevice) -> Result<Self, Error> {
        find_compiler()?;
        Ok(Self {
            device,
            waits: Arc::default(),
        })
    }

    /// Lends tensors to the engine to read, as vectors.
    pub fn lend(
        &self,
        tensors: impl IntoIterator<Item = FloatTensor<BurnCuda>>,
    ) -> Result<Vec<Lent>, SeamError> {
        let held = self.hold(tensors.into_iter().map(flat))?;
        Ok(held.into_iter().map(Lent).collect())
    }

    /// Copies of tensors, for the engine to write.
    pub fn copies(
        &self,
        tensors: impl IntoIterator<Item = FloatTensor<BurnCuda>>,
    ) -> Result<Vec<Owned>, SeamError> {
        self.hold(tensors.into_iter().map(|tensor| flat(tensor).copy()))
    }

    /// New tensors of `lengths` elements, for the engine to write.
    pub fn unwritten(
        &self,
        lengths: impl IntoIterator<Item = usize>,
    ) -> Result<Vec<Owned>, SeamError> {
        let device = self.burn_device();
        let empty = lengths
            .into_iter()
            .map(|length| BurnCuda::float_empty(Shape::new([length]), &device, FloatDType::F32));
        self.hold(empty)
    }

    /// The tensor that the engine has written, as a vector.
    pub fn tensor_of(&self, owned: Owned) -> Result<FloatTensor<BurnCuda>, SeamError> {
        self.wait_for_engine()?;
        Ok(owned.tensor.clone())
    }

    /// The time spent waiting for burn, and for the engine.
    pub fn waited(&self) -> [Duration; 2] {
        let duration = |wait: &AtomicU64| Duration::from_nanos(wait.load(Ordering::Relaxed));
        self.waits.each_ref().map(duration)
    }

    fn burn_device(&self) -> <BurnCuda as BackendTypes>::Device {
        burn::backend::cuda::CudaDevice::new(self.device.info().ordinal)
    }

    /// Holds contiguous vectors with their addresses, and waits for burn.
    fn hold(
        &self,
        tensors: impl Iterator<Item = FloatTensor<BurnCuda>>,
    ) -> Result<Vec<Owned>, SeamError> {
        let mut held = Vec::new();
        for tensor in tensors {
            if tensor.dtype != DType::F32 {
                return Err(SeamError::Type(tensor.dtype));
            }
            let memory = tensor.client.get_resource(tensor.handle.clone());
            let memory = memory.map_err(|error| SeamError::Burn(error.to_string()))?;
            held.push(Owned {
                address: memory.resource().ptr,
                length: tensor.meta.shape().num_elements(),
                tensor,
                seam: self.clone(),
            });
        }
        let ended = timed(&self.waits[0], || BurnCuda::sync(&self.burn_device()));
        ended.map_err(|error| SeamError::Burn(error.to_string()))?;
        Ok(held)
    }

    fn wait_for_engine(&self) -> Result<(), Error> {
        timed(&self.waits[1], || self.device.synchronize())
    }
}

fn timed<R>(nanoseconds: &AtomicU64, wait: impl FnOnce() -> R) -> R {
    let started = Instant::now();
    let result = wait();
    let passed = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
    nanoseconds.fetch_add(passed, Ordering::Relaxed);
    result
}

/// The tensor as a vector without gaps. burn leaves gaps between the rows of its matrices.
fn flat(tensor: FloatTensor<BurnCuda>) -> FloatTensor<BurnCuda> {
    let length = tensor.meta.shape().num_elements();
    let vector = BurnCuda::float_reshape(tensor, Shape::new([length]));
    if vector.is_contiguous() {
        return vector;
    }
    vector.copy()
}

/// A tensor's memory, for the engine to write; burn does not know of the tensor yet.
///
/// As long as this lives, its tensor is one more owner of the memory: burn neither releases it nor writes to it in
/// place. Dropping it waits for the engine's work.
#[derive(Debug)]
pub struct Owned {
    tensor: FloatTensor<BurnCuda>,
    address: u64,
    length: usize,
    seam: Seam,
}

/// The memory of a tensor that burn knows too, for the engine to read.
#[derive(Debug)]
pub struct Lent(Owned);

impl Deref for Lent {
    type Target = Owned;

    fn deref(&self) -> &Owned {
        &self.0
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // After a failure nothing runs on the device any more, and every later call returns it.
        let _ = self.seam.wait_for_engine();
    }
}

impl Owned {
    /// All elements as a matrix of `rows` × `dim`.
    pub fn matrix(&self, rows: usize, dim: usize) -> Result<CudaRows<'_, f32>, Error> {
        self.check(rows, dim)?;
        // SAFETY: `rows` × `dim` contiguous f32 lie at `address` in the primary context of the device. `self`
        // keeps them allocated until the stream is done, and outlives the view. burn's work on them had ended
        // when `hold` returned; burn starts none that writes, because the memory has another owner.
        unsafe { CudaRows::from_raw(self.address, rows, dim, dim, &self.seam.device) }
    }

    /// All elements as a vector.
    pub fn vector(&self) -> Result<CudaVector<'_, f32>, Error> {
        // SAFETY: as for `matrix`.
        unsafe { CudaVector::from_raw(self.address, self.length, &self.seam.device) }
    }

    /// All elements as a matrix of `rows` × `dim` to write to.
    pub fn matrix_mut(&mut self, rows: usize, dim: usize) -> Result<CudaRowsMut<'_, f32>, Error> {
        self.check(rows, dim)?;
        // SAFETY: as for `matrix`; and nothing else reads or writes. [`Lent`] gives no `&mut`, so this memory is
        // new and burn does not know of it; the borrow excludes other views.
        unsafe { CudaRowsMut::from_raw(self.address, rows, dim, dim, &self.seam.device) }
    }

    /// All elements as a vector to write to.
    pub fn vector_mut(&mut self) -> Result<CudaVectorMut<'_, f32>, Error> {
        // SAFETY: as for `matrix_mut`.
        unsafe { CudaVectorMut::from_raw(self.address, self.length, &self.seam.device) }
    }

    fn check(&self, rows: usize, dim: usize) -> Result<(), Error> {
        same_length("tensor", self.length, rows.saturating_mul(dim))
    }
}

/// Looks for NVRTC and a toolkit's headers where burn looks. burn compiles its kernels when it first runs them, and
/// panics where either is missing.
fn find_compiler() -> Result<(), Error> {
    let unavailable = |reason: &str| {
        let compiled = "the encoder's kernels are compiled when they first run, and";
        Err(Error::Unavailable {
            engine: "cuda",
            reason: format!("{compiled} {reason}"),
        })
    };
    // SAFETY: loading NVRTC runs its initialisers, which are meant to be run by any process.
    if !unsafe { cudarc::nvrtc::sys::is_culib_present() } {
        return unavailable("there is no NVRTC (libnvrtc) here; it comes with a CUDA toolkit");
    }
    let toolkit = match std::env::var_os("CUDA_PATH") {
        Some(path) => Some(PathBuf::from(path)),
        None => [
            ("/usr/local/cuda", ""),
            ("/opt/cuda", ""),
            ("/usr", "bin/nvcc"),
        ]
        .into_iter()
        .find(|(root, mark)| Path::new(root).join(mark).exists())
        .map(|(root, _)| root.into()),
    };
    if toolkit.is_some_and(|toolkit| toolkit.join("include/cuda_runtime.h").is_file()) {
        return Ok(());
    }
    unavailable(
        "the headers of a CUDA toolkit are neither in CUDA_PATH nor in /usr/local/cuda, /opt/cuda \
         or /usr",
    )
}
