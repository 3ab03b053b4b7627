//! Times one-way InfoNCE on the CPU, loss and both gradients, against (a) a plain implementation that materialises the
//! N×M matrix and (b) its three matrix products alone, in the same run.
//!
//! `cargo bench --bench similarity -- [--n N]… [--d D]… [--rounds R]` prints one line per shape.
//! Each round times the three one after another, and ratios are taken within a round: absolute times drift with the
//! load of the machine, ratios less.

mod measure;
mod plain;

use std::time::Instant;

use half::bf16;
use infonce::{Contrast, CpuEngine, Element, Engine, Gradients, Inputs, Rows, RowsMut};
use measure::{median, unit_rows};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

fn main() {
    let options = Options::parse(std::env::args().skip(1));
    if options.serve {
        return serve();
    }
    println!(
        "one-way InfoNCE, value and gradient, tau = {TEMPERATURE}; {}",
        CpuEngine::new().describe()
    );
    println!(
        "{:>6} {:>5} {:>5} {:>9} {:>8} {:>10} {:>10} {:>11} {:>12}",
        "N=M", "D", "type", "ms", "GFLOP/s", "plain ms", "products", "vs plain", "vs products"
    );
    for &n in &options.n {
        for &d in &options.d {
            line::<f32>(n, d, options.rounds);
            line::<bf16>(n, d, options.rounds);
        }
    }
    println!(
        "vs plain: plain time / ours. vs products: bare products' time / ours. Medians over rounds."
    );
}

/// Answers each line `N D f32|bf16` with the seconds of one call: the engine's side of
/// `benches/peers/torch_cpu.py`.
fn serve() {
    let (mut f32_case, mut bf16_case) = (None, None);
    for request in std::io::stdin().lines() {
        let request = request.expect("stdin can be read");
        let words: Vec<&str> = request.split_whitespace().collect();
        let (n, d) = match words[..] {
            [n, d, _] => (n.parse().expect("N"), d.parse().expect("D")),
            _ => panic!("a request is `N D f32|bf16`, not {request:?}"),
        };
        let seconds = match words[2] {
            "f32" => Case::<f32>::kept(&mut f32_case, n, d).ours(),
            "bf16" => Case::<bf16>::kept(&mut bf16_case, n, d).ours(),
            other => panic!("unknown type {other}"),
        };
        println!("{seconds}");
    }
}

const TEMPERATURE: f32 = 0.07;

struct Options {
    serve: bool,
    n: Vec<usize>,
    d: Vec<usize>,
    rounds: usize,
}

impl Options {
    /// Cargo passes `--bench`. Unknown options are refused.
    fn parse(mut arguments: impl Iterator<Item = String>) -> Self {
        let mut options = Self {
            serve: false,
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
                "--serve" => options.serve = true,
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

/// One shape's inputs and outputs.
struct Case<T> {
    engine: CpuEngine,
    n: usize,
    d: usize,
    q: Vec<T>,
    k: Vec<T>,
    dq: Vec<f32>,
    dk: Vec<f32>,
}

impl<T: Element> Case<T> {
    fn new(n: usize, d: usize) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(n as u64 * 10_000 + d as u64);
        Self {
            engine: CpuEngine::new(),
            n,
            d,
            q: unit_rows(&mut rng, n, d),
            k: unit_rows(&mut rng, n, d),
            dq: vec![0.0; n * d],
            dk: vec![0.0; n * d],
        }
    }

    /// The case of this shape, kept from the last call where that had the same shape.
    fn kept(case: &mut Option<Self>, n: usize, d: usize) -> &mut Self {
        if case.as_ref().is_some_and(|case| (case.n, case.d) != (n, d)) {
            *case = None;
        }
        case.get_or_insert_with(|| Self::new(n, d))
    }

    /// Seconds of one value-and-gradient on the engine.
    fn ours(&mut self) -> f64 {
        let Self { n, d, .. } = *self;
        let inputs = Inputs::pair(
            Rows::new(&self.q, n, d).expect("the shape of q"),
            Rows::new(&self.k, n, d).expect("the shape of k"),
        );
        let contrast = Contrast::info_nce(TEMPERATURE).expect("a legal temperature");
        let problem = contrast.on(inputs).expect("legal inputs");
        let gradients = Gradients::new(
            RowsMut::new(&mut self.dq, n, d).expect("the shape of dq"),
            Some(RowsMut::new(&mut self.dk, n, d).expect("the shape of dk")),
        );
        let start = Instant::now();
        let value = self.engine.value_and_grad(&problem, 1.0, gradients);
        let seconds = start.elapsed().as_secs_f64();
        assert!(value.expect("legal inputs").loss.is_finite());
        seconds
    }
}

fn line<T: Element>(n: usize, d: usize, rounds: usize) {
    let mut case = Case::<T>::new(n, d);
    let (mut q32, mut k32) = (vec![0.0; n * d], vec![0.0; n * d]);
    T::widen(&case.q, &mut q32);
    T::widen(&case.k, &mut k32);
    let (mut dq, mut dk) = (vec![0.0f32; n * d], vec![0.0f32; n * d]);
    let mut logits = vec![0.0f32; n * n];
    let scale = 1.0 / TEMPERATURE;

    // Small shapes are repeated within a round, so that a round is long enough for the timer.
    let flops = 6.0 * (n as f64).powi(2) * d as f64;
    let repeats = (2e9 / flops).ceil().max(1.0) as usize;
    let mean = |seconds: &mut dyn FnMut() -> f64| {
        (0..repeats).map(|_| seconds()).sum::<f64>() / repeats as f64
    };
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..=rounds {
        let ours = mean(&mut || case.ours());
        let plain = mean(&mut || {
            let start = Instant::now();
            let loss = plain::info_nce(&q32, &k32, n, d, scale, &mut logits, &mut dq, &mut dk);
            assert!(loss.is_finite());
            start.elapsed().as_secs_f64()
        });
        let products = mean(&mut || {
            let start = Instant::now();
            plain::three_products(&q32, &k32, n, d, &mut logits, &mut dq, &mut dk);
            start.elapsed().as_secs_f64()
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
