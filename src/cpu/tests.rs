//! Every microkernel drives the same loops: each is held against the float64 definition here, also
//! those that this processor would not choose. The public suite tests the chosen one in depth.

use approx::abs_diff_eq;
use half::bf16;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::simd::{Item, Kernel, Left, Output, Right};
use super::{CpuEngine, Engine};
use crate::losses::TABLE;
use crate::reference::{self, Dense};
use crate::{
    Contrast, Element, Gradients, Inputs, Matrices, NO_POSITIVE, Positives, Problem, Rows, RowsMut,
};

fn kernels() -> Vec<&'static Kernel> {
    let mut kernels = vec![
        Kernel::for_f32(),
        Kernel::portable_f32(),
        Kernel::portable_bf16(),
    ];
    kernels.extend(Kernel::for_avx2());
    kernels.extend(Kernel::for_bf16());
    kernels
}

fn random<T: Element>(rng: &mut ChaCha8Rng, rows: usize, dim: usize) -> Vec<T> {
    let bound = (3.0 / dim as f32).sqrt();
    let numbers = (0..rows * dim).map(|_| T::from_f32(rng.random_range(-bound..bound)));
    numbers.collect()
}

/// Items that hold small whole numbers, so that every product and sum is exact in any order.
fn whole_numbers(rng: &mut ChaCha8Rng, kernel: &Kernel, count: usize) -> (Vec<Item>, Vec<f64>) {
    let mut items = Vec::new();
    let mut numbers = Vec::new();
    for _ in 0..count {
        let mut item = 0;
        for place in 0..kernel.depth {
            let number = rng.random_range(-8..=8) as f32;
            numbers.push(f64::from(number));
            item |= match kernel.depth {
                1 => number.to_bits(),
                _ => Item::from(bf16::from_f32(number).to_bits()) << (16 * place),
            };
        }
        items.push(item);
    }
    (items, numbers)
}

#[test]
fn products_are_exact_for_every_tile_shape() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for kernel in kernels() {
        for rows in [1, 2, 3, 5, 6, 7, 11, 12, 13, 25] {
            for columns in [1usize, 15, 16, 17, 31, 32, 33, 70] {
                for (steps, accumulate) in [(1, false), (2, true), (300, false), (257, true)] {
                    let panels = columns.div_ceil(kernel.panel);
                    let (a, a_numbers) = whole_numbers(&mut rng, kernel, rows * steps);
                    let panel_items = steps * kernel.panel;
                    let (b, b_numbers) = whole_numbers(&mut rng, kernel, panels * panel_items);
                    let row_stride = columns + 3;
                    let mut c = vec![7.0f32; rows * row_stride];
                    kernel.multiply(
                        Left {
                            items: &a,
                            rows,
                            steps,
                            row_stride: steps,
                            step_stride: 1,
                        },
                        Right {
                            items: &b,
                            panel_stride: panel_items,
                        },
                        Output {
                            numbers: &mut c,
                            columns,
                            row_stride,
                            accumulate,
                        },
                    );
                    for row in 0..rows {
                        for column in 0..row_stride {
                            let mut expected = 7.0;
                            if column < columns {
                                expected *= f64::from(u8::from(accumulate));
                                let (panel, lane) = (column / kernel.panel, column % kernel.panel);
                                for step in 0..steps {
                                    let item = panel * panel_items + step * kernel.panel + lane;
                                    for place in 0..kernel.depth {
                                        expected += a_numbers
                                            [(row * steps + step) * kernel.depth + place]
                                            * b_numbers[item * kernel.depth + place];
                                    }
                                }
                            }
                            assert_eq!(
                                f64::from(c[row * row_stride + column]),
                                expected,
                                "{} {rows}x{steps}x{columns} at ({row}, {column})",
                                kernel.name
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn exponentials_are_accurate_to_two_ulp_and_keep_nan_and_the_ends() {
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

/// Largest error of `ours`, relative to the largest number of `expected`.
fn relative_error<G: Element>(ours: &[G], expected: &[f64]) -> f64 {
    let largest = expected.iter().fold(1e-30f64, |a, b| a.max(b.abs()));
    let errors = ours.iter().zip(expected).map(|(&a, b)| {
        let error = (f64::from(a.to_f32()) - b).abs() / largest;
        if error.is_nan() { f64::INFINITY } else { error }
    });
    errors.fold(0.0, f64::max)
}

fn check<T: Element>(kernel: &'static Kernel, problem: &Problem<Rows<'_, T>>) {
    let (contrast, shape) = (problem.contrast(), problem.shape());
    let Matrices {
        anchors: q,
        candidates: k,
        own_keys,
    } = problem.matrices();
    let wide = [q, k, own_keys.unwrap_or(q)].map(Dense::from_rows);
    let positives = problem.positives().unwrap_or(Positives::DIAGONAL);
    let exact = contrast.pose(wide.each_ref(), positives).unwrap();
    let expected = reference::value_and_grad(&exact, 0.5);

    // One group of rows a chunk, so that several chunks meet.
    let engine = CpuEngine::with_threads(2)
        .unwrap()
        .with_weights_budget(1)
        .with_kernel(kernel);
    let (n, m, d) = (shape.anchors, shape.candidates, shape.dim);
    let mut dq = vec![f32::NAN; n * d];
    let mut dk = vec![f32::NAN; m * d];
    fn gradients<'a>(
        dq: &'a mut [f32],
        dk: Option<&'a mut [f32]>,
        d: usize,
    ) -> Gradients<RowsMut<'a, f32>> {
        let rows = |data: &'a mut [f32]| {
            let rows = data.len() / d;
            RowsMut::new(data, rows, d).unwrap()
        };
        Gradients::new(rows(dq), dk.map(rows))
    }
    // Softmax weights are rounded to bf16 by kernels of depth 2.
    let tolerance = if kernel.depth == 2 { 1e-2 } else { 2e-5 };
    let context = format!("{} {} {shape:?}", kernel.name, contrast.name());
    let compare = |dq: &[f32], dk: &[f32], dscale: f32| {
        let error = relative_error(dq, expected.dq.as_slice());
        assert!(error < tolerance, "{context}: dq is off by {error}");
        if let Some(expected) = &expected.dk {
            let error = relative_error(dk, expected.as_slice());
            assert!(error < tolerance, "{context}: dk is off by {error}");
        }
        let allowed = tolerance * (1.0 + expected.loss.abs());
        let near = abs_diff_eq!(f64::from(dscale), expected.dscale, epsilon = allowed);
        assert!(
            near,
            "{context}: dscale is {dscale}, not {}",
            expected.dscale
        );
    };

    let wanted = gradients(&mut dq, contrast.has_dk().then_some(&mut dk), d);
    let value = engine.value_and_grad(problem, 0.5, wanted);
    let value = value.unwrap();
    compare(&dq, &dk, value.dscale);
    let is_expected = |loss: f32| {
        let allowed = 2e-5 * (1.0 + expected.loss.abs());
        abs_diff_eq!(f64::from(loss), expected.loss, epsilon = allowed)
    };
    assert!(is_expected(value.loss), "{context}: loss");

    let forward = engine.forward(problem).unwrap();
    assert!(is_expected(forward.loss), "{context}: forward");
    dq.fill(f32::NAN);
    dk.fill(f32::NAN);
    let wanted = gradients(&mut dq, contrast.has_dk().then_some(&mut dk), d);
    let dscale = engine.backward(problem, &forward.statistics, 0.5, wanted);
    compare(&dq, &dk, dscale.unwrap());
}

fn check_all_losses<T: Element>(kernel: &'static Kernel, temperature: f32) {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for (n, m, d) in [
        (1, 1, 1),
        (5, 7, 3),
        (50, 193, 17),
        (97, 390, 34),
        (130, 60, 130),
    ] {
        let q = random::<T>(&mut rng, n, d);
        let k = random::<T>(&mut rng, m, d);
        let own_key = random::<T>(&mut rng, n, d);
        let z = random::<T>(&mut rng, 2 * n, d);
        let mut index: Vec<u32> = (0..n).map(|_| rng.random_range(0..m as u32)).collect();
        index[n / 2] = NO_POSITIVE;
        let [z, q, k, own_key] =
            [&z, &q, &k, &own_key].map(|x| Rows::new(x, x.len() / d, d).unwrap());
        for loss in TABLE {
            let contrast = (loss.at)(temperature).unwrap();
            if contrast.rule().grows_exponentially() && temperature < 0.1 {
                continue;
            }
            let matrices = match (contrast.is_shared(), contrast.has_columns()) {
                (true, _) => [z; 3],
                (_, true) => [q, k, own_key].map(|x| x.part(0, n.min(m))),
                _ => [q, k, own_key],
            };
            let problem = contrast.pose(matrices, Positives::Index(&index[..]));
            check(kernel, &problem.unwrap());
        }
    }
}

#[test]
fn every_kernel_agrees_with_the_reference_at_bounded_logits() {
    for kernel in kernels() {
        if kernel.depth == 2 {
            check_all_losses::<bf16>(kernel, 0.2);
        } else {
            check_all_losses::<f32>(kernel, 0.2);
            check_all_losses::<half::f16>(kernel, 0.2);
        }
    }
}

#[test]
fn every_kernel_agrees_with_the_reference_where_the_fixed_offset_does_not_serve() {
    for kernel in kernels() {
        if kernel.depth == 2 {
            check_all_losses::<bf16>(kernel, 0.012);
        } else {
            check_all_losses::<f32>(kernel, 0.012);
        }
    }
}

#[test]
fn inputs_of_any_alignment_are_accepted() {
    // bf16 items are read as 4-byte words where they lie so; here they lie between two.
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let data = random::<bf16>(&mut rng, 1, 41);
    for first in 0..2 {
        let z = Rows::new(&data[first..first + 40], 10, 4).unwrap();
        for kernel in [Kernel::portable_bf16(), Kernel::for_f32()] {
            let contrast = Contrast::nt_xent(0.2).unwrap();
            check(kernel, &contrast.on(Inputs::Shared { z }).unwrap());
        }
    }
}

#[test]
fn equal_scores_come_in_index_order() {
    let z = vec![1.0f32; 500];
    let z = Rows::new(&z, 500, 1).unwrap();
    let best = CpuEngine::new().top_k(z, z, 3, true).unwrap();
    assert_eq!(best.indices[..6], [1, 2, 3, 0, 2, 3]);
    assert_eq!(best.indices[1497..], [0, 1, 2]);
}

/// A call finds in its memory whatever earlier calls left, and must not see it.
#[test]
fn what_earlier_calls_left_in_the_workspace_changes_nothing() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let contrast = Contrast::info_nce(0.1).unwrap();
    let run = |engine: &CpuEngine, q: &[f32], k: &[f32], d: usize| {
        let (mut dq, mut dk) = (vec![0.0f32; q.len()], vec![0.0f32; k.len()]);
        let (n, m) = (q.len() / d, k.len() / d);
        let inputs = Inputs::pair(Rows::new(q, n, d).unwrap(), Rows::new(k, m, d).unwrap());
        let gradients = Gradients::new(
            RowsMut::new(&mut dq, n, d).unwrap(),
            Some(RowsMut::new(&mut dk, m, d).unwrap()),
        );
        let problem = contrast.on(inputs).unwrap();
        let value = engine.value_and_grad(&problem, 1.0, gradients);
        (value.unwrap().loss, dq, dk)
    };
    for kernel in kernels() {
        for (n, m, d) in [(1, 1, 1), (7, 7, 5), (49, 193, 33), (100, 200, 64)] {
            let q = random::<f32>(&mut rng, n, d);
            let k = random::<f32>(&mut rng, m, d);
            let fresh = run(&CpuEngine::new().with_kernel(kernel), &q, &k, d);
            let used = CpuEngine::new().with_kernel(kernel);
            let nan = vec![f32::NAN; 230 * 70];
            run(&used, &nan[..120 * 70], &nan, 70);
            let again = run(&used, &q, &k, d);
            assert_eq!(fresh, again, "{} {n}x{m}x{d}", kernel.name);
        }
    }
}
