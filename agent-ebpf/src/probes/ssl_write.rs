//! OpenSSL's `SSL_write` and `SSL_write_ex`: the status of a response in TLS, where that is asked for
//! (`LAYOUT.tls_status`).
//!
//! `int SSL_write(SSL *ssl, const void *buf, int num)`,
//! `int SSL_write_ex(SSL *s, const void *buf, size_t num, size_t *written)`, 1.1.1. Runs before the call,
//! within which the thread sends the record that it makes of them.

use agent_ebpf::{Flow, PLAINTEXT, RESPONSE, role, tls, told};
use aya_ebpf::{macros::uprobe, programs::ProbeContext};

use crate::{
    flow,
    kernel::{self, Socket},
    user,
};

/// The most that one record holds.
const RECORD: u32 = 1 << 14;
/// What encryption adds to it at most: CBC with SHA-384 and its padding.
const ADDED: u32 = 80;
/// A record of application data.
const APPLICATION_DATA: u8 = 23;

#[uprobe]
pub fn ssl_write(ctx: ProbeContext) -> u32 {
    let Some((thread, _, _)) = flow::watched() else {
        return 0;
    };
    let (Some(ptr), Some(len)) = (ctx.arg::<u64>(1), ctx.arg::<u64>(2)) else {
        return 0;
    };
    // `SSL_write` takes an `int`, of which the register's upper half is anything.
    let len = len as u32;
    // In the map: verifiers before 5.12 allow no reads of the stack at places that vary.
    const { assert!(core::mem::offset_of!(agent_ebpf::Thread, said).is_multiple_of(8)) };
    kernel::clear((&raw mut thread.said).cast::<[u64; PLAINTEXT / 8]>());
    user::read_user(ptr, u64::from(len), &mut thread.said);
    let said = told(&thread.said);
    thread.said_len = len;
    thread.said_status = said.status;
    thread.said_in_stream = u16::from(said.in_stream);
    0
}

/// The status of the response in TLS that begins in what is sent now, after a failure; 0: it is not known.
///
/// Another exchange's status may go out in the same write, or be put off. So of one of several streams' only a
/// failure counts, and only where it is that of the one attempt that has failed since anything was sent. A
/// proxy that goes on with others meanwhile may have made that attempt for another client: none of its
/// streams' counts, and of its other responses only a failure behind one attempt that surely was for this one.
#[inline(always)]
pub fn status(flow: &mut Flow) -> u16 {
    let Some((thread, _, _)) = flow::thread() else {
        return 0;
    };
    let (said, in_stream) = (thread.said_status, thread.said_in_stream != 0);
    if !carries(thread.said_len) {
        return 0;
    }
    if flow.tls & (tls::LINES | tls::FRAMES) == 0 {
        flow.tls |= if in_stream { tls::FRAMES } else { tls::LINES };
    }
    let (in_turn, failure) = (thread.lazy != 0, said >= 500);
    let one = flow.noticed == 1;
    let sure = if in_stream {
        let at_once = flow.tls & tls::PUT_OFF == 0;
        flow.tls & tls::FRAMES != 0 && one && at_once && in_turn && failure
    } else {
        // Bodies may begin like anything, where frames were seen.
        flow.tls & tls::LINES != 0 && (in_turn || one && failure)
    };
    if sure { said } else { 0 }
}

/// Something was sent to this client: what the thread handed to OpenSSL was for that, or is late.
#[inline(always)]
pub fn sent(flow: &mut Flow) {
    flow.noticed = 0;
    if let Some((thread, _, _)) = flow::thread() {
        thread.said_status = 0;
    }
}

/// What was to be sent to this client is sent later, beside whatever comes meanwhile.
#[inline(always)]
pub fn put_off(sk: impl Socket) {
    if let Some(flow) = flow::find(sk.address())
        && flow.role == role::DOWNSTREAM
    {
        flow.tls |= tls::PUT_OFF;
    }
}

/// Whether what is sent now begins with the record of as many bytes.
#[inline(always)]
fn carries(len: u32) -> bool {
    let mut record = [0; RESPONSE];
    let Some(buffer) = user::buffer() else {
        return false;
    };
    user::read_user(buffer.ptr, buffer.len, &mut record);
    let [kind, major, _, high, low, ..] = record;
    let first = if len < RECORD { len } else { RECORD };
    let added = (u32::from(high) << 8 | u32::from(low)).wrapping_sub(first);
    kind == APPLICATION_DATA && major == 3 && added > 0 && added <= ADDED
}
