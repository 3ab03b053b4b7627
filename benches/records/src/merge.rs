//! Merges the records of the packed runner's two calls.

use super::schema::{Record, Row, Stage, Status};

/// One record with the stages and rows of both, `first` before `second`. Build and card must be the same, and no stage
/// may have run in both.
pub fn merged(first: Record, second: Record) -> Result<Record, String> {
    for (what, of) in [("build", build as fn(&Record) -> String), ("card", card)] {
        let [one, other] = [of(&first), of(&second)];
        if one != other {
            return Err(format!(
                "the records differ in their {what}: {one}; {other}"
            ));
        }
    }
    let mut record = first;
    for stage in second.stages {
        add_stage(&mut record.stages, stage)?;
    }
    for row in second.rows {
        add_row(&mut record.rows, row);
    }
    record.date = record.date.max(second.date);
    record.verify = record.verify.or(second.verify);
    let machine = &mut record.machine;
    machine.driver = machine.driver.take().or(second.machine.driver);
    // The clocks of the call with more readings.
    let clocks = [machine.clocks.take(), second.machine.clocks];
    machine.clocks = clocks.into_iter().flatten().max_by_key(|c| c.readings);
    Ok(record)
}

fn build(record: &Record) -> String {
    let build = &record.build;
    let changes = if build.modified { " with changes" } else { "" };
    let nvcc = record.nvcc.as_deref().unwrap_or("not said");
    let (commit, rustc) = (&build.commit, &build.rustc);
    format!("commit {commit}{changes}, rustc {rustc}, nvcc {nvcc}")
}

fn card(record: &Record) -> String {
    let device = record.machine.device.as_ref();
    device.map_or("no card".into(), |device| format!("{device:?}"))
}

/// Adds a stage. One that ran replaces one of the same name that was ignored.
fn add_stage(stages: &mut Vec<Stage>, stage: Stage) -> Result<(), String> {
    let Some(other) = stages.iter_mut().find(|other| other.name == stage.name) else {
        stages.push(stage);
        return Ok(());
    };
    match (other.status, stage.status) {
        (_, Status::Ignored) => {}
        (Status::Ignored, _) => *other = stage,
        _ => return Err(format!("both records have run the stage {}", stage.name)),
    }
    Ok(())
}

/// Adds a row. Of two rows of one case by the same code the first stays, unless it has a reason and the second a time.
pub fn add_row(rows: &mut Vec<Row>, row: Row) {
    let same = |other: &&mut Row| other.by == row.by && other.task() == row.task();
    match rows.iter_mut().find(same) {
        None => rows.push(row),
        Some(other) if other.reason.is_some() && row.reason.is_none() => *other = row,
        Some(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{record, stage};
    use super::super::schema::{Clocks, Verify};
    use super::*;

    /// A record of that day, with these stages and a row of that shape.
    fn call(day: u32, stages: &[(&str, Status)], shape: &str) -> Record {
        let mut record = record(Some("A"), &format!("2026-01-{day:02}T00:00:00Z"));
        record.stages = stages
            .iter()
            .map(|of| stage(of.0, of.1, &[], &[]))
            .collect();
        record.rows[0].shape = shape.into();
        record
    }

    fn clocks(readings: usize) -> Option<Clocks> {
        Some(Clocks {
            sm_mhz: [1.0; 3],
            memory_mhz: [1.0; 3],
            watts: [1.0; 3],
            celsius: [1.0; 3],
            readings,
        })
    }

    #[test]
    fn two_calls_are_one_record() {
        use Status::{Failed, Ignored, Passed};
        let mut first = call(1, &[("device", Passed), ("racecheck", Ignored)], "N=1");
        let mut second = call(
            2,
            &[
                ("bench", Passed),
                ("racecheck", Failed),
                ("device", Ignored),
            ],
            "N=2",
        );
        first.machine.clocks = clocks(3);
        second.machine.clocks = clocks(40);
        second.machine.driver = Some("580".into());
        second.verify = Some(Verify {
            lines: Vec::new(),
            failures: Vec::new(),
            cases: 7,
        });
        let merged = merged(first.clone(), second).unwrap();
        let stages: Vec<_> = merged
            .stages
            .iter()
            .map(|stage| (&*stage.name, stage.status))
            .collect();
        let expected = [("device", Passed), ("racecheck", Failed), ("bench", Passed)];
        assert_eq!(stages, expected);
        let shapes: Vec<_> = merged.rows.iter().map(|row| &*row.shape).collect();
        assert_eq!(shapes, ["N=1", "N=2"]);
        assert_eq!(merged.date, "2026-01-02T00:00:00Z");
        assert_eq!(merged.machine.clocks, clocks(40));
        assert_eq!(merged.machine.driver.as_deref(), Some("580"));
        assert_eq!(merged.verify.unwrap().cases, 7);
        assert_eq!(merged.build, first.build);
    }

    #[test]
    fn records_of_other_commits_and_cards_are_refused() {
        let one = call(1, &[], "N=1");
        let refused = |change: &dyn Fn(&mut Record)| {
            let mut other = one.clone();
            change(&mut other);
            merged(one.clone(), other).unwrap_err()
        };
        let of_build = "the records differ in their build: commit 0123456789abcdef, rustc 1.95.0, nvcc 13.0.88; commit ";
        let of_other_build = |change: &dyn Fn(&mut Record), words: &str| {
            assert_eq!(refused(change), format!("{of_build}{words}"));
        };
        of_other_build(
            &|record| record.build.commit = "fedcba".into(),
            "fedcba, rustc 1.95.0, nvcc 13.0.88",
        );
        of_other_build(
            &|record| record.build.modified = true,
            "0123456789abcdef with changes, rustc 1.95.0, nvcc 13.0.88",
        );
        of_other_build(
            &|record| record.nvcc = None,
            "0123456789abcdef, rustc 1.95.0, nvcc not said",
        );
        let reason = refused(&|record| record.machine.device.as_mut().unwrap().name = "B".into());
        assert!(
            reason.starts_with("the records differ in their card: Device { name: \"A\""),
            "{reason}"
        );
        let reason = refused(&|record| record.machine.device.as_mut().unwrap().sms = 114);
        assert!(reason.contains("sms: 114"), "{reason}");
        let reason = refused(&|record| record.machine.device = None);
        assert!(reason.ends_with("; no card"), "{reason}");
    }

    #[test]
    fn a_stage_that_both_have_run_is_refused() {
        let one = call(1, &[("device", Status::Passed)], "N=1");
        let two = call(2, &[("device", Status::Failed)], "N=1");
        let reason = merged(one, two).unwrap_err();
        assert_eq!(reason, "both records have run the stage device");
    }

    #[test]
    fn a_row_with_a_time_replaces_one_without() {
        let measured = record(Some("A"), "2026").rows.remove(0);
        let without = Row {
            cold: None,
            reason: Some("not reached".into()),
            ..measured.clone()
        };
        let slower = Row {
            warm: measured.cold,
            ..measured.clone()
        };
        for given in [
            vec![without.clone(), measured.clone()],
            vec![measured.clone(), without],
            vec![measured.clone(), slower],
        ] {
            let mut rows = Vec::new();
            given.into_iter().for_each(|row| add_row(&mut rows, row));
            assert_eq!(rows, std::slice::from_ref(&measured));
        }
    }
}
