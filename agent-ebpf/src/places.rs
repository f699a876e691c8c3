//! Where in the maps something is kept.

use super::{BUCKETS, Flow, SPOKEN_SLOTS};

/// The bucket of a socket. Its address is aligned to cache lines, so the low bits say nothing, and
/// sockets lie at equal distances, which a multiplication alone would not spread for every size.
#[inline(always)]
pub const fn bucket_of(sk: u64) -> u32 {
    let line = sk >> 6;
    let mixed = (line ^ (line >> 15)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> (64 - BUCKETS.trailing_zeros())) as u32
}

/// Where `SPOKEN` keeps that this flow's upstream has answered HTTP with HTTP, and what stands there
/// then, which is never 0. `None` where it is not known who listens or serves there.
///
/// By the process that reads there, and by the listener's identity (TCP) or its name (Unix): whoever
/// listens at that address later, or takes the socket over, may speak something else.
#[inline(always)]
pub fn spoken(flow: &Flow) -> Option<(u32, u64)> {
    const AF_UNIX: u16 = 1;
    const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
    let ends = &flow.ends;
    let reader = u64::from(flow.read.tgid);
    if reader == 0 || (ends.family != AF_UNIX && flow.listener_cookie == 0) {
        return None;
    }
    let who = flow.listener_cookie.wrapping_mul(MIX) ^ reader;
    let mut all = (who ^ u64::from(ends.path_len) << 48).wrapping_mul(MIX);
    // What lies behind the name is anything. Without branches, each of which the verifier would follow:
    // the compiler, did it know the number's range, would make them of the shifts below.
    let whole = core::hint::black_box(u64::from(ends.path_len / 4));
    let rest = (1_u64 << (ends.path_len % 4 * 8)) - 1;
    for (i, word) in ends.path.as_chunks::<4>().0.iter().enumerate() {
        let before = (i as u64).wrapping_sub(whole) >> 63;
        let at = (i as u64 ^ whole).wrapping_sub(1) >> 63;
        let known = 0_u64.wrapping_sub(before) | (0_u64.wrapping_sub(at) & rest);
        let word = u64::from(u32::from_le_bytes(*word)) & known;
        all = (all ^ all >> 29 ^ word).wrapping_mul(MIX);
    }
    Some(((all >> 40) as u32 % SPOKEN_SLOTS, all | 1))
}
