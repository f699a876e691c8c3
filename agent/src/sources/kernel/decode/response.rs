//! What the proxy sent its client.

use agent_ebpf as abi;
use agent_ebpf::{end, flow_flag, tls};

use super::address::{local, remote};
use super::{Beside, answer_begins, are_tickets, attempt, is_client, text, time};
use crate::signal::Response;
use crate::sources::wire;

pub(super) fn response(record: &abi::Response, beside: Beside<'_>) -> Response {
    let flow = &record.flow;
    let head = &flow.head[..(flow.head_size as usize).min(abi::HEAD)];
    // The buffer may hold something else by now: believed only where it begins as the request did.
    let full = &record.request[..(record.request_len as usize).min(abi::REQUEST)];
    let request = if full.starts_with(head) { full } else { head };
    Response {
        proxy: record.header.tgid,
        thread: record.header.tid,
        downstream: flow.cookie,
        ordinal: flow.ordinal,
        status: (record.status != 0).then_some(record.status),
        client: Some(remote(&flow.ends)),
        proxy_address: local(&flow.ends),
        request: (flow.head_size > 0).then(|| wire::request(text(request))),
        request_at: time(flow.request_ns),
        request_body: wire::announced_body(text(request)),
        adjacent: time(record.adjacent),
        last_attempt: (record.has_attempt != 0 && !is_client(&record.attempt, beside)).then(|| {
            let at = record.header.at;
            let end = broken_answer(record).unwrap_or(record.attempt_end);
            let errno = match end {
                end::CONNECT_FAILED => record.attempt.send_errno,
                _ => 0,
            };
            Box::new(attempt(
                &record.attempt,
                &record.sample,
                end,
                errno,
                at,
                beside,
            ))
        }),
        untied: None,
        unread: None,
        descriptors: None,
        in_touch: Vec::new(),
    }
}

/// How an attempt ended whose answer had begun, when the proxy sent an error of its own all the same:
/// the head never became complete.
fn broken_answer(record: &abi::Response) -> Option<u8> {
    let flow = &record.attempt;
    let passed_on = wire::status(answer_begins(flow)) == Some(record.status);
    // Of what came in TLS nothing tells whether it was this status.
    let sealed = flow.tls & tls::ASKED != 0;
    let unread = sealed && !are_tickets(flow, record.header.at);
    if record.attempt_end != end::ANSWERED || record.status < 500 || passed_on || unread {
        return None;
    }
    if sealed && !matches!(record.status, 502 | 504) {
        // It may be the upstream's own, held back until its end.
        None
    } else if flow.reset_ns != 0 {
        Some(end::RESET)
    } else if flow.flags & flow_flag::EOF != 0 {
        Some(end::PEER_CLOSED)
    } else {
        (record.status == 504).then_some(end::GIVEN_UP)
    }
}
