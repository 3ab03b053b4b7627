//! The verbs as kernel launches, on anything that can launch the kernels: a CUDA device, or the
//! runner that executes the same sources on the CPU.

mod choice;
mod chunked;
mod fused;
mod gradient;
mod params;
mod plan;
pub(crate) mod pool;
mod positives;
mod prepared;
mod quantized;
mod results;
mod rowwise;
mod similarity;
mod statistics;
mod step;
#[cfg(all(test, feature = "emulator-tests"))]
mod tests;
mod top_k;
mod verbs;

#[cfg(feature = "emulator")]
pub(crate) use plan::Counter;
pub(crate) use plan::workspace_bytes;
pub(crate) use results::{DeviceRows, DeviceStatistics, Results};
pub(crate) use rowwise::{DeviceMomentum, Rowwise};
pub(crate) use similarity::Similarity;
pub(crate) use step::{Step, StepArguments};
pub(crate) use top_k::DeviceTopK;

use crate::element::DType;
use crate::error::Error;

/// One kernel launch: blocks are one-dimensional.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Launch<'a> {
    pub kernel: &'a str,
    pub grid: [u32; 3],
    pub threads: u32,
    /// Dynamic, of a block.
    pub shared_bytes: u32,
    /// The bytes of the kernel's parameter structure.
    pub params: &'a [u8],
}

/// Rows of a block of the kernels that take a warp a row.
const WARP_ROWS: usize = 8;

/// Bytes of a row of a box.
pub(crate) const BOX_BYTES: usize = 128;

/// `TensorMap` of ptx/tensor_copy.h: what says where the boxes of a matrix lie, as the device wants it.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(crate) struct TensorMap {
    pub words: [u64; 16],
}

/// A row-major matrix that is copied in boxes of `box_rows` rows of 128 bytes, swizzled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BoxedMatrix {
    /// Of the first number, a multiple of 16.
    pub address: u64,
    pub rows: usize,
    /// Bytes of a row, at least 16 and a multiple of 16.
    pub row_bytes: usize,
    /// Bytes from row to row, a multiple of 16.
    pub stride: usize,
    /// What the numbers are, as they are multiplied.
    pub numbers: Arithmetic,
    /// At most 256.
    pub box_rows: u32,
}

/// What the kernels run on. Launches, reads and writes happen in the order they are made.
pub(crate) trait Device {
    /// Memory of the device, given back when dropped.
    type Buffer;
    /// At least `bytes` bytes, aligned to 256, from a pool: once a shape has been seen nothing is
    /// allocated.
    fn allocate(&self, bytes: usize) -> Result<Self::Buffer, Error>;
    fn address(buffer: &Self::Buffer) -> u64;
    /// Copies from the host to `address`.
    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Error>;
    /// Overwrites `bytes` bytes from `address` on with zeros.
    fn zero(&self, address: u64, bytes: usize) -> Result<(), Error>;
    /// Copies from `address` to the host, after everything before it has ended.
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Error>;
    fn launch(&self, launch: &Launch<'_>) -> Result<(), Error>;
    /// [`launch`](Self::launch) with a parameter structure.
    fn start<P: bytemuck::Pod>(
        &self,
        kernel: &str,
        grid: [u32; 3],
        threads: u32,
        shared_bytes: u32,
        params: &P,
    ) -> Result<(), Error> {
        self.launch(&Launch {
            kernel,
            grid,
            threads,
            shared_bytes,
            params: bytemuck::bytes_of(params),
        })
    }
    /// The same of a kernel in which a warp takes a row, or several.
    fn start_rows<P: bytemuck::Pod>(
        &self,
        kernel: &str,
        warps: usize,
        params: &P,
    ) -> Result<(), Error> {
        let grid = [warps.div_ceil(WARP_ROWS) as u32, 1, 1];
        self.start(kernel, grid, 32 * WARP_ROWS as u32, 0, params)
    }
    /// Says where a matrix lies to kernels that copy boxes.
    fn tensor_map(&self, matrix: &BoxedMatrix) -> Result<TensorMap, Error>;
    fn hardware(&self) -> Hardware;
}

/// What kernels are chosen by, and work is cut up for: results depend on it by rounding.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hardware {
    /// Whether the kernels for sm_90a run on it.
    pub warpgroups: bool,
    pub multiprocessors: u32,
    /// Of the second-level cache.
    pub cache_bytes: usize,
}

/// A row-major matrix in device memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct DeviceMatrix {
    /// Of the first number.
    pub address: u64,
    pub rows: usize,
    pub dim: usize,
    /// Numbers from row to row.
    pub stride: usize,
    pub dtype: DType,
}

impl crate::rows::Matrix for DeviceMatrix {
    fn rows(&self) -> usize {
        self.rows
    }
    fn dim(&self) -> usize {
        self.dim
    }
}

impl crate::rows::View for DeviceMatrix {
    type Indices = DeviceIndices;
    /// Where it stands.
    type Scalar = u64;
}

/// Indices of candidates in device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeviceIndices {
    /// Of the first.
    pub address: u64,
    /// How many there are.
    pub length: usize,
}

impl crate::rows::Indices for DeviceIndices {
    fn len(&self) -> usize {
        self.length
    }
    fn on_host(&self) -> Option<&[u32]> {
        None
    }
}

/// Bytes of a number.
pub(crate) fn number_bytes(dtype: DType) -> usize {
    match dtype {
        DType::F32 => 4,
        DType::F16 | DType::Bf16 => 2,
    }
}

/// What products are computed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arithmetic {
    /// f32 inputs as three products of tf32.
    F32,
    /// f32 inputs rounded to tf32.
    Tf32,
    F16,
    Bf16,
    /// Numbers of 8 bits with a scale of every row: `e4m3` of ptx/types.h.
    E4m3,
}

impl Arithmetic {
    /// Bytes of a number that is multiplied.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Arithmetic::F32 | Arithmetic::Tf32 => 4,
            Arithmetic::F16 | Arithmetic::Bf16 => 2,
            Arithmetic::E4m3 => 1,
        }
    }
}

/// As the names of kernels have it.
impl std::fmt::Display for Arithmetic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Arithmetic::F32 => "f32",
            Arithmetic::Tf32 => "tf32",
            Arithmetic::F16 => "f16",
            Arithmetic::Bf16 => "bf16",
            Arithmetic::E4m3 => "e4m3",
        })
    }
}

/// Device memory of `length` numbers of 4 bytes.
pub(crate) struct Floats<D: Device> {
    buffer: D::Buffer,
    length: usize,
}

impl<D: Device> Floats<D> {
    pub(crate) fn unwritten(device: &D, length: usize) -> Result<Self, Error> {
        Ok(Self {
            buffer: device.allocate(4 * length)?,
            length,
        })
    }

    fn written(device: &D, numbers: &[f32]) -> Result<Self, Error> {
        let floats = Self::unwritten(device, numbers.len())?;
        device.write(floats.address(), bytemuck::cast_slice(numbers))?;
        Ok(floats)
    }

    pub(crate) fn address(&self) -> u64 {
        D::address(&self.buffer)
    }

    /// Where the numbers from `first` on are.
    pub(crate) fn at(&self, first: usize) -> u64 {
        self.address() + 4 * first as u64
    }

    pub(crate) fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn read(&self, device: &D) -> Result<Vec<f32>, Error> {
        let mut numbers = vec![0.0f32; self.length];
        device.read(self.address(), bytemuck::cast_slice_mut(&mut numbers))?;
        Ok(numbers)
    }
}

/// Checks the length of a vector.
pub(crate) fn same_length(
    argument: &'static str,
    given: usize,
    expected: usize,
) -> Result<(), Error> {
    if given == expected {
        return Ok(());
    }
    Err(Error::Length {
        argument,
        given,
        expected,
    })
}

/// A count that kernels hold in 32 bits, tiles' ends past the last row included.
fn count(argument: &'static str, given: usize) -> Result<u32, Error> {
    if given <= (u32::MAX - 1024) as usize {
        return Ok(given as u32);
    }
    Err(Error::Scalar {
        argument,
        given: given as f64,
        allowed: "at most 2^32 - 1025 rows",
    })
}
