//! What a method keeps from step to step continues where it was saved.

use super::*;
use crate::train::checkpoint::{self, Checkpoint};

/// Every method for a few steps; then once with the state of a checkpoint, in a new learner.
#[test]
fn every_method_continues_from_its_saved_state_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint.safetensors");
    let images = training_images();
    for method in TABLE {
        let new = || Setting::of(Cpu::default(), method, method.loss, &small(method));
        let mut whole = new();
        let mut sgd = Sgd::new(1e-4);
        let take = |setting: &mut Setting<Cpu>, sgd: &mut Sgd<Flex>, step: u64| {
            if step.is_multiple_of(2) {
                let (learner, grid) = (&mut setting.learner, &setting.views.grid);
                let started = learner.start_epoch(&setting.platform, step / 2, &images, grid);
                started.unwrap();
            }
            let (report, gradients) = setting.step(step);
            let gradients = GradientsParams::from_grads(gradients, &setting.query);
            setting.query = sgd.step(0.1, setting.query.clone(), gradients);
            report.loss.to_bits()
        };
        for step in 0..3 {
            take(&mut whole, &mut sgd, step);
        }
        let saved = Checkpoint {
            step: 3,
            settings: String::new(),
            config: ModelConfig {
                prediction: method.prediction,
                ..ModelConfig::small()
            },
            model: whole.query.clone(),
            velocity: sgd.velocity(whole.query.valid()),
            state: whole.learner.state(&whole.platform).unwrap(),
        };
        checkpoint::save(&path, &saved).unwrap();
        let expected: Vec<u32> = (3..6)
            .map(|step| take(&mut whole, &mut sgd, step))
            .collect();

        let mut resumed = new();
        let found = checkpoint::load::<Flex>(&path).unwrap();
        let mut sgd = Sgd::new(1e-4);
        sgd.restore(found.velocity.as_ref().unwrap());
        resumed.query = found.model;
        let restored = resumed.learner.restore(&resumed.platform, found.state);
        restored.unwrap();
        let again: Vec<u32> = (3..6)
            .map(|step| take(&mut resumed, &mut sgd, step))
            .collect();
        assert_eq!(again, expected, "{}", method.key);
    }
}

/// A state without the method's parts is refused by the part's name.
#[test]
fn a_state_of_another_method_is_refused_by_part() {
    for (method, part) in [
        ("moco", "queue"),
        ("mocov3", "key encoder"),
        ("instdisc", "bank"),
        ("pcl", "queue"),
    ] {
        let method = Method::of(method).unwrap();
        let mut setting = Setting::of(Cpu::default(), method, method.loss, &small(method));
        let restored = setting
            .learner
            .restore(&setting.platform, Default::default());
        let message = restored.unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
}
