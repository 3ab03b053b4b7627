//! The table that a run ends with on stdout.

use std::path::Path;

use super::metrics::EvaluationRecord;
use super::report::html::{NO_LABELS, duration};

/// The table's text, one aligned row per number, and where to look next.
pub fn table(result: &EvaluationRecord, report: &Path) -> String {
    let evaluation = &result.evaluation;
    let checks = &evaluation.collapse;
    let percent = |share: f64| format!("{:.1}%", 100.0 * share);
    let mut rows = Vec::new();
    if let Some(found) = &evaluation.accuracies {
        let k = found.k;
        rows.extend([
            (
                format!("trained encoder, kNN (k = {k})"),
                percent(found.trained_knn),
            ),
            (
                "trained encoder, linear probe".to_owned(),
                percent(found.linear_probe),
            ),
            (
                format!("raw pixels, kNN (k = {k})"),
                percent(found.pixels_knn),
            ),
            (
                format!("untrained encoder, kNN (k = {k})"),
                percent(found.untrained_knn),
            ),
            (
                "points above the better baseline".to_owned(),
                format!("{:+.1}", found.improvement()),
            ),
        ]);
    }
    rows.extend([
        (
            "alignment (0: views agree)".to_owned(),
            format!("{:.3}", checks.alignment),
        ),
        (
            "uniformity (about -4: spread evenly)".to_owned(),
            format!("{:.3}", checks.uniformity),
        ),
        (
            "embedding std x sqrt(D) (1: even)".to_owned(),
            format!("{:.3}", checks.deviation),
        ),
        (
            "training time".to_owned(),
            duration(result.training_seconds),
        ),
        (
            "evaluation time".to_owned(),
            duration(result.evaluation_seconds),
        ),
    ]);
    if let Some(waits) = &result.waits_per_step {
        let milliseconds = |seconds: f64| format!("{:.2} ms", 1e3 * seconds);
        rows.push((
            "waits for the encoder, a step".to_owned(),
            milliseconds(waits.framework_seconds),
        ));
        rows.push((
            "waits for the engine, a step".to_owned(),
            milliseconds(waits.engine_seconds),
        ));
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
    use crate::train::report::html::tests::result;

    #[test]
    fn every_number_stands_in_its_row_and_values_end_in_one_column() {
        let text = table(&result(), Path::new("runs/a/report.html"));
        for row in [
            "trained encoder, kNN (k = 20)",
            "62.5%",
            "68.8%",
            "20.0%",
            "22.5%",
            "+40.0",
            "0.250",
            "-3.500",
            "0.900",
            "3 min 20 s",
            "no collapse",
        ] {
            assert!(text.contains(row), "{row} is missing from\n{text}");
        }
        let ends: Vec<usize> = text
            .lines()
            .filter(|line| line.starts_with("  "))
            .map(str::len)
            .collect();
        assert!(ends.windows(2).all(|pair| pair[0] == pair[1]), "{text}");
        assert!(text.ends_with("report: runs/a/report.html"));
        assert!(!text.contains("waits"), "{text}");
    }

    #[test]
    fn without_labels_the_table_says_what_is_left_out() {
        let mut result = result();
        result.evaluation.accuracies = None;
        result.improvement = None;
        let text = table(&result, Path::new("report.html"));
        for row in [NO_LABELS, "0.250", "-3.500", "0.900", "no collapse"] {
            assert!(text.contains(row), "{row} is missing from\n{text}");
        }
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
        let text = table(&result, Path::new("report.html"));
        for row in ["waits for the encoder, a step", "50.00 ms", " 2.50 ms"] {
            assert!(text.contains(row), "{row} is missing from\n{text}");
        }
    }
}
