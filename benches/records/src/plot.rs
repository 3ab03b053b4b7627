//! Draws a plot of bars: the share of cuBLAS's FLOP/s that each library reaches, for each D.

use std::fmt::Write;

use super::schema::Record;

const SIZE: &str = "N=32768 M=32768 D=";
const COLOURS: [&str; 8] = [
    "#1b6ca8", "#d1495b", "#edae49", "#66a182", "#8d6a9f", "#7f7f7f", "#3c3c3c", "#c08552",
];
const LEFT: f64 = 50.0;
const TOP: f64 = 30.0;
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 240.0;

/// The plot as SVG: one-way InfoNCE, value and gradient, bf16, N = M = 32,768; `None` where the record has no such
/// row.
pub fn svg(record: &Record) -> Option<String> {
    let bars: Vec<(u32, &str, f64)> = record
        .rows
        .iter()
        .filter(|row| {
            (&*row.work, &*row.wanted, &*row.dtype) == ("InfoNCE", "value and gradient", "bf16")
        })
        .filter_map(|row| {
            let dim = row.shape.strip_prefix(SIZE)?.parse().ok()?;
            Some((dim, &*row.by, row.ratio()?))
        })
        .collect();
    let mut dims: Vec<u32> = bars.iter().map(|bar| bar.0).collect();
    dims.sort_unstable();
    dims.dedup();
    let mut names: Vec<&str> = Vec::new();
    for (_, name, _) in &bars {
        if !names.contains(name) {
            names.push(name);
        }
    }
    if bars.is_empty() {
        return None;
    }
    let most = bars.iter().map(|bar| bar.2).fold(1.0, f64::max);
    let y = |ratio: f64| TOP + HEIGHT * (1.0 - ratio / most);
    let total = TOP + HEIGHT + 40.0 + 18.0 * names.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {total}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        LEFT + WIDTH + 20.0
    );
    let mut line = |text: String| writeln!(svg, "{text}").expect("a String takes everything");
    let card = record.card().unwrap_or_default();
    line(text(
        LEFT,
        18.0,
        "start",
        &format!(
            "{card}: share of cuBLAS's rate, InfoNCE value and gradient, bf16, N = M = 32,768"
        ),
    ));
    for tenth in (0..=(most * 10.0) as u32).step_by(2) {
        let at = y(f64::from(tenth) / 10.0);
        line(format!(
            "<path d=\"M{LEFT} {at:.1}h{WIDTH}\" stroke=\"#dddddd\"/>"
        ));
        let label = format!("{:.1}", f64::from(tenth) / 10.0);
        line(text(LEFT - 6.0, at + 4.0, "end", &label));
    }
    let group = WIDTH / dims.len() as f64;
    let width = group * 0.8 / names.len() as f64;
    for (column, dim) in dims.iter().enumerate() {
        let start = LEFT + group * (column as f64 + 0.1);
        let middle = LEFT + group * (column as f64 + 0.5);
        line(text(
            middle,
            TOP + HEIGHT + 18.0,
            "middle",
            &format!("D = {dim}"),
        ));
        for (_, name, ratio) in bars.iter().filter(|bar| bar.0 == *dim) {
            let place = names.iter().position(|other| other == name).unwrap_or(0);
            let (x, top) = (start + width * place as f64, y(*ratio));
            line(format!(
                "<rect x=\"{x:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\"/>",
                width * 0.92,
                TOP + HEIGHT - top,
                COLOURS[place % COLOURS.len()]
            ));
        }
    }
    for (place, name) in names.iter().enumerate() {
        let top = TOP + HEIGHT + 30.0 + 18.0 * place as f64;
        let colour = COLOURS[place % COLOURS.len()];
        line(format!(
            "<rect x=\"{LEFT}\" y=\"{top}\" width=\"12\" height=\"12\" fill=\"{colour}\"/>"
        ));
        line(text(LEFT + 18.0, top + 11.0, "start", name));
    }
    line("</svg>".to_owned());
    Some(svg)
}

fn text(x: f64, y: f64, anchor: &str, words: &str) -> String {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>")
}

#[cfg(test)]
mod tests {
    use super::super::samples::record;
    use super::*;

    #[test]
    fn each_library_has_a_bar_as_high_as_its_ratio() {
        let mut record = record(Some("A card"), "2026-01-02T00:00:00Z");
        assert!(svg(&record).is_none());
        let mut row = record.rows[0].clone();
        row.wanted = "value and gradient".into();
        row.shape = "N=32768 M=32768 D=128".into();
        record.rows.push(row.clone());
        row.by = "other & son".into();
        row.flops = row.flops.map(|flops| 2.0 * flops);
        record.rows.push(row);
        let svg = svg(&record).unwrap();
        // Ratios of 0.25 and 0.5 of 240.
        assert!(svg.contains("height=\"60.0\"") && svg.contains("height=\"120.0\""));
        assert!(
            svg.contains("D = 128") && svg.contains("other &amp; son") && svg.contains("A card")
        );
    }
}
