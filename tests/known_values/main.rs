//! Small cases with known values, which published implementations of contrastive losses have got wrong. Each
//! promise is one test per engine; losses are also judged on the float64 reference. A missing engine is reported
//! as ignored, with the reason.

mod layouts;
mod losses;
mod mining;
#[cfg(feature = "cuda")]
#[path = "../cuda_device/no_device.rs"]
mod no_device;
mod options;
mod shards;
mod triplet;
mod verbs;

use half::{bf16, f16};
#[cfg(feature = "cuda")]
use infonce::cuda::CudaEngine;
#[cfg(feature = "emulator")]
use infonce::emulator::{EmulatedEngine, Schedule};
use infonce::losses::{RowRule, TABLE};
use infonce::reference::{self, Dense, Reference};
use infonce::verify::{OnHost, poisoned, posed};
use infonce::{
    Contrast, CpuEngine, Element, Engine, Error, HostMemory, Ids, Matrix, NO_POSITIVE, Positives,
    Problem, Rows, Statistics, View,
};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Makes a new engine.
type New<E> = fn() -> Result<E, Error>;
/// A test of engines of one type.
type Promise<E> = fn(New<E>) -> Result<(), Error>;

fn main() {
    let arguments = Arguments::from_args();
    let mut trials = trials_on_host::<CpuEngine>("cpu", || Ok(CpuEngine::new()));
    trials.extend(emulator_trials());
    trials.extend(cuda_trials());
    libtest_mimic::run(&arguments, trials).exit();
}

fn trials<E: Engine + 'static>(engine: &str, new: New<E>) -> Vec<Trial> {
    let promises = losses::promises::<E>().into_iter();
    let promises = promises
        .chain(options::promises::<E>())
        .chain(mining::promises::<E>())
        .chain(shards::promises::<E>())
        .chain(triplet::promises::<E>())
        .chain(verbs::promises::<E>());
    promises
        .map(|promise| trial(engine, new, promise))
        .collect()
}

/// [`trials`], and the promises of engines on host memory.
fn trials_on_host<E: Engine<Memory = HostMemory> + 'static>(
    engine: &str,
    new: New<E>,
) -> Vec<Trial> {
    let mut all = trials(engine, new);
    all.extend(layouts::promises::<E>().map(|promise| trial(engine, new, promise)));
    all
}

fn trial<E: Engine + 'static>(
    engine: &str,
    new: New<E>,
    (name, promise): (&str, Promise<E>),
) -> Trial {
    let test = move || promise(new).map_err(Failed::from);
    Trial::test(format!("{engine}: {name}"), test)
}

fn absent(engine: &str, reason: impl Into<String>) -> Trial {
    let reason = reason.into();
    Trial::ignorable_test(engine, move || Ok(Completion::ignored_with(reason)))
}

#[cfg(feature = "emulator")]
fn emulator_trials() -> Vec<Trial> {
    let mut all = trials_on_host("emulator", || Ok(EmulatedEngine::new(Schedule::Late, 1)));
    all.extend(trials_on_host("emulator, sm_90a", || {
        Ok(EmulatedEngine::new(Schedule::Mixed, 2).with_hopper_kernels())
    }));
    all
}

#[cfg(not(feature = "emulator"))]
fn emulator_trials() -> Vec<Trial> {
    vec![absent(
        "emulator",
        "this build lacks the feature `emulator`",
    )]
}

#[cfg(feature = "cuda")]
fn cuda_trials() -> Vec<Trial> {
    match CudaEngine::new(0) {
        Ok(_) => trials("cuda", || CudaEngine::new(0)),
        Err(error) => {
            no_device::ignored(&error.to_string());
            vec![absent("cuda", error.to_string())]
        }
    }
}

#[cfg(not(feature = "cuda"))]
fn cuda_trials() -> Vec<Trial> {
    vec![absent("cuda", "this build lacks the feature `cuda`")]
}

/// The matrix with these rows.
fn matrix<const D: usize>(rows: &[[f64; D]]) -> Dense {
    Dense::from_fn(rows.len(), D, |i, d| rows[i][d])
}

/// Two views of two rows.
fn two_views() -> Dense {
    matrix(&[[1.0, 0.0], [0.0, 1.0], [0.8, 0.6], [-0.6, 0.8]])
}

/// Nearly standard normal elements: sums of twelve uniform ones.
fn randn(rows: usize, dim: usize, seed: u64) -> Dense {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    Dense::from_fn(rows, dim, |_, _| {
        (0..12).map(|_| rng.random_range(-0.5..0.5)).sum()
    })
}

/// The rows of `x`, of length 1.
fn unit(x: &Dense) -> Dense {
    reference::normalize(x, 1e-12).0
}

fn rounded<T: Element>(matrix: &Dense) -> Vec<T> {
    let numbers = matrix.as_slice().iter();
    numbers.map(|&x| T::from_f32(x as f32)).collect()
}

/// A contrast, the row counts of its matrices, its positives and options.
struct Kind {
    contrast: Contrast,
    rows: Vec<usize>,
    positives: Positives<Vec<u32>>,
    ids: Option<Ids<Vec<u32>>>,
    weights: Option<Vec<f32>>,
    bias: Option<Vec<f32>>,
}

impl Kind {
    fn new(contrast: Contrast, rows: &[usize]) -> Self {
        Self {
            contrast,
            rows: rows.to_vec(),
            positives: Positives::DIAGONAL,
            ids: None,
            weights: None,
            bias: None,
        }
    }

    /// The problem on these matrices.
    fn problem<'a, V: View<Indices = &'a [u32], Floats = &'a [f32]>>(
        &'a self,
        matrices: &[V],
    ) -> Result<Problem<V>, Error> {
        let mut problem = posed(&self.contrast, matrices, self.positives.view())?;
        if let Some(ids) = &self.ids {
            let (anchors, candidates) = (&ids.anchors[..], &ids.candidates[..]);
            problem = problem.excluding(Ids {
                anchors,
                candidates,
            })?;
        }
        if let Some(weights) = &self.weights {
            problem = problem.with_row_weights(weights)?;
        }
        match &self.bias {
            Some(bias) => problem.with_column_bias(bias),
            None => Ok(problem),
        }
    }

    fn by_index(contrast: Contrast, rows: &[usize], index: Vec<u32>) -> Self {
        Self {
            positives: Positives::Index(index),
            ..Self::new(contrast, rows)
        }
    }

    /// The name in messages.
    fn name(&self) -> String {
        let contrast = &self.contrast;
        let (name, rule, scale) = (contrast.name(), contrast.rule(), contrast.scale());
        format!("{name} by {rule:?} at {scale}")
    }

    /// Random unit rows.
    fn unit_rows(&self, dim: usize, seed: u64) -> Vec<Dense> {
        let seeds = self.rows.iter().zip(seed..);
        seeds
            .map(|(&rows, seed)| unit(&randn(rows, dim, seed)))
            .collect()
    }
}

/// All layouts, with n anchors and m ≥ n candidates (NT-Xent with 2n rows, CLIP with n of each); where positives
/// are given, on the diagonal and by index; two exponents, and sets of one positive with smoothed labels.
fn kinds(temperature: f32, n: usize, m: usize) -> Result<Vec<Kind>, Error> {
    let index: Vec<u32> = (0..n).map(|i| (i * 7 % m) as u32).collect();
    let info_nce = Contrast::info_nce(temperature)?;
    let hard = RowRule::HardNegatives {
        beta: 1.0,
        prior: 0.1,
    };
    Ok(vec![
        Kind::new(Contrast::nt_xent(temperature)?, &[2 * n]),
        Kind::new(info_nce, &[n, m]),
        Kind::by_index(info_nce, &[n, m], index.clone()),
        Kind::new(Contrast::moco(temperature)?, &[n, n, m]),
        Kind::new(Contrast::clip(1.0 / temperature)?, &[n, n]),
        Kind::new(info_nce.with_rule(hard)?, &[n, m]),
        Kind::by_index(info_nce.with_label_smoothing(0.1)?, &[n, m], index),
    ])
}

/// InfoNCE by each rule of the table of losses but soft targets, which have a layout of their own.
fn rules(temperature: f32) -> Result<Vec<Contrast>, Error> {
    let mut rules: Vec<Contrast> = Vec::new();
    for loss in TABLE {
        let rule = (loss.at)(temperature)?.rule();
        if rule.target_scale().is_none() && !rules.iter().any(|contrast| contrast.rule() == rule) {
            rules.push(Contrast::info_nce(temperature)?.with_rule(rule)?);
        }
    }
    Ok(rules)
}

/// Loss and gradients as an engine left them; dk where the contrast has one.
#[derive(Debug, PartialEq)]
struct Value {
    loss: f32,
    dscale: f32,
    statistics: Statistics,
    dq: Vec<f32>,
    dk: Vec<f32>,
    dbias: Vec<f32>,
}

impl Value {
    fn is_finite(&self) -> bool {
        let numbers = self.dq.iter().chain(&self.dk).chain(&self.dbias);
        numbers
            .chain([&self.loss, &self.dscale])
            .all(|x| x.is_finite())
    }
}

/// The matrices, rounded to `T`, for a problem to borrow.
struct Batch<T> {
    numbers: Vec<Vec<T>>,
    dim: usize,
}

impl<T: Element> Batch<T> {
    fn new(matrices: &[Dense]) -> Self {
        Self {
            numbers: matrices.iter().map(rounded).collect(),
            dim: (&matrices[0]).dim(),
        }
    }

    fn problem<'a>(&'a self, kind: &'a Kind) -> Result<Problem<Rows<'a, T>>, Error> {
        let views: Result<Vec<Rows<'_, T>>, Error> = self
            .numbers
            .iter()
            .map(|numbers| Rows::new(numbers, numbers.len() / self.dim, self.dim))
            .collect();
        kind.problem(&views?)
    }
}

fn widened<T: Element>(numbers: &[T]) -> Vec<f32> {
    numbers.iter().map(|x| x.to_f32()).collect()
}

/// value_and_grad of inputs of type `T`, with gradients of type `T`.
fn evaluate<E: Engine, T: Element>(
    engine: &E,
    kind: &Kind,
    matrices: &[Dense],
) -> Result<Value, Error> {
    let batch = Batch::<T>::new(matrices);
    let problem = batch.problem(kind)?;
    let mut gradients = poisoned::<T>(problem.shape(), kind.contrast.has_dk());
    if let Some(bias) = &kind.bias {
        gradients = gradients.with_bias(vec![T::from_f32(f32::NAN); bias.len()]);
    }
    let value = OnHost(engine).value_and_grad(&problem, 1.0, &mut gradients)?;
    let given = |x: Option<Vec<T>>| x.map(|x| widened(&x)).unwrap_or_default();
    Ok(Value {
        loss: value.loss,
        dscale: value.dscale,
        statistics: value.statistics,
        dq: widened(&gradients.dq),
        dk: given(gradients.dk),
        dbias: given(gradients.dbias),
    })
}

/// The float64 reference on the same inputs, rounded to `T`.
fn reference_of<T: Element>(kind: &Kind, matrices: &[Dense]) -> Result<Reference, Error> {
    let round = |matrix: &Dense| -> Dense {
        let (numbers, dim) = (rounded::<T>(matrix), matrix.dim());
        Dense::from_fn(matrix.rows(), dim, |i, d| {
            f64::from(numbers[i * dim + d].to_f32())
        })
    };
    let matrices: Vec<Dense> = matrices.iter().map(round).collect();
    let views: Vec<&Dense> = matrices.iter().collect();
    let problem = kind.problem(&views)?;
    Ok(reference::value_and_grad(&problem, 1.0))
}

/// Whether `found` is `expected` to within `share` of it.
fn assert_near(found: impl Into<f64>, expected: f64, share: f64, what: &str) {
    let found = found.into();
    assert!(
        (found - expected).abs() <= share * expected.abs(),
        "{what}: {found} in place of {expected}"
    );
}

/// Runs a generic function for f32, f16 and bf16.
macro_rules! in_all_types {
    ($function:ident::<$engine:ident>($($argument:expr),*)) => {
        $function::<$engine, f32>($($argument),*)?;
        $function::<$engine, half::f16>($($argument),*)?;
        $function::<$engine, half::bf16>($($argument),*)?;
    };
}
use in_all_types;
