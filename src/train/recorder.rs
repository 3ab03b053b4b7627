//! Writes the trainer's records to `metrics.jsonl`, keeps all steps, and shows progress on stderr:
//! a bar on a terminal, a line per epoch elsewhere.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::metrics::{EpochRecord, Record, StepRecord};
use super::report::html::duration;
use super::run_folder::{Metrics, RunFolderError};
use super::trainer::Observer;

/// Weight of the newest step in the smoothed images per second.
const PACE_WEIGHT: f64 = 0.1;
/// Maximum redraws per second.
const REDRAWS: u8 = 8;

/// The observer of one run, which writes, keeps and shows its records.
#[derive(Debug)]
pub struct Recorder {
    metrics: Metrics,
    steps: Vec<StepRecord>,
    /// The first write that failed; later ones are not tried.
    failure: Option<RunFolderError>,
    /// Hidden where stderr is no terminal.
    bar: ProgressBar,
    epochs: u64,
    total_steps: u64,
}

impl Recorder {
    /// A recorder that writes to `metrics`, for a run of `epochs` epochs and `total_steps` steps.
    pub fn new(metrics: Metrics, epochs: u64, total_steps: u64) -> Self {
        let target = ProgressDrawTarget::stderr_with_hz(REDRAWS);
        let bar = ProgressBar::with_draw_target(Some(total_steps), target);
        // A template that does not parse falls back to indicatif's own bar.
        if let Ok(style) = ProgressStyle::with_template("{bar:24.blue/dim} {msg}  ETA {eta}") {
            bar.set_style(style.progress_chars("━━─"));
        }
        Self {
            metrics,
            steps: Vec::new(),
            failure: None,
            bar,
            epochs,
            total_steps,
        }
    }

    /// Removes the bar; returns the metrics file and all steps, or the first write that failed.
    ///
    /// # Errors
    /// [`RunFolderError::Io`].
    pub fn finish(self) -> Result<(Metrics, Vec<StepRecord>), RunFolderError> {
        self.bar.finish_and_clear();
        match self.failure {
            Some(failure) => Err(failure),
            None => Ok((self.metrics, self.steps)),
        }
    }

    fn write(&mut self, record: &Record) {
        if self.failure.is_none() {
            self.failure = self.metrics.append(record).err();
        }
    }
}

impl Observer for Recorder {
    fn step(&mut self, record: &StepRecord) {
        let newest = record.images_per_second;
        let last = self.steps.last();
        let smooth = last.map_or(newest, |last| last.images_per_second);
        let record = StepRecord {
            images_per_second: smooth + PACE_WEIGHT * (newest - smooth),
            ..*record
        };
        self.steps.push(record);
        self.write(&Record::Step(record));
        // The last measured top-1.
        let top1 = self.steps.iter().rev().find_map(|step| step.top1);
        let shown = StepRecord { top1, ..record };
        self.bar
            .set_message(status(&shown, self.epochs, self.total_steps));
        self.bar.set_position(record.step);
    }

    fn epoch(&mut self, record: &EpochRecord) {
        self.write(&Record::Epoch(*record));
        if let Some(last) = self.steps.last().filter(|_| self.bar.is_hidden()) {
            let means = StepRecord {
                loss: record.loss,
                top1: Some(record.top1),
                ..*last
            };
            let status = status(&means, self.epochs, self.total_steps);
            let remaining = duration(self.bar.eta().as_secs_f64());
            eprintln!("{status}  ETA {remaining}");
        }
    }
}

fn status(record: &StepRecord, epochs: u64, total_steps: u64) -> String {
    format!(
        "epoch {}/{epochs}  step {}/{total_steps}  loss {:.3}  top-1 {:.1}%  lr {:.2e}  {:.0} images/s",
        record.epoch,
        record.step,
        record.loss,
        100.0 * record.top1.unwrap_or_default(),
        record.learning_rate,
        record.images_per_second,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_everything_a_person_looks_for() {
        let record = StepRecord {
            step: 96,
            epoch: 3,
            loss: 4.12345,
            top1: Some(0.1234),
            chance_loss: 5.5,
            learning_rate: 0.0012,
            images_per_second: 812.4,
        };
        assert_eq!(
            status(&record, 12, 384),
            "epoch 3/12  step 96/384  loss 4.123  top-1 12.3%  lr 1.20e-3  812 images/s"
        );
    }
}
