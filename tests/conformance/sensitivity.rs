//! The suite cannot be vacuous: the mistakes that contrastive kernels really make must fail the
//! tolerance rule.

use half::{bf16, f16};
use infonce::reference::{self, Dense};
use infonce::verify::cases::{Case, Data, Loss};
use infonce::verify::rule::{Measurement, Output, Verb};
use infonce::verify::{Expectation, Problem, evaluate, random};
use infonce::{
    CpuEngine, DType, Element, Engine, Gradients, Inputs, Matrix, Reduction, Rows, RowsMut,
};
use libtest_mimic::{Failed, Trial};

/// All tests of this file.
pub fn trials(seed: u64) -> Vec<Trial> {
    let mut trials = Vec::new();
    let mut add = |name: &str, test: fn(u64) -> Result<(), Failed>| {
        let name = format!("sensitivity {name}");
        trials.push(Trial::test(name, move || test(seed)));
    };
    add("small deviations f32", small_deviations_fail::<f32>);
    add("small deviations f16", small_deviations_fail::<f16>);
    add("small deviations bf16", small_deviations_fail::<bf16>);
    add(
        "last candidate counted twice f32",
        last_candidate_twice::<f32>,
    );
    add(
        "last candidate counted twice bf16",
        last_candidate_twice::<bf16>,
    );
    add(
        "last candidate left out f32",
        last_candidate_left_out::<f32>,
    );
    add(
        "last candidate left out bf16",
        last_candidate_left_out::<bf16>,
    );
    add("zero padding in the sum f32", zero_padding::<f32>);
    add("zero padding in the sum bf16", zero_padding::<bf16>);
    add("positive rounded to bf16 f32", positive_in_the_tile::<f32>);
    add(
        "positive rounded to bf16 bf16",
        positive_in_the_tile::<bf16>,
    );
    add("loss as lse - z+", cancelled_loss);
    trials
}

fn case(data: Data) -> Case {
    Case {
        loss: Loss::InfoNceDiagonal,
        anchors: 97,
        candidates: 131,
        dim: 128,
        scale: 14.0,
        data,
        reduction: Reduction::Mean,
        upstream: 1.0,
    }
}

fn must_fail(measurements: &[Measurement], quantity: &str) -> Result<(), Failed> {
    let mut of_quantity = measurements.iter().filter(|m| m.quantity == quantity);
    match of_quantity.clone().next() {
        None => Err(format!("no {quantity} was judged").into()),
        Some(_) => match of_quantity.find(|measurement| measurement.passes()) {
            None => Ok(()),
            Some(passed) => Err(format!("passed, but is wrong: {passed}").into()),
        },
    }
}

/// Right outputs pass; the same with one number off by a little, left unwritten, or missing, fail.
fn small_deviations_fail<T: Element>(seed: u64) -> Result<(), Failed> {
    let problem = Problem::<T>::draw(&case(Data::Unit), &mut random(seed, 2_000_000))?;
    let expectation = Expectation::new(&problem)?;
    let outputs = evaluate(&CpuEngine::new(), &problem)?;
    for output in &outputs {
        let judge = |values: Vec<f64>| {
            let output = Output {
                values,
                ..output.clone()
            };
            expectation.judge(&[output])
        };
        let right = judge(output.values.clone());
        if !right[0].passes() {
            return Err(format!("INFONCE_SEED={seed} failed, but is right: {}", right[0]).into());
        }
        let largest = output.values.iter().fold(0.0f64, |a, b| a.max(b.abs()));
        // Engines may round softmax weights to the inputs' type.
        let weighted = ["dq", "dk", "dscale"].contains(&output.quantity);
        let coarsest = match (weighted, T::DTYPE, output.dtype) {
            (true, DType::Bf16, _) | (_, _, DType::Bf16) => DType::Bf16,
            (true, DType::F16, _) | (_, _, DType::F16) => DType::F16,
            _ => DType::F32,
        };
        let deviation = match coarsest {
            DType::F32 => 1e-4,
            DType::F16 => 1e-2,
            DType::Bf16 => 1e-1,
        };
        let place = output.values.len() - 1;
        let mut off = output.values.clone();
        off[place] += deviation * largest;
        must_fail(&judge(off), output.quantity)?;
        let mut unwritten = output.values.clone();
        unwritten[place] = f64::NAN;
        must_fail(&judge(unwritten), output.quantity)?;
        let missing = output.values[..place].to_vec();
        must_fail(&judge(missing), output.quantity)?;
    }
    Ok(())
}

/// Loss, lse⁻ and dq of other candidates than the problem's, judged as if they were the problem's.
fn with_other_candidates<T: Element>(
    data: Data,
    change: impl Fn(&mut Vec<T>, usize),
    seed: u64,
) -> Result<(), Failed> {
    let problem = Problem::<T>::draw(&case(data), &mut random(seed, 2_000_001))?;
    let Inputs::Pair { q, k } = problem.inputs()? else {
        return Err("InfoNCE is defined on pairs".into());
    };
    let mut other = k.as_slice().to_vec();
    change(&mut other, k.dim());
    let inputs = Inputs::Pair {
        q,
        k: Rows::new(&other, other.len() / k.dim(), k.dim())?,
    };
    let mut dq = vec![0.0f32; q.rows() * q.dim()];
    let gradients = Gradients {
        dq: RowsMut::new(&mut dq, q.rows(), q.dim())?,
        dk: None,
    };
    let value = CpuEngine::new().value_and_grad(&problem.contrast, &inputs, 1.0, gradients)?;
    let measurements = Expectation::new(&problem)?.judge(&[
        output("loss", vec![f64::from(value.loss)]),
        output("lse- of rows", widen(&value.statistics.rows.negatives_lse)),
        output("dq", widen(&dq)),
    ]);
    must_fail(&measurements, "loss")?;
    must_fail(&measurements, "lse- of rows")?;
    must_fail(&measurements, "dq")
}

fn last_candidate_twice<T: Element>(seed: u64) -> Result<(), Failed> {
    let again = |k: &mut Vec<T>, dim: usize| k.extend_from_within(k.len() - dim..);
    with_other_candidates(Data::Unit, again, seed)
}

fn last_candidate_left_out<T: Element>(seed: u64) -> Result<(), Failed> {
    let left_out = |k: &mut Vec<T>, dim: usize| k.truncate(k.len() - dim);
    with_other_candidates(Data::Unit, left_out, seed)
}

fn zero_padding<T: Element>(seed: u64) -> Result<(), Failed> {
    let padded = |k: &mut Vec<T>, dim: usize| k.extend(vec![T::from_f32(0.0); dim]);
    with_other_candidates(Data::FarBelow(40.0), padded, seed)
}

/// dq with p₊ rounded to bf16 before 1 is taken off, as when the positive stays in the tile.
fn positive_in_the_tile<T: Element>(seed: u64) -> Result<(), Failed> {
    for rest in [1e-2, 1e-4, 1e-8] {
        let case = case(Data::Confident(rest));
        let problem = Problem::<T>::draw(&case, &mut random(seed, 2_000_002))?;
        let Inputs::Pair { q, k } = problem.inputs()? else {
            return Err("InfoNCE is defined on pairs".into());
        };
        let (q, k) = (Dense::from_rows(q), Dense::from_rows(k));
        let inputs = Inputs::Pair { q: &q, k: &k };
        let value = reference::value_and_grad(&problem.contrast, &inputs, 1.0)?;
        let weight = problem.contrast.row_weight(case.anchors);
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
        must_fail(
            &Expectation::new(&problem)?.judge(&[output("dq", dq)]),
            "dq",
        )?;
    }
    Ok(())
}

/// The loss as the difference of two f32 numbers. In one draw of about forty the rows' errors cancel, so
/// one of four has to fail.
fn cancelled_loss(seed: u64) -> Result<(), Failed> {
    for rest in [1e-4, 1e-8] {
        let drawn = |draw: usize| cancelled_loss_of(rest, seed, 2_000_003 + draw);
        (1..4).fold(drawn(0), |found, draw| found.or_else(|_| drawn(draw)))?;
    }
    Ok(())
}

fn cancelled_loss_of(rest: f64, seed: u64, index: usize) -> Result<(), Failed> {
    let case = case(Data::Confident(rest));
    let problem = Problem::<f32>::draw(&case, &mut random(seed, index))?;
    let Inputs::Pair { q, k } = problem.inputs()? else {
        return Err("InfoNCE is defined on pairs".into());
    };
    let (q, k) = (Dense::from_rows(q), Dense::from_rows(k));
    let inputs = Inputs::Pair { q: &q, k: &k };
    let rows = reference::value_and_grad(&problem.contrast, &inputs, 1.0)?.rows;
    let pairs = rows.lse.iter().zip(&rows.positive);
    let losses = pairs.map(|(&lse, &positive)| f64::from(lse as f32 - positive as f32));
    let loss = losses.sum::<f64>() / case.anchors as f64;
    let measurements = Expectation::new(&problem)?.judge(&[output("loss", vec![loss])]);
    must_fail(&measurements, "loss")
}

fn output(quantity: &'static str, values: Vec<f64>) -> Output {
    Output {
        verb: Verb::ValueAndGrad,
        quantity,
        dtype: infonce::DType::F32,
        values,
    }
}

fn widen(numbers: &[f32]) -> Vec<f64> {
    numbers.iter().map(|&x| f64::from(x)).collect()
}
