//! Borrowed matrices in host memory: row-major, checked once at construction.

use std::borrow::Cow;

use crate::element::Element;
use crate::error::{Error, within};

/// A read-only matrix of `rows` × `dim` elements, row-major, rows `stride` elements apart.
///
/// ```
/// let z = infonce::Rows::new(&[1.0f32, 0.0, 0.0, 1.0], 2, 2)?;
/// assert_eq!(z.row(1), &[0.0, 1.0]);
/// # Ok::<(), infonce::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a, T> {
    data: &'a [T],
    rows: usize,
    dim: usize,
    stride: usize,
}

/// A writable matrix of `rows` × `dim` elements, row-major, rows `stride` elements apart.
#[derive(Debug)]
pub struct RowsMut<'a, T> {
    data: &'a mut [T],
    rows: usize,
    dim: usize,
    stride: usize,
}

/// Elements from the first row's start to the last row's end. A count that overflows saturates; no memory holds it.
pub(crate) fn extent(
    argument: &'static str,
    [rows, dim, stride]: [usize; 3],
) -> Result<usize, Error> {
    if rows == 0 || dim == 0 {
        return Err(Error::Empty {
            argument,
            rows,
            dim,
        });
    }
    if stride < dim {
        return Err(Error::Stride {
            argument,
            given: stride,
            dim,
        });
    }
    Ok((rows - 1).saturating_mul(stride).saturating_add(dim))
}

/// rows × dim, if the address space can hold as many elements; `argument` is the number of rows.
pub(crate) fn addressable<T>(
    argument: &'static str,
    rows: usize,
    dim: usize,
) -> Result<usize, Error> {
    let elements = rows.saturating_mul(dim);
    let bytes = elements.saturating_mul(size_of::<T>());
    let allowed = "few enough that the elements have addresses";
    within(
        argument,
        rows as f32,
        allowed,
        isize::try_from(bytes).is_ok(),
    )?;
    Ok(elements)
}

fn check(given: usize, rows: usize, dim: usize, stride: usize) -> Result<(), Error> {
    let expected = extent("data", [rows, dim, stride])?;
    // The gap after the last row may be whole, cut short or missing.
    if given < expected || given > expected.saturating_add(stride - dim) {
        return Err(Error::Length {
            argument: "data",
            given,
            expected,
        });
    }
    Ok(())
}

impl<'a, T: Element> Rows<'a, T> {
    /// All elements, row after row: borrowed, or copied where rows have gaps between them.
    pub fn contiguous(&self) -> Cow<'a, [T]> {
        if self.stride == self.dim || self.rows == 1 {
            return Cow::Borrowed(&self.data[..self.rows * self.dim]);
        }
        let rows = (0..self.rows).flat_map(|i| self.row(i));
        Cow::Owned(rows.copied().collect())
    }

    /// `count` rows from row `first` on, all of which exist.
    pub(crate) fn slice(&self, first: usize, count: usize) -> Self {
        let data = &self.data[first * self.stride..];
        Self {
            data: &data[..data.len().min(count * self.stride)],
            rows: count,
            ..*self
        }
    }

    /// Row `i`, `dim` elements.
    ///
    /// # Panics
    /// When `i` is not below the number of rows, as slices do.
    pub fn row(&self, i: usize) -> &'a [T] {
        &self.data[i * self.stride..][..self.dim]
    }
}

impl<T: Element> RowsMut<'_, T> {
    /// The same rows, read-only.
    pub fn as_rows(&self) -> Rows<'_, T> {
        Rows {
            data: self.data,
            rows: self.rows,
            dim: self.dim,
            stride: self.stride,
        }
    }

    /// The same rows, borrowed for less long.
    pub(crate) fn reborrow(&mut self) -> RowsMut<'_, T> {
        RowsMut {
            data: self.data,
            rows: self.rows,
            dim: self.dim,
            stride: self.stride,
        }
    }

    /// Overwrites all rows with `elements`, row after row.
    #[cfg(feature = "emulator")]
    pub(crate) fn fill_from(&mut self, elements: &[T]) {
        let rows = self.data.chunks_mut(self.stride);
        for (to, from) in rows.zip(elements.chunks(self.dim)) {
            to[..self.dim].copy_from_slice(from);
        }
    }
}

/// The shape of a matrix in any memory.
pub trait Matrix {
    /// Number of rows.
    fn rows(&self) -> usize;
    /// Number of columns: the embedding dimension D.
    fn dim(&self) -> usize;
}

/// A read-only matrix, and the types of vectors and scalars in the same memory.
pub trait View: Matrix + Copy {
    /// Indices or labels of candidates.
    type Indices: Elements<u32>;
    /// Weights of anchors, biases of candidates.
    type Floats: Elements<f32>;
    /// A vector of one f32: the scale s.
    type Scalar: Copy + std::fmt::Debug;
}

/// A read-only vector in any memory.
#[allow(clippy::len_without_is_empty, reason = "a batch has an anchor")]
pub trait Elements<T>: Copy + std::fmt::Debug {
    /// How many elements there are.
    fn len(&self) -> usize;
    /// The elements, where the host can read them.
    fn on_host(&self) -> Option<&[T]>;
}

impl<T: std::fmt::Debug> Elements<T> for &[T] {
    fn len(&self) -> usize {
        <[T]>::len(self)
    }
    fn on_host(&self) -> Option<&[T]> {
        Some(self)
    }
}

impl<'a, T: Element> View for Rows<'a, T> {
    type Indices = &'a [u32];
    type Floats = &'a [f32];
    type Scalar = &'a [f32];
}

macro_rules! matrices {
    ($($view:ident of $data:ty),*) => {$(
        impl<'a, T: Element> $view<'a, T> {
            /// Views `data` as `rows` × `dim` without gaps.
            ///
            /// # Errors
            /// [`Error::Empty`] when `rows` or `dim` is 0, [`Error::Length`] when `data.len() != rows * dim`.
            pub fn new(data: $data, rows: usize, dim: usize) -> Result<Self, Error> {
                Self::with_stride(data, rows, dim, dim)
            }

            /// Views `data` as `rows` rows of `dim` elements, `stride` elements from row to row. The gaps
            /// between rows are neither read nor written.
            ///
            /// # Errors
            /// As [`new`](Self::new), and [`Error::Stride`] when `stride` is less than `dim`.
            pub fn with_stride(
                data: $data,
                rows: usize,
                dim: usize,
                stride: usize,
            ) -> Result<Self, Error> {
                check(data.len(), rows, dim, stride)?;
                Ok(Self { data, rows, dim, stride })
            }

            /// Views `rows` × `dim` elements, at least one, without gaps.
            pub(crate) fn whole(data: $data, rows: usize, dim: usize) -> Self {
                let stride = dim;
                Self { data, rows, dim, stride }
            }

            /// The elements with their gaps, and the stride.
            pub(crate) fn into_data(self) -> ($data, usize) {
                (self.data, self.stride)
            }
        }

        impl<T> Matrix for $view<'_, T> {
            fn rows(&self) -> usize {
                self.rows
            }
            fn dim(&self) -> usize {
                self.dim
            }
        }
    )*};
}
matrices!(Rows of &'a [T], RowsMut of &'a mut [T]);
