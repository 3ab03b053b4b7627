//! Runs the triplet loss and judges its outputs.

use rand::{Rng, RngExt};

use super::on_host::{OnHost, poisoned};
use super::problem::{Owned, normal_matrix};
use super::rule::{Measurement, Output, Verb, magnitude, widen};
use super::sizes::spacing;
use crate::contrast::Reduction;
use crate::element::{DType, Element};
use crate::engine::Engine;
use crate::error::Error;
use crate::gradients::Gradients;
use crate::positives::NO_POSITIVE;
use crate::reference::{self, Dense, TripletReference};
use crate::rows::{Rows, View};
use crate::triplet::{Triplet, TripletProblem, Triplets};

/// N, M and D; M = 0: the anchors are the candidates. Single rows, ragged tails, few candidates that many anchors name,
/// and several warps a row.
const SHAPES: [(usize, usize, usize); 8] = [
    (1, 1, 1),
    (5, 7, 3),
    (2, 0, 1),
    (97, 131, 64),
    (97, 0, 17),
    (300, 2, 132),
    (300, 0, 260),
    (20, 33, 1000),
];

/// Rows, positives and negatives of one problem.
struct Drawn<T> {
    triplet: Triplet,
    q: Owned<T>,
    k: Option<Owned<T>>,
    index: [Vec<u32>; 2],
}

impl<T: Element> Drawn<T> {
    /// Every fifth anchor lacks its positive or its negative. So does one whose loss is so near 0 that rounding may
    /// decide whether it has a gradient.
    fn draw(
        triplet: Triplet,
        (n, m, dim): (usize, usize, usize),
        rng: &mut impl Rng,
    ) -> Result<Self, Error> {
        let mut rows = |rows: usize| Owned::round(&normal_matrix(rows, dim, rng));
        let (q, k) = (rows(n), (m > 0).then(|| rows(m)));
        let candidates = if m > 0 { m } else { n };
        let mut index = [(); 2].map(|()| -> Vec<u32> {
            let named = (0..n).map(|_| rng.random_range(0..candidates as u32));
            named.collect()
        });
        for i in (4..n).step_by(5) {
            index[i % 2][i] = NO_POSITIVE;
        }
        let mut drawn = Self {
            triplet,
            q,
            k,
            index,
        };
        let hinges = drawn.reference()?.0.hinges;
        for (i, hinge) in hinges.into_iter().enumerate() {
            if hinge.abs() < 1e-3 * dim as f64 {
                drawn.index[1][i] = NO_POSITIVE;
            }
        }
        Ok(drawn)
    }

    fn on<'a, V: View<Indices = &'a [u32]>>(
        &'a self,
        q: V,
        k: Option<V>,
    ) -> Result<TripletProblem<V>, Error> {
        self.triplet.on(Triplets {
            q,
            k,
            positives: &self.index[0],
            negatives: &self.index[1],
        })
    }

    fn problem(&self) -> Result<TripletProblem<Rows<'_, T>>, Error> {
        let k = self.k.as_ref().map(Owned::view).transpose()?;
        self.on(self.q.view()?, k)
    }

    /// The outputs in float64 with upstream 1, those of the plain implementation, and the roundings of loss and
    /// gradients but for that of the output's type.
    fn reference(&self) -> Result<(TripletReference, TripletReference, [f64; 2]), Error> {
        let problem = self.problem()?;
        let [q, k] = [problem.anchors(), problem.candidates()].map(Dense::from_rows);
        let wide = self.on(&q, self.k.is_some().then_some(&k))?;
        let expected = reference::triplet(&wide, 1.0);
        let plain = reference::triplet_rounded(&wide, 1.0, |x| DType::F32.round(x));

        let shape = problem.shape();
        let weight = self.triplet.row_weight(shape.anchors);
        let distance =
            |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum() };
        let (mut distances, mut named) = (0.0, vec![0.0f64; shape.anchors + shape.candidates]);
        for (i, pair) in problem.named().into_iter().enumerate() {
            let Some(pair) = pair.filter(|_| expected.hinges[i] > 0.0) else {
                continue;
            };
            named[i] += 1.0;
            for j in pair {
                distances += distance(q.row(i), k.row(j));
                named[shape.anchors + j] += 1.0;
            }
        }
        let epsilon = spacing(DType::F32);
        // A sum of D squares of rounded differences; a gradient is a sum of as many differences as anchors name a row.
        let squares = 2.0 + (shape.dim as f64).sqrt() / 2.0;
        let most = magnitude(&named) + 2.0;
        let largest = magnitude(q.as_slice()) + magnitude(k.as_slice());
        let roundings = [
            weight * epsilon * squares * distances + epsilon * (expected.loss.abs() + 1.0),
            weight * epsilon * 2.0 * largest * most * (2.0 + most.sqrt() / 2.0),
        ];
        Ok((expected, plain, roundings))
    }
}

/// Runs the triplet loss on pairs of matrices and on single ones, with gradients that overwrite and that accumulate.
pub(super) fn triplet<E: Engine, T: Element>(
    engine: &E,
    rng: &mut impl Rng,
    measurements: &mut Vec<Measurement>,
) -> Result<(), Error> {
    for (place, shape) in SHAPES.into_iter().enumerate() {
        let margin = [Triplet::MARGIN, 2.0 * shape.2 as f32][place % 2];
        let reduction = [Reduction::Mean, Reduction::Sum][place / 2 % 2];
        let triplet = Triplet::new(margin)?.with_reduction(reduction);
        let drawn = Drawn::<T>::draw(triplet, shape, rng)?;
        for accumulate in [false, true] {
            judge::<E, T, f32>(engine, &drawn, accumulate, measurements)?;
            if T::DTYPE != DType::F32 {
                judge::<E, T, T>(engine, &drawn, accumulate, measurements)?;
            }
        }
    }
    Ok(())
}

fn judge<E: Engine, T: Element, G: Element>(
    engine: &E,
    drawn: &Drawn<T>,
    accumulate: bool,
    measurements: &mut Vec<Measurement>,
) -> Result<(), Error> {
    const UPSTREAM: f32 = -1.5;
    let (problem, upstream) = (drawn.problem()?, f64::from(UPSTREAM));
    let (expected, plain, [of_loss, of_gradients]) = drawn.reference()?;
    // Without dk, where it is not its own, dq must be the same.
    let wanted = [!problem.is_shared(), false];
    for wants_dk in &wanted[usize::from(problem.is_shared())..] {
        let mut gradients = poisoned::<G>(problem.shape(), *wants_dk);
        let number = |x: &mut G, place: usize| *x = G::from_f32((place as f32).sin());
        if accumulate {
            gradients = gradients.accumulating();
            let dk = gradients.dk.iter_mut().flatten().enumerate();
            dk.for_each(|(place, x)| number(x, place));
            let dq = gradients.dq.iter_mut().enumerate();
            dq.for_each(|(place, x)| number(x, place));
        }
        let before = Gradients::new(widen(&gradients.dq), gradients.dk.as_deref().map(widen));
        let loss = OnHost(engine).triplet(&problem, UPSTREAM, &mut gradients)?;
        let loss = Output::new(Verb::Triplet, "loss", &[loss]);
        measurements.push(loss.judge(T::DTYPE, &[expected.loss], &[plain.loss], of_loss));
        let outputs = [
            (
                "dq",
                Some(&gradients.dq),
                Some(&before.dq),
                [Some(&expected.dq), Some(&plain.dq)],
            ),
            (
                "dk",
                gradients.dk.as_ref(),
                before.dk.as_ref(),
                [expected.dk.as_ref(), plain.dk.as_ref()],
            ),
        ];
        for (quantity, found, before, solutions) in outputs {
            let (Some(found), Some(before), [Some(expected), Some(plain)]) =
                (found, before, solutions)
            else {
                continue;
            };
            let whole = |gradient: &Dense| -> Vec<f64> {
                let pairs = gradient.as_slice().iter().zip(before);
                let sum = |(x, before): (&f64, &f64)| match accumulate {
                    true => before + upstream * x,
                    false => upstream * x,
                };
                pairs.map(sum).collect()
            };
            let (expected, plain) = (whole(expected), whole(plain));
            let of_output = (spacing(G::DTYPE) + spacing(DType::F32)) * magnitude(&expected);
            let rounding = upstream.abs() * of_gradients + of_output;
            let output = Output::new(Verb::Triplet, quantity, found);
            measurements.push(output.judge(T::DTYPE, &expected, &plain, rounding));
        }
    }
    Ok(())
}
