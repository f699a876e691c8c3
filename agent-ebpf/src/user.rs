//! Reads of the bytes a proxy sends or receives, from the arguments of its current system call.

use agent_ebpf::records::{HEADER, UNREAD};
use aya_ebpf::helpers::{
    bpf_probe_read_user, bpf_probe_read_user_buf,
    generated::{bpf_get_current_task_btf, bpf_task_pt_regs},
};

use crate::{field, kernel, offset};

/// Where a system call's data begins in the caller's memory, and how much the first piece holds.
#[derive(Clone, Copy)]
pub struct Buffer {
    pub ptr: u64,
    pub len: u64,
}

#[cfg(bpf_target_arch = "aarch64")]
mod arch {
    /// orig_x0, x1 to x3: at a system call's exit x0 holds its result.
    pub const ARGUMENTS: [usize; 4] = [272, 8, 16, 24];
    /// `syscallno`, of 32 bits.
    pub const NUMBER: usize = 280;
    /// `pstate`, and the bit in it that says that the caller runs the 32-bit instructions.
    pub const MODE: usize = 264;
    pub const MODE_BITS: u16 = 0x10;
    pub const MODE_64: u16 = 0;
    pub const CLOSE: u32 = 57;
    pub const READ: u32 = 63;
    pub const WRITE: u32 = 64;
    pub const READV: u32 = 65;
    pub const WRITEV: u32 = 66;
    pub const LISTEN: u32 = 201;
    pub const CONNECT: u32 = 203;
    pub const SENDTO: u32 = 206;
    pub const RECVFROM: u32 = 207;
    pub const SENDMSG: u32 = 211;
    pub const RECVMSG: u32 = 212;
}

#[cfg(not(bpf_target_arch = "aarch64"))]
mod arch {
    /// Offsets of the first four arguments (di, si, dx, r10) in `struct pt_regs`.
    pub const ARGUMENTS: [usize; 4] = [112, 104, 96, 56];
    /// Offset of the system call's number (orig_ax).
    pub const NUMBER: usize = 120;
    /// `cs`: which tells callers of 64 bits from those of 32, whose calls have other numbers.
    pub const MODE: usize = 136;
    pub const MODE_BITS: u16 = 0xffff;
    pub const MODE_64: u16 = 0x33;
    pub const READ: u32 = 0;
    pub const WRITE: u32 = 1;
    pub const CLOSE: u32 = 3;
    pub const READV: u32 = 19;
    pub const WRITEV: u32 = 20;
    pub const CONNECT: u32 = 42;
    pub const SENDTO: u32 = 44;
    pub const RECVFROM: u32 = 45;
    pub const SENDMSG: u32 = 46;
    pub const RECVMSG: u32 = 47;
    pub const LISTEN: u32 = 50;
}

/// What a system call does, of those that concern sockets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Send,
    /// With these flags.
    Receive(i32),
    Connect,
    Listen,
    Close,
    Other,
}

impl Call {
    /// Of the system call whose tracepoint handed over these registers.
    #[inline(always)]
    pub fn of(registers: *const u8) -> Call {
        let caller = Registers {
            base: registers,
            typed: true,
        };
        let call = match caller.get::<u32>(arch::NUMBER) {
            arch::SENDTO | arch::WRITE | arch::WRITEV | arch::SENDMSG => Call::Send,
            arch::READ | arch::READV => Call::Receive(0),
            arch::RECVFROM => Call::Receive(caller.get::<u64>(arch::ARGUMENTS[3]) as i32),
            arch::RECVMSG => Call::Receive(caller.get::<u64>(arch::ARGUMENTS[2]) as i32),
            arch::CONNECT => Call::Connect,
            arch::LISTEN => Call::Listen,
            arch::CLOSE => Call::Close,
            _ => return Call::Other,
        };
        match caller.get::<u16>(arch::MODE) & arch::MODE_BITS {
            arch::MODE_64 => call,
            _ => Call::Other,
        }
    }
}

/// The `n`th argument of the current system call.
#[inline(always)]
pub fn argument(n: usize) -> u64 {
    Registers::of_caller().get::<u64>(arch::ARGUMENTS[n])
}

/// What the caller of the current system call had in its registers.
struct Registers {
    base: *const u8,
    /// Whether the verifier knows what `base` points to.
    typed: bool,
}

impl Registers {
    #[inline(always)]
    fn of_caller() -> Registers {
        let offset = offset!(stack_regs);
        if offset == u32::MAX {
            // SAFETY: no arguments but the current task.
            let base = unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) } as *const u8;
            return Registers { base, typed: true };
        }
        let base = field!(kernel::task(), task_stack, u64) + u64::from(offset);
        Registers {
            base: base as *const u8,
            typed: false,
        }
    }

    #[inline(always)]
    fn get<T: Default + Copy>(&self, offset: usize) -> T {
        if self.typed {
            // SAFETY: a field of `struct pt_regs`, checked by the verifier.
            unsafe { core::ptr::read_volatile(self.base.add(offset).cast::<T>()) }
        } else {
            kernel::read(self.base as u64, offset as u32)
        }
    }
}

/// The data of the current send or receive call; `None` for calls whose data is not in user memory.
#[inline(always)]
pub fn buffer() -> Option<Buffer> {
    let caller = Registers::of_caller();
    let second = caller.get::<u64>(arch::ARGUMENTS[1]);
    match caller.get::<u32>(arch::NUMBER) {
        arch::SENDTO | arch::RECVFROM | arch::WRITE | arch::READ => Some(Buffer {
            ptr: second,
            len: caller.get::<u64>(arch::ARGUMENTS[2]),
        }),
        arch::WRITEV | arch::READV => vector(second),
        arch::SENDMSG | arch::RECVMSG => {
            // `struct msghdr`: msg_iov stands after name, namelen and padding.
            // SAFETY: the helper checks the address.
            vector(unsafe { bpf_probe_read_user((second + 16) as *const u64) }.ok()?)
        }
        _ => None,
    }
}

/// The first non-empty piece of an I/O vector.
#[inline(always)]
fn vector(iov: u64) -> Option<Buffer> {
    // SAFETY: the helper checks the address.
    let [ptr, len] = unsafe { bpf_probe_read_user(iov as *const [u64; 2]) }.ok()?;
    Some(Buffer { ptr, len })
}

/// What is at this offset of the data of a TLS hello, of which there are so many bytes.
#[inline(always)]
pub fn hello_at(buffer: Buffer, at: u32) -> [u8; 8] {
    let mut bytes = UNREAD;
    if u64::from(at) < buffer.len {
        read_at(buffer, at, &mut bytes);
    }
    bytes
}

/// The header of a TLS record at this offset of the data, of which there are so many bytes; zero where
/// not all of it is there.
#[inline(always)]
pub fn record_at(buffer: Buffer, there: u64, at: u32) -> [u8; HEADER as usize] {
    let mut bytes = [0; HEADER as usize];
    let end = u64::from(at) + u64::from(HEADER);
    if end <= buffer.len && end <= there {
        read_at(buffer, at, &mut bytes);
    }
    bytes
}

#[inline(always)]
fn read_at(buffer: Buffer, at: u32, out: &mut [u8]) {
    // SAFETY: the helper checks the address; what cannot be read it makes zero.
    let _ = unsafe { bpf_probe_read_user_buf((buffer.ptr + u64::from(at)) as *const u8, out) };
}

/// Bytes of `HTTP/1.x NNN`: a first piece that is shorter is no line by itself.
pub const LINE: u32 = 12;
/// Pieces that are looked at: the words of a first line, what is between them, and a bit more.
const PIECES: u64 = 8;

/// Puts the pieces of what is sent now one after the other, up to `N - 1` bytes; returns how many. Varnish
/// hands over each word of a head by itself.
///
/// # Safety
/// `out` may be written for `N` bytes, which is a power of two; the verifier wants to see `2 * N`.
#[inline(always)]
pub unsafe fn gather<const N: usize>(out: *mut u8) -> u32 {
    let caller = Registers::of_caller();
    if caller.get::<u32>(arch::NUMBER) != arch::WRITEV {
        return 0;
    }
    let list = caller.get::<u64>(arch::ARGUMENTS[1]);
    let count = caller.get::<u64>(arch::ARGUMENTS[2]);
    let mut at = 0;
    for nth in 0..PIECES {
        if nth >= count {
            break;
        }
        // SAFETY: the helper checks the address.
        let piece = unsafe { bpf_probe_read_user((list + nth * 16) as *const [u64; 2]) };
        let Ok([ptr, len]) = piece else {
            break;
        };
        let room = N as u64 - 1 - at;
        let part = if len < room { len } else { room };
        // As in `read_user`.
        // SAFETY: locals.
        let (place, size) = unsafe {
            (
                core::ptr::read_volatile(&raw const at) as usize & (N - 1),
                core::ptr::read_volatile(&raw const part) as usize & (N - 1),
            )
        };
        // SAFETY: `place + size` < N, by what the caller promises; the helper checks the address.
        let read = unsafe {
            let part = core::slice::from_raw_parts_mut(out.add(place), size);
            bpf_probe_read_user_buf(ptr as *const u8, part)
        };
        if read.is_err() {
            break;
        }
        at += part;
        if part < len {
            break;
        }
    }
    at as u32
}

/// Reads up to `out.len()` bytes, no more than `len`; returns how many were asked for.
#[inline(always)]
pub fn read_user<const N: usize>(ptr: u64, len: u64, out: &mut [u8; N]) -> u32 {
    // SAFETY: the helper checks the address. A constant size keeps the verifier happy; what lies
    // behind a short buffer is cut off by the returned length.
    if len >= N as u64 {
        return match unsafe { bpf_probe_read_user_buf(ptr as *const u8, out) } {
            Ok(()) => N as u32,
            Err(_) => 0,
        };
    }
    // Volatile, or the compiler drops the mask as superfluous, and the verifier wants to see it.
    // SAFETY: a local.
    let len = unsafe { core::ptr::read_volatile(&raw const len) } as usize & (N - 1);
    // SAFETY: `len` < N.
    let part = unsafe { core::slice::from_raw_parts_mut(out.as_mut_ptr(), len) };
    match unsafe { bpf_probe_read_user_buf(ptr as *const u8, part) } {
        Ok(()) => len as u32,
        Err(_) => 0,
    }
}
