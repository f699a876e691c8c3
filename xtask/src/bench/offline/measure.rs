//! What a command costs: processor time and memory, as the kernel accounts them at its end.

use std::io::Read as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::shell;

pub(super) struct Cost {
    /// User and system time.
    pub(super) cpu_seconds: f64,
    pub(super) peak_bytes: f64,
    pub(super) output: Vec<u8>,
}

/// Runs the command to its end.
pub(super) fn run(command: &mut Command) -> Result<Cost> {
    shell::announce(command);
    let line = shell::line(command);
    let context = || format!("run {line}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(context)?;
    let mut output = Vec::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_end(&mut output).with_context(context)?;
    }
    let pid = i32::try_from(child.id()).context("a process id")?;
    let mut status = 0;
    // SAFETY: every field of rusage is a number, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live values; `child` is ours and not waited for elsewhere.
    let waited = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
    if waited != pid {
        bail!("wait for {line}");
    }
    let status = ExitStatus::from_raw(status);
    if !status.success() {
        bail!("{line} ended with {status}");
    }
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let peak_bytes = usage.ru_maxrss as f64 * 1024.0;
    Ok(Cost {
        cpu_seconds: seconds(usage.ru_utime) + seconds(usage.ru_stime),
        peak_bytes,
        output,
    })
}
