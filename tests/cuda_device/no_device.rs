//! Reports that there is no CUDA device.

/// Prints that tests are ignored, and why. Where `INFONCE_REQUIRE_CUDA` is set, ends the process with an error instead.
pub fn ignored(reason: &str) {
    if std::env::var_os("INFONCE_REQUIRE_CUDA").is_some_and(|value| !value.is_empty()) {
        eprintln!("error: INFONCE_REQUIRE_CUDA is set, but {reason}");
        std::process::exit(1);
    }
    eprintln!("ignored: {reason}");
}
