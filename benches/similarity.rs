//! One-way InfoNCE, loss and both gradients, against (a) the plain implementation that materialises
//! the N×M matrix and (b) the three bare matrix products of whole matrices, in the same run.
//!
//! `cargo bench --bench similarity -- [--n N]… [--d D]… [--rounds R]` prints one line per shape.
//! The three are timed in turn, round after round, and ratios are taken within a round: these are
//! what to read, because absolute times drift with whatever else the machine does.

mod plain;

use std::time::Instant;

use half::bf16;
use infonce::{Contrast, CpuEngine, Element, Engine, Gradients, Inputs, Positives, Rows, RowsMut};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

struct Shape {
    n: usize,
    d: usize,
}

fn main() {
    let options = Options::parse(std::env::args().skip(1));
    println!(
        "one-way InfoNCE, value and gradient, tau = 0.07; {}",
        CpuEngine::new().describe()
    );
    println!(
        "{:>6} {:>5} {:>5} {:>9} {:>8} {:>10} {:>10} {:>11} {:>12}",
        "N=M", "D", "type", "ms", "GFLOP/s", "plain ms", "products", "vs plain", "vs products"
    );
    for &n in &options.n {
        for &d in &options.d {
            let shape = Shape { n, d };
            line::<f32>(&shape, options.rounds);
            line::<bf16>(&shape, options.rounds);
        }
    }
    println!(
        "vs plain: plain time / ours. vs products: bare products' time / ours. Medians over rounds."
    );
}

struct Options {
    n: Vec<usize>,
    d: Vec<usize>,
    rounds: usize,
}

impl Options {
    /// Cargo passes `--bench`; whatever else is unknown is refused.
    fn parse(mut arguments: impl Iterator<Item = String>) -> Self {
        let mut options = Self {
            n: Vec::new(),
            d: Vec::new(),
            rounds: 7,
        };
        while let Some(argument) = arguments.next() {
            let mut number = || {
                let value = arguments.next().and_then(|value| value.parse().ok());
                value.unwrap_or_else(|| panic!("{argument} needs a number"))
            };
            match argument.as_str() {
                "--n" => options.n.push(number()),
                "--d" => options.d.push(number()),
                "--rounds" => options.rounds = number(),
                "--bench" => {}
                other => panic!("unknown option {other}; there are --n, --d and --rounds"),
            }
        }
        if options.n.is_empty() {
            options.n = vec![256, 1024, 4096, 8192];
        }
        if options.d.is_empty() {
            options.d = vec![128, 256, 512];
        }
        options
    }
}

/// Rows of norm 1, so that the logits are what training sees.
fn unit_rows<T: Element>(rng: &mut ChaCha8Rng, rows: usize, dim: usize) -> Vec<T> {
    let mut data: Vec<f32> = (0..rows * dim)
        .map(|_| rng.random_range(-1.0..1.0f32))
        .collect();
    for row in data.chunks_mut(dim) {
        let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.iter_mut().for_each(|x| *x /= norm);
    }
    data.into_iter().map(T::from_f32).collect()
}

fn line<T: Element>(shape: &Shape, rounds: usize) {
    let Shape { n, d } = *shape;
    let mut rng = ChaCha8Rng::seed_from_u64(n as u64 * 10_000 + d as u64);
    let (q, k) = (
        unit_rows::<T>(&mut rng, n, d),
        unit_rows::<T>(&mut rng, n, d),
    );
    let (mut q32, mut k32) = (vec![0.0; n * d], vec![0.0; n * d]);
    T::widen(&q, &mut q32);
    T::widen(&k, &mut k32);
    let (mut dq, mut dk) = (vec![0.0f32; n * d], vec![0.0f32; n * d]);
    let mut logits = vec![0.0f32; n * n];
    let scale = 1.0 / 0.07;
    let contrast = Contrast::info_nce(0.07, Positives::Diagonal).expect("a legal temperature");
    let engine = CpuEngine::new();
    let inputs = Inputs::Pair {
        q: Rows::new(&q, n, d).expect("the shape of q"),
        k: Rows::new(&k, n, d).expect("the shape of k"),
    };

    // Small shapes are repeated within a round, so that a round is never shorter than a timer sees.
    let flops = 6.0 * (n as f64).powi(2) * d as f64;
    let repeats = (2e9 / flops).ceil().max(1.0) as usize;
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..=rounds {
        let ours = time(repeats, || {
            let gradients = Gradients {
                dq: RowsMut::new(&mut dq, n, d).expect("the shape of dq"),
                dk: Some(RowsMut::new(&mut dk, n, d).expect("the shape of dk")),
            };
            let value = engine.value_and_grad(&contrast, &inputs, 1.0, gradients);
            assert!(value.expect("legal inputs").loss.is_finite());
        });
        let plain = time(repeats, || {
            let loss = plain::info_nce(&q32, &k32, n, d, scale, &mut logits, &mut dq, &mut dk);
            assert!(loss.is_finite());
        });
        let products = time(repeats, || {
            plain::three_products(&q32, &k32, n, d, &mut logits, &mut dq, &mut dk);
        });
        // The first round warms up.
        if round > 0 {
            for (times, time) in times.iter_mut().zip([ours, plain, products]) {
                times.push(time);
            }
        }
    }
    let [ours, plain, products] = &times;
    let ratio = |other: &[f64]| median(other.iter().zip(ours).map(|(o, t)| o / t).collect());
    println!(
        "{n:>6} {d:>5} {:>5} {:>9.2} {:>8.0} {:>10.2} {:>10.2} {:>10.2}x {:>11.2}x",
        T::DTYPE.to_string(),
        median(ours.clone()) * 1e3,
        flops / median(ours.clone()) / 1e9,
        median(plain.clone()) * 1e3,
        median(products.clone()) * 1e3,
        ratio(plain),
        ratio(products),
    );
}

fn time(repeats: usize, mut work: impl FnMut()) -> f64 {
    let start = Instant::now();
    for _ in 0..repeats {
        work();
    }
    start.elapsed().as_secs_f64() / repeats as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
