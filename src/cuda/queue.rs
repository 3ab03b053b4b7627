//! The key queue of MoCo in device memory.

use super::argument::Located;
use super::buffer::CudaBuffer;
use super::device::CudaDevice;
use super::region::CudaRegion;
use super::view::CudaRows;
use crate::device::{DeviceMatrix, Rowwise};
use crate::element::Element;
#[cfg(doc)]
use crate::error::CudaError;
use crate::error::Error;
use crate::queue::{KeyQueue, Ring};

/// A ring buffer of keys on a device: as [`KeyQueue`], from which it is made and to which it returns
/// for saving.
///
/// Where the next key goes is known on the host: a graph that records
/// [`Engine::enqueue`](crate::Engine::enqueue) writes to the same rows each time it runs. A
/// [`CudaStep`](super::CudaStep) has a queue go on from run to run.
#[derive(Debug)]
pub struct CudaQueue<T> {
    ring: Ring,
    dim: usize,
    keys: CudaBuffer<T>,
}

impl<T: Element> CudaQueue<T> {
    /// The same queue on the device.
    ///
    /// # Errors
    /// [`CudaError::Driver`] when the memory cannot be had or written.
    pub fn from_host(device: &CudaDevice, queue: &KeyQueue<T>) -> Result<Self, Error> {
        Ok(Self {
            ring: queue.ring(),
            dim: queue.dim(),
            keys: CudaBuffer::upload(device, queue.storage())?,
        })
    }

    /// The same queue on the host, bit for bit, after everything before on the stream has ended.
    ///
    /// # Errors
    /// [`CudaError::Driver`] when a kernel or copy has failed; [`CudaError::Capture`].
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

    /// The keys it holds, fill × D; `None` while it is empty. The oldest key is not always the first
    /// row.
    pub fn filled(&self) -> Option<CudaRows<'_, T>> {
        let rows = self.fill();
        if rows == 0 {
            return None;
        }
        self.region(rows).ok().map(CudaRows::at)
    }

    fn region(&self, rows: usize) -> Result<CudaRegion, Error> {
        let home = self.keys.device().home();
        CudaRegion::new::<T>(
            "queue",
            self.keys.address(),
            [rows, self.dim, self.dim],
            home,
        )
    }

    /// The whole ring, rows too that hold no key yet.
    pub(super) fn all(&self) -> Result<CudaRows<'_, T>, Error> {
        self.region(self.capacity()).map(CudaRows::at)
    }

    /// Writes keys of the queue's dimension over its oldest ones.
    pub(super) fn push(&mut self, keys: &Located, device: &CudaDevice) -> Result<(), Error> {
        let region = self.region(self.capacity())?;
        region.require_home("queue", device.home())?;
        region.require_disjoint("queue", &keys.region, "keys")?;
        let mut ring = self.ring;
        // The kernel wraps around by itself.
        let [first, second] = ring.advance(keys.matrix.rows);
        let to = DeviceMatrix {
            address: region.address(),
            rows: self.capacity(),
            dim: self.dim,
            stride: self.dim,
            dtype: T::DTYPE,
        };
        let count = first.count + second.count;
        let rowwise = Rowwise::new(device);
        rowwise.copy_rows(keys.matrix, first.source, to, first.target, count)?;
        self.ring = ring;
        Ok(())
    }

    /// The row that the next key goes to.
    pub(super) fn cursor(&self) -> usize {
        self.ring.cursor
    }

    /// Keeps up with a batch that was written by launches which the device counts.
    pub(super) fn count(&mut self, batch: usize) {
        self.ring.advance(batch);
    }
}
