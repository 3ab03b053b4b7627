//! Products of a warpgroup: operands copied as boxes, fragments in registers, e4m3, and operands that threads have
//! stored.

use super::*;

const LATE: Order = (Schedule::Late, 0);

/// a·bᵀ, or aᵀ·b across, as the kernel computes it.
fn product(
    kernel: &'static str,
    [a, b]: [&Matrix; 2],
    across: bool,
    order: Order,
) -> Result<Vec<f32>, Error> {
    // Two stages of two slabs of 64 rows, and four mbarriers.
    const SHARED_BYTES: u32 = 4 * 64 * 128 + 32;
    let memory = memory(order);
    let maps = [a.uploaded(&memory, SIDE)?, b.uploaded(&memory, SIDE)?];
    let d = memory.unwritten(4 * SIDE * SIDE)?;
    let summed = if across { a.rows() } else { a.columns };
    let words = [d, pair(summed.div_ceil(64), usize::from(across))];
    launch(&memory, kernel, [1, 256, SHARED_BYTES], &maps, &words)?;
    memory.read(d, SIDE * SIDE)
}

#[test]
fn products_of_both_layouts_are_those_of_the_matrices() -> Result<(), Error> {
    // Rows of 88 elements: the last box ends outside the matrix, where elements are zero.
    for summed in [64, 88, 320] {
        let [a, b] = [1, 2].map(|seed| Matrix::new(SIDE, summed, seed));
        let (expected, [c, d]) = (a.times(&b), [a.transposed(), b.transposed()]);
        for order in orders() {
            for (matrices, across) in [([&a, &b], false), ([&c, &d], true)] {
                let found = product("planted_warpgroup_sound", matrices, across, order)?;
                let what = format!("{order:?}, {summed}, across: {across}");
                assert_same(&found, &expected, &what);
            }
        }
    }
    Ok(())
}

#[test]
fn planted_mistakes_with_products_are_found() {
    let [a, b] = [1, 2].map(|seed| Matrix::new(SIDE, 320, seed));
    let cases: [(_, &[&str]); 3] = [
        (
            "planted_warpgroup_fence",
            &["a product with no wgmma_fence"],
        ),
        (
            "planted_warpgroup_descriptor",
            &["has queued another product"],
        ),
        (
            "planted_warpgroup_early_release",
            &[
                "a product: shared memory",
                "is written with no barrier after",
                "is read while a copy to it",
            ],
        ),
    ];
    for (kernel, symptoms) in cases {
        let texts = [&["kernels/emulator/planted/warpgroup.cu:"], symptoms];
        always_fails(kernel, &texts, |order| {
            product(kernel, [&a, &b], false, order)
        });
    }
}

#[test]
fn sums_that_are_read_before_the_wait_are_nan() -> Result<(), Error> {
    let [a, b] = [1, 2].map(|seed| Matrix::new(SIDE, 64, seed));
    for order in orders() {
        let found = product("planted_warpgroup_early_read", [&a, &b], false, order)?;
        assert!(found.iter().all(|x| x.is_nan()), "{order:?}");
    }
    Ok(())
}

#[test]
fn fragments_in_registers_multiply_as_those_in_shared_memory() -> Result<(), Error> {
    let [a, b] = [5, 6].map(|seed| Matrix::new(SIDE, SIDE, seed));
    let memory = memory(LATE);
    let map = b.uploaded(&memory, SIDE)?;
    // a follows d.
    let d = memory.unwritten((4 + 2) * SIDE * SIDE)?;
    memory.write(d + 4 * (SIDE * SIDE) as u64, &a.numbers)?;
    let sizes = [1, 128, 64 * 128 + 16];
    let kernel = "planted_warpgroup_registers";
    launch(&memory, kernel, sizes, &[map; 2], &[d, pair(1, 0)])?;
    let found: Vec<f32> = memory.read(d, SIDE * SIDE)?;
    assert_same(&found, &a.times(&b.transposed()), "registers");
    Ok(())
}

/// a·bᵀ of 64 and 256 rows of `dim` codes of e4m3.
fn product_of_codes(a: &[u8], b: &[u8], dim: usize, order: Order) -> Result<Vec<f64>, Error> {
    const SIZES: [u32; 3] = [1, 128, (64 + 256) * 128 + 8];
    let memory = memory(order);
    let uploaded = |codes: &[u8]| {
        let (address, rows) = (memory.upload(codes)?, codes.len() / dim);
        boxes(&memory, address, [rows, dim, dim], DTYPE_E4M3, rows)
    };
    let maps = [uploaded(a)?, uploaded(b)?];
    let d = memory.unwritten(4 * SIDE * 256)?;
    let words = [d, pair(dim.div_ceil(128), 0)];
    launch(&memory, "planted_warpgroup_e4m3", SIZES, &maps, &words)?;
    let found: Vec<f32> = memory.read(d, SIDE * 256)?;
    Ok(found.into_iter().map(f64::from).collect())
}

#[test]
fn products_of_e4m3_are_those_of_the_values_of_codes() -> Result<(), Error> {
    // Small whole numbers, so that sums are exact; 144 and 320: the last box ends outside the matrix.
    let code = |i: usize| e4m3::nearest(((i * 37 + i / 7) % 15) as f32 - 7.0);
    for dim in [128, 144, 320] {
        let a: Vec<u8> = (0..SIDE * dim).map(code).collect();
        let b: Vec<u8> = (0..256 * dim).map(|i| code(i + 5)).collect();
        let dot = |x: &[u8], y: &[u8]| {
            let products = x.iter().zip(y);
            products
                .map(|(&x, &y)| e4m3::value(x) * e4m3::value(y))
                .sum()
        };
        let expected: Vec<f64> = a
            .chunks(dim)
            .flat_map(|row| b.chunks(dim).map(move |other| dot(row, other)))
            .collect();
        for order in orders() {
            let found = product_of_codes(&a, &b, dim, order)?;
            assert_same(&found, &expected, &format!("{order:?}, {dim}"));
        }
    }
    Ok(())
}

#[test]
fn every_code_of_e4m3_is_multiplied_as_its_value() -> Result<(), Error> {
    // Times the unit matrix. Row r of a holds all codes from r on, but NaN, which would reach all sums.
    let code = |i: usize| match (i / 256 + i % 256) as u8 {
        code if code & e4m3::NAN == e4m3::NAN => 0,
        code => code,
    };
    let mut a: Vec<u8> = (0..SIDE * 256).map(code).collect();
    let mut unit = vec![0; 256 * 256];
    unit.iter_mut()
        .step_by(257)
        .for_each(|code| *code = e4m3::nearest(1.0));
    let expected: Vec<f64> = a.iter().map(|&code| e4m3::value(code)).collect();
    let found = product_of_codes(&a, &unit, 256, LATE)?;
    assert_same(&found, &expected, "codes");
    // NaN reaches every sum of its row, and no other.
    a[3 * 256 + 9] = e4m3::NAN;
    let found = product_of_codes(&a, &unit, 256, LATE)?;
    for (i, found) in found.into_iter().enumerate() {
        assert_eq!(found.is_nan(), i / 256 == 3, "{i}");
    }
    Ok(())
}

#[test]
fn products_of_stored_operands_need_a_fence() -> Result<(), Error> {
    let [a, b] = [1, 2].map(|seed| Matrix::new(SIDE, SIDE, seed));
    let run = |kernel, order| -> Result<Vec<f32>, Error> {
        let memory = memory(order);
        let (a, b) = (memory.upload(&a.numbers)?, memory.upload(&b.numbers)?);
        let d = memory.unwritten(4 * SIDE * SIDE)?;
        launch(&memory, kernel, [1, 128, 2 * 64 * 128], &[], &[a, b, d])?;
        memory.read(d, SIDE * SIDE)
    };
    for order in orders() {
        let found = run("planted_stored_operands_sound", order)?;
        assert_same(&found, &a.times(&b), &format!("{order:?}"));
    }
    let place = place("async_proxy.cu", "planted");
    for kernel in [
        "planted_stored_operands_fence",
        "planted_stored_operands_late_fence",
    ] {
        let texts = [[&*place], ["with no fence_async_proxy after"]];
        let texts = texts.each_ref().map(|texts| &texts[..]);
        always_fails(kernel, &texts, |order| run(kernel, order));
    }
    Ok(())
}
