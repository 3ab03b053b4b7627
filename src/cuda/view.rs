//! Matrices and vectors that borrow device memory: what an engine's verbs take.

use std::marker::PhantomData;

use super::device::CudaDevice;
use super::region::CudaRegion;
use crate::contrast::same_length;
use crate::element::Element;
#[cfg(doc)]
use crate::error::CudaError;
use crate::error::Error;
use crate::launch::{Device, DeviceMatrix};
use crate::rows::{Elements, Matrix, View};

/// A read-only matrix in device memory: row-major, rows `stride` elements apart.
#[derive(Debug, Clone, Copy)]
pub struct CudaRows<'a, T> {
    region: CudaRegion,
    elements: PhantomData<&'a [T]>,
}

/// A writable matrix in device memory: row-major, rows `stride` elements apart.
#[derive(Debug)]
pub struct CudaRowsMut<'a, T> {
    region: CudaRegion,
    elements: PhantomData<&'a mut [T]>,
}

/// A read-only vector in device memory, without gaps.
#[derive(Debug, Clone, Copy)]
pub struct CudaVector<'a, T = f32> {
    region: CudaRegion,
    elements: PhantomData<&'a [T]>,
}

/// A writable vector in device memory, without gaps.
#[derive(Debug)]
pub struct CudaVectorMut<'a, T = f32> {
    region: CudaRegion,
    elements: PhantomData<&'a mut [T]>,
}

impl<T> CudaRowsMut<'_, T> {
    /// The same rows, read-only while the borrow lasts.
    pub fn as_rows(&self) -> CudaRows<'_, T> {
        CudaRows::at(self.region)
    }

    /// A shorter borrow of the same rows, for a call that takes its view by value.
    pub fn reborrow(&mut self) -> CudaRowsMut<'_, T> {
        CudaRowsMut::at(self.region)
    }
}

impl<T> CudaVectorMut<'_, T> {
    /// The same elements, read-only while the borrow lasts.
    pub fn as_vector(&self) -> CudaVector<'_, T> {
        CudaVector::at(self.region)
    }
}

impl<T: Element> CudaRows<'_, T> {
    /// A copy of the rows in host memory, row after row. It waits for the work on the stream of `device` so far.
    ///
    /// # Errors
    /// [`CudaError::Device`] when the rows are of another handle; [`CudaError::Contiguity`] when gaps lie between them;
    /// [`CudaError::Capture`] while the stream is recorded; [`CudaError::Driver`] when earlier work has failed.
    pub fn download(&self, device: &CudaDevice) -> Result<Vec<T>, Error> {
        let rows = self.on("rows", device)?;
        self.region.require_contiguous("rows")?;
        let mut elements = vec![T::zeroed(); rows.rows * rows.dim];
        device.read(rows.address, bytemuck::cast_slice_mut(&mut elements))?;
        Ok(elements)
    }
}

impl<T: Element> CudaRowsMut<'_, T> {
    /// Overwrites all rows, in the order of the stream of `device`; `elements` may be changed or freed at once.
    ///
    /// # Errors
    /// [`CudaError::Device`] when the rows are of another handle; [`CudaError::Contiguity`] when gaps lie
    /// between them; [`Error::Length`] unless there are as many elements; [`CudaError::Driver`].
    pub fn upload(&mut self, device: &CudaDevice, elements: &[T]) -> Result<(), Error> {
        let rows = self.on("rows", device)?;
        self.region.require_contiguous("rows")?;
        same_length("elements", elements.len(), rows.rows * rows.dim)?;
        device.write(rows.address, bytemuck::cast_slice(elements))
    }
}

macro_rules! views {
    ($($view:ident),*) => {$(
        impl<T> $view<'_, T> {
            pub(super) fn at(region: CudaRegion) -> Self {
                Self { region, elements: PhantomData }
            }

            /// The address range of the elements.
            pub fn region(&self) -> CudaRegion {
                self.region
            }
        }
    )*};
}
views!(CudaRows, CudaRowsMut, CudaVector, CudaVectorMut);

macro_rules! matrices {
    ($($view:ident),*) => {$(
        impl<T> $view<'_, T> {
            /// Views memory that something else owns: a tensor of another library, columns of a matrix.
            ///
            /// # Errors
            /// [`CudaError::Null`], [`Error::Empty`], [`Error::Stride`] (less than `dim`), [`CudaError::Alignment`] (to
            /// the element's size) or [`Error::Scalar`] (past 64-bit addresses); each names the argument `pointer`.
            ///
            /// # Safety
            /// As long as the view and its copies are used,
            /// - `pointer` is an address on `device`, in its primary context, of `rows` rows of `dim`
            ///   elements of type `T`, `stride` elements apart, that stay allocated until all work on the
            ///   device's stream that was given the view has ended;
            /// - other streams write there only in work that is ordered against the device's stream,
            ///   by [`CudaStream::wait_for`](super::CudaStream::wait_for) or an event; while the view is
            ///   writable, nothing else reads or writes there but in such work.
            pub unsafe fn from_raw(
                pointer: u64,
                rows: usize,
                dim: usize,
                stride: usize,
                device: &CudaDevice,
            ) -> Result<Self, Error> {
                let shape = [rows, dim, stride];
                CudaRegion::new::<T>("pointer", pointer, shape, device.home()).map(Self::at)
            }
        }

        impl<T> Matrix for $view<'_, T> {
            fn rows(&self) -> usize {
                self.region.rows()
            }
            fn dim(&self) -> usize {
                self.region.dim()
            }
        }

        impl<T: Element> $view<'_, T> {
            /// The matrix in `launch`'s type; an error unless it belongs to `device`.
            pub(super) fn on(
                &self,
                argument: &'static str,
                device: &CudaDevice,
            ) -> Result<DeviceMatrix, Error> {
                let region = self.region;
                region.require_home(argument, device.home())?;
                Ok(DeviceMatrix {
                    address: region.address(),
                    rows: region.rows(),
                    dim: region.dim(),
                    stride: region.stride(),
                    dtype: T::DTYPE,
                })
            }
        }
    )*};
}
matrices!(CudaRows, CudaRowsMut);

macro_rules! vectors {
    ($($view:ident),*) => {$(
        impl<T> $view<'_, T> {
            /// Views memory that something else owns.
            ///
            /// # Errors
            /// As [`CudaRows::from_raw`].
            ///
            /// # Safety
            /// As [`CudaRows::from_raw`], of one row of `length` elements.
            pub unsafe fn from_raw(
                pointer: u64,
                length: usize,
                device: &CudaDevice,
            ) -> Result<Self, Error> {
                let shape = [length, 1, 1];
                CudaRegion::new::<T>("pointer", pointer, shape, device.home()).map(Self::at)
            }

            /// Number of elements, 1 or more.
            #[allow(clippy::len_without_is_empty)]
            pub fn len(&self) -> usize {
                self.region.rows()
            }

            /// The address of the first element; an error unless the vector belongs to `device`.
            pub(crate) fn on(
                &self,
                argument: &'static str,
                device: &CudaDevice,
            ) -> Result<u64, Error> {
                self.region.require_home(argument, device.home())?;
                Ok(self.region.address())
            }
        }
    )*};
}
vectors!(CudaVector, CudaVectorMut);

impl<'a, T: Element> View for CudaRows<'a, T> {
    type Indices = CudaVector<'a, u32>;
    type Floats = CudaVector<'a>;
    type Scalar = CudaVector<'a>;
}

impl<T: Copy + std::fmt::Debug> Elements<T> for CudaVector<'_, T> {
    fn len(&self) -> usize {
        self.region.rows()
    }

    fn on_host(&self) -> Option<&[T]> {
        None
    }
}
