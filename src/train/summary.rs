//! The table that a run ends with on stdout.

use std::path::Path;

use super::metrics::EvaluationRecord;
use super::report::html::{NO_LABELS, duration};

/// The table's text, one aligned row per number, and where to look next.
pub fn table(result: &EvaluationRecord, report: &Path) -> String {
    let evaluation = &result.evaluation;
    let checks = &evaluation.collapse;
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
    if let Some(found) = &evaluation.accuracies {
        let k = found.k;
        let percent = |share: f64| format!("{:.1}%", 100.0 * share);
        let knn = |features: &str| format!("{features}, kNN (k = {k})");
        row(&knn("trained encoder"), percent(found.trained_knn));
        row("trained encoder, linear probe", percent(found.linear_probe));
        row(&knn("raw pixels"), percent(found.pixels_knn));
        row(&knn("untrained encoder"), percent(found.untrained_knn));
        let improvement = format!("{:+.1}", found.improvement());
        row("points above the better baseline", improvement);
    }
    let number = |value: f64| format!("{value:.3}");
    row("alignment (0: views agree)", number(checks.alignment));
    row(
        "uniformity (about -4: spread evenly)",
        number(checks.uniformity),
    );
    row(
        "embedding std x sqrt(D) (1: even)",
        number(checks.deviation),
    );
    row("training time", duration(result.training_seconds));
    row("evaluation time", duration(result.evaluation_seconds));
    if let Some(waits) = &result.waits_per_step {
        let milliseconds = |seconds: f64| format!("{:.2} ms", 1e3 * seconds);
        row(
            "waits for the encoder, a step",
            milliseconds(waits.framework_seconds),
        );
        row(
            "waits for the engine, a step",
            milliseconds(waits.engine_seconds),
        );
    }
    let names = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let values = rows.iter().map(|(_, value)| value.len()).max().unwrap_or(0);
    let mut text = format!("on {} held-out images\n", evaluation.test_images);
    for (name, value) in rows {
        text.push_str(&format!("  {name:<names$}  {value:>values$}\n"));
    }
    if evaluation.accuracies.is_none() {
        text.push_str(NO_LABELS);
        text.push('\n');
    }
    text.push_str(&format!(
        "{}\nreport: {}",
        checks.verdict.sentence(),
        report.display()
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::platform::Waits;
    use crate::train::report::html::tests::{holds, result};

    fn table_of(result: &EvaluationRecord) -> String {
        table(result, Path::new("runs/a/report.html"))
    }

    #[test]
    fn every_number_stands_in_its_row_and_values_end_in_one_column() {
        let text = table_of(&result());
        holds(
            &text,
            &["kNN (k = 20)", "62.5%", "68.8%", "20.0%", "22.5%", "+40.0"],
        );
        holds(
            &text,
            &["0.250", "-3.500", "0.900", "3 min 20 s", "no collapse"],
        );
        let rows = text.lines().filter(|line| line.starts_with("  "));
        let ends: Vec<usize> = rows.map(str::len).collect();
        assert!(ends.windows(2).all(|pair| pair[0] == pair[1]), "{text}");
        assert!(text.ends_with("report: runs/a/report.html"));
        assert!(!text.contains("waits"), "{text}");
    }

    #[test]
    fn without_labels_the_table_says_what_is_left_out() {
        let mut result = result();
        result.evaluation.accuracies = None;
        result.improvement = None;
        let text = table_of(&result);
        holds(
            &text,
            &[NO_LABELS, "0.250", "-3.500", "0.900", "no collapse"],
        );
        assert!(!text.contains('%'), "{text}");
    }

    #[test]
    fn waits_are_shown_where_there_are_any() {
        let waits = Waits {
            framework_seconds: 0.5,
            engine_seconds: 0.025,
        };
        let result = EvaluationRecord {
            waits_per_step: Some(waits.per(10)),
            ..result()
        };
        holds(
            &table_of(&result),
            &["waits for the encoder, a step", "50.00 ms", " 2.50 ms"],
        );
    }
}
