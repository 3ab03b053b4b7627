//! Negatives from top-k search: [`Miner`] draws some of each query's hardest, [`semi_hard`] selects those of triplets.

use std::collections::HashMap;

use crate::contrast::{same_length, same_rows};
use crate::element::Element;
use crate::engine::{Engine, RowsOf};
use crate::error::{Error, within};
use crate::memory::{Read, TopK};
use crate::positives::{NO_POSITIVE, Positives, check_lists};
use crate::random::SplitMix;
use crate::rows::Matrix;

/// Draws the hard negatives of queries from a corpus (ANCE, Xiong et al. 2021): of each query the `depth`
/// most similar rows that are not its positives, and `negatives` of these, uniformly and without replacement.
///
/// A miner has no state: what it draws follows from the embeddings, the seed and the number of the step. Training
/// that continues at a step draws what it would have drawn.
///
/// ```
/// use infonce::{CpuEngine, Miner, Positives, Rows};
/// let corpus = [1.0f32, 0.0, 0.9, 0.1, 0.8, 0.2, -1.0, 0.0];
/// let (corpus, query) = (Rows::new(&corpus, 4, 2)?, Rows::new(&[1.0, 0.0], 1, 2)?);
/// // Row 0 answers the query; rows 1 and 2 are the next most similar.
/// let miner = Miner::new(2, 1, 17)?;
/// let drawn = miner.mine(&CpuEngine::new(), query, corpus, Positives::Index(&[0]), 5)?;
/// assert!(drawn == [1] || drawn == [2]);
/// # Ok::<(), infonce::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Miner {
    depth: usize,
    negatives: usize,
    seed: u64,
    excludes_self: bool,
}

impl Miner {
    /// The depth of Xiong et al. 2021: 200.
    pub const DEPTH: usize = 200;

    /// A miner that draws `negatives` of the `depth` hardest.
    ///
    /// # Errors
    /// [`Error::Scalar`] unless 1 ≤ `negatives` ≤ `depth`.
    pub fn new(depth: usize, negatives: usize, seed: u64) -> Result<Self, Error> {
        let legal = (1..=depth).contains(&negatives);
        within("negatives", negatives as f32, "from 1 to `depth`", legal)?;
        Ok(Self {
            depth,
            negatives,
            seed,
            excludes_self: false,
        })
    }

    /// The same miner for queries that are the corpus's own first rows: query i never draws row i.
    #[must_use]
    pub fn excluding_self(self) -> Self {
        Self {
            excludes_self: true,
            ..self
        }
    }

    /// Indices of corpus rows, N × `negatives`, query after query, each query's in the order drawn.
    ///
    /// `queries`, N × D, and `corpus`, M × D, lie in the engine's memory. `positives` says what no query draws: its
    /// own candidate (an offset or an index), every candidate of its label, or those listed. A query whose index or label is
    /// [`NO_POSITIVE`] may draw every row. Similarity is ⟨q_i, k_j⟩, by one [`top_k`](Engine::top_k) where k is `depth`
    /// plus the most positives of a query, at most M; its result takes 8·N·k bytes. A row with NaN ranks first. The call
    /// waits for the engine.
    ///
    /// # Errors
    /// [`Error::TooFewNegatives`] for the first query with fewer than `negatives` rows that it may draw;
    /// [`Error::Rows`], [`Error::Length`], [`Error::PositiveLists`] or [`Error::PositiveOutOfRange`] for positives that
    /// fit neither side; those of `top_k`.
    pub fn mine<E: Engine, T: Element>(
        &self,
        engine: &E,
        queries: RowsOf<'_, E, T>,
        corpus: RowsOf<'_, E, T>,
        positives: Positives<&[u32]>,
        step: u64,
    ) -> Result<Vec<u32>, Error> {
        let (n, m) = (queries.rows(), corpus.rows());
        let known = Known::new(POSITIVES, positives, n, Some(m), self.excludes_self)?;
        let counts: Vec<usize> = (0..n).map(|query| known.count(query, m)).collect();
        for (query, &count) in counts.iter().enumerate() {
            let available = m - count;
            if available < self.negatives {
                return Err(Error::TooFewNegatives {
                    query,
                    available,
                    wanted: self.negatives,
                });
            }
        }
        let most = counts.into_iter().max().unwrap_or_default();
        let k = self.depth.saturating_add(most).min(m);
        let best = engine.top_k(queries, corpus, k, false)?.read()?;
        let mut drawn = Vec::with_capacity(n * self.negatives);
        for (query, listed) in best.indices.chunks(k).enumerate() {
            let others = listed.iter().copied();
            let others = others.filter(|&j| !known.contains(query, j));
            let mut hard: Vec<u32> = others.take(self.depth).collect();
            let mut random = SplitMix::of(self.seed, [step, query as u64]);
            // Fisher and Yates's shuffle, as far as needed.
            for place in 0..self.negatives {
                let other = place + random.below(hard.len() - place);
                hard.swap(place, other);
            }
            drawn.extend(&hard[..self.negatives]);
        }
        Ok(drawn)
    }
}

/// The semi-hard negative of each anchor (FaceNet, Schroff et al. 2015, section 3.2): of its listed candidates the most
/// similar one that is less similar than its positive.
///
/// `best` lists k candidates of each of the N anchors: the result of [`Engine::top_k`], in a batch against itself with
/// `exclude_self`. `positives`, N, are the anchors' positives in their triplets. `excluded` says which other candidates
/// are no negatives: those of the anchor's label, or none but the positive by `Positives::Index(positives)`. The result
/// has N indices for [`Triplets`](crate::Triplets). Similarity is ⟨q_i, k_j⟩, which orders candidates as distances do
/// where they are unit rows.
///
/// An anchor none of whose listed candidates is semi-hard gets the least similar negative of its list. With all
/// candidates listed that is TensorFlow's `triplet_semihard_loss`, which then takes the largest distance; FaceNet
/// names no such rule. It happens also where the positive is not listed, because all k are then at least as similar.
/// An anchor without a positive, or without a negative in its list, gets [`NO_POSITIVE`], which leaves it out.
///
/// ```
/// use infonce::{Positives, TopK, semi_hard};
/// let best = TopK { indices: vec![3, 0, 2, 1], scores: vec![0.9, 0.8, 0.7, 0.1] };
/// // The positive is candidate 0: 3 is more similar, 2 is semi-hard.
/// assert_eq!(semi_hard(&best, &[0], Positives::Index(&[0]))?, [2]);
/// # Ok::<(), infonce::Error>(())
/// ```
///
/// # Errors
/// [`Error::Length`] when `best` does not list as many candidates for each of the `positives`; [`Error::Rows`],
/// [`Error::Length`] or [`Error::PositiveLists`] when `excluded` fits neither the anchors nor the candidates.
pub fn semi_hard(
    best: &TopK,
    positives: &[u32],
    excluded: Positives<&[u32]>,
) -> Result<Vec<u32>, Error> {
    let (n, listed) = (positives.len(), best.indices.len());
    let k = listed / n.max(1);
    same_length("best.indices", listed, n * k)?;
    same_length("best.scores", best.scores.len(), listed)?;
    // Labels tell how many candidates there are, which are at least those that are named.
    let m = match excluded {
        Positives::Labels { candidates, .. } => {
            let all = best.indices.iter().chain(positives);
            let named = all.filter(|&&j| j != NO_POSITIVE);
            let least = named.max().map_or(0, |&j| j as usize + 1);
            Some(least.max(candidates.len()))
        }
        _ => None,
    };
    let known = Known::new(EXCLUDED, excluded, n, m, false)?;
    let select = |anchor: usize| {
        let row = anchor * k..(anchor + 1) * k;
        let indices = best.indices[row.clone()].iter().copied();
        let listed = indices.zip(best.scores[row].iter().copied());
        let positive = positives[anchor];
        if positive == NO_POSITIVE {
            return NO_POSITIVE;
        }
        let of_positive = listed.clone().find(|&(j, _)| j == positive);
        let mut negatives = listed.filter(|&(j, _)| j != positive && !known.contains(anchor, j));
        let least = negatives.clone().next_back();
        let semi_hard =
            of_positive.and_then(|(_, most)| negatives.find(|&(_, score)| score < most));
        semi_hard.or(least).map_or(NO_POSITIVE, |(j, _)| j)
    };
    Ok((0..n).map(select).collect())
}

/// Names of an argument, and of its anchors, candidates and starts.
pub(crate) type Names = [&'static str; 4];
pub(crate) const POSITIVES: Names = [
    "positives",
    "positives.anchors",
    "positives.candidates",
    "positives.starts",
];
const EXCLUDED: Names = [
    "excluded",
    "excluded.anchors",
    "excluded.candidates",
    "excluded.starts",
];

/// The candidates that are no negatives of an anchor, in host memory.
pub(crate) struct Known<'a> {
    positives: Positives<&'a [u32]>,
    /// Candidates of each label.
    labelled: HashMap<u32, usize>,
    excludes_self: bool,
}

impl<'a> Known<'a> {
    /// Without a number of candidates none is out of range.
    pub(crate) fn new(
        [own, own_anchors, own_candidates, own_starts]: Names,
        positives: Positives<&'a [u32]>,
        anchors: usize,
        candidates: Option<usize>,
        excludes_self: bool,
    ) -> Result<Self, Error> {
        let mut labelled = HashMap::new();
        let candidates = candidates.unwrap_or(usize::MAX);
        match positives {
            Positives::Offset(_) => {}
            Positives::Index(index) => {
                same_rows(own, index.len(), anchors)?;
                let is_legal = |&j: &u32| j == NO_POSITIVE || (j as usize) < candidates;
                if let Some(row) = index.iter().position(|j| !is_legal(j)) {
                    return Err(Error::PositiveOutOfRange {
                        row,
                        given: index[row],
                        candidates,
                    });
                }
            }
            Positives::Labels {
                anchors: of_anchors,
                candidates: of_candidates,
            } => {
                same_rows(own_anchors, of_anchors.len(), anchors)?;
                same_rows(own_candidates, of_candidates.len(), candidates)?;
                for &label in of_candidates.iter().filter(|&&label| label != NO_POSITIVE) {
                    *labelled.entry(label).or_default() += 1;
                }
            }
            Positives::Lists {
                starts,
                candidates: listed,
            } => {
                same_length(own_starts, starts.len(), anchors + 1)?;
                check_lists(starts, listed, candidates)?;
            }
        }
        Ok(Self {
            positives,
            labelled,
            excludes_self,
        })
    }

    pub(crate) fn is_positive(&self, anchor: usize, candidate: u32) -> bool {
        match self.positives {
            Positives::Offset(offset) => {
                (anchor as i64).checked_add(offset) == Some(candidate.into())
            }
            Positives::Index(index) => index[anchor] == candidate,
            Positives::Labels {
                anchors,
                candidates,
            } => {
                let label = anchors[anchor];
                label != NO_POSITIVE && candidates.get(candidate as usize) == Some(&label)
            }
            Positives::Lists { starts, candidates } => {
                let list = starts[anchor] as usize..starts[anchor + 1] as usize;
                candidates[list].binary_search(&candidate).is_ok()
            }
        }
    }

    fn contains(&self, anchor: usize, candidate: u32) -> bool {
        let itself = self.excludes_self && anchor == candidate as usize;
        itself || self.is_positive(anchor, candidate)
    }

    /// How many of `candidates` candidates it contains.
    pub(crate) fn count(&self, anchor: usize, candidates: usize) -> usize {
        let positives = match self.positives {
            Positives::Offset(offset) => {
                let index = (anchor as i64).checked_add(offset);
                let index = index.and_then(|index| usize::try_from(index).ok());
                usize::from(index.is_some_and(|index| index < candidates))
            }
            Positives::Index(index) => usize::from(index[anchor] != NO_POSITIVE),
            Positives::Labels { anchors, .. } => {
                let of_label = self.labelled.get(&anchors[anchor]);
                of_label.copied().unwrap_or_default()
            }
            Positives::Lists { starts, .. } => (starts[anchor + 1] - starts[anchor]) as usize,
        };
        let itself = self.excludes_self && anchor < candidates;
        positives + usize::from(itself && !self.is_positive(anchor, anchor as u32))
    }
}
