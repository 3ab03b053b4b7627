//! Borrowed matrices in host memory: row-major, contiguous, checked once at construction.

use crate::element::Element;
use crate::error::Error;

/// A read-only matrix of `rows` × `dim` elements, row-major and contiguous.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a, T> {
    data: &'a [T],
    rows: usize,
    dim: usize,
}

/// A writable matrix of `rows` × `dim` elements, row-major and contiguous.
#[derive(Debug)]
pub struct RowsMut<'a, T> {
    data: &'a mut [T],
    rows: usize,
    dim: usize,
}

fn check(argument: &'static str, given: usize, rows: usize, dim: usize) -> Result<(), Error> {
    if rows == 0 || dim == 0 {
        return Err(Error::Empty {
            argument,
            rows,
            dim,
        });
    }
    // A shape whose size overflows can fit no slice.
    let expected = rows.saturating_mul(dim);
    if given != expected {
        return Err(Error::Length {
            argument,
            given,
            expected,
        });
    }
    Ok(())
}

impl<'a, T: Element> Rows<'a, T> {
    /// Views `data` as `rows` × `dim`.
    ///
    /// # Errors
    /// [`Error::Empty`] when `rows` or `dim` is 0, [`Error::Length`] when `data.len() != rows * dim`.
    ///
    /// ```
    /// let z = infonce::Rows::new(&[1.0f32, 0.0, 0.0, 1.0], 2, 2)?;
    /// assert_eq!(z.row(1), &[0.0, 1.0]);
    /// # Ok::<(), infonce::Error>(())
    /// ```
    pub fn new(data: &'a [T], rows: usize, dim: usize) -> Result<Self, Error> {
        check("data", data.len(), rows, dim)?;
        Ok(Self { data, rows, dim })
    }

    /// All elements, row after row.
    pub fn as_slice(&self) -> &'a [T] {
        self.data
    }

    /// Row `i`, `dim` elements.
    ///
    /// # Panics
    /// When `i` is not below the number of rows, as slices do.
    pub fn row(&self, i: usize) -> &'a [T] {
        &self.data[i * self.dim..(i + 1) * self.dim]
    }
}

impl<'a, T: Element> RowsMut<'a, T> {
    /// Views `data` as `rows` × `dim`; same errors as [`Rows::new`].
    ///
    /// # Errors
    /// [`Error::Empty`] when `rows` or `dim` is 0, [`Error::Length`] when `data.len() != rows * dim`.
    pub fn new(data: &'a mut [T], rows: usize, dim: usize) -> Result<Self, Error> {
        check("data", data.len(), rows, dim)?;
        Ok(Self { data, rows, dim })
    }

    /// All elements, row after row.
    pub fn into_slice(self) -> &'a mut [T] {
        self.data
    }
}

/// The shape of a matrix, wherever it lives.
pub trait Matrix {
    /// Number of rows.
    fn rows(&self) -> usize;
    /// Number of columns: the embedding dimension D.
    fn dim(&self) -> usize;
}

impl<T> Matrix for Rows<'_, T> {
    fn rows(&self) -> usize {
        self.rows
    }
    fn dim(&self) -> usize {
        self.dim
    }
}

impl<T> Matrix for RowsMut<'_, T> {
    fn rows(&self) -> usize {
        self.rows
    }
    fn dim(&self) -> usize {
        self.dim
    }
}
