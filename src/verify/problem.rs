//! Draws the inputs of a case.

use rand::{Rng, RngExt};

use super::cases::{Case, Data, Given};
use crate::contrast::Contrast;
use crate::element::Element;
use crate::error::Error;
use crate::inputs::Inputs;
use crate::losses::Layout;
use crate::positives::{Ids, NO_ID, NO_POSITIVE, Positives};
use crate::problem::Problem;
use crate::reference::{self, Dense, Logits, Reference};
use crate::rows::{Matrix, Rows, View};

/// A case with its inputs, rounded to `T`.
#[derive(Debug, Clone)]
pub struct Drawn<T> {
    /// The case it was drawn for.
    pub case: Case,
    /// The case's contrast.
    pub contrast: Contrast,
    /// Those of [`posed`].
    matrices: Vec<Owned<T>>,
    positives: Positives<Vec<u32>>,
    ids: Option<Ids<Vec<u32>>>,
    row_weights: Option<Vec<f32>>,
    column_bias: Option<Vec<f32>>,
    target_bias: Option<Vec<f32>>,
}

impl<T: Element> Drawn<T> {
    /// Draws the inputs of `case`.
    ///
    /// # Errors
    /// [`Error`] when the case describes no valid contrast.
    pub fn draw(case: &Case, rng: &mut impl Rng) -> Result<Self, Error> {
        let contrast = case.kind.contrast(case.scale)?;
        let (n, m) = (case.anchors, case.candidates);
        let given = positives(case, contrast.has_sets(), rng);
        let pairs = pairs(case, &contrast, &given);
        let mut draw = Draw {
            case,
            contrast: &contrast,
            common: [(); 3].map(|()| unit(case.dim, rng)),
            rng: &mut *rng,
        };
        let mut matrices = Vec::new();
        if contrast.is_shared() {
            matrices.push(draw.matrix(Side::View, &pairs[0]));
        } else {
            matrices.push(draw.matrix(Side::Anchor, &pairs[0]));
            if contrast.has_own_keys() {
                matrices.push(draw.matrix(Side::Candidate, &pairs[0]));
            }
            matrices.push(draw.matrix(Side::Candidate, &pairs[1]));
        }
        if contrast.layout() == Layout::Targets {
            // Where the number of anchors is even, two have one row of targets.
            let rows = n / if n.is_multiple_of(2) { 2 } else { 1 };
            matrices.push(draw.matrix(Side::Anchor, &pairs[0][..rows]));
            matrices.push(draw.matrix(Side::Candidate, &pairs[1]));
        }
        if let Data::NotFinite(value) = case.data {
            let which = rng.random_range(0..matrices.len());
            let elements = matrices[which].as_mut_slice();
            let place = rng.random_range(0..elements.len());
            elements[place] = f64::from(value);
        }
        let options = case.kind.options;
        // Every fifth row has no id; the others have one of four.
        let mut id = |i: usize| match i % 5 {
            3 => NO_ID,
            _ => rng.random_range(0..4),
        };
        let mut ids = |rows: usize| -> Vec<u32> { (0..rows).map(&mut id).collect() };
        let ids = options.ids.then(|| {
            let candidates = ids(m);
            let anchors = match contrast.is_shared() {
                true => candidates.clone(),
                false => ids(n),
            };
            Ids {
                anchors,
                candidates,
            }
        });
        let mut weight = |i: usize| match i % 4 {
            2 => 0.0,
            _ => rng.random_range(0.1..2.0),
        };
        let row_weights = options.weights.then(|| (0..n).map(&mut weight).collect());
        let mut bias = |_| rng.random_range(-2.0..2.0);
        let column_bias = options.bias.then(|| (0..m).map(&mut bias).collect());
        let has_target_bias = contrast.layout() == Layout::Targets && case.number % 2 == 1;
        let target_bias = has_target_bias.then(|| (0..m).map(&mut bias).collect());
        let drawn = Self {
            case: *case,
            contrast: contrast.with_reduction(case.reduction),
            matrices: matrices.iter().map(Owned::round).collect(),
            positives: given,
            ids,
            row_weights,
            column_bias,
            target_bias,
        };
        match options.guard {
            Some(share) => drawn.guarded(share),
            None => Ok(drawn),
        }
    }

    /// Adds a guard that excludes about this share of the negatives. Its limit lies in the widest gap nearby between
    /// logits, relative to the row's positive's, so that rounding excludes the same candidates.
    fn guarded(self, share: f64) -> Result<Self, Error> {
        let wide = self.wide()?;
        let problem = self.on(&wide.iter().collect::<Vec<_>>())?;
        let Logits { logits, rows, .. } = Logits::new(&problem, |x| x);
        let mut differences = Vec::new();
        for (i, [positives, negatives]) in rows.iter().enumerate() {
            let (z, Some(&positive)) = (logits.row(i), positives.first()) else {
                continue;
            };
            differences.extend(negatives.iter().map(|&j| z[positive] - z[j]));
        }
        differences.sort_by(f64::total_cmp);
        let gap = |&place: &usize| differences[place + 1] - differences[place];
        let widest = |places: std::ops::Range<usize>| {
            places.max_by(|a, b| gap(a).total_cmp(&gap(b))).unwrap_or(0)
        };
        let last = differences.len().saturating_sub(1);
        let [first, end] = [0.5, 1.5].map(|x| (x * share * last as f64) as usize);
        let whole = differences.last().zip(differences.first());
        let range = whole.map_or(0.0, |(last, first)| last - first);
        let place = match widest(first..end) {
            near if last > 0 && gap(&near) > 1e-4 * range => near,
            _ => widest(0..last),
        };
        let margin = match last {
            0 => 0.0,
            _ => (differences[place] + gap(&place) / 2.0) / f64::from(self.case.scale),
        };
        let contrast = self.contrast.with_guard(margin as f32)?;
        Ok(Self { contrast, ..self })
    }

    /// The problem in host memory.
    ///
    /// # Errors
    /// Those of [`Contrast::on`].
    pub fn problem(&self) -> Result<Problem<Rows<'_, T>>, Error> {
        let views: Result<Vec<_>, Error> = self.matrices.iter().map(Owned::view).collect();
        self.on(&views?)
    }

    /// The contrast on these views of the matrices, with the case's options.
    pub(super) fn on<'a, V: View<Indices = &'a [u32], Floats = &'a [f32]>>(
        &'a self,
        views: &[V],
    ) -> Result<Problem<V>, Error> {
        let mut problem = posed(&self.contrast, views, self.positives.view())?;
        if let Some(ids) = &self.ids {
            problem = problem.excluding(Ids {
                anchors: &ids.anchors,
                candidates: &ids.candidates,
            })?;
        }
        if let Some(weights) = &self.row_weights {
            problem = problem.with_row_weights(weights)?;
        }
        if let Some(bias) = &self.column_bias {
            problem = problem.with_column_bias(bias)?;
        }
        if let Some(bias) = &self.target_bias {
            problem = problem.with_target_bias(bias)?;
        }
        Ok(problem)
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

/// A contrast on the matrices of its layout: z; q and k; q, own_key and queue; or q, k and both of the targets.
///
/// # Errors
/// Those of [`Contrast::on`].
///
/// # Panics
/// When there are no matrices.
pub fn posed<V: View>(
    contrast: &Contrast,
    matrices: &[V],
    positives: Positives<V::Indices>,
) -> Result<Problem<V>, Error> {
    if let [q, k, target_q, target_k] = *matrices {
        return contrast.on(Inputs::Targets {
            q,
            k,
            target_q,
            target_k,
        });
    }
    let last = matrices.len() - 1;
    let [q, k, own_key] = [0, last, last.min(1)].map(|which| matrices[which]);
    contrast.pose([q, k, own_key], positives)
}

/// Draws each anchor's positives.
fn positives(case: &Case, has_sets: bool, rng: &mut impl Rng) -> Positives<Vec<u32>> {
    if !case.kind.takes_positives() {
        return Positives::DIAGONAL;
    }
    let with_gaps = match case.kind.given {
        Given::Diagonal => return Positives::DIAGONAL,
        Given::Offset => {
            let third = (case.anchors / 3 + 1) as i64;
            return Positives::Offset([third, -third][case.number % 2]);
        }
        Given::Labels if has_sets => return classes(case, rng),
        Given::Lists => return lists(case, rng),
        Given::Index => false,
        Given::IndexWithGaps | Given::Labels => true,
    };
    let index = |i: usize| match case.data {
        _ if with_gaps && i % 3 == 1 => NO_POSITIVE as usize,
        Data::SharedPositives => [0, case.candidates - 1][i % 2],
        // Confident anchors need different positives: anchor i has the i-th last candidate.
        Data::Confident(_) => mirror(case, i),
        _ => rng.random_range(0..case.candidates),
    };
    let index: Vec<u32> = (0..case.anchors).map(index).map(|j| j as u32).collect();
    match case.kind.given {
        Given::Labels => labels(&index, case.candidates),
        _ => Positives::Index(index),
    }
}

/// The i-th last candidate.
fn mirror(case: &Case, i: usize) -> usize {
    case.candidates - 1 - i.min(case.candidates - 1)
}

/// Random classes of about six candidates, and some of two. Every seventh candidate is alone in its class, every ninth has
/// none; of anchors that are no candidates too.
fn classes(case: &Case, rng: &mut impl Rng) -> Positives<Vec<u32>> {
    let classes = case.candidates.div_ceil(6) as u32;
    let mut of_rows = |rows: usize, alone: u32| -> Vec<u32> {
        let class = |i: usize| match i {
            _ if i % 9 == 4 => NO_POSITIVE,
            _ if i % 7 == 3 => alone + i as u32,
            _ if i.is_multiple_of(5) => classes + i as u32 / 10,
            _ => rng.random_range(0..classes),
        };
        (0..rows).map(class).collect()
    };
    let most = case.anchors.max(case.candidates) as u32;
    let candidates = of_rows(case.candidates, classes + most);
    let anchors = match case.kind.is_shared() {
        true => candidates.clone(),
        false => of_rows(case.anchors, classes + 2 * most),
    };
    Positives::Labels {
        anchors,
        candidates,
    }
}

/// Random lists of up to four candidates; every fifth is empty. Confident anchors have the i-th last candidate.
fn lists(case: &Case, rng: &mut impl Rng) -> Positives<Vec<u32>> {
    let (mut starts, mut candidates) = (vec![0], Vec::new());
    for i in 0..case.anchors {
        let mut list: Vec<u32> = match case.data {
            _ if i % 5 == 1 => Vec::new(),
            Data::Confident(_) => vec![mirror(case, i) as u32],
            _ => (0..=i % 4)
                .map(|_| rng.random_range(0..case.candidates as u32))
                .collect(),
        };
        list.sort_unstable();
        list.dedup();
        candidates.extend(list);
        starts.push(candidates.len() as u32);
    }
    Positives::Lists { starts, candidates }
}

/// A number for each anchor and for each candidate, which is equal for an anchor and its positive.
fn pairs(case: &Case, contrast: &Contrast, given: &Positives<Vec<u32>>) -> [Vec<usize>; 2] {
    let (n, m) = (case.anchors, case.candidates);
    let of_labels = |labels: &[u32]| labels.iter().map(|&label| label as usize % n).collect();
    let mirrored = |j: usize| m - 1 - j;
    match given {
        _ if contrast.layout() == Layout::Shared => {
            let views: Vec<usize> = (0..n).map(|i| i % (n / 2)).collect();
            [views.clone(), views]
        }
        _ if contrast.has_own_keys() => [(0..n).collect(), (n..n + m).collect()],
        Positives::Labels {
            anchors,
            candidates,
        } if contrast.has_sets() => [of_labels(anchors), of_labels(candidates)],
        // Where anchors are the candidates, i and its mirror are the positives of each other.
        _ if contrast.is_shared() => {
            let views: Vec<usize> = (0..n).map(|i| i.min(mirrored(i))).collect();
            [views.clone(), views]
        }
        Positives::Offset(offset) => {
            let of = |j: usize| usize::try_from(j as i64 - offset).unwrap_or(n + j);
            [(0..n).collect(), (0..m).map(of).collect()]
        }
        _ => [(0..n).collect(), (0..m).map(mirrored).collect()],
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
    /// A row for each of `pairs`, which is equal for an anchor and its positive.
    fn matrix(&mut self, side: Side, pairs: &[usize]) -> Dense {
        let rows = pairs.iter().enumerate();
        let drawn: Vec<Vec<f64>> = rows.map(|(i, &pair)| self.row(side, i, pair)).collect();
        Dense::from_fn(pairs.len(), self.case.dim, |i, d| drawn[i][d])
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
                let pairs = match self.contrast.layout() {
                    Layout::Shared => self.case.anchors / 2,
                    _ => self.case.anchors,
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
