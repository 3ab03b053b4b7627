//! The emulator itself: kernels with planted mistakes (`kernels/emulator/planted`) fail under every schedule and
//! order of threads, with a report that names the place; their sound twins pass.

mod clusters;
pub(crate) mod e4m3;
mod launches;
mod products;
mod stores;
mod vectors;

use std::fmt::Debug;
use std::path::Path;

use half::bf16;

pub(crate) use super::device::{EmulatedDevice, Schedule};
pub(crate) use super::engine::{BUDGET, SM_COUNT};
pub(crate) use super::memory::Memory;

use crate::error::Error;
use crate::launch::kernels::Kernel;
use crate::launch::params::{DTYPE_BF16, DTYPE_E4M3, DTYPE_F32};
use crate::launch::{Device, Launch, TensorMap};

/// A schedule, and the seed of an order of threads.
type Order = (Schedule, u64);

/// Every schedule with 16 seeds.
fn orders() -> impl Iterator<Item = Order> {
    [Schedule::Late, Schedule::Early, Schedule::Mixed]
        .into_iter()
        .flat_map(|schedule| (0..16).map(move |seed| (schedule, seed)))
}

fn memory((schedule, seed): Order) -> Memory {
    Memory::on(EmulatedDevice::new(schedule, seed, 1))
}

/// Launches a kernel whose parameters are `maps`, then `words`; a word may be a [`pair`] of parameters.
fn launch(
    memory: &Memory,
    kernel: &'static str,
    [blocks, threads, shared_bytes]: [u32; 3],
    maps: &[TensorMap],
    words: &[u64],
) -> Result<(), Error> {
    let mut params: Vec<u64> = maps.iter().flat_map(|map| map.words).collect();
    params.extend(words);
    if !maps.is_empty() {
        // Structures with maps are aligned to 64 bytes.
        params.resize(params.len().next_multiple_of(8), 0);
    }
    memory.device.launch(&Launch {
        kernel: &Kernel::planted(kernel, threads, shared_bytes),
        grid: [blocks, 1, 1],
        params: bytemuck::cast_slice(&params),
    })
}

/// Two parameters of 32 bits as one word.
fn pair(first: usize, second: usize) -> u64 {
    bytemuck::cast([first as u32, second as u32])
}

/// A tensor map of `rows` rows of `row_bytes` bytes, `stride` bytes apart.
fn boxes(
    memory: &Memory,
    address: u64,
    [rows, row_bytes, stride]: [usize; 3],
    dtype: u32,
    box_rows: usize,
) -> Result<TensorMap, Error> {
    let matrix = crate::launch::Matrix {
        data: address,
        scales: 0,
        stride: stride as u64,
        rows: rows as u32,
        row_bytes: row_bytes as u32,
        dtype,
        padding: 0,
    };
    memory.device.tensor_map(&matrix, box_rows as u32)
}

/// A matrix of small whole numbers, so that sums are exact in any order.
struct Matrix {
    columns: usize,
    numbers: Vec<bf16>,
}

impl Matrix {
    fn new(rows: usize, columns: usize, seed: usize) -> Self {
        let number = |i: usize| ((i * 37 + i / 7 + seed * 11) % 15) as f32 - 7.0;
        let numbers = (0..rows * columns).map(|i| bf16::from_f32(number(i)));
        Self {
            columns,
            numbers: numbers.collect(),
        }
    }

    fn rows(&self) -> usize {
        self.numbers.len() / self.columns
    }

    fn transposed(&self) -> Self {
        let (rows, columns) = (self.rows(), self.columns);
        let numbers = (0..rows * columns).map(|i| self.numbers[i % rows * columns + i / rows]);
        Self {
            columns: rows,
            numbers: numbers.collect(),
        }
    }

    /// self·bᵀ.
    fn times(&self, b: &Self) -> Vec<f32> {
        let dot = |x: &[bf16], y: &[bf16]| {
            let products = x.iter().zip(y).map(|(x, y)| x.to_f32() * y.to_f32());
            products.sum::<f32>()
        };
        let rows = self.numbers.chunks(self.columns);
        rows.flat_map(|row| {
            b.numbers
                .chunks(b.columns)
                .map(move |other| dot(row, other))
        })
        .collect()
    }

    fn uploaded(&self, memory: &Memory, box_rows: usize) -> Result<TensorMap, Error> {
        let (address, row_bytes) = (memory.upload(&self.numbers)?, 2 * self.columns);
        let extent = [self.rows(), row_bytes, row_bytes];
        boxes(memory, address, extent, DTYPE_BF16, box_rows)
    }
}

/// Rows of a that one block multiplies, and rows of a tile of b.
const SIDE: usize = 64;

/// Names the first element that differs.
fn assert_same<T: PartialEq + Debug>(found: &[T], expected: &[T], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let mut pairs = found.iter().zip(expected).enumerate();
    let differs = pairs.find(|(_, (found, expected))| found != expected);
    assert_eq!(differs, None, "{what}");
}

/// `file:line` of the one line of a planted source that ends in the comment `marker`.
fn place(file: &str, marker: &str) -> String {
    let file = format!("kernels/emulator/planted/{file}");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(&file);
    let text = std::fs::read_to_string(source).expect("the source is there");
    let comment = format!("// {marker}");
    let lines = (1..).zip(text.lines());
    let lines: Vec<usize> = lines
        .filter_map(|(line, text)| text.ends_with(&comment).then_some(line))
        .collect();
    assert_eq!(lines.len(), 1, "{file}: {marker}");
    format!("{file}:{}", lines[0])
}

/// Whether `reason` has `text`. A number at the end of `text`, such as a line's, must match as a whole.
fn has(reason: &str, text: &str) -> bool {
    let is_digit = |c: char| c.is_ascii_digit();
    let mut ends = reason.match_indices(text).map(|(at, _)| at + text.len());
    ends.any(|end| !(text.ends_with(is_digit) && reason[end..].starts_with(is_digit)))
}

/// The reason of the kernel's fault that ended a run.
fn fault<T: Debug>(kernel: &str, order: Order, run: Result<T, Error>) -> String {
    match run {
        Err(Error::Kernel { kernel: of, reason }) if of == kernel => reason,
        other => panic!("{kernel}, {order:?}: {other:?}"),
    }
}

/// Runs fail in every order, and each list of `texts` has a text that the report contains.
fn always_fails<T: Debug>(
    kernel: &str,
    texts: &[&[&str]],
    run: impl Fn(Order) -> Result<T, Error>,
) {
    for order in orders() {
        let reason = fault(kernel, order, run(order));
        let context = format!("{order:?}: {reason}");
        assert!(
            reason.starts_with(&format!("{kernel}, block (")),
            "{context}"
        );
        for texts in texts {
            let found = texts.iter().any(|text| has(&reason, text));
            assert!(found, "none of {texts:?}: {context}");
        }
    }
}
