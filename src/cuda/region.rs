//! [`CudaRegion`]: a matrix's address range in device memory, with checks of alignment, overlap and device.

use std::fmt;

use crate::error::{CudaError, Error};
use crate::rows::extent;

/// The device and the stream that memory belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Home {
    pub(super) ordinal: usize,
    pub(super) context: usize,
    pub(super) stream: usize,
}

impl fmt::Display for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            ordinal, stream, ..
        } = self;
        write!(f, "stream {stream:#x} of CUDA device {ordinal}")
    }
}

/// The address range of a matrix in device memory: rows of `dim` elements, `stride` elements apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CudaRegion {
    address: u64,
    rows: usize,
    dim: usize,
    stride: usize,
    element_bytes: usize,
    home: Home,
}

impl CudaRegion {
    /// Checks address and shape: not null, aligned, not empty, within 64-bit addresses.
    pub(super) fn new<T>(
        argument: &'static str,
        address: u64,
        [rows, dim, stride]: [usize; 3],
        home: Home,
    ) -> Result<Self, Error> {
        if address == 0 {
            return Err(CudaError::Null { argument }.into());
        }
        let element_bytes = size_of::<T>();
        let bytes = extent(argument, [rows, dim, stride])?.checked_mul(element_bytes);
        let end = bytes.and_then(|bytes| address.checked_add(bytes as u64));
        if end.is_none() {
            return Err(Error::Scalar {
                argument,
                given: rows as f64,
                allowed: "so few rows that the matrix ends within 64-bit addresses",
            });
        }
        let region = Self {
            address,
            rows,
            dim,
            stride,
            element_bytes,
            home,
        };
        region.require_aligned(argument, element_bytes)?;
        Ok(region)
    }

    /// Rows without gaps in memory that this crate allocated, which needs no check.
    pub(super) fn own<T>(address: u64, [rows, dim]: [usize; 2], home: Home) -> Self {
        Self {
            address,
            rows,
            dim,
            stride: dim,
            element_bytes: size_of::<T>(),
            home,
        }
    }

    /// The address of the first element.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Elements of a row.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Elements from row to row, `dim` or more.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Bytes from the first element to the end of the last.
    pub fn bytes(&self) -> usize {
        ((self.rows - 1) * self.stride + self.dim) * self.element_bytes
    }

    /// Whether no gap lies between rows.
    pub fn is_contiguous(&self) -> bool {
        self.rows == 1 || self.stride == self.dim
    }

    /// Whether any byte belongs to a row of both. Disjoint column ranges of one matrix do not overlap, although rows of
    /// one lie between rows of the other.
    pub fn overlaps(&self, other: &CudaRegion) -> bool {
        let end = |region: &CudaRegion| region.address + region.bytes() as u64;
        if end(self) <= other.address || end(other) <= self.address {
            return false;
        }
        let step = |region: &CudaRegion| (region.stride * region.element_bytes) as u64;
        let width = |region: &CudaRegion| (region.dim * region.element_bytes) as u64;
        if step(self) != step(other) {
            return true;
        }
        // Modulo the common stride, `self` fills [0, width) and `other` starts at `offset`.
        let step = step(self);
        let offset = (other.address % step + step - self.address % step) % step;
        offset < width(self) || offset + width(other) > step
    }

    /// Checks that no gap lies between rows.
    ///
    /// # Errors
    /// [`CudaError::Contiguity`], with the name of the argument.
    pub fn require_contiguous(&self, argument: &'static str) -> Result<(), Error> {
        if self.is_contiguous() {
            return Ok(());
        }
        Err(CudaError::Contiguity {
            argument,
            given: self.stride,
            dim: self.dim,
        }
        .into())
    }

    /// Checks that every row starts at a multiple of `required` bytes.
    ///
    /// # Errors
    /// [`CudaError::Alignment`], with the name of the argument.
    pub fn require_aligned(&self, argument: &'static str, required: usize) -> Result<(), Error> {
        if self.is_aligned(required) {
            return Ok(());
        }
        Err(CudaError::Alignment { argument, required }.into())
    }

    /// Whether every row starts at a multiple of `bytes` bytes.
    pub fn is_aligned(&self, bytes: usize) -> bool {
        let step = self.stride * self.element_bytes;
        self.address.is_multiple_of(bytes as u64) && (self.rows == 1 || step.is_multiple_of(bytes))
    }

    /// Checks that an output shares no memory with another argument.
    ///
    /// # Errors
    /// [`CudaError::Aliasing`], with the names of both.
    pub fn require_disjoint(
        &self,
        argument: &'static str,
        other: &CudaRegion,
        other_argument: &'static str,
    ) -> Result<(), Error> {
        if !self.overlaps(other) {
            return Ok(());
        }
        let other = other_argument;
        Err(CudaError::Aliasing { argument, other }.into())
    }

    /// Checks that the memory belongs to the device handle `home`, whose stream is about to use it.
    pub(super) fn require_home(&self, argument: &'static str, home: Home) -> Result<(), Error> {
        if self.home == home {
            return Ok(());
        }
        Err(CudaError::Device {
            argument,
            given: self.home.to_string(),
            expected: home.to_string(),
        }
        .into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: Home = Home {
        ordinal: 0,
        context: 1,
        stream: 16,
    };

    fn region<T>(address: u64, shape: [usize; 3]) -> Result<CudaRegion, Error> {
        CudaRegion::new::<T>("q", address, shape, HOME)
    }

    #[test]
    fn a_wrong_matrix_is_refused_with_its_name() {
        let refused = |address, shape| region::<f32>(address, shape).unwrap_err().to_string();
        assert_eq!(refused(0, [2, 4, 4]), "`q` is a null pointer");
        let empty = "`q` has 0 rows of dimension 4; both must be at least 1";
        assert_eq!(refused(256, [0, 4, 4]), empty);
        let stride = "`q` has a row stride of 3; rows of dimension 4 need 4 or more";
        assert_eq!(refused(256, [2, 4, 3]), stride);
        let alignment = "`q` has an address or a row stride that is no multiple of 4 bytes";
        assert_eq!(refused(258, [2, 4, 4]), alignment);
        assert!(region::<u16>(258, [2, 4, 4]).is_ok());
        for shape in [[usize::MAX, 4, 4], [1 << 62, 1, 1], [2, 1, usize::MAX]] {
            let refused = region::<f32>(256, shape);
            let is_named = matches!(refused, Err(Error::Scalar { argument: "q", .. }));
            assert!(is_named, "{shape:?}");
        }
    }

    #[test]
    fn rows_with_gaps_are_not_contiguous_and_a_single_row_is() {
        let required = |shape| region::<f32>(256, shape)?.require_contiguous("q");
        assert_eq!(
            required([2, 4, 5]).unwrap_err().to_string(),
            "`q` has rows of 4 elements at a stride of 5; it must be contiguous"
        );
        assert_eq!(region::<f32>(256, [2, 4, 5]).unwrap().bytes(), 36);
        assert_eq!([[2, 4, 4], [1, 4, 5]].map(required), [Ok(()), Ok(())]);
    }

    #[test]
    fn alignment_is_that_of_every_row() {
        let required = |address, shape| region::<u16>(address, shape)?.require_aligned("k", 16);
        let refused = Err(Error::Cuda(CudaError::Alignment {
            argument: "k",
            required: 16,
        }));
        assert_eq!(required(256, [3, 8, 8]), Ok(()));
        assert_eq!(required(256, [3, 8, 9]), refused);
        assert_eq!(required(258, [3, 8, 8]), refused);
        assert_eq!(required(256, [1, 9, 9]), Ok(()));
    }

    /// Overlap by its definition: bytes that are in a row of both.
    fn share_a_byte(a: &CudaRegion, b: &CudaRegion) -> bool {
        let covers = |region: &CudaRegion, byte: u64| {
            let Some(offset) = byte.checked_sub(region.address) else {
                return false;
            };
            let step = (region.stride * region.element_bytes) as u64;
            offset / step < region.rows as u64
                && offset % step < (region.dim * region.element_bytes) as u64
        };
        (250..400).any(|byte| covers(a, byte) && covers(b, byte))
    }

    #[test]
    fn overlap_is_a_shared_byte_and_never_missed() {
        let tight = [[1, 2, 2], [2, 2, 2], [2, 5, 5]];
        let with_gaps = [[3, 2, 5], [2, 3, 5], [3, 1, 3]];
        let mut regions = Vec::new();
        for address in (256..300).step_by(4) {
            let shapes = tight.iter().chain(&with_gaps);
            regions.extend(shapes.map(|&shape| region::<f32>(address, shape).unwrap()));
        }
        for a in &regions {
            for b in &regions {
                let (found, shared) = (a.overlaps(b), share_a_byte(a, b));
                assert!(found || !shared, "{a:?} and {b:?} share memory");
                // Rows at different strides may be called overlapping when they only interlock.
                if a.stride == b.stride {
                    assert_eq!(found, shared, "{a:?} and {b:?}");
                }
                assert_eq!(found, b.overlaps(a));
            }
        }
    }

    #[test]
    fn halves_of_the_columns_are_disjoint() {
        let [left, right] = [256, 256 + 64].map(|at| region::<f32>(at, [8, 16, 32]).unwrap());
        assert_eq!(left.require_disjoint("dq", &right, "q"), Ok(()));
        let refused = left.require_disjoint("dq", &left, "q").unwrap_err();
        assert_eq!(
            refused.to_string(),
            "`dq` shares memory with `q`; outputs need memory of their own"
        );
    }

    #[test]
    fn memory_of_another_stream_or_device_is_refused() {
        let q = region::<f32>(256, [2, 4, 4]).unwrap();
        assert_eq!(q.require_home("q", HOME), Ok(()));
        let other_stream = Home { stream: 32, ..HOME };
        let refused = q.require_home("q", other_stream).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "`q` belongs to stream 0x10 of CUDA device 0; this call works on stream 0x20 of CUDA device 0"
        );
        let other_device = Home {
            ordinal: 1,
            context: 2,
            ..HOME
        };
        assert!(q.require_home("q", other_device).is_err());
    }
}
