//! The rule of a row's loss: φ of [`RowLogits`], and what engines need of its derivatives.
//!
//! lse⁻ is the log-sum-exp of the negatives, z₊ the positive's logit, a = ∂φ/∂lse⁻ the *mass of the negatives*
//! and c = −∂φ/∂z₊ the *mass of the positive*:
//! ```text
//! ∂φ/∂z_ij = exp(z_ij − o) for a negative j,  o = lse⁻ − ln a        ∂φ/∂z₊ = −c
//! ```
//! Another φ(lse⁻, z₊) changes no tile loop: it changes the offset o and two scalars a row. Rules of sets and of two
//! exponents have a second exponential, with an offset o₂ and a sign of their own:
//! ```text
//! sets             ∂φ/∂z_ij = exp(z_ij − o) − ε' for a negative j,  ± exp(z_ij − o₂) − c − ε' for a positive j
//! two exponents    ∂φ/∂z_ij = exp((1+β)z_ij − o) − exp(β z_ij − o₂) for a negative j,    ∂φ/∂z₊ = −c
//! soft targets     ∂φ/∂z_ij = exp(z_ij − o) − exp(u_ij − o₂), u_ij the target's logit
//! sigmoid          ∂φ/∂z_ij = e^−o σ(z_ij + b) for a negative j,    −e^−o σ(−z_ij − b) for a positive j
//! ```
//! The kernels have the same rules in `kernels/tile/row_rule.h`.

use crate::error::{Error, positive, within};

/// How a row's loss joins the logits of its set of positives P; "all" are positives and negatives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetForm {
    /// log Σ_all exp z − mean_P z: the mean of log-probabilities (SupCon's L_out).
    MeanOutside,
    /// log Σ_all exp z − log mean_P exp z: the logarithm of a mean (SupCon's L_in).
    MeanInside,
    /// lse⁻ − mean_P z: the denominator lacks the positives.
    Decoupled,
}

/// A row's loss φ as a function of its [`RowLogits`].
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
    /// The loss of a set of positives; every candidate that [`Positives`](crate::Positives) gives a row is one.
    Sets {
        /// How the positives' logits are joined.
        form: SetForm,
        /// ε of label smoothing (Szegedy et al. 2016, section 7), for [`SetForm::MeanOutside`]: the target is 1 − ε
        /// shared by the positives plus ε shared by all.
        smoothing: f32,
    },
    /// [`Debiased`](Self::Debiased) whose negatives are weighted by e^{βz}/mean e^{βz}: in place of e^{lse⁻} stands
    /// m·Σ e^{(1+β)z}/Σ e^{βz}.
    HardNegatives {
        /// β > 0, the concentration on hard negatives.
        beta: f32,
        /// τ⁺, the probability that a negative is of the anchor's class.
        prior: f32,
    },
    /// Σ softplus(z + b) over the negatives + Σ softplus(−z − b) over the positives: every pair is a decision of its own
    /// (SigLIP). Positives are a set; a row without one has a loss too.
    Sigmoid {
        /// b.
        bias: f32,
    },
    /// −Σ_j t_ij ln softmax_j(z_i), the cross-entropy of soft targets t_i = softmax_j(u_ij), u_ij the logits of
    /// [`Inputs::Targets`](crate::Inputs::Targets). Targets carry no gradient.
    SoftTargets {
        /// The scale of u_ij: 1/τ of the targets.
        scale: f32,
        /// Whether Σ_j t_ij ln t_ij is added: the Kullback-Leibler divergence, whose gradient is the same.
        divergence: bool,
    },
    /// 2 − 2·z₊/s, of unit rows ‖q_i − k₊‖² (BYOL). There are no negatives.
    Alignment,
}

/// Summaries of a row's logits, in nats; `T` is f64, or a number with its derivatives.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowLogits<T = f64> {
    /// lse⁻, the log-sum-exp of the negatives' logits z; with two exponents of (1+β)z. −∞ without negatives. With a
    /// sigmoid ln of the sum of softplus over negatives and positives.
    pub negatives_lse: T,
    /// z₊, the positive's logit; of a set the mean; with soft targets Σ_j t_ij z_ij. −∞ without a positive.
    pub positive: T,
    /// With sets the log-sum-exp of the positives' logits; with two exponents that of the negatives' βz; with soft
    /// targets that of the targets' logits; with a sigmoid −∞.
    pub second_lse: T,
    /// With sets the mean of the negatives' logits, 0 without negatives; with soft targets Σ_j t_ij u_ij.
    pub negatives_mean: T,
    /// With sets the number of positives.
    pub positives: f64,
    /// With sets the number of negatives.
    pub negatives: f64,
}

impl RowLogits {
    /// Those of a rule of lse⁻ and z₊ alone.
    pub fn new(negatives_lse: f64, positive: f64) -> Self {
        Self {
            negatives_lse,
            positive,
            second_lse: f64::NEG_INFINITY,
            negatives_mean: 0.0,
            positives: 1.0,
            negatives: 0.0,
        }
    }
}

/// What a row's loss depends on besides its logits.
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
    /// c = −∂φ/∂z₊; of a set each positive's share of it.
    pub positive: f64,
    /// ∂φ/∂s at fixed logits.
    pub scale: f64,
    /// o₂, in nats, the offset of the second exponential; +∞ where there is none.
    pub second: f64,
    /// ε′, what label smoothing subtracts for every candidate that is not excluded.
    pub uniform: f64,
}

impl RowValues {
    /// φ and its derivatives times w ≥ 0. A weight of 0 leaves the row out, whatever its logits.
    #[must_use]
    pub fn weighted(self, w: f64) -> Self {
        if w == 0.0 {
            return Self::none(f64::INFINITY);
        }
        Self {
            value: w * self.value,
            offset: self.offset - w.ln(),
            negatives: w * self.negatives,
            positive: w * self.positive,
            scale: w * self.scale,
            second: self.second - w.ln(),
            uniform: w * self.uniform,
        }
    }

    /// Those of a row without a loss.
    fn none(offset: f64) -> Self {
        Self {
            value: 0.0,
            offset,
            negatives: 0.0,
            positive: 0.0,
            scale: 0.0,
            second: f64::INFINITY,
            uniform: 0.0,
        }
    }
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
            Self::Debiased { prior } => share("prior", prior),
            Self::Sets { form, smoothing } => {
                share("smoothing", smoothing)?;
                let legal = smoothing == 0.0 || form == SetForm::MeanOutside;
                within("smoothing", smoothing, "0 in this form", legal)
            }
            Self::HardNegatives { beta, prior } => {
                positive("beta", beta)?;
                share("prior", prior)
            }
            Self::Sigmoid { bias } => within("bias", bias, "finite", bias.is_finite()),
            Self::SoftTargets { scale, .. } => positive("target_scale", scale),
            Self::Alignment => Ok(0.0),
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

    /// Whether ∂φ/∂s at fixed logits can be other than 0.
    pub fn depends_on_scale(self) -> bool {
        self.counts_negatives() || self.is_alignment()
    }

    /// Whether φ depends on the number of negatives.
    pub fn counts_negatives(self) -> bool {
        matches!(self, Self::Debiased { .. } | Self::HardNegatives { .. })
    }

    /// Whether a row without negatives has no loss.
    pub(crate) fn needs_negatives(self) -> bool {
        match self {
            Self::Sets { form, .. } => form == SetForm::Decoupled,
            _ => !self.is_pointwise() && !self.is_alignment(),
        }
    }

    /// Whether a row without a positive has no loss.
    pub(crate) fn needs_positive(self) -> bool {
        !self.is_pointwise() && self.target_scale().is_none()
    }

    /// Whether every candidate that is given as a positive counts, not only one.
    pub fn takes_sets(self) -> bool {
        matches!(self, Self::Sets { .. } | Self::Sigmoid { .. })
    }

    /// Whether a row's loss is a sum of functions of single logits.
    pub fn is_pointwise(self) -> bool {
        matches!(self, Self::Sigmoid { .. })
    }

    /// Whether no candidate but the positive enters a row's loss, so that there is nothing to multiply.
    pub(crate) fn is_alignment(self) -> bool {
        self == Self::Alignment
    }

    /// b of a sigmoid.
    pub fn logit_bias(self) -> Option<f32> {
        match self {
            Self::Sigmoid { bias } => Some(bias),
            _ => None,
        }
    }

    /// The scale of the targets' logits; `None` for a rule without soft targets.
    pub fn target_scale(self) -> Option<f32> {
        match self {
            Self::SoftTargets { scale, .. } => Some(scale),
            _ => None,
        }
    }

    /// Whether labels are smoothed, so that φ depends on the mean of the negatives' logits and on their number.
    pub fn is_smoothed(self) -> bool {
        matches!(self, Self::Sets { smoothing, .. } if smoothing > 0.0)
    }

    /// The exponents of the negatives' two sums, 1 + β and β; `None` for a rule of one exponent.
    pub fn exponents(self) -> Option<[f64; 2]> {
        match self {
            Self::HardNegatives { beta, .. } => Some([1.0 + f64::from(beta), f64::from(beta)]),
            _ => None,
        }
    }

    /// The sign of the second exponential.
    pub fn second_sign(self) -> f64 {
        match self {
            Self::Sets { form, .. } if form != SetForm::MeanInside => 1.0,
            _ => -1.0,
        }
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
            Self::Sets { form, smoothing } => (4 + form as u32, [smoothing, 0.0]),
            Self::HardNegatives { beta, prior } => (7, [prior, beta]),
            Self::Sigmoid { bias } => (8, [bias, 0.0]),
            Self::SoftTargets { scale, divergence } => (9, [scale, f32::from(divergence)]),
            Self::Alignment => (10, [0.0; 2]),
        }
    }

    /// φ and its derivatives, computed so that 1 − p₊ keeps its digits. A row without a positive (z₊ = −∞) has loss 0 and
    /// gradient 0, and so has one without negatives (lse⁻ = −∞), but for rules that do not need it.
    pub fn values(self, logits: &RowLogits, row: &RowContext) -> RowValues {
        let none = RowValues::none;
        let (lse, z) = (logits.negatives_lse, logits.positive);
        if z == f64::NEG_INFINITY && !lse.is_nan() && self.needs_positive() {
            return none(f64::INFINITY);
        }
        if lse == f64::NEG_INFINITY && !z.is_nan() && self.needs_negatives() {
            return none(z);
        }
        match self {
            // Inputs that are not finite have made z₊ NaN.
            Self::Sigmoid { .. } if z.is_nan() => RowValues {
                value: z,
                negatives: z,
                ..none(z)
            },
            Self::Sigmoid { .. } => RowValues {
                value: lse.exp(),
                negatives: 1.0,
                ..none(0.0)
            },
            Self::SoftTargets { divergence, .. } => {
                let entropy = match divergence {
                    true => logits.second_lse - logits.negatives_mean,
                    false => 0.0,
                };
                RowValues {
                    value: (lse - z) - entropy,
                    negatives: 1.0,
                    second: logits.second_lse,
                    ..none(lse)
                }
            }
            Self::Alignment => RowValues {
                value: 2.0 - 2.0 * z / row.scale,
                positive: 2.0 / row.scale,
                scale: 2.0 * z / (row.scale * row.scale),
                ..none(f64::INFINITY)
            },
            Self::Sets { form, smoothing } => set_values(form, smoothing.into(), logits),
            Self::HardNegatives { beta, prior } => {
                let (beta, second) = (f64::from(beta), logits.second_lse);
                let weighted = RowLogits::new(row.negatives.ln() + lse - second, z);
                let values = Self::Debiased { prior }.values(&weighted, row);
                RowValues {
                    offset: lse - (values.negatives * (1.0 + beta)).ln(),
                    second: second - (values.negatives * beta).ln(),
                    ..values
                }
            }
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

/// A share: at least 0 and less than 1.
fn share(argument: &'static str, given: f32) -> Result<f32, Error> {
    let legal = (0.0..1.0).contains(&given);
    within(argument, given, "at least 0 and less than 1", legal)
}

/// [`RowRule::values`] of a set: φ by way of ln(Σ_all e^z) = lse⁺ + softplus(lse⁻ − lse⁺).
fn set_values(form: SetForm, smoothing: f64, logits: &RowLogits) -> RowValues {
    let RowLogits {
        negatives_lse: lse,
        positive: z,
        second_lse: positives_lse,
        negatives_mean,
        positives: count,
        negatives,
    } = *logits;
    // A set of one has lse⁺ = z₊. Its weight is −a, no difference of an exponential and 1, so that 1 − p₊ keeps its digits.
    let is_one = count == 1.0;
    let positives_lse = if is_one { z } else { positives_lse };
    let excess = softplus(lse - positives_lse);
    let all = positives_lse + excess;
    let none = RowValues::none(all);
    let sigma = sigmoid(lse - positives_lse);
    match form {
        SetForm::MeanOutside | SetForm::MeanInside if is_one => {
            let of_negatives = smoothing * negatives / (1.0 + negatives);
            RowValues {
                value: excess + of_negatives * (z - negatives_mean),
                negatives: sigma,
                positive: sigma - smoothing,
                uniform: smoothing / (1.0 + negatives),
                ..none
            }
        }
        SetForm::MeanOutside => {
            let of_negatives = smoothing * negatives / (count + negatives);
            RowValues {
                value: excess + (positives_lse - z) + of_negatives * (z - negatives_mean),
                negatives: sigma,
                second: all,
                positive: (1.0 - smoothing) / count,
                uniform: smoothing / (count + negatives),
                ..none
            }
        }
        SetForm::MeanInside => RowValues {
            value: excess + count.ln(),
            negatives: sigmoid(lse - positives_lse),
            second: positives_lse + softplus(positives_lse - lse),
            ..none
        },
        SetForm::Decoupled => RowValues {
            value: lse - z,
            offset: lse,
            negatives: 1.0,
            positive: 1.0 / count,
            ..none
        },
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
