//! Bad input is a typed error whose message names the argument; outputs stay untouched.

use infonce::losses::LogScale;
use infonce::{
    Contrast, CpuEngine, Engine, Error, Gradients, Inputs, KeyQueue, MomentumSchedule,
    MomentumTensor, NO_POSITIVE, Positives, RowStatistics, Rows, RowsMut, Statistics,
};

type Test = Result<(), Error>;

/// Rows and dimension.
type Size = (usize, usize);

/// The contents of outputs before a call.
const UNTOUCHED: f32 = 1234.5;

fn message<R>(result: Result<R, Error>) -> String {
    match result {
        Ok(_) => "accepted".into(),
        Err(error) => error.to_string(),
    }
}

/// Anchors, candidates and gradients of value_and_grad and backward, by shape.
struct Call<'a> {
    contrast: &'a Contrast,
    /// Rows and dimension of each input: z; q, k; or q, own_key, queue.
    inputs: &'a [Size],
    dq: Size,
    dk: Option<Size>,
}

impl Call<'_> {
    /// The messages of forward, value_and_grad and backward. Panics when one that refused has written.
    fn messages(&self, statistics: &Statistics) -> Result<[String; 3], Error> {
        let storage: Vec<Vec<f32>> = self.inputs.iter().map(|(n, d)| vec![0.5; n * d]).collect();
        let mut views = Vec::new();
        for (data, &(rows, dim)) in storage.iter().zip(self.inputs) {
            views.push(Rows::new(data, rows, dim)?);
        }
        let problem = match self.contrast.on(inputs(&views, Positives::DIAGONAL)) {
            Ok(problem) => problem,
            Err(error) => return Ok([(); 3].map(|()| error.to_string())),
        };
        let engine = CpuEngine::new();
        let forward = message(engine.forward(&problem));
        let mut messages = [forward, String::new(), String::new()];
        for (place, message_of) in messages.iter_mut().enumerate().skip(1) {
            let mut dq = vec![UNTOUCHED; self.dq.0 * self.dq.1];
            let dk_shape = self.dk.unwrap_or((1, 1));
            let mut dk = vec![UNTOUCHED; dk_shape.0 * dk_shape.1];
            let dk_view = match self.dk {
                Some((rows, dim)) => Some(RowsMut::new(&mut dk, rows, dim)?),
                None => None,
            };
            let gradients = Gradients::new(RowsMut::new(&mut dq, self.dq.0, self.dq.1)?, dk_view);
            *message_of = if place == 1 {
                message(engine.value_and_grad(&problem, 1.0, gradients))
            } else {
                message(engine.backward(&problem, statistics, 1.0, gradients))
            };
            if message_of != "accepted" {
                assert!(
                    dq.iter().chain(&dk).all(|&x| x == UNTOUCHED),
                    "written although refused: {message_of}"
                );
            }
        }
        Ok(messages)
    }
}

fn inputs<'a>(views: &[Rows<'a, f32>], positives: Positives<&'a [u32]>) -> Inputs<Rows<'a, f32>> {
    match *views {
        [z] => Inputs::Shared { z },
        [q, k] => Inputs::Pair { q, k, positives },
        [q, own_key, queue] => Inputs::Queue { q, own_key, queue },
        _ => unreachable!("one to three inputs"),
    }
}

fn statistics(rows: usize) -> Statistics {
    Statistics {
        rows: RowStatistics {
            negatives_lse: vec![1.0; rows],
            positive: vec![1.0; rows],
        },
        columns: None,
    }
}

#[test]
fn temperatures_and_scales_must_be_finite_and_positive() {
    for bad in [0.0, -0.1, f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let by_temperature = [
            message(Contrast::nt_xent(bad)),
            message(Contrast::info_nce(bad)),
            message(Contrast::moco(bad)),
            message(LogScale::from_temperature(bad)),
        ];
        for text in by_temperature {
            assert_eq!(
                text,
                format!("`temperature` is {bad}; it must be finite and greater than 0")
                    .replace("-0.1", "-0.10000000149011612")
            );
        }
        let text = message(Contrast::clip(bad));
        assert!(text.starts_with("`scale` is "), "{text}");
    }
    // 1/τ overflows.
    let text = message(Contrast::nt_xent(1e-45));
    assert!(text.starts_with("`temperature` is "), "{text}");
}

#[test]
fn matrices_need_rows_columns_and_all_their_elements() {
    let data = [0.0f32; 6];
    let mut out = [0.0f32; 6];
    for (rows, dim) in [(0, 3), (3, 0), (0, 0)] {
        let expected =
            format!("`data` has {rows} rows of dimension {dim}; both must be at least 1");
        assert_eq!(message(Rows::new(&data, rows, dim)), expected);
        assert_eq!(message(RowsMut::new(&mut out, rows, dim)), expected);
    }
    for (rows, dim) in [(2, 4), (1, 3)] {
        let expected = format!("`data` holds 6 elements; its shape needs {}", rows * dim);
        assert_eq!(message(Rows::new(&data, rows, dim)), expected);
        assert_eq!(message(RowsMut::new(&mut out, rows, dim)), expected);
    }
    let overflowing = message(Rows::new(&data, usize::MAX, 2));
    assert!(
        overflowing.starts_with("`data` holds 6 elements"),
        "{overflowing}"
    );
}

#[test]
fn inputs_must_fit_the_contrast() -> Test {
    let nt_xent = Contrast::nt_xent(0.1)?;
    let diagonal = Contrast::info_nce(0.1)?;
    let moco = Contrast::moco(0.1)?;
    let clip = Contrast::clip(10.0)?;
    let cases: [(&Contrast, &[Size], &str); 11] = [
        (
            &nt_xent,
            &[(3, 2)],
            "`z` has 3 rows; two views of each image are an even number of rows",
        ),
        (
            &nt_xent,
            &[(4, 2), (4, 2)],
            "`inputs` is Inputs::Pair; NT-Xent is defined on Inputs::Shared",
        ),
        (
            &diagonal,
            &[(4, 2)],
            "`inputs` is Inputs::Shared; InfoNCE is defined on Inputs::Pair",
        ),
        (
            &clip,
            &[(4, 2), (4, 2), (4, 2)],
            "`inputs` is Inputs::Queue; CLIP is defined on Inputs::Pair",
        ),
        (
            &moco,
            &[(4, 2), (4, 2)],
            "`inputs` is Inputs::Pair; MoCo is defined on Inputs::Queue",
        ),
        (
            &diagonal,
            &[(4, 2), (4, 3)],
            "`k` has dimension 3; the anchors have 2",
        ),
        (
            &clip,
            &[(4, 2), (4, 3)],
            "`k` has dimension 3; the anchors have 2",
        ),
        (
            &moco,
            &[(4, 2), (4, 3), (4, 2)],
            "`own_key` has dimension 3; the anchors have 2",
        ),
        (
            &moco,
            &[(4, 2), (4, 2), (4, 3)],
            "`queue` has dimension 3; the anchors have 2",
        ),
        (
            &moco,
            &[(4, 2), (5, 2), (4, 2)],
            "`own_key` has 5 rows; it must have 4",
        ),
        (&clip, &[(4, 2), (5, 2)], "`k` has 5 rows; it must have 4"),
    ];
    for (contrast, inputs, expected) in cases {
        let call = Call {
            contrast,
            inputs,
            dq: inputs[0],
            dk: None,
        };
        let messages = call.messages(&statistics(inputs[0].0))?;
        assert_eq!(messages, [expected; 3]);
    }
    Ok(())
}

#[test]
fn positives_must_be_as_many_as_anchors_and_among_candidates() -> Test {
    let data = [0.5f32; 18];
    let views = [Rows::new(&data[..6], 3, 2)?, Rows::new(&data[..8], 4, 2)?];
    let posed = |contrast: &Contrast, positives| message(contrast.on(inputs(&views, positives)));
    let info_nce = Contrast::info_nce(0.1)?;
    for (index, expected) in [
        (
            &[0, 4, 2][..],
            "`positives[1]` is 4; there are 4 candidates",
        ),
        (
            &[0, 3, NO_POSITIVE - 1],
            "`positives[2]` is 4294967294; there are 4 candidates",
        ),
        (&[0, 1], "`positives` has 2 rows; it must have 3"),
        (&[], "`positives` has 0 rows; it must have 3"),
        (&[0, 3, NO_POSITIVE], "accepted"),
    ] {
        assert_eq!(posed(&info_nce, Positives::Index(index)), expected);
    }
    let labels = [NO_POSITIVE; 4];
    for (anchors, candidates, expected) in [
        (2, 4, "`positives.anchors` has 2 rows; it must have 3"),
        (3, 3, "`positives.candidates` has 3 rows; it must have 4"),
        (3, 4, "accepted"),
    ] {
        let positives = Positives::Labels {
            anchors: &labels[..anchors],
            candidates: &labels[..candidates],
        };
        assert_eq!(posed(&info_nce, positives), expected);
    }
    for offset in [i64::MIN, -1, 0, 1, i64::MAX] {
        assert_eq!(posed(&info_nce, Positives::Offset(offset)), "accepted");
    }

    let views = [views[0], views[0]];
    let off_the_diagonal = |name: &str| {
        format!(
            "`inputs.positives` is not the diagonal, which {name} needs: its columns have a loss too"
        )
    };
    for contrast in [Contrast::clip(10.0)?, Contrast::additive_margin(0.1, 3.0)?] {
        let posed = |positives| message(contrast.on(inputs(&views, positives)));
        let expected = off_the_diagonal(contrast.name());
        assert_eq!(posed(Positives::Offset(1)), expected);
        assert_eq!(posed(Positives::Index(&[0, 1, 2])), expected);
        assert_eq!(posed(Positives::DIAGONAL), "accepted");
    }
    Ok(())
}

#[test]
fn rows_may_lie_apart_and_never_overlap() {
    let data = [0.0f32; 12];
    let mut out = [0.0f32; 12];
    let mut both = |rows, dim, stride| {
        let texts = [
            message(Rows::with_stride(&data, rows, dim, stride)),
            message(RowsMut::with_stride(&mut out, rows, dim, stride)),
        ];
        assert_eq!(texts[0], texts[1]);
        texts[0].clone()
    };
    assert_eq!(
        both(3, 4, 3),
        "`data` has a row stride of 3; rows of dimension 4 need 4 or more"
    );
    // With the last row's gap, without it, and with it cut short.
    assert_eq!(both(3, 2, 4), "accepted");
    assert_eq!(both(3, 2, 5), "accepted");
    assert_eq!(both(2, 4, 7), "accepted");
    for (rows, dim, stride, needed) in [(4, 2, 4, 14), (2, 4, 9, 13), (2, 2, 5, 7)] {
        let expected = format!("`data` holds 12 elements; its shape needs {needed}");
        assert_eq!(both(rows, dim, stride), expected);
    }
    assert!(both(usize::MAX, 2, usize::MAX).starts_with("`data` holds 12 elements"));
}

#[test]
fn gradients_must_have_the_inputs_shapes_and_exist() -> Test {
    let nt_xent = Contrast::nt_xent(0.1)?;
    let info_nce = Contrast::info_nce(0.1)?;
    let moco = Contrast::moco(0.1)?;
    let pair: &[Size] = &[(3, 2), (4, 2)];
    let cases = [
        (
            &info_nce,
            pair,
            (4, 2),
            None,
            "`gradients.dq` has 4 rows; it must have 3",
        ),
        (
            &info_nce,
            pair,
            (3, 1),
            None,
            "`gradients.dq` has dimension 1; the anchors have 2",
        ),
        (
            &info_nce,
            pair,
            (3, 2),
            Some((3, 2)),
            "`gradients.dk` has 3 rows; it must have 4",
        ),
        (
            &info_nce,
            pair,
            (3, 2),
            Some((4, 5)),
            "`gradients.dk` has dimension 5; the anchors have 2",
        ),
        (
            &nt_xent,
            &[(4, 2)],
            (4, 2),
            Some((4, 2)),
            "`gradients.dk` was asked for; NT-Xent has no such gradient (anchors and candidates \
             are one matrix; dq holds its whole gradient)",
        ),
        (
            &moco,
            &[(4, 2), (4, 2), (6, 2)],
            (4, 2),
            Some((6, 2)),
            "`gradients.dk` was asked for; MoCo has no such gradient (keys and queue carry no \
             gradient)",
        ),
    ];
    for (contrast, inputs, dq, dk, expected) in cases {
        let call = Call {
            contrast,
            inputs,
            dq,
            dk,
        };
        let [forward, value_and_grad, backward] = call.messages(&statistics(inputs[0].0))?;
        assert_eq!(forward, "accepted");
        assert_eq!(value_and_grad, expected);
        assert_eq!(backward, expected);
    }
    Ok(())
}

#[test]
fn only_statistics_of_the_same_rows_merge() {
    let engine = CpuEngine::new();
    let uneven = Statistics {
        rows: RowStatistics {
            negatives_lse: vec![1.0; 2],
            positive: vec![1.0; 3],
        },
        columns: None,
    };
    for (mut into, others, name) in [
        (statistics(3), statistics(2), "others"),
        (statistics(3), uneven.clone(), "others"),
        (uneven, statistics(3), "statistics"),
    ] {
        let before = into.clone();
        let text = message(engine.merge(&mut into, &others));
        assert_eq!(text, format!("`{name}.rows` has 2 rows; it must have 3"));
        assert_eq!(into, before);
    }
}

#[test]
fn backward_needs_the_statistics_of_these_rows_and_columns() -> Test {
    let info_nce = Contrast::info_nce(0.1)?;
    let clip = Contrast::clip(10.0)?;
    let uneven = Statistics {
        rows: RowStatistics {
            negatives_lse: vec![1.0; 3],
            positive: vec![1.0; 2],
        },
        columns: None,
    };
    let short_columns = Statistics {
        columns: Some(statistics(2).rows),
        ..statistics(3)
    };
    let cases = [
        (
            &info_nce,
            statistics(2),
            "`statistics.rows` has 2 rows; it must have 3",
        ),
        (
            &info_nce,
            uneven,
            "`statistics.rows` has 2 rows; it must have 3",
        ),
        (
            &clip,
            statistics(4),
            "`statistics.rows` has 4 rows; it must have 3",
        ),
        (
            &clip,
            statistics(3),
            "`statistics.columns` has 0 rows; it must have 3",
        ),
        (
            &clip,
            short_columns,
            "`statistics.columns` has 2 rows; it must have 3",
        ),
    ];
    for (contrast, statistics, expected) in cases {
        let call = Call {
            contrast,
            inputs: &[(3, 2), (3, 2)],
            dq: (3, 2),
            dk: Some((3, 2)),
        };
        let [forward, value_and_grad, backward] = call.messages(&statistics)?;
        assert_eq!(forward, "accepted");
        assert_eq!(value_and_grad, "accepted");
        assert_eq!(backward, expected);
    }
    Ok(())
}

#[test]
fn top_k_must_find_as_many_candidates_as_it_is_asked_for() -> Test {
    let (a, b, c) = ([0.5f32; 6], [0.5f32; 8], [0.5f32; 9]);
    let (three, four) = (Rows::new(&a, 3, 2)?, Rows::new(&b, 4, 2)?);
    let wide = Rows::new(&c, 3, 3)?;
    let engine = CpuEngine::new();
    let text = |k, queries, exclude_self| message(engine.top_k(queries, four, k, exclude_self));
    let refused = |k, available| {
        format!("`k` is {k}; it must be between 1 and {available}, the candidates there are")
    };
    assert_eq!(text(0, three, false), refused(0, 4));
    assert_eq!(text(5, three, false), refused(5, 4));
    assert_eq!(text(4, four, true), refused(4, 3));
    assert_eq!(text(4, four, false), "accepted");
    assert_eq!(text(3, four, true), "accepted");
    assert_eq!(
        message(engine.top_k(three, wide, 1, false)),
        "`candidates` has dimension 3; the anchors have 2"
    );
    // One query, whose one candidate is itself: none is left.
    let (one, number) = ([0.5f32; 2], 1);
    let one = Rows::new(&one, number, 2)?;
    assert_eq!(message(engine.top_k(one, one, 1, true)), refused(1, 0));
    Ok(())
}

#[test]
fn normalize_refuses_other_shapes_and_a_bad_epsilon() -> Test {
    let x = [0.5f32; 6];
    let x = Rows::new(&x, 3, 2)?;
    let engine = CpuEngine::new();
    let forward = |rows: usize, dim: usize, norms: usize, epsilon: f32| -> Result<String, Error> {
        let mut y = vec![UNTOUCHED; rows * dim];
        let mut norms = vec![UNTOUCHED; norms];
        let view = RowsMut::new(&mut y, rows, dim)?;
        let text = message(engine.normalize(x, view, &mut norms, epsilon));
        assert!(y.iter().chain(&norms).all(|&number| number == UNTOUCHED));
        Ok(text)
    };
    assert_eq!(forward(2, 2, 3, 1e-6)?, "`y` has 2 rows; it must have 3");
    assert_eq!(
        forward(3, 1, 3, 1e-6)?,
        "`y` has dimension 1; the anchors have 2"
    );
    assert_eq!(
        forward(3, 2, 4, 1e-6)?,
        "`norms` has 4 rows; it must have 3"
    );
    for epsilon in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let text = forward(3, 2, 3, epsilon)?;
        assert!(text.starts_with("`epsilon` is "), "{text}");
    }

    let backward = |norms: usize, dy: Size, dx: Size, epsilon: f32| -> Result<String, Error> {
        let norms = vec![1.0f32; norms];
        let dy_data = vec![0.5f32; dy.0 * dy.1];
        let mut dx_data = vec![UNTOUCHED; dx.0 * dx.1];
        let dy = Rows::new(&dy_data, dy.0, dy.1)?;
        let view = RowsMut::new(&mut dx_data, dx.0, dx.1)?;
        let text = message(engine.normalize_backward(x, &norms, dy, view, epsilon));
        assert!(dx_data.iter().all(|&number| number == UNTOUCHED));
        Ok(text)
    };
    let shape = (3, 2);
    assert_eq!(
        backward(2, shape, shape, 1e-6)?,
        "`norms` has 2 rows; it must have 3"
    );
    assert_eq!(
        backward(3, (2, 2), shape, 1e-6)?,
        "`dy` has 2 rows; it must have 3"
    );
    assert_eq!(
        backward(3, (3, 4), shape, 1e-6)?,
        "`dy` has dimension 4; the anchors have 2"
    );
    assert_eq!(
        backward(3, shape, (4, 2), 1e-6)?,
        "`dx` has 4 rows; it must have 3"
    );
    assert_eq!(
        backward(3, shape, (3, 1), 1e-6)?,
        "`dx` has dimension 1; the anchors have 2"
    );
    let text = backward(3, shape, shape, 0.0)?;
    assert!(text.starts_with("`epsilon` is "), "{text}");
    Ok(())
}

#[test]
fn momentum_update_refuses_before_it_writes_any_tensor() {
    let engine = CpuEngine::new();
    let update = |momentum: f32, query: usize, shadow: usize| -> String {
        let query = vec![0.5f32; query];
        let (mut good, mut key) = (vec![UNTOUCHED; 2], vec![UNTOUCHED; 3]);
        let mut shadow = vec![UNTOUCHED; shadow];
        let mut tensors = [
            MomentumTensor {
                query: &[0.5, 0.5][..],
                key: &mut good[..],
                shadow: None,
            },
            MomentumTensor {
                query: &query[..],
                key: &mut key[..],
                shadow: Some(&mut shadow[..]),
            },
        ];
        let text = message(engine.momentum_update(momentum, &mut tensors));
        let numbers = good.iter().chain(&key).chain(&shadow);
        assert!(numbers.into_iter().all(|&number| number == UNTOUCHED));
        text
    };
    assert_eq!(
        update(0.9, 4, 3),
        "`query` holds 4 elements; its shape needs 3"
    );
    assert_eq!(
        update(0.9, 3, 2),
        "`shadow` holds 2 elements; its shape needs 3"
    );
    for momentum in [-0.1, 1.5, f32::NAN] {
        let text = update(momentum, 3, 3);
        assert!(
            text.starts_with("`momentum` is ") && text.ends_with("it must be between 0 and 1"),
            "{text}"
        );
    }
    let text = message(MomentumSchedule::constant(2.0));
    assert_eq!(text, "`momentum` is 2; it must be between 0 and 1");
}

#[test]
fn queues_refuse_size_0_and_inconsistent_states() {
    for (capacity, dim) in [(0, 2), (2, 0)] {
        let text = message(KeyQueue::<f32>::new(capacity, dim));
        let expected =
            format!("`queue` has {capacity} rows of dimension {dim}; both must be at least 1");
        assert_eq!(text, expected);
    }
    let text = message(KeyQueue::restore(4, 2, 5, 0, &[0.0f32; 10]));
    assert_eq!(
        text,
        "the saved queue state is inconsistent: fill 5 and cursor 0 in a queue of 4"
    );
    let text = message(KeyQueue::restore(4, 2, 2, 2, &[0.0f32; 3]));
    assert_eq!(text, "`keys` holds 3 elements; its shape needs 4");
}

#[test]
fn an_engine_needs_a_thread() {
    let text = message(CpuEngine::with_threads(0));
    assert!(text.starts_with("`threads` is 0: "), "{text}");
}
