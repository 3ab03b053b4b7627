//! The key queue of MoCo: a ring buffer of candidates that carry no gradient.

use crate::contrast::{same_dim, same_length};
use crate::element::Element;
use crate::error::Error;
use crate::rows::{Matrix, Rows};

/// The arithmetic of a ring buffer, wherever its rows are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ring {
    /// Rows that it can hold.
    pub capacity: usize,
    /// Rows that have been written.
    pub fill: usize,
    /// The row that is written next.
    pub cursor: usize,
}

/// Rows to copy: `count` rows from row `source` of the batch to row `target` of the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    /// First row in the batch.
    pub source: usize,
    /// First row in the ring.
    pub target: usize,
    /// Rows.
    pub count: usize,
}

impl Ring {
    /// Advances over a batch and returns the rows to copy: two segments, which may be empty. Of a batch
    /// longer than the ring only the last `capacity` rows are copied, each to the row that it would have if rows
    /// were written one by one.
    pub fn advance(&mut self, batch: usize) -> [Segment; 2] {
        let skipped = batch.saturating_sub(self.capacity);
        let kept = batch - skipped;
        let start = (self.cursor + skipped) % self.capacity;
        let first = kept.min(self.capacity - start);
        self.cursor = (start + kept) % self.capacity;
        self.fill = (self.fill + batch).min(self.capacity);
        [
            Segment {
                source: skipped,
                target: start,
                count: first,
            },
            Segment {
                source: skipped + first,
                target: 0,
                count: kept - first,
            },
        ]
    }
}

/// A ring buffer of `capacity` keys of dimension `dim`; any batch size fits any capacity.
///
/// ```
/// use infonce::{CpuEngine, Engine, KeyQueue, Matrix, Rows};
/// let mut queue = KeyQueue::<f32>::new(3, 2)?;
/// CpuEngine::new().enqueue(&mut queue, Rows::new(&[1.0, 0.0, 0.0, 1.0], 2, 2)?)?;
/// assert_eq!(queue.filled().map(|keys| keys.rows()), Some(2));
/// # Ok::<(), infonce::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct KeyQueue<T> {
    ring: Ring,
    dim: usize,
    keys: Vec<T>,
}

impl<T: Element> KeyQueue<T> {
    /// An empty queue.
    ///
    /// # Errors
    /// [`Error::Empty`] when `capacity` or `dim` is 0.
    pub fn new(capacity: usize, dim: usize) -> Result<Self, Error> {
        Self::restore(capacity, dim, 0, 0, &[])
    }

    /// The queue that was saved as [`capacity`](Self::capacity), [`dim`](Self::dim),
    /// [`fill`](Self::fill), [`cursor`](Self::cursor) and the elements of [`filled`](Self::filled):
    /// exact, bit for bit.
    ///
    /// # Errors
    /// [`Error::Empty`] when `capacity` or `dim` is 0, [`Error::QueueState`] when `fill` or
    /// `cursor` is out of range or they contradict each other, [`Error::Length`] when `keys` does
    /// not hold fill × dim elements.
    pub fn restore(
        capacity: usize,
        dim: usize,
        fill: usize,
        cursor: usize,
        keys: &[T],
    ) -> Result<Self, Error> {
        if capacity == 0 || dim == 0 {
            return Err(Error::Empty {
                argument: "queue",
                rows: capacity,
                dim,
            });
        }
        // Until it is full, a ring is written from row 0 on, so the cursor is the fill count.
        if fill > capacity || cursor >= capacity || (fill < capacity && cursor != fill) {
            return Err(Error::QueueState {
                reason: format!("fill {fill} and cursor {cursor} in a queue of {capacity}"),
            });
        }
        same_length("keys", keys.len(), fill * dim)?;
        let mut storage = vec![T::from_f32(0.0); capacity * dim];
        storage[..keys.len()].copy_from_slice(keys);
        let ring = Ring {
            capacity,
            fill,
            cursor,
        };
        Ok(Self {
            ring,
            dim,
            keys: storage,
        })
    }

    /// Keys that it can hold.
    pub fn capacity(&self) -> usize {
        self.ring.capacity
    }

    /// Dimension D of a key.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Keys it holds now.
    pub fn fill(&self) -> usize {
        self.ring.fill
    }

    /// The row that the next key is written to.
    pub fn cursor(&self) -> usize {
        self.ring.cursor
    }

    /// The keys it holds, fill × D, in storage order; `None` while it is empty.
    pub fn filled(&self) -> Option<Rows<'_, T>> {
        let (fill, dim) = (self.ring.fill, self.dim);
        Rows::new(&self.keys[..fill * dim], fill, dim).ok()
    }

    pub(crate) fn push(&mut self, keys: Rows<'_, T>) -> Result<(), Error> {
        same_dim("keys", keys.dim(), self.dim)?;
        let (dim, elements) = (self.dim, keys.contiguous());
        for segment in self.ring.advance(keys.rows()) {
            let source = segment.source * dim..(segment.source + segment.count) * dim;
            let target = segment.target * dim..(segment.target + segment.count) * dim;
            self.keys[target].copy_from_slice(&elements[source]);
        }
        Ok(())
    }
}

/// For engines that keep a copy of the queue in their memory.
#[cfg(any(feature = "emulator", feature = "cuda"))]
impl<T: Element> KeyQueue<T> {
    pub(crate) fn ring(&self) -> Ring {
        self.ring
    }

    /// All rows, including those never written.
    pub(crate) fn storage(&self) -> &[T] {
        &self.keys
    }
}
