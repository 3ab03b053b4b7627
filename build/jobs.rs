//! Runs compilers in parallel, and only for sources that have changed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::{fs, io, thread};

/// One compiler call. `output` carries a fingerprint of everything that the call depends on in its
/// name: a file of that name is a finished result.
pub struct Job {
    /// What is compiled, for messages.
    pub source: String,
    /// The file the command is to write; the path is appended to the command after `-o`.
    pub output: PathBuf,
    /// The call, without `-o`.
    pub command: Command,
}

/// A finished call.
#[derive(Debug)]
pub struct Done {
    /// [`Job::source`].
    pub source: String,
    /// [`Job::output`].
    pub output: PathBuf,
    /// What the compiler printed, also when the result is an earlier run's.
    pub log: String,
}

/// Runs all jobs on as many threads as cargo allows; results are sorted by source.
///
/// # Errors
/// The messages of all jobs that failed.
pub fn run(jobs: Vec<Job>) -> Result<Vec<Done>, String> {
    let threads = std::env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok());
    let threads = threads.unwrap_or(1usize).clamp(1, jobs.len().max(1));
    let jobs = Mutex::new(jobs.into_iter());
    let take = || jobs.lock().ok()?.next();
    let work = || std::iter::from_fn(take).map(finish).collect::<Vec<_>>();
    let results = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let results = workers
            .into_iter()
            .map(|worker| worker.join().expect("jobs return errors"));
        results.flatten().collect::<Vec<_>>()
    });

    let failures: Vec<&str> = results
        .iter()
        .filter_map(|it| it.as_ref().err())
        .map(|it| &**it)
        .collect();
    if !failures.is_empty() {
        return Err(failures.join("\n"));
    }
    let mut done: Vec<Done> = results.into_iter().flatten().collect();
    done.sort_by(|a, b| a.source.cmp(&b.source));
    Ok(done)
}

fn finish(mut job: Job) -> Result<Done, String> {
    let log_file = job.output.with_extension("log");
    let done = |log| Done {
        source: job.source.clone(),
        output: job.output.clone(),
        log,
    };
    if job.output.is_file()
        && let Ok(log) = fs::read_to_string(&log_file)
    {
        return Ok(done(log));
    }
    // Renamed when complete, so that a build that is stopped leaves nothing that looks finished.
    let partial = job.output.with_extension("partial");
    let failed = |what: &dyn std::fmt::Display| format!("{}: {what}", job.source);
    let output = job
        .command
        .arg("-o")
        .arg(&partial)
        .output()
        .map_err(|error| failed(&error))?;
    let log = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(failed(&format!("{}\n{}", output.status, log.trim_end())));
    }
    let keep = || fs::write(&log_file, &log).and_then(|()| fs::rename(&partial, &job.output));
    keep().map_err(|error| failed(&error))?;
    Ok(done(log))
}

/// Prints a message as errors of the build, one a line.
pub fn report(message: &str) {
    for line in message.lines().filter(|line| !line.trim().is_empty()) {
        println!("cargo::error={line}");
    }
}

/// Deletes from `folder` what earlier versions of the sources left there.
pub fn sweep(folder: &Path, current: &[Done]) -> io::Result<()> {
    let kept = |path: &Path| {
        current
            .iter()
            .any(|done| done.output.file_stem() == path.file_stem())
    };
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_file() && !kept(&path) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// A file name in `folder` for the result of compiling the source called `name`.
pub fn output(folder: &Path, name: &str, fingerprint: u64, extension: &str) -> PathBuf {
    let stem = name.replace(['/', '.'], "-");
    folder.join(format!("{stem}-{fingerprint:016x}.{extension}"))
}
