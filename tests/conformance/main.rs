//! One suite, every engine: the table of hard cases of `infonce::verify`, one test per engine, case
//! and input type. An engine that is not there is reported as ignored, with the reason, never as
//! passed.
//!
//! Inputs are drawn afresh each time; `INFONCE_SEED=<number>` repeats a run. To run a part:
//! `cargo test --test conformance -- "NT-Xent 98x98x64"`. `INFONCE_REDUCED=1` leaves the few small cases
//! that launch every kernel of their engine but those of tf32, e4m3 and a recorded step, for checkers that take many times as long.

#[cfg(feature = "cuda")]
#[path = "../cuda_device/no_device.rs"]
mod no_device;
#[cfg(feature = "cuda")]
#[path = "../cuda_device/noted.rs"]
mod noted;
mod sensitivity;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use half::{bf16, f16};
#[cfg(feature = "cuda")]
use infonce::cuda::CudaEngine;
#[cfg(feature = "emulator")]
use infonce::host::{HostEngine, Schedule};
use infonce::verify::cases::{Case, Data, Loss};
use infonce::verify::rule::Measurement;
use infonce::verify::{
    Backend, Expectation, Failure, Problem, check, check_rows, evaluate, random, same_bits, table,
};
use infonce::{CpuEngine, Element, Error};
use libtest_mimic::{Arguments, Completion, Failed, Trial};

fn main() {
    let arguments = Arguments::from_args();
    let seed = match std::env::var("INFONCE_SEED") {
        Ok(text) => text.parse().unwrap_or_else(|_| {
            eprintln!("INFONCE_SEED is \"{text}\"; it must be a whole number");
            std::process::exit(2);
        }),
        Err(_) => SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_nanos() as u64),
    };
    eprintln!("INFONCE_SEED={seed}");
    let mut trials = sensitivity::trials(seed);
    trials.extend(cpu_trials(seed));
    trials.extend(host_trials(seed));
    trials.extend(cuda_trials(seed));
    libtest_mimic::run(&arguments, trials).exit();
}

fn absent(engine: &str, reason: impl Into<String>) -> Trial {
    let reason = reason.into();
    Trial::ignorable_test(engine, move || Ok(Completion::ignored_with(reason)))
}

fn cpu_trials(seed: u64) -> Vec<Trial> {
    // With no room for softmax weights, every problem is cut into as many chunks of rows as can be.
    let frugal = CpuEngine::new().with_weights_budget(0);
    let configurations = vec![("cpu", CpuEngine::new()), ("cpu in chunks", frugal)];
    let mut trials = trials("cpu", configurations, seed);
    trials.extend(thread_trials(seed));
    trials
}

/// The kernels' sources, run on the processor: once with every asynchronous operation as late as can
/// be, once with each late or early by chance, in another order of threads and blocks.
#[cfg(feature = "emulator")]
fn host_trials(seed: u64) -> Vec<Trial> {
    let configurations = vec![
        ("host-run, late", HostEngine::new(Schedule::Late, seed)),
        ("host-run, mixed", HostEngine::new(Schedule::Mixed, !seed)),
    ];
    let mut all = trials("host-run kernels", configurations, seed);
    // The kernels for sm_90a, which multiply 16-bit numbers; the others are the same as above.
    let hopper = HostEngine::new(Schedule::Mixed, seed).with_hopper_kernels();
    let configurations = vec![("host-run Hopper, mixed", hopper)];
    all.extend(narrow_trials(
        "host-run Hopper kernels",
        configurations,
        seed,
    ));
    all
}

#[cfg(not(feature = "emulator"))]
fn host_trials(_: u64) -> Vec<Trial> {
    vec![absent(
        "host-run kernels",
        "this build lacks the feature `emulator`",
    )]
}

const CUDA_PORTABLE: &str = "cuda portable";
const CUDA_HOPPER: &str = "cuda Hopper";

/// The kernels on device 0, those that every card runs and those for sm_90a, which multiply 16-bit
/// numbers: each with the usual budget, and with room for one tile of weights at a time.
#[cfg(feature = "cuda")]
fn cuda_trials(seed: u64) -> Vec<Trial> {
    let engine = match CudaEngine::new(0) {
        Ok(engine) => engine,
        Err(error) => {
            no_device::ignored(&error.to_string());
            return [CUDA_PORTABLE, CUDA_HOPPER]
                .map(|name| absent(name, error.to_string()))
                .into();
        }
    };
    let both_budgets = |engine: CudaEngine| {
        let frugal = engine.clone().with_weights_budget(0);
        vec![("cuda", engine), ("cuda in chunks", frugal)]
    };
    let portable = engine.clone().with_portable_kernels(true);
    let mut all = trials(CUDA_PORTABLE, both_budgets(portable), seed);
    match engine.device().info().compute_capability {
        (9, 0) => all.extend(narrow_trials(CUDA_HOPPER, both_budgets(engine), seed)),
        (major, minor) => {
            let reason = format!("the device has compute capability {major}.{minor}, not 9.0");
            all.push(absent(CUDA_HOPPER, reason));
        }
    }
    all
}

#[cfg(not(feature = "cuda"))]
fn cuda_trials(_: u64) -> Vec<Trial> {
    [CUDA_PORTABLE, CUDA_HOPPER]
        .map(|name| absent(name, "this build lacks the feature `cuda`"))
        .into()
}

/// An engine as trials take it.
trait Tried: Backend + Send + Sync + 'static {
    /// Runs a trial, and notes what it launched where that can be told.
    fn tried(&self, trial: impl FnOnce(&Self) -> Result<(), Failed>) -> Result<(), Failed> {
        trial(self)
    }
}

impl Tried for CpuEngine {}

#[cfg(feature = "emulator")]
impl Tried for HostEngine {}

#[cfg(feature = "cuda")]
impl Tried for CudaEngine {
    fn tried(&self, trial: impl FnOnce(&Self) -> Result<(), Failed>) -> Result<(), Failed> {
        let noted = noted::Noted::default();
        trial(&self.traced(&noted.trace))?;
        noted.passed();
        Ok(())
    }
}

/// The configurations of one engine, with their names.
type Configurations<B> = Arc<Vec<(&'static str, B)>>;

/// The whole table on one engine.
fn trials<B: Tried>(engine: &str, configurations: Vec<(&'static str, B)>, seed: u64) -> Vec<Trial> {
    let configurations = Arc::new(configurations);
    let mut trials = typed_trials::<B, f32>(engine, &configurations, seed);
    trials.extend(typed_trials::<B, f16>(engine, &configurations, seed));
    trials.extend(typed_trials::<B, bf16>(engine, &configurations, seed));
    trials
}

/// Those of 16-bit inputs.
fn narrow_trials<B: Tried>(
    engine: &str,
    configurations: Vec<(&'static str, B)>,
    seed: u64,
) -> Vec<Trial> {
    let configurations = Arc::new(configurations);
    let mut trials = typed_trials::<B, bf16>(engine, &configurations, seed);
    trials.extend(typed_trials::<B, f16>(engine, &configurations, seed));
    trials
}

fn typed_trials<B: Tried, T: Element>(
    engine: &str,
    configurations: &Configurations<B>,
    seed: u64,
) -> Vec<Trial> {
    let reduced = std::env::var_os("INFONCE_REDUCED").is_some();
    let cases = table(seed).into_iter().enumerate();
    let cases = cases.filter(|(_, case)| !reduced || is_in_reduced_set(case));
    let mut trials: Vec<Trial> = cases
        .map(|(index, case)| case_trial::<B, T>(engine, configurations, case, seed, index))
        .collect();
    trials.push(rows_trial::<B, T>(engine, configurations, seed));
    trials
}

/// Fused kernels of every D and weights that are stored, softmaxes found on the way and known before,
/// one term of the weights and both.
fn is_in_reduced_set(case: &Case) -> bool {
    let losses = [Loss::NtXent, Loss::InfoNceDiagonal, Loss::Clip];
    let is_usual = case.data == Data::Unit && (10.0..20.0).contains(&case.scale);
    let sizes = [
        (16, 128),
        (97, 64),
        (98, 64),
        (257, 200),
        (258, 200),
        (130, 512),
    ];
    is_usual && losses.contains(&case.loss) && sizes.contains(&(case.anchors, case.dim))
}

fn case_trial<B: Tried, T: Element>(
    engine: &str,
    configurations: &Configurations<B>,
    case: Case,
    seed: u64,
    index: usize,
) -> Trial {
    let configurations = Arc::clone(configurations);
    Trial::test(format!("{engine} {} {case}", T::DTYPE), move || {
        let problem = Problem::<T>::draw(&case, &mut random(seed, index))?;
        let expectation = Expectation::new(&problem)?;
        for (name, backend) in configurations.iter() {
            backend.tried(|backend| {
                let checked = check(backend, &problem, &expectation);
                verdict(checked, &format!("{name}: {case}"), seed)
            })?;
        }
        Ok(())
    })
}

fn rows_trial<B: Tried, T: Element>(
    engine: &str,
    configurations: &Configurations<B>,
    seed: u64,
) -> Trial {
    let configurations = Arc::clone(configurations);
    Trial::test(format!("{engine} {} row-wise verbs", T::DTYPE), move || {
        for (name, backend) in configurations.iter() {
            backend.tried(|backend| {
                let checked = check_rows::<B, T>(backend, &mut random(seed, table(seed).len()));
                verdict(checked, &format!("{name}: row-wise verbs"), seed)
            })?;
        }
        Ok(())
    })
}

/// Passes when every measurement does; otherwise says what, where, with which seed and by how much.
fn verdict(
    checked: Result<Vec<Measurement>, Failure>,
    case: &str,
    seed: u64,
) -> Result<(), Failed> {
    let measurements =
        checked.map_err(|failure| format!("INFONCE_SEED={seed} {case}: {failure}"))?;
    let failed: Vec<String> = measurements
        .iter()
        .filter(|measurement| !measurement.passes())
        .map(|measurement| format!("INFONCE_SEED={seed} {case}: {measurement}"))
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(failed.join("\n").into())
}

/// The same bits with 1, 2 and 5 threads, on the whole table.
fn thread_trials(seed: u64) -> Vec<Trial> {
    let engines: Result<Vec<CpuEngine>, Error> =
        [1, 2, 5].map(CpuEngine::with_threads).into_iter().collect();
    let engines = match engines {
        Ok(engines) => Arc::new(engines),
        Err(error) => {
            return vec![Trial::test("cpu threads", move || Err(error.into()))];
        }
    };
    let mut trials = Vec::new();
    for (index, case) in table(seed).into_iter().enumerate() {
        if !matches!(case.data, Data::NotFinite(_)) {
            trials.push(thread_trial::<f32>(&engines, case, seed, index));
            trials.push(thread_trial::<f16>(&engines, case, seed, index));
            trials.push(thread_trial::<bf16>(&engines, case, seed, index));
        }
    }
    trials
}

fn thread_trial<T: Element>(
    engines: &Arc<Vec<CpuEngine>>,
    case: Case,
    seed: u64,
    index: usize,
) -> Trial {
    let engines = Arc::clone(engines);
    Trial::test(
        format!("cpu-1-2-5-threads {} {case}", T::DTYPE),
        move || {
            let problem = Problem::<T>::draw(&case, &mut random(seed, index))?;
            let mut first = None;
            for engine in engines.iter() {
                let outputs = evaluate(engine, &problem)?;
                let first = first.get_or_insert_with(|| outputs.clone());
                same_bits(first, &outputs)
                    .map_err(|failure| format!("INFONCE_SEED={seed} {case}: {failure}"))?;
            }
            Ok(())
        },
    )
}
