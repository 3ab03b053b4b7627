//! Top-k from lists gives the bits of top-k from stored scores.

use half::{bf16, f16};

use super::*;
use crate::launch::Arithmetic;
use crate::launch::top_k::Selection;

/// The element at a row and a column.
type Fill = fn(usize, usize) -> f32;

struct Search {
    rows: usize,
    candidates: usize,
    dim: usize,
    queries: Fill,
    keys: Fill,
    sm_count: u32,
    budget: usize,
    fp8: bool,
}

impl Search {
    /// Indices, and bits of scores.
    fn run<T: Element>(
        &self,
        selection: Selection,
        k: usize,
        exclude_self: bool,
    ) -> Result<Vec<(u32, u32)>, Error> {
        let memory = Memory::on(device(Schedule::Mixed, 3, self.sm_count, true));
        let matrix = |rows: usize, fill: Fill| {
            let number = |i: usize| T::from_f32(fill(i / self.dim, i % self.dim));
            let numbers: Vec<T> = (0..rows * self.dim).map(number).collect();
            memory.given(&numbers, self.dim, 0)
        };
        let queries = matrix(self.rows, self.queries)?;
        let keys = matrix(self.candidates, self.keys)?;
        let similarity = Similarity::new(&memory.device, self.budget).with_fp8(self.fp8);
        let best = similarity.top_k_by(Some(selection), queries, keys, k, exclude_self)?;
        let best = best.read(&memory.device)?;
        let bits = best.scores.into_iter().map(f32::to_bits);
        Ok(best.indices.into_iter().zip(bits).collect())
    }

    /// For each of these k.
    fn check<T: Element>(&self, ks: &[usize], exclude_self: bool, name: &str) -> Result<(), Error> {
        // The best of fewer are the first of these.
        let most = ks.iter().copied().max().unwrap_or(0);
        let stored = self.run::<T>(Selection::Stored, most, exclude_self)?;
        for &k in ks {
            let listed = self.run::<T>(Selection::Listed, k, exclude_self)?;
            let differs =
                (0..listed.len()).find(|at| listed[*at] != stored[at / k * most + at % k]);
            let differs = differs.map(|at| (at / k, at % k));
            let what = format!("{name}, k = {k}, {exclude_self}, D = {}", self.dim);
            assert_eq!(differs, None, "{what}");
        }
        Ok(())
    }
}

/// Elements that do not repeat.
fn noise(row: usize, d: usize) -> f32 {
    ((row * 131 + d * 37 + 11) as f32).sin()
}

/// Small integers: many candidates of every score, in all tiles and splits.
fn whole(row: usize, d: usize) -> f32 {
    (noise(row, d) * 2.4).round()
}

fn ones(_: usize, _: usize) -> f32 {
    1.0
}

/// A row whose score with a query of ones is its index, exactly.
fn ascending(row: usize, d: usize) -> f32 {
    match d {
        0 => (row / 64 * 64) as f32,
        1 => (row % 64) as f32,
        _ => 0.0,
    }
}

/// Ascending in the columns that one thread of a warp holds, the same in all others.
fn lopsided(row: usize, d: usize) -> f32 {
    if row % 8 < 2 { ascending(row, d) } else { 0.0 }
}

/// Every third row has a NaN, others an infinity.
fn broken(row: usize, d: usize) -> f32 {
    match (d, row % 6) {
        (0, 0 | 3) => f32::NAN,
        (0, 1) => f32::INFINITY,
        (0, 2) => f32::NEG_INFINITY,
        _ => whole(row, d),
    }
}

/// Three rows of NaN, one of them the first of a split, and many of -∞.
fn sparse(row: usize, d: usize) -> f32 {
    match (d, row) {
        (0, 700 | 2048 | 2100) => f32::NAN,
        (0, _) if !row.is_multiple_of(5) => f32::NEG_INFINITY,
        _ => 1.0,
    }
}

/// Ones; one row is NaN.
fn one_nan(row: usize, d: usize) -> f32 {
    if (row, d) == (3, 1) { f32::NAN } else { 1.0 }
}

#[test]
fn lists_hold_the_best_whatever_the_scores() -> Result<(), Error> {
    let cases: [(&str, Fill, Fill); 9] = [
        ("whole", whole, whole),
        ("noise", noise, noise),
        ("ascending", ones, ascending),
        ("descending", ones, |row, d| -ascending(row, d)),
        ("lopsided", ones, lopsided),
        ("equal", ones, |_, _| 0.0),
        ("broken", ones, broken),
        ("sparse", ones, sparse),
        ("a NaN row", one_nan, whole),
    ];
    for (name, queries, keys) in cases {
        let search = Search {
            rows: 5,
            // 17 tiles, the last of them ragged, in three splits.
            candidates: 16 * 256 + 37,
            dim: 8,
            queries,
            keys,
            sm_count: 9,
            budget: 1 << 30,
            fp8: false,
        };
        search.check::<bf16>(&[1, 100], false, name)?;
        search.check::<bf16>(&[256], true, name)?;
    }
    Ok(())
}

#[test]
fn lists_do_not_depend_on_splits_chunks_or_tiles() -> Result<(), Error> {
    for (dim, sm_count, budget) in [(40, 1, 1 << 30), (264, 9, 1 << 30), (40, 9, 0)] {
        let search = Search {
            rows: 261,
            candidates: 2 * 2048 + 1,
            dim,
            queries: noise,
            keys: whole,
            sm_count,
            budget,
            fp8: false,
        };
        search.check::<bf16>(&[20], true, "bf16")?;
    }
    Ok(())
}

#[test]
fn lists_serve_every_type_that_warpgroups_multiply() -> Result<(), Error> {
    for dim in [72, 520] {
        let search = |fp8| Search {
            rows: 130,
            candidates: 2300,
            dim,
            queries: noise,
            keys: noise,
            sm_count: 4,
            budget: 1 << 30,
            fp8,
        };
        search(false).check::<f16>(&[7], false, "f16")?;
        search(true).check::<f32>(&[7], true, "e4m3")?;
    }
    Ok(())
}

#[test]
fn scores_are_listed_where_that_takes_no_more_memory() {
    let device = device(Schedule::Mixed, 3, 4, true);
    let usual = |portable, arithmetic, candidates, k| {
        let similarity = Similarity::new(&device, 0).with_portable_kernels(portable);
        similarity.usual_selection(arithmetic, candidates, k)
    };
    let (bf16, e4m3) = (Arithmetic::Bf16, Arithmetic::E4m3);
    for (portable, arithmetic, candidates, k, expected) in [
        (false, bf16, 1793, 256, Selection::Listed),
        (false, e4m3, 1793, 1, Selection::Listed),
        (false, bf16, 1792, 1, Selection::Stored),
        (false, bf16, 1 << 20, 257, Selection::Stored),
        (false, Arithmetic::F32, 1 << 20, 1, Selection::Stored),
        (true, bf16, 1 << 20, 1, Selection::Stored),
    ] {
        assert_eq!(usual(portable, arithmetic, candidates, k), expected);
    }
}
