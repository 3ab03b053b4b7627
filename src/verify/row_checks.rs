//! Runs the verbs that compute no contrast (normalize, momentum update, queue, top-k) and judges
//! what they give back.

use std::collections::VecDeque;

use rand::{Rng, RngExt};

use super::contrast_checks::output;
use super::on_host::OnHost;
use super::plain;
use super::problem::{Owned, normal_matrix};
use super::rule::{Measurement, Output, Verb, largest_error, magnitude};
use super::sizes::{product_error, spacing};
use crate::element::{DType, Element};
use crate::engine::{Engine, MomentumSlices, MomentumTensor};
use crate::error::Error;
use crate::queue::KeyQueue;
use crate::reference::{self, Dense};
use crate::rows::Matrix;

/// An output with what it should be, what the plain implementation makes of it (in the output's
/// type), and its rounding.
struct Judged {
    output: Output,
    expected: Vec<f64>,
    plain: Vec<f64>,
    rounding: f64,
}

impl Judged {
    /// With a number in the place of each NaN, so that NaN has to stand where it is expected and
    /// nowhere else.
    fn with_marked_nan(mut self) -> Self {
        const MARK: f64 = -1e6;
        for values in [&mut self.output.values, &mut self.expected] {
            for value in values.iter_mut().filter(|value| value.is_nan()) {
                *value = MARK;
            }
        }
        self.plain.clone_from(&self.expected);
        self
    }

    /// An output that must be right to the last bit.
    fn exact(output: Output, expected: Vec<f64>) -> Self {
        Self {
            output,
            plain: expected.clone(),
            expected,
            rounding: 0.0,
        }
    }

    fn measure(&self, input: DType) -> Measurement {
        Measurement {
            verb: self.output.verb,
            quantity: self.output.quantity,
            input,
            output: self.output.dtype,
            error: largest_error(&self.output.values, &self.expected),
            plain_error: largest_error(&self.plain, &self.expected),
            rounding: self.rounding,
            magnitude: magnitude(&self.expected),
        }
    }
}

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

/// normalize and normalize_backward on inputs of type `T`.
///
/// # Errors
/// Whatever the engine refuses.
pub fn normalization<E: Engine, T: Element>(
    engine: &E,
    rng: &mut impl Rng,
) -> Result<Vec<Measurement>, Error> {
    let mut measurements = Vec::new();
    for (rows, dim) in SHAPES {
        // Norms far above epsilon; and norms on both sides of it, one row of zeros among them.
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
            measurements.extend(both_ways(engine, &x, &dy, epsilon)?);
        }
    }
    for dim in [1, 5, 20] {
        for x in extreme_rows(T::DTYPE, dim) {
            let x = Owned::<T>::round(&x);
            // One that no row but that of zeros is shorter than. Gradients leave the range of their
            // type, or stay within it.
            for epsilon in [1e-12, f32::from_bits(1)] {
                for size in [1.0, 1e-7] {
                    let dy =
                        Dense::from_fn(3, dim, |i, d| size * ((1 + 7 * i + 3 * d) as f64).sin());
                    measurements.extend(both_ways(engine, &x, &dy, epsilon)?);
                }
            }
        }
    }
    for dim in [1, 20, 40] {
        let x = Owned::<T>::round(&not_finite_rows(dim));
        let judged = normalize::<E, T, f32>(engine, &x, 1e-12)?.map(Judged::with_marked_nan);
        measurements.extend(judged.iter().map(|judged| judged.measure(T::DTYPE)));
    }
    Ok(measurements)
}

/// y, norms and dx, in f32 and in the inputs' type.
fn both_ways<E: Engine, T: Element>(
    engine: &E,
    x: &Owned<T>,
    dy: &Dense,
    epsilon: f32,
) -> Result<Vec<Measurement>, Error> {
    let mut judged = Vec::new();
    judged.extend(normalize::<E, T, f32>(engine, x, epsilon)?);
    judged.extend(normalize_backward::<E, T, f32>(engine, x, dy, epsilon)?);
    if T::DTYPE != DType::F32 {
        judged.extend(normalize::<E, T, T>(engine, x, epsilon)?);
        judged.extend(normalize_backward::<E, T, T>(engine, x, dy, epsilon)?);
    }
    let measurements = judged.iter().map(|judged| judged.measure(T::DTYPE));
    Ok(measurements.collect())
}

/// Three rows of each kind: zeros, subnormal numbers of `dtype`, numbers whose squares leave the range
/// of f16, and one large number, or one of the largest, among small ones.
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

/// Rows that hold NaN, infinity or both, at their ends or in the middle, and one that does not.
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
        // Every other row has them one further in.
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
) -> Result<[Judged; 2], Error> {
    let view = x.view()?;
    let (y, norms) = OnHost(engine).normalize::<T, O>(view, epsilon)?;

    let (expected, expected_norms) =
        reference::normalize(&Dense::from_rows(view), f64::from(epsilon));
    let (plain, plain_norms) = plain::normalize(&plain::widen(view), view.dim(), epsilon);
    let verb = Verb::Normalize;
    let expected = expected.as_slice().to_vec();
    Ok([
        Judged {
            output: output(verb, "y", &y),
            plain: rounded::<O>(&plain),
            rounding: spacing_at(O::DTYPE, &expected) + spacing_at(DType::F32, &expected),
            expected,
        },
        Judged {
            output: output(verb, "norms", &norms),
            plain: rounded::<f32>(&plain_norms),
            rounding: spacing_at(DType::F32, &expected_norms),
            expected: expected_norms,
        },
    ])
}

fn normalize_backward<E: Engine, T: Element, G: Element>(
    engine: &E,
    x: &Owned<T>,
    dy: &Dense,
    epsilon: f32,
) -> Result<[Judged; 1], Error> {
    let (y, norms) = reference::normalize(&Dense::from_rows(x.view()?), f64::from(epsilon));
    let y = Owned::<T>::round(&y);
    let norms: Vec<f32> = norms.iter().map(|&norm| norm as f32).collect();
    let dy = Owned::<G>::round(dy);
    let (y, dy) = (y.view()?, dy.view()?);
    let (rows, dim) = (y.rows(), y.dim());
    let dx = OnHost(engine).normalize_backward(y, &norms, dy, epsilon)?;

    let (wide_y, wide_dy) = (Dense::from_rows(y), Dense::from_rows(dy));
    let wide_norms: Vec<f64> = norms.iter().map(|&norm| f64::from(norm)).collect();
    let wide_epsilon = f64::from(epsilon);
    let expected =
        reference::normalize_backward(&wide_y, &wide_norms, &wide_dy, wide_epsilon, G::DTYPE);
    // Terms of the difference: |dy| + |y| Σ|y dy|. A short row that is 0 has none: it is 0 exactly.
    let short = wide_epsilon.max(f64::from(G::DTYPE.min_positive()));
    let is_nothing =
        |i: usize| wide_norms[i] <= short && expected.row(i).iter().all(|&dx| dx == 0.0);
    let terms = Dense::from_fn(rows, dim, |i, d| {
        if is_nothing(i) {
            return 0.0;
        }
        let (y, dy) = (wide_y.row(i), wide_dy.row(i));
        let along: f64 = y.iter().zip(dy).map(|(y, dy)| (y * dy).abs()).sum();
        (dy[d].abs() + y[d].abs() * along) / wide_norms[i].max(wide_epsilon)
    });
    let (plain_y, plain_dy) = (plain::widen(y), plain::widen(dy));
    let plain: Vec<G> = plain::normalize_backward(&plain_y, &norms, &plain_dy, dim, epsilon);
    Ok([Judged {
        output: output(Verb::NormalizeBackward, "dx", &dx),
        plain: plain.iter().map(|dx| f64::from(dx.to_f32())).collect(),
        rounding: spacing_at(G::DTYPE, expected.as_slice())
            + spacing_at(DType::F32, terms.as_slice()),
        expected: expected.as_slice().to_vec(),
    }])
}

/// The spacing of `dtype` at the largest of `numbers`.
fn spacing_at(dtype: DType, numbers: &[f64]) -> f64 {
    spacing(dtype) * magnitude(numbers).max(f64::from(dtype.min_positive()))
}

fn rounded<T: Element>(numbers: &[f32]) -> Vec<f64> {
    let rounded = numbers.iter().map(|&x| T::from_f32(x).to_f32());
    rounded.map(f64::from).collect()
}

/// momentum_update of several tensors at once, every other one with a shadow.
///
/// # Errors
/// Whatever the engine refuses.
pub fn momentum<E: Engine, T: Element>(
    engine: &E,
    rng: &mut impl Rng,
) -> Result<Vec<Measurement>, Error> {
    const LENGTHS: [usize; 6] = [1, 7, 64, 1000, 16 * 1024 + 1, 70_001];
    let mut measurements = Vec::new();
    for momentum in [0.0f32, 0.5, 0.99, 0.999, 1.0] {
        let before = LENGTHS.map(|length| {
            let mut draw = || -> Vec<f32> {
                let numbers = (0..length).map(|_| rng.random_range(-2.0f32..2.0));
                numbers.collect()
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
            let query: Vec<f32> = query.iter().map(|x| x.to_f32()).collect();
            let wide =
                |numbers: &[f32]| -> Vec<f64> { numbers.iter().map(|&x| f64::from(x)).collect() };
            let (wide_query, wide_key) = (wide(&query), wide(old_key));
            let expected = reference::momentum_update(f64::from(momentum), &wide_query, &wide_key);
            let pairs = old_key.iter().zip(&query);
            let plain = pairs.map(|(key, query)| momentum * key + (1.0 - momentum) * query);
            let plain: Vec<f32> = plain.collect();
            let verb = Verb::MomentumUpdate;
            let output_key = output(verb, "key", key);
            let judged = if momentum == 0.0 || momentum == 1.0 {
                Judged::exact(output_key, expected)
            } else {
                Judged {
                    output: output_key,
                    plain: wide(&plain),
                    rounding: spacing(DType::F32)
                        * magnitude(&wide_key).max(magnitude(&wide_query)),
                    expected,
                }
            };
            measurements.push(judged.measure(T::DTYPE));
            if index % 2 == 0 {
                let judged = Judged::exact(output(verb, "shadow", shadow), rounded::<T>(key));
                measurements.push(judged.measure(T::DTYPE));
            }
        }
    }
    Ok(measurements)
}

/// enqueue against a queue that takes one key at a time.
///
/// # Errors
/// Whatever the engine refuses.
pub fn queue<E: Engine, T: Element>(
    engine: &E,
    rng: &mut impl Rng,
) -> Result<Vec<Measurement>, Error> {
    let (capacity, dim) = (7, 3);
    let mut queue = KeyQueue::<T>::new(capacity, dim)?;
    let mut newest = VecDeque::new();
    let mut measurements = Vec::new();
    for batch in [2, 3, 7, 1, 20, 5, 14, 6] {
        let keys = Owned::<T>::round(&normal_matrix(batch, dim, rng));
        let keys = keys.view()?;
        OnHost(engine).enqueue(&mut queue, keys)?;
        for i in 0..batch {
            newest.push_back(plain::widen(keys)[i * dim..(i + 1) * dim].to_vec());
        }
        newest.drain(..newest.len().saturating_sub(capacity));
        // From the oldest key on.
        let mut filled = queue.filled().map(plain::widen).unwrap_or_default();
        if queue.fill() == capacity {
            filled.rotate_left(queue.cursor() * dim);
        }
        let expected = newest.iter().flatten().map(|&x| f64::from(x)).collect();
        let judged = Judged::exact(output(Verb::Enqueue, "keys", &filled), expected);
        measurements.push(judged.measure(T::DTYPE));
    }
    Ok(measurements)
}

/// top_k: on small whole numbers, where every score is exact and ties abound, the very order; on
/// random numbers, the scores.
///
/// # Errors
/// Whatever the engine refuses.
pub fn top_k<E: Engine, T: Element>(
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
        // What sm_90a lists in place of storing it, and one more.
        (20, 2100, 8),
    ] {
        for exclude_self in [false, true] {
            let most = m - usize::from(exclude_self);
            let several = if m > 2000 {
                [1, 256, 257]
            } else {
                [1, 5.min(most), most]
            };
            for k in several {
                for whole in [true, false] {
                    let mut draw = |rows: usize| {
                        if whole {
                            Dense::from_fn(rows, dim, |_, _| f64::from(rng.random_range(-2..=2)))
                        } else {
                            normal_matrix(rows, dim, rng)
                        }
                    };
                    let (queries, mut candidates) = (draw(n), draw(m));
                    if whole && k > 1 {
                        candidates.as_mut_slice()[m / 2 * dim] = f64::NAN;
                    }
                    let queries = Owned::<T>::round(&queries);
                    let candidates = Owned::<T>::round(&candidates);
                    let sides = (&queries, &candidates);
                    let judged = one_top_k(engine, sides, k, exclude_self, whole)?;
                    measurements.extend(judged.iter().map(|judged| judged.measure(T::DTYPE)));
                }
            }
        }
    }
    Ok(measurements)
}

fn one_top_k<E: Engine, T: Element>(
    engine: &E,
    (queries, candidates): (&Owned<T>, &Owned<T>),
    k: usize,
    exclude_self: bool,
    exact: bool,
) -> Result<Vec<Judged>, Error> {
    let (queries, candidates) = (queries.view()?, candidates.view()?);
    let found = OnHost(engine).top_k(queries, candidates, k, exclude_self)?;
    let (wide_queries, wide_candidates) = (Dense::from_rows(queries), Dense::from_rows(candidates));
    let best = reference::top_k(&wide_queries, &wide_candidates, k, exclude_self);
    let best: Vec<(usize, f64)> = best.into_iter().flatten().collect();
    let scores = output(Verb::TopK, "scores", &found.scores);
    let indices = Output {
        quantity: "indices",
        values: found.indices.iter().map(|&j| f64::from(j)).collect(),
        ..scores.clone()
    };
    if exact {
        // NaN is no number to be compared; as infinity it compares, and the whole numbers hold none.
        let comparable = |score: f64| if score.is_nan() { f64::INFINITY } else { score };
        let scores = Output {
            values: scores
                .values
                .iter()
                .map(|&score| comparable(score))
                .collect(),
            ..scores
        };
        let expected_scores = best.iter().map(|&(_, score)| comparable(score)).collect();
        let expected_indices = best.iter().map(|&(j, _)| j as f64).collect();
        return Ok(vec![
            Judged::exact(scores, expected_scores),
            Judged::exact(indices, expected_indices),
        ]);
    }
    // The best scores; and the true scores of the candidates that were named, each named once.
    let (plain_queries, plain_candidates) = (plain::widen(queries), plain::widen(candidates));
    let dim = queries.dim();
    let plain_score = |i: usize, j: usize| {
        let (q, k) = (&plain_queries[i * dim..], &plain_candidates[j * dim..]);
        f64::from(plain::dot(&q[..dim], &k[..dim]))
    };
    let plain: Vec<f64> = best
        .iter()
        .enumerate()
        .map(|(place, &(j, _))| plain_score(place / k, j))
        .collect();
    let score = |(place, &j): (usize, &u32)| {
        let taken = &found.indices[place / k * k..place];
        let allowed = (j as usize) < candidates.rows()
            && !taken.contains(&j)
            && !(exclude_self && j as usize == place / k);
        if !allowed {
            return f64::NAN;
        }
        let (q, k) = (wide_queries.row(place / k), wide_candidates.row(j as usize));
        q.iter().zip(k).map(|(q, k)| q * k).sum()
    };
    let named: Vec<f64> = found.indices.iter().enumerate().map(score).collect();
    let expected: Vec<f64> = best.iter().map(|&(_, score)| score).collect();
    let size = |matrix: &Dense| magnitude(matrix.as_slice());
    let products = (dim as f64).max(product_error(T::DTYPE));
    let rounding = spacing(DType::F32) * size(&wide_queries) * size(&wide_candidates) * products;
    Ok(vec![
        Judged {
            output: scores.clone(),
            expected,
            plain: plain.clone(),
            rounding,
        },
        Judged {
            output: Output {
                quantity: "scores of the named candidates",
                values: named.clone(),
                ..scores.clone()
            },
            expected: scores.values,
            plain: found.scores.iter().map(|&score| f64::from(score)).collect(),
            rounding,
        },
    ])
}
