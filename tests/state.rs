//! State that outlives a step: the key queue, the memory bank, the momentum schedule and CLIP's scale.

use approx::assert_abs_diff_eq;
use half::bf16;
use infonce::losses::LogScale;
use infonce::{
    Contrast, CpuEngine, Engine, Error, Gradients, Inputs, KeyQueue, Matrix, MemoryBank,
    MomentumSchedule, NO_POSITIVE, Positives, Rows, RowsMut,
};

type Test = Result<(), Error>;

/// `count` keys of dimension 2, numbered from `first`.
fn keys(first: usize, count: usize) -> Vec<f32> {
    let numbers = first..first + count;
    numbers.flat_map(|i| [i as f32, -(i as f32)]).collect()
}

fn enqueue(queue: &mut KeyQueue<f32>, first: usize, count: usize) -> Test {
    CpuEngine::new().enqueue(queue, Rows::new(&keys(first, count), count, 2)?)
}

/// The numbers of the queue's keys, in storage order.
fn numbers(queue: &KeyQueue<f32>) -> Vec<usize> {
    let filled = queue.filled();
    let numbers = |keys: Rows<'_, f32>| (0..keys.rows()).map(|i| keys.row(i)[0] as usize).collect();
    filled.map(numbers).unwrap_or_default()
}

#[test]
fn a_queue_shows_only_what_is_filled() -> Test {
    let mut queue = KeyQueue::new(5, 2)?;
    assert!(queue.filled().is_none());
    assert_eq!((queue.capacity(), queue.dim()), (5, 2));
    enqueue(&mut queue, 0, 3)?;
    assert_eq!(numbers(&queue), [0, 1, 2]);
    assert_eq!((queue.fill(), queue.cursor()), (3, 3));
    Ok(())
}

#[test]
fn a_batch_that_wraps_overwrites_the_oldest() -> Test {
    let mut queue = KeyQueue::new(5, 2)?;
    enqueue(&mut queue, 0, 3)?;
    enqueue(&mut queue, 3, 4)?;
    assert_eq!(numbers(&queue), [5, 6, 2, 3, 4]);
    assert_eq!((queue.fill(), queue.cursor()), (5, 2));
    enqueue(&mut queue, 7, 3)?;
    assert_eq!(numbers(&queue), [5, 6, 7, 8, 9]);
    assert_eq!(queue.cursor(), 0);
    Ok(())
}

#[test]
fn a_batch_longer_than_the_queue_is_as_single_keys() -> Test {
    for batch in [5, 6, 9, 10, 11, 23] {
        let mut at_once = KeyQueue::new(5, 2)?;
        let mut one_by_one = KeyQueue::new(5, 2)?;
        for queue in [&mut at_once, &mut one_by_one] {
            enqueue(queue, 0, 2)?;
        }
        enqueue(&mut at_once, 2, batch)?;
        for key in 2..2 + batch {
            enqueue(&mut one_by_one, key, 1)?;
        }
        assert_eq!(at_once, one_by_one, "batch {batch}");
    }
    Ok(())
}

#[test]
fn a_restored_queue_is_the_saved_one_bit_for_bit() -> Test {
    for saved_after in [0, 3, 5, 8] {
        let mut queue = KeyQueue::<f32>::new(5, 2)?;
        if saved_after > 0 {
            enqueue(&mut queue, 100, saved_after)?;
        }
        let filled = queue.filled().map(|keys| keys.contiguous().to_vec());
        let mut restored = KeyQueue::restore(
            queue.capacity(),
            queue.dim(),
            queue.fill(),
            queue.cursor(),
            &filled.unwrap_or_default(),
        )?;
        assert_eq!(
            restored.filled().map(|k| k.contiguous().to_vec()),
            queue.filled().map(|k| k.contiguous().to_vec())
        );
        for queue in [&mut queue, &mut restored] {
            enqueue(queue, 200, 4)?;
        }
        assert_eq!(numbers(&restored), numbers(&queue));
        assert_eq!(restored.cursor(), queue.cursor());
    }
    Ok(())
}

#[test]
fn a_bf16_queue_keeps_every_bit() -> Test {
    let bits = [0x0001, 0x7f80, 0xff80, 0x7fc1, 0x8000, 0x3f81];
    let keys = bits.map(bf16::from_bits);
    let mut queue = KeyQueue::<bf16>::new(4, 3)?;
    CpuEngine::new().enqueue(&mut queue, Rows::new(&keys, 2, 3)?)?;
    let held = queue.filled().map(|keys| keys.contiguous().to_vec());
    let held: Vec<u16> = held
        .unwrap_or_default()
        .iter()
        .map(|key| key.to_bits())
        .collect();
    assert_eq!(held, bits);
    Ok(())
}

#[test]
fn a_state_that_contradicts_itself_is_refused() {
    let inconsistent = [(5, 6, 0), (5, 5, 5), (5, 3, 2), (5, 0, 1)];
    for (capacity, fill, cursor) in inconsistent {
        let keys = vec![0.0f32; fill * 2];
        let restored = KeyQueue::restore(capacity, 2, fill, cursor, &keys);
        assert!(
            matches!(restored, Err(Error::QueueState { .. })),
            "{restored:?}"
        );
    }
    let short = KeyQueue::restore(5, 2, 3, 3, &[0.0f32; 5]);
    assert_eq!(
        short.err(),
        Some(Error::Length {
            argument: "keys",
            given: 5,
            expected: 6
        })
    );
}

#[test]
fn keys_of_another_dimension_leave_the_queue_as_it_was() -> Test {
    let mut queue = KeyQueue::new(5, 2)?;
    enqueue(&mut queue, 0, 3)?;
    let before = queue.clone();
    let refused = CpuEngine::new().enqueue(&mut queue, Rows::new(&[1.0; 6], 2, 3)?);
    assert_eq!(
        refused,
        Err(Error::Dimension {
            argument: "keys",
            given: 3,
            expected: 2
        })
    );
    assert_eq!(queue, before);
    Ok(())
}

/// Enqueues keys numbered from `first`; the label of key i is 3i + 1, that of every fifth key none.
fn enqueue_labelled(queue: &mut KeyQueue<f32>, first: usize, count: usize) -> Test {
    let labels: Vec<u32> = (first..first + count).map(label).collect();
    let keys = keys(first, count);
    CpuEngine::new().enqueue_labelled(queue, Rows::new(&keys, count, 2)?, &labels)
}

fn label(key: usize) -> u32 {
    if key % 5 == 4 {
        NO_POSITIVE
    } else {
        3 * key as u32 + 1
    }
}

#[test]
fn labels_stay_with_their_keys() -> Test {
    let mut queue = KeyQueue::new(5, 2)?.with_labels(&[])?;
    assert_eq!(queue.labels(), Some(&[][..]));
    // While it fills; across the end; a batch longer than the queue; a smaller last batch.
    let mut first = 0;
    for batch in [3, 1, 4, 13, 5, 2] {
        enqueue_labelled(&mut queue, first, batch)?;
        first += batch;
        let numbers = numbers(&queue);
        let expected: Vec<u32> = numbers.iter().copied().map(label).collect();
        assert_eq!(queue.labels(), Some(&expected[..]), "{numbers:?}");
        // The newest keys, and no others.
        let mut newest = numbers;
        newest.sort_unstable();
        assert_eq!(newest, (first.saturating_sub(5)..first).collect::<Vec<_>>());
    }
    Ok(())
}

#[test]
fn a_restored_queue_continues_with_its_labels() -> Test {
    for saved_after in [0, 3, 5, 8] {
        let mut queue = KeyQueue::new(5, 2)?.with_labels(&[])?;
        if saved_after > 0 {
            enqueue_labelled(&mut queue, 100, saved_after)?;
        }
        let filled = queue.filled().map(|keys| keys.contiguous().to_vec());
        let [capacity, dim, fill, cursor] =
            [queue.capacity(), queue.dim(), queue.fill(), queue.cursor()];
        let keys = filled.unwrap_or_default();
        let restored = KeyQueue::restore(capacity, dim, fill, cursor, &keys)?;
        let mut restored = restored.with_labels(queue.labels().unwrap_or_default())?;
        for queue in [&mut queue, &mut restored] {
            enqueue_labelled(queue, 200, 4)?;
        }
        assert_eq!(restored.labels(), queue.labels());
        assert_eq!(numbers(&restored), numbers(&queue));
    }
    Ok(())
}

#[test]
fn a_queues_labels_give_positives() -> Test {
    // Keys 0, 1 and 3 have the labels 1, 4 and 10; key 4 has none.
    let mut queue = KeyQueue::new(4, 2)?.with_labels(&[])?;
    let keys = [1.0, 0.0, 0.0, 1.0, 0.6, 0.8, -1.0, 0.0];
    let labels = [label(0), label(1), label(3), label(4)];
    CpuEngine::new().enqueue_labelled(&mut queue, Rows::new(&keys, 4, 2)?, &labels)?;
    let q = [0.0, 1.0, 1.0, 0.0, 1.0, 0.0];
    let (Some(k), Some(candidates)) = (queue.filled(), queue.labels()) else {
        panic!("the queue is full");
    };
    // A label that key 2 has, one that none has, and no label: NO_POSITIVE does not match NO_POSITIVE.
    let anchors = [label(3), 7, NO_POSITIVE];
    let positives = Positives::Labels {
        anchors: &anchors[..],
        candidates,
    };
    let problem = Contrast::info_nce(1.0)?.on(Inputs::Pair {
        q: Rows::new(&q, 3, 2)?,
        k,
        positives,
    })?;
    let value = CpuEngine::new().forward(&problem)?;
    // Logits of anchor 0 are 0, 1, 0.8 and 0; of the others no row has a loss.
    let all = 2.0 + 1f64.exp() + 0.8f64.exp();
    assert_abs_diff_eq!(
        f64::from(value.loss),
        (all.ln() - 0.8) / 3.0,
        epsilon = 1e-6
    );
    assert_eq!(value.statistics.rows.positive[1..], [f32::NEG_INFINITY; 2]);
    Ok(())
}

#[test]
fn labels_come_exactly_where_a_queue_keeps_them() -> Test {
    let engine = CpuEngine::new();
    let keys = Rows::new(&[1.0f32, 0.0, 0.0, 1.0], 2, 2)?;
    let plain = KeyQueue::new(5, 2)?;
    let labelled = plain.clone().with_labels(&[])?;
    for (queue, labels, expected) in [
        (&plain, Some(2), "`labels` are given; the queue keeps none"),
        (
            &labelled,
            None,
            "`labels` are missing; the queue keeps one for each key",
        ),
        (&labelled, Some(3), "`labels` has 3 rows; it must have 2"),
    ] {
        let mut after = queue.clone();
        let refused = match labels {
            Some(count) => engine.enqueue_labelled(&mut after, keys, &vec![7; count]),
            None => engine.enqueue(&mut after, keys),
        };
        assert_eq!(
            refused.map_err(|error| error.to_string()),
            Err(expected.to_owned())
        );
        assert_eq!(after, *queue);
    }
    let message = plain.with_labels(&[1]).err().map(|error| error.to_string());
    assert_eq!(
        message.as_deref(),
        Some("`labels` holds 1 elements; its shape needs 0")
    );
    Ok(())
}

#[test]
fn a_random_bank_has_unit_rows_and_depends_on_its_seed() -> Test {
    let bank = MemoryBank::<f32>::random(50, 17, 3)?;
    let rows = bank.as_rows();
    assert_eq!((rows.rows(), rows.dim()), (50, 17));
    for i in 0..50 {
        let square: f32 = rows.row(i).iter().map(|x| x * x).sum();
        assert_abs_diff_eq!(square, 1.0, epsilon = 1e-5);
    }
    // Rows point everywhere: the mean of 50 is short, and no two are alike.
    let mean = |d: usize| (0..50).map(|i| rows.row(i)[d]).sum::<f32>() / 50.0;
    assert!((0..17).map(|d| mean(d).powi(2)).sum::<f32>() < 0.1);
    assert_eq!(MemoryBank::random(50, 17, 3)?, bank);
    assert_ne!(MemoryBank::random(50, 17, 4)?, bank);
    assert_eq!(
        MemoryBank::<bf16>::random(1, 1, 0)?.elements()[0]
            .to_f32()
            .abs(),
        1.0
    );
    Ok(())
}

#[test]
fn a_restored_bank_continues_bit_for_bit() -> Test {
    let engine = CpuEngine::new();
    let mut bank = MemoryBank::<bf16>::random(6, 5, 1)?;
    let keys = MemoryBank::<bf16>::random(4, 5, 2)?;
    engine.update_rows(bank.as_rows_mut(), &[5, 0, 2, 0], keys.as_rows(), 0.5)?;
    let mut restored = MemoryBank::restore(6, 5, bank.elements())?;
    for bank in [&mut bank, &mut restored] {
        engine.update_rows(bank.as_rows_mut(), &[1, 5, 2, 3], keys.as_rows(), 0.25)?;
    }
    assert_eq!(restored, bank);
    for (rows, dim) in [(0, 5), (6, 0)] {
        let refused = MemoryBank::<f32>::restore(rows, dim, &[]).err();
        assert_eq!(
            refused,
            Some(Error::Empty {
                argument: "bank",
                rows,
                dim
            })
        );
        assert_eq!(MemoryBank::<f32>::random(rows, dim, 0).err(), refused);
    }
    let short = MemoryBank::restore(6, 5, &[0.0f32; 29]);
    assert!(matches!(
        short,
        Err(Error::Length {
            given: 29,
            expected: 30,
            ..
        })
    ));
    Ok(())
}

#[test]
fn the_last_of_a_rows_keys_moves_it() -> Test {
    let mut bank = MemoryBank::restore(4, 2, &[1.0f32, 0.0, 0.0, 1.0, 0.6, 0.8, -1.0, 0.0])?;
    let keys = [-1.0, 0.0, 0.0, 1.0, 0.0, -1.0, 1.0, 0.0];
    let rows = [0, 0, NO_POSITIVE, 3];
    let keys = Rows::new(&keys, 4, 2)?;
    CpuEngine::new().update_rows(bank.as_rows_mut(), &rows, keys, 0.5)?;
    let half = 0.5f32.sqrt();
    // (½, ½), normalised; two rows that stay; and ½(−1, 0) + ½(1, 0), which has no direction.
    let expected = [half, half, 0.0, 1.0, 0.6, 0.8, 0.0, 0.0];
    assert_abs_diff_eq!(bank.elements(), &expected[..], epsilon = 1e-7);
    assert_eq!(bank.elements()[2..6], expected[2..6]);
    Ok(())
}

#[test]
fn steps_on_a_memory_bank_lower_its_loss() -> Test {
    const EXAMPLES: usize = 24;
    const DIM: usize = 8;
    const BATCH: usize = 8;
    let engine = CpuEngine::new();
    let contrast = Contrast::inst_disc(0.25)?;
    let mut bank = MemoryBank::<f32>::random(EXAMPLES, DIM, 1)?;
    // One embedding an example, which gradient descent moves.
    let mut x = MemoryBank::<f32>::random(EXAMPLES, DIM, 2)?
        .elements()
        .to_vec();
    let mut losses = Vec::new();
    for _epoch in 0..6 {
        let mut total = 0.0;
        for batch in 0..EXAMPLES / BATCH {
            let examples: Vec<u32> = (0..BATCH).map(|i| (3 * i + batch) as u32).collect();
            let rows = examples.iter().flat_map(|&e| &x[e as usize * DIM..][..DIM]);
            let given: Vec<f32> = rows.copied().collect();
            let (mut unit, mut norms) = (vec![0.0; BATCH * DIM], vec![0.0; BATCH]);
            let to = RowsMut::new(&mut unit, BATCH, DIM)?;
            engine.normalize(Rows::new(&given, BATCH, DIM)?, to, &mut norms, 1e-12)?;
            let q = Rows::new(&unit, BATCH, DIM)?;
            let positives = Positives::Index(&examples[..]);
            let k = bank.as_rows();
            let problem = contrast.on(Inputs::Pair { q, k, positives })?;
            let (mut dq, mut dx) = (vec![0.0; BATCH * DIM], vec![0.0; BATCH * DIM]);
            let gradients = Gradients::new(RowsMut::new(&mut dq, BATCH, DIM)?, None);
            total += engine.value_and_grad(&problem, 1.0, gradients)?.loss;
            let dq = Rows::new(&dq, BATCH, DIM)?;
            let to = RowsMut::new(&mut dx, BATCH, DIM)?;
            engine.normalize_backward(q, &norms, dq, to, 1e-12)?;
            engine.update_rows(bank.as_rows_mut(), &examples, q, 0.5)?;
            for (place, dx) in dx.iter().enumerate() {
                let row = examples[place / DIM] as usize;
                x[row * DIM + place % DIM] -= dx;
            }
        }
        losses.push(total);
    }
    assert!(losses.is_sorted_by(|a, b| a > b), "{losses:?}");
    assert!(losses[5] < 0.6 * losses[0], "{losses:?}");
    Ok(())
}

#[test]
fn a_constant_schedule_stays() -> Test {
    let schedule = MomentumSchedule::constant(0.999)?;
    for step in [0, 1, 1_000_000, u64::MAX] {
        assert_eq!(schedule.at(step), 0.999);
    }
    Ok(())
}

#[test]
fn a_cosine_schedule_goes_from_its_base_to_one() -> Test {
    let schedule = MomentumSchedule::cosine(0.99, 200)?;
    assert_eq!(schedule.at(0), 0.99);
    // Halfway, half of the distance is covered.
    assert_abs_diff_eq!(schedule.at(100), 0.995, epsilon = 1e-6);
    // A quarter of the way: 1 − 0.01·(cos(π/4) + 1)/2.
    assert_abs_diff_eq!(schedule.at(50), 0.991_464_5, epsilon = 1e-6);
    for step in [200, 201, u64::MAX] {
        assert_eq!(schedule.at(step), 1.0);
    }
    Ok(())
}

#[test]
fn schedules_refuse_what_is_no_momentum() {
    for momentum in [-0.1, 1.1, f32::NAN, f32::INFINITY] {
        for schedule in [
            MomentumSchedule::constant(momentum),
            MomentumSchedule::cosine(momentum, 10),
        ] {
            let message = schedule.err().map(|error| error.to_string());
            let message = message.unwrap_or_default();
            assert!(message.starts_with("`momentum` is "), "{message}");
        }
    }
    let message = MomentumSchedule::cosine(0.9, 0)
        .err()
        .map(|e| e.to_string());
    assert_eq!(
        message.as_deref(),
        Some("`total_steps` is 0; it must be at least 1")
    );
}

#[test]
fn updates_below_half_a_bf16_spacing_add_up() -> Test {
    // key at 1, query at 1.5, m = 0.999: a step is 5·10⁻⁴, half a bf16 spacing at 1 is 4·10⁻³.
    let query = [bf16::from_f32(1.5)];
    let mut key = [1.0f32];
    let mut shadow = [bf16::from_f32(0.0)];
    let engine = CpuEngine::new();
    for _ in 0..5000 {
        let tensor = infonce::MomentumTensor {
            query: &query[..],
            key: &mut key[..],
            shadow: Some(&mut shadow[..]),
        };
        engine.momentum_update(0.999, &mut [tensor])?;
    }
    // 1.5 − 0.5·0.999⁵⁰⁰⁰
    assert_abs_diff_eq!(key[0], 1.496_64, epsilon = 1e-4);
    assert_eq!(shadow[0].to_f32(), bf16::from_f32(key[0]).to_f32());
    Ok(())
}

#[test]
fn clips_scale_is_clamped_after_the_step() -> Test {
    let mut log_scale = LogScale::from_temperature(0.07)?;
    assert_abs_diff_eq!(log_scale.value(), 2.659_26, epsilon = 1e-6);
    assert_abs_diff_eq!(log_scale.scale(), 1.0 / 0.07, epsilon = 1e-4);
    assert_abs_diff_eq!(log_scale.gradient(0.5), 0.5 / 0.07, epsilon = 1e-4);
    log_scale.step(100.0);
    assert_eq!(log_scale.scale(), LogScale::MAX_SCALE);
    assert_eq!(log_scale.value(), 100f32.ln());
    assert_ne!(log_scale.gradient(1.0), 0.0);
    log_scale.step(-100.0);
    assert_eq!((log_scale.value(), log_scale.scale()), (0.0, 1.0));
    log_scale.step(1.0);
    assert_abs_diff_eq!(log_scale.value(), 1.0, epsilon = 1e-6);
    assert_abs_diff_eq!(log_scale.contrast()?.scale(), 1f32.exp(), epsilon = 1e-5);
    Ok(())
}

#[test]
fn clips_scale_stays_below_the_largest_that_was_asked_for() -> Test {
    // Below and above 100; the start is clamped too.
    for (temperature, max_scale) in [(0.07, 20.0), (0.07, 500.0), (0.001, 500.0)] {
        let mut log_scale = LogScale::with_max_scale(temperature, max_scale)?;
        let start = max_scale.min(1.0 / temperature);
        assert_abs_diff_eq!(log_scale.scale() / start, 1.0, epsilon = 1e-6);
        log_scale.step(10.0);
        assert!(log_scale.scale() <= max_scale);
        assert_abs_diff_eq!(log_scale.scale() / max_scale, 1.0, epsilon = 1e-6);
        assert_eq!(log_scale.value(), max_scale.ln());
    }
    for bad in [0.99, 0.0, -3.0, f32::NAN, f32::INFINITY] {
        let refused = LogScale::with_max_scale(0.07, bad).err();
        let message = refused.map(|error| error.to_string()).unwrap_or_default();
        assert!(message.starts_with("`max_scale` is "), "{message}");
        assert!(message.ends_with("finite and at least 1"), "{message}");
    }
    Ok(())
}

#[test]
fn clips_scale_reports_a_step_that_is_not_finite() -> Test {
    let mut log_scale = LogScale::from_temperature(0.07)?;
    log_scale.step(f32::NAN);
    let message = log_scale.contrast().err().map(|error| error.to_string());
    assert!(message.unwrap_or_default().starts_with("`scale` is NaN"));
    Ok(())
}
