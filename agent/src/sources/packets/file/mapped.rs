//! A file's own pages as a capture's bytes: nothing is copied, and of a frame's payload only what is
//! looked at is brought near.
//!
//! Who shortens a file takes its pages away from those who look at them, and the kernel sends them
//! SIGBUS. Here zeros take their place, which is noted: what was read since must not be believed.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::{mem, ptr, slice};

/// Mapped at a time; its pages count as this process's memory.
pub(super) const WINDOW: usize = 1 << 20;
/// Windows at once; without one, a file is read as others are.
const WINDOWS: usize = 16;
/// Larger than any page of a processor that Linux runs on; an offset has to be a multiple of it.
const ALIGNED: u64 = 64 << 10;

/// Where a window lies, for the signal's handler; 0 where there is none.
struct Guard {
    taken: AtomicBool,
    from: AtomicUsize,
    until: AtomicUsize,
    torn: AtomicBool,
}

static GUARDS: [Guard; WINDOWS] = [const {
    Guard {
        taken: AtomicBool::new(false),
        from: AtomicUsize::new(0),
        until: AtomicUsize::new(0),
        torn: AtomicBool::new(false),
    }
}; WINDOWS];

/// A moving window onto a file.
pub(super) struct Mapped {
    file: File,
    guard: &'static Guard,
    at: *const u8,
    length: usize,
}

// SAFETY: the window is private to this value, and only read.
unsafe impl Send for Mapped {}

impl Mapped {
    /// Shows the file's beginning; `None` where too many files are mapped already, or the file system
    /// cannot map this one or does not say how long it is.
    pub(super) fn new(file: File) -> Option<Mapped> {
        static HANDLER: Once = Once::new();
        HANDLER.call_once(install);
        let guard = GUARDS.iter().find(|guard| {
            let free = &guard.taken;
            free.compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        })?;
        guard.torn.store(false, Ordering::Release);
        let mut mapped = Mapped {
            file,
            guard,
            at: ptr::null(),
            length: 0,
        };
        mapped.show(0, 0).ok()?;
        (mapped.length > 0).then_some(mapped)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        if self.length == 0 {
            return &[];
        }
        // SAFETY: so many bytes are mapped there until the window moves, which takes `&mut self`.
        // They change where somebody writes to the file meanwhile: every use of them bears any bytes.
        unsafe { slice::from_raw_parts(self.at, self.length) }
    }

    /// Moves the window so that it begins at or before `from` and holds at least `length` bytes, or
    /// all that the file has; says where it begins.
    pub(super) fn show(&mut self, from: u64, length: usize) -> io::Result<u64> {
        self.unmap();
        let size = self.file.metadata()?.len();
        if size < from {
            // What was read before is gone, perhaps while it was read.
            self.guard.torn.store(true, Ordering::Release);
        }
        let begin = from - from % ALIGNED;
        let wanted = (from - begin) as usize + length;
        let shown = size.saturating_sub(begin).min(wanted.max(WINDOW) as u64) as usize;
        if shown == 0 {
            return Ok(begin);
        }
        let offset = libc::off_t::try_from(begin).map_err(io::Error::other)?;
        // Pages come sixteen at a time as they are read; asking for all at once takes each by itself.
        let flags = libc::MAP_SHARED;
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let at = unsafe {
            let fd = self.file.as_raw_fd();
            libc::mmap(ptr::null_mut(), shown, libc::PROT_READ, flags, fd, offset)
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        (self.at, self.length) = (at.cast(), shown);
        self.guard.until.store(at.addr() + shown, Ordering::Release);
        self.guard.from.store(at.addr(), Ordering::Release);
        Ok(begin)
    }

    /// Some of what was shown was not the file's.
    pub(super) fn is_torn(&self) -> bool {
        self.guard.torn.load(Ordering::Acquire)
    }

    fn unmap(&mut self) {
        if self.length == 0 {
            return;
        }
        self.guard.from.store(0, Ordering::Release);
        self.guard.until.store(0, Ordering::Release);
        // SAFETY: this was mapped by `show`, and nothing borrows from it any more.
        unsafe { libc::munmap(self.at.cast_mut().cast(), self.length) };
        self.length = 0;
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        self.unmap();
        self.guard.taken.store(false, Ordering::Release);
    }
}

fn install() {
    // SAFETY: all of it is integers and pointers, for which zero is a value.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = on_bus_error as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the action is whole, and its handler does only what a handler may.
    unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) };
}

/// Puts zeros where a window's page is gone. Any other error ends the program as it would without
/// this: it happens again, with nobody to handle it.
extern "C" fn on_bus_error(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel gives a handler of this kind the signal's facts.
    let at = unsafe { (*info).si_addr() }.addr();
    for guard in &GUARDS {
        let from = guard.from.load(Ordering::Acquire);
        let until = guard.until.load(Ordering::Acquire);
        if !(from..until).contains(&at) {
            continue;
        }
        guard.torn.store(true, Ordering::Release);
        // From here to the end; a page of the file that is still there is missed by nobody.
        let page = at - (at - from) % ALIGNED as usize;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        let gone = ptr::with_exposed_provenance_mut(page);
        // SAFETY: within a window that the thread which reads it has mapped, and cannot unmap now.
        let zeros = unsafe { libc::mmap(gone, until - page, libc::PROT_READ, flags, -1, 0) };
        if zeros != libc::MAP_FAILED {
            return;
        }
    }
    // SAFETY: setting the default action is allowed in a handler.
    unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
}
