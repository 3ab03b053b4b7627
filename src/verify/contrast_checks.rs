//! Runs the verbs that compute a contrast and judges what they give back.

use super::on_host::{OnHost, poisoned};
use super::plain::{self, Plain};
use super::problem::Drawn;
use super::rule::{Measurement, Output, Verb, largest_error, magnitude};
use super::sizes::{Sizes, product_error, spacing};
use crate::element::{DType, Element};
use crate::engine::Engine;
use crate::error::Error;
use crate::reference::{self, Reference};
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

/// Everything that `engine` computes of `problem`: forward; value_and_grad with and without dk, and
/// backward from forward's statistics, with gradients in the types asked for.
///
/// # Errors
/// Whatever the engine refuses.
pub fn evaluate<E: Engine, T: Element>(
    engine: &E,
    drawn: &Drawn<T>,
    types: GradientTypes,
) -> Result<Vec<Output>, Error> {
    let forward = OnHost(engine).forward(&drawn.problem()?)?;
    let mut outputs = vec![output(Verb::Forward, "loss", &[forward.loss])];
    outputs.extend(statistics_outputs(Verb::Forward, &forward.statistics));
    let is_f32 = T::DTYPE == DType::F32;
    if is_f32 || types != GradientTypes::Inputs {
        gradients::<E, T, f32>(engine, drawn, &forward.statistics, &mut outputs)?;
    }
    if !is_f32 && types != GradientTypes::F32 {
        gradients::<E, T, T>(engine, drawn, &forward.statistics, &mut outputs)?;
    }
    Ok(outputs)
}

fn gradients<E: Engine, T: Element, G: Element>(
    engine: &E,
    drawn: &Drawn<T>,
    statistics: &Statistics,
    outputs: &mut Vec<Output>,
) -> Result<(), Error> {
    let (problem, upstream) = (drawn.problem()?, drawn.case.upstream);
    let has_dk = drawn.contrast.has_dk();
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
        let mut gradients = poisoned::<G>(problem.shape(), wants_dk);
        let dscale = if verb == Verb::Backward {
            OnHost(engine).backward(&problem, statistics, upstream, &mut gradients)?
        } else {
            let value = OnHost(engine).value_and_grad(&problem, upstream, &mut gradients)?;
            outputs.push(output(verb, "loss", &[value.loss]));
            outputs.extend(statistics_outputs(verb, &value.statistics));
            value.dscale
        };
        outputs.push(output(verb, "dscale", &[dscale]));
        outputs.push(output(verb, "dq", &gradients.dq));
        outputs.extend(gradients.dk.map(|dk| output(verb, "dk", &dk)));
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

impl Expectation {
    /// Computes reference, plain implementation and sizes.
    ///
    /// # Errors
    /// Those of [`Contrast::on`](crate::Contrast::on).
    pub fn new<T: Element>(drawn: &Drawn<T>) -> Result<Self, Error> {
        let wide = drawn.wide()?;
        let problem = drawn.on(&wide.iter().collect::<Vec<_>>())?;
        let upstream = f64::from(drawn.case.upstream);
        let reference = reference::value_and_grad(&problem, upstream);
        Ok(Self {
            input: T::DTYPE,
            plain: plain::value_and_grad(&drawn.problem()?, drawn.case.upstream),
            sizes: Sizes::new(&problem, &reference, upstream, T::DTYPE),
            reference,
        })
    }

    /// The plain implementation's outputs in the form of an engine's, gradients rounded to `G`.
    pub fn plain_outputs<G: Element>(&self) -> Vec<Output> {
        let plain = &self.plain;
        let verb = Verb::ValueAndGrad;
        let round =
            |numbers: &[f32]| -> Vec<G> { numbers.iter().map(|&x| G::from_f32(x)).collect() };
        let scalars = [("loss", plain.loss), ("dscale", plain.dscale)];
        let mut outputs = scalars.map(|(name, x)| output(verb, name, &[x])).to_vec();
        outputs.extend(statistics_outputs(verb, &plain.statistics));
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
            "loss" => sizes.loss + epsilon * sizes.loss_terms,
            "dscale" => weight * sizes.dscale_products + sizes.dscale,
            "dq" => (weight + spacing(output)) * sizes.dq,
            "dk" => (weight + spacing(output)) * sizes.dk,
            _ => sizes.logit + epsilon * (1.0 + magnitude(expected)),
        }
    }
}

/// Losses of forward and value_and_grad, for inputs whose loss must be NaN.
///
/// # Errors
/// Whatever the engine refuses.
pub fn losses<E: Engine, T: Element>(engine: &E, drawn: &Drawn<T>) -> Result<[f32; 2], Error> {
    let problem = drawn.problem()?;
    let mut gradients = poisoned::<f32>(problem.shape(), false);
    let forward = OnHost(engine).forward(&problem)?;
    let value = OnHost(engine).value_and_grad(&problem, 1.0, &mut gradients)?;
    Ok([forward.loss, value.loss])
}
