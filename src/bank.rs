//! The memory bank of InstDisc: a unit row for each training example.

use crate::element::Element;
use crate::error::Error;
use crate::positives::NO_POSITIVE;
use crate::random::SplitMix;
use crate::rows::{Rows, RowsMut, addressable};

/// The least length that [`Engine::update_rows`](crate::Engine::update_rows) divides a row by.
pub(crate) const EPSILON: f32 = 1e-12;

/// A memory bank (Wu et al. 2018, section 3.2): M unit rows of dimension D, one for each training example.
///
/// [`Engine::update_rows`](crate::Engine::update_rows) moves the rows of a batch towards its embeddings, and the whole
/// bank is k of [`Contrast::inst_disc`](crate::Contrast::inst_disc). Nothing but its elements has to be kept, unlike a
/// queue's cursor. So in an engine's memory the bank is a plain matrix, and no engine has a type for it: upload the
/// elements, update the matrix there, and download it to save it.
///
/// ```
/// use infonce::{CpuEngine, Engine, MemoryBank, Memory, Rows};
/// let (engine, examples, dim) = (CpuEngine::new(), 5, 2);
/// let bank = MemoryBank::<f32>::random(examples, dim, 7)?;
/// let mut there = engine.memory().upload(bank.elements())?;
///
/// // The embeddings of examples 3 and 0.
/// let keys = [1.0, 0.0, 0.6, 0.8];
/// let matrix = engine.memory().rows_mut(&mut there, examples, dim)?;
/// engine.update_rows(matrix, &[3, 0], Rows::new(&keys, 2, dim)?, 0.5)?;
///
/// let saved = engine.memory().download(&there)?;
/// assert_eq!(MemoryBank::restore(examples, dim, &saved)?.elements(), saved);
/// # Ok::<(), infonce::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryBank<T> {
    elements: Vec<T>,
    rows: usize,
    dim: usize,
}

impl<T: Element> MemoryBank<T> {
    /// Rows of uniform random elements, normalised, as the paper's bank starts. A seed gives the same rows on every
    /// machine. (The authors draw between ±1/√(D/3); that factor cancels.)
    ///
    /// # Errors
    /// [`Error::Empty`] when `rows` or `dim` is 0, [`Error::Scalar`] when no address space holds the bank.
    pub fn random(rows: usize, dim: usize, seed: u64) -> Result<Self, Error> {
        check(rows, dim)?;
        let mut random = SplitMix::new(seed);
        let mut elements = Vec::with_capacity(addressable::<T>("rows", rows, dim)?);
        for _ in 0..rows {
            let row: Vec<f64> = (0..dim).map(|_| random.sign_and_size()).collect();
            let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
            elements.extend(row.iter().map(|x| T::from_f32((x / norm) as f32)));
        }
        Ok(Self {
            elements,
            rows,
            dim,
        })
    }

    /// The bank with these elements, row after row: one that was saved, bit for bit, or the caller's own rows, which
    /// should have length 1.
    ///
    /// # Errors
    /// [`Error::Empty`] when `rows` or `dim` is 0, [`Error::Length`] when `elements` does not hold rows × dim of them.
    pub fn restore(rows: usize, dim: usize, elements: &[T]) -> Result<Self, Error> {
        check(rows, dim)?;
        Rows::new(elements, rows, dim)?;
        Ok(Self {
            elements: elements.to_vec(),
            rows,
            dim,
        })
    }

    /// All elements, row after row.
    pub fn elements(&self) -> &[T] {
        &self.elements
    }

    /// The bank as a matrix, M × D.
    pub fn as_rows(&self) -> Rows<'_, T> {
        Rows::whole(&self.elements, self.rows, self.dim)
    }

    /// The bank as a writable matrix, M × D.
    pub fn as_rows_mut(&mut self) -> RowsMut<'_, T> {
        RowsMut::whole(&mut self.elements, self.rows, self.dim)
    }
}

fn check(rows: usize, dim: usize) -> Result<(), Error> {
    match rows == 0 || dim == 0 {
        false => Ok(()),
        true => Err(Error::Empty {
            argument: "bank",
            rows,
            dim,
        }),
    }
}

/// Checks indices in host memory of the rows of a matrix; [`NO_POSITIVE`] is legal.
pub(crate) fn check_rows(argument: &'static str, given: &[u32], rows: usize) -> Result<(), Error> {
    let is_wrong = |&row: &u32| row != NO_POSITIVE && row as usize >= rows;
    match given.iter().position(is_wrong) {
        None => Ok(()),
        Some(place) => Err(Error::RowOutOfRange {
            argument,
            place,
            given: given[place],
            rows,
        }),
    }
}
