//! Programs of root's that may not pass over files' permissions, as in containers and services that are
//! given no more rights than they need.

use std::io::Error;
use std::thread;

use anyhow::{Context, Result};

/// `linux/capability.h`; libc has neither the numbers nor the structures.
const CAP_DAC_OVERRIDE: u32 = 1;
const VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// What `work` starts has not that right; whoever calls this keeps it.
pub fn confined<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            give_nobody_the_right().context("confine what is started")?;
            work()
        });
        thread.join().expect("thread that starts it")
    })
}

/// Of this thread: what a program gets when it is started by root is in the bounding set, or inherited.
fn give_nobody_the_right() -> Result<(), Error> {
    let mut header = Header {
        version: VERSION,
        pid: 0,
    };
    let mut sets = [Sets::default(); 2];
    // SAFETY: the header and both sets, as this version has them, live through the calls.
    unsafe {
        if libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(CAP_DAC_OVERRIDE)) != 0 {
            return Err(Error::last_os_error());
        }
        if libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) != 0 {
            return Err(Error::last_os_error());
        }
        sets[0].inheritable &= !(1 << CAP_DAC_OVERRIDE);
        if libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) != 0 {
            return Err(Error::last_os_error());
        }
    }
    Ok(())
}
