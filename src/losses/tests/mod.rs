//! Compares `docs/losses.md` with the table of losses, and the row rules with their formulas.

use std::path::Path;

use super::*;
use crate::{Miner, Triplet};

/// The text of `docs/losses.md` for [`TABLE`].
fn document() -> String {
    let mut text = String::from(
        "# The losses\n\n\
         This page is `infonce::losses::TABLE`; a test compares the two. z₊ is the positive's logit, lse⁻ the log-sum-exp of \
         the m negatives' logits, s = 1/τ. P is a row's set of positives, *all* are positives and negatives. Hyper-parameters: \
         q, λ of RINCE, τ⁺ of debiased, β of hard negatives, σ of DCLW, margin (logits). The \
         loss is the mean over rows, of ContraD over those that have a positive; with *rows and columns*, half the sum of \
         both means. Every engine computes each loss in f32, f16 and bf16. `Contrast::with_rule` combines a formula with other \
         inputs, such as DCL with a queue; it refuses sets and two exponents where columns have a loss, and sets with a \
         queue.\n\n\
         | loss | key | a row's loss | inputs | gradients | default τ | source |\n\
         |---|---|---|---|---|---:|---|\n",
    );
    for loss in TABLE {
        let contrast = (loss.at)(loss.temperature).unwrap();
        let inputs = match (contrast.layout(), contrast.has_columns()) {
            (layout, true) => format!("`{layout:?}`, rows and columns"),
            (layout, false) => format!("`{layout:?}`"),
        };
        let gradients = match (contrast.is_shared(), contrast.has_dk()) {
            (true, _) => "dz, ds",
            (false, true) => "dq, dk, ds",
            (false, false) => "dq, ds",
        };
        text += &format!(
            "| {} | `{}` | {} | {inputs} | {gradients} | {} | {} |\n",
            loss.name, loss.key, loss.formula, loss.temperature, loss.source,
        );
    }
    text += &format!(
        "\nThe triplet loss max(0, margin + ‖q − k₊‖² − ‖q − k₋‖²) (`Triplet`; FaceNet, Schroff et al. 2015, section 3.1) is no \
         contrast but a verb of its own, on given positives and negatives: default margin {}, mean over the anchors, gradients \
         dq, dk. `semi_hard` selects its negatives from the engine's top-k. `Miner` draws negatives for any loss from the \
         {} hardest (ANCE, Xiong et al. 2021).\n",
        Triplet::MARGIN,
        Miner::DEPTH,
    );
    text
}

/// `INFONCE_WRITE_DOCS=1` writes `docs/losses.md` first.
#[test]
fn the_page_of_losses_is_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/losses.md");
    if std::env::var_os("INFONCE_WRITE_DOCS").is_some() {
        std::fs::write(&path, document()).unwrap();
    }
    // The published package has no `docs/`.
    if path.parent().unwrap().exists() {
        assert_eq!(std::fs::read_to_string(&path).unwrap(), document());
    }
}

#[test]
fn keys_are_unique_and_found() {
    for loss in TABLE {
        assert_eq!(Loss::of(loss.key).unwrap().name, loss.name);
        assert_eq!((loss.at)(loss.temperature).unwrap().name(), loss.name);
    }
    assert!(Loss::of("no loss").is_none());
}

/// The rules of the table, and those of its options, each with its name and scale.
fn rules() -> Vec<(&'static str, RowRule, f64)> {
    let of_loss = |loss: &Loss| {
        let contrast = (loss.at)(loss.temperature).unwrap();
        (loss.key, contrast.rule(), f64::from(contrast.scale()))
    };
    let sets = |form, smoothing| RowRule::Sets { form, smoothing };
    let others = [
        ("smoothing", sets(SetForm::MeanOutside, 0.1), 10.0),
        ("decoupled sets", sets(SetForm::Decoupled, 0.0), 10.0),
    ];
    TABLE.iter().map(of_loss).chain(others).collect()
}

/// [`RowRule::values`] against the papers' formulas and their derivatives, which share no code with it.
#[test]
fn masses_are_the_formulas_derivatives() {
    let mut clamped = [0, 0];
    for (name, rule, scale) in rules() {
        for step in -100..=100 {
            let z = 2.5;
            let lse = z + 0.25 * f64::from(step);
            let row = RowContext {
                scale,
                negatives: 37.0,
                log_mean: 0.7,
            };
            let logits = RowLogits {
                // A set's log-sum-exp is above its mean; the second of two exponents is smaller.
                second_lse: match rule.takes_sets() {
                    true => z + 1.5,
                    false => 0.4 * lse + 1.0,
                },
                negatives_mean: -0.7,
                positives: 3.0,
                negatives: 37.0,
                ..RowLogits::new(lse, z)
            };
            let found = rule.values(&logits, &row);
            let dual = rule.formula(
                &RowLogits {
                    negatives_lse: Dual::variable(lse, 0),
                    positive: Dual::variable(z, 1),
                    second_lse: Dual::variable(logits.second_lse, 3),
                    negatives_mean: Dual::variable(logits.negatives_mean, 4),
                    positives: logits.positives,
                    negatives: logits.negatives,
                },
                Dual::variable(scale, 2),
                &row,
            );
            let [a, minus_c, slope, of_second, of_mean] = dual.slopes;
            let [first, second] = rule.exponents().unwrap_or([1.0; 2]);
            let second_weights = rule.second_sign() * (logits.second_lse - found.second).exp();
            let positives = if rule.takes_sets() { 3.0 } else { 1.0 };
            // Weights of single logits, not of the row's summaries.
            if rule.is_pointwise() || rule.target_scale().is_some() {
                let off = (found.value - dual.value).abs();
                assert!(
                    off <= 1e-12 * dual.value.abs(),
                    "{name} at {lse}: {found:?}"
                );
                continue;
            }
            for (what, found, expected) in [
                ("value", found.value, dual.value),
                ("a", found.negatives, a),
                ("c", positives * (found.positive + found.uniform), -minus_c),
                ("scale", found.scale, slope),
                ("weights", (lse - found.offset).exp(), first * a),
                ("second weights", second_weights, second * of_second),
                ("uniform", 37.0 * found.uniform, -of_mean),
            ] {
                // Where c is a difference, it has the absolute error of its terms.
                let allowed = 1e-12 * expected.abs() + 1e-14 * dual.value.abs();
                let off = (found - expected).abs();
                let is_near = off <= allowed;
                assert!(is_near, "{name} {what} at {lse}: {found}, not {expected}");
            }
            if rule.counts_negatives() {
                clamped[usize::from(found.negatives == 0.0)] += 1;
            }
        }
    }
    assert!(clamped.iter().all(|&count| count > 10), "{clamped:?}");
}

#[test]
fn one_minus_p_of_1e_8_keeps_its_digits() {
    for (name, rule, scale) in rules() {
        let row = RowContext::new(rule, scale, 37, std::iter::empty());
        let u: f64 = 1e-8;
        let z = 1.0;
        let lse = z + u.ln();
        let logits = RowLogits {
            // A set of one positive; the mean of 37 weights e^{βz}.
            second_lse: if rule.takes_sets() { z } else { 37f64.ln() },
            ..RowLogits::new(lse, z)
        };
        let values = rule.values(&logits, &row);
        // The first order in u = e^{lse⁻ − z₊}; the second is 10⁻⁸ of it.
        let (value, a) = match rule {
            RowRule::Softmax { margin } => {
                let u = u * f64::from(margin).exp();
                (u.ln_1p(), u / (1.0 + u))
            }
            RowRule::Sets {
                form: SetForm::MeanOutside | SetForm::MeanInside,
                smoothing: 0.0,
            } => (u.ln_1p(), u / (1.0 + u)),
            RowRule::Decoupled { sigma: None } => (lse - z, 1.0),
            RowRule::Robust { q, lambda } => {
                let (q, lambda) = (f64::from(q), f64::from(lambda));
                let power = (lambda * z.exp()).powf(q);
                ((power * (1.0 + q * u) - (q * z).exp()) / q, power * u)
            }
            // The share of positives is above 1, so the bound holds.
            RowRule::Debiased { .. } | RowRule::HardNegatives { .. } => {
                ((1.0 + 37.0 * (-row.scale - z).exp()).ln(), 0.0)
            }
            _ => continue,
        };
        let near = |found: f64, expected: f64| (found - expected).abs() <= 2e-7 * expected.abs();
        assert!(near(values.value, value), "{name} {values:?} {value}");
        assert!(near(values.negatives, a), "{name} {values:?} {a}");
    }
}

#[test]
fn a_row_without_negatives_or_positive_is_0() {
    for (name, rule, _) in rules() {
        let row = RowContext::new(rule, 2.0, 3, std::iter::empty());
        let logits = |lse: f64, z: f64| RowLogits {
            second_lse: if rule.takes_sets() { z } else { 0.5 * lse },
            ..RowLogits::new(lse, z)
        };
        for (lse, z) in [
            (f64::NEG_INFINITY, 1.0),
            (1.0, f64::NEG_INFINITY),
            (f64::NEG_INFINITY, f64::NEG_INFINITY),
        ] {
            // The positives of a set compete with each other, and other rules need no negatives, or no positive.
            if (!rule.needs_negatives() && z == 1.0) || !rule.needs_positive() {
                continue;
            }
            let values = rule.values(&logits(lse, z), &row);
            let masses = [values.negatives, values.positive, values.scale];
            let masses = [masses[0], masses[1], masses[2], values.uniform];
            assert_eq!((values.value, masses), (0.0, [0.0; 4]), "{name}");
            // exp(z − o) is not NaN for the logits of such a row.
            assert!(!(lse - values.offset).exp().is_nan(), "{name}");
            assert_eq!((1.0 - values.second).exp(), 0.0, "{name}");
        }
        // A rule without negatives has no lse⁻; a pointwise rule's z₊ enters by its terms.
        if rule.is_alignment() || rule.is_pointwise() {
            continue;
        }
        for (lse, z) in [
            (f64::NAN, 1.0),
            (1.0, f64::NAN),
            (f64::NAN, f64::NEG_INFINITY),
        ] {
            let logits = logits(lse, z);
            let dual = RowLogits {
                negatives_lse: Dual::constant(lse),
                positive: Dual::constant(z),
                second_lse: Dual::constant(logits.second_lse),
                negatives_mean: Dual::constant(0.0),
                positives: 1.0,
                negatives: 1.0,
            };
            let formula = rule.formula(&dual, Dual::constant(row.scale), &row);
            let value = rule.values(&logits, &row).value;
            assert!(value.is_nan() && formula.value.is_nan(), "{name}");
        }
    }
}

#[test]
fn a_set_of_one_has_the_weights_of_a_softmax() {
    let row = RowContext::new(RowRule::SOFTMAX, 2.0, 3, std::iter::empty());
    for step in -40..=40 {
        let (z, lse) = (1.5, 1.5 + 0.5 * f64::from(step));
        let sigma = 1.0 / (1.0 + (z - lse).exp());
        for (form, smoothing) in [
            (SetForm::MeanOutside, 0.0),
            (SetForm::MeanOutside, 0.25),
            (SetForm::MeanInside, 0.0),
        ] {
            let rule = RowRule::Sets {
                form,
                smoothing: smoothing as f32,
            };
            let logits = RowLogits {
                second_lse: z,
                negatives_mean: -1.0,
                negatives: 3.0,
                ..RowLogits::new(lse, z)
            };
            let values = rule.values(&logits, &row);
            let exponential = rule.second_sign() * (z - values.second).exp();
            let found = exponential - values.positive - values.uniform;
            // p₊ − 1 + ε − ε/4, and softplus(lse⁻ − z₊) − ε·(mean of all − z₊).
            let expected = -sigma + smoothing * 0.75;
            let value = (1.0 + (lse - z).exp()).ln() + smoothing * 0.75 * (z + 1.0);
            assert!(
                (found - expected).abs() <= 1e-15 * (sigma + smoothing),
                "{form:?} {found}"
            );
            assert!(
                (values.value - value).abs() <= 1e-14 * (1.0 + value),
                "{form:?} {values:?}"
            );
            assert!(
                (values.negatives - sigma).abs() <= 1e-15 * sigma,
                "{form:?} {values:?}"
            );
        }
    }
}

#[test]
fn a_set_without_negatives_has_the_loss_of_its_positives() {
    let row = RowContext::new(RowRule::SOFTMAX, 2.0, 3, std::iter::empty());
    // Two positives at 0 and ln 3: log Σ = ln 4, mean ln 3 / 2, mean of exponentials 2.
    let logits = RowLogits {
        second_lse: 4f64.ln(),
        positives: 2.0,
        ..RowLogits::new(f64::NEG_INFINITY, 3f64.ln() / 2.0)
    };
    for (form, expected) in [
        (SetForm::MeanOutside, 4f64.ln() - 3f64.ln() / 2.0),
        (SetForm::MeanInside, 2f64.ln()),
        (SetForm::Decoupled, 0.0),
    ] {
        let rule = RowRule::Sets {
            form,
            smoothing: 0.0,
        };
        let value = rule.values(&logits, &row).value;
        assert!((value - expected).abs() < 1e-15, "{form:?}: {value}");
    }
}
