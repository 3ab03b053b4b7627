//! Stores of boxes from shared memory, by single blocks and by clusters, and the fence that they need.

use super::*;

/// The contents where nothing is stored.
const UNTOUCHED: u16 = 0x1234;

// ---- Rows that end within a box

/// Rows and columns end within a box; the stride is longer than the stored columns.
const ROWS: usize = 75;
const COLUMNS: usize = 280;
const STRIDE: usize = 288;
const BOX_ROWS: usize = 32;
const THREADS: usize = 64;

/// The rows of `stored`, with untouched gaps between them.
fn with_gaps(stored: &[u16], columns: usize, stride: usize) -> Vec<u16> {
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

// ---- A kernel of clusters: multicast copies in, boxes of sums out

/// Two clusters of two CTAs; rows and columns end within the last tile.
const BLOCKS: usize = 4;
const SUM_ROWS: usize = 64 * BLOCKS - 31;
const TILES: usize = 3;
const SUM_COLUMNS: usize = 64 * TILES - 24;
/// Elements from row to row of the result.
const SUM_STRIDE: usize = SUM_COLUMNS + 8;

/// a and b, whose summed axis has `slabs` slabs of 64.
fn operands(slabs: usize) -> [Matrix; 2] {
    [(SUM_ROWS, 1), (SUM_COLUMNS, 2)].map(|(rows, seed)| Matrix::new(rows, 64 * slabs, seed))
}

/// a·bᵀ in bf16 as `kernel` computes it, gaps included.
fn product(kernel: &'static str, [a, b]: &[Matrix; 2], order: Order) -> Result<Vec<u16>, Error> {
    // Two stages of two slabs, two boxes, four mbarriers.
    const SIZES: [u32; 3] = [BLOCKS as u32, 256, 6 * 64 * 128 + 32];
    let memory = memory(order);
    let d = memory.upload(&[UNTOUCHED; SUM_ROWS * SUM_STRIDE])?;
    let extent = [SUM_ROWS, 2 * SUM_COLUMNS, 2 * SUM_STRIDE];
    let maps = [
        a.uploaded(&memory, 64)?,
        b.uploaded(&memory, 32)?,
        boxes(&memory, d, extent, DTYPE_BF16, 64)?,
    ];
    let words = [pair(a.columns / 64, TILES)];
    launch(&memory, kernel, SIZES, &maps, &words)?;
    memory.read(d, SUM_ROWS * SUM_STRIDE)
}

#[test]
fn products_of_clusters_leave_as_boxes_in_every_order() -> Result<(), Error> {
    // Slabs of a tile: one, as many as stages, and more.
    for slabs in [1, 2, 3] {
        let operands = operands(slabs);
        let sums = operands[0].times(&operands[1]).into_iter();
        let sums: Vec<u16> = sums.map(|sum| bf16::from_f32(sum).to_bits()).collect();
        let expected = with_gaps(&sums, SUM_COLUMNS, SUM_STRIDE);
        for order in orders() {
            let found = product("planted_pair_store_sound", &operands, order)?;
            assert_same(&found, &expected, &format!("{order:?}, {slabs} slabs"));
        }
    }
    Ok(())
}

#[test]
fn mistakes_of_one_block_of_a_cluster_are_found_there() {
    let second = ["block (1, 0, 0)", "block (3, 0, 0)"];
    let operands = operands(2);
    for (kernel, blocks, symptom) in [
        (
            "planted_pair_store_fence",
            &second[..],
            "with no fence_async_proxy after thread",
        ),
        (
            "planted_pair_store_overwrite",
            &second[..],
            "while a store from it, issued by thread 0 at",
        ),
        (
            "planted_pair_store_leaves",
            &["block ("],
            "ends while a store may still read its source",
        ),
    ] {
        let place = "kernels/emulator/planted/pair_store.cu:";
        always_fails(kernel, &[blocks, &[symptom], &[place]], |order| {
            product(kernel, &operands, order)
        });
    }
}
