//! The README's figures of CUDA devices: the newest record of each card, or that there is none.

use std::path::Path;

use super::schema::{Record, Row};
use super::table::Columns;
use super::{heading, peers, read};

const START: &str = "<!-- cuda -->\n";
const END: &str = "<!-- /cuda -->";

/// Rewrites the part of README.md between the marks; says what it now shows.
pub fn rewrite() -> Result<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("README.md");
    let readme = std::fs::read_to_string(&path).map_err(|error| format!("README.md: {error}"))?;
    let records = newest(all(&root.join("benches/records"))?);
    let updated = replaced(&readme, &figures(&records))?;
    std::fs::write(&path, updated).map_err(|error| format!("README.md: {error}"))?;
    let cards = records.len();
    Ok(format!(
        "README.md shows the newest record of {cards} cards"
    ))
}

/// All records of a folder.
fn all(folder: &Path) -> Result<Vec<Record>, String> {
    let named = |error| format!("{}: {error}", folder.display());
    let mut records = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(named)? {
        let path = entry.map_err(named)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            records.push(read(&path)?);
        }
    }
    Ok(records)
}

/// The newest with rows of each card, by the card's name; rehearsals have none, or an emulated one.
fn newest(mut records: Vec<Record>) -> Vec<Record> {
    let card = |record: &Record| record.machine.device.as_ref().map(|d| d.name.clone());
    let is_real = |name: String| !name.contains("emulated");
    records.retain(|record| card(record).is_some_and(is_real) && !record.rows.is_empty());
    records.sort_by_key(|record| (card(record), std::cmp::Reverse(record.date.clone())));
    records.dedup_by_key(|record| card(record));
    records
}

fn figures(records: &[Record]) -> String {
    if records.is_empty() {
        return "*Not yet measured on hardware.*\n".to_owned();
    }
    let of = |record: &Record| {
        let ours = record.rows.iter().filter(|row| row.is_ours());
        let rows: String = ours.map(line).collect();
        let others = match peers::markdown(&record.rows) {
            table if table.is_empty() => table,
            table => format!("\n{table}"),
        };
        format!(
            "{}\n\n| work | cold | warm | TFLOP/s | GB/s | ratio | MiB more | by |\n\
             |---|---:|---:|---:|---:|---:|---:|---|\n{rows}{others}",
            heading(record)
        )
    };
    records.iter().map(of).collect::<Vec<_>>().join("\n")
}

fn line(row: &Row) -> String {
    let columns = Columns::of(row);
    let Some(reason) = &row.reason else {
        return format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} |\n",
            columns.name,
            columns.cold,
            columns.warm,
            columns.tflops,
            columns.gigabytes,
            columns.ratio,
            columns.extra,
            row.by
        );
    };
    format!("| {} | {reason} | | | | | | {} |\n", columns.name, row.by)
}

fn replaced(readme: &str, figures: &str) -> Result<String, String> {
    let missing = || format!("README.md has no {} … {END}", START.trim_end());
    let (before, rest) = readme.split_once(START).ok_or_else(missing)?;
    let (_, after) = rest.split_once(END).ok_or_else(missing)?;
    Ok(format!("{before}{START}{figures}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_shows_the_newest_record_of_every_card() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
        let records = newest(all(&root.join("benches/records")).unwrap());
        let expected = replaced(&readme, &figures(&records)).unwrap();
        assert_eq!(
            readme, expected,
            "run: cargo run --example record -- readme"
        );
    }

    fn record(name: Option<&str>, date: &str) -> Record {
        let device = name.map(|name| {
            serde_json::json!({
                "name": name, "compute_capability": [9, 0], "multiprocessors": 132,
                "memory_bytes": 1u64 << 37, "cache_bytes": 1 << 26, "cuda": [13, 0],
            })
        });
        let times = serde_json::json!({"median": 2e-3, "low": 1e-3, "high": 3e-3, "samples": 20});
        serde_json::from_value(serde_json::json!({
            "schema": 1, "date": date,
            "build": {"commit": "0123456789abcdef", "modified": false, "rustc": "1.95.0"},
            "nvcc": "13.0.88",
            "machine": {
                "processor": "a processor", "cores": 2, "device": device,
                "no_device": null, "driver": null, "clocks": null,
            },
            "stages": [], "verify": null,
            "rows": [{
                "by": "infonce 0.1.0", "work": "InfoNCE", "wanted": "forward", "shape": "N=2 M=2 D=2",
                "dtype": "bf16", "flops": 4e11, "bytes": 2e9, "cold": times, "warm": null,
                "measure": {"what": "product", "rate": 8e14, "samples": 20},
                "extra_bytes": 1048576, "error": null, "reason": null,
            }],
        }))
        .unwrap()
    }

    #[test]
    fn figures_come_from_the_newest_record_of_each_card_and_not_from_rehearsals() {
        let records = newest(vec![
            record(Some("B"), "2026-01-02T00:00:00Z"),
            record(Some("A"), "2026-01-03T00:00:00Z"),
            record(None, "2026-01-09T00:00:00Z"),
            record(Some("emulated device"), "2026-01-09T00:00:00Z"),
            record(Some("A"), "2026-01-04T00:00:00Z"),
        ]);
        let dates: Vec<&str> = records.iter().map(|record| &record.date[..10]).collect();
        assert_eq!(dates, ["2026-01-04", "2026-01-02"]);
        let text = figures(&records);
        let row = "| InfoNCE forward N=2 M=2 D=2 bf16 | 2.00 ms | - | 200 | 1000 | 0.25 of cuBLAS | 1.0 | infonce 0.1.0 |";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("A (132 multiprocessors, 128 GiB); 2026-01-04, commit 0123456789ab"));
        assert_eq!(figures(&[]), "*Not yet measured on hardware.*\n");
    }

    #[test]
    fn a_readme_without_marks_is_left_alone() {
        assert!(replaced("no marks", "x").is_err());
        let text = "a <!-- cuda -->\nold\n<!-- /cuda --> b";
        assert_eq!(
            replaced(text, "new\n").unwrap(),
            "a <!-- cuda -->\nnew\n<!-- /cuda --> b"
        );
    }
}
