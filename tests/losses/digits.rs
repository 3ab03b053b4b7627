//! Digits of 1 − p₊, and the ranges of hyper-parameters.

use super::*;

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
            let (loss, [dq, dk, _]) = on_cpu(&contrast, &matrices, &given)?;
            assert_near(&wide(&[loss]), &[expected.loss], 1e-5, &what);
            assert_near(&wide(&dq), expected.dq.as_slice(), 1e-5, &what);
            let expected_dk = expected.dk.as_ref().map_or(&[][..], Dense::as_slice);
            assert_near(&wide(&dk), expected_dk, 1e-5, &what);
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
