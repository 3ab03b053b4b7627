//! Negatives from top-k search: those of [`Miner`] and of [`semi_hard`].

use infonce::{Matrix, Memory, Miner, TopK, semi_hard};

use super::*;

pub(super) fn promises<E: Engine>() -> [(&'static str, Promise<E>); 6] {
    [
        ("the hardest that are no positives are drawn", hardest),
        ("what is drawn is among the hardest in float64", among),
        ("each of the hardest is drawn as often", uniform),
        ("a seed and a step repeat a draw bit for bit", repeated),
        ("a semi-hard negative is just behind the positive", behind),
        ("without one the least similar listed is taken", fallback),
    ]
}

fn mined<E: Engine, T: Element>(
    engine: &E,
    miner: Miner,
    [queries, corpus]: [&Dense; 2],
    positives: Positives<&[u32]>,
    step: u64,
) -> Result<Vec<u32>, Error> {
    let memory = engine.memory();
    let [q, k] = [queries, corpus].map(rounded::<T>);
    let (q, k) = (memory.upload(&q)?, memory.upload(&k)?);
    let queries = memory.rows(&q, queries.rows(), queries.dim())?;
    let corpus = memory.rows(&k, corpus.rows(), corpus.dim())?;
    miner.mine::<E, T>(engine, queries, corpus, positives, step)
}

/// 40 rows of one element each: row j has similarity 7j mod 40 with a positive query, and its negative with a negative
/// one.
fn line() -> [Dense; 2] {
    [
        matrix(&[[1.0], [2.0], [-1.0]]),
        Dense::from_fn(40, 1, |j, _| (7 * j % 40) as f64),
    ]
}

/// The row whose similarity with a positive query is `place`-th from the highest: 23 is the inverse of 7 modulo 40.
fn ranked(place: usize) -> u32 {
    ((39 - place) * 23 % 40) as u32
}

/// With as many negatives as the depth, the set that is drawn has no chance in it.
fn hardest<E: Engine>(new: New<E>) -> Result<(), Error> {
    let (engine, [q, k]) = (&new()?, line());
    let sorted = |drawn: &[u32]| -> Vec<u32> {
        let mut drawn = drawn.to_vec();
        drawn.sort_unstable();
        drawn
    };
    let expect = |miner: Miner, positives, places: [&[usize]; 2], last: &[u32]| {
        let drawn = mined::<E, f32>(engine, miner, [&q, &k], positives, 3)?;
        let drawn: Vec<&[u32]> = drawn.chunks(drawn.len() / 3).collect();
        for (drawn, places) in drawn.iter().zip(places) {
            let expected: Vec<u32> = places.iter().map(|&place| ranked(place)).collect();
            assert_eq!(sorted(drawn), sorted(&expected));
        }
        assert_eq!(sorted(drawn[2]), sorted(last));
        Ok::<(), Error>(())
    };
    let three = Miner::new(3, 3, 1)?;
    // The third query's best are the rows of similarity 0, 1 and 2.
    let least = [0, 23, 6];
    let index = [ranked(1), ranked(7), NO_POSITIVE];
    expect(
        three,
        Positives::Index(&index[..]),
        [&[0, 2, 3], &[0, 1, 2]],
        &least,
    )?;
    // Every row of the query's label is excluded, wherever it ranks; a row without a label is not.
    let mut labels = [NO_POSITIVE; 40];
    for place in [0, 2, 3, 30] {
        labels[ranked(place) as usize] = 5;
    }
    labels[0] = 6;
    let positives = Positives::Labels {
        anchors: &[5, NO_POSITIVE, 6][..],
        candidates: &labels,
    };
    expect(three, positives, [&[1, 4, 5], &[0, 1, 2]], &[23, 6, 29])?;
    // Query i excludes row i, and the positive i + 1.
    let all_but_two = Miner::new(200, 38, 1)?.excluding_self();
    let drawn = mined::<E, f32>(engine, all_but_two, [&q, &k], Positives::Offset(1), 3)?;
    for (i, drawn) in drawn.chunks(38).enumerate() {
        let others = (0..40).filter(|&j| j as usize != i && j as usize != i + 1);
        assert_eq!(sorted(drawn), others.collect::<Vec<u32>>());
    }
    let refused = mined::<E, f32>(engine, Miner::new(200, 39, 1)?, [&q, &k], positives, 3);
    let message = "query 0 has 36 candidates that are not its positives; 39 negatives are wanted";
    assert_eq!(
        refused.map_err(|error| error.to_string()),
        Err(message.into())
    );
    Ok(())
}

/// Random rows of three ids, against a plain sort by float64 products: within 40 steps every one of the 12 hardest that
/// are not of the query's id is drawn, and no other.
fn among<E: Engine>(new: New<E>) -> Result<(), Error> {
    fn check<E: Engine, T: Element>(engine: &E) -> Result<(), Error> {
        let (n, m, dim, depth) = (9, 70, 6, 12);
        // Exact in every type.
        let exact =
            |x: &Dense| Dense::from_fn(x.rows(), dim, |i, d| (x.row(i)[d] * 64.0).round() / 64.0);
        let [q, k] = [(n, 51), (m, 52)].map(|(rows, seed)| exact(&unit(&randn(rows, dim, seed))));
        let id = |i: usize| (i % 3) as u32;
        let (of_queries, of_corpus): (Vec<u32>, Vec<u32>) =
            ((0..n).map(id).collect(), (0..m).map(id).collect());
        let positives = Positives::Labels {
            anchors: &of_queries[..],
            candidates: &of_corpus,
        };
        let mut drawn = vec![std::collections::BTreeSet::new(); n];
        for step in 0..40 {
            let found = mined::<E, T>(engine, Miner::new(depth, 4, 7)?, [&q, &k], positives, step)?;
            for (seen, found) in drawn.iter_mut().zip(found.chunks(4)) {
                seen.extend(found.iter().map(|&j| j as usize));
            }
        }
        for (i, drawn) in drawn.iter().enumerate() {
            let product = |j: usize| -> f64 {
                let pairs = q.row(i).iter().zip(k.row(j));
                pairs.map(|(q, k)| q * k).sum()
            };
            let mut others: Vec<usize> = (0..m).filter(|&j| id(j) != id(i)).collect();
            others.sort_by(|&a, &b| product(b).total_cmp(&product(a)).then(a.cmp(&b)));
            others.truncate(depth);
            others.sort_unstable();
            assert_eq!(
                drawn.iter().copied().collect::<Vec<_>>(),
                others,
                "query {i}"
            );
        }
        Ok(())
    }
    let engine = &new()?;
    in_all_types!(check::<E>(engine));
    Ok(())
}

/// 2 of the 5 hardest, in 100 steps of 30 queries: each is drawn 1,200 times, give or take 27 (one deviation).
fn uniform<E: Engine>(new: New<E>) -> Result<(), Error> {
    let (engine, [_, k]) = (&new()?, line());
    let q = Dense::from_fn(30, 1, |_, _| 1.0);
    let (mut counts, mut first) = ([0; 5], [0; 5]);
    let miner = Miner::new(5, 2, 99)?;
    for step in 0..100 {
        let none = Positives::Index(&[NO_POSITIVE; 30][..]);
        let drawn = mined::<E, f32>(engine, miner, [&q, &k], none, step)?;
        for pair in drawn.chunks(2) {
            assert_ne!(pair[0], pair[1]);
            let place = |drawn| (0..5).find(|&place| ranked(place) == drawn);
            let places = [pair[0], pair[1]].map(|j| place(j).expect("one of the five hardest"));
            first[places[0]] += 1;
            counts[places[0]] += 1;
            counts[places[1]] += 1;
        }
    }
    assert!(
        counts.iter().all(|count| (1090..1310).contains(count)),
        "{counts:?}"
    );
    // The order is random, too: 600 times, give or take 22.
    assert!(
        first.iter().all(|count| (510..690).contains(count)),
        "{first:?}"
    );
    Ok(())
}

fn repeated<E: Engine>(new: New<E>) -> Result<(), Error> {
    let (engine, [q, k]) = (&new()?, line());
    let index = Positives::Index(&[0, 1, 2][..]);
    let draw =
        |seed, step| mined::<E, f32>(engine, Miner::new(20, 6, seed)?, [&q, &k], index, step);
    let all = [draw(1, 0)?, draw(1, 1)?, draw(2, 0)?, draw(2, 1)?];
    for (place, drawn) in all.iter().enumerate() {
        assert!(!all[..place].contains(drawn), "{all:?}");
    }
    // The first two queries rank alike and still draw apart.
    assert_ne!(all[0][..6], all[0][6..12]);
    assert_eq!(draw(2, 1)?, all[3]);
    Ok(())
}

/// Rows of a batch against itself, three of each label, by the distances of a plain loop in float64.
fn behind<E: Engine>(new: New<E>) -> Result<(), Error> {
    let engine = &new()?;
    let (n, dim) = (30, 4);
    let z = rounded::<f32>(&unit(&randn(n, dim, 31)));
    let wide = Dense::from_fn(n, dim, |i, d| f64::from(z[i * dim + d]));
    let rows = Rows::new(&z, n, dim)?;
    let labels: Vec<u32> = (0..n as u32).map(|i| i % 10).collect();
    let positives: Vec<u32> = (0..n as u32).map(|i| (i + 10) % n as u32).collect();
    let excluded = Positives::Labels {
        anchors: &labels[..],
        candidates: &labels,
    };
    let similarity = |i: usize, j: usize| -> f64 {
        let pairs = wide.row(i).iter().zip(wide.row(j));
        pairs.map(|(a, b)| a * b).sum()
    };
    // With all others listed, and with few.
    for k in [n - 1, 8] {
        let best = OnHost(engine).top_k(rows, rows, k, true)?;
        let found = semi_hard(&best, &positives, excluded)?;
        let mut semi = 0;
        for i in 0..n {
            let mut order: Vec<usize> = (0..n).filter(|&j| j != i).collect();
            order.sort_by(|&a, &b| similarity(i, b).total_cmp(&similarity(i, a)));
            order.truncate(k);
            let positive = positives[i] as usize;
            let mut others = order.iter().copied().filter(|&j| labels[j] != labels[i]);
            let further = others
                .clone()
                .find(|&j| order.contains(&positive) && similarity(i, j) < similarity(i, positive));
            semi += usize::from(further.is_some());
            let expected = further.or(others.next_back()).map(|j| j as u32);
            assert_eq!(Some(found[i]), expected, "anchor {i} of {k}");
        }
        assert!(semi > 0 && (k < n - 1) == (semi < n / 2), "{semi} of {k}");
    }
    Ok(())
}

fn fallback<E: Engine>(_: New<E>) -> Result<(), Error> {
    let best = TopK {
        indices: vec![4, 2, 0, 2, 4, 1, 1, 3, 2, 0, 1, 3],
        scores: vec![0.9, 0.8, 0.1, 0.5, 0.5, 0.4, 0.9, 0.8, 0.7, 0.9, 0.8, 0.7],
    };
    // Anchor 0's positive is last, anchor 1's ties with its nearest negative, anchor 2's is not listed, anchor 3 has
    // none.
    let positives = [0, 2, 9, NO_POSITIVE];
    let index = Positives::Index(&positives[..]);
    assert_eq!(semi_hard(&best, &positives, index)?, [2, 1, 2, NO_POSITIVE]);
    // Lists may name candidates that no anchor lists.
    let lists = Positives::Lists {
        starts: &[0, 2, 2, 2, 3][..],
        candidates: &[2, 700, 3],
    };
    assert_eq!(semi_hard(&best, &positives, lists)?, [4, 1, 2, NO_POSITIVE]);
    // Of one label: nothing is left.
    let labels = Positives::Labels {
        anchors: &[1, 2, 3, 4][..],
        candidates: &[1, 3, 1, 3, 1, 0, 0, 0, 0, 0],
    };
    let found = semi_hard(&best, &positives, labels)?;
    assert_eq!(found, [NO_POSITIVE, 1, 2, NO_POSITIVE]);
    Ok(())
}
