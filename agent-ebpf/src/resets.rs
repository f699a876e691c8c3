//! Resets between sending and arrival: the sender knows why, the receiver whose request it ends.
//!
//! By addresses and ports, since the socket that they came from is gone, as a rule. Translated
//! addresses differ at both ends: then the reason is not known.

use agent_ebpf::{Destination, Flow, RESET_SLOTS, SentReset, Way, flow_flag, peer_reset};

use crate::{kernel, maps::RESETS};

/// A reset answers a packet that came this way.
#[inline(always)]
pub fn sent(way: Way, reason: u64) {
    if let Some(slot) = RESETS.get_ptr_mut(slot(&way.to)) {
        let at = kernel::now();
        // SAFETY: a map value.
        unsafe {
            // First and last, so that what is read in between is of no time.
            (&raw mut (*slot).at).write_volatile(0);
            (*slot).way = way;
            (*slot).reason = reason;
            (&raw mut (*slot).at).write_volatile(at);
        }
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
    let SentReset { at, way, reason } = unsafe { *sent };
    // Older: of an earlier connection between the same ports.
    if at >= flow.connected_ns
        && flow.connected_ns != 0
        && way.to.address == to.address
        && way.to.family == to.family
        && way.to.port == to.port
        && way.to.from_port == to.from_port
        && way.from == flow.ends.local
    {
        flow.flags |= flow_flag::PEER_SENT_RESET;
        flow.peer_reset = peer_reset::LATE;
        flow.peer_reset_reason = reason as u16;
    }
}

/// A proxy's ports to one upstream lie close together and differ.
#[inline(always)]
fn slot(to: &Destination) -> u32 {
    u32::from(to.from_port ^ to.port) % RESET_SLOTS
}
