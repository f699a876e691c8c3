//! Requests of clients that met the proxy's own close of an idle connection: nobody here reads them, and
//! the tier in front sends them again or fails them.
//!
//! By addresses and ports, since the socket may be gone when they come.

use agent_ebpf::{Flow, LATE_SLOTS, Late, Left, Way, flow_flag, kind};

use crate::{
    emit, field,
    kernel::{self, AF_INET, AF_INET6, TCP_CLOSE},
    maps::LEFT,
    packet,
    probes::exiting,
};

/// Ticks, which are 1 to 10 ms: what closes sooner after its answer was surely not idle.
const SOON: u32 = 10;

/// What comes later is not on its way: no client waits for so long.
const LONG_NS: u64 = 120_000_000_000;

/// The proxy closes a client's connection by its own will, or is told to.
#[inline(always)]
pub fn left(flow: &Flow, sk: u64, new: i32) {
    // What comes in TLS or HTTP/2 after a close is a farewell, as a rule; and a client that is a watched
    // proxy tells of the failure itself.
    let other = flow_flag::AWAITED | flow_flag::OPAQUE;
    if flow.flags & other != 0 || flow.ordinal == 0 || flow.peer_sk != 0 {
        return;
    }
    // An error ends it from outside: a reset received, a timer. And who dies closes no idle connection.
    if (new == TCP_CLOSE && field!(sk, sk_err, i32) != 0) || exiting() {
        return;
    }
    let ticks = kernel::ticks();
    let sent = field!(sk, lsndtime, u32);
    let since_sent = ticks.wrapping_sub(sent);
    // Some kernels keep no time.
    if sent == 0 || since_sent < SOON {
        return;
    }
    let since_received = ticks.wrapping_sub(field!(sk, lrcvtime, u32));
    let unread = field!(sk, rcv_nxt, u32).wrapping_sub(field!(sk, copied_seq, u32));
    // What came last, or was left unread, may be the rest of a request that was answered early.
    if unread != 0 || since_received < since_sent {
        return;
    }
    let (now, fin) = (kernel::now(), field!(sk, write_seq, u32));
    let ends = &flow.ends;
    let Some(slot) = LEFT.get_ptr_mut(slot(ends.remote_port, ends.local_port)) else {
        return;
    };
    // SAFETY: a map value.
    let left = unsafe { &mut *slot };
    let at = &raw mut left.at;
    // First and last, so that what is read in between is of no time. SAFETY: as above.
    unsafe { at.write_volatile(0) };
    left.way.to.address = ends.local;
    left.way.to.family = ends.family;
    left.way.to.port = ends.local_port;
    left.way.to.from_port = ends.remote_port;
    left.way.from = ends.remote;
    if ends.family == AF_INET6 && is_mapped(&ends.local) {
        // To a socket of both families a client of IPv4 comes as of IPv6; its packets do not.
        left.way.to.family = AF_INET;
        unmap(&mut left.way.to.address);
        unmap(&mut left.way.from);
    }
    left.netns = ends.netns;
    left.tgid = flow.tgid;
    left.requests = flow.ordinal;
    left.idle_ticks = since_sent;
    left.fin = fin;
    // SAFETY: as above.
    unsafe { at.write_volatile(now) };
}

/// `::ffff:a.b.c.d`.
#[inline(always)]
fn is_mapped(address: &[u8; 16]) -> bool {
    let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = *address;
    (a | b | c | d | e | f | g | h | i | j) == 0 && k & l == 0xff
}

#[inline(always)]
fn unmap(address: &mut [u8; 16]) {
    let [.., k, l, m, n, o, p] = address;
    let v4 = [*m, *n, *o, *p];
    (*k, *l, *m, *n, *o, *p) = (0, 0, 0, 0, 0, 0);
    let [a, b, c, d, ..] = address;
    (*a, *b, *c, *d) = (v4[0], v4[1], v4[2], v4[3]);
}

/// A packet that came this way is answered with a reset.
#[inline(always)]
pub fn came(skb: u64, way: &Way) {
    let Some(slot) = LEFT.get_ptr_mut(slot(way.to.from_port, way.to.port)) else {
        return;
    };
    // SAFETY: a map value.
    let left = unsafe { slot.read_volatile() };
    // Another close may be taking the slot: what is torn has no time, or another one behind it.
    // SAFETY: as above.
    if unsafe { (&raw const (*slot).at).read_volatile() } != left.at
        || left.at == 0
        || left.way.to.port != way.to.port
        || left.way.to.from_port != way.to.from_port
        || left.way.to.family != way.to.family
        || left.way.to.address != way.to.address
        || left.way.from != way.from
    {
        return;
    }
    let (data, acknowledged) = packet::data(skb);
    // Nothing but the FIN was left to acknowledge. Another: of a later connection between the same ports.
    let more = acknowledged.wrapping_sub(left.fin);
    if data == 0 || more > 1 || kernel::now().wrapping_sub(left.at) > LONG_NS {
        return;
    }
    tell(&left, data, more == 1);
    // What comes after it is the rest of the same request. A newer close that has taken the slot stays.
    // SAFETY: as above.
    unsafe {
        let at = &raw mut (*slot).at;
        if at.read_volatile() == left.at {
            at.write_volatile(0);
        }
    }
}

#[inline(always)]
fn tell(left: &Left, data: u32, knew: bool) {
    let Some(mut entry) = emit::reserve::<Late>() else {
        return;
    };
    let out = entry.as_mut_ptr();
    // SAFETY: `out` is a reserved record; every field is written.
    unsafe {
        (*out).header = emit::header(kind::LATE, kernel::now());
        // Whose connection it was: the packet came in whatever context was interrupted.
        (*out).header.tgid = left.tgid;
        (*out).closed = left.at;
        (*out).way = left.way;
        (*out).netns = left.netns;
        (*out).requests = left.requests;
        (*out).idle_ticks = left.idle_ticks;
        (*out).data = data;
        (*out).knew = u8::from(knew);
        (*out).pad = [0; 7];
    }
    entry.submit(0);
}

/// A client's ports differ, a proxy's are few.
#[inline(always)]
fn slot(clients: u16, own: u16) -> u32 {
    u32::from(clients ^ own) % LATE_SLOTS
}
