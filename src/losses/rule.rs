//! The rule of a row's loss: φ(lse⁻, z₊), and what engines need of its derivatives.
//!
//! lse⁻ is the log-sum-exp of the negatives, z₊ the positive's logit, a = ∂φ/∂lse⁻ the *mass of the negatives*
//! and c = −∂φ/∂z₊ the *mass of the positive*:
//! ```text
//! ∂φ/∂z_ij = exp(z_ij − o) for a negative j,  o = lse⁻ − ln a        ∂φ/∂z₊ = −c
//! ```
//! Another φ changes no tile loop: it changes the offset o and two scalars a row. The kernels have the same
//! rules in `kernels/tile/row_rule.h`.

use crate::error::{Error, positive, within};

/// A row's loss φ as a function of lse⁻ and z₊.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum RowRule {
    /// softplus(lse⁻ − (z₊ − margin)): the cross-entropy of a softmax over positive and negatives, with a margin
    /// subtracted from the positive's logit.
    Softmax {
        /// In logits; 0 for InfoNCE.
        margin: f32,
    },
    /// lse⁻ − w·z₊: the denominator lacks the positive (DCL).
    Decoupled {
        /// σ of DCLW's weights w_i = 2 − exp(⟨q_i, k₊⟩/σ) / mean_i exp(⟨q_i, k₊⟩/σ), which carry no gradient;
        /// `None`: w = 1.
        sigma: Option<f32>,
    },
    /// (−e^{q z₊} + (λ(e^{z₊} + e^{lse⁻}))^q)/q (RINCE).
    Robust {
        /// q, from 0 (InfoNCE's limit) to 1.
        q: f32,
        /// λ, the factor of the sum over positive and negatives.
        lambda: f32,
    },
    /// ln(1 + Ng·e^{−z₊}), Ng = max((e^{lse⁻} − τ⁺·m·e^{z₊})/(1 − τ⁺), m·e^{−s}), m negatives a row.
    Debiased {
        /// τ⁺, the probability that a negative is of the anchor's class.
        prior: f32,
    },
}

/// What a row's loss depends on besides lse⁻ and z₊.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowContext {
    /// s.
    pub scale: f64,
    /// m, the negatives of a row.
    pub negatives: f64,
    /// log of the mean over rows of exp(z₊/(s·σ)), for a rule with σ ([`RowRule::log_mean`]); else 0.
    pub log_mean: f64,
}

impl RowContext {
    /// The context of rows whose positives have the logits `positives`.
    pub(crate) fn new(
        rule: RowRule,
        scale: f64,
        negatives: usize,
        positives: impl Iterator<Item = f64> + Clone,
    ) -> Self {
        Self {
            scale,
            negatives: negatives as f64,
            log_mean: rule.log_mean(scale, positives),
        }
    }
}

/// A row's loss and its derivatives.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowValues {
    /// φ.
    pub value: f64,
    /// o, in nats: ∂φ/∂z of a negative is exp(z − o).
    pub offset: f64,
    /// a = ∂φ/∂lse⁻.
    pub negatives: f64,
    /// c = −∂φ/∂z₊.
    pub positive: f64,
    /// ∂φ/∂s at fixed lse⁻ and z₊.
    pub scale: f64,
}

impl RowRule {
    /// InfoNCE's rule.
    pub const SOFTMAX: Self = Self::Softmax { margin: 0.0 };

    /// Checks the hyper-parameters.
    ///
    /// # Errors
    /// [`Error::Scalar`] for one that is out of range.
    pub fn check(self) -> Result<Self, Error> {
        match self {
            Self::Softmax { margin } => within("margin", margin, "finite", margin.is_finite()),
            Self::Decoupled { sigma } => positive("sigma", sigma.unwrap_or(1.0)),
            Self::Robust { q, lambda } => {
                let allowed = "greater than 0 and at most 1";
                within("q", q, allowed, q > 0.0 && q <= 1.0)?;
                within("lambda", lambda, allowed, lambda > 0.0 && lambda <= 1.0)
            }
            Self::Debiased { prior } => {
                let legal = (0.0..1.0).contains(&prior);
                within("prior", prior, "at least 0 and less than 1", legal)
            }
        }?;
        Ok(self)
    }

    /// 1/σ of DCLW's weights; `None` for a rule without σ.
    pub fn weights(self) -> Option<f64> {
        match self {
            Self::Decoupled { sigma } => sigma.map(|sigma| 1.0 / f64::from(sigma)),
            _ => None,
        }
    }

    /// [`RowContext::log_mean`] of these positives' logits; rows without a positive (−∞) do not count.
    pub fn log_mean(self, scale: f64, positives: impl Iterator<Item = f64> + Clone) -> f64 {
        let Some(inverse) = self.weights() else {
            return 0.0;
        };
        let of_rows = positives.filter(|&z| z != f64::NEG_INFINITY);
        let exponents = of_rows.map(|z| z * inverse / scale);
        let maximum = exponents.clone().fold(f64::NEG_INFINITY, f64::max);
        let (count, sum) = exponents.fold((0usize, 0.0), |(count, sum), x| {
            (count + 1, sum + (x - maximum).exp())
        });
        match count {
            0 => 0.0,
            count => maximum + (sum / count as f64).ln(),
        }
    }

    /// Whether values grow as powers of e^{z₊}, so that large logits leave the range of f32.
    pub fn grows_exponentially(self) -> bool {
        matches!(self, Self::Robust { .. })
    }

    /// Whether ∂φ/∂s at fixed lse⁻ and z₊ can be other than 0.
    pub fn depends_on_scale(self) -> bool {
        matches!(self, Self::Debiased { .. })
    }

    /// Whether a = c in every row.
    pub fn has_one_mass(self) -> bool {
        matches!(self, Self::Softmax { .. })
    }

    /// The rule as kernels take it (`RowRule` of kernels/tile/row_rule.h): the formula's number and two parameters.
    #[cfg(any(feature = "emulator", feature = "cuda"))]
    pub(crate) fn encoded(self) -> (u32, [f32; 2]) {
        match self {
            Self::Softmax { margin } => (0, [margin, 0.0]),
            Self::Decoupled { sigma } => (1, [sigma.map_or(0.0, |sigma| 1.0 / sigma), 0.0]),
            Self::Robust { q, lambda } => (2, [q, lambda]),
            Self::Debiased { prior } => (3, [prior, 0.0]),
        }
    }

    /// φ and its derivatives, computed so that 1 − p₊ keeps its digits. A row without negatives (lse⁻ = −∞) or without
    /// a positive (z₊ = −∞) has loss 0 and gradient 0.
    pub fn values(self, lse: f64, z: f64, row: &RowContext) -> RowValues {
        let none = |offset| RowValues {
            value: 0.0,
            offset,
            negatives: 0.0,
            positive: 0.0,
            scale: 0.0,
        };
        if z == f64::NEG_INFINITY && !lse.is_nan() {
            return none(f64::INFINITY);
        }
        if lse == f64::NEG_INFINITY && !z.is_nan() {
            return none(z);
        }
        match self {
            Self::Softmax { margin } => {
                let z = z - f64::from(margin);
                let (value, sigma) = (softplus(lse - z), sigmoid(lse - z));
                RowValues {
                    value,
                    negatives: sigma,
                    positive: sigma,
                    ..none(z + value)
                }
            }
            Self::Decoupled { .. } => {
                let weight = match self.weights() {
                    Some(inverse) => 2.0 - (z * inverse / row.scale - row.log_mean).exp(),
                    None => 1.0,
                };
                RowValues {
                    value: lse - weight * z,
                    negatives: 1.0,
                    positive: weight,
                    ..none(lse)
                }
            }
            Self::Robust { q, lambda } => {
                let (q, ln_lambda) = (f64::from(q), f64::from(lambda).ln());
                let softplus = softplus(lse - z);
                let power = (q * z).exp();
                let offset = (1.0 - q) * (z + softplus) - q * ln_lambda;
                RowValues {
                    value: power * (q * (ln_lambda + softplus)).exp_m1() / q,
                    negatives: (lse - offset).exp(),
                    positive: -power * (q * ln_lambda + (q - 1.0) * softplus).exp_m1(),
                    ..none(offset)
                }
            }
            Self::Debiased { prior } => {
                let prior = f64::from(prior);
                let least = row.negatives.ln() - row.scale;
                // ln of the share of e^{lse⁻} that is due to false negatives.
                let share = prior.ln() + row.negatives.ln() - (lse - z);
                let raw = lse + (-share.exp()).ln_1p() - (-prior).ln_1p();
                // `raw` is NaN where that share is above 1.
                let clamped = (raw.is_nan() || raw <= least) && !(lse - z).is_nan();
                let margin = if clamped { least } else { raw } - z;
                let value = softplus(margin);
                let sigma = sigmoid(margin);
                let offset = z + value + (-prior).ln_1p();
                let of_positives = prior * row.negatives / (1.0 - prior) * (-value).exp();
                match clamped {
                    true => RowValues {
                        value,
                        positive: sigma,
                        scale: -sigma,
                        ..none(f64::INFINITY)
                    },
                    false => RowValues {
                        value,
                        negatives: (lse - offset).exp(),
                        positive: sigma + of_positives,
                        ..none(offset)
                    },
                }
            }
        }
    }
}

/// log(1 + eˣ) without overflow; 0 at −∞, NaN at NaN.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// 1/(1 + e⁻ˣ): 0 at −∞, 1 at ∞, NaN at NaN.
fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}
