//! The learning rate over training: a linear warm-up, then half a cosine down to zero (Loshchilov
//! and Hutter 2017; Chen et al. 2020, section 2.2).

use std::f64::consts::PI;

/// A learning rate for each step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LearningRate {
    peak: f64,
    warmup: u64,
    total: u64,
}

impl LearningRate {
    /// Reaches `peak` at the last of `warmup` steps and would reach 0 at step `total`.
    pub fn new(peak: f64, warmup: u64, total: u64) -> Self {
        Self {
            peak,
            warmup,
            total,
        }
    }

    /// The rate of `step`, counted from 0.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.peak * (step + 1) as f64 / self.warmup as f64;
        }
        let cosine_steps = self.total.saturating_sub(self.warmup).max(1);
        let progress = ((step - self.warmup) as f64 / cosine_steps as f64).min(1.0);
        self.peak * (1.0 + (PI * progress).cos()) / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_to_the_peak_and_falls_to_nothing() {
        let halfway = LearningRate::new(0.4, 10, 110);
        assert_eq!((halfway.at(4), halfway.at(60)), (0.2, 0.2));
        let schedule = LearningRate::new(0.3, 5, 50);
        let rates: Vec<f64> = (0..50).map(|step| schedule.at(step)).collect();
        assert!(rates[..5].is_sorted() && rates[5..].is_sorted_by(|a, b| a >= b));
        assert_eq!(rates[4], 0.3);
        assert!(rates.iter().all(|&rate| rate > 0.0 && rate <= 0.3));
        assert!(schedule.at(50) < 1e-12 && schedule.at(1000) < 1e-12);
    }

    #[test]
    fn no_warm_up_and_a_single_step_are_fine() {
        assert_eq!(LearningRate::new(0.3, 0, 1).at(0), 0.3);
        assert_eq!(LearningRate::new(0.3, 1, 1).at(0), 0.3);
    }
}
