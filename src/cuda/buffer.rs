//! [`CudaBuffer`]: owned device memory.

use std::marker::PhantomData;

use bytemuck::Pod;

use super::device::{CudaDevice, DeviceBlock};
use super::region::CudaRegion;
use super::view::{CudaRows, CudaRowsMut, CudaVector, CudaVectorMut};
use crate::contrast::same_length;
use crate::element::Element;
#[cfg(doc)]
use crate::error::CudaError;
use crate::error::Error;
use crate::launch::Device;

/// A vector of elements of type `T` that owns its device memory. It belongs to one [`CudaDevice`] handle, whose stream
/// orders all work on it. Dropping it returns the memory to the handle's pool.
///
/// ```no_run
/// use infonce::cuda::{CudaBuffer, CudaDevice};
/// let device = CudaDevice::new(0)?;
/// let z = CudaBuffer::upload(&device, &[1.0f32, 0.0, 0.0, 1.0])?;
/// let rows = z.rows(2, 2)?;
/// assert_eq!(rows.region().stride(), 2);
/// assert_eq!(z.download()?, [1.0, 0.0, 0.0, 1.0]);
/// # Ok::<(), infonce::Error>(())
/// ```
#[derive(Debug)]
pub struct CudaBuffer<T> {
    block: DeviceBlock,
    length: usize,
    device: CudaDevice,
    elements: PhantomData<T>,
}

impl<T: Pod> CudaBuffer<T> {
    /// `length` zeros.
    ///
    /// # Errors
    /// [`CudaError::Driver`] when the allocation fails.
    pub fn zeroed(device: &CudaDevice, length: usize) -> Result<Self, Error> {
        let mut buffer = Self::unwritten(device, length)?;
        buffer.zero()?;
        Ok(buffer)
    }

    /// A copy of `elements`, which may be changed or freed at once.
    ///
    /// # Errors
    /// [`CudaError::Driver`] when the allocation or the copy fails.
    pub fn upload(device: &CudaDevice, elements: &[T]) -> Result<Self, Error> {
        let mut buffer = Self::unwritten(device, elements.len())?;
        buffer.write(elements)?;
        Ok(buffer)
    }

    fn unwritten(device: &CudaDevice, length: usize) -> Result<Self, Error> {
        // A length that overflows saturates; no device has so much memory.
        let block = device.allocate(length.saturating_mul(size_of::<T>()))?;
        Ok(Self {
            block,
            length,
            device: device.clone(),
            elements: PhantomData,
        })
    }

    /// Overwrites all elements, in stream order; `elements` may be changed or freed at once.
    ///
    /// # Errors
    /// [`Error::Length`] unless there are as many, [`CudaError::Driver`] when the driver refuses.
    pub fn write(&mut self, elements: &[T]) -> Result<(), Error> {
        self.check_length(elements.len())?;
        self.device
            .write(self.block.address(), bytemuck::cast_slice(elements))
    }

    /// Overwrites all elements with zeros, in stream order.
    ///
    /// # Errors
    /// [`CudaError::Driver`] when the driver refuses.
    pub fn zero(&mut self) -> Result<(), Error> {
        let bytes = self.length * size_of::<T>();
        self.device.zero(self.block.address(), bytes)
    }

    /// Overwrites all elements with those of `other`, in stream order.
    ///
    /// # Errors
    /// [`Error::Length`] unless there are as many, [`CudaError::Device`] when `other` is of another device
    /// handle, [`CudaError::Driver`] when the driver refuses.
    pub fn copy_from(&mut self, other: &Self) -> Result<(), Error> {
        self.check_length(other.length)?;
        let bytes = self.length * size_of::<T>();
        if bytes == 0 {
            return Ok(());
        }
        let from = other.vector()?.on("other", &self.device)?;
        self.device.copy(self.block.address(), from, bytes)
    }

    /// Copies all elements to `elements` in host memory. It waits for the work on the stream so far.
    ///
    /// # Errors
    /// [`Error::Length`] unless `elements` has the buffer's length; those of [`download`](Self::download).
    pub fn read(&self, elements: &mut [T]) -> Result<(), Error> {
        self.check_length(elements.len())?;
        let bytes = bytemuck::cast_slice_mut(elements);
        self.device.read(self.block.address(), bytes)
    }

    /// A copy of all elements in host memory. It waits for the work on the stream so far.
    ///
    /// # Errors
    /// [`CudaError::Capture`] while the stream is recorded; [`CudaError::Driver`] when earlier work has failed.
    pub fn download(&self) -> Result<Vec<T>, Error> {
        let mut elements = vec![T::zeroed(); self.length];
        self.read(&mut elements)?;
        Ok(elements)
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The address of the first element.
    pub fn address(&self) -> u64 {
        self.block.address()
    }

    /// The device handle that the memory belongs to.
    pub fn device(&self) -> &CudaDevice {
        &self.device
    }

    /// The elements as a vector.
    ///
    /// # Errors
    /// [`Error::Empty`] when there are none.
    pub fn vector(&self) -> Result<CudaVector<'_, T>, Error> {
        self.region(self.length, 1).map(CudaVector::at)
    }

    /// The elements as a vector to write to.
    ///
    /// # Errors
    /// [`Error::Empty`] when there are none.
    pub fn vector_mut(&mut self) -> Result<CudaVectorMut<'_, T>, Error> {
        self.region(self.length, 1).map(CudaVectorMut::at)
    }

    fn region(&self, rows: usize, dim: usize) -> Result<CudaRegion, Error> {
        let home = self.device.home();
        let region = CudaRegion::new::<T>("buffer", self.block.address(), [rows, dim, dim], home)?;
        self.check_length(rows.saturating_mul(dim))?;
        Ok(region)
    }

    fn check_length(&self, other: usize) -> Result<(), Error> {
        same_length("buffer", self.length, other)
    }
}

impl<T: Element> CudaBuffer<T> {
    /// The elements as a matrix of `rows` × `dim`.
    ///
    /// # Errors
    /// [`Error::Empty`] when `rows` or `dim` is 0, [`Error::Length`] when the buffer does not hold
    /// exactly `rows * dim` elements.
    pub fn rows(&self, rows: usize, dim: usize) -> Result<CudaRows<'_, T>, Error> {
        self.region(rows, dim).map(CudaRows::at)
    }

    /// The elements as a matrix of `rows` × `dim` to write to.
    ///
    /// # Errors
    /// As [`rows`](Self::rows).
    pub fn rows_mut(&mut self, rows: usize, dim: usize) -> Result<CudaRowsMut<'_, T>, Error> {
        self.region(rows, dim).map(CudaRowsMut::at)
    }
}
