//! The list of kernels: reads `kernels/list.h`, and writes it as the Rust that `src/launch/kernels.rs` includes.

use std::fmt::Write;
use std::fs;
use std::path::Path;

/// A kernel of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    pub name: String,
    /// Its name without type and D.
    pub family: String,
    /// Path below `kernels/`.
    pub source: String,
    /// Of a kernel with a tile.
    pub tile: Option<Tile>,
    pub threads: u32,
    pub shared_bytes: u32,
}

/// A tile: rows × columns, and what goes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile {
    /// As the kernel's name has it.
    pub arithmetic: &'static str,
    /// Elements of a row that the kernel serves; 0: any number.
    pub dim: u32,
    pub rows: u32,
    pub columns: u32,
    pub stages: u32,
    /// Blocks that fit an SM of Hopper.
    pub resident: u32,
    pub cluster: u32,
}

/// What the file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct List {
    /// By name.
    pub constants: Vec<(String, u32)>,
    /// In the file's order; those of a family follow each other.
    pub kernels: Vec<Kernel>,
}

/// The macros of rows, with the types of their kernels, and what stands behind the name.
const MACROS: [(&str, &[&str], &[&str]); 4] = [
    ("INFONCE_16_BIT", &["bf16", "f16"], &TILED),
    ("INFONCE_32_BIT", &["f32", "tf32"], &TILED),
    ("INFONCE_8_BIT", &["e4m3"], &TILED),
    ("INFONCE_PLAIN", &[], &PLAIN),
];
const TILED: [&str; 8] = [
    "D",
    "rows",
    "columns",
    "stages",
    "threads",
    "blocks of an SM",
    "cluster",
    "shared bytes",
];
const PLAIN: [&str; 3] = ["threads", "least blocks of an SM", "shared bytes"];

/// Writes `list.rs` of the file.
pub fn write(file: &Path, out_dir: &Path) -> Result<(), String> {
    let named = |error: std::io::Error| format!("{}: {error}", file.display());
    let list = parse(&fs::read_to_string(file).map_err(named)?)?;
    fs::write(out_dir.join("list.rs"), list.rust()).map_err(named)
}

/// The constants and kernels of the file's text; an error names its line and row.
pub fn parse(text: &str) -> Result<List, String> {
    let mut list = List::default();
    let mut source = "";
    for (number, line) in text.lines().enumerate() {
        if let Some(named) = line
            .split("// ---- ")
            .nth(1)
            .or(line.split("/* ---- ").nth(1))
        {
            source = named.split_whitespace().next().unwrap_or_default();
        }
        let is_of = |(name, ..): &&(&str, _, _)| line.contains(&format!("{name}(BUILD, "));
        let row = MACROS.iter().find(is_of);
        let row = row.filter(|(name, ..)| !line.starts_with(&format!("#define {name}(")));
        let read = match row {
            Some(&(_, types, columns)) => kernels(line, types, columns, source)
                .and_then(|kernels| kernels.into_iter().try_for_each(|new| list.add(new))),
            None => constant(line).map(|constant| list.constants.extend(constant)),
        };
        read.map_err(|reason| {
            format!(
                "kernels/list.h:{}: `{}`: {reason}",
                number + 1,
                row_of(line)
            )
        })?;
    }
    Ok(list)
}

/// The row of a line, without the macro's continuation.
fn row_of(line: &str) -> &str {
    line.trim_end_matches('\\').trim()
}

fn constant(line: &str) -> Result<Option<(String, u32)>, String> {
    let declared = ["constexpr int ", "constexpr uint32_t "];
    let Some(rest) = declared.iter().find_map(|start| line.strip_prefix(start)) else {
        return Ok(None);
    };
    let (name, rest) = rest.split_once(" = ").ok_or("a constant has a value")?;
    let value = rest.split(';').next().unwrap_or_default();
    Ok(Some((name.into(), given(name, value)?)))
}

fn given(what: &str, value: &str) -> Result<u32, String> {
    let value = value.trim();
    value
        .parse()
        .map_err(|_| format!("{what} is `{value}`, and has to be a whole number"))
}

/// The kernels of a row.
fn kernels(
    line: &str,
    types: &[&'static str],
    columns: &[&str],
    source: &str,
) -> Result<Vec<Kernel>, String> {
    let (_, rest) = line.split_once("(BUILD, ").unwrap_or_default();
    let (row, _) = rest.split_once(')').ok_or("the row has no end")?;
    let (family, row) = row.split_once(',').unwrap_or((row, ""));
    let values: Vec<&str> = row.split(',').filter(|value| !value.is_empty()).collect();
    if values.len() != columns.len() {
        let wanted = columns.join(", ");
        return Err(format!(
            "behind the name {} columns are needed ({wanted}), and there are {}",
            columns.len(),
            values.len()
        ));
    }
    let named = columns.iter().zip(&values);
    let values: Vec<u32> = named
        .map(|(what, value)| given(what, value))
        .collect::<Result<_, _>>()?;
    let kernel = |name: String, tile, threads: u32, shared_bytes| {
        if threads == 0 || threads > 1024 || !threads.is_multiple_of(32) {
            return Err(format!(
                "{threads} threads; there can be 32 to 1024, whole warps"
            ));
        }
        let (family, source) = (family.to_owned(), source.to_owned());
        Ok(Kernel {
            name,
            family,
            source,
            tile,
            threads,
            shared_bytes,
        })
    };
    if let [threads, _, shared_bytes] = values[..] {
        return Ok(vec![kernel(
            family.to_owned(),
            None,
            threads,
            shared_bytes,
        )?]);
    }
    let [
        dim,
        rows,
        tile_columns,
        stages,
        threads,
        resident,
        cluster,
        shared_bytes,
    ] = values[..]
    else {
        return Ok(Vec::new());
    };
    let of_type = |&arithmetic: &&'static str| {
        let name = match dim {
            0 => format!("{family}_{arithmetic}"),
            dim => format!("{family}_{arithmetic}_{dim}"),
        };
        let tile = Tile {
            arithmetic,
            dim,
            rows,
            columns: tile_columns,
            stages,
            resident,
            cluster,
        };
        kernel(name, Some(tile), threads, shared_bytes)
    };
    types.iter().map(of_type).collect()
}

impl List {
    fn add(&mut self, new: Kernel) -> Result<(), String> {
        if self.kernels.iter().any(|kernel| kernel.name == new.name) {
            return Err(format!("there is another kernel called {}", new.name));
        }
        self.kernels.push(new);
        Ok(())
    }

    /// The kernels by family.
    pub fn families(&self) -> impl Iterator<Item = &[Kernel]> {
        self.kernels.chunk_by(|a, b| a.family == b.family)
    }

    /// The list as Rust: a constant for each constant and family, and `ALL` of them.
    pub fn rust(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.constants {
            let _ = writeln!(text, "pub(crate) const {name}: usize = {value};");
        }
        let mut all = String::new();
        for family in self.families() {
            let name = family[0].family.to_uppercase();
            let rows: String = family.iter().map(Kernel::rust).collect();
            let _ = match family[0].tile {
                Some(_) => writeln!(text, "pub(crate) const {name}: &[Kernel] = &[{rows}];"),
                None => writeln!(
                    text,
                    "pub(crate) const {name}: &Kernel = &{};",
                    rows.trim_end_matches(", ")
                ),
            };
            all += &match family[0].tile {
                Some(_) => format!("{name}, "),
                None => format!("std::slice::from_ref({name}), "),
            };
        }
        let _ = writeln!(
            text,
            "#[cfg(test)]\npub(crate) const ALL: &[&[Kernel]] = &[{all}];"
        );
        text
    }
}

impl Kernel {
    fn rust(&self) -> String {
        let Self {
            name,
            threads,
            shared_bytes,
            ..
        } = self;
        let none = Tile {
            arithmetic: "",
            dim: 0,
            rows: 0,
            columns: 0,
            stages: 0,
            resident: 1,
            cluster: 1,
        };
        let Tile {
            arithmetic,
            dim,
            rows,
            columns,
            resident,
            cluster,
            ..
        } = self.tile.unwrap_or(none);
        let arithmetic = match arithmetic {
            "" => "None".to_owned(),
            name => format!(
                "Some(Arithmetic::{}{})",
                name[..1].to_uppercase(),
                &name[1..]
            ),
        };
        let dim = if dim == 0 {
            "usize::MAX".to_owned()
        } else {
            dim.to_string()
        };
        format!(
            "Kernel {{ name: {name:?}, arithmetic: {arithmetic}, dim: {dim}, rows: {rows}, columns: {columns}, \
             resident: {resident}, cluster: {cluster}, threads: {threads}, shared_bytes: {shared_bytes} }}, "
        )
    }
}
