//! Compiles `kernels/` twice: as C++ that runs on the CPU (feature `emulator`), and with nvcc into images that the
//! crate embeds (feature `cuda`); for both it writes the list of kernels as Rust. Without these features it does
//! nothing.

#[cfg(any(feature = "emulator", feature = "cuda"))]
mod build {
    #[cfg(feature = "emulator")]
    pub mod emulator;
    #[cfg(feature = "cuda")]
    pub mod fatbin;
    pub mod jobs;
    pub mod layouts;
    pub mod list;
    #[cfg(feature = "cuda")]
    pub mod nvcc;
    #[cfg(feature = "cuda")]
    pub mod ptxas;
    #[cfg(feature = "cuda")]
    pub mod sass;
    pub mod sources;
}

/// Keeps what the crate itself does not need of src/launch/params.rs.
#[cfg(any(feature = "emulator", feature = "cuda"))]
macro_rules! for_build {
    ($($item:item)*) => { $($item)* };
}

#[cfg(any(feature = "emulator", feature = "cuda"))]
#[path = "src/launch/params.rs"]
mod params;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(any(feature = "emulator", feature = "cuda"))]
    kernels();
}

#[cfg(any(feature = "emulator", feature = "cuda"))]
fn kernels() {
    use std::path::{Path, PathBuf};

    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed=kernels");
    println!("cargo::rerun-if-env-changed=DOCS_RS");
    let out_dir = std::env::var_os("OUT_DIR").map(PathBuf::from);
    let out_dir = out_dir.expect("cargo sets OUT_DIR for build scripts");
    // On docs.rs nothing is linked or run, and there is no nvcc.
    let documentation_only = std::env::var_os("DOCS_RS").is_some();
    let sources = match build::sources::Sources::find(Path::new("kernels")) {
        Ok(sources) => sources,
        Err(error) => return println!("cargo::error=the folder `kernels` cannot be read: {error}"),
    };

    let text = std::fs::read_to_string("kernels/list.h");
    let text = text.map_err(|error| format!("kernels/list.h: {error}"));
    let list = match text.and_then(|text| build::list::parse(&text)) {
        Ok(list) => list,
        Err(error) => return println!("cargo::error={error}"),
    };
    if let Err(error) = std::fs::write(out_dir.join("list.rs"), list.rust()) {
        return println!("cargo::error=the list of kernels cannot be written: {error}");
    }

    #[cfg(feature = "emulator")]
    if !documentation_only {
        build::emulator::build(&sources, &out_dir);
    }
    #[cfg(feature = "cuda")]
    build::fatbin::build(&sources, &list, &out_dir, documentation_only);
}
