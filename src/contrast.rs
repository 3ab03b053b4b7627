//! [`Contrast`]: one contrastive loss with its hyper-parameters, validated, independent of engines.

use crate::error::{Error, positive, within};
use crate::losses::description::{Description, Layout};
use crate::losses::rule::RowRule;

/// How the losses φ_i of rows become one scalar, Σ_i w_i·φ_i.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reduction {
    /// w_i = 1/N.
    #[default]
    Mean,
    /// w_i = 1.
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
/// maximum. A row without negatives, or without a positive, has loss 0 and gradient 0.
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
        description.rule.check()?;
        Ok(Self {
            name,
            description,
            scale,
            reduction: Reduction::Mean,
        })
    }

    /// The described loss at temperature τ.
    pub(crate) fn at(
        name: &'static str,
        description: Description,
        temperature: f32,
    ) -> Result<Self, Error> {
        let scale = 1.0 / positive("temperature", temperature)?;
        let allowed = "large enough that 1/temperature is finite";
        within("temperature", temperature, allowed, scale.is_finite())?;
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
    /// [`Error::Scalar`] for a hyper-parameter that is out of range.
    pub fn with_rule(mut self, rule: RowRule) -> Result<Self, Error> {
        self.description.rule = rule.check()?;
        Ok(self)
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

    /// The weight w_i, the same for all rows: 1/N (mean) or 1 (sum), times [`Description::factor`]; half of that
    /// for rows and for columns where columns have a loss too.
    pub fn row_weight(&self, anchors: usize) -> f64 {
        let directions = if self.has_columns() { 0.5 } else { 1.0 };
        let weight = directions * f64::from(self.description.factor);
        match self.reduction {
            Reduction::Mean => weight / anchors as f64,
            Reduction::Sum => weight,
        }
    }

    /// FLOPs that a call cannot avoid: 2NMD for each product of all anchors with all candidates. `Forward` has one
    /// product. The others have three, or two without dk where only rows have a loss; `ValueAndGrad` with dk has
    /// four where columns have a loss.
    pub fn useful_flops(&self, shape: Shape, work: Work) -> f64 {
        let products = match work {
            Work::Forward => 1.0,
            Work::ValueAndGrad { dk: true } if self.has_columns() => 4.0,
            Work::ValueAndGrad { dk } | Work::Backward { dk } => {
                if dk || self.is_shared() || self.has_columns() {
                    3.0
                } else {
                    2.0
                }
            }
        };
        2.0 * products * shape.anchors as f64 * shape.candidates as f64 * shape.dim as f64
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
