//! The subcommands `verify` and `info`.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};
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
}

#[derive(Clone, Copy, ValueEnum)]
enum EngineName {
    /// The processor's cores.
    Cpu,
}

/// Prints, per verb and type, the error nearest to its bound. Exit code 1 when one is past it.
pub fn verify(arguments: &VerifyArguments) -> ExitCode {
    let seed = arguments.seed.unwrap_or_else(seed_from_clock);
    let report = match arguments.engine {
        EngineName::Cpu => {
            let engine = CpuEngine::new();
            println!("cpu: {}; seed {seed}\n", engine.describe());
            // With no room for softmax weights, every problem is cut into many chunks of rows.
            let frugal = CpuEngine::new().with_weights_budget(0);
            verify::run(&[("cpu", engine), ("cpu in chunks", frugal)], seed)
        }
    };
    println!("{report}");
    if report.passed() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Prints which engines are here and why the others are not.
pub fn info() -> ExitCode {
    println!("infonce {}", env!("CARGO_PKG_VERSION"));
    println!("cpu   here: {}", CpuEngine::new().describe());
    println!("cuda  not here: this version has no CUDA engine yet");
    ExitCode::SUCCESS
}

fn seed_from_clock() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    since_epoch.map_or(0, |time| time.as_nanos() as u64)
}
