//! [`Problem`]: a contrast on a batch, checked.

use crate::contrast::{Contrast, Reduction, Shape, same_dim, same_length, same_rows};
use crate::error::Error;
use crate::gradients::Gradients;
use crate::inputs::{Inputs, Matrices};
use crate::losses::description::Layout;
use crate::positives::{Ids, NO_POSITIVE, Positives, check_lists};
use crate::rows::{Elements, Matrix, View};
use crate::statistics::Statistics;

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
    ids: Option<Ids<V::Indices>>,
    row_weights: Option<V::Floats>,
    column_bias: Option<V::Floats>,
    /// b in the engine's memory, in place of the rule's.
    logit_bias: Option<V::Scalar>,
    target_bias: Option<V::Floats>,
}

impl Contrast {
    /// Checks that the inputs fit, and joins them with the contrast.
    ///
    /// # Errors
    /// [`Error::Inputs`], [`Error::OddRows`], [`Error::Dimension`], [`Error::Rows`], [`Error::Length`],
    /// [`Error::PositiveOutOfRange`], [`Error::PositiveLists`] or [`Error::Positives`], naming the first argument that does
    /// not fit; [`Error::Unsupported`] for lists without a rule of sets, and for one positive by label among the anchors
    /// themselves.
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
            targets,
        } = inputs.matrices();
        let shape = Shape {
            anchors: anchors.rows(),
            candidates: candidates.rows(),
            dim: anchors.dim(),
        };
        if self.layout() == Layout::Shared && !shape.anchors.is_multiple_of(2) {
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
        if let Some([target_q, target_k]) = targets {
            same_rows("target_k", target_k.rows(), shape.candidates)?;
            same_dim("target_k", target_k.dim(), target_q.dim())?;
            if !shape.anchors.is_multiple_of(target_q.rows()) {
                return Err(Error::Scalar {
                    argument: "target_q",
                    given: target_q.rows() as f64,
                    allowed: "a number of rows that divides the anchors'",
                });
            }
        }
        if !self.rule().needs_positive() && self.reduction() == Reduction::MeanOfPositives {
            return Err(Error::Unsupported {
                option: "reduction",
                reason: "rows without a positive have a loss",
            });
        }
        if let Inputs::Pair { positives, .. } | Inputs::Labelled { positives, .. } = &inputs {
            self.check_positives(positives, shape)?;
        }
        Ok(Problem {
            contrast: *self,
            inputs,
            shape,
            all_candidates: shape.candidates,
            scale: None,
            ids: None,
            row_weights: None,
            column_bias: None,
            logit_bias: None,
            target_bias: None,
        })
    }

    /// As [`on`](Self::on), on the inputs of the contrast's layout: q is z of `Shared`, k is the queue of `Queue`. Of
    /// `Targets` own_key and k are the targets.
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
            Layout::Labelled => Inputs::Labelled { z: q, positives },
            Layout::Pair if self.has_columns() => Inputs::pair(q, k),
            Layout::Pair => Inputs::Pair { q, k, positives },
            Layout::Queue => Inputs::Queue {
                q,
                own_key,
                queue: k,
            },
            Layout::Targets => Inputs::Targets {
                q,
                k,
                target_q: own_key,
                target_k: k,
            },
        })
    }

    fn check_positives<I: Elements<u32>>(
        &self,
        given: &Positives<I>,
        shape: Shape,
    ) -> Result<(), Error> {
        if self.has_columns() && !matches!(given, Positives::Offset(0)) {
            return Err(Error::Positives {
                contrast: self.name(),
            });
        }
        let index = match given {
            Positives::Offset(_) => return Ok(()),
            Positives::Index(index) => index,
            Positives::Labels { .. } if self.excludes_self() && !self.has_sets() => {
                return Err(Error::Unsupported {
                    option: "positives",
                    reason: "the first of a label may be the anchor itself; a rule of one positive needs indices",
                });
            }
            Positives::Labels {
                anchors,
                candidates,
            } => {
                same_rows("positives.anchors", anchors.len(), shape.anchors)?;
                return same_rows("positives.candidates", candidates.len(), shape.candidates);
            }
            Positives::Lists { .. } if !self.has_sets() => {
                return Err(Error::Unsupported {
                    option: "positives",
                    reason: "a list of positives needs a rule of sets",
                });
            }
            Positives::Lists { starts, candidates } => {
                same_length("positives.starts", starts.len(), shape.anchors + 1)?;
                return match (starts.on_host(), candidates.on_host()) {
                    (Some(starts), Some(listed)) => check_lists(starts, listed, shape.candidates),
                    _ => Ok(()),
                };
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

/// Checks that the elements of `given` that the host can read are `legal`.
fn check_elements(
    argument: &'static str,
    given: &impl Elements<f32>,
    allowed: &'static str,
    legal: impl Fn(f32) -> bool,
) -> Result<(), Error> {
    let on_host = given.on_host().unwrap_or_default();
    match on_host.iter().position(|&x| !legal(x)) {
        None => Ok(()),
        Some(index) => Err(Error::Element {
            argument,
            index,
            given: on_host[index],
            allowed,
        }),
    }
}

impl<V: View> Problem<V> {
    /// Excludes the candidates of an anchor's id that are not its positives: duplicates in a batch, or a queue that
    /// already holds the anchor's key. The ids may be labels.
    ///
    /// # Errors
    /// [`Error::Rows`] unless there are N and M ids; [`Error::Unsupported`] where columns have a loss too, and for a
    /// rule that counts the negatives.
    pub fn excluding(self, ids: Ids<V::Indices>) -> Result<Self, Error> {
        same_rows("ids.anchors", ids.anchors.len(), self.shape.anchors)?;
        same_rows(
            "ids.candidates",
            ids.candidates.len(),
            self.shape.candidates,
        )?;
        self.contrast.allows_exclusions("ids")?;
        Ok(Self {
            ids: Some(ids),
            ..self
        })
    }

    /// Multiplies each row's loss by a weight w_i, without gradient. A weight of 0 leaves the row out: it has no loss
    /// and no gradient, but stays a candidate. Where columns have a loss, column i has the weight of row i. In device
    /// memory weights are not checked.
    ///
    /// # Errors
    /// [`Error::Rows`] unless there are N; [`Error::Element`] for one that is not finite or below 0.
    pub fn with_row_weights(self, weights: V::Floats) -> Result<Self, Error> {
        same_rows("row_weights", weights.len(), self.shape.anchors)?;
        check_elements("row_weights", &weights, "finite and at least 0", |w| {
            w.is_finite() && w >= 0.0
        })?;
        Ok(Self {
            row_weights: Some(weights),
            ..self
        })
    }

    /// Adds c_j to the logits of candidate j, the positive's too: z_ij = s·⟨q_i, k_j⟩ + c_j. For example −log Q_j, the
    /// correction of sampled softmax (Bengio and Senécal 2008). In device memory it is not checked.
    ///
    /// # Errors
    /// [`Error::Rows`] unless there are M; [`Error::Element`] for one that is not finite; [`Error::Unsupported`] where
    /// columns have a loss too, or an anchor's positive is no candidate.
    pub fn with_column_bias(self, bias: V::Floats) -> Result<Self, Error> {
        same_rows("column_bias", bias.len(), self.shape.candidates)?;
        check_elements("column_bias", &bias, "finite", f32::is_finite)?;
        self.contrast.allows_bias()?;
        Ok(Self {
            column_bias: Some(bias),
            ..self
        })
    }

    /// Replaces a pointwise rule's b by one element in the engine's memory, for a bias that is learned there. It must be
    /// finite, which is not checked. ∂loss/∂b is [`Gradients::dbias`], 1 × 1.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a rule that is not pointwise.
    pub fn with_logit_bias(self, bias: V::Scalar) -> Result<Self, Error> {
        if !self.contrast.rule().is_pointwise() {
            return Err(Error::Unsupported {
                option: "logit_bias",
                reason: "the rule has none; candidates have a column bias",
            });
        }
        Ok(Self {
            logit_bias: Some(bias),
            ..self
        })
    }

    /// Adds c_j to the targets' logits of candidate j: u_ij = ⟨u_i, p_j⟩/τ_t + c_j. For example −centre/τ_t of DINO, or
    /// the offsets of an [`Equipartition`](crate::Equipartition). In device memory it is not checked.
    ///
    /// # Errors
    /// [`Error::Rows`] unless there are M; [`Error::Element`] for one that is not finite; [`Error::Unsupported`] but for
    /// [`Inputs::Targets`].
    pub fn with_target_bias(self, bias: V::Floats) -> Result<Self, Error> {
        if self.contrast.layout() != Layout::Targets {
            return Err(Error::Unsupported {
                option: "target_bias",
                reason: "there are no targets",
            });
        }
        same_rows("target_bias", bias.len(), self.shape.candidates)?;
        check_elements("target_bias", &bias, "finite", f32::is_finite)?;
        Ok(Self {
            target_bias: Some(bias),
            ..self
        })
    }

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

    /// Whether the rows' weights are those of another problem, as far as the host can read them.
    pub(crate) fn has_weights_of(&self, other: &Self) -> bool {
        match (&self.row_weights, &other.row_weights) {
            (None, None) => true,
            (Some(own), Some(others)) => own.on_host() == others.on_host(),
            _ => false,
        }
    }

    /// The reduced loss of statistics in host memory, which may be those of more candidates.
    pub(crate) fn loss_of(&self, statistics: &Statistics) -> Result<f32, Error> {
        let unread = |option| Error::Unsupported {
            option,
            reason: "it lies in the engine's memory, and the loss of several matrices is summed on the host",
        };
        let weights = self.row_weights.as_ref().map(Elements::on_host);
        if self.scale.is_some() {
            return Err(unread("scale"));
        }
        if weights == Some(None) {
            return Err(unread("row_weights"));
        }
        let (contrast, scale) = (&self.contrast, self.contrast.scale());
        Ok(statistics.loss_at(contrast, scale, self.negatives(), weights.flatten()))
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

    /// Ids whose equality excludes, after [`excluding`](Self::excluding).
    pub fn ids(&self) -> Option<Ids<V::Indices>> {
        self.ids
    }

    /// The rows' weights, after [`with_row_weights`](Self::with_row_weights).
    pub fn row_weights(&self) -> Option<V::Floats> {
        self.row_weights
    }

    /// The candidates' biases, after [`with_column_bias`](Self::with_column_bias).
    pub fn column_bias(&self) -> Option<V::Floats> {
        self.column_bias
    }

    /// Where b lies in the engine's memory, after [`with_logit_bias`](Self::with_logit_bias).
    pub fn logit_bias(&self) -> Option<V::Scalar> {
        self.logit_bias
    }

    /// The biases of the targets' logits, after [`with_target_bias`](Self::with_target_bias).
    pub fn target_bias(&self) -> Option<V::Floats> {
        self.target_bias
    }

    /// Whether logits need more than the positive's and an excluded index to be summed: ids, a guard, biases, sets of
    /// positives, two exponents or targets.
    pub(crate) fn has_options(&self) -> bool {
        let contrast = &self.contrast;
        let rule = contrast.rule();
        let of_contrast =
            rule.takes_sets() || rule.exponents().is_some() || rule.target_scale().is_some();
        let guard = contrast.description().guard.is_some();
        of_contrast || guard || self.ids.is_some() || self.column_bias.is_some()
    }

    /// Which candidates are positives; `None` but for [`Inputs::Pair`] and [`Inputs::Labelled`].
    pub fn positives(&self) -> Option<Positives<V::Indices>> {
        match self.inputs {
            Inputs::Pair { positives, .. } | Inputs::Labelled { positives, .. } => Some(positives),
            _ => None,
        }
    }

    /// The index of each anchor's positive among the candidates, for engines that compute on the host; `None`
    /// for an anchor that has none there, excludes it as itself, or has a key of its own.
    pub(crate) fn positive_candidates(&self) -> Vec<Option<usize>> {
        let of = match self.positives() {
            Some(given) => given.on_host(self.shape.anchors),
            None => self.contrast.other_views(self.shape.anchors),
        };
        let is_candidate = |i: usize, j: usize| {
            j < self.shape.candidates && !(self.contrast.excludes_self() && i == j)
        };
        let of = of.into_iter().enumerate();
        of.map(|(i, j)| j.filter(|&j| is_candidate(i, j))).collect()
    }

    /// Maps this problem to other memory: its inputs as [`Inputs::try_map`] does, weights and biases by `floats`, a
    /// scale or logit bias in memory by `scalar`.
    ///
    /// # Errors
    /// The first that a closure returns.
    pub fn try_map<'s, W: View>(
        &'s self,
        matrix: impl FnMut(&'static str, &'s V) -> Result<W, Error>,
        mut indices: impl FnMut(&'static str, &'s V::Indices) -> Result<W::Indices, Error>,
        mut floats: impl FnMut(&'static str, &'s V::Floats) -> Result<W::Floats, Error>,
        mut scalar: impl FnMut(&'static str, &'s V::Scalar) -> Result<W::Scalar, Error>,
    ) -> Result<Problem<W>, Error> {
        let ids = self.ids.as_ref().map(|ids| {
            Ok::<_, Error>(Ids {
                anchors: indices("ids.anchors", &ids.anchors)?,
                candidates: indices("ids.candidates", &ids.candidates)?,
            })
        });
        let weights = self.row_weights.as_ref();
        let bias = self.column_bias.as_ref();
        let targets = self.target_bias.as_ref();
        let scale = self.scale.as_ref().map(|x| scalar("scale", x));
        let logit_bias = self.logit_bias.as_ref();
        Ok(Problem {
            contrast: self.contrast,
            ids: ids.transpose()?,
            inputs: self.inputs.try_map(matrix, indices)?,
            shape: self.shape,
            all_candidates: self.all_candidates,
            scale: scale.transpose()?,
            logit_bias: logit_bias.map(|x| scalar("logit_bias", x)).transpose()?,
            row_weights: weights.map(|x| floats("row_weights", x)).transpose()?,
            column_bias: bias.map(|x| floats("column_bias", x)).transpose()?,
            target_bias: targets.map(|x| floats("target_bias", x)).transpose()?,
        })
    }

    /// Checks that dq is N × D, dk M × D and dbias 1 × M, 1 × 1 of a pointwise rule, and that the problem has a dk and
    /// biases.
    ///
    /// # Errors
    /// [`Error::Rows`], [`Error::Dimension`], [`Error::NoCandidateGradient`] or [`Error::Unsupported`].
    pub fn check_gradients<M: Matrix>(&self, gradients: &Gradients<M>) -> Result<(), Error> {
        let shape = self.shape;
        same_rows("gradients.dq", gradients.dq.rows(), shape.anchors)?;
        same_dim("gradients.dq", gradients.dq.dim(), shape.dim)?;
        if let Some(dbias) = &gradients.dbias {
            let is_pointwise = self.contrast.rule().is_pointwise();
            if self.column_bias.is_none() && !is_pointwise {
                return Err(Error::Unsupported {
                    option: "gradients.dbias",
                    reason: "the problem has no column bias",
                });
            }
            let biases = if is_pointwise { 1 } else { shape.candidates };
            same_rows("gradients.dbias", dbias.rows(), 1)?;
            same_dim("gradients.dbias", dbias.dim(), biases)?;
        }
        let Some(dk) = &gradients.dk else {
            return Ok(());
        };
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
