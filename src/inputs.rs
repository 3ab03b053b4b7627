//! A batch: [`Inputs`] are its matrices, [`Positives`] say which candidates are positives, and a [`Problem`] is a
//! contrast on them, checked.

use std::collections::HashMap;
use std::convert::Infallible;

use crate::contrast::{Contrast, Shape, same_dim, same_rows};
use crate::error::Error;
use crate::losses::description::Layout;
use crate::rows::{Indices, Matrix, View};

/// The index or label, in [`Positives`], of an anchor that has no positive among the candidates.
pub const NO_POSITIVE: u32 = u32::MAX;

/// Which candidate is each anchor's positive.
///
/// An anchor may have none: its loss is then 0 and its z₊ −∞. Candidates that are a *shard*, a subset of a larger
/// set, lack the positives of other shards; [`Engine::merge`](crate::Engine::merge) takes their z₊ from there. An
/// engine reads indices and labels from its memory when it computes: a recorded graph, at each replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Positives<I> {
    /// Candidate i + offset, where there is one. 0 is the diagonal; candidates that start at row c of a larger
    /// matrix have offset −c.
    Offset(i64),
    /// Candidate `index[i]`, [`NO_POSITIVE`] for none. Other indices of M or more are an error in host memory;
    /// in device memory, which is not checked, they mean none.
    Index(I),
    /// The first candidate whose label (a class, an id) is the anchor's; none where no candidate has it, or
    /// where it is [`NO_POSITIVE`]. Later candidates of that label are negatives like all others.
    Labels {
        /// One for each anchor, N.
        anchors: I,
        /// One for each candidate, M.
        candidates: I,
    },
}

impl<I> Positives<I> {
    /// Candidate i.
    pub const DIAGONAL: Self = Self::Offset(0);

    /// Maps these positives to other memory: `indices` maps each vector of indices or labels, given its argument's
    /// name.
    ///
    /// # Errors
    /// The first that `indices` returns.
    pub fn try_map<'s, J, E>(
        &'s self,
        mut indices: impl FnMut(&'static str, &'s I) -> Result<J, E>,
    ) -> Result<Positives<J>, E> {
        Ok(match self {
            Self::Offset(offset) => Positives::Offset(*offset),
            Self::Index(index) => Positives::Index(indices("positives", index)?),
            Self::Labels {
                anchors,
                candidates,
            } => Positives::Labels {
                anchors: indices("positives.anchors", anchors)?,
                candidates: indices("positives.candidates", candidates)?,
            },
        })
    }
}

impl Positives<Vec<u32>> {
    /// These positives, borrowed.
    pub fn view(&self) -> Positives<&[u32]> {
        let Ok(view) = self.try_map(|_, indices| Ok::<_, Infallible>(indices.as_slice()));
        view
    }
}

impl<I: Indices> Positives<I> {
    /// Each anchor's positive as given, even beyond the last candidate; empty where the host cannot read the
    /// indices.
    fn on_host(&self, anchors: usize) -> Vec<Option<usize>> {
        let read = |indices: &I| indices.on_host().unwrap_or_default().to_vec();
        match self {
            Self::Offset(offset) => (0..anchors as i64)
                .map(|i| usize::try_from(i.checked_add(*offset)?).ok())
                .collect(),
            Self::Index(index) => read(index).iter().map(|&j| Some(j as usize)).collect(),
            Self::Labels {
                anchors,
                candidates,
            } => {
                let mut first = HashMap::from([(NO_POSITIVE, None)]);
                for (j, label) in read(candidates).into_iter().enumerate() {
                    first.entry(label).or_insert(Some(j));
                }
                let of = |label: &u32| first.get(label).copied().flatten();
                read(anchors).iter().map(of).collect()
            }
        }
    }
}

/// The matrices of a contrast; `V` is an engine's matrix view, [`Rows`](crate::Rows) in host memory.
#[derive(Debug, Clone, Copy)]
pub enum Inputs<V: View> {
    /// Anchors and candidates are the same N × D matrix (NT-Xent): rows 0..N/2 are one view of N/2
    /// images, rows N/2..N the other.
    Shared {
        /// Embeddings of both views, N × D.
        z: V,
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
            Self::Shared { z } => (z, z, None),
            Self::Pair { q, k, .. } => (q, k, None),
            Self::Queue { q, own_key, queue } => (q, queue, Some(own_key)),
        };
        Matrices {
            anchors,
            candidates,
            own_keys,
        }
    }

    fn layout(&self) -> Layout {
        match self {
            Self::Shared { .. } => Layout::Shared,
            Self::Pair { .. } => Layout::Pair,
            Self::Queue { .. } => Layout::Queue,
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
        })
    }
}

/// A contrast on its inputs, checked once: what engines compute. Made by [`Contrast::on`].
#[derive(Debug, Clone, Copy)]
pub struct Problem<V: View> {
    contrast: Contrast,
    inputs: Inputs<V>,
    shape: Shape,
    /// Candidates of all shards together.
    all_candidates: usize,
    /// s in the engine's memory, in place of the contrast's s.
    scale: Option<V::Scalar>,
}

impl Contrast {
    /// Checks that the inputs fit, and joins them with the contrast.
    ///
    /// # Errors
    /// [`Error::Inputs`], [`Error::OddRows`], [`Error::Dimension`], [`Error::Rows`],
    /// [`Error::PositiveOutOfRange`] or [`Error::Positives`], naming the first argument that does not fit.
    pub fn on<V: View>(&self, inputs: Inputs<V>) -> Result<Problem<V>, Error> {
        if inputs.layout() != self.layout() {
            return Err(Error::Inputs {
                contrast: self.name(),
                given: inputs.layout().name(),
                expected: self.layout().name(),
            });
        }
        let Matrices {
            anchors,
            candidates,
            own_keys,
        } = inputs.matrices();
        let shape = Shape {
            anchors: anchors.rows(),
            candidates: candidates.rows(),
            dim: anchors.dim(),
        };
        if self.is_shared() && !shape.anchors.is_multiple_of(2) {
            return Err(Error::OddRows {
                given: shape.anchors,
            });
        }
        if let Some(own_keys) = own_keys {
            same_dim("own_key", own_keys.dim(), shape.dim)?;
            same_rows("own_key", own_keys.rows(), shape.anchors)?;
            same_dim("queue", candidates.dim(), shape.dim)?;
        }
        same_dim("k", candidates.dim(), shape.dim)?;
        if self.has_columns() {
            same_rows("k", shape.candidates, shape.anchors)?;
        }
        if let Inputs::Pair { positives, .. } = &inputs {
            self.check_positives(positives, shape)?;
        }
        Ok(Problem {
            contrast: *self,
            inputs,
            shape,
            all_candidates: shape.candidates,
            scale: None,
        })
    }

    /// As [`on`](Self::on), on the inputs of the contrast's layout: q is z of `Shared`, k is the queue of `Queue`.
    /// Unused matrices are ignored, and so are `positives` unless it [takes them](Self::takes_positives).
    ///
    /// # Errors
    /// Those of [`on`](Self::on).
    pub fn pose<V: View>(
        &self,
        [q, k, own_key]: [V; 3],
        positives: Positives<V::Indices>,
    ) -> Result<Problem<V>, Error> {
        self.on(match self.layout() {
            Layout::Shared => Inputs::Shared { z: q },
            Layout::Pair if self.has_columns() => Inputs::pair(q, k),
            Layout::Pair => Inputs::Pair { q, k, positives },
            Layout::Queue => Inputs::Queue {
                q,
                own_key,
                queue: k,
            },
        })
    }

    fn check_positives<I: Indices>(&self, given: &Positives<I>, shape: Shape) -> Result<(), Error> {
        if self.has_columns() && !matches!(given, Positives::Offset(0)) {
            return Err(Error::Positives {
                contrast: self.name(),
            });
        }
        let index = match given {
            Positives::Offset(_) => return Ok(()),
            Positives::Index(index) => index,
            Positives::Labels {
                anchors,
                candidates,
            } => {
                same_rows("positives.anchors", anchors.len(), shape.anchors)?;
                return same_rows("positives.candidates", candidates.len(), shape.candidates);
            }
        };
        same_rows("positives", index.len(), shape.anchors)?;
        let is_legal = |&j: &u32| j == NO_POSITIVE || (j as usize) < shape.candidates;
        let on_host = index.on_host().unwrap_or_default();
        match on_host.iter().position(|j| !is_legal(j)) {
            None => Ok(()),
            Some(row) => Err(Error::PositiveOutOfRange {
                row,
                given: on_host[row],
                candidates: shape.candidates,
            }),
        }
    }
}

impl<V: View> Problem<V> {
    /// Replaces the contrast's s by one element in the engine's memory, for scales that are learned there. The
    /// engine reads it when it computes. It must be finite and greater than 0, which is not checked.
    #[must_use]
    pub fn with_scale(self, scale: V::Scalar) -> Self {
        Self {
            scale: Some(scale),
            ..self
        }
    }

    /// Says that these candidates are a shard of `candidates` in all, which a rule that counts the negatives needs
    /// ([`RowRule::Debiased`](crate::losses::RowRule::Debiased)). A number below M counts as M.
    #[must_use]
    pub fn as_shard_of(self, candidates: usize) -> Self {
        Self {
            all_candidates: candidates.max(self.shape.candidates),
            ..self
        }
    }

    /// m, the number of negatives that a row with a positive has in all shards together.
    pub fn negatives(&self) -> usize {
        self.contrast.negatives(self.all_candidates)
    }

    /// The loss.
    pub fn contrast(&self) -> &Contrast {
        &self.contrast
    }

    /// The matrices and positives.
    pub fn inputs(&self) -> &Inputs<V> {
        &self.inputs
    }

    /// The matrices by their roles.
    pub fn matrices(&self) -> Matrices<V> {
        self.inputs.matrices()
    }

    /// N, M and D.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Where s lies in the engine's memory, after [`with_scale`](Self::with_scale).
    pub fn scale(&self) -> Option<V::Scalar> {
        self.scale
    }

    /// Which candidates are positives; `None` but for [`Inputs::Pair`].
    pub fn positives(&self) -> Option<Positives<V::Indices>> {
        match self.inputs {
            Inputs::Pair { positives, .. } => Some(positives),
            _ => None,
        }
    }

    /// The index of each anchor's positive among the candidates, for engines that compute on the host; `None`
    /// for an anchor that has none there, or has a key of its own.
    pub(crate) fn positive_candidates(&self) -> Vec<Option<usize>> {
        let of = match self.positives() {
            Some(given) => given.on_host(self.shape.anchors),
            None => self.contrast.other_views(self.shape.anchors),
        };
        let in_range = |j: Option<usize>| j.filter(|&j| j < self.shape.candidates);
        of.into_iter().map(in_range).collect()
    }

    /// Maps this problem to other memory: its inputs as [`Inputs::try_map`] does, a scale in memory by `scalar`.
    ///
    /// # Errors
    /// The first that a closure returns.
    pub fn try_map<'s, W: View>(
        &'s self,
        matrix: impl FnMut(&'static str, &'s V) -> Result<W, Error>,
        indices: impl FnMut(&'static str, &'s V::Indices) -> Result<W::Indices, Error>,
        scalar: impl FnOnce(&'s V::Scalar) -> Result<W::Scalar, Error>,
    ) -> Result<Problem<W>, Error> {
        Ok(Problem {
            contrast: self.contrast,
            inputs: self.inputs.try_map(matrix, indices)?,
            shape: self.shape,
            all_candidates: self.all_candidates,
            scale: self.scale.as_ref().map(scalar).transpose()?,
        })
    }

    /// Checks that dq is N × D, that dk is M × D, and that the contrast has a dk.
    ///
    /// # Errors
    /// [`Error::Rows`], [`Error::Dimension`] or [`Error::NoCandidateGradient`].
    pub fn check_gradients<M: Matrix>(&self, dq: &M, dk: Option<&M>) -> Result<(), Error> {
        let shape = self.shape;
        same_rows("gradients.dq", dq.rows(), shape.anchors)?;
        same_dim("gradients.dq", dq.dim(), shape.dim)?;
        let Some(dk) = dk else { return Ok(()) };
        if !self.contrast.has_dk() {
            return Err(Error::NoCandidateGradient {
                contrast: self.contrast.name(),
                reason: match self.contrast.is_shared() {
                    true => "anchors and candidates are one matrix; dq holds its whole gradient",
                    false => "keys and queue carry no gradient",
                },
            });
        }
        same_rows("gradients.dk", dk.rows(), shape.candidates)?;
        same_dim("gradients.dk", dk.dim(), shape.dim)
    }
}
