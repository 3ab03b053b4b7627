//! Sums of exponentials relative to an offset.

/// A sum of exponentials, equal to `sum` · 2^`offset2`.
#[derive(Clone, Copy)]
pub(super) struct ScaledSum {
    pub offset2: f32,
    pub sum: f64,
}

impl ScaledSum {
    pub const ZERO: Self = Self {
        offset2: 0.0,
        sum: 0.0,
    };

    pub fn add(&mut self, other: Self) {
        if other.sum == 0.0 {
            return;
        }
        if self.sum == 0.0 {
            *self = other;
        } else if self.offset2 == other.offset2 {
            self.sum += other.sum;
        } else {
            let offset2 = self.offset2.max(other.offset2);
            let at = |sum: Self| sum.sum * f64::from(sum.offset2 - offset2).exp2();
            let sum = at(*self) + at(other);
            *self = Self { offset2, sum };
        }
    }

    pub fn ln(self) -> f64 {
        f64::from(self.offset2) * std::f64::consts::LN_2 + self.sum.ln()
    }
}

/// The maximum as an offset: 0 for −∞, the maximum of no logits.
pub(super) fn or_zero(maximum2: f32) -> f32 {
    if maximum2 == f32::NEG_INFINITY {
        0.0
    } else {
        maximum2
    }
}
