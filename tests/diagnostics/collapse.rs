//! Effective rank of known singular values, and the verdict of each kind of collapse.

use super::*;

/// ±1: the parity of the bits that both have. Rows and columns of Hadamard's matrix are orthogonal.
fn hadamard(i: usize, j: usize) -> f32 {
    [1.0, -1.0][(i & j).count_ones() as usize % 2]
}

/// 32 × 16, U·diag(d)·Vᵀ of orthogonal U and V: singular values in the ratios of d, exact in bf16 for small powers of 2.
fn with_singular_values(d: &[f32]) -> Vec<f32> {
    let at = |i: usize, j: usize| -> f32 {
        let terms = d.iter().enumerate();
        terms
            .map(|(k, d)| hadamard(i, k) * d * hadamard(j, k))
            .sum()
    };
    (0..32 * DIM)
        .map(|place| at(place / DIM, place % DIM))
        .collect()
}

#[test]
fn effective_rank_is_that_of_known_singular_values() -> Test {
    fn check<T: Element>(d: &[f32], what: &str) -> Test {
        let x: Vec<T> = with_singular_values(d)
            .iter()
            .map(|&x| T::from_f32(x))
            .collect();
        let total: f64 = d.iter().map(|&d| f64::from(d)).sum();
        let all = d.iter().chain(std::iter::repeat(&0.0)).take(DIM);
        let shares = all.map(|&d| f64::from(d) / total + 1e-7);
        let expected = shares.map(|p| -p * p.ln()).sum::<f64>().exp();
        near(effective_rank(rows(&x, DIM))?, expected, 1e-9, what);
        Ok(())
    }
    check::<f32>(&[1.0; DIM], "full rank")?;
    check::<f32>(
        &[1.0, 0.5, 0.25, 2f32.powi(-10), 2f32.powi(-16)],
        "small values",
    )?;
    check::<f16>(&[4.0, 2.0, 1.0, 1.0], "f16")?;
    check::<bf16>(&[4.0, 2.0, 1.0, 1.0], "bf16")?;
    let orthonormal: Vec<f32> = (0..DIM * DIM)
        .map(|p| hadamard(p / DIM, p % DIM) / 4.0)
        .collect();
    near(
        effective_rank(rows(&orthonormal, DIM))?,
        DIM as f64,
        1e-4,
        "orthonormal rows",
    );
    let one_row = random(DIM, 31);
    near(
        effective_rank(rows(&one_row.repeat(20), DIM))?,
        1.0,
        1e-4,
        "identical rows",
    );
    near(effective_rank(rows(&one_row, DIM))?, 1.0, 1e-4, "one row");
    // Fewer rows than dimensions: of orthogonal ones, all count.
    near(
        effective_rank(rows(&orthonormal[..5 * DIM], DIM))?,
        5.0,
        1e-4,
        "five rows",
    );
    assert_eq!(effective_rank(rows(&[0.0f32; 6], 3))?, 0.0);
    let broken = effective_rank(rows(&[1.0f32, f32::INFINITY], 2));
    assert_eq!(
        broken,
        Err(Error::NotFinite {
            argument: "x",
            row: 0
        })
    );
    Ok(())
}

#[test]
fn each_kind_of_collapse_has_its_verdict() -> Test {
    let (n, dim) = (200, 64);
    let spread = random(n * dim, 41);
    let shifted = |by: f32, scale: f32| -> Vec<f32> {
        let shift = |(place, x): (usize, &f32)| scale * x + if place % dim == 3 { by } else { 0.0 };
        spread.iter().enumerate().map(shift).collect()
    };
    // In two dimensions, turned so that every coordinate varies.
    let turned: Vec<f32> = random(2 * n, 43)
        .chunks(2)
        .flat_map(|pair| {
            let pair = pair.to_vec();
            (0..dim).map(move |d| pair[0] * hadamard(1, d) + pair[1] * hadamard(2, d))
        })
        .collect();
    let mut opposite = vec![0.0f32; n * dim];
    for (i, row) in opposite.chunks_mut(dim).enumerate() {
        row[0] = [1.0, -1.0][i % 2];
    }
    for (x, verdict, what) in [
        (&spread, Verdict::Spread, "random rows"),
        (&shifted(4.0, 0.3), Verdict::Narrow, "crowded rows"),
        (&shifted(4.0, 1e-3), Verdict::Collapsed, "nearly one point"),
        (&vec![0.5; n * dim], Verdict::Collapsed, "one point"),
        (&vec![0.0; n * dim], Verdict::Collapsed, "zeros"),
        (&turned, Verdict::Dimensional, "a plane"),
        (&opposite, Verdict::Dimensional, "two opposite points"),
        (&spread[..dim].to_vec(), Verdict::Unknown, "one row"),
    ] {
        let found = Collapse::of(rows(x, dim))?;
        assert_eq!(found.verdict, verdict, "{what}: {found:?}");
        let unit = unit(rows(x, dim));
        let squares: f64 = unit.iter().map(|row| product(row, row)).sum();
        let means = (0..dim).map(|d| unit.iter().map(|row| row[d]).sum::<f64>());
        let of_mean: f64 = means.map(|sum| (sum / unit.len() as f64).powi(2)).sum();
        let squared_radius = squares / unit.len() as f64 - of_mean;
        near(found.radius.powi(2), squared_radius, 1e-12, what);
        assert_eq!(found.deviation, deviation(rows(x, dim))?, "{what}");
        assert_eq!(found.full_rank, dim.min(x.len() / dim - 1), "{what}");
        assert!(
            found.effective_rank <= found.full_rank as f64,
            "{what}: {found:?}"
        );
    }
    near(
        Collapse::of(rows(&turned, dim))?.effective_rank,
        2.0,
        0.05,
        "a plane",
    );
    near(
        Collapse::of(rows(&opposite, dim))?.effective_rank,
        1.0,
        1e-3,
        "a line",
    );
    // Rounding errors of a mean are no directions.
    let copies = Collapse::of(rows(&spread[..dim].repeat(7), dim))?;
    assert_eq!(copies.effective_rank, 0.0);
    // Crowding alone leaves all dimensions.
    assert!(Collapse::of(rows(&shifted(4.0, 0.3), dim))?.effective_rank > 50.0);
    let broken = Collapse::of(rows(&[1.0f32, f32::NAN], 1));
    assert_eq!(
        broken,
        Err(Error::NotFinite {
            argument: "x",
            row: 1
        })
    );
    Ok(())
}
