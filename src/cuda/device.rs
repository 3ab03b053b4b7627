//! [`CudaDevice`]: a device with one stream and a memory pool, which an engine computes on.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{CudaContext, result};

use super::driver::{RelaxedCapture, check};
use super::event::{CudaEvent, require_time};
use super::module::Modules;
use super::probe::{CudaDeviceInfo, probe, unavailable};
use super::region::Home;
use super::staging::Staging;
use super::stream::CudaStream;
use super::trace::CudaTrace;
use crate::error::{CudaError, Error};
use crate::launch::pool::{Block, Pool, Source};

/// A handle of a CUDA device: the device, one stream on which all the handle's work runs in order, and a memory pool.
/// Clones share all three.
#[derive(Debug, Clone)]
pub struct CudaDevice {
    // Dropped in this order: the staging waits for the stream, whose work uses the rest.
    pub(super) staging: Arc<Staging>,
    pub(super) pool: Arc<Pool<CudaStream>>,
    stream: CudaStream,
    pub(super) trace: Option<CudaTrace>,
    /// Whether launches overlap ([`with_overlapping_launches`](Self::with_overlapping_launches)).
    pub(super) overlaps: bool,
    pub(super) shared: Arc<Shared>,
}

/// The state that handles with different streams of one device share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) modules: Modules,
    info: CudaDeviceInfo,
    context: Arc<CudaContext>,
}

/// A block of a handle's pool.
pub(crate) type DeviceBlock = Block<CudaStream>;

impl CudaDevice {
    /// Device `ordinal` with a new stream, in the device's primary context, which PyTorch, candle, cudarc and the CUDA
    /// runtime use too.
    ///
    /// # Errors
    /// [`Error::Unavailable`] without a driver, without such a device, or when its compute
    /// capability is below 8.0; [`CudaError::Driver`] when the driver fails.
    pub fn new(ordinal: usize) -> Result<Self, Error> {
        let shared = Shared::new(ordinal)?;
        let stream = CudaStream::new(&shared.context)?;
        Ok(Self::on_stream(shared, stream))
    }

    /// Device `ordinal` with a stream (`CUstream`, `cudaStream_t`) of another library, which orders that library's work
    /// and this crate's. Null is the default stream.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    ///
    /// # Safety
    /// `stream` is a stream of the device's primary context and lives as long as the handle, its clones, and the
    /// buffers, events and graphs that were made with it. A graph that is recorded by other means than
    /// [`record`](Self::record) uses memory that later calls use too: it runs only while the handle lives, no buffer is
    /// made after it has been recorded, and [`trim`](Self::trim) is not called.
    pub unsafe fn with_raw_stream(ordinal: usize, stream: *mut c_void) -> Result<Self, Error> {
        let shared = Shared::new(ordinal)?;
        // SAFETY: the caller's promise.
        let stream = unsafe { CudaStream::borrow(&shared.context, stream) };
        Ok(Self::on_stream(shared, stream))
    }

    /// A handle of the same device with a new stream and a pool of its own.
    ///
    /// # Errors
    /// [`CudaError::Driver`] when the driver fails.
    pub fn with_new_stream(&self) -> Result<Self, Error> {
        let stream = CudaStream::new(&self.shared.context)?;
        Ok(Self {
            trace: self.trace.clone(),
            overlaps: self.overlaps,
            ..Self::on_stream(Arc::clone(&self.shared), stream)
        })
    }

    fn on_stream(shared: Arc<Shared>, stream: CudaStream) -> Self {
        Self {
            staging: Arc::new(Staging::new(stream.clone())),
            pool: Pool::new(stream.clone()),
            stream,
            trace: None,
            overlaps: shared.info.can_overlap(),
            shared,
        }
    }

    /// Whether a kernel's blocks may start before the preceding launch has ended (programmatic dependent launch). They
    /// wait for its end before they access global memory, so results keep their bits. By default launches overlap where
    /// card and driver allow it (compute capability 9.0, CUDA 12.4).
    #[must_use]
    pub fn with_overlapping_launches(mut self, overlapping: bool) -> Self {
        self.overlaps = overlapping && self.info().can_overlap();
        self
    }

    /// The same handle, which notes its launches in `trace`, as do its clones and the handles of
    /// [`with_new_stream`](Self::with_new_stream).
    #[must_use]
    pub fn traced(&self, trace: &CudaTrace) -> Self {
        let trace = Some(trace.clone());
        Self {
            trace,
            ..self.clone()
        }
    }

    /// An event on the handle's stream, to measure device time.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the driver is older than CUDA 12.8; [`CudaError::Driver`] when it fails.
    pub fn event(&self) -> Result<CudaEvent, Error> {
        require_time()?;
        CudaEvent::new(&self.stream)
    }

    /// The properties that the driver reports.
    pub fn info(&self) -> &CudaDeviceInfo {
        &self.shared.info
    }

    /// The stream that orders this handle's work.
    pub fn stream(&self) -> &CudaStream {
        &self.stream
    }

    /// Waits until all work of this handle has ended.
    ///
    /// # Errors
    /// [`CudaError::Driver`] when a kernel or copy has failed.
    pub fn synchronize(&self) -> Result<(), Error> {
        self.stream.synchronize()
    }

    /// Bytes of the pool that are in use by buffers, graphs and running calls, and bytes that are free.
    pub fn memory_bytes(&self) -> (usize, usize) {
        self.pool.bytes()
    }

    /// Waits for the stream and returns the pool's free memory to the driver.
    pub fn trim(&self) {
        self.pool.trim();
    }

    /// The device and the stream, which views of this handle's memory carry.
    pub(crate) fn home(&self) -> Home {
        Home {
            ordinal: self.shared.info.ordinal,
            context: self.shared.context.cu_ctx() as usize,
            stream: self.stream.raw() as usize,
        }
    }
}

impl Shared {
    fn new(ordinal: usize) -> Result<Arc<Self>, Error> {
        let mut devices = probe()?;
        if ordinal >= devices.len() {
            return Err(unavailable(format!(
                "the driver shows {} devices, counted from 0, and device {ordinal} was asked for",
                devices.len()
            )));
        }
        let info = devices.swap_remove(ordinal);
        info.check_supported()?;
        let context = check("cuDevicePrimaryCtxRetain", CudaContext::new(ordinal))?;
        Ok(Arc::new(Self {
            modules: Modules::new(Arc::clone(&context), info.clone()),
            info,
            context,
        }))
    }
}

/// Device memory from the driver, for work on the stream.
impl Source for CudaStream {
    fn allocate(&self, bytes: usize) -> Result<u64, Error> {
        self.bind()?;
        let _relaxed = RelaxedCapture::new()?;
        // SAFETY: the context is current. Memory of a recorded cuMemAllocAsync would exist in the graph's runs alone.
        check("cuMemAlloc", unsafe { result::malloc_sync(bytes) })
    }

    fn release(&self, address: u64) {
        let context = self.context();
        // The context keeps an error of these calls; the next call that can return errors returns it.
        context.record_err(context.bind_to_thread());
        let _relaxed = RelaxedCapture::new();
        // By the contract of `unsafe` views, no other stream uses the memory any more.
        if let Ok(false) = self.is_capturing() {
            context.record_err(self.handle.synchronize());
        }
        // SAFETY: the address comes from cuMemAlloc and is released once, by the pool.
        context.record_err(unsafe { result::free_sync(address) });
    }

    fn is_exhausted(&self, error: &Error) -> bool {
        const OUT_OF_MEMORY: u32 = 2;
        matches!(error, Error::Cuda(CudaError::Driver { code, .. }) if *code == OUT_OF_MEMORY)
    }
}
