//! [`CudaQueue`]: the key queue of MoCo in device memory.

use super::argument::require_disjoint;
use super::buffer::CudaBuffer;
use super::device::CudaDevice;
use super::region::CudaRegion;
use super::view::{CudaRows, CudaVector};
use crate::contrast::same_dim;
use crate::element::Element;
#[cfg(doc)]
use crate::error::CudaError;
use crate::error::Error;
use crate::launch::{DeviceVector, Rowwise};
use crate::queue::{KeyQueue, Ring, check_labels};

/// A [`KeyQueue`] in device memory: a ring buffer of keys, capacity × D, and of their labels.
/// [`to_host`](Self::to_host) copies it back, to save it.
///
/// The host holds the cursor, the row of the next key: a graph that records
/// [`Engine::enqueue`](crate::Engine::enqueue) writes to the same rows each time it runs. In a
/// [`CudaStep`](super::CudaStep) the cursor lies on the device and advances from run to run.
#[derive(Debug)]
pub struct CudaQueue<T> {
    ring: Ring,
    dim: usize,
    keys: CudaBuffer<T>,
    /// One a row of the ring.
    labels: Option<CudaBuffer<u32>>,
}

impl<T: Element> CudaQueue<T> {
    /// A copy of a queue on the device.
    ///
    /// # Errors
    /// [`CudaError::Driver`] when the allocation or the copy fails.
    pub fn from_host(device: &CudaDevice, queue: &KeyQueue<T>) -> Result<Self, Error> {
        Ok(Self {
            ring: queue.ring(),
            dim: queue.dim(),
            keys: CudaBuffer::upload(device, queue.storage())?,
            labels: queue
                .label_storage()
                .map(|labels| CudaBuffer::upload(device, labels))
                .transpose()?,
        })
    }

    /// A copy of the queue on the host, bit for bit. It waits for the work on the stream so far.
    ///
    /// # Errors
    /// [`CudaError::Driver`] when a kernel or copy has failed; [`CudaError::Capture`] while the stream is recorded.
    pub fn to_host(&self) -> Result<KeyQueue<T>, Error> {
        let labels = self.labels.as_ref().map(CudaBuffer::download).transpose()?;
        KeyQueue::from_storage(self.ring, self.dim, &self.keys.download()?, labels)
    }

    /// Most keys it can hold.
    pub fn capacity(&self) -> usize {
        self.ring.capacity
    }

    /// Dimension D of a key.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Keys it holds now.
    pub fn fill(&self) -> usize {
        self.ring.fill
    }

    /// The keys it holds, fill × D, in the ring's order; `None` while it is empty.
    pub fn filled(&self) -> Option<CudaRows<'_, T>> {
        (self.fill() > 0).then(|| self.first(self.fill()))
    }

    /// The labels of the keys it holds, in the ring's order; `None` while it is empty, and for a queue without labels.
    pub fn labels(&self) -> Option<CudaVector<'_, u32>> {
        let labels = self.labels.as_ref().filter(|_| self.fill() > 0)?;
        let (address, home) = (labels.address(), labels.device().home());
        let region = CudaRegion::own::<u32>(address, [self.fill(), 1], home);
        Some(CudaVector::at(region))
    }

    /// Checks that labels come with `keys` keys exactly where the queue keeps labels.
    pub(super) fn check_labels(&self, given: Option<usize>, keys: usize) -> Result<(), Error> {
        check_labels(self.labels.is_some(), given, keys)
    }

    fn first(&self, rows: usize) -> CudaRows<'_, T> {
        let (address, home) = (self.keys.address(), self.keys.device().home());
        CudaRows::at(CudaRegion::own::<T>(address, [rows, self.dim], home))
    }

    /// The whole ring, with the rows that hold no key yet.
    pub(super) fn all(&self) -> CudaRows<'_, T> {
        self.first(self.capacity())
    }

    /// Writes keys and their labels over the oldest ones.
    pub(super) fn push(
        &mut self,
        keys: CudaRows<'_, T>,
        labels: Option<CudaVector<'_, u32>>,
        device: &CudaDevice,
    ) -> Result<(), Error> {
        let mut inputs = vec![("keys", keys.region())];
        let mut outputs = vec![("queue", self.all().region())];
        same_dim("keys", keys.region().dim(), self.dim)?;
        self.check_labels(labels.map(|labels| labels.len()), keys.region().rows())?;
        let mut copies = vec![[keys.on("keys", device)?, self.all().on("queue", device)?]];
        if let Some((labels, kept)) = labels.zip(self.labels.as_ref()) {
            let kept = kept.vector()?;
            let column = |vector: CudaVector<'_, u32>, argument| -> Result<_, Error> {
                let (address, length) = (vector.on(argument, device)?, vector.len());
                Ok(DeviceVector { address, length }.as_column())
            };
            copies.push([column(labels, "labels")?, column(kept, "queue")?]);
            inputs.push(("labels", labels.region()));
            outputs.push(("queue", kept.region()));
        }
        require_disjoint(&outputs, &inputs)?;
        let mut ring = self.ring;
        Rowwise::new(device).push(&copies, &mut ring, 0)?;
        self.ring = ring;
        Ok(())
    }

    /// The row that the next key goes to.
    pub(super) fn cursor(&self) -> usize {
        self.ring.cursor
    }

    /// Advances the host's cursor past a batch that a step wrote at the device's cursor.
    pub(super) fn count(&mut self, batch: usize) {
        self.ring.advance(batch);
    }
}
