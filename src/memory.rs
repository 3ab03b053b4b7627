//! [`Memory`]: an engine's memory, its types of matrices and results, and copies from and to host memory.

use bytemuck::Pod;

use crate::element::Element;
use crate::error::Error;
use crate::queue::KeyQueue;
use crate::rows::{Matrix, Rows, RowsMut, View};
use crate::statistics::Statistics;

/// A result in an engine's memory.
pub trait Read {
    /// The result in host memory.
    type Value;
    /// Copies the result to host memory; waits for the engine.
    ///
    /// # Errors
    /// Those of the work that it waits for.
    fn read(&self) -> Result<Self::Value, Error>;
}

/// Loss and statistics in an engine's memory, and ∂loss/∂s after a call with gradients. Each is copied to
/// host memory when it is asked for.
pub trait Evaluation {
    /// Row statistics in the engine's memory.
    type Statistics;
    /// The reduced loss, not multiplied by the upstream gradient; waits for the engine.
    ///
    /// # Errors
    /// Those of the work that it waits for.
    fn loss(&self) -> Result<f32, Error>;
    /// Upstream × ∂loss/∂s, with s = 1/τ the scale; 0 after a forward. Waits for the engine.
    ///
    /// # Errors
    /// As [`loss`](Self::loss).
    fn dscale(&self) -> Result<f32, Error>;
    /// The statistics that [`Engine::backward`](crate::Engine::backward) takes.
    fn statistics(&self) -> &Self::Statistics;
    /// The statistics alone.
    fn into_statistics(self) -> Self::Statistics;
}

/// Host memory, or the memory of a device: its types of matrices, vectors and results.
pub trait Memory: 'static {
    /// A read-only matrix.
    type Rows<'a, T: Element>: View<
            Indices = Self::Vector<'a, u32>,
            Floats = Self::Vector<'a, f32>,
            Scalar = Self::Vector<'a, f32>,
        >;
    /// A writable matrix.
    type RowsMut<'a, T: Element>: Matrix;
    /// A read-only vector.
    type Vector<'a, T: Pod>: Copy;
    /// A writable vector.
    type VectorMut<'a, T: Pod>;
    /// A vector that owns its memory.
    type Buffer<T: Pod>;
    /// A key queue.
    type Queue<T: Element>;
    /// A scalar result.
    type Number: Read<Value = f32>;
    /// Row statistics.
    type Statistics: Read<Value = Statistics>;
    /// The result of a contrast.
    type Evaluation: Evaluation<Statistics = Self::Statistics>;
    /// The result of a top-k search.
    type TopK: Read<Value = TopK>;

    /// A copy of `elements` in this memory.
    ///
    /// # Errors
    /// Those of the device.
    fn upload<T: Pod>(&self, elements: &[T]) -> Result<Self::Buffer<T>, Error>;

    /// A copy in host memory; waits for the engine.
    ///
    /// # Errors
    /// As [`upload`](Self::upload).
    fn download<T: Pod>(&self, buffer: &Self::Buffer<T>) -> Result<Vec<T>, Error>;

    /// The buffer as a matrix of `rows` × `dim`.
    ///
    /// # Errors
    /// [`Error::Length`] when the buffer does not hold `rows` × `dim` elements, [`Error::Empty`] for 0 of them.
    fn rows<'a, T: Element>(
        &self,
        buffer: &'a Self::Buffer<T>,
        rows: usize,
        dim: usize,
    ) -> Result<Self::Rows<'a, T>, Error>;

    /// The buffer as a writable matrix of `rows` × `dim`.
    ///
    /// # Errors
    /// As [`rows`](Self::rows).
    fn rows_mut<'a, T: Element>(
        &self,
        buffer: &'a mut Self::Buffer<T>,
        rows: usize,
        dim: usize,
    ) -> Result<Self::RowsMut<'a, T>, Error>;

    /// The same matrix, read for less long.
    fn shorten<'s, 'a: 's, T: Element>(rows: Self::Rows<'a, T>) -> Self::Rows<'s, T>;

    /// The same matrix, borrowed for less long.
    fn reborrow<'s, T: Element>(rows: &'s mut Self::RowsMut<'_, T>) -> Self::RowsMut<'s, T>;

    /// The buffer as a vector.
    ///
    /// # Errors
    /// [`Error::Empty`] for an empty buffer on a device.
    fn vector<'a, T: Pod>(&self, buffer: &'a Self::Buffer<T>)
    -> Result<Self::Vector<'a, T>, Error>;

    /// The buffer as a writable vector.
    ///
    /// # Errors
    /// As [`vector`](Self::vector).
    fn vector_mut<'a, T: Pod>(
        &self,
        buffer: &'a mut Self::Buffer<T>,
    ) -> Result<Self::VectorMut<'a, T>, Error>;

    /// A queue in this memory.
    ///
    /// # Errors
    /// As [`upload`](Self::upload).
    fn queue<T: Element>(&self, queue: KeyQueue<T>) -> Result<Self::Queue<T>, Error>;

    /// The keys that a queue holds, one a row of D elements; `None` while it is empty.
    fn filled<T: Element>(queue: &Self::Queue<T>) -> Option<Self::Rows<'_, T>>;

    /// The labels of the keys that a queue holds; `None` while it is empty, and for a queue without labels.
    fn labels<T: Element>(queue: &Self::Queue<T>) -> Option<Self::Vector<'_, u32>>;

    /// A copy of a queue in host memory, bit for bit.
    ///
    /// # Errors
    /// As [`download`](Self::download).
    fn saved<T: Element>(&self, queue: &Self::Queue<T>) -> Result<KeyQueue<T>, Error>;

    /// Statistics in this memory.
    ///
    /// # Errors
    /// As [`upload`](Self::upload); [`Error::Rows`] when lse⁻ and z₊ of rows, or of columns, differ in length.
    fn statistics(&self, statistics: &Statistics) -> Result<Self::Statistics, Error>;
}

/// Loss, ∂loss/∂scale and row statistics in host memory; dq and dk were written into the caller's buffers.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluated {
    /// The reduced loss, not multiplied by the upstream gradient.
    pub loss: f32,
    /// Upstream × ∂loss/∂s, with s = 1/τ the scale; 0 after a forward.
    pub dscale: f32,
    /// lse⁻ and z₊ of each row, and of each column where columns have a loss.
    pub statistics: Statistics,
}

/// The k best candidates of every query, best first; equal scores in index order.
#[derive(Debug, Clone, PartialEq)]
pub struct TopK {
    /// Candidate indices, N × k.
    pub indices: Vec<u32>,
    /// ⟨q_i, k_j⟩ of each, N × k, without the scale s. NaN sorts before every number.
    pub scores: Vec<f32>,
}

/// Host memory: views are slices, and results are read in place.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostMemory;

impl Memory for HostMemory {
    type Rows<'a, T: Element> = Rows<'a, T>;
    type RowsMut<'a, T: Element> = RowsMut<'a, T>;
    type Vector<'a, T: Pod> = &'a [T];
    type VectorMut<'a, T: Pod> = &'a mut [T];
    type Buffer<T: Pod> = Vec<T>;
    type Queue<T: Element> = KeyQueue<T>;
    type Number = f32;
    type Statistics = Statistics;
    type Evaluation = Evaluated;
    type TopK = TopK;

    fn upload<T: Pod>(&self, elements: &[T]) -> Result<Vec<T>, Error> {
        Ok(elements.to_vec())
    }

    fn download<T: Pod>(&self, buffer: &Vec<T>) -> Result<Vec<T>, Error> {
        Ok(buffer.clone())
    }

    fn rows<'a, T: Element>(
        &self,
        buffer: &'a Vec<T>,
        rows: usize,
        dim: usize,
    ) -> Result<Rows<'a, T>, Error> {
        Rows::new(buffer, rows, dim)
    }

    fn rows_mut<'a, T: Element>(
        &self,
        buffer: &'a mut Vec<T>,
        rows: usize,
        dim: usize,
    ) -> Result<RowsMut<'a, T>, Error> {
        RowsMut::new(buffer, rows, dim)
    }

    fn shorten<'s, 'a: 's, T: Element>(rows: Rows<'a, T>) -> Rows<'s, T> {
        rows
    }

    fn reborrow<'s, T: Element>(rows: &'s mut RowsMut<'_, T>) -> RowsMut<'s, T> {
        rows.reborrow()
    }

    fn vector<'a, T: Pod>(&self, buffer: &'a Vec<T>) -> Result<&'a [T], Error> {
        Ok(buffer)
    }

    fn vector_mut<'a, T: Pod>(&self, buffer: &'a mut Vec<T>) -> Result<&'a mut [T], Error> {
        Ok(buffer)
    }

    fn queue<T: Element>(&self, queue: KeyQueue<T>) -> Result<KeyQueue<T>, Error> {
        Ok(queue)
    }

    fn filled<T: Element>(queue: &KeyQueue<T>) -> Option<Rows<'_, T>> {
        queue.filled()
    }

    fn labels<T: Element>(queue: &KeyQueue<T>) -> Option<&[u32]> {
        queue.labels().filter(|labels| !labels.is_empty())
    }

    fn saved<T: Element>(&self, queue: &KeyQueue<T>) -> Result<KeyQueue<T>, Error> {
        Ok(queue.clone())
    }

    fn statistics(&self, statistics: &Statistics) -> Result<Statistics, Error> {
        Ok(statistics.clone())
    }
}

macro_rules! in_host_memory {
    ($($result:ty),*) => {$(
        impl Read for $result {
            type Value = Self;
            fn read(&self) -> Result<Self, Error> {
                Ok(self.clone())
            }
        }
    )*};
}
in_host_memory!(f32, Statistics, TopK);

impl Evaluation for Evaluated {
    type Statistics = Statistics;
    fn loss(&self) -> Result<f32, Error> {
        Ok(self.loss)
    }
    fn dscale(&self) -> Result<f32, Error> {
        Ok(self.dscale)
    }
    fn statistics(&self) -> &Statistics {
        &self.statistics
    }
    fn into_statistics(self) -> Statistics {
        self.statistics
    }
}
