//! Records of the kernel half to signals. Pure.

mod address;
mod response;
#[cfg(test)]
mod tests;

use agent_ebpf as abi;
use agent_ebpf::{downstream, end, flow_flag, kind, order, peer_reset, records, sampled, tls};
use zerocopy::FromBytes as _;

pub use self::address::{inet, local, remote, unix};
use self::response::response;
use crate::signal::{
    Attempt, ClosedBy, DownstreamState, End, Fact, Fin, FlowClosed, HeadFault, IdleClose,
    InitialSequenceNumbers, Link, LinkOrder, Opening, Peer, PeerClose, Place, ProcessExit, Queue,
    Reader, RequestSent, ResetBy, Signal, SignalSent, Source, Stall, TcpFacts, ThreadAtEnd,
};
use crate::sources::wire;

const AF_UNIX: u16 = 1;
const SYN_SENT: u8 = 2;
const CLOSE: u8 = 7;

/// What a record says.
#[derive(Debug)]
pub enum Record {
    Signal(Signal),
    /// About a client that the kernel half takes for an upstream: the proxy wrote to it first.
    OfClient,
    /// A watched program was executed.
    ProxyStarted {
        pid: u32,
        name: String,
    },
    /// A socket began to listen, or a TCP one stopped.
    Listening,
    /// A connection from elsewhere ended.
    FarEnd(Box<abi::FarEnd>),
    /// A client's data met the proxy's own close.
    Late(Box<abi::Late>),
}

/// What a record alone does not tell.
#[derive(Clone, Copy)]
pub struct Beside<'a> {
    /// The names of the kernel's reasons for a reset, by number.
    pub reasons: &'a [String],
    /// Whether a flow's upstream is known to have answered HTTP with HTTP.
    pub spoken: &'a dyn Fn(&abi::Flow) -> bool,
    /// Whether somebody listens where this socket is: it was accepted there, not connected.
    pub listened: &'a dyn Fn(&abi::Ends) -> bool,
}

/// Decodes one record of the ring buffer; `None` for a kind or a length that is not known.
pub fn record(bytes: &[u8], beside: Beside<'_>) -> Option<Record> {
    let (header, _) = abi::Header::read_from_prefix(bytes).ok()?;
    let fact = match header.kind {
        kind::ATTEMPT => {
            let attempt: abi::Attempt = read(bytes)?;
            if is_client(&attempt.flow, beside) {
                return Some(Record::OfClient);
            }
            Fact::AttemptEnded(Box::new(attempt_ended(&attempt, beside)))
        }
        kind::RESPONSE => Fact::ResponseSent(Box::new(response(&read(bytes)?, beside))),
        kind::CLOSED => {
            let closed: abi::Closed = read(bytes)?;
            Fact::FlowClosed(FlowClosed {
                flow: closed.flow.cookie,
                acked: acked(&closed.flow, closed.sample.una),
                reset_at: time(closed.flow.reset_ns),
                peer: peer(
                    &closed.flow,
                    &closed.sample,
                    end::GIVEN_UP,
                    header.at,
                    beside,
                ),
            })
        }
        kind::RETRIED => Fact::AttemptRetried {
            flow: read::<abi::Retried>(bytes)?.failed,
        },
        kind::IDLE => {
            let idle: abi::Idle = read(bytes)?;
            if (beside.listened)(&idle.ends) {
                return Some(Record::OfClient);
            }
            Fact::IdleClosed(IdleClose {
                flow: idle.cookie,
                proxy: header.tgid,
                upstream: remote(&idle.ends),
                by: if idle.by_upstream != 0 {
                    ClosedBy::Upstream
                } else {
                    ClosedBy::Proxy
                },
                reset: idle.reset != 0,
                idle_ns: idle.idle_ns,
                requests: idle.ordinal,
                longest_reuse_ns: idle.longest_reuse_ns,
            })
        }
        kind::STALL => {
            let stall: abi::Stall = read(bytes)?;
            Fact::FirstByteLate(Stall {
                proxy: header.tgid,
                upstream: remote(&stall.ends),
                waited_ns: stall.waited_ns,
            })
        }
        kind::EXIT => {
            let exit: abi::Exit = read(bytes)?;
            Fact::ProcessExited(ProcessExit {
                pid: header.tgid,
                parent: exit.parent,
                signal: (exit.code & 0x7f) as u8,
                status: (exit.code >> 8 & 0xff) as u8,
            })
        }
        kind::SIGNAL => {
            let signal: abi::SignalRecord = read(bytes)?;
            Fact::SignalSent(SignalSent {
                signal: signal.signal as u8,
                to: signal.to,
                to_parent: signal.to_parent,
                from: header.tgid,
                from_name: name(&signal.comm),
                by_kernel: signal.by_kernel != 0,
            })
        }
        kind::OOM => Fact::OomKilled {
            pid: read::<abi::Oom>(bytes)?.pid,
        },
        kind::PROXY => {
            let proxy: abi::Proxy = read(bytes)?;
            return Some(Record::ProxyStarted {
                pid: proxy.pid,
                name: name(&proxy.comm),
            });
        }
        kind::LISTEN => return Some(Record::Listening),
        kind::LATE => return Some(Record::Late(Box::new(read(bytes)?))),
        kind::FAR_END => return Some(Record::FarEnd(Box::new(read(bytes)?))),
        _ => return None,
    };
    Some(Record::Signal(Signal {
        at: header.at,
        source: Source::Kernel,
        fact,
    }))
}

/// A connection that was not seen to begin, at whose own port somebody listens.
fn is_client(flow: &abi::Flow, beside: Beside<'_>) -> bool {
    let begun = flow.connected_ns != 0 || flow.flags & flow_flag::CONNECTING != 0;
    !begun && flow.ends.family != AF_UNIX && (beside.listened)(&flow.ends)
}

fn read<T: zerocopy::FromBytes>(bytes: &[u8]) -> Option<T> {
    T::read_from_prefix(bytes).ok().map(|(value, _)| value)
}

/// `task_struct.comm` as text; it is any bytes.
pub fn name(comm: &[u8]) -> String {
    let end = comm.iter().position(|&b| b == 0).unwrap_or(comm.len());
    String::from_utf8_lossy(&comm[..end]).into_owned()
}

fn time(ns: u64) -> Option<u64> {
    (ns != 0).then_some(ns)
}

fn attempt_ended(record: &abi::Attempt, beside: Beside<'_>) -> Attempt {
    let fault = fault(record);
    // A head that became complete was an answer, whoever closed then. The end of one that did not may
    // have been told by an event, and not been read.
    let flow = &record.flow;
    let closed = flow.fin_ns != 0 || flow.flags & flow_flag::PEER_CLOSED != 0;
    let how = match (record.end, fault) {
        (end::ANSWERED, Some(HeadFault::Cut)) if closed => end::PEER_CLOSED,
        (end::PEER_CLOSED, fault) if flow.received > 0 && fault != Some(HeadFault::Cut) => {
            end::ANSWERED
        }
        (how, _) => how,
    };
    let mut attempt = attempt(
        &record.flow,
        &record.sample,
        how,
        record.errno,
        record.header.at,
        beside,
    );
    attempt.fault = fault;
    if let Some(link) = &mut attempt.downstream {
        if record.downstream_ends.family != 0 {
            link.client = Some(remote(&record.downstream_ends));
            link.proxy_address = local(&record.downstream_ends);
        }
        if record.downstream_head[0] != 0 {
            link.request = Some(wire::request(text(&record.downstream_head)));
        } else if record.flow.flags & flow_flag::OPAQUE != 0 {
            // That connection is gone.
            link.request = Some(Opening::Unseen);
        }
        link.read_before_ns =
            time(record.downstream_read_ns).map(|at| record.header.at.saturating_sub(at));
        link.state = match record.downstream_state {
            downstream::OPEN => DownstreamState::Open,
            downstream::CLOSED => DownstreamState::ClosedByClient,
            downstream::RESET => DownstreamState::ResetByClient,
            _ => DownstreamState::Unknown,
        };
    }
    attempt
}

/// What is wrong with the answer that was refused.
fn fault(record: &abi::Attempt) -> Option<HeadFault> {
    let received = record.flow.received as usize;
    let kept = (record.answer_len as usize).min(abi::ANSWER);
    let answer = &record.answer[..kept.min(received)];
    // The buffer may hold something else by now.
    let first = answer_begins(&record.flow);
    let same = !first.is_empty() && answer.starts_with(first);
    same.then(|| wire::head_fault(answer, answer.len() == received))?
}

/// The bytes before the first NUL run of a head that was not filled: heads of text only.
fn text(head: &[u8]) -> &[u8] {
    if head[0] < b' ' {
        return head;
    }
    &head[..head.iter().position(|&b| b == 0).unwrap_or(head.len())]
}

fn attempt(
    flow: &abi::Flow,
    sample: &abi::Sample,
    how: u8,
    errno: i32,
    at: u64,
    beside: Beside<'_>,
) -> Attempt {
    let older = flow.flags & flow_flag::OLDER != 0;
    let reused = flow.ordinal > 1 || (older && flow.ordinal > 0);
    let tcp = flow.ends.family != AF_UNIX;
    let tickets = how != end::ANSWERED && are_tickets(flow, at);
    Attempt {
        flow: flow.cookie,
        proxy: flow.tgid,
        thread: flow.tid,
        downstream: link(flow),
        retry_of: time(flow.retry_of),
        upstream: remote(&flow.ends),
        local: local(&flow.ends),
        began: flow.begun_ns,
        connected: time(flow.connected_ns).filter(|_| tcp && !reused),
        reused,
        requests_before: flow.ordinal.saturating_sub(1),
        idle_ns: (reused && flow.idle_ns != 0).then_some(flow.idle_ns),
        request: (flow.request_ns != 0).then(|| RequestSent {
            at: flow.request_ns,
            bytes: u64::from(flow.sent),
            opening: request_opening(flow),
            write_errno: (flow.send_errno != 0).then_some(flow.send_errno),
        }),
        received: if tickets { 0 } else { u64::from(flow.received) },
        response: answer_opening(flow).filter(|_| !tickets),
        sealed: is_sealed(flow),
        tickets,
        unasked: is_unasked(flow),
        end: ending(how, errno),
        tcp: (tcp && sample.known & sampled::TCP != 0).then(|| tcp_facts(flow, sample)),
        peer: peer(flow, sample, how, at, beside),
        queue: (sample.known & sampled::QUEUE != 0).then_some(Queue {
            length: sample.queue_length,
            limit: sample.queue_limit,
            drops: sample.queue_drops,
            later: false,
            shared: false,
            half_open: None,
            syn_settings: None,
        }),
        netns: flow.ends.netns,
        upstream_end: (flow.peer_netns != 0).then(|| Place {
            address: inet(flow.peer_family, &flow.peer_address, flow.peer_port),
            netns: flow.peer_netns,
        }),
        spoke_http: (beside.spoken)(flow),
        fault: None,
    }
}

/// What the first read of the answer gave, as far as it is kept.
fn answer_begins(flow: &abi::Flow) -> &[u8] {
    let size = u32::from(flow.response_size).min(flow.received);
    &flow.response[..(size as usize).min(abi::RESPONSE)]
}

fn is_sealed(flow: &abi::Flow) -> bool {
    flow.tls & (tls::ASKED | tls::SEVERAL) == tls::ASKED
}

/// All of the proxy's records were followed, and none of them can be a request.
fn is_unasked(flow: &abi::Flow) -> bool {
    let unclear = tls::ASKED | tls::SEVERAL | tls::LOST;
    flow.flags & flow_flag::SEALED != 0 && flow.tls & unclear == 0
}

/// In TLS, once the handshake is over, nothing can be read.
fn request_opening(flow: &abi::Flow) -> Opening {
    if is_sealed(flow) {
        return Opening::Other;
    }
    let head = &flow.head[..(flow.head_size as usize).min(abi::HEAD)];
    match wire::request(head) {
        // Of a connection that is older than the agent.
        Opening::Other if wire::is_http2_frame(head) => Opening::Http2,
        opening => opening,
    }
}

/// An answer is passed on at once, and an end that was announced in it comes with it. What came in TLS 1.3
/// this long before the end was session tickets, or the beginning of an answer.
fn are_tickets(flow: &abi::Flow, end: u64) -> bool {
    const APART_NS: u64 = 50_000_000;
    records::is_doubtful(flow) && end.saturating_sub(flow.last_receive_ns) > APART_NS
}

fn answer_opening(flow: &abi::Flow) -> Option<Opening> {
    /// Bytes of `HTTP/1.x NNN`.
    const STATUS: usize = 12;
    let begins = answer_begins(flow);
    let opening = wire::response(begins);
    let whole = begins.len() >= STATUS || begins.len() == flow.received as usize;
    (flow.received > 0).then_some(match opening {
        // More came, of which nothing is known.
        Opening::Other if !whole => Opening::Unseen,
        opening => opening,
    })
}

fn link(flow: &abi::Flow) -> Option<Link> {
    Some(Link {
        flow: time(flow.link_cookie)?,
        ordinal: flow.link_ordinal,
        order: match flow.order {
            order::AFTER_READ => LinkOrder::AfterRead,
            order::RETRY => LinkOrder::Retry,
            _ => LinkOrder::Unclear,
        },
        client: None,
        proxy_address: None,
        request: None,
        state: DownstreamState::Unknown,
        read_before_ns: None,
    })
}

fn ending(how: u8, errno: i32) -> End {
    match how {
        end::CONNECT_FAILED => End::ConnectFailed { errno },
        end::CONNECT_GIVEN_UP => End::ConnectGivenUp,
        end::PEER_CLOSED => End::PeerClosed,
        end::RESET => End::Reset,
        end::SEND_FAILED => End::SendFailed { errno },
        end::ANSWERED => End::Answered,
        _ => End::GivenUp,
    }
}

/// Bytes of the request that `una` covers.
fn acked(flow: &abi::Flow, una: u32) -> u64 {
    let covered = una.wrapping_sub(flow.request_seq) as i32;
    u64::try_from(covered)
        .unwrap_or(0)
        .min(u64::from(flow.sent))
}

fn tcp_facts(flow: &abi::Flow, sample: &abi::Sample) -> TcpFacts {
    TcpFacts {
        acked: acked(flow, sample.una),
        fin: time(flow.fin_ns).map(|at| Fin {
            at,
            acked: acked(flow, flow.fin_una),
            after_request: flow.fin_write_seq.wrapping_sub(flow.request_seq) as i32 > 0,
        }),
        reset_at: time(flow.reset_ns),
        retransmits: sample.retransmits,
        filtered: sample.filter_drops,
        zero_window: sample.window == 0 && sample.state != SYN_SENT && sample.state != CLOSE,
        srtt_us: sample.srtt_us,
        // Of what was never connected there is only the half.
        isn: (sample.known & sampled::ISN != 0 && sample.irs != u32::MAX).then_some(
            InitialSequenceNumbers {
                client: sample.iss,
                server: sample.irs,
            },
        ),
        ..TcpFacts::default()
    }
}

/// Who read this request, if its process is on this host: a read since the connection was idle.
fn reader(flow: &abi::Flow, sample: &abi::Sample) -> Option<Reader> {
    let idle_since = flow.request_ns.saturating_sub(flow.idle_ns);
    let read = &flow.read;
    (read.ns != 0 && (flow.idle_ns == 0 || read.ns > idle_since)).then_some(Reader {
        pid: read.tgid,
        thread: read.tid,
        at: read.ns,
        at_end: (sample.known & sampled::READER != 0).then_some(ThreadAtEnd {
            state: state(sample.reader_state),
            cpu_ns: sample.reader_cpu_ns,
        }),
    })
}

/// The letter that /proc shows for a `task_struct.__state` (`fs/proc/array.c`, `include/linux/sched.h`).
fn state(bits: u32) -> char {
    const NOLOAD: u32 = 0x400;
    const FROZEN: u32 = 0x8000;
    match bits {
        _ if bits & FROZEN != 0 => 'D',
        _ if bits & 0x2 != 0 && bits & NOLOAD != 0 => 'I',
        _ if bits & 0x1 != 0 => 'S',
        _ if bits & 0x2 != 0 => 'D',
        _ if bits & 0x4 != 0 => 'T',
        _ if bits & 0x8 != 0 => 't',
        0 => 'R',
        _ => 'X',
    }
}

/// Sequence numbers tell what comes first within 2 GiB. Of a longer request the upstream has read: no
/// buffer holds as much.
fn is_past_counting(flow: &abi::Flow) -> bool {
    flow.sent > i32::MAX as u32
}

fn peer(
    flow: &abi::Flow,
    sample: &abi::Sample,
    how: u8,
    at: u64,
    beside: Beside<'_>,
) -> Option<Peer> {
    let reader = reader(flow, sample);
    if flow.flags & flow_flag::PEER_CLOSED != 0 {
        let accepted = flow.flags & flow_flag::PEER_CLOSED_ACCEPTED != 0;
        let taken = flow.peer_close_copied.wrapping_sub(flow.request_seq) as i32;
        let read = taken > 0 || is_past_counting(flow);
        let tcp = flow.ends.family != AF_UNIX;
        return Some(Peer {
            accepted,
            read,
            reader: reader.filter(|_| read),
            closed: Some(PeerClose {
                at: flow.peer_close_ns,
                pid: flow.peer_close_tgid,
                accepted,
                read,
                reset: flow.flags & flow_flag::PEER_SENT_RESET != 0,
                taken: (tcp && !is_past_counting(flow)).then(|| u64::try_from(taken).unwrap_or(0)),
                unread: tcp.then(|| u64::from(flow.peer_close_unread)),
                reset_by: match flow.peer_reset {
                    peer_reset::UNREAD => Some(ResetBy::UnreadData),
                    peer_reset::ABORT => Some(ResetBy::Abort),
                    peer_reset::LATE => Some(ResetBy::LateData),
                    _ => None,
                },
                reset_reason: usize::from(flow.peer_reset_reason)
                    .checked_sub(1)
                    .and_then(|number| beside.reasons.get(number).cloned()),
            }),
        });
    }
    if sample.known & sampled::PEER != 0 {
        // A Unix socket whose queue is not empty may have been read from: its body is still coming.
        let unix = flow.ends.family == AF_UNIX;
        let taken = sample.read != 0 || is_past_counting(flow);
        let read = flow.sent > 0 && (taken || (unix && reader.is_some()));
        return Some(Peer {
            accepted: sample.accepted != 0,
            read,
            reader: reader.filter(|_| read),
            closed: None,
        });
    }
    if flow.ends.family != AF_UNIX {
        return None;
    }
    // A Unix socket whose other end is gone: end of file says that all was read, a reset that it was not.
    let ended = matches!(how, end::PEER_CLOSED | end::RESET | end::SEND_FAILED);
    if !ended {
        return None;
    }
    let read = how == end::PEER_CLOSED && flow.sent > 0;
    let accepted = sample.state == 1 || reader.is_some() || read;
    Some(Peer {
        accepted,
        read,
        closed: Some(PeerClose {
            at,
            pid: reader.as_ref().map_or(0, |r| r.pid),
            accepted,
            read,
            reset: how == end::RESET,
            ..PeerClose::default()
        }),
        reader: reader.filter(|_| read),
    })
}
