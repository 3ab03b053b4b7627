//! Formats the table that a run prints at its end.

use std::path::Path;

use super::metrics::EvaluationRecord;
use super::report::html::{NO_LABELS, duration};

/// The table's text: one aligned row per number, then the path of the report.
pub fn table(result: &EvaluationRecord, report: &Path) -> String {
    let evaluation = &result.evaluation;
    let checks = &evaluation.collapse;
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
    if let Some(found) = &evaluation.accuracies {
        let percent = |share: f64| format!("{:.1}%", 100.0 * share);
        let knn = |features: &str| format!("{features}, kNN (k = {})", found.k);
        row(&knn("trained encoder"), percent(found.trained_knn));
        row("trained encoder, linear probe", percent(found.linear_probe));
        row(&knn("raw pixels"), percent(found.pixels_knn));
        row(&knn("untrained encoder"), percent(found.untrained_knn));
        let improvement = format!("{:+.1}", found.improvement());
        row("points above the better baseline", improvement);
    }
    let [alignment, uniformity, deviation] =
        [checks.alignment, checks.uniformity, checks.deviation].map(|value| format!("{value:.3}"));
    row("alignment (0: views agree)", alignment);
    row("uniformity (about -4: spread evenly)", uniformity);
    row("embedding std x sqrt(D) (1: even)", deviation);
    let rank = format!("effective rank (at most {})", checks.full_rank);
    row(&rank, format!("{:.1}", checks.effective_rank));
    row("training time", duration(result.training_seconds));
    row("evaluation time", duration(result.evaluation_seconds));
    if let Some(waits) = &result.waits_per_step {
        let [framework, engine] = [waits.framework_seconds, waits.engine_seconds]
            .map(|seconds| format!("{:.2} ms", 1e3 * seconds));
        row("waits for the encoder, a step", framework);
        row("waits for the engine, a step", engine);
    }
    let names = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let values = rows.iter().map(|(_, value)| value.len()).max().unwrap_or(0);
    let mut lines = vec![format!("on {} held-out images", evaluation.test_images)];
    let aligned = |(name, value)| format!("  {name:<names$}  {value:>values$}");
    lines.extend(rows.into_iter().map(aligned));
    if evaluation.accuracies.is_none() {
        lines.push(NO_LABELS.to_owned());
    }
    lines.push(checks.verdict.sentence().to_owned());
    lines.push(format!("report: {}", report.display()));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::platform::Waits;
    use crate::train::testing::contains;

    fn table_of(result: &EvaluationRecord) -> String {
        table(result, Path::new("runs/a/report.html"))
    }

    #[test]
    fn every_number_stands_in_its_row_and_values_end_in_one_column() {
        let text = table_of(&EvaluationRecord::example());
        contains(
            &text,
            &["kNN (k = 20)", "62.5%", "68.8%", "20.0%", "22.5%", "+40.0"],
        );
        contains(
            &text,
            &[
                "0.250",
                "-3.500",
                "0.900",
                "(at most 128)",
                "96.2",
                "3 min 20 s",
                "no collapse",
            ],
        );
        let rows = text.lines().filter(|line| line.starts_with("  "));
        let ends: Vec<usize> = rows.map(str::len).collect();
        assert!(ends.windows(2).all(|pair| pair[0] == pair[1]), "{text}");
        assert!(text.ends_with("report: runs/a/report.html"));
        assert!(!text.contains("waits"), "{text}");
    }

    #[test]
    fn without_labels_the_table_says_what_is_left_out() {
        let mut result = EvaluationRecord::example();
        result.evaluation.accuracies = None;
        result.improvement = None;
        let text = table_of(&result);
        contains(
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
            ..EvaluationRecord::example()
        };
        contains(
            &table_of(&result),
            &["waits for the encoder, a step", "50.00 ms", " 2.50 ms"],
        );
    }
}
