//! Runs `infonce train`, from its arguments to its exit code.

use std::ffi::OsStr;
use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use super::arguments::TrainArgs;
use super::checkpoint;
use super::config::{Request, RunConfig};
use super::data::{self, Dataset, LoadOptions};
use super::ending::Ending;
use super::engine::{self, Choice};
use super::evaluate::Features;
use super::metrics::EvaluationRecord;
use super::platform::Platform;
use super::recorder::Recorder;
use super::run_error::RunError;
use super::run_folder::{self, RunFolder};
use super::trainer::{Cpu, Outcome, Trainer};
use super::{interrupt, summary};

/// Trains, evaluates and reports. An error is one line on stderr and an exit code:
/// see [`RunError::exit_code`].
pub fn run(arguments: &TrainArgs) -> ExitCode {
    match execute(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn execute(arguments: &TrainArgs) -> Result<(), RunError> {
    // Everything that can be refused is refused before the first file is written.
    let request = Request::new(arguments)?;
    let asked = &request.config;
    let (engine, reason) = engine::choose(asked.engine).map_err(RunError::Engine)?;
    let options = LoadOptions {
        seed: asked.train.seed,
        skip_unreadable: asked.skip_unreadable,
    };
    let dataset = data::load(&asked.data, options)?;
    let config = request.resolve(engine.name(), &dataset.augment);
    require_labels(arguments.require_improvement, &config, &dataset)?;
    let taken = format!("engine {}: {reason}", engine.name().key());
    match engine {
        Choice::Cpu => train(Cpu::default(), arguments, &config, &dataset, &taken),
        #[cfg(feature = "cuda")]
        Choice::Cuda(cuda) => train(*cuda, arguments, &config, &dataset, &taken),
    }
}

/// Trains, evaluates and reports after all arguments have been checked; `engine` is a line about
/// the engine.
fn train<P: Platform>(
    platform: P,
    arguments: &TrainArgs,
    config: &RunConfig,
    dataset: &Dataset,
    engine: &str,
) -> Result<(), RunError> {
    let mut trainer = Trainer::on(platform, &config.train, &config.augment, dataset)?;
    let resumed = arguments.resume.as_deref().map(checkpoint::load);
    let resumed = resumed.transpose()?;
    if let Some(checkpoint) = &resumed {
        trainer.fits(checkpoint)?;
    }
    let config_text = toml::to_string(config)?;
    let description = describe(config, config.train.contrast()?.name(), dataset);
    let mut folder = match &arguments.out {
        Some(path) => RunFolder::create(path)?,
        None => RunFolder::create(&RunFolder::free_name(&run_name(config)))?,
    };
    let stop = interrupt::flag()?;

    folder.started();
    folder.write(run_folder::CONFIG, config_text.as_bytes())?;
    for note in &dataset.notes {
        eprintln!("note: {note}");
    }
    let method = config.train.method.method().name;
    eprintln!("{method} on {}: {description}", config.data);
    eprintln!("{engine}");
    eprintln!("run folder {}", folder.path().display());

    let untrained = Features::of(&trainer, dataset)?;
    if let Some(checkpoint) = resumed {
        trainer.resume(checkpoint)?;
    }
    let checkpoint = folder.file(run_folder::CHECKPOINT);
    let started = Instant::now();
    let mut recorder = Recorder::new(
        folder.metrics()?,
        config.train.epochs,
        trainer.total_steps(),
    );
    let outcome = trainer.train(dataset, &mut recorder, &stop, &checkpoint);
    let recorded = recorder.finish();
    let outcome = outcome?;
    let (metrics, steps) = recorded?;
    let interrupted = RunError::Interrupted { checkpoint };
    if outcome == Outcome::Interrupted {
        return Err(interrupted);
    }
    let ending = Ending {
        method,
        description: &description,
        config,
        config_text: &config_text,
        dataset,
        untrained,
        steps,
        training_seconds: started.elapsed().as_secs_f64(),
        waits: trainer.platform().waits(),
        stop: &stop,
    };
    let Some(result) = ending.write(&trainer, &folder, metrics)? else {
        return Err(interrupted);
    };
    // A closed stdout does not fail a complete run.
    let _ = writeln!(
        std::io::stdout(),
        "{}",
        summary::table(&result, &folder.file(run_folder::REPORT))
    );
    require(arguments.require_improvement, &result)
}

/// `simclr-demo-7`: method, data and seed, fit for a folder's name.
fn run_name(config: &RunConfig) -> String {
    let data = match config.data.path() {
        None => Some("demo".into()),
        // A dot in a folder's name starts no extension; `.` and `..` have no name.
        Some(path) if path.is_dir() => path.file_name().map(OsStr::to_string_lossy),
        Some(path) => path.file_stem().map(OsStr::to_string_lossy),
    };
    let data = data.unwrap_or("data".into());
    let method = config.train.method.method().key;
    format!("{method}-{data}-{}", config.train.seed)
}

/// One sentence about the images and the settings.
fn describe(config: &RunConfig, loss: &str, dataset: &Dataset) -> String {
    let images = &dataset.train;
    let classes = match &dataset.labels {
        Some(labels) => format!("in {} classes", labels.class_names.len()),
        None => "without labels".to_owned(),
    };
    format!(
        "{} training and {} held-out images of {}x{}x{} {classes}, loss {loss}, {} epochs, batch {}, seed {}",
        images.len(),
        dataset.test.len(),
        images.height,
        images.width,
        images.channels,
        config.train.epochs,
        config.train.batch,
        config.train.seed,
    )
}

/// Refuses `--require-improvement` where it could not be judged, before anything is trained.
fn require_labels(
    points: Option<f64>,
    config: &RunConfig,
    dataset: &Dataset,
) -> Result<(), RunError> {
    match points {
        Some(required) if !required.is_finite() => Err(RunError::RequiredPoints { required }),
        Some(_) if dataset.labels.is_none() => Err(RunError::NoLabels {
            data: config.data.to_string(),
            notes: dataset.notes.join("; "),
        }),
        _ => Ok(()),
    }
}

fn require(points: Option<f64>, result: &EvaluationRecord) -> Result<(), RunError> {
    match points.zip(result.improvement) {
        // An improvement that is not a number does not pass.
        Some((required, found)) if found.is_nan() || found < required => {
            Err(RunError::NotImproved { required, found })
        }
        _ => Ok(()),
    }
}
