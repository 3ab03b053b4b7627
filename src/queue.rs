//! The key queue of MoCo: a ring buffer of candidates that carry no gradient, with a label beside each if wanted.

use crate::contrast::{same_dim, same_length, same_rows};
use crate::element::Element;
use crate::error::Error;
use crate::positives::NO_POSITIVE;
use crate::rows::{Matrix, Rows, addressable};

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

impl Segment {
    /// Copies the rows of this segment; a row has `width` elements.
    fn copy<T: Copy>(self, batch: &[T], ring: &mut [T], width: usize) {
        let source = self.source * width..(self.source + self.count) * width;
        let target = self.target * width..(self.target + self.count) * width;
        ring[target].copy_from_slice(&batch[source]);
    }
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
///
/// With labels (classes, ids) the keys can be given positives by [`Positives::Labels`](crate::Positives::Labels):
/// ```
/// use infonce::{CpuEngine, Engine, KeyQueue, NO_POSITIVE, Rows};
/// let mut queue = KeyQueue::<f32>::new(3, 2)?.with_labels(&[])?;
/// let keys = Rows::new(&[1.0, 0.0, 0.0, 1.0], 2, 2)?;
/// CpuEngine::new().enqueue_labelled(&mut queue, keys, &[4, NO_POSITIVE])?;
/// assert_eq!(queue.labels(), Some(&[4, NO_POSITIVE][..]));
/// # Ok::<(), infonce::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct KeyQueue<T> {
    ring: Ring,
    dim: usize,
    keys: Vec<T>,
    /// One a row of the ring.
    labels: Option<Vec<u32>>,
}

/// Checks that labels come with keys exactly where a queue keeps labels, one for each key.
pub(crate) fn check_labels(keeps: bool, given: Option<usize>, keys: usize) -> Result<(), Error> {
    match (keeps, given) {
        (true, Some(labels)) => same_rows("labels", labels, keys),
        (false, None) => Ok(()),
        (true, None) => Err(Error::QueueLabels {
            given: "missing",
            expected: "one for each key",
        }),
        (false, Some(_)) => Err(Error::QueueLabels {
            given: "given",
            expected: "none",
        }),
    }
}

impl<T: Element> KeyQueue<T> {
    /// An empty queue.
    ///
    /// # Errors
    /// [`Error::Empty`] when `capacity` or `dim` is 0, [`Error::Scalar`] when no address space holds the keys.
    pub fn new(capacity: usize, dim: usize) -> Result<Self, Error> {
        Self::restore(capacity, dim, 0, 0, &[])
    }

    /// The queue that was saved as [`capacity`](Self::capacity), [`dim`](Self::dim),
    /// [`fill`](Self::fill), [`cursor`](Self::cursor) and the elements of [`filled`](Self::filled):
    /// exact, bit for bit.
    ///
    /// # Errors
    /// As [`new`](Self::new); [`Error::QueueState`] when `fill` or
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
        let elements = addressable::<T>("capacity", capacity, dim)?;
        same_length("keys", keys.len(), fill * dim)?;
        let mut storage = vec![T::from_f32(0.0); elements];
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
            labels: None,
        })
    }

    /// The same queue, which keeps a label for each key from now on. `labels` are those of the keys that it holds, in
    /// storage order: none for an empty queue, or what [`labels`](Self::labels) was when the queue was saved.
    /// [`NO_POSITIVE`] is a label that no key shares. Keys then come by
    /// [`Engine::enqueue_labelled`](crate::Engine::enqueue_labelled).
    ///
    /// # Errors
    /// [`Error::Length`] unless there is a label for each key that the queue holds.
    pub fn with_labels(mut self, labels: &[u32]) -> Result<Self, Error> {
        same_length("labels", labels.len(), self.ring.fill)?;
        let mut storage = labels.to_vec();
        storage.resize(self.ring.capacity, NO_POSITIVE);
        self.labels = Some(storage);
        Ok(self)
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

    /// The labels of the keys that it holds, in storage order; `None` for a queue without labels.
    pub fn labels(&self) -> Option<&[u32]> {
        self.labels.as_ref().map(|labels| &labels[..self.ring.fill])
    }

    pub(crate) fn push(&mut self, keys: Rows<'_, T>, labels: Option<&[u32]>) -> Result<(), Error> {
        same_dim("keys", keys.dim(), self.dim)?;
        let given = labels.map(<[u32]>::len);
        check_labels(self.labels.is_some(), given, keys.rows())?;
        let elements = keys.contiguous();
        for segment in self.ring.advance(keys.rows()) {
            segment.copy(&elements, &mut self.keys, self.dim);
            if let Some((labels, kept)) = labels.zip(self.labels.as_mut()) {
                segment.copy(labels, kept, 1);
            }
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

    /// The labels of all rows; [`NO_POSITIVE`] of those never written.
    pub(crate) fn label_storage(&self) -> Option<&[u32]> {
        self.labels.as_deref()
    }

    /// The queue that another memory holds as `ring`, with all its rows and their labels.
    pub(crate) fn from_storage(
        ring: Ring,
        dim: usize,
        keys: &[T],
        labels: Option<Vec<u32>>,
    ) -> Result<Self, Error> {
        let Ring {
            capacity,
            fill,
            cursor,
        } = ring;
        let queue = Self::restore(capacity, dim, fill, cursor, &keys[..fill * dim])?;
        match labels {
            Some(labels) => queue.with_labels(&labels[..fill]),
            None => Ok(queue),
        }
    }
}
