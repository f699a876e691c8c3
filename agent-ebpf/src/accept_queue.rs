//! The accept queue of a listener: finds the other end of a connection that nobody has accepted.
//!
//! It is known as a rule since the handshake, but the program that notes its end may have missed it:
//! the kernel skips a program on a CPU on which the same one was interrupted. With that program
//! switched off, row 1 of the lab over TCP is proven by this alone.

use core::arch::asm;

use agent_ebpf::Flow;

use crate::{
    field,
    kernel::{self, AF_INET6},
    offset,
};

/// The verifier follows every step; a longer queue than this is looked through in part.
const STEPS: u32 = 132;

/// Looks for the flow's other end in the queue of the listener that it was connected to.
#[inline(always)]
pub fn find(flow: &mut Flow) {
    if flow.listener_sk == 0
        || offset!(accept_head) == u32::MAX
        || offset!(request_sk) == u32::MAX
        || !kernel::is(flow.listener_sk, flow.listener_cookie)
    {
        return;
    }
    let port = flow.ends.local_port.to_be();
    let mut request = field!(flow.listener_sk, accept_head, u64);
    let mut found = 0;
    // Neither a way out before the end, where reads give zero, nor a branch: the verifier would follow each.
    for _ in 0..STEPS {
        let sk = field!(request, request_sk, u64);
        let other = opaque(u64::from(field!(sk, skc_dport, u16) ^ port));
        // All ones where nothing differs.
        let same = opaque(0_u64.wrapping_sub(other.wrapping_sub(1) >> 63));
        found = (found & !same) | (sk & same);
        request = field!(request, request_next, u64);
    }
    if found != 0 && same_address(flow, found) {
        flow.peer_sk = found;
        flow.peer_cookie = field!(found, skc_cookie, u64);
    }
}

/// The same number, of which the compiler knows nothing: it makes branches of what it knows.
#[inline(always)]
fn opaque(number: u64) -> u64 {
    let mut same = number;
    // SAFETY: a register to itself; a comment alone would leave a line of source without instruction.
    unsafe { asm!("{0} = {0}", inout(reg) same, options(pure, nomem, nostack)) };
    same
}

/// Whether the other end of this socket is the flow's own address.
#[inline(always)]
fn same_address(flow: &Flow, sk: u64) -> bool {
    if flow.ends.family == AF_INET6 {
        field!(sk, skc_v6_daddr, [u8; 16]) == flow.ends.local
    } else {
        let v4 = field!(sk, skc_daddr, [u8; 4]);
        v4 == flow.ends.local[..4]
    }
}
