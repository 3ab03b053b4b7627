//! Stores of boxes from shared memory, and the fence that they need; clusters.rs has those of clusters.

use super::*;

/// The contents where nothing is stored.
pub(super) const UNTOUCHED: u16 = 0x1234;

/// Rows and columns end within a box; the stride is longer than the stored columns.
const ROWS: usize = 75;
const COLUMNS: usize = 280;
const STRIDE: usize = 288;
const BOX_ROWS: usize = 32;
const THREADS: usize = 64;

/// The rows of `stored`, with untouched gaps between them.
pub(super) fn with_gaps(stored: &[u16], columns: usize, stride: usize) -> Vec<u16> {
    let gap = vec![UNTOUCHED; stride - columns];
    let rows = stored.chunks(columns).map(|row| [row, &gap].concat());
    rows.flatten().collect()
}

/// The elements that the kernel copies.
fn numbers() -> Vec<u16> {
    (0..ROWS * STRIDE).map(|i| i as u16).collect()
}

/// The result of the kernel, gaps included.
fn stored(kernel: &'static str, order: Order) -> Result<Vec<u16>, Error> {
    let memory = memory(order);
    let from = memory.upload(&numbers())?;
    let to = memory.upload(&[UNTOUCHED; ROWS * STRIDE])?;
    let seen = memory.unwritten(2 * THREADS)?;
    let extent = [ROWS, 2 * COLUMNS, 2 * STRIDE];
    let map = boxes(&memory, to, extent, DTYPE_BF16, BOX_ROWS)?;
    let sizes = [ROWS.div_ceil(BOX_ROWS) as u32, THREADS as u32, 2 * 32 * 128];
    let words = [from, to, seen, pair(ROWS, COLUMNS), pair(STRIDE, 0)];
    launch(&memory, kernel, sizes, &[map], &words)?;
    memory.read(to, ROWS * STRIDE)
}

#[test]
fn boxes_arrive_and_nothing_beside_them() -> Result<(), Error> {
    let numbers = numbers();
    let rows = numbers.chunks(STRIDE).flat_map(|row| &row[..COLUMNS]);
    let rows: Vec<u16> = rows.copied().collect();
    let expected = with_gaps(&rows, COLUMNS, STRIDE);
    for order in orders() {
        let found = stored("planted_box_store_sound", order)?;
        assert_same(&found, &expected, &format!("{order:?}"));
    }
    Ok(())
}

#[test]
fn planted_mistakes_with_stores_are_found() {
    for (kernel, symptom) in [
        ("planted_box_store_fence", "with no fence_async_proxy after"),
        (
            "planted_box_store_fence_of_one",
            "with no fence_async_proxy after",
        ),
        (
            "planted_box_store_overwrite",
            "while a store from it, issued by thread 0",
        ),
        (
            "planted_box_store_ends_early",
            "ends while a store may still read its source",
        ),
        (
            "planted_box_store_no_commit",
            "ends with stores that it has not committed",
        ),
    ] {
        let texts: [&[_]; 2] = [&["kernels/emulator/planted/box_store.cu:"], &[symptom]];
        always_fails(kernel, &texts, |order| stored(kernel, order));
    }
}

#[test]
fn an_early_read_shows_where_stores_are_late() {
    let symptom = "reads global memory that has never been written";
    for order in orders() {
        match stored("planted_box_store_early_read", order) {
            Err(Error::Kernel { reason, .. }) => assert!(reason.contains(symptom), "{reason}"),
            found => assert!(found.is_ok() && order.0 != Schedule::Late, "{order:?}"),
        }
    }
}
