//! Multiple-negatives ranking of queries and documents, with mined hard negatives, in up to four directions.

use crate::contrast::{Contrast, same_dim, same_rows};
use crate::element::Element;
use crate::engine::{Engine, RowsMutOf, RowsOf};
use crate::error::{Error, positive};
use crate::gradients::{Accumulate, Gradients};
use crate::inputs::Inputs;
use crate::losses::{Description, Exclusions};
use crate::memory::{Memory, Read};
use crate::positives::Positives;
use crate::problem::Problem;
use crate::rows::Matrix;

/// How the directions of [`MultipleNegativesRanking`] become one loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Partition {
    /// One softmax over the candidates of all directions (GTE, Li et al. 2023, section 3.2).
    #[default]
    Joint,
    /// The mean of a softmax for each direction (jina-embeddings-v2, Günther et al. 2024, section 5.2): queries to
    /// documents, and documents to queries.
    PerDirection,
}

/// The loss of N queries q_i, their documents d_i and H sets of N hard negatives h_i (Henderson et al. 2017;
/// `MultipleNegativesRankingLoss` of sentence-transformers): −ln(e^{s⟨q_i, d_i⟩}/Z_i), mean over the N pairs.
///
/// Z_i sums e^{s·similarity} of query i with all documents and negatives, and, where asked for, of query i with the
/// other queries, of document i with all queries (so that the pair itself counts twice), and of document i with the
/// documents and negatives of other pairs. Rows are unit rows, whose products are cosine similarities.
///
/// ```
/// use infonce::{CpuEngine, MultipleNegativesRanking, RankingBatch, Rows, RowsMut};
/// let loss = MultipleNegativesRanking::new(20.0)?.with_all_directions();
/// let [q, d, h] = [[1.0f32, 0.0, 0.0, 1.0], [0.8, 0.6, 0.6, 0.8], [0.0, 1.0, 1.0, 0.0]];
/// let rows = |x| Rows::new(x, 2, 2);
/// let batch = RankingBatch { queries: rows(&q)?, documents: rows(&d)?, negatives: vec![rows(&h)?] };
/// let [mut dq, mut dd, mut dh] = [[0.0f32; 4]; 3];
/// let gradients = RankingBatch {
///     queries: RowsMut::new(&mut dq, 2, 2)?,
///     documents: RowsMut::new(&mut dd, 2, 2)?,
///     negatives: vec![RowsMut::new(&mut dh, 2, 2)?],
/// };
/// let [value, _dscale] = loss.value_and_grad(&CpuEngine::new(), &batch, 1.0, gradients)?;
/// assert!(value > 0.0);
/// # Ok::<(), infonce::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MultipleNegativesRanking {
    scale: f32,
    query_to_query: bool,
    document_to_query: bool,
    document_to_document: bool,
    partition: Partition,
}

/// Queries, documents and sets of hard negatives, each N × D, or their gradients.
#[derive(Debug)]
pub struct RankingBatch<V> {
    /// Row i is query i.
    pub queries: V,
    /// Row i is the document of query i.
    pub documents: V,
    /// Row i of each is a hard negative of query i.
    pub negatives: Vec<V>,
}

impl MultipleNegativesRanking {
    /// Queries to documents alone, at scale s; sentence-transformers' default is 20.
    ///
    /// # Errors
    /// [`Error::Scalar`] unless `scale` is finite and greater than 0.
    pub fn new(scale: f32) -> Result<Self, Error> {
        Ok(Self {
            scale: positive("scale", scale)?,
            query_to_query: false,
            document_to_query: false,
            document_to_document: false,
            partition: Partition::Joint,
        })
    }

    /// Adds the other queries to each query's candidates.
    #[must_use]
    pub fn with_query_to_query(self) -> Self {
        Self {
            query_to_query: true,
            ..self
        }
    }

    /// Adds the softmax, or the candidates, of each document among the queries.
    #[must_use]
    pub fn with_document_to_query(self) -> Self {
        Self {
            document_to_query: true,
            ..self
        }
    }

    /// Adds the documents and negatives of other pairs as candidates of each document.
    #[must_use]
    pub fn with_document_to_document(self) -> Self {
        Self {
            document_to_document: true,
            ..self
        }
    }

    /// All four directions: GTE's loss.
    #[must_use]
    pub fn with_all_directions(self) -> Self {
        let with_queries = self.with_query_to_query();
        with_queries
            .with_document_to_query()
            .with_document_to_document()
    }

    /// Replaces how directions are joined; the default is [`Partition::Joint`].
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a softmax of its own where a direction has no positives: queries among queries,
    /// documents among documents. [`value_and_grad`](Self::value_and_grad) refuses it where such a direction is added
    /// later.
    pub fn with_partition(self, partition: Partition) -> Result<Self, Error> {
        let lacks_positives = self.query_to_query || self.document_to_document;
        if partition == Partition::PerDirection && lacks_positives {
            return Err(Error::Unsupported {
                option: "partition",
                reason: "a direction without positives has no softmax of its own",
            });
        }
        Ok(Self { partition, ..self })
    }

    /// Loss and gradients, written over `gradients`. Returns the loss and upstream × ∂loss/∂s. 16-bit gradients are
    /// rounded once for each matrix of candidates in each direction; f32 loses nothing.
    ///
    /// # Errors
    /// [`Error::Rows`] or [`Error::Dimension`] where a matrix is not N × D, and those of
    /// [`with_partition`](Self::with_partition): nothing is written then. Those of [`Engine::backward`], when that
    /// direction is computed, after others; that two gradients share memory is not always found.
    pub fn value_and_grad<E: Engine, T: Element, G: Element>(
        &self,
        engine: &E,
        batch: &RankingBatch<RowsOf<'_, E, T>>,
        upstream: f32,
        mut gradients: RankingBatch<RowsMutOf<'_, E, G>>,
    ) -> Result<[f32; 2], Error> {
        self.with_partition(self.partition)?;
        let (queries, documents) = (batch.queries, batch.documents);
        let shape = (queries.rows(), queries.dim());
        let is_shape = |argument, (rows, dim): (usize, usize)| {
            same_rows(argument, rows, shape.0)?;
            same_dim(argument, dim, shape.1)
        };
        is_shape("documents", (documents.rows(), documents.dim()))?;
        for negatives in &batch.negatives {
            is_shape("negatives", (negatives.rows(), negatives.dim()))?;
        }
        let given = &gradients;
        is_shape(
            "gradients.queries",
            (given.queries.rows(), given.queries.dim()),
        )?;
        is_shape(
            "gradients.documents",
            (given.documents.rows(), given.documents.dim()),
        )?;
        for negatives in &given.negatives {
            is_shape("gradients.negatives", (negatives.rows(), negatives.dim()))?;
        }
        same_rows(
            "gradients.negatives",
            given.negatives.len(),
            batch.negatives.len(),
        )?;

        let factor = match self.partition {
            Partition::PerDirection if self.document_to_query => 0.5,
            _ => 1.0,
        };
        let described = |description| {
            let description = Description {
                factor,
                ..description
            };
            Contrast::new("multiple negatives ranking", description, self.scale)
        };
        let pair = described(Description::PAIR)?;
        let within = described(Description::LABELLED)?;
        let of_others = described(Description {
            exclusions: Exclusions::Itself,
            ..Description::PAIR
        })?;
        // Each term: a problem, and what its anchors are and its candidates, if they are others.
        let (all_queries, all_documents) = (Role::Queries, Role::Documents);
        let between = |q, k, positives| pair.on(Inputs::Pair { q, k, positives });
        let among = |z| {
            let positives = Positives::NONE;
            within.on(Inputs::Labelled { z, positives })
        };
        let to_documents = between(queries, documents, Positives::DIAGONAL)?;
        let mut first = vec![(to_documents, all_queries, Some(all_documents))];
        for (h, &negatives) in batch.negatives.iter().enumerate() {
            let problem = between(queries, negatives, Positives::NONE)?;
            first.push((problem, all_queries, Some(Role::Negatives(h))));
        }
        if self.query_to_query {
            first.push((among(queries)?, all_queries, None));
        }
        let mut second = Vec::new();
        if self.document_to_query {
            let (terms, positives) = match self.partition {
                Partition::Joint => (&mut first, Positives::NONE),
                Partition::PerDirection => (&mut second, Positives::DIAGONAL),
            };
            let problem = between(documents, queries, positives)?;
            terms.push((problem, all_documents, Some(all_queries)));
        }
        if self.document_to_document {
            first.push((among(documents)?, all_documents, None));
            for (h, &negatives) in batch.negatives.iter().enumerate() {
                let problem = of_others.on(Inputs::Pair {
                    q: documents,
                    k: negatives,
                    positives: Positives::NONE,
                })?;
                first.push((problem, all_documents, Some(Role::Negatives(h))));
            }
        }

        let mut sums = [0.0; 2];
        let mut written = vec![false; 2 + batch.negatives.len()];
        for terms in [first, second] {
            if terms.is_empty() {
                continue;
            }
            let problems: Vec<Problem<_>> = terms.iter().map(|(problem, ..)| *problem).collect();
            let statistics = engine.forward_over(&problems)?;
            sums[0] += engine.loss_over(&problems[0], &statistics)?;
            for (problem, anchors, candidates) in terms {
                let accumulate = Accumulate {
                    anchors: written[anchors.place()],
                    candidates: candidates.is_some_and(|role| written[role.place()]),
                };
                let (dq, dk) = gradients.outputs(anchors, candidates);
                let outputs = Gradients {
                    dq: E::Memory::reborrow(dq),
                    dk: dk.map(E::Memory::reborrow),
                    dbias: None,
                    accumulate,
                };
                sums[1] += engine
                    .backward(&problem, &statistics, upstream, outputs)?
                    .read()?;
                for role in [Some(anchors), candidates].into_iter().flatten() {
                    written[role.place()] = true;
                }
            }
        }
        Ok(sums)
    }
}

/// A matrix of a [`RankingBatch`].
#[derive(Debug, Clone, Copy)]
enum Role {
    Queries,
    Documents,
    Negatives(usize),
}

impl Role {
    fn place(self) -> usize {
        match self {
            Self::Queries => 0,
            Self::Documents => 1,
            Self::Negatives(h) => 2 + h,
        }
    }
}

impl<V> RankingBatch<V> {
    /// The matrices of two different roles, the first of which is no set of negatives.
    fn outputs(&mut self, anchors: Role, candidates: Option<Role>) -> (&mut V, Option<&mut V>) {
        let (anchor, other) = match anchors {
            Role::Documents => (&mut self.documents, &mut self.queries),
            _ => (&mut self.queries, &mut self.documents),
        };
        let candidate = candidates.map(|role| match role {
            Role::Negatives(h) => &mut self.negatives[h],
            _ => other,
        });
        (anchor, candidate)
    }
}
