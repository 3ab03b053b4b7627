//! Turns what the trainer reports into `metrics.jsonl`, the progress on stderr and the course of
//! the loss.

use std::time::Instant;

use super::metrics::{EpochRecord, Record, StepRecord};
use super::progress::Progress;
use super::run_folder::{Metrics, RunFolderError};
use super::trainer::{EpochReport, Observer, StepReport};

/// Weight of the newest step in the smoothed pace.
const PACE_WEIGHT: f64 = 0.1;

/// Listens to one run.
#[derive(Debug)]
pub struct Recorder {
    metrics: Metrics,
    progress: Progress,
    steps: Vec<StepRecord>,
    /// The last that was measured.
    top1: Option<f64>,
    /// The first write that failed; later ones are not tried.
    failure: Option<RunFolderError>,
    images_per_second: Option<f64>,
    last_step: Instant,
    epoch_start: Instant,
}

impl Recorder {
    /// A recorder that writes to `metrics`, for a run of `epochs` epochs and `steps` steps.
    pub fn new(metrics: Metrics, epochs: u64, steps: u64) -> Self {
        let now = Instant::now();
        Self {
            metrics,
            progress: Progress::new(epochs, steps),
            steps: Vec::new(),
            top1: None,
            failure: None,
            images_per_second: None,
            last_step: now,
            epoch_start: now,
        }
    }

    /// Ends the progress display; the metrics file and all steps, or the first write that failed.
    ///
    /// # Errors
    /// [`RunFolderError::Io`].
    pub fn finish(self) -> Result<(Metrics, Vec<StepRecord>), RunFolderError> {
        self.progress.clear();
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

    /// Images per second since the last step, smoothed.
    fn pace(&mut self, images: usize) -> f64 {
        let now = Instant::now();
        let newest = images as f64 / (now - self.last_step).as_secs_f64().max(1e-9);
        self.last_step = now;
        let smooth = self.images_per_second.unwrap_or(newest);
        let pace = smooth + PACE_WEIGHT * (newest - smooth);
        self.images_per_second = Some(pace);
        pace
    }
}

impl Observer for Recorder {
    fn step(&mut self, report: &StepReport) {
        let record = StepRecord {
            step: report.step,
            epoch: report.epoch,
            loss: f64::from(report.loss),
            top1: report.top1.map(f64::from),
            chance_loss: report.chance_loss,
            learning_rate: report.learning_rate,
            images_per_second: self.pace(report.images),
        };
        self.steps.push(record);
        self.write(&Record::Step(record));
        self.top1 = record.top1.or(self.top1);
        let top1 = self.top1;
        self.progress.step(&StepRecord { top1, ..record });
    }

    fn epoch(&mut self, report: &EpochReport) {
        let now = Instant::now();
        let record = EpochRecord {
            epoch: report.epoch,
            step: report.step,
            loss: f64::from(report.loss),
            top1: f64::from(report.top1),
            seconds: (now - self.epoch_start).as_secs_f64(),
        };
        self.epoch_start = now;
        self.write(&Record::Epoch(record));
        if let Some(last) = self.steps.last() {
            self.progress.epoch(&record, last);
        }
    }
}
