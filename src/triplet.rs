//! [`Triplet`]: the triplet loss with its hyper-parameters. [`Triplets`] are its inputs, and a [`TripletProblem`] is
//! the loss on them, checked.

use crate::contrast::{Reduction, Shape, same_dim, same_rows};
use crate::error::{Error, within};
use crate::gradients::Gradients;
use crate::positives::NO_POSITIVE;
use crate::rows::{Elements, Matrix, View};

/// The triplet loss (FaceNet, Schroff et al. 2015, section 3.1; time-contrastive networks, Sermanet et al. 2018): each
/// anchor q_i with a positive k_p and a negative k_n has the loss max(0, margin + ‖q_i − k_p‖² − ‖q_i − k_n‖²).
///
/// With mean reduction the loss is Σ_i/N over all N anchors, those without a triplet included. FaceNet sums;
/// TensorFlow's `triplet_semihard_loss` divides by the number of triplets, to which the caller changes by
/// [`Reduction::Sum`] and the upstream gradient. Rows need not be unit rows. [`semi_hard`](crate::semi_hard) selects
/// negatives.
///
/// ```
/// use infonce::{CpuEngine, Engine, Gradients, Rows, RowsMut, Triplet, Triplets};
///
/// // Rows 0 and 1 belong together; row 2 is at distance² 0.4 from row 0, as row 1 is.
/// let z = [1.0f32, 0.0, 0.8, 0.6, 0.8, -0.6];
/// let mut dz = [0.0f32; 6];
/// let triplets = Triplets {
///     q: Rows::new(&z, 3, 2)?,
///     k: None,
///     positives: &[1, 0, infonce::NO_POSITIVE][..],
///     negatives: &[2, 2, infonce::NO_POSITIVE],
/// };
/// let problem = Triplet::default().on(triplets)?;
/// let gradients = Gradients::new(RowsMut::new(&mut dz, 3, 2)?, None);
/// let loss = CpuEngine::new().triplet(&problem, 1.0, gradients)?;
/// // Row 0 has the loss 0.2 + 0.4 − 0.4, row 1 none, because row 2 is far from it.
/// assert!((loss - 0.2 / 3.0).abs() < 1e-6);
/// # Ok::<(), infonce::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Triplet {
    margin: f32,
    reduction: Reduction,
}

/// The margin of the paper, mean reduction.
impl Default for Triplet {
    fn default() -> Self {
        Self {
            margin: Self::MARGIN,
            reduction: Reduction::Mean,
        }
    }
}

/// What a triplet loss is computed on; `V` is an engine's matrix view, [`Rows`](crate::Rows) in host memory.
#[derive(Debug, Clone, Copy)]
pub struct Triplets<V: View> {
    /// Anchors, N × D.
    pub q: V,
    /// Candidates, M × D; `None`: the anchors themselves, whose gradient is then one matrix, dq.
    pub k: Option<V>,
    /// The candidate that is each anchor's positive, N. [`NO_POSITIVE`] here or in `negatives` leaves the anchor out:
    /// its loss and gradient are 0. Other indices of M or more are an error in host memory; in device memory, which
    /// is not checked, they leave it out too.
    pub positives: V::Indices,
    /// The candidate that is each anchor's negative, N.
    pub negatives: V::Indices,
}

/// A triplet loss on its inputs, checked once: what engines compute. Made by [`Triplet::on`].
#[derive(Debug, Clone, Copy)]
pub struct TripletProblem<V: View> {
    triplet: Triplet,
    triplets: Triplets<V>,
}

impl Triplet {
    /// The margin of Schroff et al. 2015, in squared distances of unit rows: 0.2.
    pub const MARGIN: f32 = 0.2;

    /// The loss with this margin and mean reduction.
    ///
    /// # Errors
    /// [`Error::Scalar`] unless `margin` is finite and at least 0.
    pub fn new(margin: f32) -> Result<Self, Error> {
        let legal = margin.is_finite() && margin >= 0.0;
        Ok(Self {
            margin: within("margin", margin, "finite and at least 0", legal)?,
            ..Self::default()
        })
    }

    /// Replaces the reduction.
    #[must_use]
    pub fn with_reduction(self, reduction: Reduction) -> Self {
        Self { reduction, ..self }
    }

    /// The margin.
    pub fn margin(&self) -> f32 {
        self.margin
    }

    /// The weight of an anchor's loss: 1/N (mean) or 1 (sum).
    pub fn row_weight(&self, anchors: usize) -> f64 {
        match self.reduction {
            Reduction::Mean | Reduction::MeanOfPositives => 1.0 / anchors as f64,
            Reduction::Sum => 1.0,
        }
    }

    /// Checks that the inputs fit, and joins them with the loss.
    ///
    /// # Errors
    /// [`Error::Dimension`], [`Error::Rows`] or [`Error::TripletOutOfRange`], naming the first argument that does not
    /// fit; [`Error::Unsupported`] for [`Reduction::MeanOfPositives`].
    pub fn on<V: View>(&self, triplets: Triplets<V>) -> Result<TripletProblem<V>, Error> {
        if self.reduction == Reduction::MeanOfPositives {
            return Err(Error::Unsupported {
                option: "reduction",
                reason: "triplets have the mean over all anchors, or the sum",
            });
        }
        let problem = TripletProblem {
            triplet: *self,
            triplets,
        };
        let shape = problem.shape();
        same_dim("k", problem.candidates().dim(), shape.dim)?;
        for (argument, index) in [
            ("positives", triplets.positives),
            ("negatives", triplets.negatives),
        ] {
            same_rows(argument, index.len(), shape.anchors)?;
            let on_host = index.on_host().unwrap_or_default();
            let is_legal = |&j: &u32| j == NO_POSITIVE || (j as usize) < shape.candidates;
            if let Some(row) = on_host.iter().position(|j| !is_legal(j)) {
                return Err(Error::TripletOutOfRange {
                    argument,
                    row,
                    given: on_host[row],
                    candidates: shape.candidates,
                });
            }
        }
        Ok(problem)
    }
}

impl<V: View> TripletProblem<V> {
    /// The loss.
    pub fn triplet(&self) -> &Triplet {
        &self.triplet
    }

    /// The matrices and indices.
    pub fn triplets(&self) -> &Triplets<V> {
        &self.triplets
    }

    /// Whether the anchors are the candidates.
    pub fn is_shared(&self) -> bool {
        self.triplets.k.is_none()
    }

    /// Anchors, N × D.
    pub fn anchors(&self) -> V {
        self.triplets.q
    }

    /// Candidates, M × D.
    pub fn candidates(&self) -> V {
        self.triplets.k.unwrap_or(self.triplets.q)
    }

    /// N, M and D.
    pub fn shape(&self) -> Shape {
        Shape {
            anchors: self.anchors().rows(),
            candidates: self.candidates().rows(),
            dim: self.anchors().dim(),
        }
    }

    /// Positive and negative of each anchor that has both, for engines that compute on the host.
    pub(crate) fn named(&self) -> Vec<Option<[usize; 2]>> {
        let read = |index: V::Indices| index.on_host().unwrap_or_default().to_vec();
        let positives = read(self.triplets.positives).into_iter();
        let pairs = positives.zip(read(self.triplets.negatives));
        let named =
            |(p, n)| (p != NO_POSITIVE && n != NO_POSITIVE).then_some([p as usize, n as usize]);
        pairs.map(named).collect()
    }

    /// Maps this problem to other memory: `matrix` maps each matrix, `indices` each vector of indices, given its
    /// argument's name.
    ///
    /// # Errors
    /// The first that a closure returns.
    pub fn try_map<'s, W: View>(
        &'s self,
        mut matrix: impl FnMut(&'static str, &'s V) -> Result<W, Error>,
        mut indices: impl FnMut(&'static str, &'s V::Indices) -> Result<W::Indices, Error>,
    ) -> Result<TripletProblem<W>, Error> {
        let Triplets {
            q,
            k,
            positives,
            negatives,
        } = &self.triplets;
        Ok(TripletProblem {
            triplet: self.triplet,
            triplets: Triplets {
                q: matrix("q", q)?,
                k: k.as_ref().map(|k| matrix("k", k)).transpose()?,
                positives: indices("positives", positives)?,
                negatives: indices("negatives", negatives)?,
            },
        })
    }

    /// Checks that dq is N × D, and that dk is M × D, or absent where the anchors are the candidates.
    ///
    /// # Errors
    /// [`Error::Rows`], [`Error::Dimension`] or [`Error::NoCandidateGradient`]; [`Error::Unsupported`] for a dbias.
    pub fn check_gradients<M: Matrix>(&self, gradients: &Gradients<M>) -> Result<(), Error> {
        let shape = self.shape();
        same_rows("gradients.dq", gradients.dq.rows(), shape.anchors)?;
        same_dim("gradients.dq", gradients.dq.dim(), shape.dim)?;
        if gradients.dbias.is_some() {
            return Err(Error::Unsupported {
                option: "gradients.dbias",
                reason: "the triplet loss has no column bias",
            });
        }
        let Some(dk) = &gradients.dk else {
            return Ok(());
        };
        if self.is_shared() {
            return Err(Error::NoCandidateGradient {
                contrast: "the triplet loss without `k`",
                reason: "anchors and candidates are one matrix; dq holds its whole gradient",
            });
        }
        same_rows("gradients.dk", dk.rows(), shape.candidates)?;
        same_dim("gradients.dk", dk.dim(), shape.dim)
    }
}
