//! The program: settings in, exit code out.

use std::process::ExitCode;

use why502::cli::{report_failure, say};
use why502::config::{Job, Settings};
use why502::{check, run};

fn main() -> ExitCode {
    return_freed_memory();
    let settings = match Settings::load(std::env::args_os()) {
        Ok(settings) => settings,
        Err(refusal) => return refusal.report(),
    };
    say(settings.verbosity as u8);
    let node = &settings.node;
    let result = match &settings.job {
        Job::Run(job) => run::run(job, node),
        Job::Capture(job) => run::capture(job, node),
        Job::Explain(job) => run::explain(job, node),
        Job::Check(job) => check::check(job),
        Job::Report(job) => run::report(job),
    };
    result.unwrap_or_else(|error| report_failure(&error)).into()
}

/// Keeps large blocks out of the heap. glibc would raise its threshold with the first block freed,
/// here the kernel's BTF of six megabytes, and hold such blocks for good.
fn return_freed_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets the allocator's own parameters, before any other thread.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 * 1024);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 128 * 1024);
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}
