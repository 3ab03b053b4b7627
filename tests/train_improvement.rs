//! The check for improvement distinguishes a run that learns from one that does not.
//!
//! A few epochs each. The full runs are `infonce train METHOD --require-improvement POINTS`.
#![cfg(feature = "train")]

use std::sync::atomic::AtomicBool;

use infonce::CpuEngine;
use infonce::train::config::RunConfig;
use infonce::train::data::{self, DataSource, LoadOptions};
use infonce::train::evaluate::Accuracies;
use infonce::train::metrics::{EpochRecord, StepRecord};
use infonce::train::trainer::{Cpu, Observer, Outcome, TrainConfig, Trainer};
use infonce::train::{EngineName, Features, judge, methods};

/// Percentage points above both baselines that the shortened run must reach.
const REQUIRED: f64 = 10.0;

struct Silent;

impl Observer for Silent {
    fn step(&mut self, _: &StepRecord) {}
    fn epoch(&mut self, _: &EpochRecord) {}
}

fn short_run(train: TrainConfig, with_gradient: bool) -> Accuracies {
    let dataset = data::load(&DataSource::Demo, LoadOptions::default()).unwrap();
    let config = RunConfig {
        data: DataSource::Demo,
        skip_unreadable: false,
        engine: EngineName::Cpu,
        train,
        augment: dataset.augment.clone(),
    };
    let mut trainer = Trainer::<Cpu>::new(&config.train, &config.augment, &dataset).unwrap();
    if !with_gradient {
        trainer = trainer.without_gradient();
    }
    let untrained = Features::of(&trainer, &dataset).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = folder.path().join("checkpoint.safetensors");
    let never = AtomicBool::new(false);
    let outcome = trainer
        .train(&dataset, &mut Silent, &never, &checkpoint)
        .unwrap();
    assert_eq!(outcome, Outcome::Finished);
    let trained = Features::of(&trainer, &dataset).unwrap();
    judge(
        &CpuEngine::new(),
        &trainer,
        &config,
        &dataset,
        &untrained,
        &trained,
    )
    .unwrap()
    .accuracies
    .unwrap()
}

#[test]
fn a_run_that_learns_passes_and_one_without_gradient_fails() {
    let config = TrainConfig {
        epochs: 4,
        ..TrainConfig::of(&methods::TABLE[0])
    };
    let learned = short_run(config.clone(), true).improvement();
    // Without a gradient more epochs teach no more.
    let one_epoch = TrainConfig {
        epochs: 1,
        ..config
    };
    let idle = short_run(one_epoch, false).improvement();
    println!("improvement: {learned:+.1} points, without gradient {idle:+.1}");
    assert!(learned >= REQUIRED, "{learned}");
    assert!(idle < REQUIRED, "{idle}");
}
