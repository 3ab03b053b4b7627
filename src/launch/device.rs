//! [`Device`]: the trait through which verbs allocate, copy and launch.

use super::kernels::Kernel;
use super::matrix::DeviceMatrix;
use super::params::{Matrix, TensorMap};
use crate::element::DType;
use crate::error::Error;

/// One kernel launch. Blocks are one-dimensional.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Launch<'a> {
    pub kernel: &'a Kernel,
    pub grid: [u32; 3],
    /// The bytes of the kernel's parameter structure.
    pub params: &'a [u8],
}

/// What runs the kernels: a stream of a GPU, or the emulator. Launches, reads and writes run in the order of the calls.
pub(crate) trait Device {
    /// Memory of the device, released when dropped.
    type Buffer;
    /// At least `bytes` bytes, aligned to 256. They come from a pool, so the second call of a shape allocates nothing.
    fn allocate(&self, bytes: usize) -> Result<Self::Buffer, Error>;
    fn address(buffer: &Self::Buffer) -> u64;
    /// Copies from host memory to `address`.
    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Error>;
    /// Overwrites `bytes` bytes from `address` on with zeros.
    fn zero(&self, address: u64, bytes: usize) -> Result<(), Error>;
    /// Copies from `address` to host memory, after all work before has ended.
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Error>;
    fn launch(&self, launch: &Launch<'_>) -> Result<(), Error>;
    /// [`launch`](Self::launch) with a parameter structure.
    fn start<P: bytemuck::Pod>(
        &self,
        kernel: &Kernel,
        grid: [u32; 3],
        params: &P,
    ) -> Result<(), Error> {
        self.launch(&Launch {
            kernel,
            grid,
            params: bytemuck::bytes_of(params),
        })
    }
    /// [`start`](Self::start) with at least `warps` warps, for kernels whose warps compute one or several rows each.
    fn start_rows<P: bytemuck::Pod>(
        &self,
        kernel: &Kernel,
        warps: usize,
        params: &P,
    ) -> Result<(), Error> {
        self.start(kernel, kernel.grid(32 * warps), params)
    }
    /// The tensor map with which TMA copies boxes of a matrix: `box_rows` rows, at most 256, of 128 bytes, swizzled.
    /// The matrix's address, stride and row bytes are multiples of 16.
    fn tensor_map(&self, matrix: &Matrix, box_rows: u32) -> Result<TensorMap, Error>;
    fn hardware(&self) -> Hardware;
}

/// Properties that select kernels and set split factors, so that last bits of results may differ between GPUs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hardware {
    /// Whether the kernels for sm_90a run on it.
    pub warpgroups: bool,
    pub sms: u32,
    /// Bytes of the L2 cache.
    pub cache_bytes: usize,
}

/// Device memory of `length` 4-byte words.
pub(crate) struct Floats<D: Device> {
    pub(super) buffer: D::Buffer,
    pub(super) length: usize,
}

impl<D: Device> Floats<D> {
    pub(crate) fn unwritten(device: &D, length: usize) -> Result<Self, Error> {
        Ok(Self {
            buffer: device.allocate(4 * length)?,
            length,
        })
    }

    pub(super) fn written(device: &D, values: &[f32]) -> Result<Self, Error> {
        let floats = Self::unwritten(device, values.len())?;
        device.write(floats.address(), bytemuck::cast_slice(values))?;
        Ok(floats)
    }

    pub(crate) fn address(&self) -> u64 {
        D::address(&self.buffer)
    }

    /// The address of word `first`.
    pub(crate) fn at(&self, first: usize) -> u64 {
        self.address() + 4 * first as u64
    }

    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// A matrix of one column.
    pub(super) fn as_matrix(&self) -> DeviceMatrix {
        DeviceMatrix::new(self.address(), [self.length, 1], DType::F32)
    }

    pub(crate) fn read(&self, device: &D) -> Result<Vec<f32>, Error> {
        let mut values = vec![0.0f32; self.length];
        device.read(self.address(), bytemuck::cast_slice_mut(&mut values))?;
        Ok(values)
    }
}

/// Checks a number of rows. Kernels index rows in 32 bits, up to the end of the last tile, past the last row.
pub(super) fn count(argument: &'static str, given: usize) -> Result<u32, Error> {
    if given <= (u32::MAX - 1024) as usize {
        return Ok(given as u32);
    }
    Err(Error::Scalar {
        argument,
        given: given as f64,
        allowed: "at most 2^32 - 1025 rows",
    })
}
