//! Uniformity, alignment and deviation by their definitions.

use super::*;

/// ln mean_{i≠j} exp(−2‖x_i − x_j‖²).
fn plain_uniformity(x: &[Vec<f64>]) -> f64 {
    let mut sum = 0.0;
    for (i, x_i) in x.iter().enumerate() {
        for (_, x_j) in x.iter().enumerate().filter(|&(j, _)| j != i) {
            let squares = x_i.iter().zip(x_j).map(|(a, b)| (a - b).powi(2));
            sum += (-2.0 * squares.sum::<f64>()).exp();
        }
    }
    (sum / (x.len() * (x.len() - 1)) as f64).ln()
}

#[test]
fn uniformity_equals_the_mean_over_all_pairs() -> Test {
    on_engines!(equals_the_mean_over_all_pairs)
}

fn equals_the_mean_over_all_pairs(engine: &impl Engine<Memory = HostMemory>) -> Test {
    fn check<T: Element>(engine: &impl Engine<Memory = HostMemory>, x: &[f32]) -> Test {
        let x: Vec<T> = x.iter().map(|&x| T::from_f32(x)).collect();
        let expected = plain_uniformity(&unit(rows(&x, DIM)));
        near(
            uniformity(engine, rows(&x, DIM))?,
            expected,
            5e-6,
            "uniformity",
        );
        Ok(())
    }
    let mut x = random(67 * DIM, 21);
    check::<f32>(engine, &x)?;
    check::<f16>(engine, &x)?;
    check::<bf16>(engine, &x)?;
    // Rows of zeros are one point, at the centre.
    x[..DIM].fill(0.0);
    x[5 * DIM..7 * DIM].fill(0.0);
    check::<f32>(engine, &x)?;
    for (points, expected, what) in [
        (&[3.0f32, 4.0].repeat(9)[..], 0.0, "one point"),
        (&[0.0; 6][..], 0.0, "zeros"),
        (&[1.0, 0.0, -2.0, 0.0][..], -8.0, "opposite points"),
        (&[0.5, 0.0, 0.0, 4.0][..], -4.0, "orthogonal points"),
    ] {
        near(uniformity(engine, rows(points, 2))?, expected, 5e-6, what);
    }
    let one = uniformity(engine, rows(&x[..DIM], DIM));
    assert!(matches!(one, Err(Error::Scalar { given: 1.0, .. })));
    x[8 * DIM] = f32::NAN;
    let broken = uniformity(engine, rows(&x, DIM));
    assert_eq!(
        broken,
        Err(Error::NotFinite {
            argument: "x",
            row: 8
        })
    );
    Ok(())
}

#[test]
fn alignment_is_the_mean_squared_distance_of_pairs() -> Test {
    let (x, y) = (random(9 * DIM, 23), random(9 * DIM, 24));
    let (of_x, of_y) = (unit(rows(&x, DIM)), unit(rows(&y, DIM)));
    let distance = |i: usize| 2.0 - 2.0 * product(&of_x[i], &of_y[i]);
    let expected = (0..9).map(distance).sum::<f64>() / 9.0;
    let found = alignment(rows(&x, DIM), rows(&y, DIM))?;
    near(found, expected, 1e-12, "alignment");
    let opposite: Vec<f32> = x.iter().map(|x| -2.0 * x).collect();
    near(
        alignment(rows(&x, DIM), rows(&opposite, DIM))?,
        4.0,
        1e-12,
        "opposite",
    );
    assert_eq!(alignment(rows(&x, DIM), rows(&x, DIM))?, 0.0);
    let fewer = alignment(rows(&x, DIM), rows(&y[DIM..], DIM));
    assert!(matches!(fewer, Err(Error::Rows { argument: "y", .. })));
    let narrower = alignment(rows(&x, DIM), rows(&y[..9], 1));
    assert!(matches!(
        narrower,
        Err(Error::Dimension { argument: "y", .. })
    ));
    let mut broken = y.clone();
    broken[3 * DIM] = f32::NEG_INFINITY;
    let found = alignment(rows(&x, DIM), rows(&broken, DIM));
    assert_eq!(
        found,
        Err(Error::NotFinite {
            argument: "y",
            row: 3
        })
    );
    Ok(())
}

#[test]
fn deviation_is_1_over_the_sphere_and_0_at_a_point() -> Test {
    fn check<T: Element>(x: &[f32]) -> Test {
        let x: Vec<T> = x.iter().map(|&x| T::from_f32(x)).collect();
        let unit = unit(rows(&x, DIM));
        let n = unit.len() as f64;
        let column = |d: usize| {
            let mean = unit.iter().map(|row| row[d]).sum::<f64>() / n;
            let squares = unit.iter().map(|row| (row[d] - mean).powi(2));
            (squares.sum::<f64>() / n).sqrt()
        };
        let total: f64 = (0..DIM).map(column).sum();
        near(
            deviation(rows(&x, DIM))?,
            total / (DIM as f64).sqrt(),
            1e-12,
            "deviation",
        );
        Ok(())
    }
    let x = random(31 * DIM, 27);
    check::<f32>(&x)?;
    check::<f16>(&x)?;
    check::<bf16>(&x)?;
    let mut axes = vec![0.0f32; 2 * DIM * DIM];
    for (i, row) in axes.chunks_mut(DIM).enumerate() {
        row[i / 2] = [3.0, -1.0][i % 2];
    }
    near(
        deviation(rows(&axes, DIM))?,
        1.0,
        1e-12,
        "both ends of all axes",
    );
    near(
        deviation(rows(&[0.6f32, 0.8].repeat(7), 2))?,
        0.0,
        1e-12,
        "one point",
    );
    let broken = deviation(rows(&[1.0f32, 0.0, f32::NAN, 0.0], 2));
    assert_eq!(
        broken,
        Err(Error::NotFinite {
            argument: "x",
            row: 1
        })
    );
    Ok(())
}
