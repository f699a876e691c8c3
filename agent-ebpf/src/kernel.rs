//! Reads of kernel structures, at offsets that the agent takes from the running kernel's BTF.

use agent_ebpf::{Ends, Layout, PATH};
use aya_ebpf::helpers::{
    bpf_probe_read_kernel, bpf_probe_read_kernel_buf, generated::bpf_get_socket_cookie,
};

pub const AF_UNIX: u16 = 1;
pub const AF_INET: u16 = 2;
pub const AF_INET6: u16 = 10;
pub const SOCK_STREAM: u16 = 1;

pub const TCP_ESTABLISHED: i32 = 1;
pub const TCP_SYN_SENT: i32 = 2;
pub const TCP_SYN_RECV: i32 = 3;
pub const TCP_FIN_WAIT1: i32 = 4;
pub const TCP_CLOSE: i32 = 7;
pub const TCP_CLOSE_WAIT: i32 = 8;
pub const TCP_LAST_ACK: i32 = 9;
pub const TCP_LISTEN: i32 = 10;

/// Set by the agent before loading; the verifier sees its fields as constants.
#[unsafe(no_mangle)]
pub static LAYOUT: Layout = unsafe { core::mem::zeroed() };

/// One field's offset. Volatile: the compiler must not take the zeroes above for the values.
#[macro_export]
macro_rules! offset {
    ($field:ident) => {
        // SAFETY: a static's field.
        unsafe { core::ptr::read_volatile(&raw const $crate::kernel::LAYOUT.$field) }
    };
}

/// Reads a field of any kernel structure through the helper, which never faults; 0 if it cannot.
#[macro_export]
macro_rules! field {
    ($base:expr, $field:ident, $type:ty) => {
        $crate::kernel::read::<$type>($base, $crate::offset!($field))
    };
}

#[inline(always)]
pub fn read<T: Default + Copy>(base: u64, offset: u32) -> T {
    if offset == u32::MAX {
        return T::default();
    }
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel((base + u64::from(offset)) as *const T) }.unwrap_or_default()
}

/// The socket's identity for as long as the host is up.
#[inline(always)]
pub fn cookie(sk: *const u8) -> u64 {
    // SAFETY: `sk` comes typed from the tracepoint.
    unsafe { bpf_get_socket_cookie(sk.cast_mut().cast()) }
}

/// Direct loads from a typed socket, for the hot path: no helper call. The pointer
/// must come from the tracepoint's arguments; the verifier refuses any other.
pub mod direct {
    #[inline(always)]
    pub fn cookie(sk: *const u8) -> u64 {
        // SAFETY: a member of `struct sock_common`, checked by the verifier.
        unsafe { core::ptr::read_volatile(sk.add(crate::offset!(skc_cookie) as usize).cast()) }
    }

    #[inline(always)]
    pub fn family(sk: *const u8) -> u16 {
        // SAFETY: a member of `struct sock_common`, checked by the verifier.
        unsafe { core::ptr::read_volatile(sk.add(crate::offset!(skc_family) as usize).cast()) }
    }
}

#[inline(always)]
pub fn family(sk: u64) -> u16 {
    field!(sk, skc_family, u16)
}

#[inline(always)]
pub fn netns(sk: u64) -> u32 {
    let net = field!(sk, skc_net, u64);
    field!(net, net_inum, u32)
}

/// Fills the ends of a TCP or Unix stream socket. For Unix `path` is the name of the peer, else its own.
#[inline(always)]
pub fn ends(sk: u64, out: &mut Ends) {
    out.family = family(sk);
    out.netns = netns(sk);
    if out.family == AF_UNIX {
        let peer = field!(sk, unix_peer, u64);
        let mut name = 0;
        if peer != 0 {
            name = field!(peer, unix_addr, u64);
        }
        if name == 0 {
            name = field!(sk, unix_addr, u64);
        }
        unix_name(name, out);
        return;
    }
    out.remote_port = u16::from_be(field!(sk, skc_dport, u16));
    out.local_port = local_port(sk);
    if out.family == AF_INET6 {
        out.remote = field!(sk, skc_v6_daddr, [u8; 16]);
        out.local = field!(sk, skc_v6_rcv_saddr, [u8; 16]);
    } else {
        let remote = field!(sk, skc_daddr, [u8; 4]);
        let local = field!(sk, skc_rcv_saddr, [u8; 4]);
        out.remote[..4].copy_from_slice(&remote);
        out.local[..4].copy_from_slice(&local);
    }
}

/// The local port; at `→ CLOSE` only `inet_sport` still holds it.
#[inline(always)]
pub fn local_port(sk: u64) -> u16 {
    let num = field!(sk, skc_num, u16);
    if num != 0 {
        num
    } else {
        u16::from_be(field!(sk, inet_sport, u16))
    }
}

/// Copies a `struct unix_address`'s path.
#[inline(always)]
pub fn unix_name(address: u64, out: &mut Ends) {
    if address == 0 {
        return;
    }
    let len = field!(address, unix_address_len, u32);
    // The length counts the family's two bytes.
    let len = if len < 2 { 0 } else { len - 2 };
    out.path_len = if len > PATH as u32 {
        PATH as u16
    } else {
        len as u16
    };
    let name = address + u64::from(offset!(unix_address_name)) + 2;
    // SAFETY: the helper checks the address. The structure is allocated to the name's length, so a
    // short name may be followed by other data: the agent reads `path_len` bytes only.
    let _ = unsafe { bpf_probe_read_kernel_buf(name as *const u8, &mut out.path) };
}

/// An all-zero boundary value small enough for the stack.
#[inline(always)]
pub fn zero<T: zerocopy::FromZeros>() -> T {
    T::new_zeroed()
}
