//! Assembles the record of a run from the files that `benches/packed/run.sh` wrote in its folder.

use std::path::Path;

use serde::de::DeserializeOwned;

use super::merge::add_row;
use super::schema::{
    Build, Clocks, Device, Kernels, Machine, Record, Row, Rows, SCHEMA, Stage, Status, Tests,
    Verify,
};

/// The record of the run in `folder`.
pub fn record(folder: &Path) -> Result<Record, String> {
    let optional = |name: &str| -> Option<String> {
        let text = std::fs::read_to_string(folder.join(name)).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    let (device, no_device) = device();
    let stages = text(&folder.join("stages.tsv"))?;
    let log = |name: &str| optional(&format!("logs/{name}.log")).unwrap_or_default();
    let stages: Vec<Stage> = stages
        .lines()
        .map(|line| {
            let mut stage = stage(line, log)?;
            let launched = optional(&format!("kernels/{}", stage.name));
            stage.kernels = launched.as_deref().map(kernels);
            Ok(stage)
        })
        .collect::<Result<_, String>>()?;
    let mut rows = Vec::new();
    for stage in &stages {
        let path = folder.join(format!("rows/{}.json", stage.name));
        if path.exists() {
            let of_stage = json::<Rows>(&path)?.rows;
            told(&of_stage).map_err(|error| format!("{}: {error}", path.display()))?;
            of_stage.into_iter().for_each(|row| add_row(&mut rows, row));
        }
    }
    let verify = folder.join("verify.json");
    Ok(Record {
        schema: SCHEMA,
        date: text(&folder.join("date"))?.trim().to_owned(),
        build: json::<Build>(&folder.join("build.json"))?,
        nvcc: nvcc(),
        machine: Machine {
            cpu: cpu(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            device,
            no_device,
            driver: optional("driver"),
            clocks: optional("clocks.csv").as_deref().and_then(clocks),
        },
        stages,
        verify: match verify.exists() {
            true => Some(json::<Verify>(&verify)?),
            false => None,
        },
        rows,
    })
}

fn text(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn json<T: DeserializeOwned>(path: &Path) -> Result<T, String> {
    serde_json::from_str(&text(path)?).map_err(|error| format!("{}: {error}", path.display()))
}

/// Checks that every row has a time, or a reason why it has none.
fn told(rows: &[Row]) -> Result<(), String> {
    let is_told = |row: &&Row| row.seconds().is_some() || row.reason.is_some();
    match rows.iter().find(|row| !is_told(row)) {
        Some(row) => Err(format!(
            "{} by {}: neither time nor reason",
            row.task(),
            row.by
        )),
        None => Ok(()),
    }
}

#[cfg(feature = "cuda")]
fn device() -> (Option<Device>, Option<String>) {
    match infonce::cuda::CudaDevice::new(0) {
        Err(error) => (None, Some(error.to_string())),
        Ok(device) => {
            let info = device.info();
            let device = Device {
                name: info.name.clone(),
                compute_capability: info.compute_capability,
                sms: info.sms,
                memory_bytes: info.memory_bytes,
                cache_bytes: info.cache_bytes,
                cuda: info.driver,
            };
            (Some(device), None)
        }
    }
}

#[cfg(not(feature = "cuda"))]
fn device() -> (Option<Device>, Option<String>) {
    (None, Some("this build lacks the feature `cuda`".to_owned()))
}

#[cfg(feature = "cuda")]
fn nvcc() -> Option<String> {
    infonce::cuda::compiler().map(str::to_owned)
}

#[cfg(not(feature = "cuda"))]
fn nvcc() -> Option<String> {
    None
}

fn cpu() -> String {
    let facts = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = facts.lines().find(|line| line.starts_with("model name"));
    let name = name.and_then(|line| line.split_once(':'));
    name.map_or(std::env::consts::ARCH, |(_, name)| name.trim())
        .to_owned()
}

/// Reads a line of `name, limit, seconds, exit code, command`, between tabs. A command that was not started has
/// `ignored: reason` in place of the exit code.
fn stage(line: &str, log: impl Fn(&str) -> String) -> Result<Stage, String> {
    let [name, limit, seconds, exit, command] = line
        .split('\t')
        .collect::<Vec<_>>()
        .try_into()
        .map_err(|_| format!("stages.tsv: {line:?} has not five columns"))?;
    let number = |text: &str| {
        let number = text.parse::<f64>();
        number.map_err(|error| format!("stages.tsv: {text:?}: {error}"))
    };
    let log = log(name);
    let tests = tests(&log);
    let said = log.lines().find_map(|line| line.strip_prefix(IGNORED));
    let nothing_ran = tests.is_none_or(|tests| tests.passed + tests.failed == 0);
    // A suite whose tests were all ignored has not passed, even if it does not say why.
    let said = said.or(tests
        .filter(|tests| nothing_ran && tests.ignored > 0)
        .map(|_| "not said"));
    let last_words = || log.lines().rev().find(|line| !line.trim().is_empty());
    let (status, reason) = match (exit.strip_prefix(IGNORED), exit, said) {
        (Some(reason), ..) => (Status::Ignored, Some(reason)),
        // A signal ended the run; the stages after this one are ignored.
        (_, INTERRUPTED, _) => (Status::Failed, Some(INTERRUPTED)),
        // Exit codes of `timeout`.
        (_, "124" | "137", _) => (Status::TimedOut, last_words()),
        (_, "0", Some(reason)) if nothing_ran => (Status::Ignored, Some(reason)),
        (_, "0", _) => (Status::Passed, None),
        _ => (Status::Failed, last_words()),
    };
    Ok(Stage {
        name: name.to_owned(),
        command: command.to_owned(),
        status,
        reason: reason.map(|reason| reason.trim().to_owned()),
        seconds: number(seconds)?,
        limit_seconds: number(limit)?,
        tests,
        kernels: None,
    })
}

/// Reads lines of `passed NAME` and `failed NAME`.
fn kernels(lines: &str) -> Kernels {
    let of = |verdict: &str| {
        let names = lines.lines().filter_map(|line| line.strip_prefix(verdict));
        let mut names: Vec<String> = names.map(|name| name.trim().to_owned()).collect();
        names.sort_unstable();
        names.dedup();
        names
    };
    Kernels {
        passed: of("passed "),
        failed: of("failed "),
    }
}

const INTERRUPTED: &str = "the run was interrupted";

/// Precedes the reason in the output of a program that could not run its tests.
const IGNORED: &str = "ignored: ";

/// The sum over the summaries in a log: `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
fn tests(log: &str) -> Option<Tests> {
    let mut sum: Option<Tests> = None;
    for line in log.lines().filter(|line| line.starts_with("test result: ")) {
        let count = |word: &str| -> Option<u64> {
            let (before, _) = line.split_once(word)?;
            before
                .rsplit([' ', '.'])
                .find(|text| !text.is_empty())?
                .parse()
                .ok()
        };
        if let (Some(passed), Some(failed), Some(ignored)) =
            (count(" passed"), count(" failed"), count(" ignored"))
        {
            let sum = sum.get_or_insert_with(Tests::default);
            sum.passed += passed;
            sum.failed += failed;
            sum.ignored += ignored;
        }
    }
    sum
}

/// Reads lines of `SM MHz, memory MHz, W, °C`.
fn clocks(csv: &str) -> Option<Clocks> {
    let readings: Vec<[f64; 4]> = csv
        .lines()
        .filter_map(|line| {
            let values = line.split(',').map(|text| text.trim().parse());
            let values: Result<Vec<f64>, _> = values.collect();
            values.ok()?.try_into().ok()
        })
        .collect();
    let last = readings.len().checked_sub(1)?;
    let of = |column: usize| {
        let mut values: Vec<f64> = readings.iter().map(|reading| reading[column]).collect();
        values.sort_by(f64::total_cmp);
        [values[0], values[last / 2], values[last]]
    };
    Some(Clocks {
        sm_mhz: of(0),
        memory_mhz: of(1),
        watts: of(2),
        celsius: of(3),
        readings: readings.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(line: &str, log: &str) -> (Status, Option<String>) {
        let stage = stage(line, |_| log.to_owned()).unwrap();
        (stage.status, stage.reason)
    }

    #[test]
    fn an_interrupted_stage_has_failed_and_one_without_time_is_ignored() {
        let stopped = status(
            "bench\t240\t9.5\tthe run was interrupted\t./bench",
            "half a row",
        );
        let words = "the run was interrupted".to_owned();
        assert_eq!(stopped, (Status::Failed, Some(words)));
        let late = status("peers\t0\t0\tignored: no time left\tpython3", "");
        assert_eq!(late, (Status::Ignored, Some("no time left".to_owned())));
    }

    #[test]
    fn kernels_of_a_stage_are_split_by_passed_and_failed_tests() {
        let found = kernels("passed b\nfailed c\npassed a\npassed b\n");
        assert_eq!(found.passed, ["a", "b"]);
        assert_eq!(found.failed, ["c"]);
    }

    #[test]
    fn a_stage_is_what_its_exit_and_its_log_say() {
        let none = "ignored: no driver\ntest result: ok. 0 passed; 0 failed; 1 ignored; 0 measured";
        let some = "ignored: one case\ntest result: ok. 2 passed; 0 failed; 1 ignored; 0 measured";
        let silent = "test result: ok. 0 passed; 0 failed; 1 ignored; 0 measured";
        for (exit, log, expected, reason) in [
            ("0", none, Status::Ignored, Some("no driver")),
            ("0", some, Status::Passed, None),
            ("0", "", Status::Passed, None),
            (
                "0",
                "ignored: no device",
                Status::Ignored,
                Some("no device"),
            ),
            ("101", none, Status::Failed, Some(silent)),
            ("124", "case 7\n\n", Status::TimedOut, Some("case 7")),
            ("0", silent, Status::Ignored, Some("not said")),
            ("ignored: no tool", "", Status::Ignored, Some("no tool")),
        ] {
            let line = format!("conformance\t60\t1.5\t{exit}\t./conformance cuda");
            let reason = reason.map(str::to_owned);
            assert_eq!(status(&line, log), (expected, reason), "{exit}: {log}");
        }
        assert!(stage("a\tb", |_| String::new()).is_err());
        assert!(stage("a\tx\t1\t0\tc", |_| String::new()).is_err());
    }

    /// The record of a folder as `benches/packed/run.sh` writes it, with these rows of peers.
    fn run_with(peers: &str) -> Result<Record, String> {
        let folder = tempfile::tempdir().unwrap();
        let stage = "peers\t300\t9.5\t0\tpython3 peers/gpu.py\n";
        let build = r#"{"commit": "0123456789abcdef", "modified": false, "rustc": "1.95.0"}"#;
        let files = [
            ("stages.tsv", stage),
            ("date", "2026-11-25T17:22:19Z\n"),
            ("build.json", build),
            ("rows/peers.json", peers),
            // No stage of that name ran.
            ("rows/bench.json", "not JSON"),
        ];
        std::fs::create_dir(folder.path().join("rows")).unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        record(folder.path())
    }

    /// `benches/peers/test_gpu.py` tests that the peers' script writes this file.
    const PEERS: &str = include_str!("../../peers/example.json");

    #[test]
    fn rows_of_the_peers_script_stand_in_the_record() {
        let record = run_with(PEERS).unwrap();
        let again = serde_json::from_str(&serde_json::to_string(&record).unwrap()).unwrap();
        assert_eq!(record, again);
        assert_eq!(record.stages[0].status, Status::Passed);
        let rows: Vec<_> = record
            .rows
            .iter()
            .map(|row| (&*row.by, &*row.work, &*row.shape))
            .collect();
        let expected = [
            ("quack-kernels", "InfoNCE", "N=8 M=8 D=2"),
            ("cut-cross-entropy", "InfoNCE", "N=8 M=8 D=2"),
            ("quack-kernels", "InfoNCE", "N=16 M=16 D=2"),
            ("cut-cross-entropy", "InfoNCE", "N=16 M=16 D=2"),
            ("quack-kernels", "CLIP", "N=8 M=8 D=2"),
            ("cut-cross-entropy", "CLIP", "N=8 M=8 D=2"),
            ("inf_cl", "CLIP", "N=8 M=8 D=2"),
            ("inf_cl", "InfoNCE", "2 shapes"),
        ];
        assert_eq!(rows, expected);
        let [measured, failed] = [&record.rows[0], &record.rows[1]];
        assert_eq!(measured.seconds(), Some(2e-3));
        assert_eq!(measured.error.unwrap().dk, 3e-3);
        // 6·8·8·2 FLOPs in 2 ms, of 8·10¹⁴ a second.
        assert!((measured.ratio().unwrap() / 4.8e-10 - 1.0).abs() < 1e-12);
        assert_eq!(failed.reason.as_deref(), Some("OutOfMemoryError: 8 GiB"));
        assert_eq!(failed.seconds(), None);
    }

    #[test]
    fn peers_that_a_record_cannot_hold_are_an_error() {
        let silent = PEERS.replace("\"OutOfMemoryError: 8 GiB\"", "null");
        let reason = run_with(&silent).unwrap_err();
        assert!(
            reason.ends_with("by cut-cross-entropy: neither time nor reason"),
            "{reason}"
        );
        for (given, wrong) in [("0.002", "NaN"), ("\"dq\"", "\"dx\""), ("1024", "-1")] {
            let changed = PEERS.replace(given, wrong);
            assert_ne!(changed, PEERS);
            let reason = run_with(&changed).unwrap_err();
            assert!(reason.contains("peers.json"), "{reason}");
        }
    }

    #[test]
    fn tests_are_summed_over_summaries() {
        let log = "test result: FAILED. 12 passed; 3 failed; 4 ignored; 0 measured; 0 filtered out\n\
                   test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured";
        let sum = tests(log).map(|sum| [sum.passed, sum.failed, sum.ignored]);
        assert_eq!(sum, Some([13, 3, 4]));
        assert_eq!(tests("12 passed"), None);
    }

    #[test]
    fn clocks_are_lowest_median_and_highest() {
        let csv = "1980, 3201, 600.5, 50\n345, 3201, 80, 30\n1755, 3201, 690, 61\nnot read\n";
        let clocks = clocks(csv).unwrap();
        assert_eq!(clocks.sm_mhz, [345.0, 1755.0, 1980.0]);
        assert_eq!((clocks.watts[2], clocks.readings), (690.0, 3));
        assert!(super::clocks("").is_none());
    }
}
