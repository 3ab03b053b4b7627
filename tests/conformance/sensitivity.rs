//! The suite is not vacuous: each planted mistake, of those that contrastive kernels really make, fails the
//! tolerance rule in some case of the short run, for every type of inputs.

use std::collections::HashSet;

use half::{bf16, f16};
use infonce::losses::{Layout, RowContext, RowLogits, RowRule};
use infonce::reference::{self, Dense, Reference};
use infonce::verify::cases::{Case, Data, Given, Options};
use infonce::verify::rule::{Measurement, Output, Verb};
use infonce::verify::{
    Drawn, Expectation, Failure, GradientTypes, OnHost, check, evaluate, poisoned, random, table,
};
use infonce::{
    Contrast, CpuEngine, DType, Element, Inputs, Matrix, Positives, Problem, Reduction, Rows,
};
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
    let planted: [(&str, &[&str], Mistake<T>); 15] = [
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
        (
            "an anchor its own positive",
            &["loss", "positives of rows", "dq"],
            own_positive,
        ),
        (
            "a set's weight rounded before its share is subtracted",
            &["dq"],
            rounded_before_subtraction,
        ),
        (
            "excluded candidates counted by smoothing",
            &["dq"],
            excluded_counted,
        ),
        (
            "excluded candidates smoothed",
            &["dq", "dbias"],
            excluded_smoothed,
        ),
        (
            "duplicates not excluded",
            &["loss", "lse- of rows", "dq"],
            duplicates_kept,
        ),
        ("beta in the numerator alone", &["loss"], beta_above_alone),
        (
            "mean of positives over all rows",
            &["loss", "dq"],
            mean_over_all,
        ),
        (
            "a bias left out of its positive",
            &["z+ of rows", "loss"],
            positive_without_bias,
        ),
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
    fn cases<T: Element>(self) -> impl DoubleEndedIterator<Item = (usize, Case)> {
        let cases = table(self.seed).into_iter().enumerate();
        cases.filter(move |(_, case)| {
            self.suite().types_of(case, self.types).contains(&T::DTYPE)
                && !matches!(case.data, Data::NotFinite(_))
        })
    }

    /// A mistake fails each of `quantities` in some case of the run, with the run's inputs and types of
    /// gradients. The last cases, which have options, come first.
    fn catches<T: Element>(
        self,
        quantities: &[&'static str],
        mistake: Mistake<T>,
    ) -> Result<(), Failed> {
        let mut left = quantities.to_vec();
        for (index, case) in self.cases::<T>().rev() {
            let problem = Drawn::<T>::draw(&case, &mut random(self.seed, index))?;
            let Some(mut outputs) = mistake(&problem)? else {
                continue;
            };
            if self.suite().gradients_of(&case) == GradientTypes::Inputs {
                let is_gradient = |output: &&mut Output| ["dq", "dbias"].contains(&output.quantity);
                let gradients = outputs.iter_mut().filter(is_gradient);
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
        for (index, case) in self.cases::<T>().rev() {
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
            // 10 outputs of forward; 14, 13 and 4 of the other calls, with 8 gradients in both types.
            let all = if T::DTYPE == DType::F32 { 41 } else { 49 };
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

/// dq and dbias with changed ∂loss/∂z: `change` is given the solution, an anchor, a column of its logits and ∂loss/∂z.
fn with_other_dz<T: Element>(
    problem: &Drawn<T>,
    change: impl Fn(&Reference, usize, usize, f64) -> f64,
) -> Result<Option<Vec<Output>>, Failed> {
    let (value, wide) = (problem.solution()?, problem.wide()?);
    let (q, last) = (&wide[0], &wide[wide.len() - 1]);
    let row = |i: usize, j: usize| match &wide[..] {
        [_, own_key, _] if j == 0 => own_key.row(i),
        [_, _, queue] => queue.row(j - 1),
        _ => last.row(j),
    };
    let (scale, dim) = (f64::from(problem.contrast.scale()), problem.case.dim);
    let (n, m) = ((&value.dz).rows(), (&value.dz).dim());
    let dz = Dense::from_fn(n, m, |i, j| change(&value, i, j, value.dz.row(i)[j]));
    let mut dq = Dense::from_fn(n, dim, |i, d| {
        let terms = (0..m).map(|j| dz.row(i)[j] * row(i, j)[d]);
        scale * terms.sum::<f64>()
    });
    if problem.contrast.is_shared() {
        let as_candidates = Dense::from_fn(n, dim, |j, d| {
            let terms = (0..n).map(|i| dz.row(i)[j] * q.row(i)[d]);
            scale * terms.sum::<f64>()
        });
        let pairs = dq.as_mut_slice().iter_mut().zip(as_candidates.as_slice());
        pairs.for_each(|(dq, dk)| *dq += dk);
    }
    let mut outputs = vec![output("dq", dq.as_slice().to_vec())];
    if value.dbias.is_some() {
        let of_column = |j: usize| (0..n).map(|i| dz.row(i)[j]).sum();
        outputs.push(output("dbias", (0..m).map(of_column).collect()));
    }
    Ok(Some(outputs))
}

/// [`with_other_dz`] of one-way losses of one positive without options: `change` is given whether the logit is the
/// positive's in place of its column.
fn with_other_masses<T: Element>(
    problem: &Drawn<T>,
    change: impl Fn(&Reference, usize, bool, f64) -> f64,
) -> Result<Option<Vec<Output>>, Failed> {
    let contrast = &problem.contrast;
    let has_one = !contrast.has_sets() && contrast.rule().exponents().is_none();
    if !contrast.is_one_way() || !has_one || problem.case.kind.options != Options::NONE {
        return Ok(None);
    }
    let weight = weight(problem);
    with_other_dz(problem, |value, i, _, dz| {
        let of_positive = -weight * value.rows.positive_mass[i];
        change(value, i, dz == of_positive, dz)
    })
}

/// The upstream gradient times the weight that all rows have.
fn weight<T>(problem: &Drawn<T>) -> f64 {
    let case = &problem.case;
    problem.contrast.row_weight(case.anchors) * f64::from(case.upstream)
}

/// dq with p₊ rounded to bf16 before 1 is subtracted, as when the positive stays in the tile.
fn positive_in_the_tile<T: Element>(problem: &Drawn<T>) -> Result<Option<Vec<Output>>, Failed> {
    let case = &problem.case;
    let is_confident = matches!(case.data, Data::Confident(_));
    if !is_confident || !case.kind.is("info_nce", Given::Diagonal) {
        return Ok(None);
    }
    let weight = weight(problem);
    with_other_masses(problem, |value, i, is_positive, dz| match is_positive {
        true => weight * (bf16::from_f64(1.0 - value.rows.positive_mass[i]).to_f64() - 1.0),
        false => dz,
    })
}

/// The two masses exchanged.
fn masses_swapped<T: Element>(problem: &Drawn<T>) -> Result<Option<Vec<Output>>, Failed> {
    with_other_masses(problem, |value, i, is_positive, dz| {
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
    with_other_masses(problem, |value, i, is_positive, dz| {
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

/// Loss, statistics and gradients in float64 of another problem, in the verb of a [`Mistake`].
fn solved(problem: &Problem<&Dense>, upstream: f32) -> Vec<Output> {
    let value = reference::value_and_grad(problem, f64::from(upstream));
    let dk = value.dk.iter().flat_map(|dk| dk.as_slice());
    vec![
        output("loss", vec![value.loss]),
        output("lse- of rows", value.rows.negatives_lse),
        output("z+ of rows", value.rows.positive),
        output("positives of rows", value.rows.positives),
        output("dq", value.dq.as_slice().to_vec()),
        output("dk", dk.copied().collect()),
    ]
}

/// The problem of `contrast` on the same inputs, in float64, without ids; with weights, and biases if `biased`.
fn solved_otherwise<T: Element>(
    problem: &Drawn<T>,
    contrast: &Contrast,
    biased: bool,
) -> Result<Option<Vec<Output>>, Failed> {
    let (narrow, wide) = (problem.problem()?, problem.wide()?);
    let last = wide.len() - 1;
    let matrices = [0, last, last.min(1)].map(|which| &wide[which]);
    let positives = narrow.positives().unwrap_or(Positives::DIAGONAL);
    let mut other = contrast.pose(matrices, positives)?;
    if let Some(weights) = narrow.row_weights() {
        other = other.with_row_weights(weights)?;
    }
    if let Some(bias) = narrow.column_bias().filter(|_| biased) {
        other = other.with_column_bias(bias)?;
    }
    Ok(Some(solved(&other, problem.case.upstream)))
}

/// A row among its own positives, and in its own denominator.
fn own_positive<T: Element>(problem: &Drawn<T>) -> Result<Option<Vec<Output>>, Failed> {
    if problem.contrast.layout() != Layout::Labelled || !problem.contrast.has_sets() {
        return Ok(None);
    }
    let (narrow, wide) = (problem.problem()?, problem.wide()?);
    let Some(positives @ Positives::Labels { .. }) = narrow.positives() else {
        return Ok(None);
    };
    if problem.case.kind.options != Options::NONE {
        return Ok(None);
    }
    let pair = Contrast::info_nce(1.0 / problem.contrast.scale())?
        .with_rule(problem.contrast.rule())?
        .with_reduction(problem.contrast.reduction());
    let (q, k) = (&wide[0], &wide[0]);
    let mut outputs = solved(
        &pair.on(Inputs::Pair { q, k, positives })?,
        problem.case.upstream,
    );
    // A row's gradient is that of the anchor and of the candidate.
    let dk = outputs.pop().map(|dk| dk.values).unwrap_or_default();
    let dq = outputs.last_mut().expect("dq comes before dk");
    dq.values.iter_mut().zip(dk).for_each(|(dq, dk)| *dq += dk);
    Ok(Some(outputs))
}

/// p rounded to bf16 before 1/|P| is subtracted, where sets are of one candidate.
fn rounded_before_subtraction<T: Element>(
    problem: &Drawn<T>,
) -> Result<Option<Vec<Output>>, Failed> {
    if !problem.case.kind.is("kcl", Given::Lists) {
        return Ok(None);
    }
    let weight = weight(problem);
    let narrow = problem.problem()?;
    let Some(Positives::Lists { starts, candidates }) = narrow.positives() else {
        return Ok(None);
    };
    with_other_dz(problem, |value, i, j, dz| {
        let list = &candidates[starts[i] as usize..starts[i + 1] as usize];
        let share = value.rows.positive_mass[i] / value.rows.positives[i];
        match list.contains(&(j as u32)) && dz != 0.0 {
            true => weight * (bf16::from_f64(dz / weight + share).to_f64() - share),
            false => dz,
        }
    })
}

/// ε, the weight of each row, and whether candidates are excluded by ids, of a problem with smoothed labels.
fn smoothed<T: Element>(problem: &Drawn<T>) -> Result<Option<(f64, Vec<f64>)>, Failed> {
    let RowRule::Sets { smoothing, .. } = problem.contrast.rule() else {
        return Ok(None);
    };
    if smoothing == 0.0 || !problem.case.kind.options.ids {
        return Ok(None);
    }
    let narrow = problem.problem()?;
    let counted = problem.solution()?.counted;
    let of_row = |i: usize| {
        let own = narrow
            .row_weights()
            .map_or(1.0, |weights| f64::from(weights[i]));
        own * counted * weight(problem)
    };
    let rows = 0..problem.case.anchors;
    Ok(Some((f64::from(smoothing), rows.map(of_row).collect())))
}

/// The number of candidates that a row of a solution with smoothed labels sees; 0 of a row without a loss.
fn seen(value: &Reference, i: usize) -> f64 {
    match value.rows.positives[i] {
        0.0 => 0.0,
        positives => positives + value.rows.negatives[i],
    }
}

/// ε shared by all candidates, also by those that are excluded.
fn excluded_counted<T: Element>(problem: &Drawn<T>) -> Result<Option<Vec<Output>>, Failed> {
    let Some((smoothing, weights)) = smoothed(problem)? else {
        return Ok(None);
    };
    let all = problem.case.candidates as f64;
    with_other_dz(problem, |value, i, _, dz| match seen(value, i) {
        0.0 => dz,
        _ if dz == 0.0 => dz,
        seen => dz + weights[i] * (smoothing / seen - smoothing / all),
    })
}

/// ε's share subtracted for candidates that are excluded, too.
fn excluded_smoothed<T: Element>(problem: &Drawn<T>) -> Result<Option<Vec<Output>>, Failed> {
    let Some((smoothing, weights)) = smoothed(problem)? else {
        return Ok(None);
    };
    with_other_dz(problem, |value, i, _, dz| match seen(value, i) {
        0.0 => dz,
        seen if dz == 0.0 => -weights[i] * smoothing / seen,
        _ => dz,
    })
}

/// Candidates of an anchor's id among its negatives.
fn duplicates_kept<T: Element>(problem: &Drawn<T>) -> Result<Option<Vec<Output>>, Failed> {
    match problem.case.kind.options.ids {
        true => solved_otherwise(problem, &problem.contrast, true),
        false => Ok(None),
    }
}

/// Σ e^{(1+β)z} of the negatives, not divided by the mean of e^{βz}.
fn beta_above_alone<T: Element>(problem: &Drawn<T>) -> Result<Option<Vec<Output>>, Failed> {
    let RowRule::HardNegatives { prior, .. } = problem.contrast.rule() else {
        return Ok(None);
    };
    if problem.case.kind.options != Options::NONE {
        return Ok(None);
    }
    let (value, narrow) = (problem.solution()?, problem.problem()?);
    let context = RowContext {
        scale: f64::from(problem.contrast.scale()),
        negatives: narrow.negatives() as f64,
        log_mean: 0.0,
    };
    let pairs = value.rows.negatives_lse.iter().zip(&value.rows.positive);
    let rule = RowRule::Debiased { prior };
    let losses = pairs.map(|(&lse, &z)| rule.values(&RowLogits::new(lse, z), &context).value);
    let loss = losses.sum::<f64>() * problem.contrast.row_weight(problem.case.anchors);
    Ok(Some(vec![output("loss", vec![loss])]))
}

/// The mean over the rows that have a positive divided by N.
fn mean_over_all<T: Element>(problem: &Drawn<T>) -> Result<Option<Vec<Output>>, Failed> {
    if problem.contrast.reduction() != Reduction::MeanOfPositives {
        return Ok(None);
    }
    let contrast = problem.contrast.with_reduction(Reduction::Mean);
    solved_otherwise(problem, &contrast, true)
}

/// Biases of the negatives alone: what is left of the difference is the positive's.
fn positive_without_bias<T: Element>(problem: &Drawn<T>) -> Result<Option<Vec<Output>>, Failed> {
    let options = problem.case.kind.options;
    let has_one = !problem.contrast.has_sets() && problem.contrast.rule() == RowRule::SOFTMAX;
    if !options.bias || !has_one || options.weights || options.of_positives {
        return Ok(None);
    }
    let (value, narrow) = (problem.solution()?, problem.problem()?);
    let unbiased = solved_otherwise(problem, &problem.contrast, false)?.unwrap_or_default();
    let Some(positive) = unbiased.into_iter().find(|x| x.quantity == "z+ of rows") else {
        return Ok(None);
    };
    let context = RowContext {
        scale: f64::from(problem.contrast.scale()),
        negatives: narrow.negatives() as f64,
        log_mean: 0.0,
    };
    let pairs = value.rows.negatives_lse.iter().zip(&positive.values);
    let rule = problem.contrast.rule();
    let losses = pairs.map(|(&lse, &z)| rule.values(&RowLogits::new(lse, z), &context).value);
    let loss = losses.sum::<f64>() * problem.contrast.row_weight(problem.case.anchors);
    Ok(Some(vec![positive, output("loss", vec![loss])]))
}

/// A deviation that no rounding explains, relative to the output's largest element.
fn little<T: Element>(output: &Output) -> f64 {
    // Engines may round softmax weights to the inputs' type.
    let weighted = ["dq", "dk", "dbias", "dscale"].contains(&output.quantity);
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
