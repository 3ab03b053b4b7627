//! Losses of one positive a row.

use super::*;

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
    assert_near(&[total], &[expected], 1e-12, "both ways");
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
        assert_near(&dw.collect::<Vec<_>>(), &expected, 1e-7, "dW of an offset");
    }
    assert_near(&[loss], &[formula(&weights)], 1e-12, "CPC");
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
        assert_near(&wide(&found), &expected, 1e-5, "L2 term");
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
