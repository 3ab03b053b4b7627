//! Times the verbs on a CUDA device at the shapes of training and prints a line for each case: device time, rates,
//! memory, and the ratio to the rate of a cuBLAS product or a copy in the same run.
//!
//! `cargo bench --features cuda --bench cuda -- [filter] [criterion's options]`. Criterion decides how
//! often each case runs and compares it with the run before. In the environment, paths absolute:
//! `INFONCE_CASES` chooses `weights`, `first` (the cases of `benches/peers`) or `rest`;
//! `INFONCE_ROWS=FILE` also writes the rows as JSON, after each one (`benches/cuda/schema.rs`);
//! `INFONCE_LARGEST=1` adds N = M = 131,072 and 1,048,576 to `rest`;
//! `INFONCE_OUTPUTS=FOLDER` writes losses, inputs and gradients of `first` to FOLDER, for `benches/peers` to check;
//! `INFONCE_DIVISOR=K` divides rows by K, for a short trial;
//! `INFONCE_SERIAL=1` disables overlapping launches, to compare.

mod losses;
mod product;
mod random;
mod rig;
mod rowwise;
#[expect(dead_code, reason = "records hold more than rows")]
mod schema;
mod steps;
mod table;

use std::process::ExitCode;
use std::time::Duration;

use criterion::Criterion;
use infonce::cuda::{CudaDevice, CudaEngine};

use rig::Rig;

const CASES: [&str; 3] = ["weights", "first", "rest"];

fn main() -> ExitCode {
    let cases = std::env::var("INFONCE_CASES").ok();
    if let Some(cases) = &cases
        && !CASES.contains(&&**cases)
    {
        let allowed = CASES.join(", ");
        eprintln!("error: INFONCE_CASES is {cases:?}; it must be one of {allowed}");
        return ExitCode::FAILURE;
    }
    let overlapping = std::env::var_os("INFONCE_SERIAL").is_none();
    let device = CudaDevice::new(0).map(|device| device.with_overlapping_launches(overlapping));
    let outcome = device.map(CudaEngine::on).map(Rig::new);
    let rows = match outcome {
        Ok(Ok(rig)) => measure(rig, cases.as_deref()),
        Ok(Err(error)) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
        Err(error) => {
            println!("ignored: {error}");
            Vec::new()
        }
    };
    let failed = rows.iter().any(|row| row.reason.is_some());
    ExitCode::from(u8::from(failed))
}

/// Times the cases that `INFONCE_CASES` names, or all.
fn measure(mut rig: Rig, cases: Option<&str>) -> Vec<schema::Row> {
    let wanted = |name| cases.is_none_or(|cases| cases == name);
    println!("{}", rig.description());
    let mut criterion = Criterion::default()
        .without_plots()
        .sample_size(20)
        .nresamples(2_000)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    if wanted("weights") {
        losses::weights(&mut rig, &mut criterion);
    }
    if wanted("first") {
        losses::first(&mut rig, &mut criterion);
        if let Some(folder) = std::env::var_os("INFONCE_OUTPUTS")
            && let Err(reason) = losses::outputs(&rig, folder.as_ref())
        {
            println!("no outputs: {reason}");
        }
    }
    if wanted("rest") {
        losses::rest(&mut rig, &mut criterion);
        steps::run(&mut rig, &mut criterion);
        rowwise::run(&mut rig, &mut criterion);
        if std::env::var_os("INFONCE_LARGEST").is_some() {
            losses::largest(&mut rig, &mut criterion);
        }
    }
    criterion.final_summary();
    let rows = rig.into_rows();
    println!("\n{}", table::text(&rows));
    rows
}
