//! Sets of positives, exclusions, weights and biases.

use infonce::losses::Loss;
use infonce::{NO_ID, Reduction};

use super::*;

pub(super) fn promises<E: Engine>() -> [(&'static str, Promise<E>); 11] {
    [
        (
            "labels all distinct are loss 0 and gradient 0",
            distinct_labels,
        ),
        (
            "labels all equal, and a row of zeros, are finite",
            equal_labels,
        ),
        ("positives of sets lie in any layout", sets_in_any_layout),
        ("SupCon of two views is NT-Xent, for any base", two_views),
        ("an odd number of rows has labels", odd_rows),
        ("ids exclude the batch that a queue holds", queue_by_ids),
        ("two rows of one cluster share its prototype", one_cluster),
        ("an id that no row has excludes nothing", no_id),
        (
            "the positive stays though it has the anchor's id",
            positive_of_the_id,
        ),
        ("a row of weight 0 is a candidate alone", left_out),
        ("a false negative is guarded against", guarded),
    ]
}

/// SupCon's contrasts, L_out and L_in.
fn sup_con(temperature: f32) -> Result<[Contrast; 2], Error> {
    let inside = Loss::of("supcon_in").expect("a row of the table");
    Ok([Contrast::sup_con(temperature)?, (inside.at)(temperature)?])
}

/// Rows of one matrix with these labels.
fn labelled(contrast: Contrast, labels: &[u32]) -> Kind {
    Kind {
        positives: Positives::Labels {
            anchors: labels.to_vec(),
            candidates: labels.to_vec(),
        },
        ..Kind::new(contrast, &[labels.len()])
    }
}

/// The loss in type `T` is this, and all gradients are finite.
fn loss_is<E: Engine, T: Element>(
    engine: &E,
    kind: &Kind,
    matrices: &[Dense],
    expected: f64,
) -> Result<(), Error> {
    let what = format!("{} of {}", kind.name(), T::DTYPE);
    let reference = reference_of::<T>(kind, matrices)?.loss;
    assert_near(reference, expected, 1e-5, &format!("reference, {what}"));
    let value = evaluate::<E, T>(engine, kind, matrices)?;
    assert_near(value.loss, expected, 1e-5, &what);
    assert!(value.is_finite(), "{what}: {value:?}");
    Ok(())
}

/// Loss and gradients are exactly 0.
fn is_zero<E: Engine, T: Element>(
    engine: &E,
    kind: &Kind,
    matrices: &[Dense],
) -> Result<(), Error> {
    let value = evaluate::<E, T>(engine, kind, matrices)?;
    let what = format!("{} of {}", kind.name(), T::DTYPE);
    assert_eq!((value.loss, value.dscale), (0.0, 0.0), "{what}");
    let mut gradients = value.dq.iter().chain(&value.dk).chain(&value.dbias);
    assert!(gradients.all(|&x| x == 0.0), "{what}: {value:?}");
    Ok(())
}

fn distinct_labels<E: Engine>(new: New<E>) -> Result<(), Error> {
    let engine = &new()?;
    for reduction in [Reduction::Mean, Reduction::MeanOfPositives, Reduction::Sum] {
        for contrast in sup_con(0.07)? {
            let contrast = contrast.with_reduction(reduction);
            for labels in [[3, 1, 4, 5, 9], [NO_POSITIVE; 5]] {
                let kind = &labelled(contrast, &labels);
                let matrices = &kind.unit_rows(24, 40);
                in_all_types!(is_zero::<E>(engine, kind, matrices));
            }
        }
    }
    Ok(())
}

fn equal_labels<E: Engine>(new: New<E>) -> Result<(), Error> {
    let engine = &new()?;
    let equal = [Dense::from_fn(4, 2, |_, d| [0.6, 0.8][d])];
    let with_zeros = [matrix(&[[0.0, 0.0], [1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])];
    for contrast in sup_con(0.07)? {
        let kind = &labelled(contrast, &[2; 4]);
        // Every other row is a positive of the same logit: log 3 in both forms.
        in_all_types!(loss_is::<E>(engine, kind, &equal, 3f64.ln()));
        let expected = reference_of::<f32>(kind, &with_zeros)?.loss;
        assert!(expected.is_finite());
        loss_is::<E, f32>(engine, kind, &with_zeros, expected)?;
    }
    Ok(())
}

/// Anchors P, N, N, P, N, N: by labels, by lists and by index, in one matrix and in two.
fn sets_in_any_layout<E: Engine>(new: New<E>) -> Result<(), Error> {
    fn check<E: Engine, T: Element>(engine: &E) -> Result<(), Error> {
        for contrast in sup_con(0.5)? {
            let by_label = labelled(contrast, &[7, NO_POSITIVE, 1, 7, 2, 3]);
            let (of_p, none) = ([3, 0], NO_POSITIVE);
            let by_index = Kind {
                positives: Positives::Index(vec![of_p[0], none, none, of_p[1], none, none]),
                ..Kind::new(contrast, &[6])
            };
            let by_list = Kind {
                positives: Positives::Lists {
                    starts: vec![0, 1, 1, 1, 2, 2, 2],
                    candidates: of_p.to_vec(),
                },
                ..Kind::new(contrast, &[6])
            };
            let matrices = by_label.unit_rows(24, 41);
            let expected = reference_of::<T>(&by_label, &matrices)?;
            // Rows 0 and 3 alone have a loss, the softmax of each other's logit.
            let row = |i: usize, p: usize| {
                let wide: Vec<f64> = rounded::<T>(&matrices[0])
                    .iter()
                    .map(|x| f64::from(x.to_f32()))
                    .collect();
                let z = |j: usize| -> f64 {
                    let pairs = wide[24 * i..][..24].iter().zip(&wide[24 * j..]);
                    2.0 * pairs.map(|(x, y)| x * y).sum::<f64>()
                };
                let all: f64 = (0..6).filter(|&j| j != i).map(|j| z(j).exp()).sum();
                all.ln() - z(p)
            };
            assert_near(
                expected.loss,
                (row(0, 3) + row(3, 0)) / 6.0,
                1e-12,
                "by hand",
            );
            let value = evaluate::<E, T>(engine, &by_label, &matrices)?;
            assert_near(value.loss, expected.loss, 1e-5, &by_label.name());
            for other in [by_index, by_list] {
                assert_eq!(
                    evaluate::<E, T>(engine, &other, &matrices)?,
                    value,
                    "{}",
                    other.name()
                );
            }
        }
        Ok(())
    }
    let engine = &new()?;
    in_all_types!(check::<E>(engine));
    Ok(())
}

/// A multiplier τ/τ₀, as the paper's code has, is only there when asked for: as the upstream gradient.
fn two_views<E: Engine>(new: New<E>) -> Result<(), Error> {
    let engine = &new()?;
    let identical = [matrix(&[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])];
    for contrast in sup_con(0.5)? {
        loss_is::<E, f32>(
            engine,
            &labelled(contrast, &[0, 1, 0, 1]),
            &[super::two_views()],
            0.430190,
        )?;
    }
    for (temperature, expected) in [(1.0, 0.551445), (0.07, 1.24975e-6)] {
        for contrast in sup_con(temperature)? {
            let kind = &labelled(contrast, &[5, 2, 5, 2]);
            in_all_types!(loss_is::<E>(engine, kind, &identical, expected));
        }
    }
    Ok(())
}

fn odd_rows<E: Engine>(new: New<E>) -> Result<(), Error> {
    let engine = &new()?;
    let three = [matrix(&[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])];
    // At s = 1 rows 1 and 2 have logits 1 and 0: ln(1 + e⁻¹) each; row 0 is alone.
    let expected = 2.0 / 3.0 * (-1f64).exp().ln_1p();
    for contrast in sup_con(1.0)? {
        let kind = &labelled(contrast, &[0, 4, 4]);
        in_all_types!(loss_is::<E>(engine, kind, &three, expected));
    }
    Ok(())
}

fn queue_by_ids<E: Engine>(new: New<E>) -> Result<(), Error> {
    let engine = &new()?;
    let batch = matrix(&[[1.0, 0.0], [0.0, 1.0]]);
    let matrices = [batch.clone(), batch.clone(), batch];
    let kind = &Kind {
        ids: Some(Ids {
            anchors: vec![8, 9],
            candidates: vec![8, 9],
        }),
        ..Kind::new(Contrast::moco(0.5)?, &[2, 2, 2])
    };
    // The own key has logit 2, the other key of the queue 0: ln(1 + e⁻²).
    in_all_types!(loss_is::<E>(engine, kind, &matrices, 0.126_928));
    Ok(())
}

fn one_cluster<E: Engine>(new: New<E>) -> Result<(), Error> {
    let engine = &new()?;
    let rows = matrix(&[[1.0, 0.0], [0.75, 0.25]]);
    let prototypes = matrix(&[[1.0, 0.0], [0.0, 1.0]]);
    let info_nce = Contrast::info_nce(1.0)?;
    // Margins of 1 and 0.5 against the other prototype: ln(1 + e⁻¹) and ln(1 + e^−½).
    let expected = ((-1f64).exp().ln_1p() + (-0.5f64).exp().ln_1p()) / 2.0;
    let by_index = &Kind::by_index(info_nce, &[2, 2], vec![0, 0]);
    let matrices = [rows.clone(), prototypes];
    in_all_types!(loss_is::<E>(engine, by_index, &matrices, expected));
    // A prototype gathered once a row is its cluster's negative, unless ids exclude it.
    let gathered = matrix(&[[1.0, 0.0], [1.0, 0.0]]);
    let cluster = vec![3, 3];
    let by_id = &Kind {
        ids: Some(Ids {
            anchors: cluster.clone(),
            candidates: cluster,
        }),
        ..Kind::new(info_nce, &[2, 2])
    };
    let matrices = [rows, gathered];
    in_all_types!(is_zero::<E>(engine, by_id, &matrices));
    Ok(())
}

fn no_id<E: Engine>(new: New<E>) -> Result<(), Error> {
    let engine = &new()?;
    let plain = Kind::new(Contrast::info_nce(0.5)?, &[6, 9]);
    let matrices = plain.unit_rows(24, 42);
    let expected = reference_of::<f32>(&plain, &matrices)?.loss;
    for anchors in [vec![NO_ID; 6], vec![1, 2, 3, 4, 5, NO_ID]] {
        let kind = &Kind {
            ids: Some(Ids {
                anchors,
                candidates: vec![NO_ID; 9],
            }),
            ..Kind::new(plain.contrast, &[6, 9])
        };
        loss_is::<E, f32>(engine, kind, &matrices, expected)?;
    }
    Ok(())
}

fn positive_of_the_id<E: Engine>(new: New<E>) -> Result<(), Error> {
    let engine = &new()?;
    let q = matrix(&[[1.0, 0.0]]);
    let k = matrix(&[[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]);
    let kind = &Kind {
        ids: Some(Ids {
            anchors: vec![4],
            candidates: vec![4, 4, 6],
        }),
        ..Kind::new(Contrast::info_nce(1.0)?, &[1, 3])
    };
    // Of logits 1, ½ and 0 the second is excluded: ln(1 + e⁻¹).
    let matrices = [q, k];
    in_all_types!(loss_is::<E>(engine, kind, &matrices, (-1f64).exp().ln_1p()));
    Ok(())
}

fn left_out<E: Engine>(new: New<E>) -> Result<(), Error> {
    let engine = &new()?;
    let labels = [0, 1, 0, 1, 1];
    for contrast in sup_con(0.5)? {
        let whole = labelled(contrast.with_reduction(Reduction::Sum), &labels);
        let matrices = whole.unit_rows(24, 43);
        let losses = reference_of::<f32>(&whole, &matrices)?.rows.loss;
        let weights = vec![1.0, 0.0, 0.5, 0.0, 2.0];
        let expected: f64 = losses
            .iter()
            .zip(&weights)
            .map(|(x, &w)| x * f64::from(w))
            .sum();
        let kind = &Kind {
            weights: Some(weights.clone()),
            ..labelled(whole.contrast, &labels)
        };
        loss_is::<E, f32>(engine, kind, &matrices, expected)?;
        // Three rows have a weight, and all have a positive.
        let mean = &Kind {
            weights: Some(weights),
            ..labelled(contrast.with_reduction(Reduction::MeanOfPositives), &labels)
        };
        loss_is::<E, f32>(engine, mean, &matrices, expected / 3.0)?;
    }
    // Without a loss of its own a row of q has no gradient.
    let kind = Kind {
        weights: Some(vec![1.0, 0.0, 1.0]),
        ..Kind::new(Contrast::info_nce(0.5)?, &[3, 4])
    };
    let value = evaluate::<E, f32>(engine, &kind, &kind.unit_rows(8, 44))?;
    assert!(value.dq[8..16].iter().all(|&x| x == 0.0), "{:?}", value.dq);
    assert!(value.dq[..8].iter().all(|&x| x != 0.0), "{:?}", value.dq);
    Ok(())
}

fn guarded<E: Engine>(new: New<E>) -> Result<(), Error> {
    let engine = &new()?;
    let q = matrix(&[[1.0, 0.0]]);
    // Similarities 0.5, 0.75, 0.25 and 0 with the positive first.
    let k = matrix(&[[0.5, 0.5], [0.75, 0.0], [0.25, 1.0], [0.0, 1.0]]);
    let e = |logit: f64| logit.exp();
    for (margin, below) in [
        // At most 0.5; at most 0.125; at most 1.
        (0.0, e(-0.5) + e(-1.0)),
        (0.375, e(-1.0)),
        (-0.5, e(0.5) + e(-0.5) + e(-1.0)),
    ] {
        let contrast = Contrast::info_nce(0.5)?.with_guard(margin)?;
        let kind = &Kind::new(contrast, &[1, 4]);
        let matrices = [q.clone(), k.clone()];
        in_all_types!(loss_is::<E>(engine, kind, &matrices, below.ln_1p()));
    }
    Ok(())
}
