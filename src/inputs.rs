//! [`Inputs`]: the matrices and positives of a batch.

use crate::error::Error;
use crate::losses::description::Layout;
use crate::positives::Positives;
use crate::rows::View;

/// The matrices of a contrast; `V` is an engine's matrix view, [`Rows`](crate::Rows) in host memory.
#[derive(Debug, Clone, Copy)]
pub enum Inputs<V: View> {
    /// Anchors and candidates are the same N × D matrix (NT-Xent): rows 0..N/2 are one view of N/2
    /// images, rows N/2..N the other.
    Shared {
        /// Embeddings of both views, N × D.
        z: V,
    },
    /// Anchors and candidates are the same N × D matrix, with the positives of each row (SupCon). A row is no candidate
    /// of its own.
    Labelled {
        /// Embeddings, N × D.
        z: V,
        /// Which rows are each row's positives.
        positives: Positives<V::Indices>,
    },
    /// Anchors N × D and candidates M × D (InfoNCE, CLIP).
    Pair {
        /// Anchors, N × D.
        q: V,
        /// Candidates, M × D.
        k: V,
        /// Which candidate is each anchor's positive.
        positives: Positives<V::Indices>,
    },
    /// Anchors, each with a positive of its own, and a queue of negatives that all share (MoCo).
    Queue {
        /// Anchors, N × D.
        q: V,
        /// Row `i` is the positive of anchor `i`, N × D.
        own_key: V,
        /// Negatives, M × D.
        queue: V,
    },
    /// Anchors and candidates, and the matrices of their targets, of another encoder or another view (DINO, SwAV, ReLIC):
    /// anchor i's targets are a softmax of ⟨u_{i mod B}, p_j⟩.
    Targets {
        /// Anchors, N × D.
        q: V,
        /// Candidates, M × D: prototypes.
        k: V,
        /// u: B rows of a dimension of their own, which N is a multiple of.
        target_q: V,
        /// p: M rows of that dimension.
        target_k: V,
    },
}

/// The matrices by their roles.
#[derive(Debug, Clone, Copy)]
pub struct Matrices<V> {
    /// N × D.
    pub anchors: V,
    /// M × D; for [`Inputs::Shared`] the anchors themselves.
    pub candidates: V,
    /// For [`Inputs::Queue`]: each anchor's positive, N × D.
    pub own_keys: Option<V>,
    /// For [`Inputs::Targets`]: u and p.
    pub targets: Option<[V; 2]>,
}

impl<V: View> Inputs<V> {
    /// Anchors q and candidates k, of which candidate i is the positive of anchor i.
    pub fn pair(q: V, k: V) -> Self {
        Self::Pair {
            q,
            k,
            positives: Positives::DIAGONAL,
        }
    }

    /// The matrices by their roles.
    pub fn matrices(&self) -> Matrices<V> {
        let (anchors, candidates, own_keys) = match *self {
            Self::Shared { z } | Self::Labelled { z, .. } => (z, z, None),
            Self::Pair { q, k, .. } => (q, k, None),
            Self::Queue { q, own_key, queue } => (q, queue, Some(own_key)),
            Self::Targets { q, k, .. } => (q, k, None),
        };
        let targets = match *self {
            Self::Targets {
                target_q, target_k, ..
            } => Some([target_q, target_k]),
            _ => None,
        };
        Matrices {
            anchors,
            candidates,
            own_keys,
            targets,
        }
    }

    pub(crate) fn layout(&self) -> Layout {
        match self {
            Self::Shared { .. } => Layout::Shared,
            Self::Labelled { .. } => Layout::Labelled,
            Self::Pair { .. } => Layout::Pair,
            Self::Queue { .. } => Layout::Queue,
            Self::Targets { .. } => Layout::Targets,
        }
    }

    /// Maps these inputs to other memory: `matrix` maps each matrix, `indices` each vector of indices or labels,
    /// given its argument's name.
    ///
    /// # Errors
    /// The first that `matrix` or `indices` returns.
    pub fn try_map<'s, W: View>(
        &'s self,
        mut matrix: impl FnMut(&'static str, &'s V) -> Result<W, Error>,
        indices: impl FnMut(&'static str, &'s V::Indices) -> Result<W::Indices, Error>,
    ) -> Result<Inputs<W>, Error> {
        Ok(match self {
            Self::Shared { z } => Inputs::Shared { z: matrix("z", z)? },
            Self::Labelled { z, positives } => Inputs::Labelled {
                z: matrix("z", z)?,
                positives: positives.try_map(indices)?,
            },
            Self::Pair { q, k, positives } => Inputs::Pair {
                q: matrix("q", q)?,
                k: matrix("k", k)?,
                positives: positives.try_map(indices)?,
            },
            Self::Queue { q, own_key, queue } => Inputs::Queue {
                q: matrix("q", q)?,
                own_key: matrix("own_key", own_key)?,
                queue: matrix("queue", queue)?,
            },
            Self::Targets {
                q,
                k,
                target_q,
                target_k,
            } => Inputs::Targets {
                q: matrix("q", q)?,
                k: matrix("k", k)?,
                target_q: matrix("target_q", target_q)?,
                target_k: matrix("target_k", target_k)?,
            },
        })
    }
}
