//! Reads of the bytes a proxy sends or receives, from the arguments of its current system call.

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
    /// orig_x0, x1, x2: at a system call's exit x0 holds its result.
    pub const ARGUMENTS: [usize; 3] = [272, 8, 16];
    pub const NUMBER: usize = 280;
    pub const READ: u64 = 63;
    pub const WRITE: u64 = 64;
    pub const READV: u64 = 65;
    pub const WRITEV: u64 = 66;
    pub const SENDTO: u64 = 206;
    pub const RECVFROM: u64 = 207;
    pub const SENDMSG: u64 = 211;
    pub const RECVMSG: u64 = 212;
}

#[cfg(not(bpf_target_arch = "aarch64"))]
mod arch {
    /// Offsets of the first three arguments (di, si, dx) in `struct pt_regs`.
    pub const ARGUMENTS: [usize; 3] = [112, 104, 96];
    /// Offset of the system call's number (orig_ax).
    pub const NUMBER: usize = 120;
    pub const READ: u64 = 0;
    pub const WRITE: u64 = 1;
    pub const READV: u64 = 19;
    pub const WRITEV: u64 = 20;
    pub const SENDTO: u64 = 44;
    pub const RECVFROM: u64 = 45;
    pub const SENDMSG: u64 = 46;
    pub const RECVMSG: u64 = 47;
}

/// The `n`th argument of the current system call.
#[inline(always)]
pub fn argument(n: usize) -> u64 {
    Registers::of_caller().get(arch::ARGUMENTS[n])
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
    fn get(&self, offset: usize) -> u64 {
        if self.typed {
            // SAFETY: a field of `struct pt_regs`, checked by the verifier.
            unsafe { core::ptr::read_volatile(self.base.add(offset).cast::<u64>()) }
        } else {
            kernel::read(self.base as u64, offset as u32)
        }
    }
}

/// The data of the current send or receive call; `None` for calls whose data is not in user memory.
#[inline(always)]
pub fn buffer() -> Option<Buffer> {
    let caller = Registers::of_caller();
    let second = caller.get(arch::ARGUMENTS[1]);
    match caller.get(arch::NUMBER) & 0xffff_ffff {
        arch::SENDTO | arch::RECVFROM | arch::WRITE | arch::READ => Some(Buffer {
            ptr: second,
            len: caller.get(arch::ARGUMENTS[2]),
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
