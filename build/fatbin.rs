//! The kernels as CUDA images: one fatbin per source, with machine code for sm_80 to sm_89 and for sm_90, and
//! PTX, which the driver compiles for later architectures. Writes `images.rs` and `resources.rs`, which the crate
//! includes.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::{fs, io};

use super::jobs::{self, Done};
use super::layouts;
use super::list::List;
use super::nvcc::{self, Nvcc, Search};
use super::ptxas::{self, KernelResources};
use super::sass::{self, MachineCode};
use super::sources::Sources;

/// sm_90a, not sm_90: warpgroup products and their registers exist only under the first name.
const ARCHITECTURES: [&str; 3] = [
    "-gencode=arch=compute_80,code=sm_80",
    "-gencode=arch=compute_90a,code=sm_90a",
    "-gencode=arch=compute_80,code=compute_80",
];
const OPTIONS: [&str; 5] = ["-std=c++17", "-O3", "-lineinfo", "-Xptxas=-v", "-fatbin"];
const OLDEST: (u32, u32) = (12, 0);
/// Images get smaller, and loading takes longer.
const COMPRESSED: &str = "-compress-mode=size";
const OLDEST_THAT_COMPRESSES: (u32, u32) = (12, 8);

/// Compiles all kernels, or embeds none where only documentation is made.
pub fn build(sources: &Sources, list: &List, out_dir: &Path, documentation_only: bool) {
    for name in
        nvcc::VARIABLES
            .into_iter()
            .chain(["NVCC_CCBIN", "NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS"])
    {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let images = match documentation_only {
        true => Ok(Vec::new()),
        false => compile(sources, &out_dir.join("cuda")),
    };
    let written = images.and_then(|images| {
        let kernels = resources(&images, list)?;
        write(out_dir, &images, &kernels).map_err(|error| error.to_string())?;
        Ok(kernels)
    });
    match written {
        Ok(kernels) => kernels.iter().for_each(warn),
        Err(message) => jobs::report(&message),
    }
}

fn warn(k: &KernelResources) {
    let (kernel, architecture) = (&k.kernel, &k.architecture);
    if k.spill_stores + k.spill_loads > 0 {
        println!(
            "cargo::warning=the kernel {kernel} spills registers on {architecture}: {} bytes stored, {} loaded",
            k.spill_stores, k.spill_loads
        );
    }
    // Fused gradients overlap exponentials with products; the assembler may undo that.
    let waits = |code: MachineCode| code.exponentials_beside_products == 0;
    if kernel.starts_with("hopper_gradient") && k.machine_code.is_some_and(waits) {
        println!("cargo::warning=the exponentials of {kernel} wait for its products");
    }
    if k.product_waits > 0 {
        println!(
            "cargo::warning=products of the kernel {kernel} wait on {architecture} where its source does not"
        );
    }
}

/// The images, each with its machine code as text where there are tools to read it.
fn compile(sources: &Sources, folder: &Path) -> Result<Vec<(Done, String)>, String> {
    let nvcc = Search::here().nvcc()?;
    let version = version(&nvcc)?;
    if let Some(full) = nvcc::full_release(&version) {
        println!("cargo::rustc-env=INFONCE_NVCC={full}");
    }
    let compresses =
        nvcc::release(&version).is_some_and(|release| release >= OLDEST_THAT_COMPRESSES);
    fs::create_dir_all(folder).map_err(|error| error.to_string())?;
    let mut work = Vec::new();
    for source in &sources.kernels {
        let mut command = Command::new(&nvcc.path);
        command
            .args(OPTIONS)
            .args(compresses.then_some(COMPRESSED))
            .args(ARCHITECTURES)
            .arg("-I")
            .arg(&sources.root);
        command.args(
            nvcc.includes
                .iter()
                .map(|folder| format!("-I{}", folder.display())),
        );
        let compiler = (version.as_str(), command);
        work.push(layouts::job(sources, source, compiler, folder, "fatbin")?);
    }
    let images = jobs::run(work)?;
    jobs::sweep(folder, &images).map_err(|error| error.to_string())?;
    for warning in images
        .iter()
        .flat_map(|image| image.log.lines())
        .filter(|line| line.contains("warning"))
    {
        println!("cargo::warning={warning}");
    }
    let with_code = images.into_iter().map(|image| {
        let code = sass::disassemble(&nvcc.path, &image.output);
        (image, code.unwrap_or_default())
    });
    Ok(with_code.collect())
}

fn version(nvcc: &Nvcc) -> Result<String, String> {
    let output = Command::new(&nvcc.path).arg("--version").output();
    let output =
        output.map_err(|error| format!("{} does not start: {error}", nvcc.path.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let path = nvcc.path.display();
    match nvcc::release(&text) {
        Some(release) if release >= OLDEST => Ok(text),
        Some((major, minor)) => Err(format!(
            "{path} is release {major}.{minor}, and 12.0 is needed; a newer one: {}",
            nvcc::INSTALL
        )),
        None => Err(format!(
            "{path} does not say its release; one that does: {}",
            nvcc::INSTALL
        )),
    }
}

/// All kernels of all images and their machine code. An image has the kernels that the list has of its source.
fn resources(images: &[(Done, String)], list: &List) -> Result<Vec<KernelResources>, String> {
    let mut kernels: Vec<KernelResources> = Vec::new();
    for (image, code) in images {
        let mut parsed = ptxas::parse(&image.log);
        for (name, code) in sass::parse(code) {
            let mut of_name = parsed.iter_mut().filter(|k| k.kernel == name);
            if let Some(kernel) = of_name.find(|k| k.architecture == sass::ARCHITECTURE) {
                kernel.machine_code = Some(code);
            }
        }
        let source = &image.source;
        let of_source = list
            .kernels
            .iter()
            .filter(|kernel| kernel.source == *source);
        let listed: BTreeSet<&str> = of_source.map(|kernel| &*kernel.name).collect();
        let built: BTreeSet<&str> = parsed.iter().map(|k| &*k.kernel).collect();
        if let Some(kernel) = built.symmetric_difference(&listed).next() {
            return Err(format!(
                "{source}: {kernel} is built or listed there, but not both"
            ));
        }
        kernels.extend(parsed);
    }
    kernels.sort_by(|a, b| (&a.kernel, &a.architecture).cmp(&(&b.kernel, &b.architecture)));
    Ok(kernels)
}

fn write(out_dir: &Path, images: &[(Done, String)], kernels: &[KernelResources]) -> io::Result<()> {
    let mut text = String::from("&[\n");
    for (image, _) in images {
        let _ = writeln!(
            text,
            "Image {{ source: {:?}, bytes: &Aligned(*include_bytes!({:?})) }},",
            image.source, image.output
        );
    }
    text.push_str("]\n");
    fs::write(out_dir.join("images.rs"), text)?;

    let mut text = String::from("&[\n");
    for kernel in kernels {
        let _ = writeln!(text, "{kernel:?},");
    }
    text.push_str("]\n");
    fs::write(out_dir.join("resources.rs"), text)
}
