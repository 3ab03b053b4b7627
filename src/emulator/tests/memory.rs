//! The emulator's memory for tests: all buffers live as long as [`Memory`].

use std::cell::RefCell;

use bytemuck::Pod;

use super::{EmulatedBuffer, EmulatedDevice};
use crate::error::Error;
use crate::launch::Device;

pub(crate) struct Memory {
    pub device: EmulatedDevice,
    held: RefCell<Vec<EmulatedBuffer>>,
}

impl Memory {
    pub fn on(device: EmulatedDevice) -> Self {
        let held = RefCell::default();
        Self { device, held }
    }

    /// Memory that has not been written.
    pub fn unwritten(&self, bytes: usize) -> Result<u64, Error> {
        let buffer = self.device.memory(bytes)?;
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
        self.device.write(address, bytemuck::cast_slice(elements))
    }

    pub fn read<T: Pod>(&self, address: u64, length: usize) -> Result<Vec<T>, Error> {
        let mut elements = vec![T::zeroed(); length];
        let bytes = bytemuck::cast_slice_mut(&mut elements);
        self.device.read(address, bytes)?;
        Ok(elements)
    }
}
