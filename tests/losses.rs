//! Losses are those of their papers. Each published formula is written here in plain exponentials of a stored matrix,
//! without this crate, and compared with the float64 reference and the CPU engine. Temperatures are powers of two, whose
//! inverses are exact in f32.

use infonce::losses::{Layout, RowRule, TABLE};
use infonce::reference::{self, Dense};
use infonce::{
    Contrast, CpuEngine, Engine, Error, Gradients, Inputs, KMeans, Matrix, Positives, Prototypes,
    Rows, RowsMut, View,
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

/// z; q and k; q, own_key and queue.
fn inputs<V: View>(matrices: &[V], positives: Positives<V::Indices>) -> Inputs<V> {
    match *matrices {
        [z] => Inputs::Shared { z },
        [q, k] => Inputs::Pair { q, k, positives },
        [q, own_key, queue] => Inputs::Queue { q, own_key, queue },
        _ => unreachable!("one to three matrices"),
    }
}

/// Loss, dq and dk of the CPU engine.
fn on_cpu(
    contrast: &Contrast,
    matrices: &[Dense],
    positives: Positives<&[u32]>,
) -> Result<(f32, Vec<f32>, Vec<f32>), Error> {
    let numbers: Vec<Vec<f32>> = matrices.iter().map(narrow).collect();
    let dim = (&matrices[0]).dim();
    let views: Result<Vec<_>, Error> = numbers
        .iter()
        .map(|x| Rows::new(x, x.len() / dim, dim))
        .collect();
    let problem = contrast.on(inputs(&views?, positives))?;
    let shape = problem.shape();
    let mut dq = vec![f32::NAN; shape.anchors * dim];
    let mut dk = vec![f32::NAN; shape.candidates * dim];
    let has_dk = contrast.has_dk();
    let gradients = Gradients::new(
        RowsMut::new(&mut dq, shape.anchors, dim)?,
        match has_dk {
            true => Some(RowsMut::new(&mut dk, shape.candidates, dim)?),
            false => None,
        },
    );
    let value = CpuEngine::new().value_and_grad(&problem, 1.0, gradients)?;
    Ok((value.loss, dq, if has_dk { dk } else { Vec::new() }))
}

fn in_float64(
    contrast: &Contrast,
    matrices: &[Dense],
    positives: Positives<&[u32]>,
) -> Result<reference::Reference, Error> {
    let views: Vec<&Dense> = matrices.iter().collect();
    let problem = contrast.on(inputs(&views, positives))?;
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

/// [`is_published_for`] positives on the diagonal.
fn is_published(
    contrast: &Contrast,
    matrices: &[Dense],
    formula: impl Fn(&[Dense]) -> f64,
) -> Test {
    is_published_for(contrast, matrices, Positives::DIAGONAL, formula)
}

/// Reference and engine have the formula's value, and its derivatives by central differences.
fn is_published_for(
    contrast: &Contrast,
    matrices: &[Dense],
    positives: Positives<&[u32]>,
    formula: impl Fn(&[Dense]) -> f64,
) -> Test {
    const STEP: f64 = 1e-5;
    let what = contrast.name();
    let expected = formula(matrices);
    let reference = in_float64(contrast, matrices, positives)?;
    let (loss, dq, dk) = on_cpu(contrast, matrices, positives)?;
    assert_near([reference.loss].into_iter(), &[expected], 1e-12, what);
    assert_near([f64::from(loss)].into_iter(), &[expected], 1e-5, what);

    let derivatives = |which: usize| -> Vec<f64> {
        let at = |place: usize, step: f64| {
            let mut moved = matrices.to_vec();
            moved[which].as_mut_slice()[place] += step;
            formula(&moved)
        };
        let places = 0..matrices[which].as_slice().len();
        places
            .map(|place| (at(place, STEP) - at(place, -STEP)) / (2.0 * STEP))
            .collect()
    };
    let wide = |numbers: &[f32]| -> Vec<f64> { numbers.iter().map(|&x| f64::from(x)).collect() };
    let of_dq = derivatives(0);
    assert_near(reference.dq.as_slice().iter().copied(), &of_dq, 1e-7, what);
    assert_near(wide(&dq).into_iter(), &of_dq, 1e-5, what);
    if let Some(reference_dk) = reference.dk {
        let of_dk = derivatives(1);
        assert_near(reference_dk.as_slice().iter().copied(), &of_dk, 1e-7, what);
        assert_near(wide(&dk).into_iter(), &of_dk, 1e-5, what);
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
        let value = in_float64(&contrast, &pair, Positives::DIAGONAL)?;
        assert!(value.dk.is_none(), "keys have no gradient");
        total += value.loss;
    }
    let expected = ctr(&q1, &k2) + ctr(&q2, &k1);
    assert_near([total].into_iter(), &[expected], 1e-12, "both ways");
    Ok(())
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
        let positives = Positives::Index(&examples[..]);
        is_published_for(&contrast, &matrices, positives, |of| {
            let logit = |i, j| dot(of[0].row(i), of[1].row(j)) / f64::from(tau);
            cross_entropy(&examples, logit, 9)
        })?;
        let value = in_float64(&contrast, &matrices, positives)?;
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
        let positives = Positives::Index(&clusters[..]);
        let of_float = |of: &[Dense]| proto_nce(&of[0], &clusters, &found, f64::from(tau));
        // The rows of k are rounded to f32 after they are scaled, and the formula's φ is not.
        let reference = in_float64(&contrast, &matrices, positives)?;
        let expected = of_float(&matrices);
        assert_near([reference.loss].into_iter(), &[expected], 1e-6, "pcl");
        assert!(reference.dk.is_none(), "prototypes have no gradient");
        // On the rounded rows themselves it is exact.
        is_published_for(&contrast, &matrices, positives, |of| {
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
    let both = in_float64(&contrast, &both, Positives::Index(&[2, 2]))?;
    let mut alone = 0.0;
    for i in 0..2 {
        let row = Dense::from_fn(1, 6, |_, d| q.row(i)[d]);
        let value = in_float64(&contrast, &[row, k.clone()], Positives::Index(&[2]))?;
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
        for rest in [1e-2, 1e-4, 1e-6, 1e-8] {
            let mut rng = ChaCha8Rng::seed_from_u64(11);
            // Each pair has a direction of its own: z₊ = ln(negatives/rest), z⁻ near 0.
            let (rows, first_of_queue) = match contrast.layout() {
                Layout::Shared => (vec![2 * pairs], 0),
                Layout::Pair => (vec![pairs; 2], 0),
                Layout::Queue => (vec![pairs; 3], pairs),
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
            let expected = in_float64(&contrast, &matrices, Positives::DIAGONAL)?;
            let wide = |x: Vec<f32>| x.into_iter().map(f64::from);
            let (loss, dq, dk) = on_cpu(&contrast, &matrices, Positives::DIAGONAL)?;
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
    }
    for loss in TABLE {
        let text = message((loss.at)(0.0));
        assert!(text.starts_with("`temperature` is 0; "), "{text}");
    }
}
