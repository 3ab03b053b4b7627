//! Counts instructions of a kernel's machine code, as `cuobjdump -sass` prints it: whether the assembler has kept the
//! order that the source intends.

use std::path::Path;
use std::process::Command;

/// The only architecture with `wgmma`.
pub const ARCHITECTURE: &str = "sm_90a";

/// Counts of a kernel with `wgmma`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MachineCode {
    /// Exponentials between the issue of products and the wait for the last of them.
    pub exponentials_beside_products: u32,
    /// Loads from global memory in the innermost loop that holds both products and exponentials, a tile's.
    pub tile_loads: u32,
}

/// The code of an image, by the tools beside nvcc; nothing where they are missing, or the image has no such code.
pub fn disassemble(nvcc: &Path, image: &Path) -> Option<String> {
    let tools = nvcc.parent()?;
    let output = Command::new(tools.join("cuobjdump"))
        .env("NVDISASM_PATH", tools)
        .args(["-sass", "-arch", ARCHITECTURE])
        .arg(image)
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && text.contains("Function : ")).then_some(text)
}

/// Every kernel in which there are products.
pub fn parse(text: &str) -> Vec<(String, MachineCode)> {
    let functions = text.split("Function : ").skip(1);
    functions
        .filter_map(|function| {
            let name = function.lines().next()?.trim().to_owned();
            Some((name, read(&instructions(function))?))
        })
        .collect()
}

/// Address and words of every instruction.
fn instructions(function: &str) -> Vec<(u64, &str)> {
    let instruction = |line: &'_ str| -> Option<(u64, usize, usize)> {
        let start = line.find("/*")? + 2;
        let end = start + line[start..].find("*/")?;
        let address = u64::from_str_radix(&line[start..end], 16).ok()?;
        let words = end + 2;
        Some((address, words, words + line[words..].find(';')?))
    };
    let lines = function.lines();
    lines
        .filter_map(|line| {
            instruction(line).map(|(address, from, to)| (address, line[from..to].trim()))
        })
        .collect()
}

fn is_product(words: &str) -> bool {
    words.contains("HGMMA") || words.contains("QGMMA")
}

fn read(code: &[(u64, &str)]) -> Option<MachineCode> {
    let mut under_way = false;
    let mut beside = 0;
    for (_, words) in code {
        under_way |= is_product(words);
        if words.contains("WARPGROUP.DEPBAR") && words.ends_with("0x0") {
            under_way = false;
        }
        beside += u32::from(under_way && words.contains("MUFU.EX2"));
    }
    // A loop ends with a branch back to its start.
    let loops = code
        .iter()
        .enumerate()
        .filter_map(|(end, (address, words))| {
            let target = words.split("BRA").nth(1)?.split("0x").nth(1)?;
            let digits = target.split(|c: char| !c.is_ascii_hexdigit()).next()?;
            let target = u64::from_str_radix(digits, 16).ok()?;
            let start = code.iter().position(|&(address, _)| address == target)?;
            (target <= *address).then(|| &code[start..=end])
        });
    let holds = |body: &&[(u64, &str)]| {
        let has = |is: fn(&str) -> bool| body.iter().any(|&(_, words)| is(words));
        has(is_product) && has(|words| words.contains("MUFU.EX2"))
    };
    let tile = loops.filter(holds).min_by_key(|body| body.len());
    let loads = |body: &[(u64, &str)]| {
        body.iter()
            .filter(|(_, words)| words.contains("LDG"))
            .count()
    };
    code.iter()
        .any(|(_, words)| is_product(words))
        .then(|| MachineCode {
            exponentials_beside_products: beside,
            tile_loads: tile.map_or(0, loads) as u32,
        })
}
