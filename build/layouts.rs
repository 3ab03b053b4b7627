//! Checks that structures and codes of src/launch/params.rs agree with the kernels'. In place of each source a compiler
//! gets a text that includes the source and asserts sizes, offsets and values. A source still compiles alone.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::jobs::{self, Job};
use super::sources::Sources;
use crate::params::{CODES, LAYOUTS, Layout};

/// The source called `name`, and asserts of every structure and code that one of `files` declares.
pub fn held(
    name: &str,
    files: &[String],
    layouts: &[Layout],
    codes: &[(&str, &str, u32)],
) -> String {
    let mut text = format!("#include <cstddef>\n#include {name:?}\n");
    let mut hold = |what: &str, value: usize, subject: &str| {
        let _ = writeln!(
            text,
            "static_assert({what} == {value}, \"{subject}: {value} in src/launch/params.rs\");"
        );
    };
    let declared = |header: &str| files.iter().any(|file| file == header);
    for layout in layouts.iter().filter(|layout| declared(layout.header)) {
        let name = layout.name;
        for (field, offset) in layout
            .fields
            .iter()
            .filter(|(field, _)| *field != "padding")
        {
            let what = format!("offsetof(infonce::{name}, {field})");
            hold(&what, *offset, &format!("byte of {name}.{field}"));
        }
        let what = format!("sizeof(infonce::{name})");
        hold(&what, layout.size, &format!("bytes of {name}"));
    }
    for (name, _, value) in codes.iter().filter(|(_, header, _)| declared(header)) {
        hold(&format!("infonce::{name}"), *value as usize, name);
    }
    text
}

/// The call of a compiler, by `command` without a source, that makes of `source` a file in `folder`. `version` is what
/// the compiler calls itself.
pub fn job(
    sources: &Sources,
    source: &Path,
    (version, mut command): (&str, Command),
    folder: &Path,
    extension: &str,
) -> Result<Job, String> {
    let name = sources.name(source);
    let failed = |error: std::io::Error| format!("{name}: {error}");
    let files = sources.files(source).map_err(failed)?;
    let names: Vec<String> = files.keys().map(|file| sources.name(file)).collect();
    let text = held(&name, &names, LAYOUTS, CODES);
    let fingerprint = Sources::fingerprint(&files, &format!("{version} {command:?} {text}"));
    let output = jobs::output(folder, &name, fingerprint, extension);
    let wrapper = output.with_extension("cu");
    fs::write(&wrapper, text).map_err(failed)?;
    command.arg(wrapper);
    Ok(Job {
        source: name,
        output,
        command,
    })
}
