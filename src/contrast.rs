//! [`Contrast`]: one contrastive loss with its hyper-parameters, validated, independent of engines.

use crate::error::{Error, inverse, within};
use crate::losses::description::{Description, Layout};
use crate::losses::rule::{RowRule, SetForm};

/// How the losses φ_i of rows become one scalar, Σ_i w_i·φ_i.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reduction {
    /// w_i = 1/N.
    #[default]
    Mean,
    /// w_i = 1/N₊ over the N₊ rows that have a positive, and a weight other than 0 where rows have weights.
    MeanOfPositives,
    /// w_i = 1. Single rows' losses are [`Statistics::row_losses`](crate::Statistics::row_losses); their upstream
    /// gradients, if they differ, are [row weights](crate::Problem::with_row_weights).
    Sum,
}

/// The size of a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// N: rows of the anchors; for NT-Xent all rows of z, two per image.
    pub anchors: usize,
    /// M: rows of the candidates; for MoCo those of the queue, without own keys.
    pub candidates: usize,
    /// D: elements of a row.
    pub dim: usize,
}

/// One contrastive loss: a [`Description`], a scale s = 1/τ and a reduction.
///
/// With logits z_ij = s·⟨q_i, k_j⟩ the loss is Σ_i w_i·φ(lse⁻_i, z_{i,+}): φ is the [`RowRule`], lse⁻_i the
/// log-sum-exp of the negatives' logits, z_{i,+} the positive's logit. Excluded candidates enter no sum and no
/// maximum. A row without a positive has loss 0 and gradient 0; so has one without negatives, unless a set's positives
/// are in its denominator.
/// [`losses`](crate::losses) lists all losses.
///
/// ```
/// use infonce::Contrast;
/// let simclr = Contrast::nt_xent(0.5)?;
/// let one_way = Contrast::info_nce(0.07)?;
/// assert!((one_way.scale() - 1.0 / 0.07).abs() < 1e-5);
/// assert!(Contrast::nt_xent(0.0).is_err());
/// # Ok::<(), infonce::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Contrast {
    name: &'static str,
    description: Description,
    scale: f32,
    reduction: Reduction,
}

impl Contrast {
    /// The described loss at scale s, with mean reduction.
    pub(crate) fn new(
        name: &'static str,
        description: Description,
        scale: f32,
    ) -> Result<Self, Error> {
        Self {
            name,
            description,
            scale,
            reduction: Reduction::Mean,
        }
        .checked()
    }

    /// Checks the hyper-parameters, and that the rule fits the directions and the positives.
    fn checked(self) -> Result<Self, Error> {
        let rule = self.description.rule.check()?;
        let refuse = |option, reason| Err(Error::Unsupported { option, reason });
        if self.has_columns() && (rule.takes_sets() || rule.exponents().is_some()) {
            return refuse("rule", "columns have a loss too");
        }
        if self.has_own_keys() && rule.takes_sets() {
            return refuse("rule", "an own key is one positive, not a set");
        }
        if rule.target_scale().is_some() != (self.layout() == Layout::Targets) {
            return refuse("rule", "soft targets and Inputs::Targets need each other");
        }
        if !self.is_one_way() && rule.is_alignment() {
            return refuse(
                "rule",
                "without negatives only rows of a matrix of their own have a loss",
            );
        }
        if let Some(margin) = self.description.guard {
            within("margin", margin, "finite", margin.is_finite())?;
            if rule.takes_sets() {
                return refuse("guard", "a set has no one positive to compare with");
            }
            self.allows_exclusions("guard")?;
        }
        Ok(self)
    }

    /// Whether candidates beyond those of the description can be excluded.
    pub(crate) fn allows_exclusions(&self, option: &'static str) -> Result<(), Error> {
        let refuse = |reason| Err(Error::Unsupported { option, reason });
        if self.has_columns() {
            return refuse("columns have a loss too");
        }
        if self.rule().counts_negatives() {
            return refuse("the rule counts on M negatives in every row");
        }
        if !self.has_negatives() {
            return refuse("the rule has no negatives");
        }
        Ok(())
    }

    /// Whether candidates can have a bias.
    pub(crate) fn allows_bias(&self) -> Result<(), Error> {
        let option = "column_bias";
        let refuse = |reason| Err(Error::Unsupported { option, reason });
        if self.has_columns() {
            return refuse("columns have a loss too");
        }
        if self.has_own_keys() {
            return refuse("an own key is no candidate and would have none");
        }
        if self.rule().is_pointwise() {
            return refuse("the rule has one bias for all; `with_logit_bias` gives it");
        }
        if !self.has_negatives() {
            return refuse("the rule has no negatives");
        }
        Ok(())
    }

    /// The described loss at temperature τ.
    pub(crate) fn at(
        name: &'static str,
        description: Description,
        temperature: f32,
    ) -> Result<Self, Error> {
        let scale = inverse("temperature", temperature)?;
        Self::new(name, description, scale)
    }

    /// Replaces the reduction; the default is [`Reduction::Mean`].
    #[must_use]
    pub fn with_reduction(self, reduction: Reduction) -> Self {
        Self { reduction, ..self }
    }

    /// Replaces φ, the rule of a row's loss, for example in MoCo by DCL's. The name stays.
    ///
    /// # Errors
    /// [`Error::Scalar`] for a hyper-parameter that is out of range; [`Error::Unsupported`] for a rule of sets or of two
    /// exponents where columns have a loss, and for one of sets where anchors have own keys.
    pub fn with_rule(mut self, rule: RowRule) -> Result<Self, Error> {
        self.description.rule = rule;
        self.checked()
    }

    /// Excludes likely false negatives: the candidates whose similarity z_ij/s exceeds the positive's minus `margin`
    /// (Huynh et al. 2022; the margin of GISTEmbed, Solatorio 2024, is 0). A negative margin excludes those that are
    /// more similar than the positive by −`margin`. The choice carries no gradient.
    ///
    /// # Errors
    /// [`Error::Scalar`] unless `margin` is finite; [`Error::Unsupported`] where columns have a loss too, for a rule of
    /// sets, and for one that counts the negatives.
    pub fn with_guard(mut self, margin: f32) -> Result<Self, Error> {
        self.description.guard = Some(margin);
        self.checked()
    }

    /// Smooths the labels of a cross-entropy (Szegedy et al. 2016, section 7): the target of a row is 1 − `smoothing`
    /// on its positive, or shared by its set, plus `smoothing` shared by all candidates that it does not exclude.
    ///
    /// # Errors
    /// [`Error::Scalar`] unless `smoothing` is at least 0 and less than 1; [`Error::Unsupported`] for a rule that is no
    /// cross-entropy, where columns have a loss too, and where anchors have own keys.
    pub fn with_label_smoothing(self, smoothing: f32) -> Result<Self, Error> {
        let form = SetForm::MeanOutside;
        match self.rule() {
            RowRule::SOFTMAX
            | RowRule::Sets {
                form: SetForm::MeanOutside,
                ..
            } => {
                let smoothed = self.with_rule(RowRule::Sets { form, smoothing });
                smoothed.map_err(|error| match error {
                    Error::Unsupported { reason, .. } => Error::Unsupported {
                        option: "smoothing",
                        reason,
                    },
                    other => other,
                })
            }
            _ => Err(Error::Unsupported {
                option: "smoothing",
                reason: "the rule is no cross-entropy",
            }),
        }
    }

    /// The same loss on [`Inputs::Pair`](crate::Inputs::Pair): the batch's other keys are the negatives, not the
    /// queue. A loss without a queue stays as it is.
    #[must_use]
    pub fn in_batch(self) -> Self {
        let description = self.description.in_batch();
        Self {
            description,
            ..self
        }
    }

    /// Whether a row's loss, and its weight, is the same function of its logits.
    pub(crate) fn has_losses_of(&self, other: &Self) -> bool {
        let of = |contrast: &Self| {
            let Description { rule, factor, .. } = contrast.description;
            (rule, factor, contrast.scale, contrast.reduction)
        };
        of(self) == of(other)
    }

    /// s = 1/τ.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// The reduction: mean or sum.
    pub fn reduction(&self) -> Reduction {
        self.reduction
    }

    /// The loss's name, for messages.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The loss as data.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// The variant of [`Inputs`](crate::Inputs) that the loss is computed on.
    pub fn layout(&self) -> Layout {
        self.description.layout
    }

    /// The rule of a row's loss.
    pub fn rule(&self) -> RowRule {
        self.description.rule
    }

    /// The weight w_i, the same for all rows: 1/N (means) or 1 (sum), times [`Description::factor`]; half of that
    /// for rows and for columns where columns have a loss too.
    pub fn row_weight(&self, anchors: usize) -> f64 {
        let directions = if self.has_columns() { 0.5 } else { 1.0 };
        let weight = directions * f64::from(self.description.factor);
        match self.reduction {
            Reduction::Mean | Reduction::MeanOfPositives => weight / anchors as f64,
            Reduction::Sum => weight,
        }
    }

    /// FLOPs that a call cannot avoid: 2NMD for each product of all anchors with all candidates. `Forward` has one
    /// product. The others have three, or two without dk where only rows have a loss; `ValueAndGrad` with dk has
    /// four where columns have a loss. The targets' scores are one product more, as of rows of D elements. Without
    /// negatives an anchor has one candidate.
    pub fn useful_flops(&self, shape: Shape, work: Work) -> f64 {
        let targets = f64::from(u8::from(self.layout() == Layout::Targets));
        let products = match work {
            Work::Forward => 1.0 + targets,
            Work::ValueAndGrad { dk: true } if self.has_columns() => 4.0,
            Work::ValueAndGrad { dk } | Work::Backward { dk } => {
                if dk || self.is_shared() || self.has_columns() {
                    3.0 + targets
                } else {
                    2.0 + targets
                }
            }
        };
        let candidates = match self.rule().is_alignment() {
            true => 1,
            false => shape.candidates,
        };
        2.0 * products * shape.anchors as f64 * candidates as f64 * shape.dim as f64
    }
}

/// A call of an engine, for [`Contrast::useful_flops`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Work {
    /// [`Engine::forward`](crate::Engine::forward).
    Forward,
    /// [`Engine::value_and_grad`](crate::Engine::value_and_grad).
    ValueAndGrad {
        /// Whether dk is wanted.
        dk: bool,
    },
    /// [`Engine::backward`](crate::Engine::backward).
    Backward {
        /// Whether dk is wanted.
        dk: bool,
    },
}

macro_rules! size_checks {
    ($($check:ident: $error:ident),*) => {$(
        pub(crate) fn $check(
            argument: &'static str,
            given: usize,
            expected: usize,
        ) -> Result<(), Error> {
            match given == expected {
                true => Ok(()),
                false => Err(Error::$error { argument, given, expected }),
            }
        }
    )*};
}
size_checks!(same_dim: Dimension, same_rows: Rows, same_length: Length);
