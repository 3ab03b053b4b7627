//! Times every option of a problem on the CPU against the same loss without it, loss and gradients, in the same run.
//!
//! `cargo bench --bench options -- [--n N]… [--d D]… [--rounds R]` prints a line per option and shape. A problem with
//! options takes 8NMD FLOPs (docs/design.md): *rate* is its FLOPs a second over those of the loss without it, which takes
//! 6NMD one way and 5NMD for NT-Xent. Each round times both one after the other; medians over rounds.

mod measure;

use std::time::Instant;

use half::bf16;
use infonce::losses::{RowRule, SetForm};
use infonce::{
    Contrast, CpuEngine, Element, Engine, Error, Gradients, Ids, Positives, Problem, Reduction,
    Rows, RowsMut,
};
use measure::{median, unit_rows};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

const TEMPERATURE: f32 = 0.1;

fn main() -> Result<(), Error> {
    let (mut n, mut d, mut rounds) = (Vec::new(), Vec::new(), 7);
    let mut arguments = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench");
    while let Some(argument) = arguments.next() {
        let value = arguments.next().and_then(|value| value.parse().ok());
        let value: usize = value.unwrap_or_else(|| panic!("{argument} needs a number"));
        match argument.as_str() {
            "--n" => n.push(value),
            "--d" => d.push(value),
            "--rounds" => rounds = value,
            other => panic!("unknown option {other}; there are --n, --d and --rounds"),
        }
    }
    let or = |given: Vec<usize>, default: &[usize]| match given[..] {
        [] => default.to_vec(),
        _ => given,
    };
    println!("value and gradient; {}", CpuEngine::new().describe());
    println!(
        "{:<34} {:>6} {:>5} {:>5} {:>9} {:>9} {:>7} {:>6}",
        "option", "N=M", "D", "type", "ms", "without", "time", "rate"
    );
    for &n in &or(n, &[1024, 4096]) {
        for &d in &or(d.clone(), &[128, 512]) {
            lines::<f32>(n, d, rounds)?;
            lines::<bf16>(n, d, rounds)?;
        }
    }
    Ok(())
}

/// One shape's inputs and outputs.
struct Case<T> {
    engine: CpuEngine,
    n: usize,
    d: usize,
    q: Vec<T>,
    k: Vec<T>,
    /// Labels of 10 classes, labels of N/4 classes, and ids that a hundredth of the rows share.
    classes: Vec<u32>,
    small_classes: Vec<u32>,
    ids: Vec<u32>,
    floats: Vec<f32>,
    starts: Vec<u32>,
    listed: Vec<u32>,
    gradients: [Vec<f32>; 3],
}

impl<T: Element> Case<T> {
    fn new(n: usize, d: usize) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(n as u64 * 10_000 + d as u64);
        let words = |of: &dyn Fn(usize) -> usize| (0..n).map(|i| of(i) as u32).collect();
        Self {
            engine: CpuEngine::new(),
            n,
            d,
            q: unit_rows(&mut rng, n, d),
            k: unit_rows(&mut rng, n, d),
            classes: words(&|i| i * 7 % 10),
            small_classes: words(&|i| i * 7 % (n / 4)),
            ids: words(&|i| if i % 100 == 0 { i / 200 } else { n + i }),
            floats: (0..n).map(|i| (i % 5) as f32 / 4.0).collect(),
            starts: (0..=n).map(|i| 4 * i as u32).collect(),
            listed: (0..n)
                .flat_map(|i| {
                    let mut list = [0, 1, 2, 3].map(|place| ((i + place * n / 4) % n) as u32);
                    list.sort_unstable();
                    list
                })
                .collect(),
            gradients: [vec![0.0; n * d], vec![0.0; n * d], vec![0.0; n]],
        }
    }

    /// Seconds of a call.
    fn seconds(&mut self, option: &Named) -> Result<f64, Error> {
        let contrast = (option.contrast)()?;
        let q = Rows::new(&self.q, self.n, self.d)?;
        let k = Rows::new(&self.k, self.n, self.d)?;
        let labels = |labels| Positives::Labels {
            anchors: labels,
            candidates: labels,
        };
        let positives = match option.positives {
            Given::Diagonal => Positives::DIAGONAL,
            Given::Classes => labels(&self.classes[..]),
            Given::SmallClasses => labels(&self.small_classes[..]),
            Given::Lists => Positives::Lists {
                starts: &self.starts[..],
                candidates: &self.listed[..],
            },
        };
        let problem = contrast.pose([q, k, q], positives)?;
        let problem = match option.batch {
            Batch::Plain => problem,
            Batch::Ids => problem.excluding(Ids {
                anchors: &self.ids[..],
                candidates: &self.ids[..],
            })?,
            Batch::Weights => problem.with_row_weights(&self.floats)?,
            Batch::Bias | Batch::BiasGradient => problem.with_column_bias(&self.floats)?,
        };
        let [dq, dk, dbias] = &mut self.gradients;
        let dk = contrast.has_dk().then_some(dk);
        let dk = dk.map(|dk| RowsMut::new(dk, self.n, self.d)).transpose()?;
        let mut gradients = Gradients::new(RowsMut::new(dq, self.n, self.d)?, dk);
        if option.batch == Batch::BiasGradient {
            gradients = gradients.with_bias(RowsMut::new(dbias, 1, self.n)?);
        }
        time(&self.engine, &problem, gradients)
    }
}

fn time<T: Element>(
    engine: &CpuEngine,
    problem: &Problem<Rows<'_, T>>,
    gradients: Gradients<RowsMut<'_, f32>>,
) -> Result<f64, Error> {
    let start = Instant::now();
    let value = engine.value_and_grad(problem, 1.0, gradients)?;
    let seconds = start.elapsed().as_secs_f64();
    assert!(value.loss.is_finite());
    Ok(seconds)
}

/// Where positives come from.
enum Given {
    Diagonal,
    Classes,
    SmallClasses,
    Lists,
}

/// What a batch has besides.
#[derive(PartialEq)]
enum Batch {
    Plain,
    Ids,
    Weights,
    Bias,
    BiasGradient,
}

/// A problem, and its name.
struct Named {
    name: &'static str,
    contrast: fn() -> Result<Contrast, Error>,
    positives: Given,
    batch: Batch,
}

const fn named(
    name: &'static str,
    contrast: fn() -> Result<Contrast, Error>,
    positives: Given,
    batch: Batch,
) -> Named {
    Named {
        name,
        contrast,
        positives,
        batch,
    }
}

fn info_nce() -> Result<Contrast, Error> {
    Contrast::info_nce(TEMPERATURE)
}

fn with_form(form: SetForm) -> Result<Contrast, Error> {
    info_nce()?.with_rule(RowRule::Sets {
        form,
        smoothing: 0.0,
    })
}

/// The options of one-way InfoNCE.
const ONE_WAY: [Named; 12] = [
    named("row weights", info_nce, Given::Diagonal, Batch::Weights),
    named(
        "mean of rows with a positive",
        || Ok(info_nce()?.with_reduction(Reduction::MeanOfPositives)),
        Given::Diagonal,
        Batch::Plain,
    ),
    named("exclusion by id", info_nce, Given::Diagonal, Batch::Ids),
    named(
        "guard",
        || info_nce()?.with_guard(0.0),
        Given::Diagonal,
        Batch::Plain,
    ),
    named("column bias", info_nce, Given::Diagonal, Batch::Bias),
    named(
        "column bias with gradient",
        info_nce,
        Given::Diagonal,
        Batch::BiasGradient,
    ),
    named(
        "sets by label, 10 classes",
        || with_form(SetForm::MeanOutside),
        Given::Classes,
        Batch::Plain,
    ),
    named(
        "sets by label, N/4 classes",
        || with_form(SetForm::MeanOutside),
        Given::SmallClasses,
        Batch::Plain,
    ),
    named(
        "sets by list, 4 a row",
        || with_form(SetForm::MeanInside),
        Given::Lists,
        Batch::Plain,
    ),
    named(
        "sets, positives out",
        || with_form(SetForm::Decoupled),
        Given::SmallClasses,
        Batch::Plain,
    ),
    named(
        "label smoothing",
        || info_nce()?.with_label_smoothing(0.1),
        Given::Diagonal,
        Batch::Plain,
    ),
    named(
        "two exponents",
        || {
            info_nce()?.with_rule(RowRule::HardNegatives {
                beta: 1.0,
                prior: 0.1,
            })
        },
        Given::Diagonal,
        Batch::Plain,
    ),
];

/// The losses on one matrix.
const SHARED: [Named; 3] = [
    named(
        "SupCon, 10 classes",
        || Contrast::sup_con(TEMPERATURE),
        Given::Classes,
        Batch::Plain,
    ),
    named(
        "hard negatives",
        || Contrast::hard_negatives(TEMPERATURE, 1.0, 0.1),
        Given::Diagonal,
        Batch::Plain,
    ),
    named(
        "NT-Xent, exclusion by id",
        || Contrast::nt_xent(TEMPERATURE),
        Given::Diagonal,
        Batch::Ids,
    ),
];

fn lines<T: Element>(n: usize, d: usize, rounds: usize) -> Result<(), Error> {
    let mut case = Case::<T>::new(n, d);
    let one_way = named("InfoNCE", info_nce, Given::Diagonal, Batch::Plain);
    let nt_xent = || Contrast::nt_xent(TEMPERATURE);
    let shared = named("NT-Xent", nt_xent, Given::Diagonal, Batch::Plain);
    for (without, products, options) in [(&one_way, 6.0, &ONE_WAY[..]), (&shared, 5.0, &SHARED)] {
        for (place, option) in options.iter().enumerate() {
            // Row weights and the mean change row-wise work alone.
            let is_tiled = products != 6.0 || place > 1;
            let executed = if is_tiled { 8.0 } else { products };
            line(&mut case, (without, products), (option, executed), rounds)?;
        }
    }
    Ok(())
}

fn line<T: Element>(
    case: &mut Case<T>,
    (without, products): (&Named, f64),
    (option, executed): (&Named, f64),
    rounds: usize,
) -> Result<(), Error> {
    // Small shapes are repeated within a round, so that a round is long enough for the timer.
    let flops = 8.0 * (case.n as f64).powi(2) * case.d as f64;
    let repeats = (2e9 / flops).ceil().max(1.0) as usize;
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..=rounds {
        let mut pair = [0.0; 2];
        for (sum, problem) in pair.iter_mut().zip([option, without]) {
            for _ in 0..repeats {
                *sum += case.seconds(problem)? / repeats as f64;
            }
        }
        // The first round warms up.
        if round > 0 {
            for (times, time) in times.iter_mut().zip(pair) {
                times.push(time);
            }
        }
    }
    let [ours, base] = &times;
    let ratio = median(ours.iter().zip(base).map(|(t, base)| t / base).collect());
    println!(
        "{:<34} {:>6} {:>5} {:>5} {:>9.2} {:>9.2} {:>6.2}x {:>5.0}%",
        option.name,
        case.n,
        case.d,
        T::DTYPE.to_string(),
        median(ours.clone()) * 1e3,
        median(base.clone()) * 1e3,
        ratio,
        100.0 * executed / products / ratio,
    );
    Ok(())
}
