//! From facts to evidence: each fact of an attempt as one line with its numbers, in order of time.

use crate::signal::{End, Opening, ProcessSample, Queue, ResetBy, Source};

use super::known::{Known, Read};
use super::text;
use super::{Fact, syn_backlog, waiting};

/// Samples shown: the first, the last, and some between.
const SAMPLES_SHOWN: usize = 5;

pub(super) fn of_attempt(known: &Known<'_>) -> Vec<Fact> {
    let mut facts = Facts {
        list: Vec::new(),
        source: known.tried.source,
    };
    began(known, &mut facts);
    request(known, &mut facts);
    wire(known, &mut facts);
    upstream(known, &mut facts);
    samples(known, &mut facts);
    ended(known, &mut facts);
    facts.list
}

struct Facts {
    list: Vec<Fact>,
    source: Source,
}

impl Facts {
    fn add(&mut self, at: u64, name: &'static str, text: String) {
        self.list.push(Fact {
            at,
            name,
            text,
            source: self.source,
        });
    }
}

fn began(known: &Known<'_>, facts: &mut Facts) {
    let attempt = known.attempt();
    if attempt.reused || matches!(attempt.end, End::ConnectFailed { .. }) {
        return;
    }
    match attempt.connected {
        Some(at) => {
            let took = text::duration(at.saturating_sub(attempt.began));
            facts.add(
                at,
                "connected",
                format!("to {} in {took}", text::clean(&attempt.upstream.0)),
            );
        }
        None => {
            let name = if attempt.end == End::ConnectGivenUp {
                "connect_began"
            } else {
                "connected"
            };
            facts.add(
                attempt.began,
                name,
                format!("to {}", text::clean(&attempt.upstream.0)),
            );
        }
    }
}

fn request(known: &Known<'_>, facts: &mut Facts) {
    let attempt = known.attempt();
    let Some(request) = &attempt.request else {
        return;
    };
    let on = match (attempt.reused, attempt.idle_ns) {
        (true, Some(idle)) => format!("on a connection idle for {}", text::duration(idle)),
        (true, None) => "on a reused connection".into(),
        (false, _) => "on a new connection".into(),
    };
    let text = match request.write_errno {
        Some(errno) => format!("write {on} failed: {}", text::errno(errno)),
        None => format!("{} {on}", text::bytes(request.bytes)),
    };
    facts.add(request.at, "request_sent", text);
}

fn wire(known: &Known<'_>, facts: &mut Facts) {
    let attempt = known.attempt();
    let bytes = known.request_bytes();
    if let Some(fin) = known.fin() {
        let text = match attempt.request.as_ref() {
            Some(request) if !fin.after_request => {
                let early = text::duration(request.at.saturating_sub(fin.at));
                format!("FIN received {early} before the request was written")
            }
            Some(_) if fin.acked == 0 => {
                format!(
                    "FIN received; it acknowledges none of the {}",
                    text::bytes(bytes)
                )
            }
            Some(_) if fin.acked >= bytes => {
                format!(
                    "FIN received; it acknowledges all of the {}",
                    text::bytes(bytes)
                )
            }
            Some(_) => format!(
                "FIN received; it acknowledges {} of {bytes}",
                text::bytes(fin.acked)
            ),
            None => "FIN received".into(),
        };
        facts.add(fin.at, "peer_closed", text);
    }
    if let Some(at) = known.reset_at() {
        let acked = known.acked().unwrap_or(0);
        let text = if attempt.request.as_ref().is_some_and(|r| at >= r.at) {
            // It supports, it does not prove: an active close acknowledges, an answer does not.
            let flag = match known.tcp().and_then(|t| t.reset_acked) {
                Some(_) => " with ACK",
                None if known.tried.source == Source::Packets => " without ACK",
                None => "",
            };
            format!(
                "reset{flag} received; {acked} of {} had been acknowledged",
                text::bytes(bytes)
            )
        } else {
            "reset received before the request".into()
        };
        facts.add(at, "reset_received", text);
    }
    let Some(tcp) = known.tcp() else { return };
    if tcp.retransmits > 0 {
        let text = format!(
            "{} retransmissions; {} acknowledged",
            tcp.retransmits,
            text::bytes(tcp.acked)
        );
        facts.add(known.tried.at, "retransmitted", text);
    }
    if tcp.filtered > 0 {
        let text = format!("{} packets dropped by a filter on this host", tcp.filtered);
        facts.add(known.tried.at, "packets_filtered", text);
    }
    if tcp.zero_window {
        let text = format!(
            "the upstream's window is closed; it took {} of {bytes}",
            text::bytes(tcp.acked)
        );
        facts.add(known.tried.at, "window_closed", text);
    }
}

fn upstream(known: &Known<'_>, facts: &mut Facts) {
    let attempt = known.attempt();
    if let Some(reader) = known.reader() {
        facts.add(
            reader.at,
            "request_read",
            format!("by process {}{}", reader.pid, name_of(known, reader.pid)),
        );
    }
    if let Some(close) = known.peer_close() {
        let early = attempt.request.as_ref().is_some_and(|r| close.at < r.at);
        let state = match (close.accepted, close.read) {
            (false, _) => "never accepted",
            (true, false) if early => "before the request was written",
            (true, false) => "the request unread",
            (true, true) => "the request read",
        };
        let reset = match (close.reset, close.reset_by) {
            (false, _) => String::new(),
            (true, Some(ResetBy::Abort)) => {
                ", aborted: reset sent with nothing left unread".to_owned()
            }
            (true, Some(ResetBy::LateData)) => match &close.reset_reason {
                Some(reason) => format!(", reset sent to what came after ({reason})"),
                None => ", reset sent to what came after".to_owned(),
            },
            (true, _) => match close.unread {
                Some(unread) if unread > 0 => {
                    format!(", {} left unread: reset sent", text::bytes(unread))
                }
                _ => ", data left unread: reset sent".to_owned(),
            },
        };
        let by = format!("by process {}{}", close.pid, name_of(known, close.pid));
        facts.add(close.at, "upstream_closed", format!("{by}, {state}{reset}"));
    }
    if attempt.end == End::GivenUp && attempt.peer.is_some() {
        let text = match (known.accepted(), known.read()) {
            (Some(false), _) => "still in the accept queue",
            (_, Read::Yes) => "accepted, the request read",
            _ => "accepted, the request not read",
        };
        facts.add(known.tried.at, "upstream_state", text.into());
    }
    if let Some(queue) = &attempt.queue {
        facts.add(known.tried.at, "accept_queue", queue_text(queue));
    }
}

pub(super) fn queue_text(queue: &Queue) -> String {
    let drops = match queue.drops {
        0 => String::new(),
        n => format!(", {n} connection requests dropped meanwhile"),
    };
    let later = if queue.later {
        " (measured right after)"
    } else {
        ""
    };
    let from = queue
        .syn_settings
        .map(|of| syn_backlog::dropped_from(queue, of));
    let half_open = match (queue.half_open, from) {
        (Some(count), Some(Some(from))) => {
            format!(", {count} half open (SYNs are dropped from {from} on)")
        }
        (Some(count), Some(None)) => format!(", {count} half open (SYN cookies are on)"),
        (Some(count), None) => format!(", {count} half open"),
        (None, _) => String::new(),
    };
    format!(
        "{} waiting, limit {}{half_open}{drops}{later}",
        queue.length, queue.limit
    )
}

fn samples(known: &Known<'_>, facts: &mut Facts) {
    let all = waiting::samples(known);
    let step = all.len().div_ceil(SAMPLES_SHOWN).max(1);
    for (i, sample) in all.iter().enumerate() {
        if i % step == 0 || i + 1 == all.len() {
            facts.list.push(Fact {
                at: sample.at,
                name: "thread_sampled",
                text: sample_text(&sample.fact),
                source: sample.source,
            });
        }
    }
}

fn sample_text(sample: &ProcessSample) -> String {
    let thread = &sample.thread;
    let mut text = format!("thread {} of process {} ", thread.thread, sample.pid);
    match (thread.state, &thread.syscall, &thread.socket_peer) {
        (_, Some(call), Some(peer)) => {
            text += &format!(
                "waits in {} for {}",
                text::clean(call),
                text::clean(&peer.0)
            );
        }
        ('R', ..) => text += "is running or ready to run",
        ('T' | 't', ..) => text += "is stopped",
        ('D', Some(call), _) => text += &format!("waits for a device in {}", text::clean(call)),
        (_, Some(call), None) => text += &format!("waits in {}", text::clean(call)),
        (state, None, _) => text += &format!("is in state {state}"),
    }
    text += &format!(", {} on CPU", text::duration(thread.cpu_ns));
    if sample.frozen {
        text += ", its cgroup is frozen";
    }
    if let Some(us) = sample.throttled_us.filter(|us| *us > 0) {
        text += &format!(", its cgroup throttled for {}", text::duration(us * 1000));
    }
    text
}

fn ended(known: &Known<'_>, facts: &mut Facts) {
    let attempt = known.attempt();
    let waited = text::duration(known.tried.at.saturating_sub(attempt.began));
    let (name, text) = match attempt.end {
        End::ConnectFailed { errno } => (
            "connect_failed",
            format!(
                "{}: {}",
                text::clean(&attempt.upstream.0),
                text::errno(errno)
            ),
        ),
        End::ConnectGivenUp => (
            "connect_given_up",
            format!("the proxy closed the socket after {waited}"),
        ),
        End::GivenUp if known.client_left() => (
            "downstream_closed",
            format!("the client closed its connection; the attempt had lasted {waited}"),
        ),
        End::GivenUp => {
            let since = attempt.request.as_ref().map_or(attempt.began, |r| r.at);
            let since = text::duration(known.tried.at.saturating_sub(since));
            (
                "given_up",
                format!(
                    "the proxy closed the connection {since} after the request; {} received",
                    text::bytes(attempt.received)
                ),
            )
        }
        // No write is seen on the wire, only that there was more to come.
        End::SendFailed { .. } if known.tried.source == Source::Packets => (
            "send_failed",
            format!(
                "the connection was reset before all of the body was sent; {} received",
                text::bytes(attempt.received)
            ),
        ),
        End::SendFailed { errno } => (
            "send_failed",
            format!("write failed: {}", text::errno(errno)),
        ),
        // What the wire showed says the same, better.
        End::PeerClosed if known.fin().is_some() => return,
        End::Reset if known.reset_at().is_some() => return,
        End::PeerClosed => (
            "peer_closed",
            format!("end of file; {} received", text::bytes(attempt.received)),
        ),
        End::Reset => (
            "reset_received",
            format!("ECONNRESET; {} received", text::bytes(attempt.received)),
        ),
        End::Answered => {
            let status = match &attempt.response {
                Some(Opening::HttpResponse { status }) => status.to_string(),
                _ => "bytes that are no HTTP response".into(),
            };
            (
                "upstream_answered",
                format!("the upstream answered {status}"),
            )
        }
    };
    facts.add(known.tried.at, name, text);
}

fn name_of(known: &Known<'_>, pid: u32) -> String {
    known
        .host()
        .process(pid)
        .map_or_else(String::new, |p| format!(" ({})", text::clean(&p.name)))
}
