//! Device memory that lives as long as its owner, a call or a recorded step.

use super::arithmetic::element_bytes;
use super::device::Device;
use super::matrix::DeviceMatrix;
use crate::error::Error;

/// Hands out device memory by address. Dropping it releases the memory.
pub(super) struct Held<'d, D: Device> {
    device: &'d D,
    pub buffers: Vec<D::Buffer>,
}

impl<'d, D: Device> Held<'d, D> {
    pub fn new(device: &'d D) -> Self {
        let buffers = Vec::new();
        Self { device, buffers }
    }

    pub fn unwritten(&mut self, bytes: usize) -> Result<u64, Error> {
        let buffer = self.device.allocate(bytes)?;
        let address = D::address(&buffer);
        self.buffers.push(buffer);
        Ok(address)
    }

    /// Unwritten memory for a matrix of the same shape and type, without gaps.
    pub fn like(&mut self, matrix: DeviceMatrix) -> Result<DeviceMatrix, Error> {
        let DeviceMatrix {
            rows, dim, dtype, ..
        } = matrix;
        let address = self.unwritten(rows * dim * element_bytes(dtype))?;
        Ok(DeviceMatrix::new(address, [rows, dim], dtype))
    }
}
