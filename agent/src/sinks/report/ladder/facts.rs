//! What each fact of the evidence looks like on the ladder.

use crate::verdict::Evidence;

use super::Lane::{Client, Proxy, Upstream};
use super::{Shape, Step, arrow, note};

/// Facts that say how an attempt ended.
pub(super) const ENDS: &[&str] = &[
    "connect_failed",
    "connect_given_up",
    "downstream_closed",
    "given_up",
    "peer_closed",
    "reset_received",
    "send_failed",
    "upstream_answered",
];

/// A fact that is not known here, which only a newer rule can make, is shown by its name.
pub(super) fn step(evidence: &Evidence, unix: bool) -> Step {
    known(evidence.fact, &evidence.text, unix)
        .unwrap_or_else(|| note(Upstream, evidence.fact.replace('_', " ")))
}

/// `unix`: there are no segments, so none are named.
pub(super) fn known(fact: &str, text: &str, unix: bool) -> Option<Step> {
    Some(match fact {
        "connect_began" => arrow(Proxy, Upstream, Shape::Connect, "connect"),
        "connected" => arrow(Upstream, Proxy, Shape::Connect, "connected"),
        "connect_failed" | "connects_failed" => {
            let error = text.rsplit_once(": ").map_or("", |(_, error)| error);
            let label = match error {
                "" => "connect failed".to_owned(),
                error => format!("connect: {error}"),
            };
            arrow(Proxy, Upstream, Shape::Stopped, label)
        }
        "connect_failed_before" => note(Proxy, "a connect failed before"),
        "connect_given_up" => arrow(Proxy, Upstream, Shape::Stopped, "gives up connecting"),
        "connects_unanswered" => arrow(Proxy, Upstream, Shape::Stopped, "connects unanswered"),
        "request_sent" if text.starts_with("write ") => {
            arrow(Proxy, Upstream, Shape::Stopped, "write failed")
        }
        "request_sent" => {
            let size = text.split(" on ").next().unwrap_or_default();
            arrow(Proxy, Upstream, Shape::Data, format!("request, {size}"))
        }
        "send_failed" => arrow(Proxy, Upstream, Shape::Stopped, "write failed"),
        "retransmitted" => arrow(Proxy, Upstream, Shape::Stopped, "retransmissions"),
        "packets_filtered" => arrow(Proxy, Upstream, Shape::Stopped, "dropped by a filter"),
        "window_closed" => arrow(Upstream, Proxy, Shape::Data, "zero window"),
        "request_read" => note(Upstream, "request read"),
        "upstream_closed" => note(Upstream, "closes"),
        "peer_closed" if !unix && text.starts_with("FIN") => {
            arrow(Upstream, Proxy, Shape::Fin, fin(text))
        }
        "peer_closed" => arrow(Upstream, Proxy, Shape::Fin, "end of file"),
        "reset_received" if !unix && text.starts_with("reset") => {
            arrow(Upstream, Proxy, Shape::Reset, "RST")
        }
        "reset_received" => arrow(Upstream, Proxy, Shape::Reset, "ECONNRESET"),
        "given_up" => arrow(Proxy, Upstream, Shape::Fin, "gives up, closes"),
        "downstream_closed" => arrow(Client, Proxy, Shape::Fin, "closes"),
        "upstream_answered" => {
            let status = text.rsplit(' ').next().unwrap_or_default();
            let label = match status.parse::<u16>() {
                Ok(status) => format!("answers {status}"),
                Err(_) => "answers, not in HTTP".to_owned(),
            };
            arrow(Upstream, Proxy, Shape::Data, label)
        }
        "constant_wait" => note(Client, "the same wait again"),
        "upstream_state" => note(Upstream, "at this moment"),
        "upstream_protocol" => note(Upstream, "protocol"),
        "accept_queue" => note(Upstream, "accept queue"),
        "thread_sampled" => note(Upstream, "thread"),
        "process_exited" => note(Upstream, "process ends"),
        "process_started" => note(Upstream, "process starts"),
        "oom_killed" => note(Upstream, "out of memory"),
        "signal_sent" => note(Upstream, "signal"),
        "descriptors" => note(Proxy, "no file descriptor"),
        "upstreams_asked" => note(Proxy, "asks upstreams unread"),
        "log_line" => note(Proxy, "log"),
        _ => return None,
    })
}

/// `FIN, ack 0 of 124`: how much of the request the peer's kernel had when it closed.
fn fin(text: &str) -> String {
    let Some((_, acked)) = text.split_once("acknowledges ") else {
        return "FIN".to_owned();
    };
    let number = |word: &str| word.parse::<u64>().ok();
    let words: Vec<&str> = acked.split(' ').collect();
    let of = words.iter().rev().copied().find_map(number);
    match (words.first().copied(), of) {
        (Some("none"), Some(of)) => format!("FIN, ack 0 of {of}"),
        (Some("all"), Some(of)) => format!("FIN, ack {of} of {of}"),
        (Some(some), Some(of)) if number(some).is_some() => format!("FIN, ack {some} of {of}"),
        _ => "FIN".to_owned(),
    }
}

/// The end of an attempt of which no evidence tells, by its `outcome`.
pub(super) fn outcome(outcome: &str, unix: bool) -> Step {
    match outcome {
        "connect_failed" => arrow(Proxy, Upstream, Shape::Stopped, "connect failed"),
        "connect_given_up" => arrow(Proxy, Upstream, Shape::Stopped, "gives up connecting"),
        "peer_closed" => arrow(Upstream, Proxy, Shape::Fin, "end of file"),
        "reset" if unix => arrow(Upstream, Proxy, Shape::Reset, "ECONNRESET"),
        "reset" => arrow(Upstream, Proxy, Shape::Reset, "RST"),
        "send_failed" => arrow(Proxy, Upstream, Shape::Stopped, "write failed"),
        "given_up" => arrow(Proxy, Upstream, Shape::Fin, "gives up, closes"),
        "answered" => arrow(Upstream, Proxy, Shape::Data, "answered"),
        other => note(Proxy, other.replace('_', " ")),
    }
}
