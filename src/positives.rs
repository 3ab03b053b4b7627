//! Which candidates are an anchor's positives, and ids by which it excludes others.

use std::collections::HashMap;
use std::convert::Infallible;

use crate::contrast::same_length;
use crate::error::Error;
use crate::rows::Elements;

/// The index or label, in [`Positives`], of an anchor that has no positive among the candidates.
pub const NO_POSITIVE: u32 = u32::MAX;

/// Which candidate is each anchor's positive; with a rule of sets ([`RowRule::Sets`](crate::losses::RowRule::Sets)),
/// which candidates are.
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
    /// The candidate whose label (a class, an id) is the anchor's; none where no candidate has it, or where it is
    /// [`NO_POSITIVE`]. With a rule of sets all candidates of that label; otherwise the first, and later ones are
    /// negatives like all others. Where anchors are candidates, only a rule of sets takes labels.
    Labels {
        /// One for each anchor, N.
        anchors: I,
        /// One for each candidate, M.
        candidates: I,
    },
    /// For a rule of sets: candidates `candidates[starts[i]..starts[i + 1]]`, ascending.
    Lists {
        /// N + 1 ascending places, from 0 to the length of `candidates`.
        starts: I,
        /// The lists, one after the other. In device memory, which is not checked, an index of M or more is ignored.
        candidates: I,
    },
}

/// Ids of anchors and candidates; [`NO_ID`] is nobody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids<I> {
    /// One for each anchor, N.
    pub anchors: I,
    /// One for each candidate, M.
    pub candidates: I,
}

/// The id, in [`Ids`], of a row that has none.
pub const NO_ID: u32 = u32::MAX;

impl<I> Positives<I> {
    /// Candidate i.
    pub const DIAGONAL: Self = Self::Offset(0);

    /// No candidate: the positives are in another set of candidates ([`Engine::forward_over`](crate::Engine)).
    pub const NONE: Self = Self::Offset(i64::MIN);

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
            Self::Lists { starts, candidates } => Positives::Lists {
                starts: indices("positives.starts", starts)?,
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

impl<I: Elements<u32>> Positives<I> {
    /// Each anchor's positive as given, even beyond the last candidate; empty where the host cannot read the
    /// indices.
    pub(crate) fn on_host(&self, anchors: usize) -> Vec<Option<usize>> {
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
            Self::Lists { .. } => vec![None; anchors],
        }
    }
}

/// Checks lists of positives in host memory.
pub(crate) fn check_lists(starts: &[u32], listed: &[u32], candidates: usize) -> Result<(), Error> {
    let malformed = |row, reason| Err(Error::PositiveLists { row, reason });
    if starts[0] != 0 {
        return malformed(0, "the first list does not start at 0");
    }
    for (row, range) in starts.windows(2).enumerate() {
        let Some(list) = listed.get(range[0] as usize..range[1] as usize) else {
            return malformed(row, "its places are not ascending places of `candidates`");
        };
        if !list.is_sorted_by(|a, b| a < b) {
            return malformed(row, "its candidates are not ascending");
        }
        if let Some(&given) = list.last().filter(|&&j| j as usize >= candidates) {
            return Err(Error::PositiveOutOfRange {
                row,
                given,
                candidates,
            });
        }
    }
    same_length(
        "positives.candidates",
        listed.len(),
        starts[starts.len() - 1] as usize,
    )
}
