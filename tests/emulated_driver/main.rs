//! What stands on the CUDA driver, run on machines that have none: `cuda_device`, `known_values` and a
//! part of the conformance suite, as child processes that find the library of `driver/` as `libcuda.so`.
//!
//! The library itself is tested in `driver/tests.rs`.
#![cfg(unix)]

mod driver;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What cargo builds again with, so that it finds what it has built.
const FEATURES: &str = if cfg!(feature = "train") {
    "cuda,train"
} else {
    "cuda"
};

fn cargo(verb: &str) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args([verb, "--features", FEATURES]);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The library, built if it is not.
fn library() -> PathBuf {
    let output = cargo("build")
        .args(["--example", "emulated_driver", "--message-format=json"])
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let messages = text(&output.stdout);
    let path = messages.split('"').find(|part| {
        let name = Path::new(part).file_name();
        name.is_some_and(|name| name == "libemulated_driver.so")
    });
    PathBuf::from(path.expect("cargo names what it has built"))
}

/// Runs the tests of a target that `filter` leaves, under the library.
fn run(target: &str, filter: &[&str]) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    std::os::unix::fs::symlink(library(), folder.path().join("libcuda.so")).expect("a link");
    cargo("test")
        .args(["--test", target, "--"])
        .args(filter)
        .env("LD_LIBRARY_PATH", folder.path())
        .output()
        .expect("cargo starts")
}

/// That all tests ran under the library, at least `least`, and passed; and that what they made is
/// freed.
fn passed(output: &Output, least: usize) {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    assert!(
        err.contains("emulated CUDA driver: device 0 runs kernels on the processor"),
        "{err}"
    );
    assert!(!err.contains("the context ends with"), "{err}");
    let count = |word: &str| {
        let before = out.split(word).next()?;
        before.split_whitespace().last()?.parse::<usize>().ok()
    };
    let counts = [" passed", " failed", " ignored"].map(count);
    let ran = counts[0].is_some_and(|count| count >= least);
    assert!(
        ran && counts[1..] == [Some(0), Some(0)],
        "{counts:?}\n{out}"
    );
}

#[test]
#[cfg_attr(
    not(feature = "emulator"),
    ignore = "this build lacks the feature `emulator`"
)]
fn memory_streams_graphs_and_the_engine_on_a_device() {
    passed(&run("cuda_device", &[]), 18);
}

#[test]
#[cfg_attr(
    not(feature = "emulator"),
    ignore = "this build lacks the feature `emulator`"
)]
fn the_engine_gives_what_the_reference_gives() {
    // Every loss and type on small problems; the whole suite takes many minutes.
    let left_out = [
        "row-wise",
        ", unit",
        "x64",
        "x128",
        "x130",
        "portable f16",
        "portable bf16",
    ];
    let mut filter = vec!["cuda "];
    filter.extend(left_out.iter().flat_map(|part| ["--skip", part]));
    passed(&run("conformance", &filter), 150);
    passed(&run("conformance", &["cuda Hopper bf16 row-wise verbs"]), 1);
}

#[test]
#[cfg_attr(
    not(feature = "emulator"),
    ignore = "this build lacks the feature `emulator`"
)]
fn the_engine_gives_the_values_that_are_known() {
    passed(&run("known_values", &["cuda: "]), 18);
}
