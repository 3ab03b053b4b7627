//! Fails a process that leaves something unfreed.

use super::driver;

/// The exit code of such a process.
const LEFT: i32 = 86;

/// Checks the process when it ends.
pub(super) fn watch() {
    // SAFETY: the handler is a function of this library, which the C library calls before it unloads it.
    if unsafe { libc::atexit(look) } != 0 {
        super::report("what the process leaves unfreed is not looked at");
    }
}

extern "C" fn look() {
    let mut driver = driver();
    // Queued work is not run: its memory may be gone.
    let left = driver.contents.left_behind();
    driver.account("process", left);
    if driver.left_something {
        // SAFETY: `fflush` of null writes all streams of the C library; the process ends here, and runs no more
        // handlers.
        unsafe {
            libc::fflush(std::ptr::null_mut());
            libc::_exit(LEFT);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use cudarc::driver::sys::CUresult;

    use super::super::functions::*;
    use super::LEFT;

    /// The environment variable that says what a child process leaves unfreed.
    const LEAVES: &str = "EMULATED_DRIVER_LEAVES";

    /// The test runs itself as a child process, whose exit code shows what is left after a test that passes.
    #[test]
    fn a_process_that_leaves_something_fails() {
        if let Ok(leaves) = std::env::var(LEAVES) {
            return work(&leaves);
        }
        for (leaves, code, words) in [
            ("nothing", 0, None),
            ("stream", LEFT, Some("the context ends with 1 streams")),
            ("context", LEFT, Some("the process ends with 1 streams")),
        ] {
            let child = Command::new(std::env::current_exe().unwrap())
                .args(["a_process_that_leaves_something_fails", "--nocapture"])
                .env(LEAVES, leaves)
                .output()
                .unwrap();
            let [out, err] = [child.stdout, child.stderr]
                .map(|said| String::from_utf8_lossy(&said).into_owned());
            assert!(out.contains("test result: ok. 1 passed"), "{leaves}: {out}");
            assert_eq!(child.status.code(), Some(code), "{leaves}: {err}");
            let said: Vec<&str> = err
                .lines()
                .filter_map(|line| line.strip_prefix("emulated CUDA driver: "))
                .filter(|line| line.contains(" ends with "))
                .collect();
            assert_eq!(said, Vec::from_iter(words), "{leaves}");
        }
    }

    /// The child's calls of the library.
    fn work(leaves: &str) {
        let (mut context, mut stream) = (0, 0);
        // SAFETY: all pointers are to live locals.
        let calls = unsafe {
            [
                cuInit(0),
                cuDevicePrimaryCtxRetain(&mut context, 0),
                cuCtxSetCurrent(context),
                cuStreamCreate(&mut stream, 0),
            ]
        };
        assert_eq!(calls, [CUresult::CUDA_SUCCESS; 4]);
        if leaves == "nothing" {
            assert_eq!(cuStreamDestroy_v2(stream), CUresult::CUDA_SUCCESS);
        }
        if leaves != "context" {
            assert_eq!(cuDevicePrimaryCtxRelease_v2(0), CUresult::CUDA_SUCCESS);
        }
    }
}
