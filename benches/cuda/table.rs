//! Prints rows as text, one line each.

use super::schema::{Row, Yardstick};

/// Seconds with three digits and a unit.
pub fn duration(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if s >= 1.0 => (s, "s"),
        s if s >= 1e-3 => (s * 1e3, "ms"),
        s => (s * 1e6, "µs"),
    };
    let decimals = match value {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.decimals$} {unit}")
}

/// A row as text, column by column; "-" where it has no value.
pub struct Columns {
    pub name: String,
    pub cold: String,
    pub warm: String,
    pub tflops: String,
    pub gigabytes: String,
    pub ratio: String,
    pub extra: String,
}

impl Columns {
    pub fn of(row: &Row) -> Self {
        let none = || "-".to_owned();
        let or = |text: Option<String>| text.unwrap_or_else(none);
        let of = |row: &Row| match row.measure.as_ref().map(|measure| measure.what) {
            Some(Yardstick::Product) => "of cuBLAS",
            Some(Yardstick::Copy) => "of a copy",
            None => "",
        };
        Self {
            name: row.task(),
            cold: or(row.cold.map(|times| duration(times.median))),
            warm: or(row.warm.map(|times| duration(times.median))),
            tflops: or(row.flop_rate().map(|rate| format!("{:.0}", rate / 1e12))),
            gigabytes: or(row.byte_rate().map(|rate| format!("{:.0}", rate / 1e9))),
            ratio: or(row.ratio().map(|ratio| format!("{ratio:.2} {}", of(row)))),
            extra: or(row
                .extra_bytes
                .map(|bytes| format!("{:.1}", bytes as f64 / 1048576.0))),
        }
    }

    fn line(&self, by: &str) -> String {
        format!(
            "{:<60} {:>9} {:>9} {:>8} {:>7} {:>15} {:>9}  {by}",
            self.name, self.cold, self.warm, self.tflops, self.gigabytes, self.ratio, self.extra,
        )
    }
}

/// A row in one line.
pub fn line(row: &Row) -> String {
    let columns = Columns::of(row);
    match &row.reason {
        Some(reason) => format!("{:<60} {reason}  {}", columns.name, row.by),
        None => columns.line(&row.by),
    }
}

/// Rows under a heading.
pub fn text<'a>(rows: impl IntoIterator<Item = &'a Row>) -> String {
    let heading = Columns {
        name: String::new(),
        cold: "cold".into(),
        warm: "warm".into(),
        tflops: "TFLOP/s".into(),
        gigabytes: "GB/s".into(),
        ratio: "ratio".into(),
        extra: "MiB more".into(),
    };
    let lines = rows.into_iter().map(line);
    let lines: Vec<String> = std::iter::once(heading.line("")).chain(lines).collect();
    lines.join("\n")
}
