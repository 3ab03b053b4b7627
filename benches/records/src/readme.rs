//! Rewrites what documents say of CUDA devices: the newest record of each card in README.md, with a plot; every kernel
//! in docs/hardware.md and kernels/README.md. Without a record README.md and docs/hardware.md say so.

use std::path::{Path, PathBuf};

use super::schema::{Record, Row};
use super::table::Columns;
use super::text::{heading, read};
use super::{kernels, list, peers, plot};

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
    let mut documents = Vec::new();
    for (path, mark, shown) in [
        ("README.md", "cuda", figures(&newest)),
        ("docs/hardware.md", "kernels", by_kernel),
        ("kernels/README.md", "kernels", kernels::table(&list, &map)),
    ] {
        documents.push((path.into(), replaced(&text(path)?, mark, &shown)?));
    }
    let plots = newest.iter().filter_map(|record| {
        let svg = plot::svg(record)?;
        Some((plot_path(record).into(), svg))
    });
    documents.extend(plots);
    Ok(documents)
}

fn plot_path(record: &Record) -> String {
    let name = record.card().unwrap_or_default().to_lowercase();
    format!("docs/images/{}.svg", name.replace([' ', '/'], "-"))
}

/// All records of cards in a folder, in the order of their dates. Records without a card, or of the emulated driver, are
/// left out.
fn all(folder: &Path) -> Result<Vec<Record>, String> {
    let named = |error| format!("{}: {error}", folder.display());
    let mut records = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(named)? {
        let path = entry.map_err(named)?.path();
        if path.extension().is_some_and(|it| it == "json") {
            records.push(read(&path)?);
        }
    }
    Ok(of_cards(records))
}

fn of_cards(mut records: Vec<Record>) -> Vec<Record> {
    let is_real = |name: &str| !name.contains("emulated");
    records.retain(|record| record.card().is_some_and(is_real));
    records.sort_by(|a, b| a.date.cmp(&b.date));
    records
}

/// For each card, in the order of their names, its newest record that has rows.
fn newest(mut records: Vec<Record>) -> Vec<Record> {
    records.retain(|record| !record.rows.is_empty());
    records.sort_by(|a, b| (a.card(), &b.date).cmp(&(b.card(), &a.date)));
    records.dedup_by(|a, b| a.card() == b.card());
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

/// The document with `text` between `<!-- mark -->` and `<!-- /mark -->`.
fn replaced(document: &str, mark: &str, text: &str) -> Result<String, String> {
    let (start, end) = (format!("<!-- {mark} -->\n"), format!("<!-- /{mark} -->"));
    let missing = || format!("there is no {} … {end}", start.trim_end());
    let (before, rest) = document.split_once(&start).ok_or_else(missing)?;
    let (_, after) = rest.split_once(&end).ok_or_else(missing)?;
    Ok(format!("{before}{start}{text}{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::super::samples::record;
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
