//! A loss as data: layout, positives, exclusions, directions, keys and the rule of a row's loss.

use super::rule::RowRule;

/// Which matrices a loss is computed on: the variant of [`Inputs`](crate::Inputs).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Anchors and candidates are one matrix: two views of every image.
    Shared,
    /// Anchors and candidates are one matrix, with the positives of each row.
    Labelled,
    /// Anchors, and candidates that all anchors share.
    Pair,
    /// Anchors, each with a key of its own, and a queue of negatives that all anchors share.
    Queue,
    /// Anchors and candidates, and two matrices whose scores are the targets.
    Targets,
}

impl Layout {
    /// The variant's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shared => "Shared",
            Self::Labelled => "Labelled",
            Self::Pair => "Pair",
            Self::Queue => "Queue",
            Self::Targets => "Targets",
        }
    }
}

/// Which candidate is an anchor's positive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PositiveRule {
    /// The other view of the image: row (i + N/2) mod N of the N rows.
    OtherView,
    /// Given with the inputs: [`Positives`](crate::Positives). One a row, or a set where the rule takes sets
    /// ([`RowRule::Sets`]).
    Given,
    /// A key of its own, which is not a candidate.
    OwnKey,
    /// Every candidate, to the extent of its target: a softmax of other scores.
    Soft,
}

/// Which candidates an anchor excludes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exclusions {
    /// None.
    Nothing,
    /// The candidate of its own index.
    Itself,
}

/// Which rows and columns of the logits have a loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Directions {
    /// Rows: the softmax of each anchor over its candidates.
    Rows,
    /// Half the rows' loss plus half the columns': the softmax of each candidate over the anchors.
    RowsAndColumns,
}

/// Whether candidates have a gradient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// They have one: they come from an encoder that is trained.
    Trained,
    /// They have none: they come from a momentum encoder or a queue.
    Constant,
    /// They have none: the caller keeps them from step to step, as a memory bank or prototypes.
    Kept,
}

/// A loss as data.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Description {
    /// Which matrices it is computed on.
    pub layout: Layout,
    /// Which candidate is an anchor's positive.
    pub positives: PositiveRule,
    /// Which candidates an anchor excludes.
    pub exclusions: Exclusions,
    /// Which directions have a loss.
    pub directions: Directions,
    /// Whether candidates have a gradient.
    pub keys: Keys,
    /// Excludes likely false negatives: the candidates whose similarity z_ij/s exceeds the positive's, z₊/s, minus this
    /// margin. The choice carries no gradient.
    pub guard: Option<f32>,
    /// The rule of a row's loss.
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
        guard: None,
        rule: RowRule::SOFTMAX,
        factor: 1.0,
    };

    /// SupCon's: every row against all others, with the sets of positives that are given.
    pub const LABELLED: Self = Self {
        layout: Layout::Labelled,
        positives: PositiveRule::Given,
        ..Self::SHARED
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

    /// DINO's: anchors against prototypes, which another encoder's scores target.
    pub const TARGETS: Self = Self {
        layout: Layout::Targets,
        positives: PositiveRule::Soft,
        ..Self::PAIR
    };

    /// Replaces the rule of a row's loss.
    pub(crate) const fn with_rule(self, rule: RowRule) -> Self {
        Self { rule, ..self }
    }

    /// Replaces a queue, where there is one, by the batch's other keys.
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
}
