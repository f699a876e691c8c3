//! Reads of kernel structures, at offsets that the agent takes from the running kernel's BTF.

use core::arch::asm;
use core::mem::MaybeUninit;

use agent_ebpf::{Ends, Layout, PATH};
use aya_ebpf::helpers::{
    bpf_probe_read_kernel_buf,
    generated::{
        bpf_get_current_task, bpf_get_current_task_btf, bpf_get_socket_cookie, bpf_jiffies64,
        bpf_ktime_get_ns, bpf_probe_read_kernel,
    },
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
    let mut value = MaybeUninit::<T>::uninit();
    // No look at the result: it would part the ways, at every field, for verifiers to follow them all.
    // SAFETY: the helper checks the address, and fills the value with zeroes where it cannot read.
    unsafe {
        bpf_probe_read_kernel(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            (base + u64::from(offset)) as *const _,
        );
        value.assume_init()
    }
}

/// The socket's identity for as long as the host is up. Where no probe can have one made it is one of
/// our own, with the highest bit but one set, for this flow alone.
#[inline(always)]
pub fn cookie(sk: *const u8) -> u64 {
    if offset!(skc_cookie) == u32::MAX {
        return now() | 1 << 62;
    }
    // SAFETY: `sk` comes typed from the tracepoint.
    unsafe { bpf_get_socket_cookie(sk.cast_mut().cast()) }
}

/// A socket as a hook hands it over.
pub trait Socket: Copy {
    /// The address of its `struct sock`, to calculate with.
    fn address(self) -> u64;
    /// The same for reads through the helper.
    fn raw(self) -> u64;
    fn is(self, cookie: u64) -> bool;
    /// 0 where none is known.
    fn cookie(self) -> u64;
    fn family(self) -> u16;
    fn tcp_ends(self, out: &mut Ends);
    /// `write_seq` and `total_retrans` of a TCP socket.
    fn sent_so_far(self) -> Option<(u32, u32)>;
}

/// With a type that the verifier knows, from a tracepoint's or function's own arguments: read by plain loads.
impl Socket for *const u8 {
    #[inline(always)]
    fn address(self) -> u64 {
        address(self)
    }

    #[inline(always)]
    fn raw(self) -> u64 {
        self as u64
    }

    #[inline(always)]
    fn is(self, cookie: u64) -> bool {
        // Sends or receives alone may come without types.
        if offset!(untyped) == 1 && is_inode(cookie) {
            return inode(self.raw()) == cookie;
        }
        direct::is(self, cookie)
    }

    #[inline(always)]
    fn cookie(self) -> u64 {
        cookie(self)
    }

    #[inline(always)]
    fn family(self) -> u16 {
        direct::family(self)
    }

    #[inline(always)]
    fn tcp_ends(self, out: &mut Ends) {
        direct::ends(self, out);
    }

    #[inline(always)]
    fn sent_so_far(self) -> Option<(u32, u32)> {
        let tcp = direct::tcp(self)?;
        Some((
            crate::member!(tcp, write_seq, u32),
            crate::member!(tcp, total_retrans, u32),
        ))
    }
}

/// A socket of which the verifier knows nothing, so that none of its helpers takes it. One of TCP was given
/// its cookie when it was connected (`LAYOUT.untyped`), or by the iterator. One of Unix may have none: then
/// the inode that it keeps as long as a process holds it is its identity, as that of no other socket.
#[derive(Clone, Copy)]
pub struct Untyped(pub u64);

/// The highest bits of an identity that is an inode; cookies are counted from either end.
const INODE: u64 = 1;
const INODE_SHIFT: u32 = 62;

/// Whether this identity is an inode: where cookies are not used, none is.
#[inline(always)]
fn is_inode(identity: u64) -> bool {
    offset!(skc_cookie) != u32::MAX && identity >> INODE_SHIFT == INODE
}

/// 0 where no process holds the socket.
#[inline(always)]
fn inode(sk: u64) -> u64 {
    let socket = field!(sk, sk_socket, u64);
    let inode = read::<u64>(
        socket + u64::from(offset!(socket_inode)),
        offset!(inode_ino),
    );
    if socket == 0 || inode == 0 {
        0
    } else {
        inode | INODE << INODE_SHIFT
    }
}

impl Socket for Untyped {
    #[inline(always)]
    fn address(self) -> u64 {
        self.0
    }

    #[inline(always)]
    fn raw(self) -> u64 {
        self.0
    }

    #[inline(always)]
    fn is(self, cookie: u64) -> bool {
        if is_inode(cookie) {
            return inode(self.0) == cookie;
        }
        is(self.0, cookie)
    }

    #[inline(always)]
    fn cookie(self) -> u64 {
        if offset!(skc_cookie) == u32::MAX {
            return now() | 1 << 62;
        }
        let cookie = field!(self.0, skc_cookie, u64);
        match cookie == 0 && self.family() == AF_UNIX {
            true => inode(self.0),
            false => cookie,
        }
    }

    #[inline(always)]
    fn family(self) -> u16 {
        family(self.0)
    }

    #[inline(always)]
    fn tcp_ends(self, out: &mut Ends) {
        ends(self.0, out);
    }

    #[inline(always)]
    fn sent_so_far(self) -> Option<(u32, u32)> {
        Some((
            field!(self.0, write_seq, u32),
            field!(self.0, total_retrans, u32),
        ))
    }
}

/// Its own address, once a probe has run: see `address`.
static mut ANCHOR: u64 = 0;

/// The address of a typed socket as a number to calculate with. The verifier allows no arithmetic on
/// typed pointers but the difference of two; a pointer stored and loaded again is a number.
#[inline(always)]
pub fn address(sk: *const u8) -> u64 {
    let anchor = &raw mut ANCHOR;
    let mut difference = sk;
    // SAFETY: a static of this program; all who write it write the same.
    unsafe {
        if anchor.read_volatile() == 0 {
            anchor.write_volatile(anchor as u64);
        }
        asm!("{0} -= {1}", inout(reg) difference, in(reg) anchor, options(pure, nomem, nostack));
        (difference as u64).wrapping_add(anchor.read_volatile())
    }
}

/// Whether the socket at this address is still the one with this identity, as far as can be told.
#[inline(always)]
pub fn is(sk: u64, cookie: u64) -> bool {
    offset!(skc_cookie) == u32::MAX || field!(sk, skc_cookie, u64) == cookie
}

/// Direct loads from a typed socket, for the hot path: no helper call. The pointer
/// must come from the tracepoint's arguments; the verifier refuses any other.
pub mod direct {
    use agent_ebpf::Ends;
    use aya_ebpf::helpers::generated::bpf_skc_to_tcp_sock;

    /// Reads a member of the structure that a typed pointer points to.
    #[macro_export]
    macro_rules! member {
        ($pointer:expr, $field:ident, $type:ty) => {{
            let pointer: *const u8 = $pointer;
            let offset = $crate::offset!($field) as usize;
            // SAFETY: checked by the verifier.
            unsafe { core::ptr::read_volatile(pointer.add(offset).cast::<$type>()) }
        }};
    }

    /// Whether this socket is the one with this identity, as far as can be told.
    #[inline(always)]
    pub fn is(sk: *const u8, cookie: u64) -> bool {
        let offset = crate::offset!(skc_cookie);
        if offset == u32::MAX {
            return true;
        }
        // SAFETY: checked by the verifier.
        unsafe { core::ptr::read_volatile(sk.add(offset as usize).cast::<u64>()) == cookie }
    }

    #[inline(always)]
    pub fn family(sk: *const u8) -> u16 {
        member!(sk, skc_family, u16)
    }

    /// The `tcp_sock` of a TCP socket, typed as well.
    #[inline(always)]
    pub fn tcp(sk: *const u8) -> Option<*const u8> {
        // SAFETY: `sk` comes typed from the tracepoint.
        let tcp = unsafe { bpf_skc_to_tcp_sock(sk.cast_mut().cast()) } as *const u8;
        if tcp.is_null() { None } else { Some(tcp) }
    }

    /// Both ends of a TCP socket; before it is connected its own end may be empty.
    #[inline(always)]
    pub fn ends(sk: *const u8, out: &mut Ends) {
        out.family = family(sk);
        out.netns = netns(sk);
        out.remote_port = u16::from_be(member!(sk, skc_dport, u16));
        if out.family == super::AF_INET6 {
            out.remote = address(member!(sk, skc_v6_daddr, [u64; 2]));
        } else {
            out.remote[..4].copy_from_slice(&member!(sk, skc_daddr, u32).to_ne_bytes());
        }
        own_end(sk, out);
    }

    #[inline(always)]
    pub fn netns(sk: *const u8) -> u32 {
        member!(member!(sk, skc_net, *const u8), net_inum, u32)
    }

    /// The socket's own address and port, which it has for sure once it is connected.
    #[inline(always)]
    pub fn own_end(sk: *const u8, out: &mut Ends) {
        out.local_port = own_port(sk);
        own_address(sk, out.family, &mut out.local);
    }

    #[inline(always)]
    pub fn own_port(sk: *const u8) -> u16 {
        member!(sk, skc_num, u16)
    }

    #[inline(always)]
    pub fn own_address(sk: *const u8, family: u16, out: &mut [u8; 16]) {
        if family == super::AF_INET6 {
            *out = address(member!(sk, skc_v6_rcv_saddr, [u64; 2]));
        } else {
            out[..4].copy_from_slice(&member!(sk, skc_rcv_saddr, u32).to_ne_bytes());
        }
    }

    #[inline(always)]
    fn address(halves: [u64; 2]) -> [u8; 16] {
        let mut out = [0; 16];
        out[..8].copy_from_slice(&halves[0].to_ne_bytes());
        out[8..].copy_from_slice(&halves[1].to_ne_bytes());
        out
    }
}

#[inline(always)]
pub fn family(sk: u64) -> u16 {
    field!(sk, skc_family, u16)
}

#[inline(always)]
pub fn netns(sk: u64) -> u32 {
    netns_of(field!(sk, skc_net, u64))
}

/// The number of a `struct net`.
#[inline(always)]
pub fn netns_of(net: u64) -> u32 {
    field!(net, net_inum, u32)
}

/// The current task's `task_struct`, to be read through the helper.
#[inline(always)]
pub fn task() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_get_current_task() }
}

/// How often the current thread has gone to sleep of its own will.
#[inline(always)]
pub fn switches() -> u64 {
    let offset = offset!(task_nvcsw);
    if offset == u32::MAX {
        return field!(task(), task_nvcsw_untyped, u64);
    }
    // SAFETY: a typed pointer to the current task; the verifier checks the load.
    unsafe {
        let task = bpf_get_current_task_btf() as *const u8;
        core::ptr::read_volatile(task.add(offset as usize).cast())
    }
}

/// The monotonic clock: 40 ns, so read once per hook, and only where a time is kept.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// The kernel's coarse clock, in which sockets keep their times.
#[inline(always)]
pub fn ticks() -> u32 {
    // SAFETY: no arguments.
    unsafe { bpf_jiffies64() as u32 }
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
    } else {
        remote_end(sk, out);
        own_end(sk, out);
    }
}

/// The other end of a TCP socket whose family is known.
#[inline(always)]
pub fn remote_end(sk: u64, out: &mut Ends) {
    out.remote_port = u16::from_be(field!(sk, skc_dport, u16));
    if out.family == AF_INET6 {
        out.remote = field!(sk, skc_v6_daddr, [u8; 16]);
    } else {
        let remote = field!(sk, skc_daddr, [u8; 4]);
        out.remote[..4].copy_from_slice(&remote);
    }
}

/// A TCP socket's own address and port, as long as it has them.
#[inline(always)]
pub fn own_end(sk: u64, out: &mut Ends) {
    out.local_port = local_port(sk);
    if out.family == AF_INET6 {
        out.local = field!(sk, skc_v6_rcv_saddr, [u8; 16]);
    } else {
        let local = field!(sk, skc_rcv_saddr, [u8; 4]);
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

/// Sets all of a value to zero, word by word: the compiler's own `memset` and `memcpy` are functions that go
/// byte by byte, at every call of which the verifier follows them.
#[inline(always)]
pub fn clear<T>(value: *mut T) {
    for i in 0..words::<T>() {
        // SAFETY: within the value, whose alignment is checked. Volatile, or it becomes `memset`.
        unsafe { value.cast::<u64>().add(i).write_volatile(0) };
    }
}

/// Copies a value, word by word.
#[inline(always)]
pub fn copy<T>(to: *mut T, from: *const T) {
    for i in 0..words::<T>() {
        // SAFETY: as above.
        unsafe {
            let word = from.cast::<u64>().add(i).read_volatile();
            to.cast::<u64>().add(i).write_volatile(word);
        }
    }
}

/// How many words a value has.
const fn words<T>() -> usize {
    const { assert!(align_of::<T>() == 8 && size_of::<T>().is_multiple_of(8)) };
    size_of::<T>() / 8
}

/// An all-zero boundary value small enough for the stack.
#[inline(always)]
pub fn zero<T: zerocopy::FromZeros>() -> T {
    T::new_zeroed()
}
