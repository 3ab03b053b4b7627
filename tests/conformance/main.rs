//! The conformance suite: the table of hard cases of `infonce::verify`, a test for each engine and case. A missing
//! engine is reported as ignored, with the reason.
//!
//! Inputs are new in every run; `INFONCE_SEED=<number>` repeats one. A filter runs some cases:
//! `cargo test --features train,emulator-tests --test conformance -- "NT-Xent 98x98x64"`.
//!
//! Each case runs with one type of inputs, chosen by the seed and the case so that types alternate over the losses
//! of a shape and over the shapes of a loss; one in four under several schedules or numbers of threads.
//! `INFONCE_FULL=1` runs each case with all of these, and the largest cases too. `INFONCE_REDUCED=1` runs few small cases, for sanitizers that take many times as long: the cases launch every
//! kernel of their engine but those of tf32, e4m3 and a recorded step.

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
use infonce::emulator::{EmulatedEngine, Schedule};
use infonce::verify::cases::{Case, Data, Given};
use infonce::verify::rule::Measurement;
use infonce::verify::{
    Drawn, Expectation, Failure, GradientTypes, check, check_rows, check_top_k, random, table,
};
use infonce::{CpuEngine, DType, Element, Engine, Error};
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
    let suite = Suite {
        seed,
        extent: Extent::from_environment(),
    };
    let mut trials = sensitivity::trials(seed);
    trials.extend(suite.cpu_trials());
    trials.extend(suite.emulator_trials());
    trials.extend(suite.cuda_trials());
    libtest_mimic::run(&arguments, trials).exit();
}

fn absent(engine: &str, reason: impl Into<String>) -> Trial {
    let reason = reason.into();
    Trial::ignorable_test(engine, move || Ok(Completion::ignored_with(reason)))
}

/// Which cases run, with which types.
#[derive(Clone, Copy, PartialEq)]
enum Extent {
    /// Small cases that launch every kernel.
    Few,
    /// Every case but the largest, each with one type.
    Short,
    /// Everything.
    Full,
}

impl Extent {
    fn from_environment() -> Self {
        let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        if is_set("INFONCE_REDUCED") {
            Extent::Few
        } else if is_set("INFONCE_FULL") {
            Extent::Full
        } else {
            Extent::Short
        }
    }
}

/// One engine in one configuration: instances that have to agree bit for bit, or one instance twice.
struct Configuration<E> {
    name: &'static str,
    instances: Vec<E>,
}

/// A run.
#[derive(Clone, Copy)]
struct Suite {
    seed: u64,
    extent: Extent,
}

impl Suite {
    /// The CPU engine with 1 thread, 5 threads and a thread per core. Then with 2 and 3 threads and no budget for softmax
    /// weights, so that every problem has as many chunks of rows as possible.
    fn cpu_trials(self) -> Vec<Trial> {
        let engines = |counts: [usize; 2]| -> Result<Vec<CpuEngine>, Error> {
            counts.into_iter().map(CpuEngine::with_threads).collect()
        };
        let frugal = |engine: CpuEngine| engine.with_weights_budget(0);
        let (others, in_chunks) = match (engines([1, 5]), engines([2, 3])) {
            (Ok(others), Ok(in_chunks)) => (others, in_chunks),
            (Err(error), _) | (_, Err(error)) => {
                return vec![Trial::test("cpu threads", move || Err(error.into()))];
            }
        };
        let mut usual = vec![CpuEngine::new()];
        usual.extend(others);
        let configurations = vec![
            Configuration {
                name: "cpu",
                instances: usual,
            },
            Configuration {
                name: "cpu in chunks",
                instances: in_chunks.into_iter().map(frugal).collect(),
            },
        ];
        self.trials("cpu", configurations, &ALL_TYPES)
    }

    /// The kernels' sources in the emulator: with every asynchronous operation as late as possible, and with
    /// each late or early by the seed, in another order of threads and blocks.
    #[cfg(feature = "emulator")]
    fn emulator_trials(self) -> Vec<Trial> {
        let late = EmulatedEngine::new(Schedule::Late, self.seed);
        let mixed = EmulatedEngine::new(Schedule::Mixed, !self.seed);
        let hopper = |seed| EmulatedEngine::new(Schedule::Mixed, seed).with_hopper_kernels();
        let portable = Configuration {
            name: "emulator, late and mixed",
            instances: vec![late, mixed],
        };
        let hopper = Configuration {
            name: "emulator, sm_90a, mixed",
            instances: vec![hopper(self.seed), hopper(!self.seed)],
        };
        let mut all = self.trials("emulator", vec![portable], &ALL_TYPES);
        // The kernels for sm_90a multiply 16-bit types alone.
        all.extend(self.trials("emulator, sm_90a", vec![hopper], &NARROW_TYPES));
        all
    }

    #[cfg(not(feature = "emulator"))]
    fn emulator_trials(self) -> Vec<Trial> {
        vec![absent(
            "emulator",
            "this build lacks the feature `emulator`",
        )]
    }

    /// The kernels on device 0, the portable ones and those for sm_90a, which multiply 16-bit types: each with
    /// the usual budget, and with a budget for one tile of weights at a time.
    #[cfg(feature = "cuda")]
    fn cuda_trials(self) -> Vec<Trial> {
        let engine = match CudaEngine::new(0) {
            Ok(engine) => engine,
            Err(error) => {
                no_device::ignored(&error.to_string());
                return [CUDA_PORTABLE, CUDA_HOPPER]
                    .map(|name| absent(name, error.to_string()))
                    .into();
            }
        };
        let twice = |name, engine: CudaEngine| Configuration {
            name,
            instances: vec![engine.clone(), engine],
        };
        let both_budgets = |engine: CudaEngine| {
            let frugal = engine.clone().with_weights_budget(0);
            vec![twice("cuda", engine), twice("cuda in chunks", frugal)]
        };
        let portable = engine.clone().with_portable_kernels(true);
        let mut all = self.trials(CUDA_PORTABLE, both_budgets(portable), &ALL_TYPES);
        match engine.device().info().compute_capability {
            (9, 0) => all.extend(self.trials(CUDA_HOPPER, both_budgets(engine), &NARROW_TYPES)),
            (major, minor) => {
                let reason = format!("the device has compute capability {major}.{minor}, not 9.0");
                all.push(absent(CUDA_HOPPER, reason));
            }
        }
        all
    }

    #[cfg(not(feature = "cuda"))]
    fn cuda_trials(self) -> Vec<Trial> {
        [CUDA_PORTABLE, CUDA_HOPPER]
            .map(|name| absent(name, "this build lacks the feature `cuda`"))
            .into()
    }

    /// The table on one engine, with inputs of `types`, and the verbs that compute no contrast.
    fn trials<E: Tried>(
        self,
        engine: &str,
        configurations: Vec<Configuration<E>>,
        types: &[DType],
    ) -> Vec<Trial> {
        let configurations = Arc::new(configurations);
        let mut trials = Vec::new();
        for (index, case) in table(self.seed).into_iter().enumerate() {
            for dtype in self.types_of(&case, types) {
                let new = match dtype {
                    DType::F32 => case_trial::<E, f32>,
                    DType::F16 => case_trial::<E, f16>,
                    DType::Bf16 => case_trial::<E, bf16>,
                };
                let trial = new(engine, &configurations, case, self, index);
                trials.push(trial);
            }
        }
        for dtype in types {
            let new = match dtype {
                DType::F32 => whole_trial::<E, f32>,
                DType::F16 => whole_trial::<E, f16>,
                DType::Bf16 => whole_trial::<E, bf16>,
            };
            trials.push(new(engine, &configurations, TOP_K, self));
            // The row-wise verbs have no kernels for 16-bit types alone.
            if types.contains(&DType::F32) {
                trials.push(new(engine, &configurations, ROW_WISE, self));
            }
        }
        trials
    }

    /// Those of `types` that the run gives a case.
    fn types_of(self, case: &Case, types: &[DType]) -> Vec<DType> {
        match self.extent {
            Extent::Full => types.to_vec(),
            Extent::Few if is_in_reduced_set(case) => types.to_vec(),
            Extent::Short if self.is_in_short_run(case) => {
                let number = case.number + (self.seed % 6) as usize;
                vec![types[number % types.len()]]
            }
            Extent::Few | Extent::Short => Vec::new(),
        }
    }

    /// The types of a case's gradients; in a short run f32 or the inputs' type, alternating over all types of
    /// inputs.
    fn gradients_of(self, case: &Case) -> GradientTypes {
        let number = case.number / 2 + (self.seed / 6 % 2) as usize;
        match self.extent {
            Extent::Short if number.is_multiple_of(2) => GradientTypes::F32,
            Extent::Short => GradientTypes::Inputs,
            Extent::Few | Extent::Full => GradientTypes::Both,
        }
    }

    /// The instances of a configuration that run a case: in a short run all of them for one case in four, one for the
    /// others.
    fn chosen<'e, E>(self, case: &Case, instances: &'e [E]) -> &'e [E] {
        let number = case.number / 4 + (self.seed / 12 % 12) as usize;
        let one = number % instances.len();
        match self.extent {
            Extent::Short if !number.is_multiple_of(4) => &instances[one..=one],
            _ => instances,
        }
    }

    /// The short run leaves out the few cases that take as long as all others: a million logits or more, and D from
    /// 4,096 on. The seed chooses one in five of the latter, which run.
    fn is_in_short_run(self, case: &Case) -> bool {
        let is_chosen = case.number % 5 == (self.seed % 5) as usize;
        case.anchors * case.candidates < 1_000_000 && (case.dim < 4096 || is_chosen)
    }
}

const ALL_TYPES: [DType; 3] = [DType::F32, DType::F16, DType::Bf16];
const NARROW_TYPES: [DType; 2] = [DType::Bf16, DType::F16];

const CUDA_PORTABLE: &str = "cuda portable";
const CUDA_HOPPER: &str = "cuda Hopper";

/// An engine that trials run on.
trait Tried: Engine + Sized + Send + Sync + 'static {
    /// Runs a trial, and notes its launches on engines that report them.
    fn tried(
        instances: &[Self],
        trial: impl FnOnce(&[&Self]) -> Result<(), Failed>,
    ) -> Result<(), Failed> {
        trial(&instances.iter().collect::<Vec<_>>())
    }
}

impl Tried for CpuEngine {}

#[cfg(feature = "emulator")]
impl Tried for EmulatedEngine {}

#[cfg(feature = "cuda")]
impl Tried for CudaEngine {
    fn tried(
        instances: &[Self],
        trial: impl FnOnce(&[&Self]) -> Result<(), Failed>,
    ) -> Result<(), Failed> {
        let noted = noted::Noted::default();
        let traced = instances.iter().map(|engine| engine.traced(&noted.trace));
        trial(&traced.collect::<Vec<_>>().iter().collect::<Vec<_>>())?;
        noted.passed();
        Ok(())
    }
}

/// Cases that together run the fused kernels of every D, and stored weights; gradients with the statistics of an
/// earlier kernel, and of their own; weights of one exponential and of two; positives by index and by offset; weighted
/// rows.
fn is_in_reduced_set(case: &Case) -> bool {
    let is_any = |keys: &[(&str, Given)]| keys.iter().any(|&(key, given)| case.kind.is(key, given));
    let is_in = |sizes: &[(usize, usize)]| sizes.contains(&(case.anchors, case.dim));
    let is_usual = case.data == Data::Unit && (10.0..20.0).contains(&case.scale);
    let plain = [
        ("nt_xent", Given::Diagonal),
        ("info_nce", Given::Diagonal),
        ("clip", Given::Diagonal),
    ];
    let others = [
        ("info_nce", Given::Index),
        ("info_nce", Given::Offset),
        ("dclw", Given::Diagonal),
    ];
    let small = [(97, 64), (98, 64)];
    let sizes = [(16, 128), (257, 200), (258, 200), (130, 512)];
    let is_chosen = is_any(&plain) && (is_in(&small) || is_in(&sizes));
    // The kernels with options: one positive a row, sets, two exponents; of anchors that stay in shared memory or do not.
    let options = &case.kind.options;
    let many = options.ids && options.bias && (options.guard.is_some() || options.smoothing > 0.0);
    let hard = is_any(&[("hard", Given::Diagonal)]);
    let long = is_in(&[(65, 272), (66, 272)]);
    let has_options = many && (is_in(&small) || long) || hard && is_in(&small);
    let is_long_hard = hard && long && case.data == Data::Unnormalised;
    let is_other = is_any(&others) && is_in(&small);
    is_long_hard || is_usual && (is_chosen || is_other || has_options)
}

fn case_trial<E: Tried, T: Element>(
    engine: &str,
    configurations: &Arc<Vec<Configuration<E>>>,
    case: Case,
    suite: Suite,
    index: usize,
) -> Trial {
    let seed = suite.seed;
    let gradients = suite.gradients_of(&case);
    let configurations = Arc::clone(configurations);
    Trial::test(format!("{engine} {} {case}", T::DTYPE), move || {
        let problem = Drawn::<T>::draw(&case, &mut random(seed, index))?;
        let expectation = Expectation::new(&problem)?;
        for Configuration { name, instances } in configurations.iter() {
            E::tried(suite.chosen(&case, instances), |instances| {
                let checked = check(instances, &problem, &expectation, gradients);
                verdict(checked, &format!("{name}: {case}"), seed)
            })?;
        }
        Ok(())
    })
}

const TOP_K: &str = "top-k";
const ROW_WISE: &str = "row-wise verbs";

/// All checks of [`TOP_K`] or [`ROW_WISE`], by the instance of each configuration that the seed decides
/// or, in a full run, by all.
fn whole_trial<E: Tried, T: Element>(
    engine: &str,
    configurations: &Arc<Vec<Configuration<E>>>,
    verbs: &'static str,
    Suite { seed, extent }: Suite,
) -> Trial {
    let configurations = Arc::clone(configurations);
    Trial::test(format!("{engine} {} {verbs}", T::DTYPE), move || {
        for Configuration { name, instances } in configurations.iter() {
            let one = (seed % instances.len() as u64) as usize;
            let chosen = match extent {
                Extent::Full => instances.as_slice(),
                Extent::Short | Extent::Few => &instances[one..=one],
            };
            E::tried(chosen, |chosen| {
                chosen.iter().try_for_each(|instance| {
                    let rng = &mut random(seed, table(seed).len());
                    let checked = match verbs {
                        TOP_K => check_top_k::<E, T>(*instance, rng),
                        _ => check_rows::<E, T>(*instance, rng),
                    };
                    verdict(
                        checked.map_err(Failure::from),
                        &format!("{name}: {verbs}"),
                        seed,
                    )
                })
            })?;
        }
        Ok(())
    })
}

/// Passes when every measurement passes. The error names each failed measurement, its case and the seed.
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
