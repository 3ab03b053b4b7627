//! Runs the verbs that compute a contrast and judges what they give back.

use super::backend::Backend;
use super::plain::{self, Plain};
use super::problem::{Problem, map};
use super::rule::{Measurement, Output, Verb, largest_error, magnitude};
use crate::contrast::{Inputs, Shape};
use crate::element::{DType, Element};
use crate::engine::Gradients;
use crate::error::Error;
use crate::reference::{self, Dense, Reference};
use crate::rows::{Rows, RowsMut};
use crate::statistics::Statistics;

/// Which types gradients are asked for in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GradientTypes {
    /// f32 alone.
    F32,
    /// The inputs' type alone.
    Inputs,
    /// Both, one after the other.
    Both,
}

/// Everything that `backend` computes of `problem`: forward; value_and_grad with and without dk, and
/// backward from forward's statistics, with gradients in the types asked for.
///
/// # Errors
/// Whatever the backend refuses.
pub fn evaluate<B: Backend, T: Element>(
    backend: &B,
    problem: &Problem<T>,
    types: GradientTypes,
) -> Result<Vec<Output>, Error> {
    let inputs = problem.inputs()?;
    let forward = backend.forward(&problem.contrast, &inputs)?;
    let mut outputs = scalars(Verb::Forward, &[("loss", forward.loss)]);
    outputs.extend(statistics_outputs(Verb::Forward, &forward.statistics));
    let is_f32 = T::DTYPE == DType::F32;
    if is_f32 || types != GradientTypes::Inputs {
        gradients::<B, T, f32>(backend, problem, &forward.statistics, &mut outputs)?;
    }
    if !is_f32 && types != GradientTypes::F32 {
        gradients::<B, T, T>(backend, problem, &forward.statistics, &mut outputs)?;
    }
    Ok(outputs)
}

fn gradients<B: Backend, T: Element, G: Element>(
    backend: &B,
    problem: &Problem<T>,
    statistics: &Statistics,
    outputs: &mut Vec<Output>,
) -> Result<(), Error> {
    let (contrast, upstream) = (&problem.contrast, problem.case.upstream);
    let inputs = problem.inputs()?;
    let shape = contrast.check(&inputs)?;
    let has_dk = matches!(inputs, Inputs::Pair { .. });
    let calls = [
        (Verb::ValueAndGrad, has_dk),
        (Verb::ValueAndGradDqOnly, false),
        (Verb::Backward, has_dk),
    ];
    // Where there is no dk to leave out, the second is the first again.
    let calls = calls
        .into_iter()
        .filter(|(verb, _)| has_dk || *verb != Verb::ValueAndGradDqOnly);
    for (verb, wants_dk) in calls {
        // Poisoned, so that what is not written shows.
        let mut dq = vec![G::from_f32(f32::NAN); shape.anchors * shape.dim];
        let mut dk = vec![G::from_f32(f32::NAN); shape.candidates * shape.dim];
        let dk_view = match wants_dk {
            true => Some(RowsMut::new(&mut dk, shape.candidates, shape.dim)?),
            false => None,
        };
        let gradients = Gradients {
            dq: RowsMut::new(&mut dq, shape.anchors, shape.dim)?,
            dk: dk_view,
        };
        let dscale = if verb == Verb::Backward {
            backend.backward(contrast, &inputs, statistics, upstream, gradients)?
        } else {
            let value = backend.value_and_grad(contrast, &inputs, upstream, gradients)?;
            outputs.extend(scalars(verb, &[("loss", value.loss)]));
            outputs.extend(statistics_outputs(verb, &value.statistics));
            value.dscale
        };
        outputs.extend(scalars(verb, &[("dscale", dscale)]));
        outputs.push(output(verb, "dq", &dq));
        if wants_dk {
            outputs.push(output(verb, "dk", &dk));
        }
    }
    Ok(())
}

pub(super) fn output<T: Element>(verb: Verb, quantity: &'static str, values: &[T]) -> Output {
    Output {
        verb,
        quantity,
        dtype: T::DTYPE,
        values: values.iter().map(|x| f64::from(x.to_f32())).collect(),
    }
}

fn scalars(verb: Verb, values: &[(&'static str, f32)]) -> Vec<Output> {
    let outputs = values
        .iter()
        .map(|(name, value)| output(verb, name, &[*value]));
    outputs.collect()
}

fn statistics_outputs(verb: Verb, statistics: &Statistics) -> Vec<Output> {
    let mut outputs = vec![
        output(verb, "lse- of rows", &statistics.rows.negatives_lse),
        output(verb, "z+ of rows", &statistics.rows.positive),
    ];
    if let Some(columns) = &statistics.columns {
        outputs.push(output(verb, "lse- of columns", &columns.negatives_lse));
        outputs.push(output(verb, "z+ of columns", &columns.positive));
    }
    outputs
}

/// What the outputs of a problem should be, what the plain implementation makes of them, and how
/// much rounding they are allowed.
pub struct Expectation {
    input: DType,
    reference: Reference,
    plain: Plain,
    sizes: Sizes,
}

/// Sizes of the terms of each sum; see [the rule](super::rule).
struct Sizes {
    /// ζ, the error of a logit.
    logit: f64,
    /// Σ w_i σ_i.
    loss: f64,
    dq: f64,
    dk: f64,
    /// η Σ |dz_ij| a_ij.
    dscale: f64,
    /// Σ |dz_ij ⟨q_i, k_j⟩|.
    dscale_products: f64,
}

impl Expectation {
    /// Computes reference, plain implementation and sizes.
    ///
    /// # Errors
    /// Those of [`Contrast::check`](crate::Contrast::check).
    pub fn new<T: Element>(problem: &Problem<T>) -> Result<Self, Error> {
        let inputs = problem.inputs()?;
        let shape = problem.contrast.check(&inputs)?;
        let wide = map(&inputs, |&matrix| Ok(Dense::from_rows(matrix)))?;
        let wide = map(&wide, Ok)?;
        let upstream = f64::from(problem.case.upstream);
        let reference = reference::value_and_grad(&problem.contrast, &wide, upstream)?;
        let sizes = Sizes::new(problem, shape, &wide, &reference);
        Ok(Self {
            input: T::DTYPE,
            plain: plain::value_and_grad(&problem.contrast, &inputs, problem.case.upstream)?,
            reference,
            sizes,
        })
    }

    /// The plain implementation's outputs in the form of an engine's, gradients rounded to `G`.
    pub fn plain_outputs<G: Element>(&self) -> Vec<Output> {
        let plain = &self.plain;
        let verb = Verb::ValueAndGrad;
        let round =
            |numbers: &[f32]| -> Vec<G> { numbers.iter().map(|&x| G::from_f32(x)).collect() };
        let mut outputs = scalars(verb, &[("loss", plain.loss), ("dscale", plain.dscale)]);
        outputs.push(output(verb, "lse- of rows", &plain.rows.negatives_lse));
        outputs.push(output(verb, "z+ of rows", &plain.rows.positive));
        if let Some(columns) = &plain.columns {
            outputs.push(output(verb, "lse- of columns", &columns.negatives_lse));
            outputs.push(output(verb, "z+ of columns", &columns.positive));
        }
        outputs.push(output(verb, "dq", &round(&plain.dq)));
        if !plain.dk.is_empty() {
            outputs.push(output(verb, "dk", &round(&plain.dk)));
        }
        outputs
    }

    /// Judges outputs of [`evaluate`].
    pub fn judge(&self, outputs: &[Output]) -> Vec<Measurement> {
        let plain_by_type = [
            self.plain_outputs::<f32>(),
            self.plain_outputs::<half::f16>(),
            self.plain_outputs::<half::bf16>(),
        ];
        let judge = |output: &Output| {
            let expected = self.expected(output.quantity);
            let plain = plain_by_type
                .iter()
                .flatten()
                .find(|plain| (plain.quantity, plain.dtype) == (output.quantity, output.dtype))
                .map_or(&[][..], |plain| &plain.values);
            Measurement {
                verb: output.verb,
                quantity: output.quantity,
                input: self.input,
                output: output.dtype,
                error: largest_error(&output.values, &expected),
                plain_error: largest_error(plain, &expected),
                rounding: self.rounding(output.quantity, output.dtype, &expected),
                magnitude: magnitude(&expected),
            }
        };
        outputs.iter().map(judge).collect()
    }

    fn expected(&self, quantity: &str) -> Vec<f64> {
        let reference = &self.reference;
        let columns = reference.columns.as_ref();
        let columns = |pick: fn(&reference::RowValues) -> &Vec<f64>| {
            columns.map(pick).cloned().unwrap_or_default()
        };
        match quantity {
            "loss" => vec![reference.loss],
            "dscale" => vec![reference.dscale],
            "lse- of rows" => reference.rows.negatives_lse.clone(),
            "z+ of rows" => reference.rows.positive.clone(),
            "lse- of columns" => columns(|columns| &columns.negatives_lse),
            "z+ of columns" => columns(|columns| &columns.positive),
            "dq" => reference.dq.as_slice().to_vec(),
            "dk" => {
                let dk = reference.dk.as_ref();
                dk.map(|dk| dk.as_slice().to_vec()).unwrap_or_default()
            }
            _ => Vec::new(),
        }
    }

    fn rounding(&self, quantity: &str, output: DType, expected: &[f64]) -> f64 {
        let sizes = &self.sizes;
        let epsilon = spacing(DType::F32);
        let weight = match self.input {
            DType::F32 => sizes.logit + product_error(DType::F32) * epsilon,
            half => sizes.logit + epsilon + spacing(half),
        };
        match quantity {
            "loss" => sizes.logit * sizes.loss + epsilon * self.reference.loss,
            "dscale" => weight * sizes.dscale_products + sizes.dscale,
            "dq" => (weight + spacing(output)) * sizes.dq,
            "dk" => (weight + spacing(output)) * sizes.dk,
            _ => sizes.logit + epsilon * (1.0 + magnitude(expected)),
        }
    }
}

/// How far off a product of two inputs may be, in spacings of f32: three products of tf32 leave
/// 3·2⁻²² of one of f32.
pub(super) fn product_error(input: DType) -> f64 {
    match input {
        DType::F32 => 6.0,
        DType::F16 | DType::Bf16 => 1.0,
    }
}

/// Distance from 1 to the next number.
pub(super) fn spacing(dtype: DType) -> f64 {
    f64::from(match dtype {
        DType::F32 => f32::EPSILON,
        DType::F16 => half::f16::EPSILON.to_f32(),
        DType::Bf16 => half::bf16::EPSILON.to_f32(),
    })
}

impl Sizes {
    fn new<T: Element>(
        problem: &Problem<T>,
        shape: Shape,
        inputs: &Inputs<&Dense>,
        reference: &Reference,
    ) -> Self {
        let scale = f64::from(problem.contrast.scale());
        let (q, k, own_key) = match *inputs {
            Inputs::Shared { z } => (z, z, None),
            Inputs::Pair { q, k } => (q, k, None),
            Inputs::Queue { q, own_key, queue } => (q, queue, Some(own_key)),
        };
        let mut sizes = Self {
            logit: 0.0,
            loss: 0.0,
            dq: 0.0,
            dk: 0.0,
            dscale: 0.0,
            dscale_products: 0.0,
        };
        let mut dq = vec![0.0; shape.anchors * shape.dim];
        let mut dk = vec![0.0; shape.candidates * shape.dim];
        let columns = reference.dz.as_slice().len() / shape.anchors;
        let own_columns = usize::from(own_key.is_some());
        for i in 0..shape.anchors {
            for j in 0..columns {
                let candidate = match own_key {
                    Some(own_key) if j == 0 => own_key.row(i),
                    _ => k.row(j - own_columns),
                };
                let dz = reference.dz.row(i)[j].abs();
                let terms = || q.row(i).iter().zip(candidate).map(|(q, k)| q * k);
                let size: f64 = terms().map(f64::abs).sum();
                // NT-Xent's anchors do not see themselves.
                if !(problem.contrast.excludes_self() && i == j) {
                    sizes.logit = sizes.logit.max(scale * size);
                }
                sizes.dscale += dz * size;
                sizes.dscale_products += (dz * terms().sum::<f64>()).abs();
                for (d, (q, k)) in q.row(i).iter().zip(candidate).enumerate() {
                    dq[i * shape.dim + d] += (scale * dz * k).abs();
                    if own_key.is_none() {
                        dk[j * shape.dim + d] += (scale * dz * q).abs();
                    }
                }
            }
        }
        if matches!(inputs, Inputs::Shared { .. }) {
            for (dq, dk) in dq.iter_mut().zip(&dk) {
                *dq += dk;
            }
        }
        let eta = product_error(T::DTYPE).max(1.0 + (shape.dim as f64).sqrt() / 2.0)
            * spacing(DType::F32);
        sizes.logit *= eta;
        sizes.dscale *= eta;
        sizes.dq = magnitude(&dq);
        sizes.dk = magnitude(&dk);
        let directions = [Some(&reference.rows), reference.columns.as_ref()];
        let rows = directions.into_iter().flatten();
        sizes.loss = problem.contrast.row_weight(shape.anchors)
            * rows.flat_map(|rows| &rows.one_minus_positive).sum::<f64>();
        sizes
    }
}

/// Losses of forward and value_and_grad, for inputs whose loss must be NaN.
///
/// # Errors
/// Whatever the backend refuses.
pub fn losses<B: Backend, T: Element>(
    backend: &B,
    problem: &Problem<T>,
) -> Result<[f32; 2], Error> {
    let inputs: Inputs<Rows<'_, T>> = problem.inputs()?;
    let shape = problem.contrast.check(&inputs)?;
    let mut dq = vec![0.0f32; shape.anchors * shape.dim];
    let gradients = Gradients {
        dq: RowsMut::new(&mut dq, shape.anchors, shape.dim)?,
        dk: None,
    };
    let forward = backend.forward(&problem.contrast, &inputs)?;
    let value = backend.value_and_grad(&problem.contrast, &inputs, 1.0, gradients)?;
    Ok([forward.loss, value.loss])
}
