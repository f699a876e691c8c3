//! One request seen on a connection, whichever side of a proxy that is on, and what came of it.

use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::LazyLock;

use foldhash::fast::RandomState;

use crate::signal::{End, Nanos, Opening};
use crate::sources::wire;

use super::flow::NONE;
use super::http;

/// Kept of a request line and of a Host.
const LINE: usize = 1024;
const HOST: usize = 255;
/// One request and what came of it. Times of 0 mean never.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Exchange {
    pub flow: u32,
    /// The connection's identity: its place may have been given to another.
    pub flow_id: u64,
    /// The next one on the same connection.
    pub next: u32,
    /// Of method and target; 0 where they are not understood.
    pub content: u64,
    /// The first byte's time.
    pub at: Nanos,
    /// Sequence numbers: the request's first byte, and after the last that was seen.
    pub start: u32,
    pub end: u32,
    /// What the request's first segment acknowledged: the response begins there, if nothing is pipelined.
    pub ack: u32,
    /// Which request of its connection, from 1.
    pub ordinal: u32,
    /// Since the last response's last byte; for a connection's first request, `Nanos::MAX`.
    idle: Nanos,
    /// The final status; 0 while none was seen, or where it is no HTTP.
    pub status: u16,
    pub first_byte_at: Nanos,
    /// When the response's head was there.
    pub answered_at: Nanos,
    /// The sequence number at which the response begins.
    pub response_start: u32,
    /// How the connection ended before a response, as its client saw it.
    pub ended: Option<Box<Ended>>,
    pub bits: u16,
    /// Method, target and Host, as an HTTP head; empty for other protocols.
    pub head: Vec<u8>,
    /// What it is where it is not HTTP/1.
    pub opening: Option<Box<Opening>>,
    /// What the response is where it is not HTTP/1.
    pub answer: Option<Box<Opening>>,
}

/// Two cache lines.
const _: () = assert!(size_of::<Exchange>() == 128);

/// How a connection ended under a request, with the facts of that moment.
#[derive(Debug)]
pub(super) struct Ended {
    pub at: Nanos,
    pub how: End,
    /// Bytes of the request acknowledged.
    pub acked: u32,
    pub retransmits: u16,
    pub zero_window: bool,
    /// Bytes of a response that came without its head's end, and what they begin with.
    pub received: u32,
    pub response: Option<Opening>,
}

impl Exchange {
    /// The response is whole, or will not become so.
    pub(super) const DONE: u16 = 1;
    /// It waits to be judged.
    pub(super) const QUEUED: u16 = 2;
    /// An attempt to get it answered failed.
    pub(super) const ATTEMPTED: u16 = 4;
    /// It has been told as an attempt of another.
    pub(super) const TOLD: u16 = 8;
    pub(super) const HEAD: u16 = 16;
    pub(super) const CONNECT: u16 = 32;
    /// Found again after bytes that were not followed.
    pub(super) const RESUMED: u16 = 64;
    /// A connect without a request.
    pub(super) const BARE: u16 = 128;
    /// In the ring of the answered.
    pub(super) const KEPT: u16 = 256;
    pub(super) const USED: u16 = 512;
    /// Ended badly, and its downstream is still waiting for an answer.
    pub(super) const AWAITED: u16 = 1024;
    /// Its judgement was put off once for a reset that may be on its way.
    pub(super) const PUT_OFF: u16 = 2048;
    /// It has been told with its attempts, as a request to a proxy.
    pub(super) const JUDGED: u16 = 4096;
    /// It was looked at whether it hides a failed connect.
    pub(super) const LATER: u16 = 8192;
    /// It may have been no request, or what answered it no answer: both cannot be read.
    pub(super) const DOUBTFUL: u16 = 16384;
    /// Its target was cut: others begin alike.
    pub(super) const CUT: u16 = 32768;

    /// Reads from it, so that it is there when it is needed.
    #[inline]
    pub(super) fn fetch(&self) -> u32 {
        u32::from(self.bits) ^ self.at as u32
    }

    pub(super) fn is(&self, bit: u16) -> bool {
        self.bits & bit != 0
    }

    pub(super) fn set(&mut self, bit: u16) {
        self.bits |= bit;
    }

    pub(super) fn clear(&mut self, bit: u16) {
        self.bits &= !bit;
    }

    /// Makes this entry a new request's; like `Flow::begin` in its place.
    pub(super) fn begin(&mut self, flow: u32, flow_id: u64, at: Nanos) {
        self.flow = flow;
        self.flow_id = flow_id;
        self.next = NONE;
        self.content = 0;
        self.at = at;
        self.start = 0;
        self.end = 0;
        self.ack = 0;
        self.ordinal = 0;
        self.idle = Nanos::MAX;
        self.status = 0;
        self.first_byte_at = 0;
        self.answered_at = 0;
        self.response_start = 0;
        self.ended = None;
        self.bits = Exchange::USED;
        self.head.clear();
        self.opening = None;
        self.answer = None;
    }

    /// Its request begins only here: what came before was a handshake.
    pub(super) fn asked(&mut self, at: Nanos, seq: u32, ack: u32) {
        (self.at, self.start, self.end, self.ack) = (at, seq, seq, ack);
        (self.first_byte_at, self.answered_at, self.response_start) = (0, 0, 0);
    }

    pub(super) fn set_idle(&mut self, idle: Option<Nanos>) {
        self.idle = idle.unwrap_or(Nanos::MAX);
    }

    /// How long the connection had been idle before the request.
    pub(super) fn idle(&self) -> Option<Nanos> {
        Some(self.idle).filter(|idle| *idle != Nanos::MAX)
    }

    /// Its client had no other request open: the response begins where `ack` says.
    pub(super) fn began_alone(&self) -> bool {
        self.ordinal == 1 || self.idle().is_some()
    }

    /// What the request is, in the words of signals.
    pub(super) fn opening(&self) -> Opening {
        match &self.opening {
            Some(opening) => (**opening).clone(),
            None => wire::request(&self.head),
        }
    }

    /// Its request line.
    pub(super) fn line(&self) -> &[u8] {
        let end = memchr::memchr(b'\r', &self.head);
        &self.head[..end.unwrap_or(self.head.len())]
    }

    /// When it was over for its client: answered, or its connection ended.
    pub(super) fn over_at(&self) -> Option<Nanos> {
        match (&self.ended, self.answered_at) {
            (Some(ended), _) => Some(ended.at),
            (None, 0) => None,
            (None, at) => Some(at),
        }
    }

    /// Remembers method, target and host, and what to compare them by.
    pub(super) fn keep_request(&mut self, line: &[u8], host: Option<&[u8]>) {
        self.head.clear();
        let host_line = host.map_or(0, |host| host.len().min(HOST)) + "\r\nHost: \r\n\r\n".len();
        self.head.reserve(line.len().min(LINE) + host_line);
        self.head.extend_from_slice(&line[..line.len().min(LINE)]);
        if let Some((method, target)) = http::method_and_target(line) {
            self.content = content(method, target);
            if method == b"HEAD" {
                self.set(Self::HEAD);
            } else if method == b"CONNECT" {
                self.set(Self::CONNECT);
            }
        }
        // A line that was cut before its end has no host either.
        if line.len() <= LINE && host.is_some_and(|host| host.len() <= HOST) {
            self.head.extend_from_slice(b"\r\nHost: ");
            self.head.extend_from_slice(host.unwrap_or_default());
            self.head.extend_from_slice(b"\r\n\r\n");
        } else if line.len() <= LINE {
            self.head.extend_from_slice(b"\r\n");
        }
    }

    /// The same from uwsgi variables, which are compared but not shown as HTTP.
    pub(super) fn keep_variables(&mut self, request: &http::Uwsgi<'_>) {
        if !request.method.is_empty() && !request.target.is_empty() {
            self.content = content(request.method, wire::origin_form(request.target));
        }
        self.opening = Some(Box::new(Opening::Uwsgi));
    }

    /// The request line's end is not in the capture: what there is of it may begin others, too.
    pub(super) fn cut_line(&mut self) {
        let end = self.head.iter().rposition(|b| !matches!(b, b'\r' | b'\n'));
        self.head.truncate(end.map_or(0, |end| end + 1));
        // Behind a second space the target is whole.
        if self.head.iter().filter(|b| **b == b' ').count() < 2 {
            self.set(Self::CUT);
        }
    }
}

/// What requests are compared by. Captures come from strangers, who must not be able to choose two targets
/// that are taken for one: nobody knows the key of this run.
pub(super) fn content(method: &[u8], target: &[u8]) -> u64 {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::default);
    let mut hasher = KEY.build_hasher();
    hasher.write(method);
    hasher.write_u8(b' ');
    hasher.write(target);
    hasher.finish() | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_can_choose_targets_that_are_taken_for_one() {
        // A hash without a key multiplies what begins so by nothing.
        let chosen = 0x243f_6a88_85a3_08d3_u64.to_le_bytes();
        let target = |end: &[u8; 8]| [&chosen[..], end].concat();
        let (one, other) = (target(b"/index/a"), target(b"/index/b"));
        assert_ne!(content(b"GET", &one), content(b"GET", &other));
        assert_eq!(content(b"GET", &one), content(b"GET", &one));
        assert_ne!(content(b"GET", b"/a"), content(b"PUT", b"/a"));
        assert_ne!(content(b"GET", b"/a"), 0);
    }
}
