//! The suite is not vacuous: each planted mistake, of those that contrastive kernels really make, fails the
//! tolerance rule in some case of the short run, for every type of inputs.

use std::collections::HashSet;

use half::{bf16, f16};
use infonce::losses::RowRule;
use infonce::reference::Reference;
use infonce::verify::cases::{Case, Data, Given};
use infonce::verify::rule::{Measurement, Output, Verb};
use infonce::verify::{
    Drawn, Expectation, Failure, GradientTypes, OnHost, check, evaluate, poisoned, random, table,
};
use infonce::{CpuEngine, DType, Element, Inputs, Matrix, Rows};
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
    let planted: [(&str, &[&str], Mistake<T>); 7] = [
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
        ("masses swapped", &["dq"], masses_swapped),
        ("offset without its mass", &["dq"], offset_without_mass),
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

/// The outputs of a kernel with a mistake; `None` where the mistake does not show.
type Mistake<T> = fn(&Drawn<T>) -> Result<Option<Vec<Output>>, Failed>;

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

    /// A mistake fails each of `quantities` in some case of the run, with the run's inputs and types of
    /// gradients.
    fn catches<T: Element>(
        self,
        quantities: &[&'static str],
        mistake: Mistake<T>,
    ) -> Result<(), Failed> {
        let mut left = quantities.to_vec();
        for (index, case) in self.cases::<T>() {
            let problem = Drawn::<T>::draw(&case, &mut random(self.seed, index))?;
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

    /// Each output of every verb, in each type, passes unchanged, and in some case fails when one element is off by a
    /// little, is unwritten, or is missing.
    fn catches_small_deviations<T: Element>(self) -> Result<(), Failed> {
        let mut caught = HashSet::new();
        for (index, case) in self.cases::<T>() {
            let problem = Drawn::<T>::draw(&case, &mut random(self.seed, index))?;
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
                let finite = output.values.iter().filter(|x| x.is_finite());
                let largest = finite.fold(0.0f64, |a, b| a.max(b.abs()));
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
            // 5 outputs of forward; 8, 7 and 3 of the other calls, with 5 gradients in both types.
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

/// Loss, lse⁻ and dq with changed candidates.
fn with_other_candidates<T: Element>(
    problem: &Drawn<T>,
    change: impl Fn(&mut Vec<T>, usize),
) -> Result<Option<Vec<Output>>, Failed> {
    if !problem.case.kind.is("info_nce", Given::Diagonal) {
        return Ok(None);
    }
    let Inputs::Pair { q, k, positives } = *problem.problem()?.inputs() else {
        return Err("InfoNCE is defined on pairs".into());
    };
    let mut other = k.contiguous().to_vec();
    change(&mut other, k.dim());
    if other.len() < q.rows() * k.dim() {
        return Ok(None); // The last anchor has lost its positive.
    }
    let k = Rows::new(&other, other.len() / k.dim(), k.dim())?;
    let changed = problem.contrast.on(Inputs::Pair { q, k, positives })?;
    let mut gradients = poisoned::<f32>(changed.shape(), false);
    let engine = CpuEngine::new();
    let upstream = problem.case.upstream;
    let value = OnHost(&engine).value_and_grad(&changed, upstream, &mut gradients)?;
    Ok(Some(vec![
        output("loss", vec![f64::from(value.loss)]),
        output("lse- of rows", widen(&value.statistics.rows.negatives_lse)),
        output("dq", widen(&gradients.dq)),
    ]))
}

fn last_candidate_twice<T: Element>(problem: &Drawn<T>) -> Result<Option<Vec<Output>>, Failed> {
    with_other_candidates(problem, |k, dim| k.extend_from_within(k.len() - dim..))
}

fn last_candidate_left_out<T: Element>(problem: &Drawn<T>) -> Result<Option<Vec<Output>>, Failed> {
    with_other_candidates(problem, |k, dim| k.truncate(k.len() - dim))
}

fn zero_padding<T: Element>(problem: &Drawn<T>) -> Result<Option<Vec<Output>>, Failed> {
    with_other_candidates(problem, |k, dim| k.extend(vec![T::from_f32(0.0); dim]))
}

/// dq of one-way losses with changed ∂loss/∂z: `change` is given the solution, an anchor, whether the logit is its
/// positive's, and ∂loss/∂z.
fn with_other_dz<T: Element>(
    problem: &Drawn<T>,
    change: impl Fn(&Reference, usize, bool, f64) -> f64,
) -> Result<Option<Vec<Output>>, Failed> {
    if !problem.contrast.is_one_way() {
        return Ok(None);
    }
    let (value, wide) = (problem.solution()?, problem.wide()?);
    let (candidates, own_keys) = match &wide[..] {
        [_, k] => (k, None),
        [_, own_key, queue] => (queue, Some(own_key)),
        _ => return Err("one-way losses have two or three matrices".into()),
    };
    let scale = f64::from(problem.contrast.scale());
    let row_weight = problem.contrast.row_weight(problem.case.anchors);
    let weight = row_weight * f64::from(problem.case.upstream);
    let mut dq = Vec::new();
    for i in 0..problem.case.anchors {
        let dz = value.dz.row(i);
        let of_positive = -weight * value.rows.positive_mass[i];
        let dz = dz
            .iter()
            .map(|&dz| change(&value, i, dz == of_positive, dz));
        let row = |j: usize| match own_keys {
            Some(own_keys) if j == 0 => own_keys.row(i),
            Some(_) => candidates.row(j - 1),
            None => candidates.row(j),
        };
        for d in 0..problem.case.dim {
            let terms = dz.clone().enumerate().map(|(j, dz)| dz * row(j)[d]);
            dq.push(scale * terms.sum::<f64>());
        }
    }
    Ok(Some(vec![output("dq", dq)]))
}

/// dq with p₊ rounded to bf16 before 1 is subtracted, as when the positive stays in the tile.
fn positive_in_the_tile<T: Element>(problem: &Drawn<T>) -> Result<Option<Vec<Output>>, Failed> {
    let case = &problem.case;
    let is_confident = matches!(case.data, Data::Confident(_));
    if !is_confident || !case.kind.is("info_nce", Given::Diagonal) {
        return Ok(None);
    }
    let weight = problem.contrast.row_weight(case.anchors) * f64::from(case.upstream);
    with_other_dz(problem, |value, i, is_positive, dz| match is_positive {
        true => weight * (bf16::from_f64(1.0 - value.rows.positive_mass[i]).to_f64() - 1.0),
        false => dz,
    })
}

/// The two masses exchanged.
fn masses_swapped<T: Element>(problem: &Drawn<T>) -> Result<Option<Vec<Output>>, Failed> {
    with_other_dz(problem, |value, i, is_positive, dz| {
        let (a, c) = (value.rows.negatives_mass[i], value.rows.positive_mass[i]);
        match is_positive {
            _ if a == 0.0 || c == 0.0 => dz,
            true => dz * a / c,
            false => dz * c / a,
        }
    })
}

/// Weights exp(z − lse⁻) in place of exp(z − lse⁻ + ln a).
fn offset_without_mass<T: Element>(problem: &Drawn<T>) -> Result<Option<Vec<Output>>, Failed> {
    with_other_dz(problem, |value, i, is_positive, dz| {
        let a = value.rows.negatives_mass[i];
        if is_positive || a == 0.0 { dz } else { dz / a }
    })
}

/// The loss as the difference of two f32 values.
fn cancelled_loss<T: Element>(problem: &Drawn<T>) -> Result<Option<Vec<Output>>, Failed> {
    let is_confident = matches!(problem.case.data, Data::Confident(_));
    if !is_confident || problem.contrast.rule() != RowRule::SOFTMAX {
        return Ok(None);
    }
    let value = problem.solution()?;
    let directions = [Some(value.rows), value.columns];
    let rows = directions.iter().flatten();
    let pairs = rows.flat_map(|rows| rows.loss.iter().zip(&rows.positive));
    // Without a positive there is no loss.
    let pairs = pairs.filter(|(_, z)| z.is_finite());
    let losses = pairs.map(|(&loss, &z)| f64::from((z + loss) as f32 - z as f32));
    let loss = losses.sum::<f64>() * problem.contrast.row_weight(problem.case.anchors);
    Ok(Some(vec![output("loss", vec![loss])]))
}

/// A deviation that no rounding explains, relative to the output's largest element.
fn little<T: Element>(output: &Output) -> f64 {
    // Engines may round softmax weights to the inputs' type.
    let weighted = ["dq", "dk", "dscale"].contains(&output.quantity);
    match (weighted, T::DTYPE, output.dtype) {
        (true, DType::Bf16, _) | (_, _, DType::Bf16) => 1e-1,
        (true, DType::F16, _) | (_, _, DType::F16) => 1e-2,
        _ => 1e-4,
    }
}

/// Two engines that split the rows into different chunks sum in different orders. Their results agree within tolerance,
/// not bit for bit, so `check` must report them.
fn disagreement_fails(seed: u64) -> Result<(), Failed> {
    let frugal = CpuEngine::new().with_weights_budget(0);
    let types = &ALL_TYPES;
    for (index, case) in (Run { seed, types }).cases::<f32>() {
        let problem = Drawn::<f32>::draw(&case, &mut random(seed, index))?;
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
