//! Dual numbers: values with their derivatives by the variables of a row's loss (forward-mode differentiation). The
//! reference evaluates a loss's formula on them, which gives φ and its gradient.

use std::ops::{Add, Mul, Neg, Sub};

/// Variables of a row's loss: lse⁻, z₊, s, the second log-sum-exp, the mean of the negatives' logits.
pub(crate) const VARIABLES: usize = 5;

/// A value and its partial derivatives.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Dual {
    pub value: f64,
    pub slopes: [f64; VARIABLES],
}

impl Dual {
    /// A constant.
    pub fn constant(value: f64) -> Self {
        Self {
            value,
            slopes: [0.0; VARIABLES],
        }
    }

    /// The variable number `which` of [`VARIABLES`].
    pub fn variable(value: f64, which: usize) -> Self {
        let mut slopes = [0.0; VARIABLES];
        slopes[which] = 1.0;
        Self { value, slopes }
    }

    /// f(self), of which `value` is f and `slope` is f′ there: the chain rule.
    fn map(self, value: f64, slope: f64) -> Self {
        Self {
            value,
            // A variable that does not enter keeps slope 0, even where f′ is infinite: 0·∞ is NaN.
            slopes: self.slopes.map(|x| if x == 0.0 { 0.0 } else { slope * x }),
        }
    }

    /// eˣ.
    pub fn exp(self) -> Self {
        self.map(self.value.exp(), self.value.exp())
    }

    /// eˣ − 1.
    pub fn exp_m1(self) -> Self {
        self.map(self.value.exp_m1(), self.value.exp())
    }

    /// log(1 + x).
    pub fn ln_1p(self) -> Self {
        self.map(self.value.ln_1p(), 1.0 / (1.0 + self.value))
    }

    /// 1/x.
    pub fn recip(self) -> Self {
        let value = 1.0 / self.value;
        self.map(value, -value * value)
    }

    /// log(1 + eˣ).
    pub fn softplus(self) -> Self {
        let x = self.value;
        let value = x.max(0.0) + (-x.abs()).exp().ln_1p();
        self.map(value, 1.0 / (1.0 + (-x).exp()))
    }

    /// The larger of both; NaN where `self` is NaN.
    pub fn max(self, other: Self) -> Self {
        if self.value > other.value || self.value.is_nan() {
            self
        } else {
            other
        }
    }
}

impl From<f64> for Dual {
    fn from(value: f64) -> Self {
        Self::constant(value)
    }
}

impl<T: Into<Self>> Add<T> for Dual {
    type Output = Self;
    fn add(self, other: T) -> Self {
        let other = other.into();
        Self {
            value: self.value + other.value,
            slopes: std::array::from_fn(|i| self.slopes[i] + other.slopes[i]),
        }
    }
}

impl Neg for Dual {
    type Output = Self;
    fn neg(self) -> Self {
        self.map(-self.value, -1.0)
    }
}

impl<T: Into<Self>> Sub<T> for Dual {
    type Output = Self;
    fn sub(self, other: T) -> Self {
        self + -other.into()
    }
}

impl Mul for Dual {
    type Output = Self;
    fn mul(self, other: Self) -> Self {
        Self {
            value: self.value * other.value,
            slopes: std::array::from_fn(|i| {
                let others = self.value * other.slopes[i];
                self.slopes[i].mul_add(other.value, others)
            }),
        }
    }
}

impl Mul<f64> for Dual {
    type Output = Self;
    fn mul(self, other: f64) -> Self {
        self.map(self.value * other, other)
    }
}
