//! What a person sees on stderr while training runs: a bar on a terminal, a line per epoch
//! elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::metrics::{EpochRecord, StepRecord};
use super::report::html::duration;

/// Redraws per second at most.
const REDRAWS: u8 = 8;

/// Shows where training is.
#[derive(Debug)]
pub struct Progress {
    /// `None` where stderr is no terminal.
    bar: Option<ProgressBar>,
    epochs: u64,
    steps: u64,
    started: Instant,
}

impl Progress {
    /// For a run of `epochs` epochs and `steps` steps in all, on stderr.
    pub fn new(epochs: u64, steps: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let target = ProgressDrawTarget::stderr_with_hz(REDRAWS);
            let bar = ProgressBar::with_draw_target(Some(steps), target);
            // A template that does not parse falls back to indicatif's own bar.
            if let Ok(style) = ProgressStyle::with_template("{bar:24.blue/dim} {msg}  ETA {eta}") {
                bar.set_style(style.progress_chars("━━─"));
            }
            bar
        });
        Self {
            bar,
            epochs,
            steps,
            started: Instant::now(),
        }
    }

    /// After every step.
    pub fn step(&self, record: &StepRecord) {
        if let Some(bar) = &self.bar {
            bar.set_message(self.status(record));
            bar.set_position(record.step);
        }
    }

    /// After every epoch, with its means and its last step.
    pub fn epoch(&self, epoch: &EpochRecord, last: &StepRecord) {
        if self.bar.is_none() {
            let means = StepRecord {
                loss: epoch.loss,
                top1: Some(epoch.top1),
                ..*last
            };
            let remaining = remaining(self.started.elapsed(), epoch.step, self.steps);
            eprintln!(
                "{}  ETA {}",
                self.status(&means),
                duration(remaining.as_secs_f64())
            );
        }
    }

    /// Takes the bar away, so that other lines start on a clean one.
    pub fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn status(&self, record: &StepRecord) -> String {
        format!(
            "epoch {}/{}  step {}/{}  loss {:.3}  top-1 {:.1}%  lr {:.2e}  {:.0} images/s",
            record.epoch,
            self.epochs,
            record.step,
            self.steps,
            record.loss,
            100.0 * record.top1.unwrap_or_default(),
            record.learning_rate,
            record.images_per_second,
        )
    }
}

/// The time that the other steps take at the pace so far.
fn remaining(elapsed: Duration, done: u64, all: u64) -> Duration {
    let share = all.saturating_sub(done) as f64 / done.max(1) as f64;
    elapsed.mul_f64(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_everything_a_person_looks_for() {
        let progress = Progress {
            bar: None,
            epochs: 12,
            steps: 384,
            started: Instant::now(),
        };
        let line = progress.status(&StepRecord {
            step: 96,
            epoch: 3,
            loss: 4.12345,
            top1: Some(0.1234),
            chance_loss: 5.5,
            learning_rate: 0.0012,
            images_per_second: 812.4,
        });
        assert_eq!(
            line,
            "epoch 3/12  step 96/384  loss 4.123  top-1 12.3%  lr 1.20e-3  812 images/s"
        );
    }

    #[test]
    fn the_time_left_follows_the_pace_so_far() {
        assert_eq!(
            remaining(Duration::from_secs(30), 10, 40),
            Duration::from_secs(90)
        );
        assert_eq!(remaining(Duration::from_secs(30), 40, 40), Duration::ZERO);
    }
}
