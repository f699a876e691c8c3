//! One attempt with everything that bears on it, and the questions the rules ask of it.

use crate::signal::{
    Attempt, Fin, Nanos, Opening, PeerClose, Process, Reader, RequestSent, Source, TcpFacts,
};
use crate::track::host::{Host, MILLISECOND};

use super::{Case, Tried};

#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    pub case: &'a Case<'a>,
    pub tried: &'a Tried,
}

/// Whether the upstream's application had read the request when the attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    Yes,
    /// The upstream's socket closed with the request unread: it was never read.
    Never,
    /// Not when the attempt ended; what came after is not known.
    NotYet,
    Unseen,
}

impl<'a> Known<'a> {
    pub(super) fn attempt(&self) -> &'a Attempt {
        &self.tried.attempt
    }

    pub(super) fn host(&self) -> &'a Host {
        self.case.host
    }

    pub(super) fn unix(&self) -> bool {
        self.attempt().upstream.is_unix()
    }

    pub(super) fn tcp(&self) -> Option<&'a TcpFacts> {
        self.attempt().tcp.as_ref()
    }

    pub(super) fn fin(&self) -> Option<&'a Fin> {
        self.tcp()?.fin.as_ref()
    }

    pub(super) fn request(&self) -> Option<&'a RequestSent> {
        self.attempt().request.as_ref()
    }

    pub(super) fn request_bytes(&self) -> u64 {
        self.request().map_or(0, |r| r.bytes)
    }

    /// Bytes of the request that the upstream's kernel acknowledged, then or later.
    pub(super) fn acked(&self) -> Option<u64> {
        let later = self.tried.closed.as_ref().map_or(0, |c| c.acked);
        Some(self.tcp()?.acked.max(later))
    }

    pub(super) fn reset_at(&self) -> Option<Nanos> {
        let later = || self.tried.closed.as_ref()?.reset_at;
        self.tcp().and_then(|t| t.reset_at).or_else(later)
    }

    /// The upstream's own close, before the attempt's end or after it. What was seen last knows of
    /// the reset that followed, too.
    pub(super) fn peer_close(&self) -> Option<&'a PeerClose> {
        let later = self.tried.closed.as_ref().and_then(|c| c.peer.as_ref());
        let peers = [later, self.attempt().peer.as_ref()];
        peers
            .into_iter()
            .flatten()
            .find_map(|peer| peer.closed.as_ref())
    }

    pub(super) fn reader(&self) -> Option<&'a Reader> {
        let later = || self.tried.closed.as_ref()?.peer.as_ref()?.reader.as_ref();
        let first = self.attempt().peer.as_ref().and_then(|p| p.reader.as_ref());
        first.or_else(later).filter(|r| r.at <= self.tried.at)
    }

    pub(super) fn read(&self) -> Read {
        let peer = self.attempt().peer.as_ref();
        let close = self.peer_close();
        let read = self.reader().is_some()
            || peer.is_some_and(|p| p.read)
            || close.is_some_and(|c| c.read && c.at <= self.tried.at);
        match (read, close, peer) {
            (true, ..) => Read::Yes,
            // A TCP socket leaves its established state at shutdown() as well, and may read on:
            // only the reset that answers unread data says that it is gone.
            (false, Some(close), _) if !close.read => {
                let gone = self.unix() || close.reset || !close.accepted;
                if gone { Read::Never } else { Read::NotYet }
            }
            (false, _, Some(_)) => Read::NotYet,
            // Who sends a response has read the request, as far as no one says otherwise.
            (false, _, None) if self.attempt().received > 0 => Read::Yes,
            (false, _, None) => Read::Unseen,
        }
    }

    /// Whether the upstream's application had accepted the connection when the attempt ended.
    pub(super) fn accepted(&self) -> Option<bool> {
        if self.attempt().reused || self.attempt().received > 0 {
            return Some(true);
        }
        match (self.attempt().peer.as_ref(), self.peer_close()) {
            (Some(peer), _) if peer.accepted || peer.read => Some(true),
            // What closed unaccepted was never accepted.
            (_, Some(close)) if !close.accepted => Some(false),
            (Some(peer), Some(close)) if close.at <= self.tried.at => {
                Some(peer.accepted || close.accepted)
            }
            (Some(_), _) => Some(false),
            (None, Some(close)) if close.at <= self.tried.at => Some(true),
            (None, _) => None,
        }
    }

    /// The process that held the connection: the one that read the request, else the one that closed it.
    pub(super) fn holder(&self) -> Option<u32> {
        let closer = || self.peer_close().filter(|c| c.accepted).map(|c| c.pid);
        self.reader()
            .map(|r| r.pid)
            .or_else(closer)
            .filter(|pid| *pid != 0)
    }

    /// When the upstream ended the connection, as near as can be told.
    pub(super) fn closed_at(&self) -> Nanos {
        let wire = || {
            self.fin()
                .map(|f| f.at)
                .or(self.reset_at())
                .unwrap_or(self.tried.at)
        };
        self.peer_close().map_or_else(wire, |c| c.at)
    }

    /// The process behind the upstream, if it is on this host and known.
    pub(super) fn upstream_process(&self) -> Option<&'a Process> {
        let host = self.host();
        let holder = self.holder().and_then(|pid| host.process(pid));
        let listener = || host.process(host.listener(self.attempt())?.fact.pid);
        holder.or_else(listener)
    }

    /// The facts of the upstream's end are all there: nothing more will be told of the flow.
    pub(super) fn flow_is_over(&self) -> bool {
        self.tried.closed.is_some() || self.case.deadline_passed
    }

    /// A fact that this host refuses, and without which an attempt is not what it seems: a new
    /// connection looks like an old one, a failed response like none.
    pub(super) fn blind(&self) -> Option<&'static str> {
        if self.tried.source == Source::Packets {
            return self.not_captured();
        }
        let to = |fact| self.host().blind_to(fact);
        // The first request seen on a connection that may be new.
        let first = self.attempt().requests_before == 0 && self.read() != Read::Yes;
        if to("writes") {
            Some("writes: what the proxy sends is not seen here")
        } else if to("reads") {
            Some("reads: what the proxy and the upstream read is not seen here")
        } else if to("tcp_connections") && !self.unix() {
            Some("tcp_connections: how TCP connections begin and end is not seen here")
        } else if to("connect_errors") && self.unix() && first {
            Some("connect_errors: whether the connection was new is not seen here")
        } else {
            None
        }
    }

    /// What a capture lacks, and without which an attempt is not what it seems.
    fn not_captured(&self) -> Option<&'static str> {
        let attempt = self.attempt();
        let opening = attempt.request.as_ref().map(|r| &r.opening);
        if attempt.reused && attempt.requests_before == 0 {
            Some("tcp_connections: the connection's beginning is not in the capture")
        } else if self.tcp().is_some_and(|tcp| tcp.missing_packets > 0) {
            Some("packets: the capture lacks some of this connection's packets")
        } else if matches!(
            opening,
            Some(Opening::Tls | Opening::Http2 | Opening::Other)
        ) {
            Some("request_sent: what this connection carries cannot be read from packets")
        } else {
            None
        }
    }

    /// A reset that acknowledges some of the request was sent by a kernel that had it for its
    /// application.
    pub(super) fn reset_had_it(&self) -> bool {
        let acked = self.tcp().and_then(|tcp| tcp.reset_acked);
        acked.is_some_and(|acked| acked > 0)
    }

    /// Packets: the upstream acknowledged the whole request and ended the connection only some time
    /// later than a close that had crossed the request would have come.
    pub(super) fn was_held(&self) -> bool {
        let (Some(tcp), Some(request)) = (self.tcp(), self.request()) else {
            return false;
        };
        let round_trip = u64::from(tcp.srtt_us) * 1000;
        let held = self.tried.at.saturating_sub(request.at) > round_trip + MILLISECOND;
        self.tried.source == Source::Packets && tcp.acked >= request.bytes && held
    }

    pub(super) fn client_left(&self) -> bool {
        self.case.response.is_none() && self.attempt().client_left(self.tried.at)
    }
}
