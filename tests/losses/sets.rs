//! Losses of sets of positives, hard negatives and smoothed targets.

use super::*;

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
