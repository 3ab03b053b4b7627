//! What there is to say of a loss beside its numbers.

use super::rule::RowRule;
use crate::contrast::Contrast;
use crate::inputs::Positives;
use crate::rows::Indices;

/// Which matrices a loss is computed on: the variant of [`Inputs`](crate::Inputs).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Anchors and candidates are one matrix.
    Shared,
    /// Anchors, and candidates that all anchors share.
    Pair,
    /// Anchors, each with a key of its own, and a queue of negatives that all share.
    Queue,
}

/// Which candidate is an anchor's positive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PositiveRule {
    /// The other view: row (i + N/2) mod N.
    OtherView,
    /// What [`Positives`](crate::Positives) of the inputs say.
    Given,
    /// A key of its own, which is no candidate of the others.
    OwnKey,
}

/// What an anchor does not see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exclusions {
    /// It sees all candidates.
    Nothing,
    /// The candidate of its own index.
    Itself,
}

/// Which rows and columns of the logits have a loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Directions {
    /// Every anchor among its candidates.
    Rows,
    /// Half of it, and half of every candidate among the anchors.
    RowsAndColumns,
}

/// What candidates are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// Outputs of an encoder that is trained: they have a gradient.
    Trained,
    /// Constants: outputs of a momentum encoder, a queue.
    Constant,
}

/// The function of a logit that is summed over the negatives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Term {
    /// exp z_ij.
    Exponential,
}

/// A loss as data.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Description {
    /// Which matrices it is computed on.
    pub layout: Layout,
    /// Which candidate is an anchor's positive.
    pub positives: PositiveRule,
    /// What an anchor does not see.
    pub exclusions: Exclusions,
    /// Which directions have a loss.
    pub directions: Directions,
    /// Whether candidates have a gradient.
    pub keys: Keys,
    /// What is summed over the negatives.
    pub term: Term,
    /// What a row's loss is.
    pub rule: RowRule,
    /// What the reduced loss is multiplied by.
    pub factor: f32,
}

impl Description {
    /// NT-Xent's: two views of every image in one matrix, every row against all others.
    pub const SHARED: Self = Self {
        layout: Layout::Shared,
        positives: PositiveRule::OtherView,
        exclusions: Exclusions::Itself,
        directions: Directions::Rows,
        keys: Keys::Trained,
        term: Term::Exponential,
        rule: RowRule::SOFTMAX,
        factor: 1.0,
    };

    /// InfoNCE's: anchors against candidates, positives given with the inputs.
    pub const PAIR: Self = Self {
        layout: Layout::Pair,
        positives: PositiveRule::Given,
        exclusions: Exclusions::Nothing,
        ..Self::SHARED
    };

    /// CLIP's: as [`PAIR`](Self::PAIR), and the candidates against the anchors.
    pub const BOTH_WAYS: Self = Self {
        directions: Directions::RowsAndColumns,
        ..Self::PAIR
    };

    /// MoCo's: each anchor against a key of its own and a queue.
    pub const QUEUE: Self = Self {
        layout: Layout::Queue,
        positives: PositiveRule::OwnKey,
        keys: Keys::Constant,
        ..Self::PAIR
    };

    /// With another row's loss.
    pub(crate) const fn with_rule(self, rule: RowRule) -> Self {
        Self { rule, ..self }
    }

    /// With the batch's other keys in place of a queue, where there is one.
    pub(crate) fn in_batch(self) -> Self {
        match self.layout {
            Layout::Queue => Self {
                layout: Layout::Pair,
                positives: PositiveRule::Given,
                ..self
            },
            _ => self,
        }
    }

    /// Which candidate is the positive of anchor `i` of `anchors`, if one is; where the inputs say which,
    /// they say `given`.
    pub(crate) fn positive_of<I: Indices>(
        &self,
        i: usize,
        anchors: usize,
        given: Option<&Positives<I>>,
    ) -> Option<usize> {
        match self.positives {
            PositiveRule::OwnKey => None,
            PositiveRule::OtherView => Some((i + anchors / 2) % anchors),
            PositiveRule::Given => match given? {
                Positives::Offset(offset) => {
                    i64::try_from(i).ok()?.checked_add(*offset)?.try_into().ok()
                }
                Positives::Index(index) => index.on_host().map(|index| index[i] as usize),
            },
        }
    }
}

/// What follows from the description.
impl Contrast {
    /// Whether anchors and candidates are the same rows.
    pub fn is_shared(&self) -> bool {
        self.layout() == Layout::Shared
    }

    /// Whether every anchor excludes the candidate of its own index (itself).
    pub fn excludes_self(&self) -> bool {
        self.description().exclusions == Exclusions::Itself
    }

    /// Whether an anchor's positive is a key of its own, no candidate.
    pub fn has_own_keys(&self) -> bool {
        self.description().positives == PositiveRule::OwnKey
    }

    /// Whether columns have a loss too.
    pub fn has_columns(&self) -> bool {
        self.description().directions == Directions::RowsAndColumns
    }

    /// Whether a weight W_ij has one term, the row's: columns have no loss, and are no rows either.
    pub fn is_one_way(&self) -> bool {
        !self.has_columns() && !self.is_shared()
    }

    /// Whether candidates have a gradient of their own, dk.
    pub fn has_dk(&self) -> bool {
        !self.is_shared() && self.description().keys == Keys::Trained
    }

    /// What Σ⟨q_i, dq_i⟩ is multiplied by to be s·∂loss/∂s: ½ where every logit moves two rows.
    pub fn dots_factor(&self) -> f64 {
        if self.is_shared() { 0.5 } else { 1.0 }
    }

    /// m: negatives of a row that has a positive.
    pub fn negatives(&self, candidates: usize) -> usize {
        let others = usize::from(!self.has_own_keys()) + usize::from(self.excludes_self());
        candidates.saturating_sub(others)
    }

    /// Whether the inputs say which candidates are positives, and may say any.
    pub fn takes_positives(&self) -> bool {
        self.description().positives == PositiveRule::Given && !self.has_columns()
    }
}
