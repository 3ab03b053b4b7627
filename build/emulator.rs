//! The kernels as C++: one static library, linked whole, because each kernel registers itself by a
//! static object that nothing refers to.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::sources::Sources;
use super::{jobs, layouts};

const COMPILER_MISSING: &str = "the feature `emulator` needs GCC or Clang with C++17, and none works \
    here: install one (apt-get install g++, dnf install gcc-c++, xcode-select --install) or name it in CXX";

/// Builds the library, with the planted kernels where the crate's own tests are to run them.
pub fn build(sources: &Sources, out_dir: &Path) {
    let built = compiler(out_dir)
        .ok_or_else(|| COMPILER_MISSING.to_owned())
        .and_then(|compiler| library(sources, &compiler, &out_dir.join("emulator")));
    if let Err(message) = built {
        jobs::report(&message);
    }
}

fn settings() -> cc::Build {
    let mut build = cc::Build::new();
    // The optimisation does not follow the profile: unoptimised kernels are of no use to anyone.
    build
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .warnings(true)
        .extra_warnings(true);
    // Loops are unrolled with nvcc's pragma.
    build.flag("-Wno-unknown-pragmas");
    // A product rounds before it is added, on every CPU.
    build.flag("-ffp-contract=off");
    build
}

/// The compiler that cc finds, if it can compile C++17 at all.
fn compiler(out_dir: &Path) -> Option<cc::Tool> {
    let tool = settings().try_get_compiler().ok()?;
    if tool.is_like_msvc() {
        return None; // It has neither the inline assembly nor the options.
    }
    let probe = out_dir.join("probe.cpp");
    fs::write(
        &probe,
        "#include <cmath>\nstatic_assert(__cplusplus >= 201703L);\n",
    )
    .ok()?;
    let output = tool
        .to_command()
        .arg("-fsyntax-only")
        .arg(&probe)
        .output()
        .ok()?;
    output.status.success().then_some(tool)
}

fn library(sources: &Sources, compiler: &cc::Tool, folder: &Path) -> Result<(), String> {
    fs::create_dir_all(folder).map_err(|error| error.to_string())?;
    let version = version(compiler);
    let planted: &[PathBuf] = match cfg!(feature = "emulator-tests") {
        true => &sources.planted,
        false => &[],
    };
    let mut work = Vec::new();
    for source in [&sources.emulator, &sources.kernels, planted]
        .into_iter()
        .flatten()
    {
        let mut command = compiler.to_command();
        command
            .arg("-I")
            .arg(&sources.root)
            .args(["-x", "c++", "-c"]);
        let compiler = (version.as_str(), command);
        work.push(layouts::job(sources, source, compiler, folder, "o")?);
    }
    let objects = jobs::run(work)?;
    for object in &objects {
        for warning in object.log.lines().filter(|line| line.contains("warning:")) {
            println!("cargo::warning={warning}");
        }
    }
    jobs::sweep(folder, &objects).map_err(|error| error.to_string())?;

    let mut archive = settings();
    archive.objects(objects.iter().map(|object| &object.output));
    archive.link_lib_modifier("+whole-archive");
    archive
        .try_compile("infonce_emulator")
        .map_err(|error| error.to_string())
}

/// What the compiler calls itself. Fingerprints have it, so that another compiler builds anew.
fn version(compiler: &cc::Tool) -> String {
    let output = Command::new(compiler.path()).arg("--version").output();
    output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}
