//! The records of `metrics.jsonl`: one JSON object per line, its kind in `"kind"`.

use serde::{Deserialize, Serialize};

use super::evaluate::Evaluation;
use super::platform::Waits;

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Record {
    /// One optimiser step.
    Step(StepRecord),
    /// One pass over the training images.
    Epoch(EpochRecord),
    /// The end of the run; always the last line of a run that finished.
    Evaluation(EvaluationRecord),
}

/// The record of one optimiser step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// The step, counted from 1.
    pub step: u64,
    /// The epoch it belongs to, counted from 1.
    pub epoch: u64,
    /// The loss in nats, before the step.
    pub loss: f64,
    /// Share of anchors more similar to their positive than to every negative: measured at every eighth
    /// step from the first on and at the last of an epoch, null at the others.
    pub top1: Option<f64>,
    /// The loss in nats if all logits were 0, as for an encoder that cannot tell candidates apart. For NT-Xent
    /// and MoCo it is the log of the number of candidates.
    pub chance_loss: f64,
    /// The learning rate of the step.
    pub learning_rate: f64,
    /// Images (not views) per second; smoothed in `metrics.jsonl`.
    pub images_per_second: f64,
}

/// Means over one epoch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// The epoch, counted from 1.
    pub epoch: u64,
    /// Its last step, counted from 1.
    pub step: u64,
    /// Mean loss of its steps, in nats.
    pub loss: f64,
    /// Mean contrastive top-1 of those of its steps that measured it.
    pub top1: f64,
    /// Seconds it took.
    pub seconds: f64,
}

/// The evaluation of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EvaluationRecord {
    /// Accuracies and collapse checks.
    #[serde(flatten)]
    pub evaluation: Evaluation,
    /// Trained kNN above the better baseline, in percentage points; `None` for images without labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub improvement: Option<f64>,
    /// Seconds spent on training.
    pub training_seconds: f64,
    /// Seconds spent on this evaluation.
    pub evaluation_seconds: f64,
    /// How long framework and engine waited for each other, per step; `None` where they never do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_per_step: Option<Waits>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::evaluate::{Accuracies, CollapseChecks, Verdict};

    impl EvaluationRecord {
        pub(in crate::train) fn example() -> Self {
            Self {
                evaluation: Evaluation {
                    train_images: 4096,
                    test_images: 1024,
                    accuracies: Some(Accuracies {
                        k: 20,
                        trained_knn: 0.625,
                        linear_probe: 0.6875,
                        pixels_knn: 0.2,
                        untrained_knn: 0.225,
                        chance: 0.1,
                    }),
                    collapse: CollapseChecks {
                        alignment: 0.25,
                        uniformity: -3.5,
                        deviation: 0.9,
                        effective_rank: 96.25,
                        full_rank: 128,
                        images: 1024,
                        verdict: Verdict::Spread,
                    },
                },
                improvement: Some(40.0),
                training_seconds: 200.0,
                evaluation_seconds: 4.25,
                waits_per_step: None,
            }
        }
    }
}
