//! What tests say where there is no CUDA device.

/// Says that tests are ignored, and why; ends the process instead where `INFONCE_REQUIRE_CUDA` is set.
pub fn ignored(reason: &str) {
    if std::env::var_os("INFONCE_REQUIRE_CUDA").is_some_and(|value| !value.is_empty()) {
        eprintln!("error: INFONCE_REQUIRE_CUDA is set, but {reason}");
        std::process::exit(1);
    }
    eprintln!("ignored: {reason}");
}
