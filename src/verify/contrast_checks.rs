//! Runs the verbs that compute a contrast and judges their outputs.

use std::slice;

use super::on_host::{OnHost, poisoned};
use super::problem::Drawn;
use super::rule::{Measurement, Output, Verb, magnitude};
use super::sizes::{Sizes, Weighted, product_error, spacing};
use crate::element::{DType, Element};
use crate::engine::Engine;
use crate::error::Error;
use crate::memory::Evaluated;
use crate::reference::{self, Dense, Reference};
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

/// All outputs of `engine` for a drawn problem: forward; value_and_grad with and without dk, and backward from
/// forward's statistics, with gradients in the types asked for.
///
/// # Errors
/// Whatever the engine refuses.
pub fn evaluate<E: Engine, T: Element>(
    engine: &E,
    drawn: &Drawn<T>,
    types: GradientTypes,
) -> Result<Vec<Output>, Error> {
    let forward = OnHost(engine).forward(&drawn.problem()?)?;
    let mut outputs = outputs_of(drawn, Verb::Forward, &forward);
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
    // Without a dk, ValueAndGradDqOnly would repeat ValueAndGrad.
    let calls = calls
        .into_iter()
        .filter(|(verb, _)| has_dk || *verb != Verb::ValueAndGradDqOnly);
    for (verb, wants_dk) in calls {
        let mut gradients = poisoned::<G>(problem.shape(), wants_dk);
        let biases = match problem.column_bias() {
            Some(_) => drawn.case.candidates,
            None => usize::from(drawn.contrast.rule().is_pointwise()),
        };
        if biases > 0 {
            gradients = gradients.with_bias(vec![G::from_f32(f32::NAN); biases]);
        }
        let dscale = if verb == Verb::Backward {
            OnHost(engine).backward(&problem, statistics, upstream, &mut gradients)?
        } else {
            let value = OnHost(engine).value_and_grad(&problem, upstream, &mut gradients)?;
            outputs.extend(outputs_of(drawn, verb, &value));
            value.dscale
        };
        outputs.push(Output::new(verb, "dscale", &[dscale]));
        outputs.push(Output::new(verb, "dq", &gradients.dq));
        outputs.extend(gradients.dk.map(|dk| Output::new(verb, "dk", &dk)));
        let dbias = gradients.dbias;
        outputs.extend(dbias.map(|dbias| Output::new(verb, "dbias", &dbias)));
    }
    Ok(())
}

/// Loss and statistics.
fn outputs_of<T: Element>(drawn: &Drawn<T>, verb: Verb, value: &Evaluated) -> Vec<Output> {
    let Statistics { rows, columns } = &value.statistics;
    let mut outputs = vec![
        Output::new(verb, "loss", &[value.loss]),
        Output::new(verb, "lse- of rows", &rows.negatives_lse),
        Output::new(verb, "z+ of rows", &rows.positive),
    ];
    if let Some(columns) = columns {
        let lse = &columns.negatives_lse;
        outputs.push(Output::new(verb, "lse- of columns", lse));
        outputs.push(Output::new(verb, "z+ of columns", &columns.positive));
    }
    if !rows.second_lse.is_empty() {
        outputs.push(Output::new(verb, "second lse of rows", &rows.second_lse));
    }
    if !rows.target_mean.is_empty() {
        outputs.push(Output::new(verb, "target mean of rows", &rows.target_mean));
    }
    if let Some(sets) = &rows.sets {
        outputs.push(Output::new(verb, "second lse of rows", &sets.positives_lse));
        outputs.push(Output::new(verb, "positives of rows", &sets.positives));
        // Without smoothing no loss depends on them, and an engine may leave them out.
        if drawn.contrast.rule().is_smoothed() {
            let mean = &sets.negatives_mean;
            outputs.push(Output::new(verb, "negatives' mean of rows", mean));
            outputs.push(Output::new(verb, "negatives of rows", &sets.negatives));
        }
    }
    outputs
}

/// The outputs that a problem should have, those of the plain implementation, and the rounding that they are
/// allowed.
pub struct Expectation {
    input: DType,
    reference: Reference,
    plain: Reference,
    sizes: Sizes,
}

impl Expectation {
    /// Computes the reference, the plain implementation's outputs and the sizes of their terms.
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
            plain: reference::value_and_grad_rounded(&problem, upstream, |x| DType::F32.round(x)),
            sizes: Sizes::new(&problem, &reference, upstream, T::DTYPE),
            reference,
        })
    }

    /// Judges outputs of [`evaluate`].
    pub fn judge(&self, outputs: &[Output]) -> Vec<Measurement> {
        let judge = |output: &Output| {
            let expected = quantity(&self.reference, output.quantity);
            let plain = quantity(&self.plain, output.quantity);
            let rounding = self.rounding(output.quantity, output.dtype, expected);
            output.judge(self.input, expected, plain, rounding)
        };
        outputs.iter().map(judge).collect()
    }

    fn rounding(&self, quantity: &str, output: DType, expected: &[f64]) -> f64 {
        let sizes = &self.sizes;
        let epsilon = spacing(DType::F32);
        let weight = sizes.logit + product_error(self.input) * epsilon;
        // Engines round the weights of 16-bit inputs to their type.
        let stored = match self.input {
            DType::F32 => 0.0,
            half => spacing(half),
        };
        let of_gradient =
            |size: &Weighted| weight * size.parts + (stored + spacing(output)) * size.weights;
        match quantity {
            _ if expected.iter().any(|x| x.is_nan()) => f64::NAN,
            "loss" => sizes.loss + epsilon * sizes.loss_terms,
            "dscale" => {
                let products = &sizes.dscale_products;
                weight * products.parts + stored * products.weights + sizes.dscale
            }
            "dq" => of_gradient(&sizes.dq),
            "dk" => of_gradient(&sizes.dk),
            "dbias" => of_gradient(&sizes.dbias),
            "positives of rows" | "negatives of rows" => 0.0,
            "z+ of rows" | "target mean of rows" => {
                sizes.mean * sizes.logit + epsilon * (1.0 + magnitude(expected))
            }
            "lse- of rows" | "second lse of rows" => {
                sizes.exponent * sizes.logit + epsilon * (1.0 + magnitude(expected))
            }
            _ => sizes.logit + epsilon * (1.0 + magnitude(expected)),
        }
    }
}

/// A solution's values of this name; empty where it has none.
fn quantity<'s>(solution: &'s Reference, name: &str) -> &'s [f64] {
    let rows = &solution.rows;
    let columns = solution.columns.as_ref();
    match name {
        "loss" => slice::from_ref(&solution.loss),
        "dscale" => slice::from_ref(&solution.dscale),
        "lse- of rows" => &rows.negatives_lse,
        "z+ of rows" => &rows.positive,
        "second lse of rows" => &rows.second_lse,
        "positives of rows" => &rows.positives,
        "negatives' mean of rows" | "target mean of rows" => &rows.negatives_mean,
        "negatives of rows" => &rows.negatives,
        "lse- of columns" => columns.map_or(&[], |columns| &columns.negatives_lse),
        "z+ of columns" => columns.map_or(&[], |columns| &columns.positive),
        "dq" => solution.dq.as_slice(),
        "dk" => solution.dk.as_ref().map_or(&[], Dense::as_slice),
        "dbias" => solution.dbias.as_deref().unwrap_or_default(),
        _ => &[],
    }
}

/// The losses of forward and of value_and_grad on a problem whose loss must be NaN.
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
