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

/// Where a field is in the record of a tracepoint (`category/name`), if this kernel has both.
pub(super) fn offset(event: &str, field: &str) -> Option<u32> {
    let format = Path::new(PLACE).join("events").join(event).join("format");
    offset_in(&std::fs::read_to_string(format).ok()?, field)
}

fn offset_in(format: &str, field: &str) -> Option<u32> {
    format.lines().find_map(|line| {
        // `	field:unsigned int fd;	offset:16;	size:8;	signed:0;`
        let mut parts = line.trim().split(';').map(str::trim);
        let declared = parts.next()?.strip_prefix("field:")?;
        let name = declared.rsplit([' ', '*']).next()?;
        let offset = parts.next()?.strip_prefix("offset:")?;
        (name == field).then(|| offset.parse().ok()).flatten()
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_name_in_a_format() {
        let format = "name: sys_enter_close\nID: 727\nformat:\n\
                      \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
                      \tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n\
                      \tfield:int __syscall_nr;\toffset:8;\tsize:4;\tsigned:1;\n\
                      \tfield:unsigned int fd;\toffset:16;\tsize:8;\tsigned:0;\n\
                      \tfield:const char *name;\toffset:24;\tsize:8;\tsigned:0;\n\n\
                      print fmt: \"fd: 0x%08lx\", ((unsigned long)(REC->fd))\n";
        assert_eq!(offset_in(format, "fd"), Some(16));
        assert_eq!(offset_in(format, "name"), Some(24));
        assert_eq!(offset_in(format, "pid"), None);
        assert_eq!(offset_in("", "fd"), None);
    }
}
