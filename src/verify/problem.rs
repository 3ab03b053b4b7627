//! Draws the inputs of a case.

use rand::{Rng, RngExt};

use super::cases::{Case, Data, Given};
use crate::contrast::Contrast;
use crate::element::Element;
use crate::error::Error;
use crate::inputs::{Inputs, NO_POSITIVE, Positives, Problem};
use crate::reference::{self, Dense, Reference};
use crate::rows::{Matrix, Rows, View};

/// A case with its inputs, rounded to `T`.
#[derive(Debug, Clone)]
pub struct Drawn<T> {
    /// The case it was drawn for.
    pub case: Case,
    /// The case's contrast.
    pub contrast: Contrast,
    /// z; q and k; or q, own_key and queue.
    matrices: Vec<Owned<T>>,
    positives: Positives<Vec<u32>>,
}

impl<T: Element> Drawn<T> {
    /// Draws the inputs of `case`.
    ///
    /// # Errors
    /// [`Error`] when the case describes no valid contrast.
    pub fn draw(case: &Case, rng: &mut impl Rng) -> Result<Self, Error> {
        let contrast = case.kind.contrast(case.scale)?;
        let (n, m) = (case.anchors, case.candidates);
        let given = positives(case, rng);
        let mut draw = Draw {
            case,
            contrast: &contrast,
            common: [(); 3].map(|()| unit(case.dim, rng)),
            rng: &mut *rng,
        };
        let pair = |j: usize| match &given {
            _ if contrast.has_own_keys() => n + j,
            // As in `positives`, confident anchor i has the i-th last candidate.
            Positives::Index(_) | Positives::Labels { .. } => m - 1 - j,
            Positives::Offset(offset) => usize::try_from(j as i64 - offset).unwrap_or(n + j),
        };
        let mut matrices = Vec::new();
        if contrast.is_shared() {
            matrices.push(draw.matrix(n, Side::View, |i| i % (n / 2)));
        } else {
            matrices.push(draw.matrix(n, Side::Anchor, |i| i));
            if contrast.has_own_keys() {
                matrices.push(draw.matrix(n, Side::Candidate, |i| i));
            }
            matrices.push(draw.matrix(m, Side::Candidate, pair));
        }
        if let Data::NotFinite(value) = case.data {
            let which = rng.random_range(0..matrices.len());
            let elements = matrices[which].as_mut_slice();
            let place = rng.random_range(0..elements.len());
            elements[place] = f64::from(value);
        }
        Ok(Self {
            case: *case,
            contrast: contrast.with_reduction(case.reduction),
            matrices: matrices.iter().map(Owned::round).collect(),
            positives: given,
        })
    }

    /// The problem in host memory.
    ///
    /// # Errors
    /// Those of [`Contrast::on`].
    pub fn problem(&self) -> Result<Problem<Rows<'_, T>>, Error> {
        let views: Result<Vec<_>, Error> = self.matrices.iter().map(Owned::view).collect();
        self.on(&views?)
    }

    /// The contrast on these views of the matrices.
    pub(super) fn on<'a, V: View<Indices = &'a [u32]>>(
        &'a self,
        views: &[V],
    ) -> Result<Problem<V>, Error> {
        self.contrast.on(inputs(views, self.positives.view()))
    }

    /// The matrices, widened.
    ///
    /// # Errors
    /// [`Error::Empty`] when a matrix has no rows or no columns.
    pub fn wide(&self) -> Result<Vec<Dense>, Error> {
        let wide = |x: &Owned<T>| Ok(Dense::from_rows(x.view()?));
        self.matrices.iter().map(wide).collect()
    }

    /// The solution in float64.
    ///
    /// # Errors
    /// Those of [`Contrast::on`].
    pub fn solution(&self) -> Result<Reference, Error> {
        let wide = self.wide()?;
        let problem = self.on(&wide.iter().collect::<Vec<_>>())?;
        let upstream = f64::from(self.case.upstream);
        Ok(reference::value_and_grad(&problem, upstream))
    }
}

/// Inputs of the layout with this number of matrices: z; q and k; or q, own_key and queue.
///
/// # Panics
/// When there are none, or more than three.
pub fn inputs<V: View>(matrices: &[V], positives: Positives<V::Indices>) -> Inputs<V> {
    match *matrices {
        [z] => Inputs::Shared { z },
        [q, k] => Inputs::Pair { q, k, positives },
        [q, own_key, queue] => Inputs::Queue { q, own_key, queue },
        _ => panic!("inputs are one to three matrices, not {}", matrices.len()),
    }
}

/// Draws each anchor's positive.
fn positives(case: &Case, rng: &mut impl Rng) -> Positives<Vec<u32>> {
    if !case.kind.takes_positives() {
        return Positives::DIAGONAL;
    }
    let with_gaps = match case.kind.given {
        Given::Diagonal => return Positives::DIAGONAL,
        Given::Offset => {
            let third = (case.anchors / 3 + 1) as i64;
            return Positives::Offset([third, -third][case.number % 2]);
        }
        Given::Index => false,
        Given::IndexWithGaps | Given::Labels => true,
    };
    let index = |i: usize| match case.data {
        _ if with_gaps && i % 3 == 1 => NO_POSITIVE as usize,
        Data::SharedPositives => [0, case.candidates - 1][i % 2],
        // Confident anchors need different positives: anchor i has the i-th last candidate.
        Data::Confident(_) => case.candidates - 1 - i.min(case.candidates - 1),
        _ => rng.random_range(0..case.candidates),
    };
    let index: Vec<u32> = (0..case.anchors).map(index).map(|j| j as u32).collect();
    match case.kind.given {
        Given::Labels => labels(&index, case.candidates),
        _ => Positives::Index(index),
    }
}

/// Labels that make these the anchors' positives. A candidate that is no positive repeats the label before it.
fn labels(index: &[u32], candidates: usize) -> Positives<Vec<u32>> {
    let label = |j: u32| 7 * j + 3;
    let mut of_candidates = vec![0];
    for j in 0..candidates as u32 {
        let before = of_candidates[j as usize];
        of_candidates.push(if index.contains(&j) { label(j) } else { before });
    }
    let of_anchor = |(i, &j): (usize, &u32)| match j {
        NO_POSITIVE if i % 2 == 0 => NO_POSITIVE,
        NO_POSITIVE => label(candidates as u32),
        j => label(j),
    };
    Positives::Labels {
        anchors: index.iter().enumerate().map(of_anchor).collect(),
        candidates: of_candidates.split_off(1),
    }
}

/// A matrix that owns its elements.
#[derive(Debug, Clone)]
pub struct Owned<T> {
    data: Vec<T>,
    rows: usize,
    dim: usize,
}

impl<T: Element> Owned<T> {
    /// Rounds `dense` to `T`.
    pub fn round(dense: &Dense) -> Self {
        let round = |&x: &f64| T::from_f32(x as f32);
        Self {
            data: dense.as_slice().iter().map(round).collect(),
            rows: dense.rows(),
            dim: dense.dim(),
        }
    }

    /// A view of it.
    ///
    /// # Errors
    /// [`Error::Empty`] when it has no rows or no columns.
    pub fn view(&self) -> Result<Rows<'_, T>, Error> {
        Rows::new(&self.data, self.rows, self.dim)
    }
}

/// A random matrix with elements from the standard normal distribution.
pub(super) fn normal_matrix(rows: usize, dim: usize, rng: &mut impl Rng) -> Dense {
    Dense::from_fn(rows, dim, |_, _| normal(rng))
}

/// A draw from the standard normal distribution (Box and Muller 1958).
fn normal(rng: &mut impl Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}

/// The role of a matrix's rows.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Anchor,
    Candidate,
    /// Both.
    View,
}

/// Draws the matrices of one case.
struct Draw<'a, R> {
    case: &'a Case,
    contrast: &'a Contrast,
    rng: &'a mut R,
    /// Unit vectors that rows may share.
    common: [Vec<f64>; 3],
}

impl<R: Rng> Draw<'_, R> {
    /// `rows` rows; `pair(row)` is equal for an anchor and its positive.
    fn matrix(&mut self, rows: usize, side: Side, pair: impl Fn(usize) -> usize) -> Dense {
        let drawn: Vec<Vec<f64>> = (0..rows).map(|i| self.row(side, i, pair(i))).collect();
        Dense::from_fn(rows, self.case.dim, |i, d| drawn[i][d])
    }

    fn row(&mut self, side: Side, row: usize, pair: usize) -> Vec<f64> {
        let (dim, scale) = (self.case.dim, f64::from(self.case.scale));
        match self.case.data {
            Data::Unit | Data::SharedPositives | Data::NotFinite(_) => unit(dim, self.rng),
            Data::Unnormalised => {
                let norm = self.rng.random_range(0.01f64.ln()..30f64.ln()).exp();
                times(norm, &unit(dim, self.rng))
            }
            Data::Collinear => self.common[0].clone(),
            Data::Duplicates => self.common[self.rng.random_range(0..3)].clone(),
            Data::FarBelow(depth) if side == Side::View => {
                // Corners of a simplex: ⟨z_i, z_j⟩ = −r²/n for all i ≠ j; needs D ≥ n.
                let n = self.case.anchors;
                let r = (depth * n as f64 / scale).sqrt();
                let corner = |d: usize| f64::from(u8::from(d == row)) - 1.0 / n as f64;
                let corner: Vec<f64> = (0..dim)
                    .map(|d| if d < n { r * corner(d) } else { 0.0 })
                    .collect();
                self.mirrored(&corner)
            }
            Data::FarBelow(depth) => {
                let sign = if side == Side::Anchor { 1.0 } else { -1.0 };
                let noise = times(0.1, &unit(dim, self.rng));
                let centre = self.common[0].iter().zip(noise);
                let length = (depth / scale).sqrt();
                centre
                    .map(|(u, noise)| length * (sign * u + noise))
                    .collect()
            }
            Data::Confident(rest) => {
                // Pairs have orthogonal directions: up to noise z₊ = a²s and z⁻ = 0, so that
                // 1 − p₊ = negatives·exp(−a²s).
                let negatives = self.contrast.negatives(self.case.candidates);
                let pairs = match self.contrast.is_shared() {
                    true => self.case.anchors / 2,
                    false => self.case.anchors,
                };
                let direction = if pair < pairs {
                    pair
                } else {
                    pairs + (pair - pairs) % (dim - pairs)
                };
                let a = ((negatives as f64 / rest).ln() / scale).sqrt();
                let mut vector = times(0.1, &unit(dim, self.rng));
                vector[direction] += 1.0;
                times(a, &self.mirrored(&vector))
            }
        }
    }

    /// Reflects `x` at a random plane, the same for all rows. Products of rows stay, and zeros vanish.
    fn mirrored(&self, x: &[f64]) -> Vec<f64> {
        let normal = &self.common[1];
        let along: f64 = x.iter().zip(normal).map(|(x, n)| x * n).sum();
        let pairs = x.iter().zip(normal);
        pairs.map(|(x, n)| x - 2.0 * along * n).collect()
    }
}

fn unit(dim: usize, rng: &mut impl Rng) -> Vec<f64> {
    let x: Vec<f64> = (0..dim).map(|_| normal(rng)).collect();
    let norm = x.iter().map(|x| x * x).sum::<f64>().sqrt();
    times(1.0 / norm, &x)
}

fn times(factor: f64, x: &[f64]) -> Vec<f64> {
    x.iter().map(|x| factor * x).collect()
}
