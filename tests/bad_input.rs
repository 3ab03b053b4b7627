//! Bad input is a typed error whose message names the argument; outputs stay untouched.

use infonce::losses::{LogScale, RowRule, SetForm};
use infonce::{
    Contrast, CpuEngine, Engine, Error, Gradients, Ids, Inputs, KeyQueue, MemoryBank, Miner,
    MomentumSchedule, MomentumTensor, NO_POSITIVE, Positives, RowStatistics, Rows, RowsMut,
    SetStatistics, Statistics, TopK, Triplet, Triplets, semi_hard,
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

/// The messages of forward, value_and_grad and backward, given the sizes of the inputs (z; q, k; or q, own_key, queue)
/// and of the gradients. Panics when a verb returned an error and had written gradients.
fn messages(
    contrast: &Contrast,
    sizes: &[Size],
    dq_size: Size,
    dk_size: Option<Size>,
    statistics: &Statistics,
) -> Result<[String; 3], Error> {
    let storage: Vec<Vec<f32>> = sizes.iter().map(|(n, d)| vec![0.5; n * d]).collect();
    let mut views = Vec::new();
    for (data, &(rows, dim)) in storage.iter().zip(sizes) {
        views.push(Rows::new(data, rows, dim)?);
    }
    let problem = match contrast.on(inputs(&views, Positives::DIAGONAL)) {
        Ok(problem) => problem,
        Err(error) => return Ok([(); 3].map(|()| error.to_string())),
    };
    let engine = CpuEngine::new();
    let mut messages = vec![message(engine.forward(&problem))];
    for backward in [false, true] {
        let untouched = |(rows, dim): Size| vec![UNTOUCHED; rows * dim];
        let (mut dq, mut dk) = (untouched(dq_size), dk_size.map(untouched));
        let dk_view = match (&mut dk, dk_size) {
            (Some(dk), Some((rows, dim))) => Some(RowsMut::new(dk, rows, dim)?),
            _ => None,
        };
        let gradients = Gradients::new(RowsMut::new(&mut dq, dq_size.0, dq_size.1)?, dk_view);
        let message = match backward {
            false => message(engine.value_and_grad(&problem, 1.0, gradients)),
            true => message(engine.backward(&problem, statistics, 1.0, gradients)),
        };
        let mut written = dq.iter().chain(dk.iter().flatten());
        let is_untouched = written.all(|&x| x == UNTOUCHED);
        assert!(message == "accepted" || is_untouched, "{message}");
        messages.push(message);
    }
    Ok(messages.try_into().expect("three verbs"))
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
            ..RowStatistics::default()
        },
        columns: None,
    }
}

/// The statistics of rows with sets.
fn set_statistics(rows: usize) -> Statistics {
    let mut statistics = statistics(rows);
    statistics.rows.sets = Some(SetStatistics {
        positives_lse: vec![1.0; rows],
        positives: vec![1.0; rows],
        negatives_mean: vec![0.0; rows],
        negatives: vec![1.0; rows],
    });
    statistics
}

/// The message of an option that is refused.
fn unsupported(option: &str, reason: &str) -> String {
    format!("`{option}` is not supported here: {reason}")
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
    let info_nce = Contrast::info_nce(0.1)?;
    let moco = Contrast::moco(0.1)?;
    let clip = Contrast::clip(10.0)?;
    let refused = |contrast: &Contrast, sizes: &[Size], expected: String| {
        let found = messages(contrast, sizes, sizes[0], None, &statistics(sizes[0].0))?;
        assert_eq!(found, [(); 3].map(|()| expected.clone()));
        Test::Ok(())
    };
    let odd = "`z` has 3 rows; two views of each image are an even number of rows";
    refused(&nt_xent, &[(3, 2)], odd.into())?;
    for (contrast, matrices, given, needed) in [
        (&nt_xent, 2, "Pair", "NT-Xent is defined on Inputs::Shared"),
        (&info_nce, 1, "Shared", "InfoNCE is defined on Inputs::Pair"),
        (&clip, 3, "Queue", "CLIP is defined on Inputs::Pair"),
        (&moco, 2, "Pair", "MoCo is defined on Inputs::Queue"),
        (
            &Contrast::sup_con(0.1)?,
            1,
            "Shared",
            "SupCon is defined on Inputs::Labelled",
        ),
    ] {
        let expected = format!("`inputs` is Inputs::{given}; {needed}");
        refused(contrast, &[(4, 2); 3][..matrices], expected)?;
    }
    for (contrast, inputs, argument) in [
        (&info_nce, &[(4, 2), (4, 3)][..], "k"),
        (&clip, &[(4, 2), (4, 3)], "k"),
        (&moco, &[(4, 2), (4, 3), (4, 2)], "own_key"),
        (&moco, &[(4, 2), (4, 2), (4, 3)], "queue"),
    ] {
        let expected = format!("`{argument}` has dimension 3; the anchors have 2");
        refused(contrast, inputs, expected)?;
    }
    for (contrast, inputs, argument) in [
        (&moco, &[(4, 2), (5, 2), (4, 2)][..], "own_key"),
        (&clip, &[(4, 2), (5, 2)], "k"),
    ] {
        let expected = format!("`{argument}` has 5 rows; it must have 4");
        refused(contrast, inputs, expected)?;
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

    // The first row of a label would be its own positive.
    let z = Rows::new(&[0.5f32; 8], 4, 2)?;
    let positives = Positives::Labels {
        anchors: &labels[..],
        candidates: &labels[..],
    };
    let labelled = Inputs::Labelled { z, positives };
    let of_one = Contrast::sup_con(0.1)?.with_rule(RowRule::SOFTMAX)?;
    let text = message(of_one.on(labelled));
    assert!(
        text.contains("a rule of one positive needs indices"),
        "{text}"
    );
    assert_eq!(message(Contrast::sup_con(0.1)?.on(labelled)), "accepted");
    Ok(())
}

#[test]
fn lists_of_positives_must_ascend_and_name_candidates() -> Test {
    let data = [0.5f32; 8];
    let z = Rows::new(&data, 4, 2)?;
    let sup_con = Contrast::sup_con(0.1)?;
    let posed = |starts: &[u32], candidates: &[u32]| {
        let positives = Positives::Lists { starts, candidates };
        message(sup_con.on(Inputs::Labelled { z, positives }))
    };
    let no_list =
        |row: usize, reason: &str| format!("`positives` has no list for row {row}: {reason}");
    let places = "its places are not ascending places of `candidates`";
    for (starts, candidates, expected) in [
        (
            &[0, 1, 2, 3][..],
            &[1, 2, 3][..],
            "`positives.starts` holds 4 elements; its shape needs 5".into(),
        ),
        (
            &[1, 1, 1, 1, 1],
            &[1],
            no_list(0, "the first list does not start at 0"),
        ),
        (&[0, 2, 1, 3, 3], &[1, 2, 3], no_list(1, places)),
        (&[0, 1, 2, 9, 9], &[1, 2, 3], no_list(2, places)),
        (&[0, 0, 0, 0, u32::MAX], &[1], no_list(3, places)),
        (
            &[0, 0, 2, 2, 2],
            &[2, 1],
            no_list(1, "its candidates are not ascending"),
        ),
        (
            &[0, 0, 0, 2, 2],
            &[1, 1],
            no_list(2, "its candidates are not ascending"),
        ),
        (
            &[0, 0, 0, 1, 3],
            &[1, 2, 4],
            "`positives[3]` is 4; there are 4 candidates".into(),
        ),
        (
            &[0, 1, 1, 1, 1],
            &[NO_POSITIVE],
            "`positives[0]` is 4294967295; there are 4 candidates".into(),
        ),
        (
            &[0, 1, 1, 1, 1],
            &[1, 2],
            "`positives.candidates` holds 2 elements; its shape needs 1".into(),
        ),
        (&[0, 0, 0, 0, 0], &[], "accepted".into()),
        (&[0, 2, 2, 3, 4], &[1, 3, 0, 3], "accepted".into()),
    ] {
        assert_eq!(
            posed(starts, candidates),
            expected,
            "{starts:?} {candidates:?}"
        );
    }
    let positives = Positives::Lists {
        starts: &[0, 1, 2, 3, 4][..],
        candidates: &[0, 1, 2, 3],
    };
    let of_one = Contrast::info_nce(0.1)?.on(Inputs::Pair {
        q: z,
        k: z,
        positives,
    });
    let expected = unsupported("positives", "a list of positives needs a rule of sets");
    assert_eq!(message(of_one), expected);
    Ok(())
}

#[test]
fn ids_weights_and_biases_must_be_one_a_row() -> Test {
    let data = [0.5f32; 8];
    let (q, k) = (Rows::new(&data[..6], 3, 2)?, Rows::new(&data, 4, 2)?);
    let posed = || Contrast::info_nce(0.1)?.on(Inputs::pair(q, k));
    let ids = [0; 4];
    for (anchors, candidates, expected) in [
        (2, 4, "`ids.anchors` has 2 rows; it must have 3"),
        (3, 3, "`ids.candidates` has 3 rows; it must have 4"),
        (3, 4, "accepted"),
    ] {
        let (anchors, candidates) = (&ids[..anchors], &ids[..candidates]);
        let ids = Ids {
            anchors,
            candidates,
        };
        assert_eq!(message(posed()?.excluding(ids)), expected);
    }
    for (weights, expected) in [
        (
            &[1.0, 1.0][..],
            "`row_weights` has 2 rows; it must have 3".to_owned(),
        ),
        (
            &[1.0, -0.5, 1.0],
            "`row_weights[1]` is -0.5; it must be finite and at least 0".into(),
        ),
        (
            &[1.0, 0.0, f32::NAN],
            "`row_weights[2]` is NaN; it must be finite and at least 0".into(),
        ),
        (
            &[f32::INFINITY; 3],
            "`row_weights[0]` is inf; it must be finite and at least 0".into(),
        ),
        (&[0.0; 3], "accepted".into()),
    ] {
        assert_eq!(message(posed()?.with_row_weights(weights)), expected);
    }
    for (bias, expected) in [
        (
            &[1.0; 3][..],
            "`column_bias` has 3 rows; it must have 4".to_owned(),
        ),
        (
            &[1.0, 0.0, f32::NEG_INFINITY, 0.0],
            "`column_bias[2]` is -inf; it must be finite".into(),
        ),
        (&[1.0, -9.0, 0.0, 2.0], "accepted".into()),
    ] {
        assert_eq!(message(posed()?.with_column_bias(bias)), expected);
    }
    Ok(())
}

#[test]
fn options_that_exclude_each_other_are_named() -> Test {
    let sets = |form, smoothing| RowRule::Sets { form, smoothing };
    let of_sets = sets(SetForm::MeanOutside, 0.0);
    let hard = RowRule::HardNegatives {
        beta: 1.0,
        prior: 0.1,
    };
    let (clip, moco) = (Contrast::clip(10.0)?, Contrast::moco(0.1)?);
    let (debiased, sup_con) = (Contrast::debiased(0.5, 0.1)?, Contrast::sup_con(0.1)?);
    let columns = "columns have a loss too";
    let counts = "the rule counts on M negatives in every row";
    for (refused, option, reason) in [
        (clip.with_rule(of_sets), "rule", columns),
        (clip.with_rule(hard), "rule", columns),
        (clip.with_label_smoothing(0.1), "smoothing", columns),
        (clip.with_guard(0.1), "guard", columns),
        (
            moco.with_rule(of_sets),
            "rule",
            "an own key is one positive, not a set",
        ),
        (
            moco.with_label_smoothing(0.1),
            "smoothing",
            "an own key is one positive, not a set",
        ),
        (
            sup_con.with_guard(0.1),
            "guard",
            "a set has no one positive to compare with",
        ),
        (debiased.with_guard(0.1), "guard", counts),
        (
            debiased.with_label_smoothing(0.1),
            "smoothing",
            "the rule is no cross-entropy",
        ),
        (
            Contrast::dcl(0.1)?.with_label_smoothing(0.1),
            "smoothing",
            "the rule is no cross-entropy",
        ),
    ] {
        assert_eq!(message(refused), unsupported(option, reason));
    }
    let refused = sup_con.with_rule(sets(SetForm::MeanInside, 0.5));
    assert_eq!(
        message(refused),
        "`smoothing` is 0.5; it must be 0 in this form"
    );

    let data = [0.5f32; 8];
    let z = Rows::new(&data, 4, 2)?;
    let ids = Ids {
        anchors: &[0; 4][..],
        candidates: &[0; 4],
    };
    let shared = |contrast: Contrast| contrast.on(Inputs::Shared { z });
    for (refused, option, reason) in [
        (shared(debiased)?.excluding(ids), "ids", counts),
        (
            shared(debiased.with_rule(hard)?)?.excluding(ids),
            "ids",
            counts,
        ),
        (clip.on(Inputs::pair(z, z))?.excluding(ids), "ids", columns),
        (
            clip.on(Inputs::pair(z, z))?.with_column_bias(&[0.0; 4]),
            "column_bias",
            columns,
        ),
        (
            moco.pose([z; 3], Positives::DIAGONAL)?
                .with_column_bias(&[0.0; 4]),
            "column_bias",
            "an own key is no candidate and would have none",
        ),
    ] {
        assert_eq!(message(refused), unsupported(option, reason));
    }
    Ok(())
}

#[test]
fn a_gradient_of_biases_needs_biases_and_their_shape() -> Test {
    let data = [0.5f32; 8];
    let (q, k) = (Rows::new(&data[..6], 3, 2)?, Rows::new(&data, 4, 2)?);
    let plain = Contrast::info_nce(0.1)?.on(Inputs::pair(q, k))?;
    let biased = plain.with_column_bias(&[0.5; 4])?;
    let none = unsupported("gradients.dbias", "the problem has no column bias");
    for (problem, rows, dim, expected) in [
        (&plain, 1, 4, none.as_str()),
        (
            &biased,
            1,
            3,
            "`gradients.dbias` has dimension 3; the anchors have 4",
        ),
        (
            &biased,
            2,
            4,
            "`gradients.dbias` has 2 rows; it must have 1",
        ),
        (&biased, 1, 4, "accepted"),
    ] {
        let (mut dq, mut dbias) = ([UNTOUCHED; 6], vec![UNTOUCHED; rows * dim]);
        let gradients = Gradients::new(RowsMut::new(&mut dq, 3, 2)?, None)
            .with_bias(RowsMut::new(&mut dbias, rows, dim)?);
        let text = message(CpuEngine::new().value_and_grad(problem, 1.0, gradients));
        assert_eq!(text, expected);
        let mut written = dq.iter().chain(&dbias);
        assert_eq!(written.all(|&x| x == UNTOUCHED), text != "accepted");
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
    let refused = |contrast: &Contrast, sizes: &[Size], dq, dk, expected: &str| {
        let found = messages(contrast, sizes, dq, dk, &statistics(sizes[0].0))?;
        assert_eq!(found, ["accepted", expected, expected]);
        Test::Ok(())
    };
    for (dq, dk, argument, wrong) in [
        ((4, 2), None, "dq", "4 rows; it must have 3"),
        ((3, 1), None, "dq", "dimension 1; the anchors have 2"),
        ((3, 2), Some((3, 2)), "dk", "3 rows; it must have 4"),
        (
            (3, 2),
            Some((4, 5)),
            "dk",
            "dimension 5; the anchors have 2",
        ),
    ] {
        let expected = format!("`gradients.{argument}` has {wrong}");
        refused(&info_nce, &[(3, 2), (4, 2)], dq, dk, &expected)?;
    }
    let expected = "`gradients.dk` was asked for; NT-Xent has no such gradient (anchors and \
                    candidates are one matrix; dq holds its whole gradient)";
    refused(&nt_xent, &[(4, 2)], (4, 2), Some((4, 2)), expected)?;
    let expected = "`gradients.dk` was asked for; MoCo has no such gradient (keys and queue carry \
                    no gradient)";
    let queue = [(4, 2), (4, 2), (6, 2)];
    refused(&moco, &queue, (4, 2), Some((6, 2)), expected)
}

#[test]
fn only_statistics_of_the_same_rows_merge() {
    let engine = CpuEngine::new();
    let mut uneven = statistics(3);
    uneven.rows.negatives_lse.pop();
    let mut uneven_set = set_statistics(3);
    if let Some(sets) = &mut uneven_set.rows.sets {
        sets.negatives.pop();
    }
    for (mut into, others, name) in [
        (statistics(3), statistics(2), "others"),
        (statistics(3), uneven.clone(), "others"),
        (uneven, statistics(3), "statistics"),
        (set_statistics(3), uneven_set.clone(), "others"),
        (uneven_set, set_statistics(3), "statistics"),
    ] {
        let before = into.clone();
        let text = message(engine.merge(&mut into, &others));
        assert_eq!(text, format!("`{name}.rows` has 2 rows; it must have 3"));
        assert_eq!(into, before);
    }
    // Those of sets, and of two exponents, merge with their like alone.
    let mut of_two = statistics(3);
    of_two.rows.second_lse = vec![0.0; 3];
    for (mut into, others, given, expected) in [
        (statistics(3), set_statistics(3), 3, 0),
        (set_statistics(3), statistics(3), 0, 3),
        (statistics(3), of_two.clone(), 3, 0),
        (of_two, statistics(3), 0, 3),
    ] {
        let before = into.clone();
        let text = message(engine.merge(&mut into, &others));
        let refused = format!("`others.rows` has {given} rows; it must have {expected}");
        assert_eq!(text, refused);
        assert_eq!(into, before);
    }
}

#[test]
fn backward_needs_the_statistics_of_these_rows_and_columns() -> Test {
    let info_nce = Contrast::info_nce(0.1)?;
    let clip = Contrast::clip(10.0)?;
    let mut uneven = statistics(3);
    uneven.rows.positive.pop();
    let mut short_columns = statistics(3);
    short_columns.columns = Some(statistics(2).rows);
    for (contrast, statistics, argument, rows, expected) in [
        (&info_nce, statistics(2), "rows", 2, 3),
        (&info_nce, uneven, "rows", 2, 3),
        (&clip, statistics(4), "rows", 4, 3),
        (&clip, statistics(3), "columns", 0, 3),
        (&clip, short_columns, "columns", 2, 3),
    ] {
        let refused = format!("`statistics.{argument}` has {rows} rows; it must have {expected}");
        let (sizes, dk) = ([(3, 2), (3, 2)], Some((3, 2)));
        let found = messages(contrast, &sizes, (3, 2), dk, &statistics)?;
        assert_eq!(found, ["accepted", "accepted", &refused]);
    }
    let of_sets = info_nce.with_label_smoothing(0.1)?;
    let hard = info_nce.with_rule(RowRule::HardNegatives {
        beta: 1.0,
        prior: 0.1,
    })?;
    for (contrast, statistics, given, expected) in [
        (&of_sets, statistics(3), 0, 3),
        (&hard, statistics(3), 0, 3),
        (&info_nce, set_statistics(3), 3, 0),
    ] {
        let refused = format!("`statistics.rows` has {given} rows; it must have {expected}");
        let found = messages(
            contrast,
            &[(3, 2), (3, 2)],
            (3, 2),
            Some((3, 2)),
            &statistics,
        )?;
        assert_eq!(found, ["accepted", "accepted", &refused]);
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
    // Without itself, a single row has no candidate.
    let one = Rows::new(&a[..2], 1, 2)?;
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
    for (rows, dim, norms, expected) in [
        (2, 2, 3, "`y` has 2 rows; it must have 3"),
        (3, 1, 3, "`y` has dimension 1; the anchors have 2"),
        (3, 2, 4, "`norms` has 4 rows; it must have 3"),
    ] {
        assert_eq!(forward(rows, dim, norms, 1e-6)?, expected);
    }
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
    for (norms, dy, dx, expected) in [
        (2, shape, shape, "`norms` has 2 rows; it must have 3"),
        (3, (2, 2), shape, "`dy` has 2 rows; it must have 3"),
        (3, (3, 4), shape, "`dy` has dimension 4; the anchors have 2"),
        (3, shape, (4, 2), "`dx` has 4 rows; it must have 3"),
        (3, shape, (3, 1), "`dx` has dimension 1; the anchors have 2"),
    ] {
        assert_eq!(backward(norms, dy, dx, 1e-6)?, expected);
    }
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
    for (query, shadow, argument, given) in [(4, 3, "query", 4), (3, 2, "shadow", 2)] {
        let expected = format!("`{argument}` holds {given} elements; its shape needs 3");
        assert_eq!(update(0.9, query, shadow), expected);
    }
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
fn update_rows_names_what_does_not_fit() -> Test {
    let engine = CpuEngine::new();
    let update = |dim: usize, rows: &[u32], momentum: f32| -> Result<String, Error> {
        let mut bank = vec![UNTOUCHED; 3 * 2];
        let keys = vec![0.5f32; 2 * dim];
        let (to, keys) = (RowsMut::new(&mut bank, 3, 2)?, Rows::new(&keys, 2, dim)?);
        let text = message(engine.update_rows(to, rows, keys, momentum));
        let is_untouched = bank.iter().all(|&x| x == UNTOUCHED);
        assert!(text == "accepted" || is_untouched, "{text}");
        Ok(text)
    };
    let dimension = "`keys` has dimension 3; the anchors have 2";
    assert_eq!(update(3, &[0, 1], 0.5)?, dimension);
    assert_eq!(update(2, &[0], 0.5)?, "`rows` has 1 rows; it must have 2");
    assert_eq!(update(2, &[0, 3], 0.5)?, "`rows[1]` is 3; there are 3 rows");
    assert_eq!(
        update(2, &[NO_POSITIVE - 1, 0], 0.5)?,
        "`rows[0]` is 4294967294; there are 3 rows"
    );
    for momentum in [-0.1, 1.5, f32::NAN] {
        let text = update(2, &[0, 1], momentum)?;
        assert!(text.starts_with("`momentum` is "), "{text}");
    }
    assert_eq!(update(2, &[NO_POSITIVE, 2], 0.5)?, "accepted");
    Ok(())
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
fn state_that_no_address_space_holds_is_refused() {
    const MANY: usize = 1 << 63;
    for (text, argument) in [
        (message(KeyQueue::<f32>::new(MANY, 2)), "capacity"),
        (message(KeyQueue::<f32>::new(MANY / 4, 1)), "capacity"),
        (message(MemoryBank::<f32>::random(MANY, 2, 0)), "rows"),
    ] {
        assert!(text.starts_with(&format!("`{argument}` is ")), "{text}");
    }
    let text = message(KeyQueue::<f32>::restore(MANY, 2, MANY, 0, &[]));
    assert!(text.starts_with('`'), "{text}");
}

#[test]
fn an_engine_needs_a_thread() {
    let text = message(CpuEngine::with_threads(0));
    assert!(text.starts_with("`threads` is 0: "), "{text}");
}

#[test]
fn miners_name_settings_and_positives_that_do_not_fit() -> Test {
    for (depth, negatives) in [(200, 0), (200, 201), (0, 0)] {
        let text = message(Miner::new(depth, negatives, 1));
        let expected = format!("`negatives` is {negatives}; it must be from 1 to `depth`");
        assert_eq!(text, expected);
    }
    let data = [0.5f32; 8];
    let (queries, corpus) = (Rows::new(&data[..6], 3, 2)?, Rows::new(&data, 4, 2)?);
    let mined = |positives| {
        let miner = Miner::new(3, 3, 1)?;
        miner.mine::<_, f32>(&CpuEngine::new(), queries, corpus, positives, 0)
    };
    let labels = [1, 1, 2, 3];
    let of_labels = |anchors, candidates| Positives::Labels {
        anchors: &labels[..anchors],
        candidates: &labels[..candidates],
    };
    for (positives, expected) in [
        (
            Positives::Index(&[0, 1][..]),
            "`positives` has 2 rows; it must have 3",
        ),
        (
            Positives::Index(&[0, 4, 1]),
            "`positives[1]` is 4; there are 4 candidates",
        ),
        (
            of_labels(2, 4),
            "`positives.anchors` has 2 rows; it must have 3",
        ),
        (
            of_labels(3, 3),
            "`positives.candidates` has 3 rows; it must have 4",
        ),
        (
            of_labels(3, 4),
            "query 0 has 2 candidates that are not its positives; 3 negatives are wanted",
        ),
        (Positives::Index(&[0, NO_POSITIVE, 3]), "accepted"),
        (Positives::Offset(i64::MAX), "accepted"),
    ] {
        assert_eq!(message(mined(positives)), expected);
    }
    Ok(())
}

#[test]
fn semi_hard_refuses_lists_and_labels_of_other_sizes() {
    let selected = |indices: usize, scores: usize, positives: &[u32], labels: usize| {
        let best = TopK {
            indices: (0..indices as u32).collect(),
            scores: vec![0.5; scores],
        };
        let labels = vec![1; labels];
        let excluded = Positives::Labels {
            anchors: &[1, 2][..],
            candidates: &labels,
        };
        message(semi_hard(&best, positives, excluded))
    };
    for (indices, scores, positives, labels, expected) in [
        (
            5,
            5,
            &[0, 1][..],
            9,
            "`best.indices` holds 5 elements; its shape needs 4",
        ),
        (
            4,
            3,
            &[0, 1],
            9,
            "`best.scores` holds 3 elements; its shape needs 4",
        ),
        (
            4,
            4,
            &[],
            9,
            "`best.indices` holds 4 elements; its shape needs 0",
        ),
        (
            4,
            4,
            &[0],
            9,
            "`excluded.anchors` has 2 rows; it must have 1",
        ),
        (
            4,
            4,
            &[0, 1],
            3,
            "`excluded.candidates` has 3 rows; it must have 4",
        ),
        (4, 4, &[0, 1], 4, "accepted"),
        (4, 4, &[NO_POSITIVE, 8], 9, "accepted"),
    ] {
        assert_eq!(selected(indices, scores, positives, labels), expected);
    }
}

#[test]
fn triplets_refuse_shapes_and_indices_that_do_not_fit() -> Test {
    for bad in [-0.5, f32::NAN, f32::INFINITY] {
        let text = message(Triplet::new(bad));
        assert_eq!(
            text,
            format!("`margin` is {bad}; it must be finite and at least 0")
        );
    }
    let data = [0.5f32; 12];
    let q = Rows::new(&data[..6], 3, 2)?;
    let posed = |k: Option<Size>, positives: &[u32], negatives: &[u32]| {
        let k = k.map(|(rows, dim)| Rows::new(&data[..rows * dim], rows, dim));
        let triplets = Triplets {
            q,
            k: k.transpose()?,
            positives,
            negatives,
        };
        Triplet::default().on(triplets).map(|_| ())
    };
    let fine = &[0, 1, NO_POSITIVE][..];
    for (k, positives, negatives, expected) in [
        (
            Some((4, 3)),
            fine,
            fine,
            "`k` has dimension 3; the anchors have 2",
        ),
        (
            None,
            &fine[..2],
            fine,
            "`positives` has 2 rows; it must have 3",
        ),
        (
            None,
            fine,
            &fine[..1],
            "`negatives` has 1 rows; it must have 3",
        ),
        (
            None,
            &[3, 0, 0],
            fine,
            "`positives[0]` is 3; there are 3 candidates",
        ),
        (
            Some((4, 2)),
            &[3, 0, 0],
            &[0, 0, 4],
            "`negatives[2]` is 4; there are 4 candidates",
        ),
        (Some((4, 2)), &[3, 0, 0], &[0, 0, 3], "accepted"),
    ] {
        assert_eq!(message(posed(k, positives, negatives)), expected);
    }

    let refused = |k: Option<Size>, dq: Size, dk: Option<Size>| -> Result<String, Error> {
        let k = k.map(|(rows, dim)| Rows::new(&data[..rows * dim], rows, dim));
        let triplets = Triplets {
            q,
            k: k.transpose()?,
            positives: fine,
            negatives: fine,
        };
        let problem = Triplet::default().on(triplets)?;
        let (mut of_q, mut of_k) = ([UNTOUCHED; 12], [UNTOUCHED; 12]);
        let of_dk = dk.map(|(rows, dim)| RowsMut::new(&mut of_k[..rows * dim], rows, dim));
        let gradients = Gradients::new(
            RowsMut::new(&mut of_q[..dq.0 * dq.1], dq.0, dq.1)?,
            of_dk.transpose()?,
        );
        let text = message(CpuEngine::new().triplet(&problem, 1.0, gradients));
        let mut written = of_q.iter().chain(&of_k);
        assert!(written.all(|&x| x == UNTOUCHED), "{text}");
        Ok(text)
    };
    let of_one = "`gradients.dk` was asked for; the triplet loss without `k` has no such gradient \
                  (anchors and candidates are one matrix; dq holds its whole gradient)";
    for (k, dq, dk, expected) in [
        (
            None,
            (2, 2),
            None,
            "`gradients.dq` has 2 rows; it must have 3",
        ),
        (
            None,
            (3, 3),
            None,
            "`gradients.dq` has dimension 3; the anchors have 2",
        ),
        (None, (3, 2), Some((3, 2)), of_one),
        (
            Some((4, 2)),
            (3, 2),
            Some((3, 2)),
            "`gradients.dk` has 3 rows; it must have 4",
        ),
        (
            Some((4, 2)),
            (3, 2),
            Some((4, 3)),
            "`gradients.dk` has dimension 3; the anchors have 2",
        ),
    ] {
        assert_eq!(refused(k, dq, dk)?, expected);
    }
    Ok(())
}
