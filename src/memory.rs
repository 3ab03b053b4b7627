//! Where an engine's matrices live, and the way there and back.

use bytemuck::Pod;

use crate::element::Element;
use crate::error::Error;
use crate::queue::KeyQueue;
use crate::rows::{Matrix, Rows, RowsMut, View};
use crate::statistics::Statistics;

/// What an engine left in its memory, to be read once everything before has ended.
pub trait Read {
    /// What it is on the host.
    type Value;
    /// Copies it to the host; waits for the engine.
    ///
    /// # Errors
    /// What the engine reports of work before.
    fn read(&self) -> Result<Self::Value, Error>;
}

/// Loss and statistics in an engine's memory, and ∂loss/∂s after a call that had gradients. Nothing is
/// copied to the host until it is asked for.
pub trait Evaluation {
    /// Row statistics in the engine's memory.
    type Statistics;
    /// The reduced loss, not multiplied by the upstream gradient; waits for the engine.
    ///
    /// # Errors
    /// What the engine reports of work before.
    fn loss(&self) -> Result<f32, Error>;
    /// Upstream × ∂loss/∂s, with s = 1/τ the scale; 0 after a forward. Waits for the engine.
    ///
    /// # Errors
    /// As [`loss`](Self::loss).
    fn dscale(&self) -> Result<f32, Error>;
    /// What [`Engine::backward`](crate::Engine::backward) needs.
    fn statistics(&self) -> &Self::Statistics;
}

/// A kind of memory: host memory, or a device's.
pub trait Memory {
    /// A read-only matrix.
    type Rows<'a, T: Element>: View<Indices = Self::Vector<'a, u32>, Scalar = Self::Vector<'a, f32>>;
    /// A writable matrix.
    type RowsMut<'a, T: Element>: Matrix;
    /// A read-only vector.
    type Vector<'a, T: Pod>: Copy;
    /// A writable vector.
    type VectorMut<'a, T: Pod>;
    /// Memory of one's own.
    type Buffer<T: Pod>;
    /// A key queue.
    type Queue<T: Element>;
    /// One number that a call left.
    type Number: Read<Value = f32>;
    /// Row statistics.
    type Statistics: Read<Value = Statistics>;
    /// What a contrast's call left.
    type Evaluation: Evaluation<Statistics = Self::Statistics>;
    /// What a search left.
    type TopK: Read<Value = TopK>;

    /// A copy of `numbers`.
    ///
    /// # Errors
    /// What the device reports, as for all that follow.
    fn upload<T: Pod>(&self, numbers: &[T]) -> Result<Self::Buffer<T>, Error>;

    /// A copy on the host, once everything before has ended.
    ///
    /// # Errors
    /// As [`upload`](Self::upload).
    fn download<T: Pod>(&self, buffer: &Self::Buffer<T>) -> Result<Vec<T>, Error>;

    /// The buffer as a matrix of `rows` × `dim`.
    ///
    /// # Errors
    /// [`Error::Length`] or [`Error::Empty`] when it is none.
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

    /// The buffer as a vector.
    ///
    /// # Errors
    /// [`Error::Empty`] when nothing is in it, on a device.
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

    /// The keys of a queue; `None` while it is empty.
    fn filled<T: Element>(queue: &Self::Queue<T>) -> Option<Self::Rows<'_, T>>;

    /// A copy of a queue on the host, bit for bit.
    ///
    /// # Errors
    /// As [`download`](Self::download).
    fn saved<T: Element>(&self, queue: &Self::Queue<T>) -> Result<KeyQueue<T>, Error>;

    /// Statistics in this memory.
    ///
    /// # Errors
    /// As [`upload`](Self::upload); [`Error::Rows`] when the parts of a direction have different lengths.
    fn statistics(&self, statistics: &Statistics) -> Result<Self::Statistics, Error>;
}

/// Loss, ∂loss/∂scale and row statistics in host memory; dq and dk were written into the caller's buffers.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluated {
    /// The reduced loss, not multiplied by the upstream gradient.
    pub loss: f32,
    /// Upstream × ∂loss/∂s, with s = 1/τ the scale; 0 after a forward.
    pub dscale: f32,
    /// Per row, and per column where columns have a loss.
    pub statistics: Statistics,
}

/// The k best candidates of every query, best first; equal scores in index order.
#[derive(Debug, Clone, PartialEq)]
pub struct TopK {
    /// Candidate indices, N × k.
    pub indices: Vec<u32>,
    /// ⟨q_i, k_j⟩ of each, N × k, not scaled. NaN sorts before every number.
    pub scores: Vec<f32>,
}

/// The host's own memory: views are slices, and results are read where they lie.
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

    fn upload<T: Pod>(&self, numbers: &[T]) -> Result<Vec<T>, Error> {
        Ok(numbers.to_vec())
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

    fn saved<T: Element>(&self, queue: &KeyQueue<T>) -> Result<KeyQueue<T>, Error> {
        Ok(queue.clone())
    }

    fn statistics(&self, statistics: &Statistics) -> Result<Statistics, Error> {
        Ok(statistics.clone())
    }
}

macro_rules! on_the_host {
    ($($result:ty),*) => {$(
        impl Read for $result {
            type Value = Self;
            fn read(&self) -> Result<Self, Error> {
                Ok(self.clone())
            }
        }
    )*};
}
on_the_host!(f32, Statistics, TopK);

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
}
