//! Notes which kernels ran in tests that passed and in tests that failed, for records of runs on hardware.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use infonce::cuda::CudaTrace;

/// The kernels that a test launches. When dropped, it appends a line `passed KERNEL` or `failed KERNEL` for each to the
/// file that `INFONCE_KERNELS` names, unless the suite has written that line. So the file is complete however the suite
/// ends.
#[derive(Default)]
pub struct Noted {
    pub trace: CudaTrace,
    passed: bool,
}

impl Noted {
    pub fn passed(mut self) {
        self.passed = true;
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        static WRITTEN: Mutex<BTreeSet<(bool, &str)>> = Mutex::new(BTreeSet::new());
        let Some(path) = std::env::var_os("INFONCE_KERNELS") else {
            return;
        };
        let mut written = WRITTEN.lock().unwrap_or_else(PoisonError::into_inner);
        let verdict = if self.passed { "passed" } else { "failed" };
        let kernels = self.trace.kernels().unwrap_or_default().into_iter();
        let new = kernels.filter(|kernel| written.insert((self.passed, kernel.kernel)));
        let lines: String = new
            .map(|kernel| format!("{verdict} {}\n", kernel.kernel))
            .collect();
        let file = OpenOptions::new().create(true).append(true).open(&path);
        if let Err(error) = file.and_then(|mut file| file.write_all(lines.as_bytes())) {
            eprintln!("INFONCE_KERNELS={}: {error}", path.display());
        }
    }
}
