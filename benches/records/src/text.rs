//! Records as text: read from JSON and written as JSON, and printed for people.

use std::path::Path;

use super::schema::{Device, Record, Row, SCHEMA, Stage, Status};
use super::{peers, table};

/// A record as JSON.
pub fn json(record: &Record) -> Result<String, String> {
    serde_json::to_string_pretty(record).map_err(|error| error.to_string())
}

/// The record in a file.
pub fn read(path: &Path) -> Result<Record, String> {
    let named = |reason: String| format!("{}: {reason}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| named(error.to_string()))?;
    let record: Record = serde_json::from_str(&text).map_err(|error| named(error.to_string()))?;
    if record.schema != SCHEMA {
        let given = record.schema;
        return Err(named(format!("schema {given}; this reader knows {SCHEMA}")));
    }
    Ok(record)
}

/// A record for people to read.
pub fn describe(record: &Record) -> String {
    let mut lines = vec![heading(record)];
    if let Some(clocks) = &record.machine.clocks {
        let [low, median, high] = clocks.sm_mhz;
        lines.push(format!(
            "SMs at {low:.0} to {high:.0} MHz, median {median:.0}; {:.0} W, {:.0} °C at most",
            clocks.watts[2], clocks.celsius[2]
        ));
    }
    lines.push(String::new());
    lines.extend(record.stages.iter().map(stage));
    if let Some(verify) = &record.verify {
        let checks: usize = verify.lines.iter().map(|line| line.checks).sum();
        let failures = verify.failures.len();
        lines.push(format!(
            "\n{} cases, {checks} outputs against float64: {failures} failed",
            verify.cases
        ));
        lines.extend(verify.failures.iter().cloned());
    }
    let ours: Vec<&Row> = record.rows.iter().filter(|row| row.is_ours()).collect();
    if !ours.is_empty() {
        lines.push(format!("\n{}", table::text(ours)));
    }
    let compared = peers::text(&record.rows);
    if !compared.is_empty() {
        lines.push(format!("\n{compared}"));
    }
    lines.join("\n")
}

/// Card, date and build.
pub fn heading(record: &Record) -> String {
    let (build, machine) = (&record.build, &record.machine);
    let device = match (&machine.device, &machine.no_device) {
        (
            Some(Device {
                name,
                sms,
                memory_bytes,
                ..
            }),
            _,
        ) => {
            format!("{name} ({sms} SMs, {} GiB)", memory_bytes >> 30)
        }
        (None, reason) => format!("no device: {}", reason.as_deref().unwrap_or("not said")),
    };
    let commit = build.commit.get(..12).unwrap_or(&build.commit);
    let modified = if build.modified { " with changes" } else { "" };
    let date = record.date.get(..10).unwrap_or(&record.date);
    let nvcc = record.nvcc.as_deref().unwrap_or("not said");
    format!("{device}; {date}, commit {commit}{modified}, nvcc {nvcc}")
}

fn stage(stage: &Stage) -> String {
    let status = match stage.status {
        Status::Passed => "passed",
        Status::Failed => "FAILED",
        Status::TimedOut => "TIMED OUT",
        Status::Ignored => "ignored",
    };
    let tests = stage.tests.map_or(String::new(), |tests| {
        let [passed, failed, ignored] = [tests.passed, tests.failed, tests.ignored];
        format!(", {passed} passed, {failed} failed, {ignored} ignored")
    });
    let reason = stage
        .reason
        .as_ref()
        .map_or(String::new(), |reason| format!(": {reason}"));
    format!(
        "{:<20} {status:<9} {:>6.1} s{tests}{reason}",
        stage.name, stage.seconds
    )
}
