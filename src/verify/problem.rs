//! Draws the inputs of a case.

use rand::{Rng, RngExt};

use super::cases::{Case, Data, Loss};
use crate::contrast::{Contrast, Inputs, Positives};
use crate::element::Element;
use crate::error::Error;
use crate::reference::Dense;
use crate::rows::{Matrix, Rows};

/// A case with its inputs, rounded to `T` as an engine gets them.
#[derive(Debug, Clone)]
pub struct Problem<T> {
    /// The case it was drawn for.
    pub case: Case,
    /// What to compute.
    pub contrast: Contrast,
    inputs: Inputs<Owned<T>>,
}

impl<T: Element> Problem<T> {
    /// Draws the inputs of `case`.
    ///
    /// # Errors
    /// [`Error`] when the case describes no valid contrast.
    pub fn draw(case: &Case, rng: &mut impl Rng) -> Result<Self, Error> {
        let positives = positives(case, rng);
        let temperature = 1.0 / case.scale;
        let contrast = match case.loss {
            Loss::NtXent => Contrast::nt_xent(temperature),
            Loss::InfoNceDiagonal => Contrast::info_nce(temperature, Positives::Diagonal),
            Loss::InfoNceIndex => Contrast::info_nce(temperature, positives),
            Loss::Moco => Contrast::moco(temperature),
            Loss::Clip => Contrast::clip(case.scale),
        }?
        .with_reduction(case.reduction);

        let (n, m) = (case.anchors, case.candidates);
        let mut draw = Draw::new(case, rng);
        let mut inputs = match case.loss {
            Loss::NtXent => Inputs::Shared {
                z: draw.matrix(n, Side::View, |i| i % (n / 2)),
            },
            Loss::InfoNceDiagonal | Loss::Clip => Inputs::Pair {
                q: draw.matrix(n, Side::Anchor, |i| i),
                k: draw.matrix(m, Side::Candidate, |j| j),
            },
            Loss::InfoNceIndex => Inputs::Pair {
                q: draw.matrix(n, Side::Anchor, |i| i),
                k: draw.matrix(m, Side::Candidate, |j| m - 1 - j),
            },
            Loss::Moco => Inputs::Queue {
                q: draw.matrix(n, Side::Anchor, |i| i),
                own_key: draw.matrix(n, Side::Candidate, |i| i),
                queue: draw.matrix(m, Side::Candidate, |j| n + j),
            },
        };
        if let Data::NotFinite(value) = case.data {
            let matrices: Vec<&mut Dense> = match &mut inputs {
                Inputs::Shared { z } => vec![z],
                Inputs::Pair { q, k } => vec![q, k],
                Inputs::Queue { q, own_key, queue } => vec![q, own_key, queue],
            };
            let which = rng.random_range(0..matrices.len());
            if let Some(matrix) = matrices.into_iter().nth(which) {
                let numbers = matrix.as_mut_slice();
                let place = rng.random_range(0..numbers.len());
                numbers[place] = f64::from(value);
            }
        }
        Ok(Self {
            case: *case,
            contrast,
            inputs: map(&inputs, |matrix| Ok(Owned::round(matrix)))?,
        })
    }

    /// The inputs as an engine takes them.
    ///
    /// # Errors
    /// [`Error::Empty`] when a matrix has no rows or no columns.
    pub fn inputs(&self) -> Result<Inputs<Rows<'_, T>>, Error> {
        map(&self.inputs, Owned::view)
    }
}

/// Which candidate belongs to each anchor, for [`Loss::InfoNceIndex`].
fn positives(case: &Case, rng: &mut impl Rng) -> Positives {
    let index = |i: usize| match case.data {
        Data::SharedPositives => [0, case.candidates - 1][i % 2],
        // Each anchor needs a positive of its own: counted from the last candidate.
        Data::Confident(_) => case.candidates - 1 - i.min(case.candidates - 1),
        _ => rng.random_range(0..case.candidates),
    };
    let indices: Vec<u32> = (0..case.anchors).map(index).map(|j| j as u32).collect();
    Positives::Index(indices.into())
}

/// Applies `change` to each matrix.
pub(super) fn map<'a, V, W>(
    inputs: &'a Inputs<V>,
    mut change: impl FnMut(&'a V) -> Result<W, Error>,
) -> Result<Inputs<W>, Error> {
    Ok(match inputs {
        Inputs::Shared { z } => Inputs::Shared { z: change(z)? },
        Inputs::Pair { q, k } => Inputs::Pair {
            q: change(q)?,
            k: change(k)?,
        },
        Inputs::Queue { q, own_key, queue } => Inputs::Queue {
            q: change(q)?,
            own_key: change(own_key)?,
            queue: change(queue)?,
        },
    })
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

/// A random matrix, every number from the normal distribution.
pub(super) fn normal_matrix(rows: usize, dim: usize, rng: &mut impl Rng) -> Dense {
    Dense::from_fn(rows, dim, |_, _| normal(rng))
}

/// A number from the normal distribution (Box and Muller 1958).
fn normal(rng: &mut impl Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}

/// What a matrix's rows are to each other.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Anchor,
    Candidate,
    /// Both.
    View,
}

/// Draws matrices of one case that belong together.
struct Draw<'a, R> {
    case: &'a Case,
    rng: &'a mut R,
    /// Unit vectors that rows may share.
    common: [Vec<f64>; 3],
}

impl<'a, R: Rng> Draw<'a, R> {
    fn new(case: &'a Case, rng: &'a mut R) -> Self {
        let common = [(); 3].map(|()| unit(case.dim, rng));
        Self { case, rng, common }
    }

    /// `rows` rows; `pair(row)` is the same number for an anchor and its positive.
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
                // A direction for every pair, orthogonal to the others: z₊ = a²s and z⁻ = 0 but for
                // noise, so that 1 − p₊ = negatives·exp(−a²s).
                let (pairs, negatives) = match self.case.loss {
                    Loss::NtXent => (self.case.anchors / 2, self.case.candidates - 2),
                    Loss::Moco => (self.case.anchors, self.case.candidates),
                    _ => (self.case.anchors, self.case.candidates - 1),
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

    /// Reflected at a random plane, the same for all rows: products stay, zeros go.
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
