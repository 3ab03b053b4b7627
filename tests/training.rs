//! Training is reproducible: the seed decides every number, on any number of threads, and a run that
//! was stopped goes on as if it had not been.
#![cfg(feature = "train")]

use std::sync::atomic::{AtomicBool, Ordering};

use infonce::train::checkpoint;
use infonce::train::data::{self, DataSource, Dataset, LoadOptions};
use infonce::train::methods;
use infonce::train::metrics::{EpochRecord, StepRecord};
use infonce::train::trainer::{Cpu, Observer, Outcome, TrainConfig, Trainer};

#[derive(Default)]
struct Losses(Vec<u64>);

impl Observer for Losses {
    fn step(&mut self, record: &StepRecord) {
        self.0.push(record.loss.to_bits());
    }
    fn epoch(&mut self, _: &EpochRecord) {}
}

fn digits() -> Dataset {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/optdigits");
    data::load(&DataSource::Idx(folder.into()), LoadOptions::default()).unwrap()
}

/// The loss of every step of one epoch, bit by bit, and the features of the first images.
fn run(config: &TrainConfig, dataset: &Dataset, threads: usize) -> (Vec<u64>, Vec<f32>) {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .unwrap();
    pool.install(|| {
        let mut trainer = Trainer::<Cpu>::new(config, &dataset.augment, dataset).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        let mut losses = Losses::default();
        let never = AtomicBool::new(false);
        trainer.train(dataset, &mut losses, &never, &path).unwrap();
        (losses.0, trainer.encode(&dataset.test).unwrap())
    })
}

#[test]
fn the_seed_decides_every_loss() {
    let dataset = digits();
    for method in methods::TABLE {
        let config = TrainConfig {
            epochs: 1,
            ..TrainConfig::of(method)
        };
        let expected = run(&config, &dataset, 2);
        assert!(expected.0.len() > 3);
        assert!(run(&config, &dataset, 2) == expected, "the same again");
        assert!(run(&config, &dataset, 1) == expected, "one thread");
        let other = TrainConfig { seed: 1, ..config };
        assert_ne!(run(&other, &dataset, 2).0, expected.0);
    }
}

/// Sets the flag to stop after a number of steps.
struct StopAfter<'a> {
    losses: Losses,
    steps: usize,
    stop: &'a AtomicBool,
}

impl Observer for StopAfter<'_> {
    fn step(&mut self, record: &StepRecord) {
        self.losses.step(record);
        if self.losses.0.len() == self.steps {
            self.stop.store(true, Ordering::Relaxed);
        }
    }
    fn epoch(&mut self, _: &EpochRecord) {}
}

/// Every method, stopped within an epoch and at the end of one.
#[test]
fn a_stopped_run_goes_on_bit_for_bit() {
    let dataset = digits();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint.safetensors");
    for method in methods::TABLE {
        let config = TrainConfig {
            epochs: 3,
            batch: 320,
            ..TrainConfig::of(method)
        };
        let new = || Trainer::<Cpu>::new(&config, &dataset.augment, &dataset).unwrap();
        let (mut whole, never) = (Losses::default(), AtomicBool::new(false));
        let mut trainer = new();
        trainer.train(&dataset, &mut whole, &never, &path).unwrap();
        let expected = trainer.encode(&dataset.test).unwrap();
        assert_eq!(whole.0.len(), 3 * 4);
        for steps in [4, 6] {
            let stop = AtomicBool::new(false);
            let mut first = StopAfter {
                losses: Losses::default(),
                steps,
                stop: &stop,
            };
            let outcome = new().train(&dataset, &mut first, &stop, &path).unwrap();
            assert_eq!(outcome, Outcome::Interrupted);
            let mut resumed = new();
            resumed.resume(checkpoint::load(&path).unwrap()).unwrap();
            let mut rest = first.losses;
            resumed.train(&dataset, &mut rest, &never, &path).unwrap();
            assert!(rest.0 == whole.0, "{} after {steps} steps", method.key);
            assert!(resumed.encode(&dataset.test).unwrap() == expected);
        }
    }
}

#[test]
fn a_checkpoint_of_another_run_is_refused_by_setting() {
    let dataset = digits();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint.safetensors");
    let config = TrainConfig {
        epochs: 1,
        ..TrainConfig::of(methods::Method::of("moco").unwrap())
    };
    let new =
        |config: &TrainConfig| Trainer::<Cpu>::new(config, &dataset.augment, &dataset).unwrap();
    let (mut losses, never) = (Losses::default(), AtomicBool::new(false));
    let mut trainer = new(&config);
    trainer.train(&dataset, &mut losses, &never, &path).unwrap();
    let other = TrainConfig {
        seed: 1,
        ..config.clone()
    };
    let pcl = TrainConfig {
        epochs: 1,
        ..TrainConfig::of(methods::Method::of("pcl").unwrap())
    };
    for (config, word) in [
        (&other, "`seed` 0, not 1"),
        (&pcl, "absent"),
        (&config, "ended"),
    ] {
        let refused = new(config).resume(checkpoint::load(&path).unwrap());
        let message = refused.unwrap_err().to_string();
        assert!(message.contains(word), "{message}");
    }
}
