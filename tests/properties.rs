//! Symmetries and bounds that hold for all inputs, on random problems.

use std::collections::VecDeque;

use approx::abs_diff_eq;
use infonce::{
    Contrast, CpuEngine, Engine, Error, Gradients, Ids, Inputs, KeyQueue, MomentumSchedule,
    Positives, Reduction, Rows, RowsMut,
};
use proptest::prelude::*;

/// Loss, dscale and gradients.
struct Value {
    loss: f32,
    dscale: f32,
    dq: Vec<f32>,
    dk: Vec<f32>,
}

fn info_nce(contrast: &Contrast, q: &[f32], k: &[f32], dim: usize) -> Result<Value, Error> {
    with_positives(contrast, Positives::DIAGONAL, q, k, dim)
}

fn with_positives(
    contrast: &Contrast,
    positives: Positives<&[u32]>,
    q: &[f32],
    k: &[f32],
    dim: usize,
) -> Result<Value, Error> {
    let (n, m) = (q.len() / dim, k.len() / dim);
    let (mut dq, mut dk) = (vec![f32::NAN; q.len()], vec![f32::NAN; k.len()]);
    let problem = contrast.on(Inputs::Pair {
        q: Rows::new(q, n, dim)?,
        k: Rows::new(k, m, dim)?,
        positives,
    })?;
    let gradients = Gradients::new(
        RowsMut::new(&mut dq, n, dim)?,
        Some(RowsMut::new(&mut dk, m, dim)?),
    );
    let value = CpuEngine::new().value_and_grad(&problem, 1.0, gradients)?;
    Ok(Value {
        loss: value.loss,
        dscale: value.dscale,
        dq,
        dk,
    })
}

/// Loss and dq of one matrix of labelled rows.
fn labelled(
    contrast: &Contrast,
    labels: &[u32],
    weights: &[f32],
    z: &[f32],
    dim: usize,
) -> Result<(f32, Vec<f32>), Error> {
    let rows = z.len() / dim;
    let mut dz = vec![f32::NAN; z.len()];
    let z = Rows::new(z, rows, dim)?;
    let positives = Positives::Labels {
        anchors: labels,
        candidates: labels,
    };
    let problem = contrast.on(Inputs::Labelled { z, positives })?;
    let problem = problem.with_row_weights(weights)?;
    let gradients = Gradients::new(RowsMut::new(&mut dz, rows, dim)?, None);
    let value = CpuEngine::new().value_and_grad(&problem, 1.0, gradients)?;
    Ok((value.loss, dz))
}

/// InfoNCE on the diagonal with biases of the candidates: loss, dq, dk and dbias.
fn biased(q: &[f32], k: &[f32], dim: usize, bias: &[f32]) -> Result<(f32, [Vec<f32>; 3]), Error> {
    let (n, m) = (q.len() / dim, k.len() / dim);
    let (mut dq, mut dk) = (vec![f32::NAN; q.len()], vec![f32::NAN; k.len()]);
    let mut dbias = vec![f32::NAN; m];
    let inputs = Inputs::pair(Rows::new(q, n, dim)?, Rows::new(k, m, dim)?);
    let problem = Contrast::info_nce(0.5)?
        .on(inputs)?
        .with_column_bias(bias)?;
    let gradients = Gradients::new(
        RowsMut::new(&mut dq, n, dim)?,
        Some(RowsMut::new(&mut dk, m, dim)?),
    );
    let gradients = gradients.with_bias(RowsMut::new(&mut dbias, 1, m)?);
    let value = CpuEngine::new().value_and_grad(&problem, 1.0, gradients)?;
    Ok((value.loss, [dq, dk, dbias]))
}

fn nt_xent(contrast: &Contrast, z: &[f32], dim: usize) -> Result<(f32, Vec<f32>), Error> {
    let rows = z.len() / dim;
    let mut dz = vec![f32::NAN; z.len()];
    let z = Rows::new(z, rows, dim)?;
    let gradients = Gradients::new(RowsMut::new(&mut dz, rows, dim)?, None);
    let problem = contrast.on(Inputs::Shared { z })?;
    let value = CpuEngine::new().value_and_grad(&problem, 1.0, gradients)?;
    Ok((value.loss, dz))
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Whether all differ by at most `tolerance` times the largest of `a`.
fn close(a: &[f32], b: &[f32], tolerance: f32) -> bool {
    let size = a.iter().fold(1e-3f32, |size, x| size.max(x.abs()));
    abs_diff_eq!(a, b, epsilon = tolerance * size)
}

/// N, M ≥ N, D, elements of q and k, and a random order of the anchors.
fn problems() -> impl Strategy<Value = (usize, usize, usize, Vec<f32>, Vec<f32>, Vec<usize>)> {
    (1usize..70, 0usize..200, 1usize..40).prop_flat_map(|(n, more, dim)| {
        let m = n + more;
        let order: Vec<usize> = (0..n).collect();
        (
            Just(n),
            Just(m),
            Just(dim),
            prop::collection::vec(-1.0f32..1.0, n * dim),
            prop::collection::vec(-1.0f32..1.0, m * dim),
            Just(order).prop_shuffle(),
        )
    })
}

/// Rows in another order.
fn reordered(x: &[f32], order: &[usize], dim: usize) -> Vec<f32> {
    let rows = order.iter().flat_map(|&i| &x[i * dim..(i + 1) * dim]);
    rows.copied().collect()
}

/// Rotates coordinates 0 and 1, 1 and 2, … of every row, by growing angles.
fn rotated(x: &[f32], dim: usize) -> Vec<f32> {
    let mut rotated = x.to_vec();
    for row in rotated.chunks_mut(dim) {
        for d in 1..dim {
            let (sin, cos) = (0.7 * d as f32).sin_cos();
            let (a, b) = (row[d - 1], row[d]);
            row[d - 1] = cos * a - sin * b;
            row[d] = sin * a + cos * b;
        }
    }
    rotated
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn reordered_anchors_only_reorder_gradients(
        (n, m, dim, q, k, order) in problems()
    ) {
        let contrast = Contrast::info_nce(0.5)?;
        let index: Vec<u32> = (0..n).map(|i| (i * 7 % m) as u32).collect();
        let other_index: Vec<u32> = order.iter().map(|&i| index[i]).collect();
        let value = with_positives(&contrast, Positives::Index(&index), &q, &k, dim)?;
        let other_q = reordered(&q, &order, dim);
        let other = with_positives(&contrast, Positives::Index(&other_index), &other_q, &k, dim)?;
        prop_assert!(close(&[value.loss], &[other.loss], 1e-5));
        prop_assert!(close(&reordered(&value.dq, &order, dim), &other.dq, 1e-5));
        prop_assert!(close(&value.dk, &other.dk, 1e-4));
    }

    #[test]
    fn reordered_candidates_only_reorder_gradients(
        (n, m, dim, q, k, order) in problems()
    ) {
        // Candidates below N are reordered, and the index with them.
        let mut places: Vec<usize> = order;
        places.extend(n..m);
        let mut index = vec![0u32; n];
        for (place, &candidate) in places.iter().enumerate().take(n) {
            index[candidate] = place as u32;
        }
        let contrast = Contrast::info_nce(0.5)?;
        let value = info_nce(&contrast, &q, &k, dim)?;
        let other_k = reordered(&k, &places, dim);
        let other = with_positives(&contrast, Positives::Index(&index), &q, &other_k, dim)?;
        prop_assert!(close(&[value.loss], &[other.loss], 1e-5));
        prop_assert!(close(&value.dq, &other.dq, 1e-5));
        prop_assert!(close(&reordered(&value.dk, &places, dim), &other.dk, 1e-4));
    }

    #[test]
    fn a_rotation_of_all_embeddings_rotates_the_gradients(
        (_n, _m, dim, q, k, _order) in problems()
    ) {
        let contrast = Contrast::info_nce(0.5)?;
        let value = info_nce(&contrast, &q, &k, dim)?;
        let other = info_nce(&contrast, &rotated(&q, dim), &rotated(&k, dim), dim)?;
        prop_assert!(close(&[value.loss], &[other.loss], 1e-5));
        prop_assert!(close(&rotated(&value.dq, dim), &other.dq, 1e-4));
        prop_assert!(close(&rotated(&value.dk, dim), &other.dk, 1e-4));
    }

    #[test]
    fn twice_the_length_at_twice_the_temperature_is_the_same(
        (_n, _m, dim, q, k, _order) in problems()
    ) {
        let value = info_nce(&Contrast::info_nce(0.5)?, &q, &k, dim)?;
        let longer: Vec<f32> = q.iter().map(|x| 2.0 * x).collect();
        let contrast = Contrast::info_nce(1.0)?;
        let other = info_nce(&contrast, &longer, &k, dim)?;
        // Powers of two change no significand: all is exact but the scale in base 2.
        prop_assert!(close(&[value.loss], &[other.loss], 1e-6));
        let halved: Vec<f32> = value.dq.iter().map(|x| 0.5 * x).collect();
        prop_assert!(close(&halved, &other.dq, 1e-5));
        prop_assert!(close(&value.dk, &other.dk, 1e-5));
    }

    #[test]
    fn a_vector_added_to_all_candidates_changes_nothing(
        (_n, _m, dim, q, k, _order) in problems()
    ) {
        // All logits of a row change by s⟨q_i, v⟩, which its softmax cancels.
        let contrast = Contrast::info_nce(0.5)?;
        let value = info_nce(&contrast, &q, &k, dim)?;
        let shifted: Vec<f32> = k.iter().map(|x| x + 0.75).collect();
        let other = info_nce(&contrast, &q, &shifted, dim)?;
        prop_assert!(close(&[value.loss], &[other.loss], 1e-4));
        prop_assert!(close(&value.dq, &other.dq, 1e-4));
        prop_assert!(close(&value.dk, &other.dk, 1e-4));
    }

    #[test]
    fn gradients_of_the_candidates_sum_to_zero(
        (_n, _m, dim, q, k, _order) in problems()
    ) {
        // Σ_j dz_ij = 0 for every anchor, so Σ_j dk_j = 0.
        let contrast = Contrast::info_nce(0.5)?
            .with_reduction(Reduction::Sum);
        let value = info_nce(&contrast, &q, &k, dim)?;
        let size: f32 = value.dk.iter().map(|x| x.abs()).sum();
        for d in 0..dim {
            let sum: f32 = value.dk.iter().skip(d).step_by(dim).sum();
            let zero = abs_diff_eq!(sum, 0.0, epsilon = 1e-5 * (size + 1e-3));
            prop_assert!(zero, "{} of {}", sum, size);
        }
    }

    #[test]
    fn scale_times_dscale_is_inputs_times_gradients(
        (_n, _m, dim, q, k, _order) in problems()
    ) {
        let contrast = Contrast::info_nce(0.5)?
            .with_reduction(Reduction::Sum);
        let value = info_nce(&contrast, &q, &k, dim)?;
        let product = |x: &[f32], dx: &[f32]| x.iter().zip(dx).map(|(x, dx)| x * dx).sum::<f32>();
        let size = |x: &[f32], dx: &[f32]| {
            x.iter().zip(dx).map(|(x, dx)| (x * dx).abs()).sum::<f32>()
        };
        let allowed = 1e-5 * (size(&q, &value.dq) + size(&k, &value.dk) + 1e-3);
        let found = 2.0 * value.dscale;
        prop_assert!(abs_diff_eq!(found, product(&q, &value.dq), epsilon = allowed));
        prop_assert!(abs_diff_eq!(found, product(&k, &value.dk), epsilon = allowed));
    }

    #[test]
    fn one_more_negative_raises_the_loss((_n, _m, dim, q, k, _order) in problems()) {
        let contrast = Contrast::info_nce(0.5)?;
        let value = info_nce(&contrast, &q, &k, dim)?;
        let mut more = k.clone();
        more.extend(vec![0.1; dim]);
        let raised = info_nce(&contrast, &q, &more, dim)?;
        prop_assert!(raised.loss >= value.loss * (1.0 - 1e-6));
    }

    #[test]
    fn a_negative_out_of_reach_changes_nothing(
        q in prop::collection::vec(0.5f32..1.0, 1..40),
        k in prop::collection::vec(-1.0f32..1.0, 40..120),
    ) {
        // D = 1 and all anchors are positive: a candidate at −1000 has weight e^(−1000) at most.
        let contrast = Contrast::info_nce(0.5)?;
        let value = info_nce(&contrast, &q, &k, 1)?;
        let mut more = k.clone();
        more.push(-1000.0);
        let other = info_nce(&contrast, &q, &more, 1)?;
        prop_assert!(close(&[value.loss], &[other.loss], 1e-5));
        // Each dq is a difference of two means of values up to 1/(τN), and can be tiny.
        let terms = 1.0 / 0.5 / q.len() as f32;
        prop_assert!(abs_diff_eq!(value.dq[..], other.dq[..], epsilon = 1e-5 * terms));
        prop_assert!(close(&value.dk, &other.dk[..k.len()], 1e-5));
        prop_assert_eq!(other.dk[k.len()], 0.0);
    }

    #[test]
    fn the_loss_lies_between_zero_and_what_the_logits_allow(
        (_n, m, dim, q, k, _order) in problems()
    ) {
        let contrast = Contrast::info_nce(0.5)?;
        let loss = info_nce(&contrast, &q, &k, dim)?.loss;
        let norm = |x: &[f32]| x.iter().map(|x| x * x).sum::<f32>().sqrt();
        let longest = |x: &[f32]| x.chunks(dim).map(norm).fold(0.0, f32::max);
        let most = (m as f32).ln() + 2.0 * 2.0 * longest(&q) * longest(&k);
        prop_assert!(loss >= 0.0 && loss <= most * 1.00001 + 1e-6, "{} of {}", loss, most);
    }

    #[test]
    fn nt_xent_is_symmetric_in_the_views(
        (_n, _m, dim, q, _k, _order) in problems()
    ) {
        let rows = q.len() / dim / 2 * 2;
        prop_assume!(rows > 0);
        let z = &q[..rows * dim];
        let (first, second) = z.split_at(rows / 2 * dim);
        let contrast = Contrast::nt_xent(0.5)?;
        let (loss, dz) = nt_xent(&contrast, z, dim)?;
        let (other, other_dz) = nt_xent(&contrast, &[second, first].concat(), dim)?;
        let (dz_first, dz_second) = dz.split_at(rows / 2 * dim);
        prop_assert!(close(&[loss], &[other], 1e-5));
        prop_assert!(close(&[dz_second, dz_first].concat(), &other_dz, 1e-5));
    }

    #[test]
    fn supcon_of_two_views_is_nt_xent((_n, _m, dim, q, _k, _order) in problems()) {
        let rows = q.len() / dim / 2 * 2;
        prop_assume!(rows > 0);
        let z = &q[..rows * dim];
        let labels: Vec<u32> = (0..rows as u32).map(|i| i % (rows as u32 / 2)).collect();
        let (loss, dz) = nt_xent(&Contrast::nt_xent(0.5)?, z, dim)?;
        let weights = vec![1.0; rows];
        let (other, other_dz) = labelled(&Contrast::sup_con(0.5)?, &labels, &weights, z, dim)?;
        prop_assert!(close(&[loss], &[other], 1e-5));
        prop_assert!(close(&dz, &other_dz, 1e-4));
    }

    #[test]
    fn labels_and_rows_in_another_order_only_reorder_gradients(
        (n, _m, dim, q, _k, order) in problems(),
        classes in prop::collection::vec(0u32..5, 70),
    ) {
        let contrast = Contrast::sup_con(0.5)?.with_reduction(Reduction::MeanOfPositives);
        let weights: Vec<f32> = (0..n).map(|i| [1.0, 0.0, 0.5][i % 3]).collect();
        let (loss, dz) = labelled(&contrast, &classes[..n], &weights, &q, dim)?;
        let other_classes: Vec<u32> = order.iter().map(|&i| classes[i] + 9).collect();
        let other_weights: Vec<f32> = order.iter().map(|&i| weights[i]).collect();
        let other_q = reordered(&q, &order, dim);
        let (other, other_dz) = labelled(&contrast, &other_classes, &other_weights, &other_q, dim)?;
        prop_assert!(close(&[loss], &[other], 1e-5));
        prop_assert!(close(&reordered(&dz, &order, dim), &other_dz, 1e-4));
    }

    #[test]
    fn a_bias_is_one_more_element_of_every_row(
        (_n, m, dim, q, k, _order) in problems(),
        bias in prop::collection::vec(-2.0f32..2.0, 270),
    ) {
        // s = 2: z_ij = s(⟨q_i, k_j⟩ + 1·c_j/s), and ∂loss/∂(c_j/s) = s ∂loss/∂c_j.
        let bias = &bias[..m];
        let (loss, [dq, dk, dbias]) = biased(&q, &k, dim, bias)?;
        let wide_q: Vec<f32> = q.chunks(dim).flat_map(|row| row.iter().copied().chain([1.0])).collect();
        let rows = k.chunks(dim).zip(bias);
        let wide_k: Vec<f32> = rows.flat_map(|(row, c)| row.iter().copied().chain([0.5 * c])).collect();
        let other = info_nce(&Contrast::info_nce(0.5)?, &wide_q, &wide_k, dim + 1)?;
        prop_assert!(close(&[loss], &[other.loss], 1e-5));
        let narrow = |x: &[f32]| -> Vec<f32> {
            x.chunks(dim + 1).flat_map(|row| row[..dim].to_vec()).collect()
        };
        prop_assert!(close(&dq, &narrow(&other.dq), 1e-4));
        prop_assert!(close(&dk, &narrow(&other.dk), 1e-4));
        let last: Vec<f32> = other.dk.chunks(dim + 1).map(|row| 0.5 * row[dim]).collect();
        prop_assert!(close(&dbias, &last, 1e-4));
    }

    #[test]
    fn the_same_bias_of_all_candidates_changes_nothing(
        (_n, m, dim, q, k, _order) in problems(),
        constant in -3.0f32..3.0,
    ) {
        let value = info_nce(&Contrast::info_nce(0.5)?, &q, &k, dim)?;
        let (loss, [dq, dk, dbias]) = biased(&q, &k, dim, &vec![constant; m])?;
        prop_assert!(close(&[value.loss], &[loss], 1e-5));
        prop_assert!(close(&value.dq, &dq, 1e-4));
        prop_assert!(close(&value.dk, &dk, 1e-4));
        // So the gradients of all biases together are 0.
        let size: f32 = dbias.iter().map(|x| x.abs()).sum();
        prop_assert!(abs_diff_eq!(dbias.iter().sum::<f32>(), 0.0, epsilon = 1e-5 * (size + 1e-3)));
    }

    #[test]
    fn an_id_that_excludes_a_candidate_leaves_it_out(
        (n, m, dim, q, k, _order) in problems(),
    ) {
        prop_assume!(m > n);
        // All anchors have the id of the last candidate.
        let candidates: Vec<u32> = (0..m as u32).collect();
        let anchors = vec![m as u32 - 1; n];
        let mut dq = vec![f32::NAN; q.len()];
        let inputs = Inputs::pair(Rows::new(&q, n, dim)?, Rows::new(&k, m, dim)?);
        let ids = Ids { anchors: &anchors[..], candidates: &candidates[..] };
        let problem = Contrast::info_nce(0.5)?.on(inputs)?.excluding(ids)?;
        let gradients = Gradients::new(RowsMut::new(&mut dq, n, dim)?, None);
        let value = CpuEngine::new().value_and_grad(&problem, 1.0, gradients)?;
        let fewer = info_nce(&Contrast::info_nce(0.5)?, &q, &k[..(m - 1) * dim], dim)?;
        prop_assert!(close(&[fewer.loss], &[value.loss], 1e-5));
        prop_assert!(close(&fewer.dq, &dq, 1e-4));
    }

    #[test]
    fn clip_is_the_mean_of_infonce_both_ways(
        (n, _m, dim, q, k, _order) in problems()
    ) {
        let k = &k[..n * dim];
        let clip = info_nce(&Contrast::clip(2.0)?, &q, k, dim)?;
        let contrast = Contrast::info_nce(0.5)?;
        let there = info_nce(&contrast, &q, k, dim)?;
        let back = info_nce(&contrast, k, &q, dim)?;
        let mean = |a: &[f32], b: &[f32]| -> Vec<f32> {
            a.iter().zip(b).map(|(a, b)| (a + b) / 2.0).collect()
        };
        prop_assert!(close(&mean(&[there.loss], &[back.loss]), &[clip.loss], 1e-5));
        prop_assert!(close(&mean(&there.dq, &back.dk), &clip.dq, 1e-4));
        prop_assert!(close(&mean(&there.dk, &back.dq), &clip.dk, 1e-4));
        // A weighted mean of differences of products, which may cancel.
        let dscale = mean(&[there.dscale], &[back.dscale])[0];
        let products = q.chunks(dim).flat_map(|q| k.chunks(dim).map(move |k| dot(q, k)));
        let largest = products.fold(0.0f32, |most, x| most.max(x.abs()));
        prop_assert!(abs_diff_eq!(dscale, clip.dscale, epsilon = 1e-5 * largest));
    }

    #[test]
    fn moco_is_infonce_over_own_key_and_queue_for_a_single_query(
        (_n, _m, dim, q, k, _order) in problems()
    ) {
        let (own_key, queue) = k.split_at(dim);
        prop_assume!(!queue.is_empty());
        let query = &q[..dim];
        let inputs = Inputs::Queue {
            q: Rows::new(query, 1, dim)?,
            own_key: Rows::new(own_key, 1, dim)?,
            queue: Rows::new(queue, queue.len() / dim, dim)?,
        };
        let mut dq = vec![f32::NAN; dim];
        let gradients = Gradients::new(RowsMut::new(&mut dq, 1, dim)?, None);
        let moco = Contrast::moco(0.5)?.on(inputs)?;
        let value = CpuEngine::new().value_and_grad(&moco, 1.0, gradients)?;
        let other = info_nce(&Contrast::info_nce(0.5)?, query, &k, dim)?;
        prop_assert!(close(&[value.loss], &[other.loss], 1e-5));
        prop_assert!(close(&dq, &other.dq, 1e-5));
    }

    #[test]
    fn normalised_rows_have_norm_one_and_a_gradient_across_them(
        (n, _m, dim, q, k, _order) in problems()
    ) {
        let x = Rows::new(&q, n, dim)?;
        let dy = Rows::new(&k[..n * dim], n, dim)?;
        let (mut y, mut norms) = (vec![f32::NAN; n * dim], vec![f32::NAN; n]);
        let mut dx = vec![f32::NAN; n * dim];
        let engine = CpuEngine::new();
        engine.normalize(x, RowsMut::new(&mut y, n, dim)?, &mut norms, 1e-12)?;
        prop_assume!(norms.iter().all(|&norm| norm > 1e-3));
        let unit = Rows::new(&y, n, dim)?;
        engine.normalize_backward(unit, &norms, dy, RowsMut::new(&mut dx, n, dim)?, 1e-12)?;
        for i in 0..n {
            let square: f32 = unit.row(i).iter().map(|y| y * y).sum();
            prop_assert!(abs_diff_eq!(square, 1.0, epsilon = 1e-5));
            let along: f32 = x.row(i).iter().zip(&dx[i * dim..]).map(|(x, dx)| x * dx).sum();
            let size: f32 = dy.row(i).iter().map(|dy| dy.abs()).sum();
            let across = abs_diff_eq!(along, 0.0, epsilon = 1e-5 * (size + 1.0));
            prop_assert!(across, "{}", along);
        }
    }

    #[test]
    fn a_queue_holds_what_a_plain_list_of_the_newest_keys_holds(
        capacity in 1usize..20,
        batches in prop::collection::vec(1usize..50, 1..12),
    ) {
        let mut queue = KeyQueue::<f32>::new(capacity, 1)?.with_labels(&[])?;
        let mut newest = VecDeque::new();
        let mut next = 0;
        for batch in batches {
            let keys: Vec<f32> = (next..next + batch).map(|key| key as f32).collect();
            next += batch;
            let labels: Vec<u32> = keys.iter().map(|key| key.to_bits()).collect();
            CpuEngine::new().enqueue_labelled(&mut queue, Rows::new(&keys, batch, 1)?, &labels)?;
            newest.extend(keys);
            newest.drain(..newest.len().saturating_sub(capacity));
            prop_assert_eq!(queue.fill(), newest.len());
            prop_assert_eq!(queue.cursor(), next % capacity);
            let mut held = queue.filled().map(|keys| keys.contiguous().to_vec()).unwrap_or_default();
            let bits: Vec<u32> = held.iter().map(|key| key.to_bits()).collect();
            prop_assert_eq!(queue.labels(), Some(&bits[..]));
            if queue.fill() == capacity {
                held.rotate_left(queue.cursor());
            }
            prop_assert_eq!(held, Vec::from(newest.clone()));
        }
    }

    #[test]
    fn a_cosine_schedule_rises_and_stays_between_its_base_and_one(
        base in 0.0f32..=1.0,
        total in 1u64..100_000,
        mut steps in prop::collection::vec(0u64..200_000, 2..20),
    ) {
        let schedule = MomentumSchedule::cosine(base, total)?;
        steps.sort_unstable();
        let values: Vec<f32> = steps.iter().map(|&step| schedule.at(step)).collect();
        prop_assert!(values.iter().all(|m| (base..=1.0).contains(m)));
        prop_assert!(values.is_sorted());
        prop_assert_eq!(schedule.at(0), base);
        prop_assert_eq!(schedule.at(total), 1.0);
    }
}
