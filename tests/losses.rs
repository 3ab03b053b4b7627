//! Losses are those of their papers. Each published formula is written here in plain exponentials of a stored matrix,
//! without this crate, and compared with the float64 reference and the CPU engine. Temperatures are powers of two, whose
//! inverses are exact in f32.

use infonce::losses::{Layout, RowRule, SetForm, TABLE};
use infonce::reference::{self, Dense};
use infonce::{
    Contrast, CpuEngine, Engine, Error, Gradients, Ids, Inputs, KMeans, Matrix, NO_POSITIVE,
    Positives, Problem, Prototypes, Reduction, Rows, RowsMut, View,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

type Test = Result<(), Error>;

/// Rows of length 1, rounded to f32.
fn unit_rows(rows: usize, dim: usize, seed: u64) -> Dense {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let x = Dense::from_fn(rows, dim, |_, _| rng.random_range(-1.0..1.0));
    in_f32(&reference::normalize(&x, 1e-12).0)
}

/// Rounded to f32, so that reference and engine have the same inputs.
fn in_f32(x: &Dense) -> Dense {
    Dense::from_fn(x.rows(), x.dim(), |i, d| f64::from(x.row(i)[d] as f32))
}

fn narrow(x: &Dense) -> Vec<f32> {
    x.as_slice().iter().map(|&x| x as f32).collect()
}

/// What a batch has besides its matrices.
struct Given {
    positives: Positives<Vec<u32>>,
    ids: Option<Ids<Vec<u32>>>,
    bias: Option<Vec<f32>>,
}

const DIAGONAL: Given = Given {
    positives: Positives::DIAGONAL,
    ids: None,
    bias: None,
};

impl Given {
    fn positives(positives: Positives<Vec<u32>>) -> Self {
        Self {
            positives,
            ..DIAGONAL
        }
    }

    /// One matrix whose rows have these labels.
    fn labels(labels: &[u32]) -> Self {
        Self::positives(Positives::Labels {
            anchors: labels.to_vec(),
            candidates: labels.to_vec(),
        })
    }

    /// A list of positives for each anchor.
    fn lists(lists: &[Vec<u32>]) -> Self {
        let ends = lists.iter().scan(0, |end, list| {
            *end += list.len() as u32;
            Some(*end)
        });
        Self::positives(Positives::Lists {
            starts: std::iter::once(0).chain(ends).collect(),
            candidates: lists.concat(),
        })
    }

    /// The contrast on z; q and k; or q, own_key and queue.
    fn problem<'a, V: View<Indices = &'a [u32], Floats = &'a [f32]>>(
        &'a self,
        contrast: &Contrast,
        matrices: &[V],
    ) -> Result<Problem<V>, Error> {
        let last = matrices.len() - 1;
        let matrices = [0, last, last.min(1)].map(|which| matrices[which]);
        let mut problem = contrast.pose(matrices, self.positives.view())?;
        if let Some(ids) = &self.ids {
            let (anchors, candidates) = (&ids.anchors[..], &ids.candidates[..]);
            problem = problem.excluding(Ids {
                anchors,
                candidates,
            })?;
        }
        match &self.bias {
            Some(bias) => problem.with_column_bias(bias),
            None => Ok(problem),
        }
    }
}

/// Loss, dq, dk and dbias of the CPU engine; those that the problem has not are empty.
fn on_cpu(
    contrast: &Contrast,
    matrices: &[Dense],
    given: &Given,
) -> Result<(f32, [Vec<f32>; 3]), Error> {
    let numbers: Vec<Vec<f32>> = matrices.iter().map(narrow).collect();
    let dim = (&matrices[0]).dim();
    let views: Result<Vec<_>, Error> = numbers
        .iter()
        .map(|x| Rows::new(x, x.len() / dim, dim))
        .collect();
    let problem = given.problem(contrast, &views?)?;
    let shape = problem.shape();
    let mut dq = vec![f32::NAN; shape.anchors * dim];
    let has_dk = contrast.has_dk();
    let mut dk = vec![f32::NAN; shape.candidates * dim * usize::from(has_dk)];
    let bias = given.bias.as_deref().unwrap_or_default();
    let mut dbias = vec![f32::NAN; bias.len()];
    let mut gradients = Gradients::new(
        RowsMut::new(&mut dq, shape.anchors, dim)?,
        match has_dk {
            true => Some(RowsMut::new(&mut dk, shape.candidates, dim)?),
            false => None,
        },
    );
    if given.bias.is_some() {
        gradients = gradients.with_bias(RowsMut::new(&mut dbias, 1, bias.len())?);
    }
    let value = CpuEngine::new().value_and_grad(&problem, 1.0, gradients)?;
    Ok((value.loss, [dq, dk, dbias]))
}

fn in_float64(
    contrast: &Contrast,
    matrices: &[Dense],
    given: &Given,
) -> Result<reference::Reference, Error> {
    let views: Vec<&Dense> = matrices.iter().collect();
    let problem = given.problem(contrast, &views)?;
    Ok(reference::value_and_grad(&problem, 1.0))
}

/// Each of `found` is as expected to within `share` of the largest.
fn assert_near(found: impl Iterator<Item = f64>, expected: &[f64], share: f64, what: &str) {
    let largest = expected.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    let found: Vec<f64> = found.collect();
    assert_eq!(found.len(), expected.len(), "{what}");
    for (place, (found, expected)) in found.iter().zip(expected).enumerate() {
        let is_near = (found - expected).abs() <= share * largest;
        assert!(is_near, "{what} [{place}]: {found} in place of {expected}");
    }
}

/// Reference and engine have the formula's value, and its derivatives by central differences.
fn is_published(
    contrast: &Contrast,
    matrices: &[Dense],
    formula: impl Fn(&[Dense]) -> f64,
) -> Test {
    is_published_with(contrast, matrices, &DIAGONAL, formula)
}

/// As [`is_published`], of a batch with positives and options. The formula has the biases, if there are any, as a last
/// matrix of one row.
fn is_published_with(
    contrast: &Contrast,
    matrices: &[Dense],
    given: &Given,
    formula: impl Fn(&[Dense]) -> f64,
) -> Test {
    const STEP: f64 = 1e-5;
    let what = contrast.name();
    let mut variables = matrices.to_vec();
    let bias = given.bias.iter();
    variables.extend(bias.map(|bias| Dense::from_fn(1, bias.len(), |_, j| f64::from(bias[j]))));
    let expected = formula(&variables);
    let reference = in_float64(contrast, matrices, given)?;
    let (loss, [dq, dk, dbias]) = on_cpu(contrast, matrices, given)?;
    assert_near([reference.loss].into_iter(), &[expected], 1e-12, what);
    assert_near([f64::from(loss)].into_iter(), &[expected], 1e-5, what);

    let derivatives = |which: usize| -> Vec<f64> {
        let at = |place: usize, step: f64| {
            let mut moved = variables.clone();
            moved[which].as_mut_slice()[place] += step;
            formula(&moved)
        };
        let places = 0..variables[which].as_slice().len();
        places
            .map(|place| (at(place, STEP) - at(place, -STEP)) / (2.0 * STEP))
            .collect()
    };
    let wide = |numbers: &[f32]| -> Vec<f64> { numbers.iter().map(|&x| f64::from(x)).collect() };
    let last = variables.len() - 1;
    let all = [
        (0, Some(reference.dq.as_slice()), dq),
        (1, reference.dk.as_ref().map(Dense::as_slice), dk),
        (last, reference.dbias.as_deref(), dbias),
    ];
    for (which, in_float64, on_cpu) in all {
        let Some(in_float64) = in_float64 else {
            continue;
        };
        let expected = derivatives(which);
        assert_near(in_float64.iter().copied(), &expected, 1e-7, what);
        assert_near(wide(&on_cpu).into_iter(), &expected, 1e-5, what);
    }
    Ok(())
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The mean over 2N rows of `row`, a function of the positive's similarity and those of the negatives.
fn mean_over_views(z: &Dense, row: impl Fn(f64, &[f64]) -> f64) -> f64 {
    let rows = z.rows();
    let of = |i: usize| {
        let positive = (i + rows / 2) % rows;
        let others = (0..rows).filter(|&j| j != i && j != positive);
        let negatives: Vec<f64> = others.map(|j| dot(z.row(i), z.row(j))).collect();
        row(dot(z.row(i), z.row(positive)), &negatives)
    };
    (0..rows).map(of).sum::<f64>() / rows as f64
}

fn sum_of_exp(similarities: &[f64], temperature: f64) -> f64 {
    similarities.iter().map(|s| (s / temperature).exp()).sum()
}

#[test]
fn dcl_is_the_published_formula() -> Test {
    for tau in [0.125, 0.5] {
        let z = [unit_rows(12, 5, 1)];
        is_published(&Contrast::dcl(tau)?, &z, |z| {
            let tau = f64::from(tau);
            mean_over_views(&z[0], |positive, negatives| {
                -positive / tau + sum_of_exp(negatives, tau).ln()
            })
        })?;
    }
    Ok(())
}

#[test]
fn dclw_weighs_the_positive_without_gradient() -> Test {
    for tau in [0.125, 0.5] {
        let sigma = 0.5;
        let z = [unit_rows(12, 5, 2)];
        let half = (&z[0]).rows() / 2;
        let of_pair = |i: usize| {
            let product = dot(z[0].row(i), z[0].row((i + half) % (2 * half)));
            (product / f64::from(sigma)).exp()
        };
        let mean = (0..2 * half).map(of_pair).sum::<f64>() / (2 * half) as f64;
        // Weights are constant while z moves.
        let weights: Vec<f64> = (0..2 * half).map(|i| 2.0 - of_pair(i) / mean).collect();
        is_published(&Contrast::dclw(tau, sigma)?, &z, |z| {
            let tau = f64::from(tau);
            let next = std::cell::Cell::new(0);
            mean_over_views(&z[0], |positive, negatives| {
                let weight = weights[next.replace(next.get() + 1)];
                -weight * positive / tau + sum_of_exp(negatives, tau).ln()
            })
        })?;
    }
    Ok(())
}

#[test]
fn rince_is_the_published_formula() -> Test {
    for (tau, q, lambda) in [(0.5, 0.5, 0.025), (0.25, 0.1, 0.01), (0.5, 1.0, 0.5)] {
        let z = [unit_rows(12, 5, 3)];
        is_published(&Contrast::rince(tau, q, lambda)?, &z, |z| {
            let (tau, q, lambda) = (f64::from(tau), f64::from(q), f64::from(lambda));
            mean_over_views(&z[0], |positive, negatives| {
                let positive = (positive / tau).exp();
                let all = positive + sum_of_exp(negatives, tau);
                -positive.powf(q) / q + (lambda * all).powf(q) / q
            })
        })?;
    }
    Ok(())
}

#[test]
fn debiased_is_equations_7_and_8_of_chuang_et_al() -> Test {
    for (tau, prior) in [(0.5, 0.1), (0.125, 0.1), (0.5, 0.0), (0.5, 0.4)] {
        let z = [unit_rows(12, 5, 4)];
        let (tau64, prior64) = (f64::from(tau), f64::from(prior));
        let raw = |positive: f64, negatives: &[f64]| {
            let m = negatives.len() as f64;
            let positive = (positive / tau64).exp();
            (sum_of_exp(negatives, tau64) - prior64 * m * positive) / (1.0 - prior64)
        };
        let least = |negatives: &[f64]| negatives.len() as f64 * (-1.0 / tau64).exp();
        is_published(&Contrast::debiased(tau, prior)?, &z, |z| {
            mean_over_views(&z[0], |positive, negatives| {
                let ng = raw(positive, negatives).max(least(negatives));
                let positive = (positive / tau64).exp();
                -(positive / (positive + ng)).ln()
            })
        })?;
        let clamped = mean_over_views(&z[0], |positive, negatives| {
            f64::from(u8::from(raw(positive, negatives) < least(negatives)))
        });
        // Both branches of the maximum occur where the prior is large enough.
        assert_eq!(
            clamped > 0.0,
            prior > 0.1 || tau < 0.5 && prior > 0.0,
            "{tau} {prior}"
        );
        assert!(clamped < 1.0);
    }
    Ok(())
}

#[test]
fn an_additive_margin_lowers_the_positive_both_ways() -> Test {
    let matrices = [unit_rows(7, 5, 5), unit_rows(7, 5, 6)];
    for (tau, margin) in [(0.25, 1.5), (0.5, -0.6), (0.5, 0.0)] {
        is_published(&Contrast::additive_margin(tau, margin)?, &matrices, |of| {
            let (tau, margin, n) = (f64::from(tau), f64::from(margin), (&of[0]).rows());
            let one_way = |x: &Dense, y: &Dense| {
                let row = |i: usize| {
                    let logit = |j: usize| dot(x.row(i), y.row(j)) / tau;
                    let positive = (logit(i) - margin).exp();
                    let others = (0..n).filter(|&j| j != i);
                    let rest: f64 = others.map(|j| logit(j).exp()).sum();
                    -(positive / (positive + rest)).ln()
                };
                (0..n).map(row).sum::<f64>() / n as f64
            };
            0.5 * (one_way(&of[0], &of[1]) + one_way(&of[1], &of[0]))
        })?;
    }
    Ok(())
}

#[test]
fn moco_v3_is_algorithm_1_in_two_calls() -> Test {
    let [q1, q2, k1, k2] = [7, 8, 9, 10].map(|seed| unit_rows(6, 5, seed));
    let tau = 0.25;
    let contrast = Contrast::moco_v3(tau)?;
    // Cross entropy of each row's softmax, with label i.
    let ctr = |q: &Dense, k: &Dense| {
        let tau = f64::from(tau);
        let row = |i: usize| {
            let logits = (0..k.rows()).map(|j| dot(q.row(i), k.row(j)) / tau);
            let all: f64 = logits.clone().map(f64::exp).sum();
            let label = logits.skip(i).map(f64::exp).next().unwrap_or_default();
            -(label / all).ln()
        };
        2.0 * tau * (0..q.rows()).map(row).sum::<f64>() / q.rows() as f64
    };
    let mut total = 0.0;
    for pair in [[q1.clone(), k2.clone()], [q2.clone(), k1.clone()]] {
        is_published(&contrast, &pair, |pair| ctr(&pair[0], &pair[1]))?;
        assert!(
            in_float64(&contrast, &pair, &DIAGONAL)?.dk.is_none(),
            "keys have no gradient"
        );
        total += in_float64(&contrast, &pair, &DIAGONAL)?.loss;
    }
    let expected = ctr(&q1, &k2) + ctr(&q2, &k1);
    assert_near([total].into_iter(), &[expected], 1e-12, "both ways");
    Ok(())
}

/// log(exp(x_i·y_p/τ)/Σ_a exp(x_i·y_a/τ)) over the candidates `all` of an anchor.
fn log_probability(x: &[f64], y: &Dense, p: usize, all: &[usize], tau: f64) -> f64 {
    let exp = |j: usize| (dot(x, y.row(j)) / tau).exp();
    (exp(p) / all.iter().map(|&j| exp(j)).sum::<f64>()).ln()
}

/// All rows but row i.
fn others(rows: usize, i: usize) -> Vec<usize> {
    (0..rows).filter(|&j| j != i).collect()
}

/// P(i): the other rows of the label of row i.
fn others_of_label(labels: &[u32], i: usize) -> Vec<usize> {
    let of_label = |&p: &usize| labels[p] == labels[i] && labels[i] != NO_POSITIVE;
    others(labels.len(), i)
        .into_iter()
        .filter(of_label)
        .collect()
}

/// Eleven rows of three classes, of which one row is alone and one has no class.
const LABELS: [u32; 11] = [0, 1, 0, 2, 1, 0, 5, 2, NO_POSITIVE, 1, 0];

#[test]
fn sup_con_is_equation_2_of_khosla_et_al() -> Test {
    for tau in [0.125, 0.5] {
        for reduction in [Reduction::Mean, Reduction::MeanOfPositives] {
            let z = [unit_rows(11, 5, 20)];
            let contrast = Contrast::sup_con(tau)?.with_reduction(reduction);
            is_published_with(&contrast, &z, &Given::labels(&LABELS), |z| {
                let row = |i: usize| {
                    let positives = others_of_label(&LABELS, i);
                    let all = others(LABELS.len(), i);
                    let log =
                        |&p: &usize| log_probability(z[0].row(i), &z[0], p, &all, f64::from(tau));
                    match positives.len() {
                        0 => 0.0,
                        count => -positives.iter().map(log).sum::<f64>() / count as f64,
                    }
                };
                let rows = match reduction {
                    Reduction::MeanOfPositives => 9.0,
                    _ => 11.0,
                };
                (0..11).map(row).sum::<f64>() / rows
            })?;
        }
    }
    Ok(())
}

#[test]
fn sup_con_in_is_equation_3_of_khosla_et_al() -> Test {
    let loss = TABLE.iter().find(|loss| loss.key == "supcon_in");
    let at = loss.expect("a row of the table").at;
    for tau in [0.125, 0.5] {
        let z = [unit_rows(11, 5, 21)];
        is_published_with(&at(tau)?, &z, &Given::labels(&LABELS), |z| {
            let row = |i: usize| {
                let positives = others_of_label(&LABELS, i);
                let all = others(LABELS.len(), i);
                let probability =
                    |&p: &usize| log_probability(z[0].row(i), &z[0], p, &all, f64::from(tau)).exp();
                match positives.len() {
                    0 => 0.0,
                    count => -(positives.iter().map(probability).sum::<f64>() / count as f64).ln(),
                }
            };
            (0..11).map(row).sum::<f64>() / 11.0
        })?;
    }
    Ok(())
}

#[test]
fn kcl_has_k_drawn_positives_and_the_other_view() -> Test {
    // Two views of six images of two classes, 0 to 3 and 4 and 5; k = 2 of the first class are drawn, 1 of the second.
    let drawn = [[1, 3], [0, 8], [3, 7], [0, 1], [5, 5], [4, 4]];
    let lists: Vec<Vec<u32>> = (0..12)
        .map(|i: u32| {
            let own = (i + 6) % 12;
            // The second view draws the other views of what the first draws.
            let drawn = drawn[i as usize % 6].map(|j| (j + 6 * (i / 6)) % 12);
            let mut list = vec![own, drawn[0], drawn[1]];
            list.sort_unstable();
            list.dedup();
            list
        })
        .collect();
    for tau in [0.125, 0.5] {
        let z = [unit_rows(12, 5, 22)];
        is_published_with(&Contrast::kcl(tau)?, &z, &Given::lists(&lists), |z| {
            let row = |i: usize| {
                // The denominator has the other view and the whole batch, drawn or not.
                let all = others(12, i);
                let list = &lists[i];
                let log = |&p: &u32| {
                    log_probability(z[0].row(i), &z[0], p as usize, &all, f64::from(tau))
                };
                -list.iter().map(log).sum::<f64>() / list.len() as f64
            };
            (0..12).map(row).sum::<f64>() / 12.0
        })?;
    }
    Ok(())
}

#[test]
fn hard_negatives_are_weighted_as_robinson_et_al_publish() -> Test {
    let mut clamped = [0, 0];
    for (tau, beta, prior) in [
        (0.5, 1.0, 0.1),
        (0.5, 0.5, 0.0),
        (0.25, 2.0, 0.1),
        (0.125, 1.0, 0.1),
        (0.25, 0.5, 0.5),
        (0.5, 0.0, 0.1),
    ] {
        let z = [unit_rows(12, 5, 23)];
        let (tau64, beta64, prior64) = (f64::from(tau), f64::from(beta), f64::from(prior));
        let bounds = |positive: f64, negatives: &[f64]| {
            let m = negatives.len() as f64;
            let importance: Vec<f64> = negatives
                .iter()
                .map(|s| (beta64 * s / tau64).exp())
                .collect();
            let mean = importance.iter().sum::<f64>() / m;
            let pairs = importance.iter().zip(negatives);
            let weighted: f64 = pairs.map(|(w, s)| w * (s / tau64).exp()).sum::<f64>() / mean;
            let raw = (weighted - prior64 * m * (positive / tau64).exp()) / (1.0 - prior64);
            [raw, m * (-1.0 / tau64).exp()]
        };
        is_published(&Contrast::hard_negatives(tau, beta, prior)?, &z, |z| {
            mean_over_views(&z[0], |positive, negatives| {
                let [raw, least] = bounds(positive, negatives);
                let positive = (positive / tau64).exp();
                -(positive / (positive + raw.max(least))).ln()
            })
        })?;
        let share = mean_over_views(&z[0], |positive, negatives| {
            let [raw, least] = bounds(positive, negatives);
            f64::from(u8::from(raw < least))
        });
        clamped[usize::from(share > 0.0)] += 1;
    }
    assert!(clamped.iter().all(|&count| count > 0), "{clamped:?}");
    Ok(())
}

#[test]
fn smoothing_is_the_cross_entropy_of_smoothed_targets() -> Test {
    let (n, m) = (6, 9);
    let index = [2, 8, NO_POSITIVE, 0, 2, 5];
    let labels = [
        [0, 1, 0, 2, 5, 1].to_vec(),
        [1, 0, 2, 0, 1, 1, 3, 0, 2].to_vec(),
    ];
    let by_index = Given::positives(Positives::Index(index.to_vec()));
    let by_label = Given::positives(Positives::Labels {
        anchors: labels[0].clone(),
        candidates: labels[1].clone(),
    });
    // Candidate 4 is a duplicate of what anchors 0 and 3 belong to: no candidate of theirs.
    let anchors = vec![7, 1, 2, 7, 3, 4];
    let candidates = (0..m).map(|j| if j == 4 { 7 } else { 9 }).collect();
    let without_duplicates = Given {
        ids: Some(Ids {
            anchors,
            candidates,
        }),
        ..Given::positives(Positives::Index(index.to_vec()))
    };
    for (number, given) in [by_index, by_label, without_duplicates].iter().enumerate() {
        for smoothing in [0.0, 0.125, 0.5] {
            let matrices = [unit_rows(n, 5, 24), unit_rows(m, 5, 25)];
            let contrast = Contrast::info_nce(0.25)?.with_label_smoothing(smoothing)?;
            is_published_with(&contrast, &matrices, given, |of| {
                let row = |i: usize| {
                    let is_positive = |j: usize| match number {
                        1 => labels[0][i] == labels[1][j],
                        _ => index[i] as usize == j,
                    };
                    let is_left = |&j: &usize| number != 2 || j != 4 || ![0, 3].contains(&i);
                    let all: Vec<usize> = (0..m).filter(is_left).collect();
                    let positives = all.iter().filter(|&&j| is_positive(j)).count() as f64;
                    let cross_entropy = |&j: &usize| {
                        let sharp = f64::from(u8::from(is_positive(j))) / positives;
                        let smoothing = f64::from(smoothing);
                        let target = (1.0 - smoothing) * sharp + smoothing / all.len() as f64;
                        -target * log_probability(of[0].row(i), &of[1], j, &all, 0.25)
                    };
                    match positives {
                        0.0 => 0.0,
                        _ => all.iter().map(cross_entropy).sum(),
                    }
                };
                (0..n).map(row).sum::<f64>() / n as f64
            })?;
        }
    }
    Ok(())
}

#[test]
fn mnr_ranks_an_answer_above_all_others_and_hard_negatives() -> Test {
    // Cosines times 20; answer i, then two hard negatives for each query.
    let matrices = [unit_rows(6, 5, 26), unit_rows(18, 5, 27)];
    is_published(&Contrast::mnr(0.05)?, &matrices, |of| {
        let row = |i: usize| {
            let scores: Vec<f64> = (0..18)
                .map(|j| 20.0 * dot(of[0].row(i), of[1].row(j)))
                .collect();
            scores.iter().map(|s| s.exp()).sum::<f64>().ln() - scores[i]
        };
        (0..6).map(row).sum::<f64>() / 6.0
    })
}

#[test]
fn sampled_softmax_corrects_logits_and_leaves_hits_out() -> Test {
    // Yi et al. 2019: s(x, y) − log Q(y); another row of the anchor's own item is no negative.
    let items = [3, 5, 3, 8, 5, 9, 3];
    let probability = [0.5f32, 0.25, 0.5, 0.0625, 0.25, 0.125, 0.5];
    let given = Given {
        ids: Some(Ids {
            anchors: items.to_vec(),
            candidates: items.to_vec(),
        }),
        bias: Some(probability.map(|q| -q.ln()).to_vec()),
        ..DIAGONAL
    };
    let matrices = [unit_rows(7, 5, 28), unit_rows(7, 5, 29)];
    is_published_with(
        &Contrast::sampled_softmax(0.0625)?,
        &matrices,
        &given,
        |of| {
            let row = |i: usize| {
                let score = |j: usize| 16.0 * dot(of[0].row(i), of[1].row(j)) + of[2].row(0)[j];
                let left = (0..7).filter(|&j| j == i || items[j] != items[i]);
                left.map(|j| score(j).exp()).sum::<f64>().ln() - score(i)
            };
            (0..7).map(row).sum::<f64>() / 7.0
        },
    )
}

#[test]
fn cpc_scores_each_offset_with_a_matrix_of_its_own() -> Test {
    // Equation 4 of van den Oord et al. 2018 for two offsets: f_h(x, c) = exp(xᵀ W_hᵀ c); contexts after steps 0 to 3 of a
    // sequence, encodings of steps 0 to 5.
    let (c, x) = (unit_rows(4, 3, 36), unit_rows(6, 5, 37));
    let weights = [38, 39].map(|seed| unit_rows(3, 5, seed));
    let score = |w: &Dense, t: usize, j: usize| {
        let of_context = |d: usize| (0..3).map(|e| c.row(t)[e] * w.row(e)[d]).sum::<f64>();
        (0..5).map(|d| of_context(d) * x.row(j)[d]).sum::<f64>()
    };
    let formula = |weights: &[Dense]| {
        let of_offset = |(h, w): (usize, &Dense)| {
            let row = |t: usize| {
                let all: f64 = (1 + h..5 + h).map(|j| score(w, t, j).exp()).sum();
                all.ln() - score(w, t, t + 1 + h)
            };
            (0..4).map(row).sum::<f64>() / 4.0
        };
        weights.iter().enumerate().map(of_offset).sum::<f64>() / 2.0
    };
    let contrast = Contrast::info_nce(1.0)?;
    let mut loss = 0.0;
    for (h, w) in weights.iter().enumerate() {
        let q = Dense::from_fn(4, 5, |t, d| (0..3).map(|e| c.row(t)[e] * w.row(e)[d]).sum());
        let k = Dense::from_fn(4, 5, |j, d| x.row(j + 1 + h)[d]);
        let value = in_float64(&contrast, &[q, k], &DIAGONAL)?;
        loss += value.loss / 2.0;
        let dw = (0..15).map(|place| {
            let (e, d) = (place / 5, place % 5);
            (0..4)
                .map(|t| c.row(t)[e] * value.dq.row(t)[d] / 2.0)
                .sum::<f64>()
        });
        let derivative = |place: usize| {
            let at = |step: f64| {
                let mut moved = weights.clone();
                moved[h].as_mut_slice()[place] += step;
                formula(&moved)
            };
            (at(1e-5) - at(-1e-5)) / 2e-5
        };
        let expected: Vec<f64> = (0..15).map(derivative).collect();
        assert_near(dw, &expected, 1e-7, "dW of an offset");
    }
    assert_near([loss].into_iter(), &[formula(&weights)], 1e-12, "CPC");
    Ok(())
}

#[test]
fn graph_cl_leaves_the_positive_out_of_the_denominator() -> Test {
    for tau in [0.25, 0.5] {
        let matrices = [unit_rows(8, 5, 30), unit_rows(8, 5, 31)];
        is_published(&Contrast::graph_cl(tau)?, &matrices, |of| {
            let row = |i: usize| {
                let exp = |j: usize| (dot(of[0].row(i), of[1].row(j)) / f64::from(tau)).exp();
                -(exp(i) / others(8, i).into_iter().map(exp).sum::<f64>()).ln()
            };
            (0..8).map(row).sum::<f64>() / 8.0
        })?;
    }
    Ok(())
}

/// Rows of any length: ln(1 + Σ_{j≠i} exp(⟨q_i, k_j⟩ − ⟨q_i, k_i⟩)), and the L2 term of TensorFlow's `npairs_loss`.
#[test]
fn n_pairs_is_the_published_formula_with_its_l2_term() -> Test {
    const LAMBDA: f64 = 0.002;
    let mut rng = ChaCha8Rng::seed_from_u64(12);
    let (n, dim) = (7, 5);
    let matrices = [(); 2].map(|()| {
        let x = Dense::from_fn(n, dim, |i, _| {
            (1.0 + i as f64) * rng.random_range(-0.5..0.5)
        });
        in_f32(&x)
    });
    let n_pairs = |of: &[Dense]| {
        let row = |i: usize| {
            let logit = |j: usize| dot(of[0].row(i), of[1].row(j));
            let others = (0..n).filter(|&j| j != i);
            (1.0 + others.map(|j| (logit(j) - logit(i)).exp()).sum::<f64>()).ln()
        };
        (0..n).map(row).sum::<f64>() / n as f64
    };
    let contrast = Contrast::n_pairs(1.0)?;
    is_published(&contrast, &matrices, n_pairs)?;

    // The gradient of both terms, as the documentation computes it.
    let [q, k] = matrices.each_ref().map(narrow);
    let share = (LAMBDA / (2.0 * n as f64)) as f32;
    let times = |x: &[f32]| -> Vec<f32> { x.iter().map(|x| share * x).collect() };
    let (mut dq, mut dk) = (times(&q), times(&k));
    let problem = contrast.on(Inputs::pair(Rows::new(&q, n, dim)?, Rows::new(&k, n, dim)?))?;
    let of_k = RowsMut::new(&mut dk, n, dim)?;
    let gradients = Gradients::new(RowsMut::new(&mut dq, n, dim)?, Some(of_k));
    CpuEngine::new().value_and_grad(&problem, 1.0, gradients.accumulating())?;
    let whole = |of: &[Dense]| {
        let squares = |x: &Dense| dot(x.as_slice(), x.as_slice()) / n as f64;
        n_pairs(of) + 0.25 * LAMBDA * (squares(&of[0]) + squares(&of[1]))
    };
    for (which, found) in [dq, dk].into_iter().enumerate() {
        let slope = |place: usize| {
            let at = |step: f64| {
                let mut moved = matrices.to_vec();
                moved[which].as_mut_slice()[place] += step;
                whole(&moved)
            };
            (at(1e-5) - at(-1e-5)) / 2e-5
        };
        let expected: Vec<f64> = (0..n * dim).map(slope).collect();
        assert_near(found.into_iter().map(f64::from), &expected, 1e-5, "L2 term");
    }
    Ok(())
}

#[test]
fn declutr_is_nt_xent_of_anchors_and_mean_positives() -> Test {
    // Three positive spans an anchor; their means, like the anchors, have length 1 because the paper takes cosines.
    let (anchors, spans) = (unit_rows(5, 6, 32), unit_rows(15, 6, 33));
    let mean = |i: usize, d: usize| (0..3).map(|p| spans.row(3 * i + p)[d]).sum::<f64>() / 3.0;
    let means = in_f32(&reference::normalize(&Dense::from_fn(5, 6, mean), 1e-12).0);
    let z = Dense::from_fn(10, 6, |i, d| match i {
        0..5 => anchors.row(i)[d],
        _ => means.row(i - 5)[d],
    });
    let contrast = Contrast::declutr(0.05)?.with_reduction(Reduction::Sum);
    is_published(&contrast, &[z], |z| {
        let l = |i: usize, j: usize| {
            let exp = |k: usize| (20.0 * dot(z[0].row(i), z[0].row(k))).exp();
            -(exp(j) / others(10, i).into_iter().map(exp).sum::<f64>()).ln()
        };
        (0..5).map(|i| l(i, i + 5) + l(i + 5, i)).sum()
    })
}

#[test]
fn contra_d_is_nt_xent_of_reals_and_sup_con_of_fakes() -> Test {
    // Two views of four real images, then five fakes; reals are the fakes' negatives and have no loss among them.
    let z = unit_rows(13, 5, 34);
    let reals = Dense::from_fn(8, 5, |i, d| z.row(i)[d]);
    let tau = 0.125;
    is_published(&Contrast::nt_xent(tau)?, &[reals], |z| {
        mean_over_views(&z[0], |positive, negatives| {
            let positive = (positive / f64::from(tau)).exp();
            -(positive / (positive + sum_of_exp(negatives, f64::from(tau)))).ln()
        })
    })?;
    let labels: Vec<u32> = (0..13)
        .map(|i| if i < 8 { NO_POSITIVE } else { 0 })
        .collect();
    is_published_with(
        &Contrast::contra_d(tau)?,
        &[z],
        &Given::labels(&labels),
        |z| {
            let fake = |i: usize| {
                let all = others(13, i);
                let others = (8..13).filter(|&p| p != i);
                let log = |p: usize| log_probability(z[0].row(i), &z[0], p, &all, f64::from(tau));
                -others.map(log).sum::<f64>() / 4.0
            };
            (8..13).map(fake).sum::<f64>() / 5.0
        },
    )
}

#[test]
fn decoupled_sets_have_no_positive_in_the_denominator() -> Test {
    let rule = RowRule::Sets {
        form: SetForm::Decoupled,
        smoothing: 0.0,
    };
    let z = [unit_rows(11, 5, 35)];
    let contrast = Contrast::sup_con(0.5)?.with_rule(rule)?;
    is_published_with(&contrast, &z, &Given::labels(&LABELS), |z| {
        let row = |i: usize| {
            let positives = others_of_label(&LABELS, i);
            let product = |&j: &usize| dot(z[0].row(i), z[0].row(j)) / 0.5;
            let is_negative = |j: &usize| !positives.contains(j);
            let negatives = others(LABELS.len(), i).into_iter().filter(is_negative);
            let below: f64 = negatives.map(|j| product(&j).exp()).sum();
            match positives.len() {
                0 => 0.0,
                count => below.ln() - positives.iter().map(product).sum::<f64>() / count as f64,
            }
        };
        (0..11).map(row).sum::<f64>() / 11.0
    })
}

/// The mean of −ln p of each row's label under the softmax of its logits.
fn cross_entropy(labels: &[u32], logit: impl Fn(usize, usize) -> f64, columns: usize) -> f64 {
    let row = |(i, &label): (usize, &u32)| {
        let all: f64 = (0..columns).map(|j| logit(i, j).exp()).sum();
        all.ln() - logit(i, label as usize)
    };
    labels.iter().enumerate().map(row).sum::<f64>() / labels.len() as f64
}

#[test]
fn inst_disc_is_the_softmax_over_the_whole_bank() -> Test {
    // Two views of example 3.
    let examples = [7, 0, 3, 3, 8];
    let matrices = [unit_rows(5, 6, 12), unit_rows(9, 6, 13)];
    for tau in [0.0625, 0.5] {
        let contrast = Contrast::inst_disc(tau)?;
        let given = Given::positives(Positives::Index(examples.to_vec()));
        is_published_with(&contrast, &matrices, &given, |of| {
            let logit = |i, j| dot(of[0].row(i), of[1].row(j)) / f64::from(tau);
            cross_entropy(&examples, logit, 9)
        })?;
        let value = in_float64(&contrast, &matrices, &given)?;
        assert!(value.dk.is_none(), "the bank has no gradient");
    }
    Ok(())
}

/// Prototypes of random rows.
fn prototypes(clusters: &[usize], dim: usize) -> Result<Vec<Prototypes>, Error> {
    let all = narrow(&unit_rows(60, dim, 14));
    let rows = Rows::new(&all, 60, dim)?;
    KMeans::default().cluster(&CpuEngine::new(), rows, clusters)
}

/// The prototype term of ProtoNCE for rows of these clusters: each centroid's temperature is its φ, of mean τ.
fn proto_nce(q: &Dense, clusters: &[u32], found: &Prototypes, tau: f64) -> f64 {
    let logit = |i: usize, c: usize| {
        let centroid: Vec<f64> = found.centroids().row(c).iter().map(|&x| x.into()).collect();
        dot(q.row(i), &centroid) / (tau * f64::from(found.concentrations()[c]))
    };
    cross_entropy(clusters, logit, found.concentrations().len())
}

#[test]
fn pcl_is_the_softmax_over_prototypes_with_their_phi() -> Test {
    let found = prototypes(&[7], 6)?.remove(0);
    let centroids = found.centroids().rows();
    // Images 0 and 3 twice: rows of one cluster.
    let clusters = [0, 3, 8, 0, 3].map(|image| found.assignments()[image]);
    let scaled = found.scaled::<f32>();
    let k = Dense::from_rows(Rows::new(&scaled, centroids, 6)?);
    let matrices = [unit_rows(5, 6, 15), k];
    for tau in [0.125, 0.5] {
        let contrast = Contrast::pcl(tau)?;
        let given = Given::positives(Positives::Index(clusters.to_vec()));
        let of_float = |of: &[Dense]| proto_nce(&of[0], &clusters, &found, f64::from(tau));
        // The rows of k are rounded to f32 after they are scaled, and the formula's φ is not.
        let reference = in_float64(&contrast, &matrices, &given)?;
        let expected = of_float(&matrices);
        assert_near([reference.loss].into_iter(), &[expected], 1e-6, "pcl");
        assert!(reference.dk.is_none(), "prototypes have no gradient");
        // On the rounded rows themselves it is exact.
        is_published_with(&contrast, &matrices, &given, |of| {
            let logit = |i, j| dot(of[0].row(i), of[1].row(j)) / f64::from(tau);
            cross_entropy(&clusters, logit, centroids)
        })?;
    }
    Ok(())
}

#[test]
fn rows_of_one_cluster_are_not_each_others_negatives() -> Test {
    let found = prototypes(&[4], 6)?.remove(0);
    let scaled = found.scaled::<f32>();
    let k = Dense::from_rows(Rows::new(&scaled, 4, 6)?);
    let contrast = Contrast::pcl(0.125)?;
    let q = unit_rows(2, 6, 16);
    let both = [q.clone(), k.clone()];
    let of_rows = |rows: &[u32]| Given::positives(Positives::Index(rows.to_vec()));
    let both = in_float64(&contrast, &both, &of_rows(&[2, 2]))?;
    let mut alone = 0.0;
    for i in 0..2 {
        let row = Dense::from_fn(1, 6, |_, d| q.row(i)[d]);
        let value = in_float64(&contrast, &[row, k.clone()], &of_rows(&[2]))?;
        alone += 0.5 * value.loss;
        let halved: Vec<f64> = value.dq.as_slice().iter().map(|x| 0.5 * x).collect();
        assert_near(both.dq.row(i).iter().copied(), &halved, 1e-12, "dq");
    }
    assert_near([both.loss].into_iter(), &[alone], 1e-12, "loss");
    Ok(())
}

#[test]
fn proto_nce_is_an_instance_loss_and_the_mean_over_granularities() -> Test {
    const STEP: f64 = 1e-5;
    let (rows, dim, tau) = (4, 6, 0.25f32);
    let granularities = prototypes(&[3, 6, 11], dim)?;
    let images = [5, 41, 17, 5];
    let [q, own_key, queue] =
        [(rows, 17), (rows, 18), (9, 19)].map(|(n, seed)| unit_rows(n, dim, seed));
    let formula = |q: &Dense| {
        let instance = |i: usize, j: usize| {
            let key = if j == 0 {
                own_key.row(i)
            } else {
                queue.row(j - 1)
            };
            dot(q.row(i), key) / f64::from(tau)
        };
        let of_prototypes = granularities.iter().map(|found| {
            let clusters = images.map(|image| found.assignments()[image]);
            proto_nce(q, &clusters, found, f64::from(tau))
        });
        cross_entropy(&[0; 4], instance, 10) + of_prototypes.sum::<f64>() / 3.0
    };

    // The recipe of `Contrast::pcl`.
    let engine = CpuEngine::new();
    let [q32, own32, queue32] = [&q, &own_key, &queue].map(narrow);
    let view = Rows::new(&q32, rows, dim)?;
    let mut dq = vec![f32::NAN; rows * dim];
    let problem = Contrast::moco(tau)?.on(Inputs::Queue {
        q: view,
        own_key: Rows::new(&own32, rows, dim)?,
        queue: Rows::new(&queue32, 9, dim)?,
    })?;
    let gradients = Gradients::new(RowsMut::new(&mut dq, rows, dim)?, None);
    let mut loss = engine.value_and_grad(&problem, 1.0, gradients)?.loss;
    let share = 1.0 / granularities.len() as f32;
    for found in &granularities {
        let scaled = found.scaled::<f32>();
        let clusters = images.map(|image| found.assignments()[image]);
        let problem = Contrast::pcl(tau)?.on(Inputs::Pair {
            q: view,
            k: Rows::new(&scaled, found.centroids().rows(), dim)?,
            positives: Positives::Index(&clusters[..]),
        })?;
        let gradients = Gradients::new(RowsMut::new(&mut dq, rows, dim)?, None).accumulating();
        loss += share * engine.value_and_grad(&problem, share, gradients)?.loss;
    }

    assert_near([f64::from(loss)].into_iter(), &[formula(&q)], 1e-5, "loss");
    let derivative = |place: usize| {
        let at = |step: f64| {
            let mut moved = q.clone();
            moved.as_mut_slice()[place] += step;
            formula(&moved)
        };
        (at(STEP) - at(-STEP)) / (2.0 * STEP)
    };
    let expected: Vec<f64> = (0..rows * dim).map(derivative).collect();
    assert_near(dq.iter().map(|&x| f64::from(x)), &expected, 1e-5, "dq");
    Ok(())
}

#[test]
fn one_minus_p_plus_keeps_five_digits_down_to_1e_8() -> Test {
    let (pairs, dim, scale) = (24, 64, 20.0f64);
    for loss in TABLE {
        let contrast = (loss.at)(1.0 / scale as f32)?;
        let given = match contrast.layout() {
            // `soft_targets.rs` has the digits of P − t.
            Layout::Targets => continue,
            Layout::Labelled => {
                let pair = |i: u32| i % pairs as u32;
                Given::labels(&(0..2 * pairs as u32).map(pair).collect::<Vec<_>>())
            }
            _ => DIAGONAL,
        };
        for rest in [1e-2, 1e-4, 1e-6, 1e-8] {
            let mut rng = ChaCha8Rng::seed_from_u64(11);
            // Each pair has a direction of its own: z₊ = ln(negatives/rest), z⁻ near 0.
            let (rows, first_of_queue) = match contrast.layout() {
                Layout::Shared | Layout::Labelled => (vec![2 * pairs], 0),
                Layout::Pair => (vec![pairs; 2], 0),
                Layout::Queue => (vec![pairs; 3], pairs),
                Layout::Targets => unreachable!("left out above"),
            };
            let negatives = contrast.negatives(rows[rows.len() - 1]);
            let length = ((negatives as f64 / rest).ln() / scale).sqrt();
            let mut matrix = |rows: usize, first: usize| {
                let mut noise = || rng.random_range(-0.01..0.01);
                let x = Dense::from_fn(rows, dim, |i, d| {
                    let own = f64::from(u8::from(first + i % pairs == d));
                    length * (own + noise())
                });
                in_f32(&x)
            };
            let mut matrices = Vec::new();
            for (place, &rows) in rows.iter().enumerate() {
                matrices.push(matrix(rows, if place == 2 { first_of_queue } else { 0 }));
            }
            let what = format!("{} at 1 - p+ = {rest:e}", loss.name);
            let expected = in_float64(&contrast, &matrices, &given)?;
            let wide = |x: Vec<f32>| x.into_iter().map(f64::from);
            let (loss, [dq, dk, _]) = on_cpu(&contrast, &matrices, &given)?;
            assert_near(wide(vec![loss]), &[expected.loss], 1e-5, &what);
            assert_near(wide(dq), expected.dq.as_slice(), 1e-5, &what);
            let expected_dk = expected.dk.as_ref().map_or(&[][..], Dense::as_slice);
            assert_near(wide(dk), expected_dk, 1e-5, &what);
        }
    }
    Ok(())
}

#[test]
fn hyper_parameters_are_named_with_their_range() {
    let message = |refused: Result<Contrast, Error>| {
        refused.map_or_else(|e| e.to_string(), |_| "accepted".to_owned())
    };
    let refused = |argument: &str, given: f32, allowed: &str| {
        let given = f64::from(given);
        format!("`{argument}` is {given}; it must be {allowed}")
    };
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let text = message(Contrast::additive_margin(0.1, bad));
        assert_eq!(text, refused("margin", bad, "finite"));
    }
    for bad in [0.0, -0.5, f32::NAN, f32::INFINITY] {
        let text = message(Contrast::dclw(0.1, bad));
        assert_eq!(text, refused("sigma", bad, "finite and greater than 0"));
    }
    for bad in [0.0, -0.5, 1.5, f32::NAN] {
        let allowed = "greater than 0 and at most 1";
        let text = message(Contrast::rince(0.1, bad, 0.1));
        assert_eq!(text, refused("q", bad, allowed));
        let text = message(Contrast::rince(0.1, 0.1, bad));
        assert_eq!(text, refused("lambda", bad, allowed));
    }
    for bad in [-0.1, 1.0, f32::NAN] {
        let allowed = "at least 0 and less than 1";
        let text = message(Contrast::debiased(0.1, bad));
        assert_eq!(text, refused("prior", bad, allowed));
        let rule = RowRule::Debiased { prior: bad };
        let text = message(Contrast::moco(0.1).and_then(|moco| moco.with_rule(rule)));
        assert_eq!(text, refused("prior", bad, allowed));
        let text = message(Contrast::hard_negatives(0.5, 1.0, bad));
        assert_eq!(text, refused("prior", bad, allowed));
        let text = message(Contrast::sup_con(0.5).and_then(|x| x.with_label_smoothing(bad)));
        assert_eq!(text, refused("smoothing", bad, allowed));
    }
    for bad in [-1.0, f32::NAN, f32::INFINITY] {
        let text = message(Contrast::hard_negatives(0.5, bad, 0.1));
        assert_eq!(text, refused("beta", bad, "finite and at least 0"));
    }
    for bad in [f32::NAN, f32::INFINITY] {
        let text = message(Contrast::info_nce(0.5).and_then(|x| x.with_guard(bad)));
        assert_eq!(text, refused("margin", bad, "finite"));
    }
    // BYOL has no temperature.
    for loss in TABLE.iter().filter(|loss| loss.key != "byol") {
        let text = message((loss.at)(0.0));
        assert!(text.starts_with("`temperature` is 0; "), "{text}");
    }
}
