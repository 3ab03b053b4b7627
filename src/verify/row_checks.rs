//! Runs the verbs that compute no contrast (normalize, momentum update, memory bank, queue, triplet loss, top-k) and judges their
//! outputs.

use std::collections::VecDeque;

use rand::{Rng, RngExt};

use super::on_host::OnHost;
use super::problem::{Owned, normal_matrix};
use super::rule::{Measurement, Output, Verb, magnitude, widen};
use super::sizes::{product_error, spacing};
use super::triplet_checks::triplet;
use crate::element::{DType, Element};
use crate::engine::{Engine, MomentumSlices, MomentumTensor};
use crate::error::Error;
use crate::positives::NO_POSITIVE;
use crate::queue::KeyQueue;
use crate::reference::{self, Dense};
use crate::rows::Matrix;

/// Rows and dimensions for the row-wise verbs.
const SHAPES: [(usize, usize); 7] = [
    (1, 1),
    (5, 3),
    (97, 17),
    (131, 64),
    (1000, 5),
    (64, 200),
    (3, 4096),
];

/// Runs normalize, momentum update, memory bank, queue and triplet loss on inputs of type `T`, and judges every output.
///
/// # Errors
/// Whatever the engine refuses.
pub fn check_rows<E: Engine, T: Element>(
    engine: &E,
    rng: &mut impl Rng,
) -> Result<Vec<Measurement>, Error> {
    let mut measurements = Vec::new();
    normalization::<E, T>(engine, rng, &mut measurements)?;
    momentum::<E, T>(engine, rng, &mut measurements)?;
    bank::<E, T>(engine, rng, &mut measurements)?;
    queue::<E, T>(engine, rng, &mut measurements)?;
    triplet::<E, T>(engine, rng, &mut measurements)?;
    Ok(measurements)
}

fn normalization<E: Engine, T: Element>(
    engine: &E,
    rng: &mut impl Rng,
    measurements: &mut Vec<Measurement>,
) -> Result<(), Error> {
    for (rows, dim) in SHAPES {
        // First norms far above epsilon, then norms on both sides of it with one row of zeros.
        for (size, epsilon) in [(1.0, 1e-12), (0.1 / (dim as f64).sqrt(), 0.1)] {
            let zero_row = if size == 1.0 { rows } else { rows / 2 };
            let normal = normal_matrix(rows, dim, rng);
            let x = Dense::from_fn(rows, dim, |i, d| {
                if i == zero_row {
                    0.0
                } else {
                    size * normal.row(i)[d]
                }
            });
            let x = Owned::<T>::round(&x);
            let dy = normal_matrix(rows, dim, rng);
            both_ways(engine, &x, &dy, epsilon, measurements)?;
        }
    }
    for dim in [1, 5, 20] {
        for x in extreme_rows(T::DTYPE, dim) {
            let x = Owned::<T>::round(&x);
            // Only rows of zeros are shorter than the second epsilon, the least f32. The larger dy makes gradients
            // that leave the range of their type.
            for epsilon in [1e-12, f32::from_bits(1)] {
                for size in [1.0, 1e-7] {
                    let dy =
                        Dense::from_fn(3, dim, |i, d| size * ((1 + 7 * i + 3 * d) as f64).sin());
                    both_ways(engine, &x, &dy, epsilon, measurements)?;
                }
            }
        }
    }
    for dim in [1, 20, 40] {
        let x = Owned::<T>::round(&not_finite_rows(dim));
        let judged = normalize::<E, T, f32>(engine, &x, 1e-12)?;
        // On infinity the plain implementation may be infinitely far from float64, so its error does not count.
        measurements.extend(judged.map(|judged| Measurement {
            plain_error: 0.0,
            ..judged
        }));
    }
    Ok(())
}

/// Judges y, norms and dx, in f32 and in the inputs' type.
fn both_ways<E: Engine, T: Element>(
    engine: &E,
    x: &Owned<T>,
    dy: &Dense,
    epsilon: f32,
    measurements: &mut Vec<Measurement>,
) -> Result<(), Error> {
    measurements.extend(normalize::<E, T, f32>(engine, x, epsilon)?);
    measurements.push(normalize_backward::<E, T, f32>(engine, x, dy, epsilon)?);
    if T::DTYPE != DType::F32 {
        measurements.extend(normalize::<E, T, T>(engine, x, epsilon)?);
        measurements.push(normalize_backward::<E, T, T>(engine, x, dy, epsilon)?);
    }
    Ok(())
}

/// Three rows of each kind: zeros, subnormal elements of `dtype`, elements whose squares leave the range of f16,
/// and one large or largest element among small ones.
fn extreme_rows(dtype: DType, dim: usize) -> Vec<Dense> {
    let subnormal = spacing(dtype) * f64::from(dtype.min_positive());
    let sign = |d: usize| if d.is_multiple_of(2) { 1.0 } else { -1.0 };
    let [large, largest] = match dtype {
        DType::F16 => [300.0, 65504.0],
        DType::F32 | DType::Bf16 => [1e30, 3e38],
    };
    let alone =
        |number: f64| Dense::from_fn(3, dim, |i, d| if d == i % dim { number } else { 1e-3 });
    vec![
        Dense::from_fn(3, dim, |_, _| 0.0),
        Dense::from_fn(3, dim, |i, d| {
            sign(d) * (8 + (5 * i + 3 * d) % 9) as f64 * subnormal
        }),
        Dense::from_fn(3, dim, |i, d| sign(d) * 60_000.0 / (1 + (i + d) % 3) as f64),
        alone(large),
        alone(largest),
    ]
}

/// Rows with NaN, infinity or both, at their ends or further in, and finite ones.
fn not_finite_rows(dim: usize) -> Dense {
    const NAN: f64 = f64::NAN;
    const INF: f64 = f64::INFINITY;
    let ends = [
        (1.0, 1.0),
        (NAN, 1.0),
        (1.0, NAN),
        (INF, 1.0),
        (1.0, -INF),
        (INF, NAN),
        (NAN, -INF),
    ];
    Dense::from_fn(2 * ends.len(), dim, |i, d| {
        let (first, last) = ends[i / 2];
        // In odd rows they lie one element further in.
        let inset = (i % 2).min(dim / 2);
        match d {
            _ if d == inset => first,
            _ if d + 1 + inset == dim => last,
            _ => 0.5,
        }
    })
}

fn normalize<E: Engine, T: Element, O: Element>(
    engine: &E,
    x: &Owned<T>,
    epsilon: f32,
) -> Result<[Measurement; 2], Error> {
    let (y, norms) = OnHost(engine).normalize::<T, O>(x.view()?, epsilon)?;
    let (x, epsilon) = (Dense::from_rows(x.view()?), f64::from(epsilon));
    let (expected, expected_norms) = reference::normalize(&x, epsilon);
    let (plain, plain_norms) = reference::normalize_rounded(&x, epsilon, to_f32_digits);
    let expected = expected.as_slice();
    let rounding = spacing_at(O::DTYPE, expected) + spacing_at(DType::F32, expected);
    let of_norms = spacing_at(DType::F32, &expected_norms);
    let y = Output::new(Verb::Normalize, "y", &y);
    let norms = Output::new(Verb::Normalize, "norms", &norms);
    Ok([
        y.judge(T::DTYPE, expected, plain.as_slice(), rounding),
        norms.judge(T::DTYPE, &expected_norms, &plain_norms, of_norms),
    ])
}

fn normalize_backward<E: Engine, T: Element, G: Element>(
    engine: &E,
    x: &Owned<T>,
    dy: &Dense,
    epsilon: f32,
) -> Result<Measurement, Error> {
    let (y, norms) = reference::normalize(&Dense::from_rows(x.view()?), f64::from(epsilon));
    let y = Owned::<T>::round(&y);
    let norms: Vec<f32> = norms.iter().map(|&norm| norm as f32).collect();
    let dy = Owned::<G>::round(dy);
    let (y, dy) = (y.view()?, dy.view()?);
    let dx = OnHost(engine).normalize_backward(y, &norms, dy, epsilon)?;

    let (y, dy, norms) = (Dense::from_rows(y), Dense::from_rows(dy), widen(&norms));
    let epsilon = f64::from(epsilon);
    let expected = reference::normalize_backward(&y, &norms, &dy, epsilon, G::DTYPE);
    // Terms of the difference: |dy| + |y| Σ|y dy|. A short row that is set to 0 has none.
    let short = epsilon.max(f64::from(G::DTYPE.min_positive()));
    let is_nothing = |i: usize| norms[i] <= short && expected.row(i).iter().all(|&dx| dx == 0.0);
    let terms = Dense::from_fn((&y).rows(), (&y).dim(), |i, d| {
        if is_nothing(i) {
            return 0.0;
        }
        let (y, dy) = (y.row(i), dy.row(i));
        let along: f64 = y.iter().zip(dy).map(|(y, dy)| (y * dy).abs()).sum();
        (dy[d].abs() + y[d].abs() * along) / norms[i].max(epsilon)
    });
    let sides = [&y, &dy];
    let plain =
        reference::normalize_backward_rounded(sides, &norms, epsilon, G::DTYPE, to_f32_digits);
    let expected = expected.as_slice();
    let rounding = spacing_at(G::DTYPE, expected) + spacing_at(DType::F32, terms.as_slice());
    let dx = Output::new(Verb::NormalizeBackward, "dx", &dx);
    Ok(dx.judge(T::DTYPE, expected, plain.as_slice(), rounding))
}

/// The spacing of `dtype` at the largest of `elements`.
fn spacing_at(dtype: DType, elements: &[f64]) -> f64 {
    spacing(dtype) * magnitude(elements).max(f64::from(dtype.min_positive()))
}

/// Rounds to the digits of f32 without its range (Veltkamp 1968): the plain implementation's squares never overflow,
/// as if it scaled rows first.
fn to_f32_digits(x: f64) -> f64 {
    let scaled = x * f64::from((1 << 29) + 1);
    scaled - (scaled - x)
}

/// Checks momentum_update of several tensors at once, every other one with a shadow.
fn momentum<E: Engine, T: Element>(
    engine: &E,
    rng: &mut impl Rng,
    measurements: &mut Vec<Measurement>,
) -> Result<(), Error> {
    const LENGTHS: [usize; 6] = [1, 7, 64, 1000, 16 * 1024 + 1, 70_001];
    for momentum in [0.0f32, 0.5, 0.99, 0.999, 1.0] {
        let before = LENGTHS.map(|length| {
            let mut draw = || -> Vec<f32> {
                let elements = (0..length).map(|_| rng.random_range(-2.0f32..2.0));
                elements.collect()
            };
            let query: Vec<T> = draw().into_iter().map(T::from_f32).collect();
            (query, draw())
        });
        let mut after = before.clone().map(|(query, key)| {
            let shadow = vec![T::from_f32(f32::NAN); query.len()];
            (key, shadow)
        });
        let tensors = before.iter().zip(&mut after).enumerate();
        let mut tensors: Vec<MomentumSlices<'_, T>> = tensors
            .map(|(index, ((query, _), (key, shadow)))| MomentumTensor {
                query: query.as_slice(),
                key: key.as_mut_slice(),
                shadow: (index % 2 == 0).then_some(shadow.as_mut_slice()),
            })
            .collect();
        OnHost(engine).momentum_update(momentum, &mut tensors)?;

        for (index, ((query, old_key), (key, shadow))) in before.iter().zip(&after).enumerate() {
            let (wide_query, wide_key) = (widen(query), widen(old_key));
            let expected = reference::momentum_update(f64::from(momentum), &wide_query, &wide_key);
            let pairs = old_key.iter().zip(query);
            let plain =
                pairs.map(|(key, query)| momentum * key + (1.0 - momentum) * query.to_f32());
            let plain: Vec<f32> = plain.collect();
            let rounding = match momentum {
                0.0 | 1.0 => 0.0,
                _ => spacing(DType::F32) * magnitude(&wide_key).max(magnitude(&wide_query)),
            };
            let output = Output::new(Verb::MomentumUpdate, "key", key);
            measurements.push(output.judge(T::DTYPE, &expected, &widen(&plain), rounding));
            if index % 2 == 0 {
                let output = Output::new(Verb::MomentumUpdate, "shadow", shadow);
                let rounded: Vec<T> = key.iter().map(|&x| T::from_f32(x)).collect();
                measurements.push(output.judge_exact(T::DTYPE, &widen(&rounded)));
            }
        }
    }
    Ok(())
}

/// Checks update_rows with indices of which some repeat and one names no row.
fn bank<E: Engine, T: Element>(
    engine: &E,
    rng: &mut impl Rng,
    measurements: &mut Vec<Measurement>,
) -> Result<(), Error> {
    for (rows, dim) in SHAPES {
        for momentum in [0.0f32, 0.3, 0.5, 1.0] {
            let mut unit = |rows: usize| {
                let normal = normal_matrix(rows, dim, rng);
                Owned::<T>::round(&reference::normalize(&normal, 1e-12).0)
            };
            let count = rows / 2 + 2;
            let (before, keys) = (unit(rows), unit(count));
            let (before, keys) = (before.view()?, keys.view()?);
            let mut index: Vec<u32> = (0..count)
                .map(|_| rng.random_range(0..rows as u32))
                .collect();
            index[count / 2] = NO_POSITIVE;
            let after = OnHost(engine).update_rows(before, &index, keys, momentum)?;

            let (old, wide_keys) = (Dense::from_rows(before), Dense::from_rows(keys));
            let m = f64::from(momentum);
            let expected = reference::update_rows(&old, &index, &wide_keys, m);
            let plain = reference::update_rows_rounded(&old, &index, &wide_keys, m, to_f32_digits);
            // Of each key's row: the terms of its sum, divided by its norm.
            let size = |(i, &row): (usize, &u32)| {
                let old = old.row(row as usize).iter().zip(wide_keys.row(i));
                let y = old.clone().map(|(b, k)| m * b + (1.0 - m) * k);
                let norm = y.map(|y| y * y).sum::<f64>().sqrt();
                let terms = old.map(|(b, k)| (m * b).abs() + ((1.0 - m) * k).abs());
                // Terms that cancel leave 0.
                if norm == 0.0 {
                    0.0
                } else {
                    terms.fold(0.0, f64::max) / norm
                }
            };
            let named = index
                .iter()
                .enumerate()
                .filter(|(_, row)| **row != NO_POSITIVE);
            let terms = named.map(size).fold(0.0, f64::max);
            let rounding = spacing_at(T::DTYPE, expected.as_slice()) + spacing(DType::F32) * terms;
            let output = Output::new(Verb::UpdateRows, "bank", &after);
            measurements.push(output.judge(
                T::DTYPE,
                expected.as_slice(),
                plain.as_slice(),
                rounding,
            ));
            let others = (0..rows).filter(|&row| !index.contains(&(row as u32)));
            let [kept, was]: [Vec<T>; 2] = [&after[..], &before.contiguous()].map(|all| {
                let rows = others.clone().flat_map(|row| &all[row * dim..][..dim]);
                rows.copied().collect()
            });
            let output = Output::new(Verb::UpdateRows, "other rows", &kept);
            measurements.push(output.judge_exact(T::DTYPE, &widen(&was)));
        }
    }
    Ok(())
}

/// Compares enqueue with a queue that takes one key at a time, without labels and with them.
fn queue<E: Engine, T: Element>(
    engine: &E,
    rng: &mut impl Rng,
    measurements: &mut Vec<Measurement>,
) -> Result<(), Error> {
    let (capacity, dim) = (7, 3);
    let mut plain = KeyQueue::<T>::new(capacity, dim)?;
    let mut labelled = plain.clone().with_labels(&[])?;
    let (mut newest, mut newest_labels) = (VecDeque::new(), VecDeque::new());
    for batch in [2, 3, 7, 1, 20, 5, 14, 6] {
        let keys = Owned::<T>::round(&normal_matrix(batch, dim, rng));
        let keys = keys.view()?;
        // All bits occur, also those of NaN; and NO_POSITIVE.
        let mut labels: Vec<u32> = (0..batch).map(|_| rng.random()).collect();
        labels[0] = NO_POSITIVE;
        OnHost(engine).enqueue(&mut plain, keys)?;
        OnHost(engine).enqueue_labelled(&mut labelled, keys, &labels)?;
        newest.extend(widen(&keys.contiguous()));
        newest.drain(..newest.len().saturating_sub(capacity * dim));
        newest_labels.extend(labels);
        newest_labels.drain(..newest_labels.len().saturating_sub(capacity));
        for queue in [&plain, &labelled] {
            // The queue's keys, the oldest first.
            let oldest = queue.cursor() % queue.fill();
            let filled = queue.filled().map(|keys| keys.contiguous().into_owned());
            let filled = filled.unwrap_or_default().into_iter();
            let mut filled: Vec<f32> = filled.map(T::to_f32).collect();
            filled.rotate_left(oldest * dim);
            let output = Output::new(Verb::Enqueue, "keys", &filled);
            measurements.push(output.judge_exact(T::DTYPE, newest.make_contiguous()));
            let Some(labels) = queue.labels() else {
                continue;
            };
            let mut labels = labels.to_vec();
            labels.rotate_left(oldest);
            // Halves, which f32 holds.
            let halves = |labels: &[u32]| -> Vec<f64> {
                let halves = labels
                    .iter()
                    .flat_map(|label| [label >> 16, label & 0xffff]);
                halves.map(f64::from).collect()
            };
            let output = Output {
                quantity: "labels",
                values: halves(&labels),
                ..output
            };
            measurements
                .push(output.judge_exact(T::DTYPE, &halves(newest_labels.make_contiguous())));
        }
    }
    Ok(())
}

/// Runs top_k on inputs of type `T`. On small integers, where scores are exact and often tie, it judges scores and
/// indices exactly; on random elements, the scores.
///
/// # Errors
/// Whatever the engine refuses.
pub fn check_top_k<E: Engine, T: Element>(
    engine: &E,
    rng: &mut impl Rng,
) -> Result<Vec<Measurement>, Error> {
    let mut measurements = Vec::new();
    for (n, m, dim) in [
        (1, 2, 1),
        (5, 7, 3),
        (97, 131, 17),
        (131, 97, 64),
        (50, 1000, 8),
        // On sm_90a k ≤ 256 and k > 256 are found in different ways.
        (20, 2100, 8),
    ] {
        for exclude_self in [false, true] {
            let most = m - usize::from(exclude_self);
            let several = match m {
                2100 => [1, 256, 257],
                _ => [1, 5.min(most), most],
            };
            for k in several {
                for whole in [true, false] {
                    let mut draw = |rows: usize| match whole {
                        true => Dense::from_fn(rows, dim, |_, _| rng.random_range(-2..=2).into()),
                        false => normal_matrix(rows, dim, rng),
                    };
                    let (queries, mut candidates) = (draw(n), draw(m));
                    if whole && k > 1 {
                        candidates.as_mut_slice()[m / 2 * dim] = f64::NAN;
                    }
                    let sides = [&queries, &candidates].map(Owned::<T>::round);
                    measurements.extend(one_top_k(engine, &sides, k, exclude_self, whole)?);
                }
            }
        }
    }
    Ok(measurements)
}

fn one_top_k<E: Engine, T: Element>(
    engine: &E,
    [queries, candidates]: &[Owned<T>; 2],
    k: usize,
    exclude_self: bool,
    exact: bool,
) -> Result<[Measurement; 2], Error> {
    let (queries, candidates) = (queries.view()?, candidates.view()?);
    let found = OnHost(engine).top_k(queries, candidates, k, exclude_self)?;
    let (queries, candidates) = (Dense::from_rows(queries), Dense::from_rows(candidates));
    let best = reference::top_k(&queries, &candidates, k, exclude_self);
    let (indices, expected): (Vec<_>, Vec<_>) = best.into_iter().flatten().unzip();
    let scores = Output::new(Verb::TopK, "scores", &found.scores);
    if exact {
        let found = Output {
            quantity: "indices",
            values: found.indices.iter().map(|&j| f64::from(j)).collect(),
            ..scores.clone()
        };
        let indices: Vec<f64> = indices.into_iter().map(|j| j as f64).collect();
        return Ok([
            scores.judge_exact(T::DTYPE, &expected),
            found.judge_exact(T::DTYPE, &indices),
        ]);
    }
    // The best scores; and the true scores of the returned candidates, each returned once.
    let score = |i: usize, j: usize, round: fn(f64) -> f64| {
        reference::dot(queries.row(i), candidates.row(j), round)
    };
    let plain = indices.iter().enumerate();
    let plain = plain.map(|(place, &j)| score(place / k, j, |x| DType::F32.round(x)));
    let plain: Vec<f64> = plain.collect();
    let of_named = |(place, &j): (usize, &u32)| {
        let (i, j) = (place / k, j as usize);
        let is_allowed = j < (&candidates).rows()
            && !found.indices[i * k..place].contains(&found.indices[place])
            && !(exclude_self && i == j);
        if is_allowed {
            score(i, j, |x| x)
        } else {
            f64::NAN
        }
    };
    let named = Output {
        quantity: "scores of the named candidates",
        values: found.indices.iter().enumerate().map(of_named).collect(),
        ..scores.clone()
    };
    let size = |matrix: &Dense| magnitude(matrix.as_slice());
    let products = ((&queries).dim() as f64).max(product_error(T::DTYPE));
    let rounding = spacing(DType::F32) * size(&queries) * size(&candidates) * products;
    Ok([
        scores.judge(T::DTYPE, &expected, &plain, rounding),
        named.judge(T::DTYPE, &scores.values, &scores.values, rounding),
    ])
}
