//! Memory on the emulator, for tests: what is put there stays where it is until all of it goes.

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

    /// A copy of `numbers`.
    pub fn upload<T: Pod>(&self, numbers: &[T]) -> Result<u64, Error> {
        let address = self.unwritten(size_of_val(numbers))?;
        self.write(address, numbers)?;
        Ok(address)
    }

    pub fn write<T: Pod>(&self, address: u64, numbers: &[T]) -> Result<(), Error> {
        self.device.write(address, bytemuck::cast_slice(numbers))
    }

    pub fn read<T: Pod>(&self, address: u64, length: usize) -> Result<Vec<T>, Error> {
        let mut numbers = vec![T::zeroed(); length];
        let bytes = bytemuck::cast_slice_mut(&mut numbers);
        self.device.read(address, bytes)?;
        Ok(numbers)
    }
}
