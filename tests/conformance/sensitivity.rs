//! The suite cannot be vacuous: each mistake that contrastive kernels really make fails the tolerance rule
//! in some case of the short run, for every type of inputs.

use std::collections::HashSet;

use half::{bf16, f16};
use infonce::reference::{self, Dense, Reference};
use infonce::verify::cases::{Case, Data, Loss};
use infonce::verify::rule::{Measurement, Output, Verb};
use infonce::verify::{
    Expectation, Failure, GradientTypes, Problem, check, evaluate, random, table,
};
use infonce::{CpuEngine, DType, Element, Engine, Gradients, Inputs, Matrix, Rows, RowsMut};
use libtest_mimic::{Failed, Trial};

use crate::{ALL_TYPES, Extent, NARROW_TYPES, Suite};

/// All tests of this file.
pub fn trials(seed: u64) -> Vec<Trial> {
    let mut trials = Vec::new();
    for types in [&ALL_TYPES[..], &NARROW_TYPES] {
        for dtype in types {
            let new = match dtype {
                DType::F32 => typed_trials::<f32>,
                DType::F16 => typed_trials::<f16>,
                DType::Bf16 => typed_trials::<bf16>,
            };
            trials.extend(new(Run { seed, types }));
        }
    }
    trials.push(Trial::test(
        "sensitivity instances that disagree by rounding",
        move || disagreement_fails(seed),
    ));
    trials
}

fn typed_trials<T: Element>(run: Run) -> Vec<Trial> {
    let planted: [(&str, &[&str], Mistake<T>); 5] = [
        (
            "last candidate counted twice",
            &["loss", "lse- of rows", "dq"],
            last_candidate_twice,
        ),
        (
            "last candidate left out",
            &["loss", "lse- of rows", "dq"],
            last_candidate_left_out,
        ),
        (
            "zero padding in the sum",
            &["loss", "lse- of rows", "dq"],
            zero_padding,
        ),
        ("positive rounded to bf16", &["dq"], positive_in_the_tile),
        ("loss as lse - z+", &["loss"], cancelled_loss),
    ];
    let name = |what| format!("sensitivity {what} {} of {}", T::DTYPE, run.types.len());
    let mut trials: Vec<Trial> = planted
        .into_iter()
        .map(|(what, quantities, mistake)| {
            Trial::test(name(what), move || run.catches(quantities, mistake))
        })
        .collect();
    let test = move || run.catches_small_deviations::<T>();
    trials.push(Trial::test(name("small deviations"), test));
    trials
}

/// What a kernel with a mistake gives for a problem; `None` where the mistake does not show.
type Mistake<T> = fn(&Problem<T>) -> Result<Option<Vec<Output>>, Failed>;

/// The short run of an engine that takes inputs of `types`.
#[derive(Clone, Copy)]
struct Run {
    seed: u64,
    types: &'static [DType],
}

impl Run {
    fn suite(self) -> Suite {
        Suite {
            seed: self.seed,
            extent: Extent::Short,
        }
    }

    /// The cases with finite inputs that the run gives the type `T`, with their places in the table.
    fn cases<T: Element>(self) -> impl Iterator<Item = (usize, Case)> {
        let cases = table(self.seed).into_iter().enumerate();
        cases.filter(move |(_, case)| {
            self.suite().types_of(case, self.types).contains(&T::DTYPE)
                && !matches!(case.data, Data::NotFinite(_))
        })
    }

    /// A mistake fails each of `quantities` in some case, on the inputs that the run draws, with gradients
    /// in the type that it asks for.
    fn catches<T: Element>(
        self,
        quantities: &[&'static str],
        mistake: Mistake<T>,
    ) -> Result<(), Failed> {
        let mut left = quantities.to_vec();
        for (index, case) in self.cases::<T>() {
            let problem = Problem::<T>::draw(&case, &mut random(self.seed, index))?;
            let Some(mut outputs) = mistake(&problem)? else {
                continue;
            };
            if self.suite().gradients_of(&case) == GradientTypes::Inputs {
                let gradients = outputs.iter_mut().filter(|output| output.quantity == "dq");
                for output in gradients {
                    output.dtype = T::DTYPE;
                    for x in &mut output.values {
                        *x = f64::from(T::from_f32(*x as f32).to_f32());
                    }
                }
            }
            let judged = Expectation::new(&problem)?.judge(&outputs);
            left.retain(|&quantity| !fails(&judged, quantity));
            if left.is_empty() {
                return Ok(());
            }
        }
        Err(format!("INFONCE_SEED={}: no case fails {left:?}", self.seed).into())
    }

    /// Of every verb, each output in each type passes when it is right, and fails in some case when one
    /// number is off by a little, left unwritten, or missing.
    fn catches_small_deviations<T: Element>(self) -> Result<(), Failed> {
        let mut caught = HashSet::new();
        for (index, case) in self.cases::<T>() {
            let problem = Problem::<T>::draw(&case, &mut random(self.seed, index))?;
            let expectation = Expectation::new(&problem)?;
            let gradients = self.suite().gradients_of(&case);
            for output in evaluate(&CpuEngine::new(), &problem, gradients)? {
                let key = (output.verb, output.quantity, output.dtype as u8);
                if caught.contains(&key) {
                    continue;
                }
                let passes = |values: Vec<f64>| {
                    let output = Output {
                        values,
                        ..output.clone()
                    };
                    expectation.judge(&[output])[0].passes()
                };
                if !passes(output.values.clone()) {
                    let seed = self.seed;
                    let wrong = format!("INFONCE_SEED={seed} {case}: {key:?} fails, but is right");
                    return Err(wrong.into());
                }
                let largest = output.values.iter().fold(0.0f64, |a, b| a.max(b.abs()));
                let place = output.values.len() - 1;
                let mut off = output.values.clone();
                off[place] += little::<T>(&output) * largest;
                let mut unwritten = output.values.clone();
                unwritten[place] = f64::NAN;
                let missing = output.values[..place].to_vec();
                if ![off, unwritten, missing].into_iter().any(passes) {
                    caught.insert(key);
                }
            }
            // All that there are: 5 of forward, 8, 7 and 3 of the other calls, and 5 gradients in both types.
            let all = if T::DTYPE == DType::F32 { 23 } else { 28 };
            if caught.len() == all {
                return Ok(());
            }
        }
        Err(format!(
            "INFONCE_SEED={}: only these are caught: {caught:?}",
            self.seed
        )
        .into())
    }
}

fn fails(judged: &[Measurement], quantity: &str) -> bool {
    let mut of_quantity = judged.iter().filter(|m| m.quantity == quantity);
    of_quantity.any(|measurement| !measurement.passes())
}

/// Loss, lse⁻ and dq of other candidates than the problem's.
fn with_other_candidates<T: Element>(
    problem: &Problem<T>,
    change: impl Fn(&mut Vec<T>, usize),
) -> Result<Option<Vec<Output>>, Failed> {
    if problem.case.loss != Loss::InfoNceDiagonal {
        return Ok(None);
    }
    let Inputs::Pair { q, k } = problem.inputs()? else {
        return Err("InfoNCE is defined on pairs".into());
    };
    let mut other = k.as_slice().to_vec();
    change(&mut other, k.dim());
    if other.len() < q.rows() * k.dim() {
        return Ok(None); // The last anchor has lost its positive.
    }
    let inputs = Inputs::Pair {
        q,
        k: Rows::new(&other, other.len() / k.dim(), k.dim())?,
    };
    let mut dq = vec![0.0f32; q.rows() * q.dim()];
    let gradients = Gradients {
        dq: RowsMut::new(&mut dq, q.rows(), q.dim())?,
        dk: None,
    };
    let engine = CpuEngine::new();
    let upstream = problem.case.upstream;
    let value = engine.value_and_grad(&problem.contrast, &inputs, upstream, gradients)?;
    Ok(Some(vec![
        output("loss", vec![f64::from(value.loss)]),
        output("lse- of rows", widen(&value.statistics.rows.negatives_lse)),
        output("dq", widen(&dq)),
    ]))
}

fn last_candidate_twice<T: Element>(problem: &Problem<T>) -> Result<Option<Vec<Output>>, Failed> {
    with_other_candidates(problem, |k, dim| k.extend_from_within(k.len() - dim..))
}

fn last_candidate_left_out<T: Element>(
    problem: &Problem<T>,
) -> Result<Option<Vec<Output>>, Failed> {
    with_other_candidates(problem, |k, dim| k.truncate(k.len() - dim))
}

fn zero_padding<T: Element>(problem: &Problem<T>) -> Result<Option<Vec<Output>>, Failed> {
    with_other_candidates(problem, |k, dim| k.extend(vec![T::from_f32(0.0); dim]))
}

/// The solution in float64.
fn solved<T: Element>(problem: &Problem<T>) -> Result<Reference, Failed> {
    let matrices = match problem.inputs()? {
        Inputs::Shared { z } => vec![z],
        Inputs::Pair { q, k } => vec![q, k],
        Inputs::Queue { q, own_key, queue } => vec![q, own_key, queue],
    };
    let wide: Vec<Dense> = matrices.into_iter().map(Dense::from_rows).collect();
    let inputs = match wide.as_slice() {
        [z] => Inputs::Shared { z },
        [q, k] => Inputs::Pair { q, k },
        [q, own_key, queue] => Inputs::Queue { q, own_key, queue },
        _ => return Err("there are one to three matrices".into()),
    };
    let upstream = f64::from(problem.case.upstream);
    Ok(reference::value_and_grad(
        &problem.contrast,
        &inputs,
        upstream,
    )?)
}

/// dq with p₊ rounded to bf16 before 1 is taken off, as when the positive stays in the tile.
fn positive_in_the_tile<T: Element>(problem: &Problem<T>) -> Result<Option<Vec<Output>>, Failed> {
    let case = &problem.case;
    let (Loss::InfoNceDiagonal, Data::Confident(_)) = (case.loss, case.data) else {
        return Ok(None);
    };
    let Inputs::Pair { k, .. } = problem.inputs()? else {
        return Err("InfoNCE is defined on pairs".into());
    };
    let (k, value) = (Dense::from_rows(k), solved(problem)?);
    let weight = problem.contrast.row_weight(case.anchors) * f64::from(case.upstream);
    let mut dq = Vec::new();
    for i in 0..case.anchors {
        let mut dz = value.dz.row(i).to_vec();
        let positive = 1.0 - value.rows.one_minus_positive[i];
        dz[i] = weight * (bf16::from_f64(positive).to_f64() - 1.0);
        for d in 0..case.dim {
            let terms = dz.iter().enumerate().map(|(j, dz)| dz * k.row(j)[d]);
            dq.push(f64::from(problem.contrast.scale()) * terms.sum::<f64>());
        }
    }
    Ok(Some(vec![output("dq", dq)]))
}

/// The loss as the difference of two f32 numbers.
fn cancelled_loss<T: Element>(problem: &Problem<T>) -> Result<Option<Vec<Output>>, Failed> {
    let Data::Confident(_) = problem.case.data else {
        return Ok(None);
    };
    let value = solved(problem)?;
    let directions = [Some(value.rows), value.columns];
    let rows = directions.iter().flatten();
    let pairs = rows.flat_map(|rows| rows.lse.iter().zip(&rows.positive));
    let losses = pairs.map(|(&lse, &positive)| f64::from(lse as f32 - positive as f32));
    let loss = losses.sum::<f64>() * problem.contrast.row_weight(problem.case.anchors);
    Ok(Some(vec![output("loss", vec![loss])]))
}

/// A deviation that no rounding explains, relative to the output's largest number.
fn little<T: Element>(output: &Output) -> f64 {
    // Engines may round softmax weights to the inputs' type.
    let weighted = ["dq", "dk", "dscale"].contains(&output.quantity);
    match (weighted, T::DTYPE, output.dtype) {
        (true, DType::Bf16, _) | (_, _, DType::Bf16) => 1e-1,
        (true, DType::F16, _) | (_, _, DType::F16) => 1e-2,
        _ => 1e-4,
    }
}

/// Other chunks of rows sum in another order: equal within tolerance, and not bit for bit.
fn disagreement_fails(seed: u64) -> Result<(), Failed> {
    let frugal = CpuEngine::new().with_weights_budget(0);
    let types = &ALL_TYPES;
    for (index, case) in (Run { seed, types }).cases::<f32>() {
        let problem = Problem::<f32>::draw(&case, &mut random(seed, index))?;
        let expectation = Expectation::new(&problem)?;
        let engines = [&CpuEngine::new(), &frugal];
        let checked = check(&engines, &problem, &expectation, GradientTypes::Both);
        if let Err(Failure::NotRepeatable { .. }) = checked {
            return Ok(());
        }
        checked?;
    }
    Err(format!("INFONCE_SEED={seed}: no case tells the two apart").into())
}

fn output(quantity: &'static str, values: Vec<f64>) -> Output {
    Output {
        verb: Verb::ValueAndGrad,
        quantity,
        dtype: DType::F32,
        values,
    }
}

fn widen(numbers: &[f32]) -> Vec<f64> {
    numbers.iter().map(|&x| f64::from(x)).collect()
}
