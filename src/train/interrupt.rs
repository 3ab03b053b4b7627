//! Ctrl-C: the first asks the run to stop after a checkpoint, the second stops it at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The exit code of a run that a signal ended: 128 + SIGINT.
pub const EXIT_CODE: u8 = 130;

/// Catches the signal and returns the flag that it sets.
///
/// # Errors
/// What the system says when it refuses a handler, or the process has one already.
pub fn flag() -> Result<Arc<AtomicBool>, ctrlc::Error> {
    let flag = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&flag);
    ctrlc::set_handler(move || {
        if set.swap(true, Ordering::SeqCst) {
            std::process::exit(i32::from(EXIT_CODE));
        }
        eprintln!("\nstopping after a checkpoint; Ctrl-C again stops at once");
    })?;
    Ok(flag)
}
