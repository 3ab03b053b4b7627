//! [`CudaQueue`]: the key queue of MoCo in device memory.

use super::buffer::CudaBuffer;
use super::device::CudaDevice;
use super::region::CudaRegion;
use super::view::CudaRows;
use crate::element::Element;
#[cfg(doc)]
use crate::error::CudaError;
use crate::error::Error;
use crate::launch::Rowwise;
use crate::queue::{KeyQueue, Ring};

/// A [`KeyQueue`] in device memory: a ring buffer of keys, capacity × D. [`to_host`](Self::to_host) copies it back, to
/// save it.
///
/// The host holds the cursor, the row of the next key: a graph that records
/// [`Engine::enqueue`](crate::Engine::enqueue) writes to the same rows each time it runs. In a
/// [`CudaStep`](super::CudaStep) the cursor lies on the device and advances from run to run.
#[derive(Debug)]
pub struct CudaQueue<T> {
    ring: Ring,
    dim: usize,
    keys: CudaBuffer<T>,
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
        })
    }

    /// A copy of the queue on the host, bit for bit. It waits for the work on the stream so far.
    ///
    /// # Errors
    /// [`CudaError::Driver`] when a kernel or copy has failed; [`CudaError::Capture`] while the stream is recorded.
    pub fn to_host(&self) -> Result<KeyQueue<T>, Error> {
        let keys = self.keys.download()?;
        let (fill, cursor) = (self.ring.fill, self.ring.cursor);
        KeyQueue::restore(
            self.capacity(),
            self.dim,
            fill,
            cursor,
            &keys[..fill * self.dim],
        )
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

    fn first(&self, rows: usize) -> CudaRows<'_, T> {
        let (address, home) = (self.keys.address(), self.keys.device().home());
        CudaRows::at(CudaRegion::own::<T>(address, [rows, self.dim], home))
    }

    /// The whole ring, with the rows that hold no key yet.
    pub(super) fn all(&self) -> CudaRows<'_, T> {
        self.first(self.capacity())
    }

    /// Writes keys, of the queue's dimension, over the oldest ones.
    pub(super) fn push(&mut self, keys: CudaRows<'_, T>, device: &CudaDevice) -> Result<(), Error> {
        let region = keys.region();
        let (keys, to) = (keys.on("keys", device)?, self.all().on("queue", device)?);
        self.all()
            .region()
            .require_disjoint("queue", &region, "keys")?;
        let mut ring = self.ring;
        Rowwise::new(device).push(keys, to, &mut ring, 0)?;
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
