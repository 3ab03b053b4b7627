//! Predicates that follow from a loss's description. Other code asks these, never which loss it is.

use super::description::{Directions, Exclusions, Keys, Layout, PositiveRule};
use crate::contrast::Contrast;

impl Contrast {
    /// Whether anchors and candidates are the same rows.
    pub fn is_shared(&self) -> bool {
        matches!(self.layout(), Layout::Shared | Layout::Labelled)
    }

    /// Whether every anchor excludes the candidate of its own index.
    pub fn excludes_self(&self) -> bool {
        self.description().exclusions == Exclusions::Itself
    }

    /// Whether an anchor's positive is a key of its own, not a candidate.
    pub fn has_own_keys(&self) -> bool {
        self.description().positives == PositiveRule::OwnKey
    }

    /// Whether every candidate of an anchor's set of positives counts, not only one.
    pub fn has_sets(&self) -> bool {
        self.rule().takes_sets()
    }

    /// Whether there are negatives, which an option could exclude or shift.
    pub(crate) fn has_negatives(&self) -> bool {
        !self.rule().is_alignment() && self.rule().target_scale().is_none()
    }

    /// Whether columns have a loss too.
    pub fn has_columns(&self) -> bool {
        self.description().directions == Directions::RowsAndColumns
    }

    /// Whether a softmax weight has one term, exp(z_ij − o_i): only rows have a loss, and anchors are no candidates.
    pub fn is_one_way(&self) -> bool {
        !self.has_columns() && !self.is_shared()
    }

    /// Whether candidates have a gradient of their own, dk.
    pub fn has_dk(&self) -> bool {
        !self.is_shared() && self.description().keys == Keys::Trained
    }

    /// f in ∂loss/∂s = (f/s)·Σ⟨q_i, dq_i⟩ + Σ w_i·∂φ/∂s. Where anchors are the candidates f is ½,
    /// because z_ij contributes to both dq_i and dq_j; else 1.
    pub fn dots_factor(&self) -> f64 {
        if self.is_shared() { 0.5 } else { 1.0 }
    }

    /// m, the number of negatives among `candidates` candidates of a row that has a positive.
    pub fn negatives(&self, candidates: usize) -> usize {
        let others = usize::from(!self.has_own_keys()) + usize::from(self.excludes_self());
        candidates.saturating_sub(others)
    }

    /// Whether the inputs choose the positives. Where columns have a loss, the positives are the diagonal.
    pub fn takes_positives(&self) -> bool {
        self.description().positives == PositiveRule::Given && !self.has_columns()
    }

    /// The index of each anchor's other view; `None` unless that is the loss's positive.
    pub(crate) fn other_views(&self, anchors: usize) -> Vec<Option<usize>> {
        let is_positive = self.description().positives == PositiveRule::OtherView;
        let other = |i| is_positive.then_some((i + anchors / 2) % anchors);
        (0..anchors).map(other).collect()
    }
}
