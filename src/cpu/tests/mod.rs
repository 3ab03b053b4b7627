//! Tests all microkernels that run on this CPU, also those that the engine would not choose, and the workspace.
//! `verify/tests` compares each microkernel's losses and gradients with the reference.

use approx::abs_diff_eq;
use half::bf16;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::pack::{Workspace, pack_transposed, row_items};
use super::simd::{Kernel, Left, Output};
use super::{CpuEngine, Engine};
use crate::{Contrast, Element, Gradients, Inputs, Rows, RowsMut};

fn kernels() -> impl Iterator<Item = &'static Kernel> {
    Kernel::all_of_f32().chain(Kernel::all_of_bf16())
}

fn random<T: Element>(rng: &mut ChaCha8Rng, rows: usize, dim: usize) -> Vec<T> {
    let bound = (3.0 / dim as f32).sqrt();
    let elements = (0..rows * dim).map(|_| T::from_f32(rng.random_range(-bound..bound)));
    elements.collect()
}

/// Elements are small integers: every product and sum is exact in any order.
#[test]
fn products_are_exact_for_every_tile_shape() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut whole = |count: usize| -> Vec<f32> {
        let elements = (0..count).map(|_| rng.random_range(-8..=8) as f32);
        elements.collect()
    };
    let workspace = Workspace::default();
    for kernel in kernels() {
        for rows in [1, 2, 3, 5, 6, 7, 11, 12, 13, 25] {
            for columns in [1usize, 15, 16, 17, 31, 32, 33, 70] {
                for (dim, accumulate) in [(1, false), (2, true), (600, false), (515, true)] {
                    let (a, b) = (whole(rows * dim), whole(columns * dim));
                    let mut storage = Vec::new();
                    let items = row_items(kernel, &a, dim, &mut storage);
                    let left = Left::of_rows(items, dim.div_ceil(kernel.depth));
                    let right = pack_transposed(kernel, &b, dim, &workspace);
                    let row_stride = columns + 3;
                    let mut c = vec![7.0f32; rows * row_stride];
                    let output = Output {
                        elements: &mut c,
                        columns,
                        row_stride,
                        accumulate,
                    };
                    kernel.multiply(left, right.at_panel(0), output);
                    for (place, &found) in c.iter().enumerate() {
                        let (row, column) = (place / row_stride, place % row_stride);
                        let expected = if column < columns {
                            let pairs = a[row * dim..][..dim].iter().zip(&b[column * dim..]);
                            let product: f32 = pairs.map(|(a, b)| a * b).sum();
                            product + if accumulate { 7.0 } else { 0.0 }
                        } else {
                            7.0
                        };
                        let name = kernel.name;
                        let what = format!("{name} {rows}x{dim}x{columns} at ({row}, {column})");
                        assert_eq!(found, expected, "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn exponentials_are_accurate_to_two_ulp() {
    for kernel in kernels() {
        let exponents: Vec<f32> = (-126_000..127_500).map(|x| x as f32 / 1000.0).collect();
        let mut values = exponents.clone();
        kernel.exp_row(&mut values, 1.0, 0.0);
        for (&x, &value) in exponents.iter().zip(&values) {
            let share = f64::from(value) / f64::from(x).exp2();
            let allowed = 2.0 * f64::from(f32::EPSILON);
            assert!(
                abs_diff_eq!(share, 1.0, epsilon = allowed),
                "2^{x} is {value}"
            );
        }
        let mut ends = [f32::NEG_INFINITY, -127.0, 128.0, f32::INFINITY, f32::NAN];
        kernel.exp_row(&mut ends, 1.0, 0.0);
        assert_eq!(ends[..2], [0.0, 0.0]);
        assert_eq!(ends[2..4], [f32::INFINITY, f32::INFINITY]);
        assert!(ends[4].is_nan());
    }
}

/// Loss, dq and dk of InfoNCE.
fn value_and_grad<T: Element>(
    engine: &CpuEngine,
    q: &[T],
    k: &[T],
    d: usize,
) -> (f32, Vec<f32>, Vec<f32>) {
    let (mut dq, mut dk) = (vec![0.0f32; q.len()], vec![0.0f32; k.len()]);
    let (n, m) = (q.len() / d, k.len() / d);
    let inputs = Inputs::pair(Rows::new(q, n, d).unwrap(), Rows::new(k, m, d).unwrap());
    let problem = Contrast::info_nce(0.1).unwrap().on(inputs).unwrap();
    let gradients = Gradients::new(
        RowsMut::new(&mut dq, n, d).unwrap(),
        Some(RowsMut::new(&mut dk, m, d).unwrap()),
    );
    let value = engine.value_and_grad(&problem, 1.0, gradients);
    (value.unwrap().loss, dq, dk)
}

#[test]
fn inputs_of_any_alignment_are_accepted() {
    // bf16 items are read as 4-byte words where they are aligned; one of these slices is not.
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let elements = random::<bf16>(&mut rng, 1, 42);
    for kernel in kernels() {
        let engine = CpuEngine::new().with_kernel(kernel);
        let found = [&elements[..40], &elements[1..41]].map(|z| {
            let copy = z.to_vec();
            let elsewhere = value_and_grad(&engine, &copy, &copy, 4);
            let here = value_and_grad(&engine, z, z, 4);
            assert_eq!(here, elsewhere, "{}", kernel.name);
            elsewhere.0
        });
        assert_ne!(found[0], found[1]);
    }
}

/// A call's buffers hold what earlier calls left there, which it must not read.
#[test]
fn a_used_workspace_changes_nothing() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    for kernel in kernels() {
        for (n, m, d) in [(1, 1, 1), (7, 7, 5), (49, 193, 33), (100, 200, 64)] {
            let q = random::<f32>(&mut rng, n, d);
            let k = random::<f32>(&mut rng, m, d);
            let fresh = value_and_grad(&CpuEngine::new().with_kernel(kernel), &q, &k, d);
            let used = CpuEngine::new().with_kernel(kernel);
            let nan = vec![f32::NAN; 230 * 70];
            value_and_grad(&used, &nan[..120 * 70], &nan, 70);
            let again = value_and_grad(&used, &q, &k, d);
            assert_eq!(fresh, again, "{} {n}x{m}x{d}", kernel.name);
        }
    }
}
