//! What to compute: one contrastive loss, validated, with no backend in it.
//!
//! With scale s = 1/τ and logits z_ij = s·⟨q_i, k_j⟩, every contrast here is
//! ```text
//! loss   = Σ_i w_i ( log Σ_{j ∈ A(i)} exp z_ij − z_{i,+(i)} )
//! ```
//! A(i) is the set of allowed candidates: the positive +(i) and the negatives. Excluded candidates
//! leave before any maximum is taken. A row without negatives has loss 0 and gradient 0.

use std::sync::Arc;

use crate::error::{Error, positive};
use crate::rows::Matrix;

/// Which candidate is the positive of each anchor of a one-way InfoNCE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Positives {
    /// Anchor `i` belongs to candidate `i`; needs N ≤ M.
    Diagonal,
    /// Anchor `i` belongs to candidate `index[i]`; N indices below M.
    Index(Arc<[u32]>),
}

/// How row losses become one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reduction {
    /// w_i = 1 / number of rows.
    #[default]
    Mean,
    /// w_i = 1.
    Sum,
}

/// The matrices a contrast is computed on; `V` is an engine's matrix view, [`Rows`](crate::Rows) on the CPU.
#[derive(Debug, Clone, Copy)]
pub enum Inputs<V> {
    /// Anchors and candidates are the same 2N × D matrix (NT-Xent): rows 0..N are one view of N
    /// images, rows N..2N the other.
    Shared {
        /// Embeddings of both views, 2N × D.
        z: V,
    },
    /// Anchors N × D and candidates M × D (InfoNCE, CLIP).
    Pair {
        /// Anchors, N × D.
        q: V,
        /// Candidates, M × D.
        k: V,
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

impl<V> Inputs<V> {
    fn variant(&self) -> &'static str {
        match self {
            Inputs::Shared { .. } => "Shared",
            Inputs::Pair { .. } => "Pair",
            Inputs::Queue { .. } => "Queue",
        }
    }
}

/// The size of a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// N: rows of the anchors (2N images' views for NT-Xent).
    pub anchors: usize,
    /// M: rows of the candidates (of the queue for MoCo; the own keys come on top).
    pub candidates: usize,
    /// D.
    pub dim: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Form {
    NtXent,
    InfoNce(Positives),
    Moco,
    Clip,
}

/// One contrastive loss: its form, its scale 1/τ and its reduction.
///
/// ```
/// use infonce::{Contrast, Positives};
/// let simclr = Contrast::nt_xent(0.5)?;
/// let one_way = Contrast::info_nce(0.07, Positives::Index(vec![2, 0, 1].into()))?;
/// assert!((one_way.scale() - 1.0 / 0.07).abs() < 1e-5);
/// assert!(Contrast::nt_xent(0.0).is_err());
/// # Ok::<(), infonce::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Contrast {
    pub(crate) form: Form,
    scale: f32,
    reduction: Reduction,
}

impl Contrast {
    fn with_temperature(form: Form, temperature: f32) -> Result<Self, Error> {
        let scale = 1.0 / positive("temperature", temperature)?;
        if !scale.is_finite() {
            return Err(Error::Scalar {
                argument: "temperature",
                given: f64::from(temperature),
                allowed: "large enough that 1/temperature is finite",
            });
        }
        Ok(Self {
            form,
            scale,
            reduction: Reduction::Mean,
        })
    }

    /// NT-Xent of SimCLR (Chen et al. 2020, equation 1) on [`Inputs::Shared`]: 2N rows, the
    /// positive of row i is row (i+N) mod 2N, every row excludes itself, mean over 2N rows.
    ///
    /// # Errors
    /// [`Error::Scalar`] unless `temperature` is finite and greater than 0.
    pub fn nt_xent(temperature: f32) -> Result<Self, Error> {
        Self::with_temperature(Form::NtXent, temperature)
    }

    /// One-way InfoNCE (van den Oord et al. 2018, equation 4) on [`Inputs::Pair`]: anchors q
    /// against candidates k, mean over the N anchors.
    ///
    /// # Errors
    /// [`Error::Scalar`] unless `temperature` is finite and greater than 0. That the positives fit
    /// N and M is checked with the inputs.
    pub fn info_nce(temperature: f32, positives: Positives) -> Result<Self, Error> {
        Self::with_temperature(Form::InfoNce(positives), temperature)
    }

    /// MoCo's loss (He et al. 2020, equation 1) on [`Inputs::Queue`]: each query against its own
    /// key and all keys of the queue, mean over the N queries. Keys and queue carry no gradient.
    ///
    /// Every key of the queue is a negative: a copy of an anchor's own key among them is counted, for
    /// keys have no ids. Enqueue a batch's keys after its loss.
    ///
    /// # Errors
    /// [`Error::Scalar`] unless `temperature` is finite and greater than 0.
    pub fn moco(temperature: f32) -> Result<Self, Error> {
        Self::with_temperature(Form::Moco, temperature)
    }

    /// CLIP's symmetric loss (Radford et al. 2021, figure 3) on [`Inputs::Pair`] with N = M: half
    /// the mean row loss plus half the mean column loss of one logit matrix. Takes the scale
    /// itself, because it is learned: see [`LogScale`](crate::losses::LogScale).
    ///
    /// # Errors
    /// [`Error::Scalar`] unless `scale` is finite and greater than 0.
    pub fn clip(scale: f32) -> Result<Self, Error> {
        Ok(Self {
            form: Form::Clip,
            scale: positive("scale", scale)?,
            reduction: Reduction::Mean,
        })
    }

    /// Replaces the reduction; the default is [`Reduction::Mean`].
    #[must_use]
    pub fn with_reduction(mut self, reduction: Reduction) -> Self {
        self.reduction = reduction;
        self
    }

    /// s = 1/τ.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// The reduction in force.
    pub fn reduction(&self) -> Reduction {
        self.reduction
    }

    /// The loss's name, for messages.
    pub fn name(&self) -> &'static str {
        match self.form {
            Form::NtXent => "NT-Xent",
            Form::InfoNce(_) => "InfoNCE",
            Form::Moco => "MoCo",
            Form::Clip => "CLIP",
        }
    }

    /// The weight w_i of every row of one direction: 1/N or 1, halved for each of CLIP's two directions.
    pub fn row_weight(&self, anchors: usize) -> f64 {
        let both_ways = if self.is_symmetric() { 0.5 } else { 1.0 };
        match self.reduction {
            Reduction::Mean => both_ways / anchors as f64,
            Reduction::Sum => both_ways,
        }
    }

    /// The index of anchor `i`'s positive among the candidates; `None` for MoCo, whose positive is
    /// a column of its own.
    pub fn positive(&self, i: usize, shape: Shape) -> Option<usize> {
        match &self.form {
            Form::NtXent => Some((i + shape.anchors / 2) % shape.anchors),
            Form::InfoNce(Positives::Diagonal) | Form::Clip => Some(i),
            Form::InfoNce(Positives::Index(index)) => Some(index[i] as usize),
            Form::Moco => None,
        }
    }

    /// Whether every anchor excludes the candidate of its own index (itself).
    pub fn excludes_self(&self) -> bool {
        matches!(self.form, Form::NtXent)
    }

    /// Whether columns have a loss too.
    pub fn is_symmetric(&self) -> bool {
        matches!(self.form, Form::Clip)
    }

    /// Checks the inputs against the description and returns the problem's size.
    ///
    /// # Errors
    /// Whatever of [`Error`] describes the first argument that does not fit.
    pub fn check<V: Matrix>(&self, inputs: &Inputs<V>) -> Result<Shape, Error> {
        let shape = match (&self.form, inputs) {
            (Form::NtXent, Inputs::Shared { z }) => {
                if z.rows() % 2 != 0 {
                    return Err(Error::OddRows { given: z.rows() });
                }
                Shape {
                    anchors: z.rows(),
                    candidates: z.rows(),
                    dim: z.dim(),
                }
            }
            (Form::InfoNce(_) | Form::Clip, Inputs::Pair { q, k }) => {
                same_dim("k", k.dim(), q.dim())?;
                Shape {
                    anchors: q.rows(),
                    candidates: k.rows(),
                    dim: q.dim(),
                }
            }
            (Form::Moco, Inputs::Queue { q, own_key, queue }) => {
                same_dim("own_key", own_key.dim(), q.dim())?;
                same_rows("own_key", own_key.rows(), q.rows())?;
                same_dim("queue", queue.dim(), q.dim())?;
                Shape {
                    anchors: q.rows(),
                    candidates: queue.rows(),
                    dim: q.dim(),
                }
            }
            (form, inputs) => {
                return Err(Error::Inputs {
                    contrast: self.name(),
                    given: inputs.variant(),
                    expected: match form {
                        Form::NtXent => "Shared",
                        Form::InfoNce(_) | Form::Clip => "Pair",
                        Form::Moco => "Queue",
                    },
                });
            }
        };
        self.check_positives(shape)?;
        Ok(shape)
    }

    fn check_positives(&self, shape: Shape) -> Result<(), Error> {
        match &self.form {
            Form::Clip => same_rows("k", shape.candidates, shape.anchors),
            Form::InfoNce(Positives::Diagonal) if shape.anchors > shape.candidates => {
                Err(Error::PositiveOutOfRange {
                    row: shape.candidates,
                    given: u32::try_from(shape.candidates).unwrap_or(u32::MAX),
                    candidates: shape.candidates,
                })
            }
            Form::InfoNce(Positives::Index(index)) => {
                same_rows("positives", index.len(), shape.anchors)?;
                match index.iter().position(|&j| j as usize >= shape.candidates) {
                    None => Ok(()),
                    Some(row) => Err(Error::PositiveOutOfRange {
                        row,
                        given: index[row],
                        candidates: shape.candidates,
                    }),
                }
            }
            _ => Ok(()),
        }
    }

    /// Checks that gradient buffers have the inputs' shapes and that the gradient exists.
    ///
    /// # Errors
    /// [`Error::Rows`], [`Error::Dimension`] or [`Error::NoCandidateGradient`].
    pub fn check_gradients<V: Matrix>(
        &self,
        shape: Shape,
        dq: &V,
        dk: Option<&V>,
    ) -> Result<(), Error> {
        same_rows("gradients.dq", dq.rows(), shape.anchors)?;
        same_dim("gradients.dq", dq.dim(), shape.dim)?;
        let Some(dk) = dk else { return Ok(()) };
        let reason = match self.form {
            Form::NtXent => "anchors and candidates are one matrix; dq holds its whole gradient",
            Form::Moco => "keys and queue carry no gradient",
            Form::InfoNce(_) | Form::Clip => {
                same_rows("gradients.dk", dk.rows(), shape.candidates)?;
                return same_dim("gradients.dk", dk.dim(), shape.dim);
            }
        };
        Err(Error::NoCandidateGradient {
            contrast: self.name(),
            reason,
        })
    }
}

pub(crate) fn same_dim(argument: &'static str, given: usize, expected: usize) -> Result<(), Error> {
    if given == expected {
        return Ok(());
    }
    Err(Error::Dimension {
        argument,
        given,
        expected,
    })
}

pub(crate) fn same_rows(
    argument: &'static str,
    given: usize,
    expected: usize,
) -> Result<(), Error> {
    if given == expected {
        return Ok(());
    }
    Err(Error::Rows {
        argument,
        given,
        expected,
    })
}
