//! The subcommands `verify` and `info`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};
#[cfg(feature = "emulator")]
use infonce::emulator::{EmulatedEngine, Schedule};
use infonce::{CpuEngine, verify};

/// Arguments of `infonce verify`.
#[derive(Args)]
pub struct VerifyArguments {
    /// Seed of the random inputs; a new one every time when left out.
    #[arg(long)]
    seed: Option<u64>,
    /// The engine to verify.
    #[arg(long, value_enum, default_value_t = EngineName::Cpu)]
    engine: EngineName,
    /// Besides the verbs that compute no contrast, only cases whose names contain this, such as "CLIP 65x65".
    #[arg(long, value_name = "TEXT", default_value = "")]
    cases: String,
    /// Also write the table to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum EngineName {
    /// The CPU.
    Cpu,
    /// The CUDA kernels' sources, run on the CPU with every access checked; takes minutes.
    Emulator,
    /// A CUDA device.
    Cuda,
}

/// Verifies an engine and prints, for each method and type, the error nearest to its bound. Exit code 1 when an
/// error exceeds its bound or the report cannot be written, 2 when the engine is unavailable.
pub fn verify(arguments: &VerifyArguments) -> ExitCode {
    let seed = arguments.seed.unwrap_or_else(seed_from_clock);
    let only = arguments.cases.as_str();
    if verify::cases_named(seed, only).is_empty() {
        eprintln!("error: --cases: no case has \"{only}\" in its name");
        return ExitCode::from(2);
    }
    let report = match arguments.engine {
        EngineName::Cpu => {
            let engine = CpuEngine::new();
            println!("cpu: {}; seed {seed}\n", engine.describe());
            // The least budget for softmax weights gives the smallest chunks of rows.
            let frugal = CpuEngine::new().with_weights_budget(0);
            let configurations = [("cpu", engine), ("cpu in chunks", frugal)];
            Ok(verify::run(&configurations, seed, only))
        }
        EngineName::Emulator => verify_emulator(seed, only),
        EngineName::Cuda => verify_cuda(seed, only),
    };
    let report = match report {
        Ok(report) => report,
        Err(reason) => {
            eprintln!("error: {reason}");
            return ExitCode::from(2);
        }
    };
    println!("{report}");
    if let Some(path) = &arguments.report
        && let Err(error) = serde_json::to_string_pretty(&report)
            .map_err(std::io::Error::from)
            .and_then(|text| std::fs::write(path, text))
    {
        eprintln!("error: --report {}: {error}", path.display());
        return ExitCode::FAILURE;
    }
    ExitCode::from(u8::from(!report.passed()))
}

/// Says that this build has no trainer; exit code 2.
#[cfg(not(feature = "train"))]
pub fn train_is_not_built() -> ExitCode {
    eprintln!(
        "error: this build lacks the feature `train`: build the command with \
         `cargo install infonce --features train`, or in its repository run \
         `cargo run --features train -- train`"
    );
    ExitCode::from(2)
}

/// Prints which engines are available, and why the others are not.
pub fn info() -> ExitCode {
    println!("infonce {}", infonce::VERSION);
    let cpu = vec![CpuEngine::new().describe()];
    let emulator = EMULATOR.map(|description| vec![description.to_owned()]);
    for (engine, found) in [
        ("cpu", Ok(cpu)),
        ("emulator", emulator.map_err(str::to_owned)),
        ("cuda", cuda_devices()),
    ] {
        match found {
            Ok(here) => here
                .iter()
                .for_each(|it| println!("{engine:<9} here: {it}")),
            Err(reason) => println!("{engine:<9} not here: {reason}"),
        }
    }
    ExitCode::SUCCESS
}

#[cfg(feature = "emulator")]
const EMULATOR: Result<&str, &str> = Ok("the CUDA kernels' sources, run on the CPU to verify them");
#[cfg(not(feature = "emulator"))]
const EMULATOR: Result<&str, &str> = Err("this build lacks the feature `emulator`");

#[cfg(feature = "emulator")]
fn verify_emulator(seed: u64, only: &str) -> Result<verify::Report, String> {
    println!("emulator: {}; seed {seed}\n", EMULATOR?);
    let engine = EmulatedEngine::new(Schedule::Mixed, seed);
    Ok(verify::run(&[("emulator", engine)], seed, only))
}

#[cfg(not(feature = "emulator"))]
fn verify_emulator(_: u64, _: &str) -> Result<verify::Report, String> {
    EMULATOR
        .map(|_| unreachable!("there is none"))
        .map_err(str::to_owned)
}

#[cfg(feature = "cuda")]
fn verify_cuda(seed: u64, only: &str) -> Result<verify::Report, String> {
    use infonce::cuda::{CudaEngine, CudaTrace};
    let engine = CudaEngine::new(0).map_err(|error| error.to_string())?;
    let info = engine.device().info().clone();
    println!("cuda: {info}; seed {seed}\n");
    let trace = CudaTrace::new();
    let engine = engine.traced(&trace);
    // The least budget for softmax weights gives the smallest chunks of rows, where kernels store weights at all.
    let frugal = engine.clone().with_weights_budget(0);
    let portable = engine.clone().with_portable_kernels(true);
    let mut configurations = vec![("cuda", engine), ("cuda in chunks", frugal)];
    if info.compute_capability == (9, 0) {
        configurations.push(("cuda, portable kernels", portable));
    }
    let report = verify::run(&configurations, seed, only);
    let kernels = trace.kernels().map_err(|error| error.to_string())?;
    let mut names: Vec<&str> = kernels.iter().map(|kernel| kernel.kernel).collect();
    names.sort_unstable();
    println!("{} kernels served: {}\n", names.len(), names.join(" "));
    Ok(report)
}

#[cfg(not(feature = "cuda"))]
fn verify_cuda(_: u64, _: &str) -> Result<verify::Report, String> {
    Err(NOT_BUILT.into())
}

#[cfg(feature = "cuda")]
fn cuda_devices() -> Result<Vec<String>, String> {
    let devices = infonce::cuda::probe().map_err(|error| error.to_string())?;
    Ok(devices.iter().map(ToString::to_string).collect())
}

#[cfg(not(feature = "cuda"))]
fn cuda_devices() -> Result<Vec<String>, String> {
    Err(NOT_BUILT.into())
}

#[cfg(not(feature = "cuda"))]
const NOT_BUILT: &str = "this build lacks the feature `cuda`";

fn seed_from_clock() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    since_epoch.map_or(0, |time| time.as_nanos() as u64)
}
