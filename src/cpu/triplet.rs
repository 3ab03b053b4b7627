//! The triplet loss and its gradients, a task a row. Each sum has one order: an anchor's own term, then the anchors
//! that name the row as their positive, then those that name it as their negative.

use rayon::prelude::*;

use crate::element::Element;
use crate::gradients::{Accumulate, Gradients};
use crate::rows::{Matrix, Rows, RowsMut};
use crate::triplet::TripletProblem;

/// Independent partial sums of a distance.
const LANES: usize = 16;

/// ‖a − b‖² in f64; both have the same length.
fn square_distance<T: Element>(a: &[T], b: &[T]) -> f64 {
    let mut sums = [0.0f64; LANES];
    for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            let difference = f64::from(a.to_f32()) - f64::from(b.to_f32());
            *sum += difference * difference;
        }
    }
    sums.iter().sum()
}

/// The anchors that name each candidate and have a loss: those of which it is the positive, then the others.
struct Namers {
    /// Where each candidate's begin, and where the last ones end.
    starts: Vec<usize>,
    /// An anchor, and whether the candidate is its positive.
    anchors: Vec<(usize, bool)>,
}

impl Namers {
    fn new(named: &[Option<[usize; 2]>], losses: &[f32], candidates: usize) -> Self {
        let each = |which: usize| {
            let rows = named.iter().zip(losses).enumerate();
            let with_loss = rows.filter(|(_, (_, loss))| **loss != 0.0);
            with_loss.filter_map(move |(i, (named, _))| Some((named.as_ref()?[which], i)))
        };
        let mut starts = vec![0; candidates + 1];
        for (candidate, _) in each(0).chain(each(1)) {
            starts[candidate + 1] += 1;
        }
        for candidate in 0..candidates {
            starts[candidate + 1] += starts[candidate];
        }
        let (mut next, mut anchors) = (starts.clone(), vec![(0, true); starts[candidates]]);
        for which in [0, 1] {
            for (candidate, anchor) in each(which) {
                anchors[next[candidate]] = (anchor, which == 0);
                next[candidate] += 1;
            }
        }
        Self { starts, anchors }
    }
}

/// The loss; shapes and indices have been checked.
pub(super) fn triplet<T: Element, G: Element>(
    problem: &TripletProblem<Rows<'_, T>>,
    upstream: f32,
    gradients: Gradients<RowsMut<'_, G>>,
) -> f32 {
    let (q, k) = (problem.anchors(), problem.candidates());
    let named = problem.named();
    let margin = f64::from(problem.triplet().margin());
    let loss = |(i, named): (usize, &Option<[usize; 2]>)| -> f32 {
        let Some(named) = named else { return 0.0 };
        let [positive, negative] = named.map(|j| square_distance(q.row(i), k.row(j)));
        match (positive + negative).is_finite() {
            true => (margin + (positive - negative)).max(0.0) as f32,
            false => f32::NAN,
        }
    };
    let losses: Vec<f32> = named.par_iter().enumerate().map(loss).collect();
    let weight = problem.triplet().row_weight(q.rows());
    let factor = (2.0 * f64::from(upstream) * weight) as f32;

    // The gradient of an anchor as such: k₋ − k₊.
    let own = |i: usize, sums: &mut [f32]| {
        if let (Some([positive, negative]), true) = (named[i], losses[i] != 0.0) {
            let pairs = k.row(negative).iter().zip(k.row(positive));
            for (sum, (negative, positive)) in sums.iter_mut().zip(pairs) {
                *sum += negative.to_f32() - positive.to_f32();
            }
        }
    };
    let namers = (problem.is_shared() || gradients.dk.is_some())
        .then(|| Namers::new(&named, &losses, k.rows()));
    // That of a candidate: k − q for its anchors as positive, q − k as negative.
    let of_namers = |j: usize, sums: &mut [f32]| {
        let Some(Namers { starts, anchors }) = &namers else {
            return;
        };
        for &(anchor, is_positive) in &anchors[starts[j]..starts[j + 1]] {
            let sign = if is_positive { 1.0 } else { -1.0 };
            let pairs = k.row(j).iter().zip(q.row(anchor));
            for (sum, (k, q)) in sums.iter_mut().zip(pairs) {
                *sum += sign * (k.to_f32() - q.to_f32());
            }
        }
    };
    let Accumulate {
        anchors,
        candidates,
    } = gradients.accumulate;
    let is_shared = problem.is_shared();
    write(gradients.dq, factor, anchors, |i, sums| {
        own(i, sums);
        if is_shared {
            of_namers(i, sums);
        }
    });
    if let Some(dk) = gradients.dk {
        write(dk, factor, candidates, of_namers);
    }
    let total: f64 = losses.iter().map(|&loss| f64::from(loss)).sum();
    (total * weight) as f32
}

/// Writes `factor` times the sums that `add` adds up for each row.
fn write<G: Element>(
    gradient: RowsMut<'_, G>,
    factor: f32,
    accumulate: bool,
    add: impl Fn(usize, &mut [f32]) + Sync,
) {
    let dim = gradient.dim();
    let (elements, stride) = gradient.into_data();
    let rows = elements.par_chunks_mut(stride).enumerate();
    rows.for_each_init(
        || vec![0.0f32; dim],
        |sums, (row, gradient)| {
            sums.fill(0.0);
            add(row, sums);
            for (gradient, sum) in gradient[..dim].iter_mut().zip(&*sums) {
                let before = if accumulate { gradient.to_f32() } else { 0.0 };
                *gradient = G::from_f32(before + factor * sum);
            }
        },
    );
}
