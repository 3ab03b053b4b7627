//! The list of kernels: reads `kernels/list.h`, and writes it as the Rust that `src/launch/kernels.rs` includes.

use std::fmt::Write;

/// A kernel of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    pub name: String,
    /// Its name without type and D.
    pub family: String,
    /// As the name has it; "": the kernel has no type, and no tile.
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

/// Columns behind the name.
const TILED: &str = "dim rows columns stages threads resident cluster shared_bytes";
const PLAIN: &str = "threads min_blocks shared_bytes";
/// The macros of rows, the types of a row's kernels, and its columns.
const MACROS: [[&str; 3]; 5] = [
    ["INFONCE_FOUR_TYPES", "bf16 f16 f32 tf32", TILED],
    ["INFONCE_16_BIT", "bf16 f16", TILED],
    ["INFONCE_32_BIT", "f32 tf32", TILED],
    ["INFONCE_8_BIT", "e4m3", TILED],
    ["INFONCE_PLAIN", "", PLAIN],
];

/// The constants and kernels of the file's text; an error names the line and what stands there.
pub fn parse(text: &str) -> Result<List, String> {
    let (mut list, mut source) = (List::default(), "");
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_end_matches('\\').trim();
        let failed = |reason| format!("kernels/list.h:{}: `{line}`: {reason}", index + 1);
        if let Some((_, named)) = line.split_once("---- ") {
            source = named.split_whitespace().next().unwrap_or_default();
        }
        let constant = ["constexpr int ", "constexpr uint32_t "];
        if let Some(constant) = constant.iter().find_map(|start| line.strip_prefix(start)) {
            let (name, rest) = constant.split_once(" = ").unwrap_or((constant, ""));
            let value = rest.split(';').next().unwrap_or_default();
            let value = number(name, value).map_err(failed)?;
            list.constants.push((name.into(), value));
        }
        // What has NAME is no row, but the macro of some.
        let row = line.rsplit_once("(BUILD, ");
        let Some((start, row)) = row.filter(|(_, row)| !row.starts_with("NAME")) else {
            continue;
        };
        let of_row = MACROS.iter().find(|[name, ..]| start.ends_with(name));
        let [_, types, columns] =
            of_row.ok_or_else(|| failed("no macro makes rows like this".into()))?;
        for arithmetic in types.split(' ') {
            let kernel = Kernel::parse(row, columns, arithmetic, source).map_err(failed)?;
            if list.kernels.iter().any(|other| other.name == kernel.name) {
                let name = kernel.name;
                return Err(failed(format!("there is another kernel called {name}")));
            }
            list.kernels.push(kernel);
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

impl Kernel {
    fn parse(
        row: &str,
        columns: &'static str,
        arithmetic: &'static str,
        source: &str,
    ) -> Result<Self, String> {
        let mut cells = row.trim_end_matches(')').split(',').map(str::trim);
        let family = cells.next().unwrap_or_default();
        let (cells, names): (Vec<&str>, Vec<_>) = (cells.collect(), columns.split(' ').collect());
        let (given, needed) = (cells.len(), names.len());
        if given != needed {
            return Err(format!(
                "{given} of {needed} columns stand behind the name: {columns}"
            ));
        }
        let named = names.into_iter().zip(cells);
        let values = named.map(|(column, cell)| Ok((column, number(column, cell)?)));
        let mut kernel = Self {
            name: String::new(),
            family: family.into(),
            arithmetic,
            source: source.into(),
            values: values.collect::<Result<_, String>>()?,
        };
        kernel.name = kernel.label(arithmetic);
        Ok(kernel)
    }

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
