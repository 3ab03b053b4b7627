//! The forms of a matrix from caller to kernel. A view of the engine (`CudaRows`) has a lifetime and an element type.
//! [`DeviceMatrix`] has neither, so that verbs are compiled once. [`Matrix`] is the kernels' own structure, in
//! bytes; tile loops need rows that are whole chunks of 16 bytes, or e4m3. [`TensorMap`](super::TensorMap) is a
//! [`Matrix`] for TMA.

use super::arithmetic::element_bytes;
use super::params::{DTYPE_BF16, DTYPE_E4M3, DTYPE_F16, DTYPE_F32, Matrix};
use crate::element::DType;

/// A row-major matrix in device memory as the verbs take it. [`count`](super::device::count) has not bounded its rows
/// yet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct DeviceMatrix {
    /// The address of the first element, in bytes.
    pub address: u64,
    pub rows: usize,
    pub dim: usize,
    /// Elements from row to row.
    pub stride: usize,
    pub dtype: DType,
}

impl DeviceMatrix {
    /// A matrix without gaps between rows.
    pub(crate) fn new(address: u64, [rows, dim]: [usize; 2], dtype: DType) -> Self {
        Self {
            address,
            rows,
            dim,
            stride: dim,
            dtype,
        }
    }
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
    type Indices = DeviceVector;
    type Floats = DeviceVector;
    /// The address of an f32.
    type Scalar = u64;
}

/// Words in device memory: indices or labels of candidates, weights, biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeviceVector {
    pub address: u64,
    pub length: usize,
}

impl DeviceVector {
    /// As a column of f32, whose bits copies of rows keep.
    pub(crate) fn as_column(self) -> DeviceMatrix {
        DeviceMatrix::new(self.address, [self.length, 1], DType::F32)
    }
}

impl<T> crate::rows::Elements<T> for DeviceVector {
    fn len(&self) -> usize {
        self.length
    }
    fn on_host(&self) -> Option<&[T]> {
        None
    }
}

/// Verbs check the rows ([`count`](super::device::count)) before they launch a kernel.
impl From<DeviceMatrix> for Matrix {
    fn from(matrix: DeviceMatrix) -> Self {
        let bytes = element_bytes(matrix.dtype);
        Self {
            data: matrix.address,
            scales: 0,
            stride: (matrix.stride * bytes) as u64,
            rows: matrix.rows as u32,
            row_bytes: (matrix.dim * bytes) as u32,
            dtype: dtype_code(matrix.dtype),
            padding: 0,
        }
    }
}

impl Matrix {
    /// `count` rows from `first` on.
    pub fn slice(self, first: usize, count: usize) -> Self {
        Self {
            data: self.data + first as u64 * self.stride,
            scales: match self.scales {
                0 => 0,
                scales => scales + 4 * first as u64,
            },
            rows: count as u32,
            ..self
        }
    }

    pub fn element_bytes(&self) -> usize {
        match self.dtype {
            DTYPE_E4M3 => 1,
            DTYPE_F16 | DTYPE_BF16 => 2,
            _ => 4,
        }
    }
}

pub(super) fn dtype_code(dtype: DType) -> u32 {
    match dtype {
        DType::F32 => DTYPE_F32,
        DType::F16 => DTYPE_F16,
        DType::Bf16 => DTYPE_BF16,
    }
}
