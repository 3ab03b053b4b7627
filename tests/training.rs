//! Training is reproducible: the seed decides every number, on any number of threads.
#![cfg(feature = "train")]

use std::sync::atomic::AtomicBool;

use infonce::train::data::{self, DataSource, Dataset, LoadOptions};
use infonce::train::metrics::{EpochRecord, StepRecord};
use infonce::train::trainer::{Cpu, Observer, TrainConfig, Trainer};

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
    for method in [TrainConfig::simclr(), TrainConfig::moco()] {
        let config = TrainConfig {
            epochs: 1,
            ..method
        };
        let expected = run(&config, &dataset, 2);
        assert!(expected.0.len() > 3);
        assert!(run(&config, &dataset, 2) == expected, "the same again");
        assert!(run(&config, &dataset, 1) == expected, "one thread");
        let other = TrainConfig { seed: 1, ..config };
        assert_ne!(run(&other, &dataset, 2).0, expected.0);
    }
}
