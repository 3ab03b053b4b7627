//! `infonce verify`: compares an engine with the float64 [`reference`](crate::reference) on fresh random inputs.
//!
//! [`run`] judges the [table](cases) of cases, or some of it, by the tolerance [rule], and reports the worst of each verb and type.
//! The conformance suite (`tests/conformance/`) has the same table and rule, and a test for each case.

pub mod cases;
mod contrast_checks;
mod on_host;
mod problem;
mod row_checks;
pub mod rule;
mod sizes;
#[cfg(test)]
mod tests;
mod triplet_checks;

use std::collections::BTreeMap;
use std::fmt;
use std::iter::zip;

use half::{bf16, f16};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use crate::element::Element;
use crate::engine::Engine;
use crate::error::Error;
use cases::{Case, Data};
use rule::{Measurement, Verb};

pub use contrast_checks::{Expectation, GradientTypes, evaluate, losses};
pub use on_host::{OnHost, poisoned};
pub use problem::{Drawn, posed};
pub use row_checks::{check_rows, check_top_k};

/// The random generator of check `index` of a run, independent of all others.
pub fn random(seed: u64, index: usize) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(index as u64 + 1);
    rng
}

/// The table of cases of a run.
pub fn table(seed: u64) -> Vec<Case> {
    cases::table(&mut random(seed, usize::MAX - 1))
}

/// A failure other than an output beyond its tolerance.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Failure {
    /// The engine refused valid inputs.
    #[error("refused: {0}")]
    Refused(#[from] Error),
    /// Two runs that have to agree bit for bit differ.
    #[error("{verb} {quantity} differs between two runs that have to agree bit for bit")]
    NotRepeatable { verb: Verb, quantity: &'static str },
    /// A loss that is not NaN though an input is NaN or infinity.
    #[error("the loss is {given} though an input is not finite")]
    NotNan { given: f32 },
}

/// Runs a problem on each of `engines`, which have to agree bit for bit, and judges every output. An engine
/// that is listed twice has to repeat itself. `gradients` are the types of gradients.
///
/// # Errors
/// [`Failure`]; an output beyond its tolerance is none.
pub fn check<E: Engine, T: Element>(
    engines: &[&E],
    problem: &Drawn<T>,
    expectation: &Expectation,
    gradients: GradientTypes,
) -> Result<Vec<Measurement>, Failure> {
    if let Data::NotFinite(_) = problem.case.data {
        for engine in engines {
            let losses = losses(*engine, problem)?;
            if let Some(given) = losses.into_iter().find(|loss| !loss.is_nan()) {
                return Err(Failure::NotNan { given });
            }
        }
        return Ok(Vec::new());
    }
    let mut first = None;
    for engine in engines {
        let outputs = evaluate(*engine, problem, gradients)?;
        let first = first.get_or_insert_with(|| outputs.clone());
        if let Some((output, _)) = zip(first, &outputs).find(|(a, b)| !a.same_bits(b)) {
            return Err(Failure::NotRepeatable {
                verb: output.verb,
                quantity: output.quantity,
            });
        }
    }
    Ok(expectation.judge(&first.unwrap_or_default()))
}

/// The worst measurement of one verb, type of inputs and type of outputs.
struct Line {
    worst: Measurement,
    case: String,
    checks: usize,
}

impl Serialize for Line {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let worst = &self.worst;
        let mut line = serializer.serialize_struct("Line", 9)?;
        line.serialize_field("verb", &worst.verb.to_string())?;
        line.serialize_field("input", &worst.input.to_string())?;
        line.serialize_field("output", &worst.output.to_string())?;
        line.serialize_field("checks", &self.checks)?;
        line.serialize_field("largest", &worst.magnitude)?;
        line.serialize_field("error", &worst.error)?;
        line.serialize_field("allowed", &worst.allowed())?;
        line.serialize_field("quantity", worst.quantity)?;
        line.serialize_field("case", &self.case)?;
        line.end()
    }
}

/// The result of [`run`]: displays as a table, serialises as lines, failures and the number of cases.
#[derive(Serialize)]
pub struct Report {
    lines: Vec<Line>,
    failures: Vec<String>,
    cases: usize,
}

/// What was checked, and its measurements.
type Checked = (String, Result<Vec<Measurement>, Failure>);

/// The cases of a run whose names contain `only`, with their places in the table.
pub fn cases_named(seed: u64, only: &str) -> Vec<(usize, Case)> {
    let cases = table(seed).into_iter().enumerate();
    cases
        .filter(|(_, case)| case.to_string().contains(only))
        .collect()
}

/// Compares an engine, in each of its named configurations, with the reference: on the verbs that compute no contrast,
/// and on the cases of the table whose names contain `only`.
pub fn run<E: Engine + Sync>(configurations: &[(&str, E)], seed: u64, only: &str) -> Report {
    let cases = cases_named(seed, only);
    let of_case = |(index, case): &(usize, Case)| -> Vec<Checked> {
        let rng = || random(seed, *index);
        [
            check_configurations::<E, f32>(configurations, case, &mut rng()),
            check_configurations::<E, f16>(configurations, case, &mut rng()),
            check_configurations::<E, bf16>(configurations, case, &mut rng()),
        ]
        .concat()
    };
    // Cases run in parallel, because the reference computes on one thread.
    let checked: Vec<Vec<_>> = cases.par_iter().map(of_case).collect();
    let mut checked: Vec<Checked> = checked.into_iter().flatten().collect();
    for (name, engine) in configurations {
        let rng = || random(seed, table(seed).len());
        checked.extend(check_others::<E, f32>(name, engine, rng));
        checked.extend(check_others::<E, f16>(name, engine, rng));
        checked.extend(check_others::<E, bf16>(name, engine, rng));
    }
    Report::new(checked, cases.len())
}

/// Checks the verbs that compute no contrast.
fn check_others<E: Engine, T: Element>(
    name: &str,
    engine: &E,
    rng: impl Fn() -> ChaCha8Rng,
) -> [Checked; 2] {
    let rows = check_rows::<E, T>(engine, &mut rng());
    let top_k = check_top_k::<E, T>(engine, &mut rng());
    [("row-wise verbs", rows), ("top-k", top_k)]
        .map(|(verbs, checked)| (format!("{name}: {verbs}"), checked.map_err(Failure::from)))
}

fn check_configurations<E: Engine, T: Element>(
    configurations: &[(&str, E)],
    case: &Case,
    rng: &mut ChaCha8Rng,
) -> Vec<Checked> {
    let problem = Drawn::<T>::draw(case, rng);
    let prepared = problem.and_then(|problem| Ok((Expectation::new(&problem)?, problem)));
    let check = |(name, engine): &(&str, E)| {
        let checked = match &prepared {
            Ok((expectation, problem)) => {
                let engines = [engine, engine];
                check(&engines, problem, expectation, GradientTypes::Both)
            }
            Err(error) => Err(Failure::Refused(error.clone())),
        };
        (format!("{name}: {case}"), checked)
    };
    configurations.iter().map(check).collect()
}

impl Report {
    fn new(checked: Vec<Checked>, cases: usize) -> Self {
        let mut failures = Vec::new();
        let mut lines = BTreeMap::new();
        for (case, checked) in checked {
            let measurements = checked.unwrap_or_else(|failure| {
                failures.push(format!("{case}: {failure}"));
                Vec::new()
            });
            for measurement in measurements {
                if !measurement.passes() {
                    failures.push(format!("{case}: {measurement}"));
                }
                let types = (measurement.input as u8, measurement.output as u8);
                let line = lines.entry((measurement.verb, types));
                let line = line.or_insert_with(|| Line {
                    worst: measurement.clone(),
                    case: case.clone(),
                    checks: 0,
                });
                line.checks += 1;
                if measurement.share() > line.worst.share() {
                    line.worst = measurement;
                    line.case.clone_from(&case);
                }
            }
        }
        Self {
            lines: lines.into_values().collect(),
            failures,
            cases,
        }
    }

    /// Whether every output was within tolerance and nothing else failed.
    pub fn passed(&self) -> bool {
        self.failures.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<19} {:<5} {:<5} {:>6} {:>9} {:>9} {:>9} {:>5}  nearest to its bound",
            "verb", "in", "out", "checks", "largest", "error", "allowed", "share"
        )?;
        for line in &self.lines {
            let worst = &line.worst;
            writeln!(
                f,
                "{:<19} {:<5} {:<5} {:>6} {:>9.2e} {:>9.2e} {:>9.2e} {:>4.0}%  {}, {}",
                worst.verb,
                worst.input.to_string(),
                worst.output.to_string(),
                line.checks,
                worst.magnitude,
                worst.error,
                worst.allowed(),
                100.0 * worst.share(),
                worst.quantity,
                line.case,
            )?;
        }
        for failure in &self.failures {
            writeln!(f, "FAILED {failure}")?;
        }
        let checks: usize = self.lines.iter().map(|line| line.checks).sum();
        let verdict = match self.failures.len() {
            0 => "all within tolerance".to_owned(),
            count => format!("{count} failed"),
        };
        write!(
            f,
            "{} cases, {checks} outputs judged: {verdict}",
            self.cases
        )
    }
}
