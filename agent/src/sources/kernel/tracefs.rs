//! Makes tracefs readable without leaving a mount behind.

use std::ffi::CString;
use std::path::Path;

const PLACE: &str = "/sys/kernel/tracing";

/// Whether tracepoints can be found by name; mounts tracefs for this process alone if need be.
///
/// The mount lives in a mount namespace of the process's own, so it ends with the process.
pub(super) fn available() -> Result<(), String> {
    if readable() {
        return Ok(());
    }
    mount_privately().map_err(|error| {
        format!("tracefs is not mounted at {PLACE} and cannot be mounted for this process ({error}); mount it, or run with CAP_SYS_ADMIN")
    })?;
    if readable() {
        Ok(())
    } else {
        Err(format!(
            "{PLACE} cannot be read: CAP_DAC_READ_SEARCH is needed"
        ))
    }
}

/// Whether this kernel has a tracepoint (`category/name`).
pub(super) fn has(event: &str) -> bool {
    Path::new(PLACE).join("events").join(event).is_dir()
}

fn readable() -> bool {
    Path::new(PLACE).join("events/syscalls").is_dir()
        || Path::new(PLACE).join("events/sched").is_dir()
}

fn mount_privately() -> std::io::Result<()> {
    let check = |result: i32| {
        if result == 0 {
            Ok(())
        } else {
            Err(std::io::Error::last_os_error())
        }
    };
    let place = CString::new(PLACE)?;
    // SAFETY: plain system calls on constant strings.
    unsafe {
        check(libc::unshare(libc::CLONE_NEWNS))?;
        // Mounts made elsewhere still appear here; ours appear nowhere else.
        check(libc::mount(
            std::ptr::null(),
            c"/".as_ptr(),
            std::ptr::null(),
            libc::MS_REC | libc::MS_SLAVE,
            std::ptr::null(),
        ))?;
        check(libc::mount(
            c"tracefs".as_ptr(),
            place.as_ptr(),
            c"tracefs".as_ptr(),
            0,
            std::ptr::null(),
        ))
    }
}
