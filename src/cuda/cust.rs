//! Views of memory and streams that belong to the crate `cust`.

use cust::memory::{DeviceCopy, DeviceSlice};
use cust::stream::Stream;

use super::device::CudaDevice;
use super::region::CudaRegion;
use super::view::{CudaRows, CudaRowsMut};
use crate::element::Element;
use crate::error::Error;

impl CudaDevice {
    /// Device `ordinal` with a stream of cust's, which orders cust's work and this crate's.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    ///
    /// # Safety
    /// As [`with_raw_stream`](Self::with_raw_stream).
    pub unsafe fn with_cust_stream(ordinal: usize, stream: &Stream) -> Result<Self, Error> {
        // SAFETY: the caller's promise.
        unsafe { Self::with_raw_stream(ordinal, stream.as_inner().cast()) }
    }
}

impl<'a, T: Element> CudaRows<'a, T> {
    /// Views a buffer of cust's as `rows` × `dim`. cust has no 16-bit floats: a buffer of `u16` holds them.
    ///
    /// # Errors
    /// [`Error::Length`] when the buffer has another size in bytes; those of [`from_raw`](Self::from_raw).
    ///
    /// # Safety
    /// The buffer is memory of the device's primary context. Work of other streams on it is ordered against the stream
    /// of `device`. cust's own copies to the host are not: call [`CudaDevice::synchronize`] before them.
    pub unsafe fn from_cust<S: DeviceCopy>(
        buffer: &'a DeviceSlice<S>,
        rows: usize,
        dim: usize,
        device: &CudaDevice,
    ) -> Result<Self, Error> {
        region::<S, T>(buffer, [rows, dim], device).map(Self::at)
    }
}

impl<'a, T: Element> CudaRowsMut<'a, T> {
    /// Views a buffer of cust's as `rows` × `dim`, to write to it.
    ///
    /// # Errors
    /// As [`CudaRows::from_cust`].
    ///
    /// # Safety
    /// As [`CudaRows::from_cust`]; moreover every `T` is a valid `S`, bit for bit.
    pub unsafe fn from_cust<S: DeviceCopy>(
        buffer: &'a mut DeviceSlice<S>,
        rows: usize,
        dim: usize,
        device: &CudaDevice,
    ) -> Result<Self, Error> {
        region::<S, T>(buffer, [rows, dim], device).map(Self::at)
    }
}

/// Checks the buffer's length. The borrow keeps the memory allocated; the rest is the caller's promise.
fn region<S: DeviceCopy, T>(
    buffer: &DeviceSlice<S>,
    [rows, dim]: [usize; 2],
    device: &CudaDevice,
) -> Result<CudaRegion, Error> {
    let (bytes, expected) = (buffer.len() * size_of::<S>(), rows.saturating_mul(dim));
    if Some(bytes) != expected.checked_mul(size_of::<T>()) {
        return Err(Error::Length {
            argument: "buffer",
            given: bytes / size_of::<T>(),
            expected,
        });
    }
    let pointer = buffer.as_device_ptr().as_raw();
    CudaRegion::new::<T>("pointer", pointer, [rows, dim, dim], device.home())
}
