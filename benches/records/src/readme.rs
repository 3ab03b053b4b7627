//! What documents say of CUDA devices: the newest record of each card in README.md, with a plot, and
//! every kernel in docs/hardware.md. Without a record both say so.

use std::path::{Path, PathBuf};

use super::schema::{Record, Row};
use super::table::Columns;
use super::{heading, kernels, list, peers, plot, read};

/// The repository's root, where the documents are.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Rewrites the documents; says what they now show.
pub fn rewrite() -> Result<String, String> {
    let root = Path::new(ROOT);
    for (path, text) in documents(root)? {
        let path = root.join(path);
        std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let cards = newest(all(&root.join("benches/records"))?).len();
    Ok(format!(
        "README.md and docs/hardware.md show the records of {cards} cards"
    ))
}

/// The documents that show records or the list, each as it should be.
fn documents(root: &Path) -> Result<Vec<(PathBuf, String)>, String> {
    let text = |path: &str| {
        let text = std::fs::read_to_string(root.join(path));
        text.map_err(|error| format!("{path}: {error}"))
    };
    let records = all(&root.join("benches/records"))?;
    let map = text("kernels/README.md")?;
    let list = list::parse(&text("kernels/list.h")?)?;
    let names: Vec<&str> = list.kernels.iter().map(|k| &*k.name).collect();
    let by_kernel = kernels::markdown(&names, &records);
    let newest = newest(records);
    let mut documents = vec![
        (
            "README.md".into(),
            replaced(&text("README.md")?, "cuda", &figures(&newest))?,
        ),
        (
            "docs/hardware.md".into(),
            replaced(&text("docs/hardware.md")?, "kernels", &by_kernel)?,
        ),
        (
            "kernels/README.md".into(),
            replaced(&map, "kernels", &kernels::table(&list, &map))?,
        ),
    ];
    let plots = newest.iter().filter_map(|record| {
        let svg = plot::svg(record)?;
        Some((plot_path(record).into(), svg))
    });
    documents.extend(plots);
    Ok(documents)
}

fn plot_path(record: &Record) -> String {
    let card = record.machine.device.as_ref();
    let name = card.map_or("", |card| &card.name).to_lowercase();
    format!("docs/images/{}.svg", name.replace([' ', '/'], "-"))
}

/// All records of cards in a folder, in the order of their dates. Rehearsals have no card, or an emulated one.
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
    Ok(of_cards(records))
}

fn of_cards(mut records: Vec<Record>) -> Vec<Record> {
    records.retain(|record| {
        let device = record.machine.device.as_ref();
        device.is_some_and(|device| !device.name.contains("emulated"))
    });
    records.sort_by(|a, b| a.date.cmp(&b.date));
    records
}

/// The newest with rows of each card, by the card's name.
fn newest(mut records: Vec<Record>) -> Vec<Record> {
    let card = |record: &Record| record.machine.device.as_ref().map(|d| d.name.clone());
    records.retain(|record| !record.rows.is_empty());
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
        let plot = match plot::svg(record) {
            Some(_) => format!(
                "\n![Share of cuBLAS's rate for each D]({})\n",
                plot_path(record)
            ),
            None => String::new(),
        };
        format!(
            "{}\n{plot}\n| work | cold | warm | TFLOP/s | GB/s | ratio | MiB more | by |\n\
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

/// A document with other text between its marks.
fn replaced(document: &str, mark: &str, text: &str) -> Result<String, String> {
    let (start, end) = (format!("<!-- {mark} -->\n"), format!("<!-- /{mark} -->"));
    let missing = || format!("there is no {} … {end}", start.trim_end());
    let (before, rest) = document.split_once(&start).ok_or_else(missing)?;
    let (_, after) = rest.split_once(&end).ok_or_else(missing)?;
    Ok(format!("{before}{start}{text}{end}{after}"))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    #[test]
    fn documents_show_what_the_records_say() {
        let root = Path::new(ROOT);
        for (path, expected) in documents(root).unwrap() {
            let text = std::fs::read_to_string(root.join(&path)).unwrap_or_default();
            assert!(
                text == expected,
                "{}: run: cargo run -p records -- readme",
                path.display()
            );
        }
    }

    pub fn record(name: Option<&str>, date: &str) -> Record {
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
                "processor": "a CPU", "cores": 2, "device": device,
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
    fn figures_come_from_the_newest_record_of_each_card() {
        let records = newest(of_cards(vec![
            record(Some("B"), "2026-01-02T00:00:00Z"),
            record(Some("A"), "2026-01-03T00:00:00Z"),
            record(None, "2026-01-09T00:00:00Z"),
            record(Some("emulated device"), "2026-01-09T00:00:00Z"),
            record(Some("A"), "2026-01-04T00:00:00Z"),
        ]));
        let dates: Vec<&str> = records.iter().map(|record| &record.date[..10]).collect();
        assert_eq!(dates, ["2026-01-04", "2026-01-02"]);
        let text = figures(&records);
        let row = "| InfoNCE forward N=2 M=2 D=2 bf16 | 2.00 ms | - | 200 | 1000 | 0.25 of cuBLAS | 1.0 | infonce 0.1.0 |";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("A (132 SMs, 128 GiB); 2026-01-04, commit 0123456789ab"));
        assert_eq!(figures(&[]), "*Not yet measured on hardware.*\n");
    }

    #[test]
    fn a_document_without_marks_is_left_alone() {
        assert!(replaced("no marks", "cuda", "x").is_err());
        let text = "a <!-- cuda -->\nold\n<!-- /cuda --> b";
        assert_eq!(
            replaced(text, "cuda", "new\n").unwrap(),
            "a <!-- cuda -->\nnew\n<!-- /cuda --> b"
        );
    }
}
