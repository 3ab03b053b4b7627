//! The tolerance rule: how far an engine's output may be from float64.
//!
//! An output's error is its largest absolute difference from float64. It may be
//! ```text
//! 2 × the error of the plain implementation + rounding
//! ```
//! The plain implementation is the reference with every operation rounded to f32, on the same inputs and rounded
//! to the same type: its error is the cost of f32. `rounding` is the error that no implementation in that
//! arithmetic can rule out; it counts where the plain error of a small output is zero by luck.
//!
//! A logit is a sum of D products, computed in f32, times s. Let ε be the spacing of f32 at 1. A product is off by at
//! most p·ε of itself: p = 6 for f32 inputs, where three products of tf32 leave 3·2⁻²²; p = 1 for 16-bit inputs,
//! whose products are exact. With η = ε·max(1 + √D/2, p) and a_ij = Σ_d |q_id·k_jd|, the sum is off by about
//! η·a_ij (Higham and Mary 2019: errors of ε/2 add up like a random walk), the logit by at most ζ = s·η·max a_ij.
//! The rounding of each output follows (‖x‖ is the absolute value of a scalar):
//!
//! | output | rounding |
//! |---|---|
//! | z₊, lse⁻ | ζ + ε·(1 + max‖output‖) |
//! | loss | Σ w_i Δφ_i + ε·Σ w_i·(‖φ_i‖ + ‖terms of a difference‖) |
//! | lse of (1+β)z and of βz | (1+β)·ζ + ε·(1 + max‖output‖) |
//! | numbers of positives and of negatives | 0 |
//! | dq, dk, dbias | (ω + ε_out)·max Σ ‖terms of the sum‖ |
//! | dscale | ω·Σ ‖dz_ij·⟨q_i, k_j⟩‖ + η·Σ ‖dz_ij‖·a_ij |
//!
//! Δφ_i is how far a row's loss moves when lse⁻ or z₊ is off by ζ: (1 − p₊)·ζ for InfoNCE. ω = ζ + p·ε is the
//! relative error of a softmax weight times an element. For bf16 and f16 inputs ω is larger by the spacing of
//! that type, 2⁻⁷ and 2⁻¹⁰: engines round the weights to it, for the 16-bit units of CPUs and GPUs. ε_out is the
//! spacing of the output's type. A term counts for more where an error of ζ in lse⁻ or z₊ moves its weight by
//! more than ζ, as near the clamp of the debiased loss. A weight that is a difference, such as p − 1/n of one of n
//! positives, is formed in f32 before it is rounded to 16 bits: ζ + p·ε counts for its parts, the spacing of a 16-bit type
//! for their difference. A bias c_j adds ε·‖c_j‖ to ζ. All sums are taken in float64 from the reference
//! (`sizes.rs`).

use std::fmt;

use crate::element::{DType, Element};

/// A verb (method of an engine) whose outputs are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    /// Loss and statistics.
    Forward,
    /// Loss and gradients, dk too where the contrast has one.
    ValueAndGrad,
    /// Loss and gradients without dk.
    ValueAndGradDqOnly,
    /// Gradients from the statistics of forward.
    Backward,
    /// The best candidates.
    TopK,
    /// The triplet loss and its gradients.
    Triplet,
    /// Rows scaled to norm 1.
    Normalize,
    /// The gradient of normalize.
    NormalizeBackward,
    /// The key encoder's average.
    MomentumUpdate,
    /// Rows of a memory bank.
    UpdateRows,
    /// The key queue.
    Enqueue,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Verb::Forward => "forward",
            Verb::ValueAndGrad => "value_and_grad",
            Verb::ValueAndGradDqOnly => "value_and_grad (dq)",
            Verb::Backward => "backward",
            Verb::TopK => "top_k",
            Verb::Triplet => "triplet",
            Verb::Normalize => "normalize",
            Verb::NormalizeBackward => "normalize_backward",
            Verb::MomentumUpdate => "momentum_update",
            Verb::UpdateRows => "update_rows",
            Verb::Enqueue => "enqueue",
        })
    }
}

/// One output of an engine or of the plain implementation.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// The verb that wrote it.
    pub verb: Verb,
    /// What it is: "loss", "dq", ….
    pub quantity: &'static str,
    /// The type it was stored in.
    pub dtype: DType,
    /// The values, widened.
    pub values: Vec<f64>,
}

impl Output {
    /// The output with these values.
    pub(super) fn new<T: Element>(verb: Verb, quantity: &'static str, values: &[T]) -> Self {
        Self {
            verb,
            quantity,
            dtype: T::DTYPE,
            values: widen(values),
        }
    }

    /// Measures the output against `expected`. `input` is the inputs' type, `plain` the plain implementation's
    /// output before it is rounded to this output's type.
    pub(super) fn judge(
        &self,
        input: DType,
        expected: &[f64],
        plain: &[f64],
        rounding: f64,
    ) -> Measurement {
        let plain: Vec<f64> = plain.iter().map(|&x| self.dtype.round(x)).collect();
        Measurement {
            verb: self.verb,
            quantity: self.quantity,
            input,
            output: self.dtype,
            error: largest_error(&self.values, expected),
            plain_error: largest_error(&plain, expected),
            rounding,
            magnitude: magnitude(expected),
        }
    }

    /// Measures the output against `expected`, allowing no error.
    pub(super) fn judge_exact(&self, input: DType, expected: &[f64]) -> Measurement {
        self.judge(input, expected, expected, 0.0)
    }

    /// Whether all values are the same bit for bit; NaN equals NaN.
    pub fn same_bits(&self, other: &Output) -> bool {
        let bits = |output: &Output| -> Vec<u64> {
            output.values.iter().map(|value| value.to_bits()).collect()
        };
        (self.verb, self.quantity, self.dtype) == (other.verb, other.quantity, other.dtype)
            && bits(self) == bits(other)
    }
}

/// One output judged.
#[derive(Debug, Clone, PartialEq)]
pub struct Measurement {
    /// The verb.
    pub verb: Verb,
    /// What the output is.
    pub quantity: &'static str,
    /// Type of the inputs.
    pub input: DType,
    /// Type of the output.
    pub output: DType,
    /// Largest absolute difference from float64.
    pub error: f64,
    /// The plain implementation's error.
    pub plain_error: f64,
    /// The allowance for rounding.
    pub rounding: f64,
    /// The output's largest absolute value, in float64.
    pub magnitude: f64,
}

impl Measurement {
    /// 2 × plain error + rounding.
    pub fn allowed(&self) -> f64 {
        2.0 * self.plain_error + self.rounding
    }

    /// Whether the error is allowed. An infinite allowance allows nothing.
    pub fn passes(&self) -> bool {
        self.allowed().is_finite() && self.error <= self.allowed()
    }

    /// Error ÷ allowed: above 1 it fails.
    pub fn share(&self) -> f64 {
        match self.passes() {
            true if self.error == 0.0 => 0.0,
            true => self.error / self.allowed(),
            false if self.error.is_finite() && self.allowed() > 0.0 => {
                (self.error / self.allowed()).max(1.0)
            }
            false => f64::INFINITY,
        }
    }
}

impl fmt::Display for Measurement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} ({} -> {}): error {:.3e}, plain implementation {:.3e}, rounding {:.3e}, \
             allowed {:.3e}, largest value {:.3e}",
            self.verb,
            self.quantity,
            self.input,
            self.output,
            self.error,
            self.plain_error,
            self.rounding,
            self.allowed(),
            self.magnitude,
        )
    }
}

/// The elements in f64, exact.
pub(super) fn widen<T: Element>(elements: &[T]) -> Vec<f64> {
    elements.iter().map(|x| f64::from(x.to_f32())).collect()
}

/// The largest absolute difference; ∞ when lengths differ, or when NaN or an infinity stands on one side alone.
fn largest_error(values: &[f64], expected: &[f64]) -> f64 {
    if values.len() != expected.len() {
        return f64::INFINITY;
    }
    let difference = |(value, expected): (&f64, &f64)| match (value - expected).abs() {
        _ if value == expected || (value.is_nan() && expected.is_nan()) => 0.0,
        difference if difference.is_nan() => f64::INFINITY,
        difference => difference,
    };
    let differences = values.iter().zip(expected).map(difference);
    differences.fold(0.0, f64::max)
}

/// The largest absolute value that is finite.
pub(super) fn magnitude(values: &[f64]) -> f64 {
    let sizes = values.iter().map(|value| value.abs());
    sizes.filter(|size| size.is_finite()).fold(0.0, f64::max)
}
