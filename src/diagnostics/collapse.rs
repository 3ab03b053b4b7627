//! Collapse: whether embeddings of different inputs differ, and in how many dimensions.

#[cfg(feature = "cli")]
use serde::{Deserialize, Serialize};

use super::rank::rank_of;
use super::sphere::{centre, deviation_of_centred};
use super::unit;
use crate::element::Element;
use crate::error::Error;
use crate::rows::{Matrix, Rows};

/// How embeddings have collapsed, if they have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(Serialize, Deserialize))]
#[cfg_attr(feature = "cli", serde(rename_all = "snake_case"))]
pub enum Verdict {
    /// Embeddings use the sphere.
    Spread,
    /// Embeddings crowd into a region of the sphere.
    Narrow,
    /// Dimensional collapse: embeddings differ in few directions.
    Dimensional,
    /// Complete collapse: embeddings are nearly one point.
    Collapsed,
    /// Some embedding is not finite; [`Collapse::of`] returns [`Error::NotFinite`] instead.
    NotFinite,
    /// There is a single embedding, which says nothing about different ones.
    Unknown,
}

impl Verdict {
    /// One sentence for reports.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Spread => "no collapse: embeddings of different inputs spread over the sphere",
            Self::Narrow => "partial collapse: embeddings crowd into a region of the sphere",
            Self::Dimensional => {
                "dimensional collapse: embeddings of different inputs differ in few directions"
            }
            Self::Collapsed => "collapsed: embeddings of different inputs are nearly one point",
            Self::NotFinite => "broken: embeddings hold values that are not finite",
            Self::Unknown => "collapse unknown: a single embedding has none to differ from",
        }
    }
}

/// What N unit rows of D elements say about collapse, complete (Chen and He 2021) and dimensional (Jing et al. 2022).
///
/// The verdict is the first of these that holds; its limits are conventions of this crate, of no paper:
/// ```text
/// Unknown       N = 1
/// Collapsed     radius < 0.1, a mean cosine of pairs above 0.99
/// Dimensional   effective_rank < 0.1·full_rank
/// Narrow        radius < 0.5, a mean cosine of pairs above 0.75
/// Spread        otherwise
/// ```
///
/// ```
/// use infonce::diagnostics::{Collapse, Verdict};
/// use infonce::Rows;
/// let x = [1.0f32, 0.0, -1.0, 0.0, 0.0, 1.0, 0.0, -1.0];
/// let found = Collapse::of(Rows::new(&x, 4, 2)?)?;
/// assert_eq!((found.verdict, found.full_rank), (Verdict::Spread, 2));
/// assert!((found.effective_rank - 2.0).abs() < 1e-5);
/// # Ok::<(), infonce::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Collapse {
    /// [`deviation`](super::deviation()): 1 for rows spread evenly over the sphere, 0 for one point.
    pub deviation: f64,
    /// Root mean square distance of the rows from their mean: for unit rows √(1 − ‖mean‖²), at least `deviation`, which is
    /// less where coordinates vary unequally.
    pub radius: f64,
    /// [`effective_rank`](super::effective_rank()) of the rows less their mean, so that crowding counts as no loss of
    /// dimensions; 0 where they do not differ.
    pub effective_rank: f64,
    /// The most that `effective_rank` can be: min(N − 1, D).
    pub full_rank: usize,
    /// The verdict on them.
    pub verdict: Verdict,
}

impl Collapse {
    /// Below this radius embeddings have collapsed to (nearly) one point.
    pub const COLLAPSED_RADIUS: f64 = 0.1;
    /// Below this radius embeddings crowd into a region of the sphere.
    pub const NARROW_RADIUS: f64 = 0.5;
    /// Below this share of the full rank embeddings have collapsed to few dimensions.
    pub const LOW_RANK: f64 = 0.1;

    /// What a program that goes on after [`Error::NotFinite`] reports.
    pub const NOT_FINITE: Self = Self {
        deviation: f64::NAN,
        radius: f64::NAN,
        effective_rank: f64::NAN,
        full_rank: 0,
        verdict: Verdict::NotFinite,
    };

    /// Examines embeddings of different inputs, N × D. Rows are normalised first; a row of zeros stays. FLOPs are those of
    /// [`effective_rank`](super::effective_rank()).
    ///
    /// # Errors
    /// [`Error::NotFinite`] for a row with NaN or infinity.
    pub fn of<T: Element>(x: Rows<'_, T>) -> Result<Self, Error> {
        let (rows, dim) = (x.rows(), x.dim());
        let mut centred = unit("x", x)?;
        centre(&mut centred, dim);
        let squares = centred.iter().map(|x| x * x);
        let radius = (squares.sum::<f64>() / rows as f64).sqrt();
        // Copies of one row differ from their mean by rounding errors, whose rank means nothing.
        let do_differ = radius > f64::from(f32::EPSILON);
        let effective_rank = if do_differ {
            rank_of(&centred, dim)
        } else {
            0.0
        };
        let full_rank = dim.min(rows - 1);
        let verdict = if rows == 1 {
            Verdict::Unknown
        } else if radius < Self::COLLAPSED_RADIUS {
            Verdict::Collapsed
        } else if effective_rank < Self::LOW_RANK * full_rank as f64 {
            Verdict::Dimensional
        } else if radius < Self::NARROW_RADIUS {
            Verdict::Narrow
        } else {
            Verdict::Spread
        };
        Ok(Self {
            deviation: deviation_of_centred(&centred, dim),
            radius,
            effective_rank,
            full_rank,
            verdict,
        })
    }
}
