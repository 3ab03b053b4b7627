//! The schedule of m in the key encoder's momentum update, key ← m·key + (1−m)·query.

use crate::error::{Error, within};

/// The momentum coefficient of each step.
///
/// ```
/// use infonce::MomentumSchedule;
/// let schedule = MomentumSchedule::cosine(0.99, 100)?;
/// assert_eq!((schedule.at(0), schedule.at(100)), (0.99, 1.0));
/// # Ok::<(), infonce::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MomentumSchedule {
    base: f32,
    total_steps: Option<u64>,
}

/// Checks that a momentum coefficient lies between 0 and 1.
pub(crate) fn check(momentum: f32) -> Result<f32, Error> {
    let legal = (0.0..=1.0).contains(&momentum);
    within("momentum", momentum, "between 0 and 1", legal)
}

impl MomentumSchedule {
    /// The same m at every step (He et al. 2020).
    ///
    /// # Errors
    /// [`Error::Scalar`] unless 0 ≤ momentum ≤ 1.
    pub fn constant(momentum: f32) -> Result<Self, Error> {
        Ok(Self {
            base: check(momentum)?,
            total_steps: None,
        })
    }

    /// m(t) = 1 − (1 − base)·(cos(πt/T) + 1)/2: from `base` at step 0 to 1 at `total_steps`
    /// (Grill et al. 2020, section 3.2), and 1 from there on.
    ///
    /// # Errors
    /// [`Error::Scalar`] unless 0 ≤ base ≤ 1 and total_steps ≥ 1.
    pub fn cosine(base: f32, total_steps: u64) -> Result<Self, Error> {
        let steps = total_steps as f32;
        within("total_steps", steps, "at least 1", total_steps > 0)?;
        Ok(Self {
            base: check(base)?,
            total_steps: Some(total_steps),
        })
    }

    /// m at `step`, counted from 0.
    pub fn at(&self, step: u64) -> f32 {
        let Some(total) = self.total_steps else {
            return self.base;
        };
        let progress = step.min(total) as f64 / total as f64;
        let remaining = ((std::f64::consts::PI * progress).cos() + 1.0) / 2.0;
        (1.0 - (1.0 - f64::from(self.base)) * remaining) as f32
    }
}
