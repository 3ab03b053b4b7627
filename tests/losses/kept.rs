//! Losses over candidates that are kept: a memory bank, prototypes.

use super::*;

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
        let given = Given::positives(Positives::Index(examples.to_vec()));
        is_published_with(&contrast, &matrices, &given, |of| {
            let logit = |i, j| dot(of[0].row(i), of[1].row(j)) / f64::from(tau);
            cross_entropy(&examples, logit, 9)
        })?;
        let value = in_float64(&contrast, &matrices, &given)?;
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
        let given = Given::positives(Positives::Index(clusters.to_vec()));
        let of_float = |of: &[Dense]| proto_nce(&of[0], &clusters, &found, f64::from(tau));
        // The rows of k are rounded to f32 after they are scaled, and the formula's φ is not.
        let reference = in_float64(&contrast, &matrices, &given)?;
        let expected = of_float(&matrices);
        assert_near(&[reference.loss], &[expected], 1e-6, "pcl");
        assert!(reference.dk.is_none(), "prototypes have no gradient");
        // On the rounded rows themselves it is exact.
        is_published_with(&contrast, &matrices, &given, |of| {
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
    let of_rows = |rows: &[u32]| Given::positives(Positives::Index(rows.to_vec()));
    let both = in_float64(&contrast, &both, &of_rows(&[2, 2]))?;
    let mut alone = 0.0;
    for i in 0..2 {
        let row = Dense::from_fn(1, 6, |_, d| q.row(i)[d]);
        let value = in_float64(&contrast, &[row, k.clone()], &of_rows(&[2]))?;
        alone += 0.5 * value.loss;
        let halved: Vec<f64> = value.dq.as_slice().iter().map(|x| 0.5 * x).collect();
        assert_near(both.dq.row(i), &halved, 1e-12, "dq");
    }
    assert_near(&[both.loss], &[alone], 1e-12, "loss");
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

    assert_near(&[f64::from(loss)], &[formula(&q)], 1e-5, "loss");
    let derivative = |place: usize| {
        let at = |step: f64| {
            let mut moved = q.clone();
            moved.as_mut_slice()[place] += step;
            formula(&moved)
        };
        (at(STEP) - at(-STEP)) / (2.0 * STEP)
    };
    let expected: Vec<f64> = (0..rows * dim).map(derivative).collect();
    assert_near(&wide(&dq), &expected, 1e-5, "dq");
    Ok(())
}
