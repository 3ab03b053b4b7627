//! Compares `docs/losses.md` with the table of losses, and the row rules with their formulas.

use std::path::Path;

use super::*;
use crate::{Miner, Triplet};

/// The text of `docs/losses.md` for [`TABLE`].
fn document() -> String {
    let mut text = String::from(
        "# The losses\n\n\
         This page is `infonce::losses::TABLE`; a test compares the two. z₊ is the positive's logit, lse⁻ the log-sum-exp of \
         the m negatives' logits, s = 1/τ. Hyper-parameters: q, λ of RINCE, τ⁺ of debiased, σ of DCLW, margin (logits). The \
         loss is the mean over rows; with *rows and columns*, half the sum of both means. Every engine computes each loss in \
         f32, f16 and bf16. `Contrast::with_rule` combines any formula with any inputs, such as DCL with a queue.\n\n\
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

/// [`RowRule::values`] against the papers' formulas and their derivatives, which share no code with it.
#[test]
fn masses_are_the_formulas_derivatives() {
    let mut clamped = [0, 0];
    for loss in TABLE {
        let contrast = (loss.at)(loss.temperature).unwrap();
        let rule = contrast.rule();
        for step in -100..=100 {
            let (z, scale) = (2.5, f64::from(contrast.scale()));
            let lse = z + 0.25 * f64::from(step);
            let row = RowContext {
                scale,
                negatives: 37.0,
                log_mean: 0.7,
            };
            let found = rule.values(lse, z, &row);
            let dual = rule.formula(
                Dual::variable(lse, 0),
                Dual::variable(z, 1),
                Dual::variable(scale, 2),
                &row,
            );
            let [a, minus_c, slope] = dual.slopes;
            for (what, found, expected) in [
                ("value", found.value, dual.value),
                ("a", found.negatives, a),
                ("c", found.positive, -minus_c),
                ("scale", found.scale, slope),
                ("weights", (lse - found.offset).exp(), a),
            ] {
                // Where c is a difference, it has the absolute error of its terms.
                let allowed = 1e-12 * expected.abs() + 1e-14 * dual.value.abs();
                let name = format!("{} {what} at {lse}", loss.key);
                let off = (found - expected).abs();
                assert!(off <= allowed, "{name}: {found}, not {expected}");
            }
            if rule.depends_on_scale() {
                clamped[usize::from(found.negatives == 0.0)] += 1;
            }
        }
    }
    assert!(clamped.iter().all(|&count| count > 10), "{clamped:?}");
}

#[test]
fn one_minus_p_of_1e_8_keeps_its_digits() {
    for loss in TABLE {
        let contrast = (loss.at)(loss.temperature).unwrap();
        let scale = f64::from(contrast.scale());
        let row = RowContext::new(contrast.rule(), scale, 37, std::iter::empty());
        let u: f64 = 1e-8;
        let z = 1.0;
        let lse = z + u.ln();
        let values = contrast.rule().values(lse, z, &row);
        // The first order in u = e^{lse⁻ − z₊}; the second is 10⁻⁸ of it.
        let (value, a) = match contrast.rule() {
            RowRule::Softmax { margin } => {
                let u = u * f64::from(margin).exp();
                (u.ln_1p(), u / (1.0 + u))
            }
            RowRule::Decoupled { sigma: None } => (lse - z, 1.0),
            RowRule::Robust { q, lambda } => {
                let (q, lambda) = (f64::from(q), f64::from(lambda));
                let power = (lambda * z.exp()).powf(q);
                ((power * (1.0 + q * u) - (q * z).exp()) / q, power * u)
            }
            // The share of positives is above 1, so the bound holds.
            RowRule::Debiased { .. } => ((1.0 + 37.0 * (-row.scale - z).exp()).ln(), 0.0),
            _ => continue,
        };
        let near = |found: f64, expected: f64| (found - expected).abs() <= 2e-7 * expected.abs();
        assert!(near(values.value, value), "{} {values:?} {value}", loss.key);
        assert!(near(values.negatives, a), "{} {values:?} {a}", loss.key);
    }
}

#[test]
fn a_row_without_negatives_or_positive_is_0() {
    for loss in TABLE {
        let contrast = (loss.at)(loss.temperature).unwrap();
        let row = RowContext::new(contrast.rule(), 2.0, 3, std::iter::empty());
        for (lse, z) in [
            (f64::NEG_INFINITY, 1.0),
            (1.0, f64::NEG_INFINITY),
            (f64::NEG_INFINITY, f64::NEG_INFINITY),
        ] {
            let values = contrast.rule().values(lse, z, &row);
            let masses = [values.negatives, values.positive, values.scale];
            assert_eq!((values.value, masses), (0.0, [0.0; 3]), "{}", loss.key);
            // exp(z − o) is not NaN for the logits of such a row.
            assert!(!(lse - values.offset).exp().is_nan(), "{}", loss.key);
        }
        for (lse, z) in [
            (f64::NAN, 1.0),
            (1.0, f64::NAN),
            (f64::NAN, f64::NEG_INFINITY),
        ] {
            let [lse_dual, z_dual, scale] = [lse, z, row.scale].map(Dual::constant);
            let formula = contrast.rule().formula(lse_dual, z_dual, scale, &row);
            let value = contrast.rule().values(lse, z, &row).value;
            assert!(value.is_nan() && formula.value.is_nan(), "{}", loss.key);
        }
    }
}
