//! Lists of the best scores hold what all stored scores hold.

use half::bf16;

use super::Memory;
use crate::device::top_k::Selection;
use crate::device::{Arithmetic, DeviceMatrix, Similarity};
use crate::element::Element;
use crate::error::Error;
use crate::host::{HostDevice, Schedule};

/// A number for every row and column.
type Fill = fn(usize, usize) -> f32;

struct Search {
    rows: usize,
    candidates: usize,
    dim: usize,
    queries: Fill,
    keys: Fill,
}

/// Indices, and bits of scores.
type Best = (Vec<u32>, Vec<u32>);

struct Setting {
    multiprocessors: u32,
    budget: usize,
    fp8: bool,
}

fn device(setting: &Setting) -> HostDevice {
    let mut device = HostDevice::new(Schedule::Mixed, 3, setting.multiprocessors);
    device.warpgroups = true;
    device
}

impl Search {
    fn run<T: Element>(
        &self,
        setting: &Setting,
        selection: Option<Selection>,
        k: usize,
        exclude_self: bool,
    ) -> Result<Best, Error> {
        let mut memory = Memory::on(device(setting));
        let mut matrix = |rows: usize, fill: Fill| -> Result<DeviceMatrix, Error> {
            let numbers: Vec<T> = (0..rows * self.dim)
                .map(|i| T::from_f32(fill(i / self.dim, i % self.dim)))
                .collect();
            memory.given(&numbers, self.dim, 0)
        };
        let (queries, keys) = (
            matrix(self.rows, self.queries)?,
            matrix(self.candidates, self.keys)?,
        );
        let similarity = Similarity::new(&memory.device, setting.budget).with_fp8(setting.fp8);
        let best = similarity.top_k_by(selection, queries, keys, k, exclude_self)?;
        let best = best.read(&memory.device)?;
        let bits = best.scores.into_iter().map(f32::to_bits).collect();
        Ok((best.indices, bits))
    }

    fn check<T: Element>(
        &self,
        setting: &Setting,
        cases: &[(usize, bool)],
        name: &str,
    ) -> Result<(), Error> {
        for exclude_self in [false, true] {
            let of_these = cases.iter().filter(|case| case.1 == exclude_self);
            let Some(most) = of_these.clone().map(|case| case.0).max() else {
                continue;
            };
            // The best of fewer are the first of these.
            let stored = self.run::<T>(setting, Some(Selection::Stored), most, exclude_self)?;
            for &(k, _) in of_these {
                let listed = self.run::<T>(setting, Some(Selection::Listed), k, exclude_self)?;
                let differs = (0..listed.0.len()).find(|&at| {
                    let other = at / k * most + at % k;
                    (listed.0[at], listed.1[at]) != (stored.0[other], stored.1[other])
                });
                assert_eq!(
                    differs.map(|at| (at / k, at % k)),
                    None,
                    "{name}, k = {k}, {exclude_self}, D = {}",
                    self.dim
                );
            }
        }
        Ok(())
    }
}

/// Numbers that do not repeat.
fn noise(row: usize, d: usize) -> f32 {
    ((row * 131 + d * 37 + 11) as f32).sin()
}

/// Small whole numbers: many candidates of every score, in all tiles and splits.
fn whole(row: usize, d: usize) -> f32 {
    (noise(row, d) * 2.4).round()
}

fn ones(_: usize, _: usize) -> f32 {
    1.0
}

/// With a query of ones: the row's number, exactly.
fn ascending(row: usize, d: usize) -> f32 {
    match d {
        0 => (row / 64 * 64) as f32,
        1 => (row % 64) as f32,
        _ => 0.0,
    }
}

fn descending(row: usize, d: usize) -> f32 {
    -ascending(row, d)
}

/// Ascending in the columns that one thread of a warp holds, the same in all others.
fn lopsided(row: usize, d: usize) -> f32 {
    if row % 8 < 2 { ascending(row, d) } else { 0.0 }
}

/// Every candidate as good as any other.
fn equal(_: usize, _: usize) -> f32 {
    0.0
}

/// Every third NaN, and infinities between.
fn broken(row: usize, d: usize) -> f32 {
    match (d, row % 6) {
        (0, 0 | 3) => f32::NAN,
        (0, 1) => f32::INFINITY,
        (0, 2) => f32::NEG_INFINITY,
        _ => whole(row, d),
    }
}

/// Three NaN, one of them where a split begins, and many -∞.
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
    // 17 tiles, the last of them ragged, in three splits.
    let setting = Setting {
        multiprocessors: 9,
        budget: 1 << 30,
        fp8: false,
    };
    for (name, queries, keys) in [
        ("whole", whole as Fill, whole as Fill),
        ("noise", noise, noise),
        ("ascending", ones, ascending),
        ("descending", ones, descending),
        ("lopsided", ones, lopsided),
        ("equal", ones, equal),
        ("broken", ones, broken),
        ("sparse", ones, sparse),
        ("a NaN row", one_nan, whole),
    ] {
        let search = Search {
            rows: 5,
            candidates: 16 * 256 + 37,
            dim: 8,
            queries,
            keys,
        };
        let cases = [(1, false), (100, false), (256, true)];
        search.check::<bf16>(&setting, &cases, name)?;
    }
    Ok(())
}

#[test]
fn lists_do_not_depend_on_splits_chunks_or_tiles() -> Result<(), Error> {
    for (dim, multiprocessors, budget) in [(40, 1, 1 << 30), (264, 9, 1 << 30), (40, 9, 0)] {
        let setting = Setting {
            multiprocessors,
            budget,
            fp8: false,
        };
        let search = Search {
            rows: 261,
            candidates: 2 * 2048 + 1,
            dim,
            queries: noise,
            keys: whole,
        };
        search.check::<bf16>(&setting, &[(20, true)], "bf16")?;
    }
    Ok(())
}

#[test]
fn lists_serve_every_type_that_warpgroups_multiply() -> Result<(), Error> {
    for dim in [72, 520] {
        let search = Search {
            rows: 130,
            candidates: 2300,
            dim,
            queries: noise,
            keys: noise,
        };
        let setting = |fp8| Setting {
            multiprocessors: 4,
            budget: 1 << 30,
            fp8,
        };
        search.check::<half::f16>(&setting(false), &[(7, false)], "f16")?;
        search.check::<f32>(&setting(true), &[(7, true)], "e4m3")?;
    }
    Ok(())
}

#[test]
fn scores_are_listed_where_that_takes_no_more_memory() {
    let setting = Setting {
        multiprocessors: 4,
        budget: 0,
        fp8: false,
    };
    let device = device(&setting);
    let similarity = Similarity::new(&device, 0);
    let usual = |arithmetic, candidates, k| similarity.usual_selection(arithmetic, candidates, k);
    let (bf16, e4m3) = (Arithmetic::Bf16, Arithmetic::E4m3);
    assert_eq!(usual(bf16, 1793, 256), Selection::Listed);
    assert_eq!(usual(e4m3, 1793, 1), Selection::Listed);
    assert_eq!(usual(bf16, 1792, 1), Selection::Stored);
    assert_eq!(usual(bf16, 1 << 20, 257), Selection::Stored);
    assert_eq!(usual(Arithmetic::F32, 1 << 20, 1), Selection::Stored);
    let portable = Similarity::new(&device, 0).with_portable_kernels(true);
    let selection = portable.usual_selection(bf16, 1 << 20, 1);
    assert_eq!(selection, Selection::Stored);
}
