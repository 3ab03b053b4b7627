//! [`Memory`]: the emulator's memory of one call, or of one test.

use std::borrow::Borrow;
use std::cell::RefCell;

use bytemuck::Pod;

use super::device::{EmulatedBuffer, EmulatedDevice};
use crate::element::{DType, Element};
use crate::error::Error;
use crate::launch::{Device, DeviceMatrix, DeviceVector, element_bytes};

/// Memory that is handed out by address and freed when this is dropped.
pub(crate) struct Memory<D = EmulatedDevice> {
    pub device: D,
    held: RefCell<Vec<EmulatedBuffer>>,
}

impl<D: Borrow<EmulatedDevice>> Memory<D> {
    pub fn on(device: D) -> Self {
        let held = RefCell::default();
        Self { device, held }
    }

    /// The address of `bytes` bytes that have not been written.
    pub fn unwritten(&self, bytes: usize) -> Result<u64, Error> {
        let buffer = self.device.borrow().memory(bytes)?;
        let address = EmulatedDevice::address(&buffer);
        self.held.borrow_mut().push(buffer);
        Ok(address)
    }

    /// The address of a copy of `elements`.
    pub fn upload<T: Pod>(&self, elements: &[T]) -> Result<u64, Error> {
        let address = self.unwritten(size_of_val(elements))?;
        self.write(address, elements)?;
        Ok(address)
    }

    pub fn write<T: Pod>(&self, address: u64, elements: &[T]) -> Result<(), Error> {
        let bytes = bytemuck::cast_slice(elements);
        self.device.borrow().write(address, bytes)
    }

    pub fn read<T: Pod>(&self, address: u64, length: usize) -> Result<Vec<T>, Error> {
        let mut elements = vec![T::zeroed(); length];
        let bytes = bytemuck::cast_slice_mut(&mut elements);
        self.device.borrow().read(address, bytes)?;
        Ok(elements)
    }

    /// An unwritten matrix, with a gap of `gap` elements before every row.
    pub fn matrix(
        &self,
        [rows, dim]: [usize; 2],
        dtype: DType,
        gap: usize,
    ) -> Result<DeviceMatrix, Error> {
        let (stride, bytes) = (gap + dim, element_bytes(dtype));
        let address = self.unwritten(rows * stride * bytes)? + (gap * bytes) as u64;
        let matrix = DeviceMatrix::new(address, [rows, dim], dtype);
        Ok(DeviceMatrix { stride, ..matrix })
    }

    /// A matrix that holds `elements`.
    pub fn given<T: Element>(
        &self,
        elements: &[T],
        dim: usize,
        gap: usize,
    ) -> Result<DeviceMatrix, Error> {
        let matrix = self.matrix([elements.len() / dim, dim], T::DTYPE, gap)?;
        for (row, elements) in elements.chunks(dim).enumerate() {
            self.write(row_address(matrix, row), elements)?;
        }
        Ok(matrix)
    }

    pub fn elements<T: Element>(&self, matrix: DeviceMatrix) -> Result<Vec<T>, Error> {
        let row = |row| self.read(row_address(matrix, row), matrix.dim);
        let rows = (0..matrix.rows).map(row).collect::<Result<Vec<_>, _>>();
        Ok(rows?.concat())
    }

    /// A copy of words of 4 bytes.
    pub fn words<T: Pod>(&self, words: &[T]) -> Result<DeviceVector, Error> {
        let (address, length) = (self.upload(words)?, words.len());
        Ok(DeviceVector { address, length })
    }
}

fn row_address(matrix: DeviceMatrix, row: usize) -> u64 {
    matrix.address + (row * matrix.stride * element_bytes(matrix.dtype)) as u64
}
