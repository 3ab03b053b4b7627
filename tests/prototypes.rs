//! PCL's prototypes: clusters, and how concentrated they are, by their published definitions in float64.

use approx::assert_abs_diff_eq;
use half::bf16;
use infonce::{CpuEngine, Engine, Error, KMeans, Matrix, MemoryBank, Prototypes, Rows};

type Test = Result<(), Error>;

fn clusters_of(
    engine: &impl Engine,
    rows: Rows<'_, f32>,
    k: usize,
    seed: u64,
) -> Result<Prototypes, Error> {
    let means = KMeans {
        seed,
        ..KMeans::default()
    };
    Ok(means.cluster(engine, rows, &[k])?.remove(0))
}

/// Rows around `centres` random directions; row i lies near direction i mod `centres`, off by about `noise`.
fn around(centres: usize, rows: usize, dim: usize, noise: f32) -> Result<Vec<f32>, Error> {
    let directions = MemoryBank::<f32>::random(centres, dim, 11)?;
    let off = MemoryBank::<f32>::random(rows, dim, 12)?;
    let row = |i: usize| {
        let (direction, off) = (directions.as_rows(), off.as_rows());
        let pairs = direction.row(i % centres).iter().zip(off.row(i));
        // Of any length.
        let length = 1.0 + (i % 7) as f32;
        pairs
            .map(|(x, off)| length * (x + noise * off))
            .collect::<Vec<f32>>()
    };
    Ok((0..rows).flat_map(row).collect())
}

/// The rows in float64, of length 1.
fn unit(rows: Rows<'_, f32>) -> Vec<Vec<f64>> {
    let row = |i: usize| {
        let row: Vec<f64> = rows.row(i).iter().map(|&x| f64::from(x)).collect();
        let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
        row.iter().map(|x| x / norm).collect()
    };
    (0..rows.rows()).map(row).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn opposite_directions_are_separate_clusters() -> Test {
    let (rows, dim) = (40, 6);
    let mut x = around(1, rows, dim, 0.5)?;
    for row in x.chunks_mut(dim).skip(1).step_by(2) {
        row.iter_mut().for_each(|x| *x = -*x);
    }
    for seed in 0..8 {
        let found = clusters_of(&CpuEngine::new(), Rows::new(&x, rows, dim)?, 2, seed)?;
        let cluster = found.assignments();
        assert_ne!(cluster[0], cluster[1], "seed {seed}");
        assert!(
            (0..rows).all(|i| cluster[i] == cluster[i % 2]),
            "{cluster:?}"
        );
    }
    Ok(())
}

#[test]
fn each_row_has_its_nearest_centroid_which_is_its_clusters_mean() -> Test {
    let (rows, dim, k) = (200, 12, 9);
    let x = around(15, rows, dim, 1.0)?;
    let rows = Rows::new(&x, rows, dim)?;
    let settled = KMeans {
        iterations: 200,
        seed: 3,
        ..KMeans::default()
    };
    let found = settled.cluster(&CpuEngine::new(), rows, &[k])?.remove(0);
    let (points, centroids) = (unit(rows), unit(found.centroids()));
    let mut sums = vec![vec![0.0; dim]; k];
    for (point, &cluster) in points.iter().zip(found.assignments()) {
        let own = dot(point, &centroids[cluster as usize]);
        let best = centroids.iter().map(|centroid| dot(point, centroid));
        assert!(own >= best.fold(f64::MIN, f64::max) - 1e-6);
        for (sum, x) in sums[cluster as usize].iter_mut().zip(point) {
            *sum += x;
        }
    }
    for (sum, centroid) in sums.iter().zip(&centroids) {
        let norm = dot(sum, sum).sqrt();
        for (sum, x) in sum.iter().zip(centroid) {
            assert_abs_diff_eq!(sum / norm, *x, epsilon = 1e-6);
        }
    }
    for centroid in 0..k {
        let row = found.centroids().row(centroid);
        assert_abs_diff_eq!(row.iter().map(|x| x * x).sum::<f32>(), 1.0, epsilon = 1e-5);
    }
    Ok(())
}

#[test]
fn iterations_and_starts_bring_rows_nearer_to_centroids() -> Test {
    let (rows, dim, k) = (150, 8, 10);
    let x = around(20, rows, dim, 1.0)?;
    let rows = Rows::new(&x, rows, dim)?;
    let total = |starts: usize, iterations: usize| -> Result<f64, Error> {
        let means = KMeans {
            starts,
            iterations,
            seed: 6,
        };
        let found = means.cluster(&CpuEngine::new(), rows, &[k])?.remove(0);
        let centroids = unit(found.centroids());
        let pairs = unit(rows).into_iter().zip(found.assignments().to_vec());
        Ok(pairs
            .map(|(row, cluster)| dot(&row, &centroids[cluster as usize]))
            .sum())
    };
    let totals = (0..8).map(|iterations| total(1, iterations));
    let totals = totals.collect::<Result<Vec<_>, _>>()?;
    assert!(totals.is_sorted_by(|a, b| *b >= a - 1e-4), "{totals:?}");
    assert!(totals[7] > totals[0] + 1.0, "{totals:?}");
    let best = (1..9).map(|starts| total(starts, 7));
    let best = best.collect::<Result<Vec<_>, _>>()?;
    assert!(best.is_sorted_by(|a, b| *b >= a - 1e-4), "{best:?}");
    assert!(best[0] == totals[7] && best[7] > best[0] + 0.1, "{best:?}");
    Ok(())
}

#[test]
fn an_empty_cluster_starts_again_from_another_row() -> Test {
    // Twenty copies of one row and three other directions: most starts are copies.
    let row =
        |i: usize| -> [f32; 4] { std::array::from_fn(|d| f32::from(u8::from(d == i.min(3)))) };
    let x = [
        0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0,
    ]
    .map(row);
    for seed in 0..10 {
        let rows = Rows::new(x.as_flattened(), x.len(), 4)?;
        let found = clusters_of(&CpuEngine::new(), rows, 4, seed)?;
        let cluster = found.assignments();
        let mut named = [cluster[0], cluster[5], cluster[11], cluster[19]];
        named.sort_unstable();
        assert_eq!(named, [0, 1, 2, 3], "seed {seed}: {cluster:?}");
        assert!(
            found.concentrations().iter().all(|&c| c == 1.0),
            "no cluster has a spread"
        );
    }
    Ok(())
}

#[test]
fn more_clusters_than_different_rows_stay_finite() -> Test {
    let x = [1.0f32, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0];
    let found = clusters_of(&CpuEngine::new(), Rows::new(&x, 5, 2)?, 5, 0)?;
    assert!(found.scaled::<f32>().iter().all(|x| x.is_finite()));
    assert!(found.concentrations().iter().all(|&c| c == 1.0));
    Ok(())
}

#[test]
fn a_seed_repeats_bit_for_bit_on_any_threads() -> Test {
    let (rows, dim, k) = (120, 10, 8);
    let x = around(30, rows, dim, 1.0)?;
    let rows = Rows::new(&x, rows, dim)?;
    let first = clusters_of(&CpuEngine::new(), rows, k, 7)?;
    for threads in [1, 3] {
        assert_eq!(
            clusters_of(&CpuEngine::with_threads(threads)?, rows, k, 7)?,
            first
        );
    }
    assert_ne!(clusters_of(&CpuEngine::new(), rows, k, 8)?, first);
    // Granularity i of several has the seed + i.
    let means = KMeans {
        seed: 6,
        ..KMeans::default()
    };
    let several = means.cluster(&CpuEngine::new(), rows, &[3, k])?;
    assert_eq!((several.len(), &several[1]), (2, &first));
    assert_eq!(several[0].centroids().rows(), 3);
    Ok(())
}

#[cfg(feature = "emulator")]
#[test]
fn kernels_find_the_clusters_of_the_cpu_engine() -> Test {
    use infonce::emulator::{EmulatedEngine, Schedule};
    let (rows, dim, k) = (60, 8, 5);
    let x = around(5, rows, dim, 0.4)?;
    let rows = Rows::new(&x, rows, dim)?;
    let expected = clusters_of(&CpuEngine::new(), rows, k, 2)?;
    let found = clusters_of(&EmulatedEngine::new(Schedule::Mixed, 4), rows, k, 2)?;
    assert_eq!(found.assignments(), expected.assignments());
    let pairs = [
        (
            found.centroids().contiguous(),
            expected.centroids().contiguous(),
        ),
        (
            found.concentrations().into(),
            expected.concentrations().into(),
        ),
    ];
    for (found, expected) in pairs {
        assert_abs_diff_eq!(&found[..], &expected[..], epsilon = 1e-5);
    }
    Ok(())
}

/// The authors' steps, on the clusters that were found: the mean distance over ln(Z + 10); the largest for clusters of
/// one row; clamped to the 10th and 90th percentiles; of mean 1.
fn published(points: &[Vec<f64>], found: &Prototypes) -> Vec<f64> {
    let centroids: Vec<Vec<f64>> = (0..found.concentrations().len())
        .map(|c| {
            found
                .centroids()
                .row(c)
                .iter()
                .map(|&x| f64::from(x))
                .collect()
        })
        .collect();
    let mut distances = vec![Vec::new(); centroids.len()];
    for (point, &c) in points.iter().zip(found.assignments()) {
        let pairs = point.iter().zip(&centroids[c as usize]);
        distances[c as usize].push(pairs.map(|(x, c)| (x - c).powi(2)).sum::<f64>().sqrt());
    }
    let mut density: Vec<f64> = distances
        .iter()
        .map(|all| match all.len() {
            0 | 1 => 0.0,
            z => all.iter().sum::<f64>() / z as f64 / (z as f64 + 10.0).ln(),
        })
        .collect();
    let largest = density.iter().copied().fold(0.0, f64::max);
    for (density, all) in density.iter_mut().zip(&distances) {
        if all.len() <= 1 {
            *density = largest;
        }
    }
    let mut sorted = density.clone();
    sorted.sort_by(f64::total_cmp);
    let percentile = |p: f64| {
        let place = p / 100.0 * (sorted.len() - 1) as f64;
        let (low, high) = (place.floor(), place.ceil());
        let [low_value, high_value] = [low, high].map(|place| sorted[place as usize]);
        low_value + (high_value - low_value) * (place - low)
    };
    let (low, high) = (percentile(10.0), percentile(90.0));
    for x in &mut density {
        *x = x.max(low).min(high);
    }
    let mean = density.iter().sum::<f64>() / density.len() as f64;
    density.iter().map(|x| x / mean).collect()
}

#[test]
fn concentrations_are_equation_12_clamped_and_of_mean_1() -> Test {
    for (k, noise) in [(1, 0.5), (2, 0.7), (7, 0.6), (23, 1.0)] {
        let (rows, dim) = (90, 8);
        let mut x = around(5, rows, dim, noise)?;
        // A row alone in its direction, which ends as a cluster of its own where there are clusters enough.
        x[..dim].copy_from_slice(&[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -9.0]);
        let rows = Rows::new(&x, rows, dim)?;
        let found = clusters_of(&CpuEngine::new(), rows, k, 1)?;
        let expected = published(&unit(rows), &found);
        for (found, expected) in found.concentrations().iter().zip(&expected) {
            assert_abs_diff_eq!(f64::from(*found), *expected, epsilon = 1e-5);
        }
        let counts = (0..k as u32).map(|c| found.assignments().iter().filter(|&&a| a == c).count());
        assert!(
            k < 23 || counts.clone().any(|count| count == 1),
            "{:?}",
            counts.collect::<Vec<_>>()
        );
        let mean = found.concentrations().iter().sum::<f32>() / k as f32;
        assert_abs_diff_eq!(mean, 1.0, epsilon = 1e-5);
    }
    Ok(())
}

#[test]
fn a_tight_cluster_has_a_small_concentration() -> Test {
    // Pairs at ±a and ±3a around two opposite directions. By hand: distances of a pair are equal, and both clusters
    // have Z = 2, so φ is to φ as 2 sin(a/2) to 2 sin(3a/2).
    let a = 0.1f32;
    let x = [
        a.cos(),
        a.sin(),
        a.cos(),
        -a.sin(),
        -(3.0 * a).cos(),
        (3.0 * a).sin(),
        -(3.0 * a).cos(),
        -(3.0 * a).sin(),
    ];
    let found = clusters_of(&CpuEngine::new(), Rows::new(&x, 4, 2)?, 2, 0)?;
    let [tight, wide] =
        [0, 2].map(|i| f64::from(found.concentrations()[found.assignments()[i] as usize]));
    // Clamped to a tenth of their distance from each end.
    let [small, large] = [(0.05f64).sin(), (0.15f64).sin()];
    let step = 0.1 * (large - small);
    assert_abs_diff_eq!(
        tight / wide,
        (small + step) / (large - step),
        epsilon = 1e-5
    );
    let scaled = found.scaled::<f32>();
    let longer = scaled.chunks(2).map(|row| row[0].hypot(row[1]));
    let expected = found.concentrations().iter().map(|c| 1.0 / c);
    for (found, expected) in longer.zip(expected) {
        assert_abs_diff_eq!(found, expected, epsilon = 1e-6);
    }
    Ok(())
}

#[test]
fn embeddings_of_16_bits_are_clustered_too() -> Test {
    let (rows, dim) = (30, 8);
    let x: Vec<bf16> = around(3, rows, dim, 0.2)?
        .into_iter()
        .map(bf16::from_f32)
        .collect();
    let found = KMeans::default().cluster(&CpuEngine::new(), Rows::new(&x, rows, dim)?, &[3])?;
    let wide: Vec<f32> = x.iter().map(|x| x.to_f32()).collect();
    let expected = clusters_of(&CpuEngine::new(), Rows::new(&wide, rows, dim)?, 3, 0)?;
    assert_eq!(found[0].assignments(), expected.assignments());
    assert_eq!(
        found[0].scaled::<bf16>()[0],
        bf16::from_f32(found[0].scaled::<f32>()[0])
    );
    Ok(())
}

#[test]
fn saved_prototypes_come_back_bit_for_bit() -> Test {
    let (rows, dim) = (50, 6);
    let x = around(9, rows, dim, 0.9)?;
    let found = clusters_of(&CpuEngine::new(), Rows::new(&x, rows, dim)?, 6, 4)?;
    let centroids = found.centroids().contiguous().into_owned();
    let (assignments, concentrations) = (found.assignments(), found.concentrations());
    let restored = Prototypes::restore(dim, &centroids, assignments, concentrations)?;
    assert_eq!(restored, found);

    let refused = |dim, centroids: &[f32], assignments: &[u32], concentrations: &[f32]| {
        let restored = Prototypes::restore(dim, centroids, assignments, concentrations);
        restored
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    };
    assert_eq!(
        refused(2, &[1.0; 3], &[0], &[1.0; 2]),
        "`centroids` holds 3 elements; its shape needs 4"
    );
    assert_eq!(
        refused(2, &[1.0; 4], &[0, 2], &[1.0; 2]),
        "`assignments[1]` is 2; there are 2 rows"
    );
    let empty = "`centroids` has 0 rows of dimension 2; both must be at least 1";
    assert_eq!(refused(2, &[], &[], &[]), empty);
    for bad in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let text = refused(2, &[1.0; 4], &[0], &[1.0, bad]);
        assert!(text.starts_with("`concentrations` is "), "{text}");
    }
    Ok(())
}

#[test]
fn clustering_names_what_does_not_fit() -> Test {
    let mut x = around(2, 5, 3, 0.1)?;
    let cluster = |x: &[f32], clusters: &[usize]| -> Result<String, Error> {
        let found = KMeans::default().cluster(&CpuEngine::new(), Rows::new(x, 5, 3)?, clusters);
        Ok(found
            .err()
            .map_or("accepted".into(), |error| error.to_string()))
    };
    for wrong in [0, 6] {
        let expected = format!(
            "`clusters` is {wrong}; it must be at least 1, and at most the number of embeddings"
        );
        assert_eq!(cluster(&x, &[2, wrong])?, expected);
    }
    assert_eq!(cluster(&x, &[1, 5])?, "accepted");
    let none = KMeans {
        starts: 0,
        ..KMeans::default()
    };
    let refused = none.cluster(&CpuEngine::new(), Rows::new(&x, 5, 3)?, &[2]);
    let text = refused.err().map(|error| error.to_string());
    assert_eq!(
        text.as_deref(),
        Some("`starts` is 0; it must be at least 1")
    );
    for bad in [f32::NAN, f32::INFINITY] {
        x[10] = bad;
        assert_eq!(cluster(&x, &[2])?, "`embeddings[3]` has no finite length");
    }
    Ok(())
}
