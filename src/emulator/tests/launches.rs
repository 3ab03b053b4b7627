//! Launches that the emulator refuses, the order of threads, bounds of memory, and its exp2.

use std::collections::BTreeSet;

use approx::{abs_diff_eq, assert_abs_diff_eq};

use super::vectors::{Vectors, counting, mistake};
use super::*;

#[test]
fn a_launch_that_does_not_fit_the_kernel_is_refused() {
    let fits = mistake(0);
    let late = (Schedule::Late, 0);
    fits.run(late).unwrap();
    let of_sizes = |sizes| Vectors {
        sizes,
        ..fits.clone()
    };
    let of_two = Vectors {
        count: None,
        ..fits.clone()
    };
    for (launch, expected) in [
        (fits.named("nothing"), "there is no kernel nothing"),
        (
            of_sizes([1, 32, 512]),
            "planted_mistakes has blocks of 64 threads, not 32",
        ),
        (
            of_two,
            "planted_mistakes takes 24 bytes of parameters, not 16",
        ),
        (
            of_sizes([0, 64, 512]),
            "planted_mistakes: the grid is empty",
        ),
        (
            of_sizes([1, 64, 228 << 10]),
            "planted_mistakes: a block has at most 232448 bytes of shared memory, whole words",
        ),
    ] {
        assert_eq!(launch.fault(late), expected);
    }
}

#[test]
fn the_seed_decides_the_order_and_nothing_else_does() {
    let launch = Vectors {
        y: 1,
        ..Vectors::new("planted_last_writer", [5, 64, 512], counting(64))
    };
    let last_writer = |seed| launch.run((Schedule::Late, seed)).unwrap()[0] as u32;
    let of_seeds: Vec<u32> = (0..32).map(last_writer).collect();
    assert_eq!(of_seeds, (0..32).map(last_writer).collect::<Vec<_>>());
    let distinct = |of: fn(u32) -> u32| of_seeds.iter().map(|&i| of(i)).collect::<BTreeSet<_>>();
    let (blocks, threads) = (distinct(|i| i / 64), distinct(|i| i % 64));
    assert_eq!(blocks.len(), 5, "every block is last for some seed");
    assert!(threads.len() > 8, "many threads are: {threads:?}");
}

#[test]
fn memory_outside_an_allocation_is_neither_read_nor_written() -> Result<(), Error> {
    let memory = memory((Schedule::Late, 0));
    let address = memory.upload(&[1.0f32, 2.0])?;
    assert!(memory.read::<f32>(address, 3).is_err());
    assert!(memory.write(address, &[0.0f32; 3]).is_err());
    assert_eq!(memory.read::<f32>(address, 2)?, [1.0, 2.0]);
    Ok(())
}

#[test]
fn the_polynomial_is_as_accurate_as_the_special_function_unit() {
    let numbers: Vec<f32> = (-126_000..=127_000).map(|i| i as f32 * 1e-3).collect();
    let special = [f32::NEG_INFINITY, -1e30, -128.0, -126.6, f32::NAN, 0.0];
    let mut x = [&numbers[..], &special].concat();
    x.resize(x.len().next_multiple_of(128), 0.0);
    let sizes = [(x.len() / 128) as u32, 128, 0];
    let launch = Vectors::new("exp2_polynomial_of", sizes, x);
    let y = launch.run((Schedule::Late, 0)).unwrap();
    for (x, y) in numbers.iter().zip(&y) {
        let share = f64::from(*y) / f64::from(*x).exp2();
        assert!(abs_diff_eq!(share, 1.0, epsilon = 2.2e-7), "2^{x}: {y}");
    }
    let of_special = &y[numbers.len()..];
    assert_eq!(of_special[..4], [0.0; 4]);
    assert!(of_special[4].is_nan());
    assert_abs_diff_eq!(of_special[5], 1.0, epsilon = 2.2e-7);
}
