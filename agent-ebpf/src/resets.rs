//! Resets between sending and arrival: the sender knows why, the receiver whose request it ends.
//!
//! By addresses and ports, since the socket that they came from is gone, as a rule. Translated
//! addresses differ at both ends: then the reason is not known.

use agent_ebpf::{Destination, Flow, RESET_SLOTS, SentReset, flow_flag, peer_reset};

use crate::{kernel, maps::RESETS};

/// A reset answers a packet on its way `to`.
#[inline(always)]
pub fn sent(to: Destination, reason: u16) {
    if let Some(slot) = RESETS.get_ptr_mut(slot(&to)) {
        let at = kernel::now();
        // SAFETY: a map value. What is torn is of another connection, or of none.
        unsafe { *slot = SentReset { at, to, reason } };
    }
}

/// A reset arrived at this connection of a proxy.
#[inline(always)]
pub fn arrived(flow: &mut Flow) {
    let to = Destination {
        address: flow.ends.remote,
        family: flow.ends.family,
        port: flow.ends.remote_port,
        from_port: flow.ends.local_port,
    };
    let Some(sent) = RESETS.get_ptr(slot(&to)) else {
        return;
    };
    // SAFETY: a map value.
    let sent = unsafe { *sent };
    // Older: of an earlier connection between the same ports.
    if sent.to.address == to.address
        && sent.to.family == to.family
        && sent.to.port == to.port
        && sent.to.from_port == to.from_port
        && sent.at >= flow.connected_ns
    {
        flow.flags |= flow_flag::PEER_SENT_RESET;
        flow.peer_reset = peer_reset::LATE;
        flow.peer_reset_reason = sent.reason;
    }
}

/// A proxy's ports to one upstream lie close together and differ.
#[inline(always)]
fn slot(to: &Destination) -> u32 {
    u32::from(to.from_port ^ to.port) % RESET_SLOTS
}
