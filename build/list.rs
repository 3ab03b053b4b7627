//! The list of kernels: reads `kernels/list.h`, and writes it as the Rust that `src/launch/kernels.rs` includes.

use std::fmt::Write;

/// A kernel of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    pub name: String,
    /// Its name without type and D.
    pub family: String,
    /// As in the name, such as `bf16`; "": the kernel has no type, and no tile.
    pub arithmetic: &'static str,
    /// Path below `kernels/`.
    pub source: String,
    /// By column.
    pub values: Vec<(&'static str, u32)>,
}

/// What the file says.
#[derive(Debug, Default)]
pub struct List {
    /// By name.
    pub constants: Vec<(String, u32)>,
    /// In the file's order.
    pub kernels: Vec<Kernel>,
}

/// The columns of a row of kernels with a tile, and of the others.
const TILED: &str = "dim rows columns stages threads resident cluster shared_bytes";
const PLAIN: &str = "threads min_blocks shared_bytes";
/// The macros of rows with a tile, and the types of a row's kernels.
const TYPES: [[&str; 2]; 3] = [
    ["INFONCE_16_BIT", "bf16 f16"],
    ["INFONCE_32_BIT", "f32 tf32"],
    ["INFONCE_8_BIT", "e4m3"],
];

/// The types of a row's kernels, and its values by column.
type Row = (&'static str, Vec<(&'static str, u32)>);

/// The constants and kernels of the file's text; an error names the line and what stands there.
pub fn parse(text: &str) -> Result<List, String> {
    let mut list = List::default();
    // A macro's name and its rows, of each macro of rows.
    let mut macros: Vec<(&str, Vec<Row>)> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_end_matches('\\').trim();
        let failed = |reason| format!("kernels/list.h:{}: `{line}`: {reason}", index + 1);
        let (code, source) = line.split_once("//").unwrap_or((line, ""));
        let constant = ["constexpr int ", "constexpr uint32_t "];
        if let Some(constant) = constant.iter().find_map(|start| line.strip_prefix(start)) {
            let (name, rest) = constant.split_once(" = ").unwrap_or((constant, ""));
            let value = rest.split(';').next().unwrap_or_default();
            let value = number(name, value).map_err(failed)?;
            list.constants.push((name.into(), value));
        }
        if let Some((name, _)) = line.split_once("(BUILD, NAME)") {
            macros.push((name.trim_start_matches("#define "), Vec::new()));
        }
        // What has `...` makes rows, and is none.
        let row = code.rsplit_once("(BUILD, NAME, ");
        if let Some((start, row)) = row.filter(|(_, row)| !row.contains("...")) {
            let types = TYPES.iter().find(|[name, _]| start.ends_with(name));
            let [_, types] = types.ok_or_else(|| failed("no macro makes rows like this".into()))?;
            let values = values(row, TILED).map_err(failed)?;
            let (_, rows) = macros
                .last_mut()
                .ok_or_else(|| failed("no macro has this row".into()))?;
            rows.push((types, values));
        }
        if let Some((name, family)) = code.split_once("(INFONCE_ROW, ") {
            let rows = macros.iter().find(|(other, _)| *other == name);
            let (_, rows) = rows.ok_or_else(|| failed("no macro has rows for this".into()))?;
            let family = family.trim_end().trim_end_matches(')');
            list.add(family, source, rows).map_err(failed)?;
        }
        let plain = code
            .strip_prefix("struct ")
            .and_then(|it| it.split_once(" : Plain<"));
        if let Some((name, row)) = plain {
            let values = values(row, PLAIN).map_err(failed)?;
            list.add(name, source, &[("", values)]).map_err(failed)?;
        }
    }
    Ok(list)
}

fn number(what: &str, given: &str) -> Result<u32, String> {
    let given = given.trim();
    given
        .parse()
        .map_err(|_| format!("{what} is `{given}`, and has to be a whole number"))
}

/// What stands in each column of a row, up to its bracket.
fn values(row: &str, columns: &'static str) -> Result<Vec<(&'static str, u32)>, String> {
    let cells = row.split([')', '>']).next().unwrap_or_default().split(',');
    let (given, needed) = (cells.clone().count(), columns.split(' ').count());
    if given != needed {
        return Err(format!(
            "{given} of {needed} columns stand behind the name: {columns}"
        ));
    }
    let named = columns.split(' ').zip(cells);
    named
        .map(|(column, cell)| Ok((column, number(column, cell)?)))
        .collect()
}

impl Kernel {
    /// Its name, with this in place of the type.
    pub fn label(&self, arithmetic: &str) -> String {
        match self.value("dim") {
            _ if arithmetic.is_empty() => self.family.clone(),
            0 => format!("{}_{arithmetic}", self.family),
            dim => format!("{}_{arithmetic}_{dim}", self.family),
        }
    }

    /// What stands in a column, 0 where the kernel has none.
    pub fn value(&self, column: &str) -> u32 {
        let found = self.values.iter().find(|(name, _)| *name == column);
        found.map_or(0, |(_, value)| *value)
    }

    fn rust(&self) -> String {
        let arithmetic = match self.arithmetic.split_at_checked(1) {
            Some((first, rest)) => format!("Some(Arithmetic::{}{rest})", first.to_uppercase()),
            None => "None".into(),
        };
        // Stages are the kernels' own.
        let fields = TILED.split(' ').filter(|column| *column != "stages");
        let field = |column| format!(", {column}: {}", self.value(column));
        let fields: String = fields.map(field).collect();
        let Self { name, source, .. } = self;
        format!(
            "Kernel {{ name: {name:?}, source: {source:?}, arithmetic: {arithmetic}{fields} }}, "
        )
    }
}

impl List {
    /// Adds a family: a kernel of each type of each row.
    fn add(&mut self, family: &str, source: &str, rows: &[Row]) -> Result<(), String> {
        for (types, values) in rows {
            for arithmetic in types.split(' ') {
                let mut kernel = Kernel {
                    name: String::new(),
                    family: family.into(),
                    arithmetic,
                    source: source.trim().into(),
                    values: values.clone(),
                };
                kernel.name = kernel.label(arithmetic);
                if self.kernels.iter().any(|other| other.name == kernel.name) {
                    return Err(format!("there is another kernel called {}", kernel.name));
                }
                self.kernels.push(kernel);
            }
        }
        Ok(())
    }

    /// The list as Rust: a constant for each constant and each family.
    pub fn rust(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.constants {
            let _ = writeln!(text, "pub(crate) const {name}: usize = {value};");
        }
        for family in self.kernels.chunk_by(|a, b| a.family == b.family) {
            let name = family[0].family.to_uppercase();
            let rows: String = family.iter().map(Kernel::rust).collect();
            let _ = match family[0].arithmetic {
                "" => writeln!(text, "pub(crate) const {name}: &Kernel = &[{rows}][0];"),
                _ => writeln!(text, "pub(crate) const {name}: &[Kernel] = &[{rows}];"),
            };
        }
        text
    }
}
