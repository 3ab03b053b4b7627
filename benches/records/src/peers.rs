//! Compares this crate with others: time and error of the same case in the same run.

use super::schema::{Errors, Row};
use super::table::Columns;

/// README.md shows no time of a peer whose gradient has a larger relative error, in the L2 norm. Rounding an exact
/// gradient to bf16 has an error of 0.002.
const SAME_GRADIENT: f64 = 0.005;

/// One case, and the rows of this crate and of the other libraries.
struct Task<'a> {
    name: String,
    ours: Option<&'a Row>,
    others: Vec<&'a Row>,
}

/// Every case that another library ran, in the order of the rows.
fn tasks(rows: &[Row]) -> Vec<Task<'_>> {
    let mut tasks: Vec<Task> = Vec::new();
    for row in rows.iter().filter(|row| !row.is_ours()) {
        let name = row.task();
        match tasks.iter_mut().find(|task| task.name == name) {
            Some(task) => task.others.push(row),
            None => tasks.push(Task {
                ours: rows.iter().find(|row| row.is_ours() && row.task() == name),
                name,
                others: vec![row],
            }),
        }
    }
    tasks
}

impl Task<'_> {
    /// Cold time of the other library divided by this crate's.
    fn ratio(&self, other: &Row) -> Option<f64> {
        Some(other.cold?.median / self.ours?.cold?.median)
    }

    /// The fastest of the other libraries with gradients within [`SAME_GRADIENT`].
    fn best(&self) -> Option<&Row> {
        let counts = |row: &&&Row| {
            let error = row.error.as_ref();
            row.cold.is_some() && error.is_some_and(|error| error.dq.max(error.dk) <= SAME_GRADIENT)
        };
        let time = |row: &Row| row.cold.map_or(f64::INFINITY, |times| times.median);
        let fastest = self.others.iter().filter(counts);
        fastest.min_by(|a, b| time(a).total_cmp(&time(b))).copied()
    }
}

fn cold(row: &Row) -> String {
    Columns::of(row).cold
}

fn times(ratio: Option<f64>) -> String {
    ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"))
}

fn errors(error: Option<&Errors>) -> [String; 3] {
    let of = |error: Option<f64>| error.map_or("-".to_owned(), |error| format!("{error:.1e}"));
    [
        of(error.map(|error| error.loss)),
        of(error.map(|error| error.dq)),
        of(error.map(|error| error.dk)),
    ]
}

/// The comparison for people: each case, and below it a line for this crate and for each other library.
pub fn text(rows: &[Row]) -> String {
    let line = |by: &str, cells: [&str; 7]| {
        let [cold, warm, ratio, loss, dq, dk, extra] = cells;
        format!("  {by:<44} {cold:>9} {warm:>9} {ratio:>10} {loss:>9} {dq:>9} {dk:>9} {extra:>9}")
    };
    let cells = |row: &Row, ratio: Option<f64>| match &row.reason {
        Some(reason) => format!("  {:<44} {reason}", row.by),
        None => {
            let Columns {
                cold, warm, extra, ..
            } = Columns::of(row);
            let [loss, dq, dk] = errors(row.error.as_ref());
            let ratio = times(ratio);
            line(&row.by, [&cold, &warm, &ratio, &loss, &dq, &dk, &extra])
        }
    };
    let tasks = tasks(rows);
    if tasks.is_empty() {
        return String::new();
    }
    let heading = [
        "cold",
        "warm",
        "times ours",
        "loss off",
        "dq off",
        "dk off",
        "MiB more",
    ];
    let mut lines = vec![line("", heading)];
    for task in &tasks {
        lines.push(task.name.clone());
        lines.extend(task.ours.map(|row| cells(row, None)));
        lines.extend(task.others.iter().map(|row| cells(row, task.ratio(row))));
    }
    lines.join("\n")
}

/// The comparison in README.md: for each case, this crate and the fastest other library.
pub fn markdown(rows: &[Row]) -> String {
    let gradients = |row: Option<&Row>| match row.and_then(|row| row.error) {
        Some(error) => format!("{:.1e}, {:.1e}", error.dq, error.dk),
        None => "-".to_owned(),
    };
    let line = |task: &Task| {
        let best = task.best()?;
        Some(format!(
            "| {} | {} | {} | {} | {} | {} | {} |\n",
            task.name,
            task.ours.map_or("-".to_owned(), cold),
            gradients(task.ours),
            best.by,
            cold(best),
            gradients(Some(best)),
            times(task.ratio(best)),
        ))
    };
    let lines: String = tasks(rows).iter().filter_map(line).collect();
    match lines.is_empty() {
        true => lines,
        false => format!(
            "| work, cold | infonce | its dq, dk off by | fastest other | its time | its dq, dk off by | times ours |\n\
             |---|---:|---:|---|---:|---:|---:|\n{lines}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(by: &str, shape: &str, milliseconds: Option<f64>, error: f64) -> Row {
        let times = milliseconds.map(|time| {
            let time = time / 1e3;
            serde_json::json!({"median": time, "low": time, "high": time, "samples": 20})
        });
        let off = serde_json::json!({"loss": 1e-6, "dq": error, "dk": 1e-3, "rows": 8});
        serde_json::from_value(serde_json::json!({
            "by": by, "work": "InfoNCE", "wanted": "value and gradient", "shape": shape,
            "dtype": "bf16", "flops": 1.0, "bytes": 1.0, "cold": times, "warm": null, "measure": null,
            "extra_bytes": 3 << 20, "error": milliseconds.map(|_| off),
            "reason": milliseconds.is_none().then_some("out of memory"),
        }))
        .unwrap()
    }

    fn rows() -> Vec<Row> {
        vec![
            row("infonce 0.1.0", "D=1", Some(2.0), 1e-3),
            row("infonce 0.1.0", "D=2", Some(2.0), 1e-3),
            row("slow 1", "D=1", Some(9.0), 1e-3),
            row("wrong 1", "D=1", Some(1.0), 6e-3),
            row("fast 1", "D=1", Some(5.0), 2e-3),
            row("large 1", "D=1", None, 0.0),
            row("fast 1", "D=4", Some(5.0), 2e-3),
            row("large 1", "D=8", None, 0.0),
        ]
    }

    #[test]
    fn the_readme_names_the_fastest_other_whose_gradients_are_right() {
        let text = markdown(&rows());
        let lines: Vec<&str> = text.lines().skip(2).collect();
        let expected = [
            "| InfoNCE value and gradient D=1 bf16 | 2.00 ms | 1.0e-3, 1.0e-3 | fast 1 | 5.00 ms | 2.0e-3, 1.0e-3 | 2.50 |",
            "| InfoNCE value and gradient D=4 bf16 | - | - | fast 1 | 5.00 ms | 2.0e-3, 1.0e-3 | - |",
        ];
        assert_eq!(lines, expected);
        assert_eq!(markdown(&rows()[..2]), "");
    }

    #[test]
    fn the_table_has_a_line_for_everyone_with_time_error_or_reason() {
        let text = text(&rows());
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let lines: Vec<String> = text.lines().skip(1).map(words).collect();
        let expected = [
            "InfoNCE value and gradient D=1 bf16",
            "infonce 0.1.0 2.00 ms - - 1.0e-6 1.0e-3 1.0e-3 3.0",
            "slow 1 9.00 ms - 4.50 1.0e-6 1.0e-3 1.0e-3 3.0",
            "wrong 1 1.00 ms - 0.50 1.0e-6 6.0e-3 1.0e-3 3.0",
            "fast 1 5.00 ms - 2.50 1.0e-6 2.0e-3 1.0e-3 3.0",
            "large 1 out of memory",
            "InfoNCE value and gradient D=4 bf16",
            "fast 1 5.00 ms - - 1.0e-6 2.0e-3 1.0e-3 3.0",
            "InfoNCE value and gradient D=8 bf16",
            "large 1 out of memory",
        ];
        assert_eq!(lines, expected);
        assert_eq!(super::text(&rows()[..2]), "");
    }
}
