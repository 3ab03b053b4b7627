//! Contrastive accuracy equals a full ranking.

use super::*;

/// Accuracy by its definition: all candidates of an anchor sorted, equal ones by index. An anchor's row lists, in the order
/// of candidates, similarities and whether each is a positive; excluded candidates are left out.
fn plain_accuracy(anchors: &[Vec<(f64, bool)>]) -> Accuracy {
    let places = anchors.iter().filter_map(|row| {
        let mut sorted = row.clone();
        sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
        sorted.iter().position(|&(_, is_positive)| is_positive)
    });
    let places: Vec<usize> = places.collect();
    let share = |below: usize| {
        let hits = places.iter().filter(|&&place| place < below);
        hits.count() as f64 / places.len() as f64
    };
    Accuracy {
        top1: share(1),
        top5: share(5),
        counted: places.len(),
        left_out: anchors.len() - places.len(),
    }
}

/// The candidates of each anchor for [`plain_accuracy`].
fn ranked(
    [q, k]: [&[f32]; 2],
    excludes_self: bool,
    is_positive: impl Fn(usize, usize) -> bool,
) -> Vec<Vec<(f64, bool)>> {
    let (q, k) = (wide(rows(q, DIM)), wide(rows(k, DIM)));
    let row = |i: usize| {
        let candidates = (0..k.len()).filter(|&j| !(excludes_self && i == j));
        let candidates = candidates.map(|j| (product(&q[i], &k[j]), is_positive(i, j)));
        candidates.collect()
    };
    (0..q.len()).map(row).collect()
}

#[test]
fn accuracy_equals_a_full_ranking_with_every_kind_of_positive() -> Test {
    on_engines!(every_kind_of_positive)
}

fn every_kind_of_positive(engine: &impl Engine<Memory = HostMemory>) -> Test {
    let (n, m) = (42, 61);
    let (q, k) = (whole(n * DIM, 1), whole(m * DIM, 2));
    let inside = RowRule::Sets {
        form: SetForm::MeanInside,
        smoothing: 0.0,
    };
    let check = |problem: &Problem<Rows<'_, f32>>, anchors: &[Vec<(f64, bool)>], what: &str| {
        let expected = plain_accuracy(anchors);
        assert_eq!(
            diagnostics::accuracy(engine, problem).unwrap(),
            expected,
            "{what}"
        );
        let Accuracy { top1, top5, .. } = expected;
        assert!(
            0.0 < top1 && top1 < top5 && top5 < 1.0,
            "{what}: {expected:?}"
        );
    };

    // Positives that the anchors resemble: q_i is noise plus candidate (i + 23) mod m.
    let of = |i: usize| (i + 23) % m;
    let mut near_k = q.clone();
    for (i, row) in near_k.chunks_mut(DIM).enumerate() {
        let other = &k[of(i) * DIM..][..DIM];
        row.iter_mut().zip(other).for_each(|(x, other)| *x += other);
    }
    let q = &near_k[..];
    let index: Vec<u32> = (0..n)
        .map(|i| {
            if i % 6 == 0 {
                NO_POSITIVE
            } else {
                of(i) as u32
            }
        })
        .collect();
    let label = |j: usize| {
        if j % 7 == 2 {
            NO_POSITIVE
        } else {
            (j % 23) as u32
        }
    };
    let of_anchors: Vec<u32> = (0..n).map(|i| label(of(i))).collect();
    let of_candidates: Vec<u32> = (0..m).map(label).collect();
    let labels = Positives::Labels {
        anchors: &of_anchors[..],
        candidates: &of_candidates[..],
    };
    let first = |i: usize| (0..m).find(|&j| of_candidates[j] == of_anchors[i]);
    let has_label = |i: usize| of_anchors[i] != NO_POSITIVE;
    let lists: Vec<Vec<u32>> = (0..n)
        .map(|i| match i % 4 {
            0 => vec![],
            _ => {
                let mut list = vec![of(i) as u32, ((of(i) + 9) % m) as u32];
                list.sort_unstable();
                list
            }
        })
        .collect();
    let listed = lists.concat();
    let starts: Vec<u32> = (0..=n).map(|i| lists[..i].concat().len() as u32).collect();
    let of_lists = Positives::Lists {
        starts: &starts[..],
        candidates: &listed[..],
    };
    let one = Contrast::info_nce(0.2)?;
    let sets = one.with_rule(inside)?;
    type IsPositive<'a> = &'a dyn Fn(usize, usize) -> bool;
    let kinds: [(Contrast, Positives<&[u32]>, IsPositive, &str); 6] = [
        (one, Positives::Offset(23), &|i, j| j == i + 23, "offset"),
        (
            one,
            Positives::Index(&index),
            &|i, j| index[i] == j as u32,
            "index",
        ),
        (
            one,
            labels,
            &|i, j| has_label(i) && first(i) == Some(j),
            "first of a label",
        ),
        (
            sets,
            labels,
            &|i, j| has_label(i) && of_candidates[j] == of_anchors[i],
            "labels",
        ),
        (
            sets,
            of_lists,
            &|i, j| lists[i].contains(&(j as u32)),
            "lists",
        ),
        (
            sets,
            Positives::Index(&index),
            &|i, j| index[i] == j as u32,
            "sets of one",
        ),
    ];
    for (contrast, positives, is_positive, what) in kinds {
        let inputs = Inputs::Pair {
            q: rows(q, DIM),
            k: rows(&k, DIM),
            positives,
        };
        check(
            &contrast.on(inputs)?,
            &ranked([q, &k], false, is_positive),
            what,
        );
    }

    // Anchors that are candidates.
    let mut z = whole(n * DIM, 3);
    let (views, others) = z.split_at_mut(n / 2 * DIM);
    views.iter_mut().zip(others).for_each(|(x, y)| *x += *y);
    let shared = Inputs::Shared { z: rows(&z, DIM) };
    let other_view = |i: usize, j: usize| j == (i + n / 2) % n;
    let anchors = ranked([&z, &z], true, other_view);
    check(&Contrast::nt_xent(0.5)?.on(shared)?, &anchors, "other view");
    let classes: Vec<u32> = (0..n).map(|i| label(i % (n / 2))).collect();
    let labelled = Inputs::Labelled {
        z: rows(&z, DIM),
        positives: Positives::Labels {
            anchors: &classes[..],
            candidates: &classes[..],
        },
    };
    let anchors = ranked([&z, &z], true, |i, j| {
        classes[i] != NO_POSITIVE && classes[i] == classes[j]
    });
    check(&Contrast::sup_con(0.1)?.on(labelled)?, &anchors, "classes");

    // Own keys: the first candidate, so that it ranks before an equal key of the queue.
    let own: Vec<f32> = (0..n)
        .flat_map(|i| k[of(i) * DIM..][..DIM].to_vec())
        .collect();
    let queue = Inputs::Queue {
        q: rows(q, DIM),
        own_key: rows(&own, DIM),
        queue: rows(&k, DIM),
    };
    let mut anchors = ranked([q, &k], false, |_, _| false);
    let of_own = ranked([q, &own], false, |_, _| true);
    for (i, row) in anchors.iter_mut().enumerate() {
        row.insert(0, of_own[i][i]);
    }
    check(&Contrast::moco(0.07)?.on(queue)?, &anchors, "own keys");
    Ok(())
}

#[test]
fn accuracy_without_a_ranking_is_refused() -> Test {
    let engine = CpuEngine::new();
    let x = whole(4 * DIM, 7);
    let problem = |contrast: Contrast| contrast.on(Inputs::pair(rows(&x, DIM), rows(&x, DIM)));
    let info_nce = Contrast::info_nce(0.5)?;
    let ids = Ids {
        anchors: &[0, 1, 2, 3][..],
        candidates: &[0, 1, 2, 3][..],
    };
    let nowhere = Inputs::Pair {
        q: rows(&x, DIM),
        k: rows(&x, DIM),
        positives: Positives::Offset(4),
    };
    for (problem, option) in [
        (problem(info_nce.with_guard(0.0)?)?, "guard"),
        (problem(info_nce)?.excluding(ids)?, "ids"),
        (
            problem(info_nce)?.with_column_bias(&[0.0; 4])?,
            "column_bias",
        ),
        (info_nce.on(nowhere)?, "positives"),
    ] {
        let found = diagnostics::accuracy(&engine, &problem);
        assert!(matches!(found, Err(Error::Unsupported { option: of, .. }) if of == option));
    }
    let mut broken = x.clone();
    broken[2 * DIM + 3] = f32::NAN;
    let argument = "similarities";
    let inputs = Inputs::pair(rows(&broken, DIM), rows(&x, DIM));
    let found = diagnostics::accuracy(&engine, &info_nce.on(inputs)?);
    assert_eq!(found, Err(Error::NotFinite { argument, row: 2 }));
    let inputs = Inputs::Queue {
        q: rows(&x, DIM),
        own_key: rows(&broken, DIM),
        queue: rows(&x, DIM),
    };
    let found = diagnostics::accuracy(&engine, &Contrast::moco(0.1)?.on(inputs)?);
    assert_eq!(found, Err(Error::NotFinite { argument, row: 2 }));
    Ok(())
}
