//! The life of one client: its connection to the proxy, the proxy's to an upstream, and every
//! packet of both as the proxy's host sees them.

use serde::{Deserialize, Serialize};

use super::chance::Chance;

pub(super) const MICRO: u64 = 1_000;
pub(super) const MILLI: u64 = 1_000_000;
pub(super) const SECOND: u64 = 1_000_000_000;

/// Halfway between proxy and upstream, and between client and proxy.
const UPSTREAM_DELAY: u64 = 250 * MICRO;
const CLIENT_DELAY: u64 = 5 * MILLI;
/// The upstream closes connections that are idle for so long, and the proxy gives up after so long.
const IDLE_LIMIT: u64 = 5 * SECOND;
const CONNECT_LIMIT: u64 = 10 * SECOND;
const READ_LIMIT: u64 = 60 * SECOND;
/// One exchange in so many fails, on average.
const FAIL_EVERY: u64 = 100;
/// Exchanges on a kept-alive connection.
const KEPT: u32 = 5;

pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const PSH: u8 = 0x08;
pub(super) const ACK: u8 = 0x10;

pub(super) const REQUEST: u32 = 520;
/// A response is two full segments; an error of the proxy's own is short.
pub(super) const SEGMENT: u32 = 1448;
pub(super) const ERROR: u32 = 310;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Link {
    Downstream,
    Upstream,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Payload {
    None,
    Request {
        exchange: u32,
    },
    /// The first segment of a response, with its head.
    Head {
        status: u16,
        length: u32,
    },
    Body {
        length: u32,
    },
    /// Not TCP: a router could not deliver the packet before.
    HostUnreachable,
}

impl Payload {
    pub(super) fn length(self) -> u32 {
        match self {
            Payload::None | Payload::HostUnreachable => 0,
            Payload::Request { .. } => REQUEST,
            Payload::Head { length, .. } | Payload::Body { length } => length,
        }
    }
}

/// One packet of a session; `at` counts from the session's beginning.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet {
    pub(super) at: u64,
    pub(super) link: Link,
    /// From the connection's client: the proxy's client, or the proxy.
    pub(super) from_client: bool,
    pub(super) flags: u8,
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) payload: Payload,
}

/// Why an exchange failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    FinInFlight,
    FinAlreadyReceived,
    Refused,
    ConnectTimeout,
    HostUnreachable,
    ReadTimeout,
    ClosedEarly,
    Reset,
    Answered,
}

/// On a connection that was used before, and on a new one.
const ON_REUSED: [Failure; 6] = [
    Failure::FinInFlight,
    Failure::ClosedEarly,
    Failure::FinAlreadyReceived,
    Failure::Reset,
    Failure::ReadTimeout,
    Failure::Answered,
];
const ON_FRESH: [Failure; 7] = [
    Failure::Refused,
    Failure::ClosedEarly,
    Failure::ConnectTimeout,
    Failure::Reset,
    Failure::HostUnreachable,
    Failure::ReadTimeout,
    Failure::Answered,
];

/// What a verdict has to say of a failed exchange.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Truth {
    pub(super) path: String,
    pub(super) status: u16,
    /// A cause, or what its name begins with where packets cannot tell more.
    pub(super) cause: String,
    pub(super) variant: Option<String>,
    /// Packets alone prove it.
    pub(super) proven: bool,
}

impl Failure {
    fn truth(self, path: String) -> Truth {
        let (status, cause, variant, proven) = match self {
            Failure::FinInFlight => (502, "keepalive_race", Some("fin_in_flight"), true),
            Failure::FinAlreadyReceived => {
                (502, "keepalive_race", Some("fin_already_received"), true)
            }
            Failure::Refused => (502, "connection_refused", None, true),
            Failure::ConnectTimeout => (504, "connect_timeout", None, false),
            Failure::HostUnreachable => (502, "host_unreachable", None, true),
            Failure::ReadTimeout => (504, "read_timeout", None, false),
            Failure::ClosedEarly => (502, "upstream_closed_early", None, false),
            Failure::Reset => (502, "upstream_reset", None, false),
            Failure::Answered => (503, "upstream_answered", None, true),
        };
        Truth {
            path,
            status,
            cause: cause.to_owned(),
            variant: variant.map(str::to_owned),
            proven,
        }
    }
}

/// What the sessions share: chance, and whose turn it is to fail.
pub(super) struct Sessions {
    chance: Chance,
    exchanges: u64,
    failures: [usize; 2],
}

impl Sessions {
    pub(super) fn new(seed: u64) -> Sessions {
        Sessions {
            chance: Chance::new(seed),
            exchanges: 0,
            failures: [0, 0],
        }
    }

    pub(super) fn exchanges(&self) -> u64 {
        self.exchanges
    }

    /// Every other session keeps its connections alive.
    pub(super) fn session(&mut self, number: u32) -> (Vec<Packet>, Option<Truth>) {
        let kept = number.is_multiple_of(2);
        let mut script = Script {
            packets: Vec::with_capacity(80),
            now: 0,
            downstream: Ends::new(&mut self.chance),
            upstream: Ends::new(&mut self.chance),
        };
        script.handshake(Link::Downstream);
        let mut truth = None;
        let mut upstream_open = false;
        for exchange in 0..if kept { KEPT } else { 1 } {
            self.exchanges += 1;
            if exchange > 0 {
                script.now += self.chance.between(50 * MILLI, SECOND);
            }
            let fails = self.chance.next().is_multiple_of(FAIL_EVERY);
            let failure = fails.then(|| self.failure(exchange > 0));
            if let Some(failure) = failure {
                script.fail(exchange, failure);
                truth = Some(failure.truth(path(number, exchange)));
                upstream_open = failure == Failure::Answered;
                break;
            }
            let work = self.chance.between(MILLI, 20 * MILLI);
            script.exchange(exchange, 200, work);
            upstream_open = true;
        }
        if upstream_open {
            script.close(Link::Upstream, kept);
        }
        script.close(Link::Downstream, kept);
        // What was scheduled ahead, a reset for example, falls into its place.
        script.packets.sort_by_key(|packet| packet.at);
        (script.packets, truth)
    }

    fn failure(&mut self, reused: bool) -> Failure {
        let [fresh, used] = &mut self.failures;
        if reused {
            *used += 1;
            ON_REUSED[*used % ON_REUSED.len()]
        } else {
            *fresh += 1;
            ON_FRESH[*fresh % ON_FRESH.len()]
        }
    }
}

/// No two exchanges share a path.
pub(super) fn path(session: u32, exchange: u32) -> String {
    format!("/orders/{session}/{exchange}")
}

/// The next sequence number of each end.
struct Ends {
    client: u32,
    server: u32,
}

impl Ends {
    fn new(chance: &mut Chance) -> Ends {
        Ends {
            client: chance.next() as u32,
            server: chance.next() as u32,
        }
    }
}

struct Script {
    packets: Vec<Packet>,
    now: u64,
    downstream: Ends,
    upstream: Ends,
}

impl Script {
    fn ends(&mut self, link: Link) -> &mut Ends {
        match link {
            Link::Downstream => &mut self.downstream,
            Link::Upstream => &mut self.upstream,
        }
    }

    /// Adds a packet so much later than the one before, and moves its sender's sequence number.
    fn send(&mut self, after: u64, link: Link, from_client: bool, flags: u8, payload: Payload) {
        self.now += after;
        let at = self.now;
        let ends = self.ends(link);
        let (own, other) = if from_client {
            (&mut ends.client, ends.server)
        } else {
            (&mut ends.server, ends.client)
        };
        let seq = *own;
        *own = own.wrapping_add(payload.length() + u32::from(flags & (SYN | FIN) != 0));
        self.packets.push(Packet {
            at,
            link,
            from_client,
            flags,
            seq,
            ack: if flags & ACK != 0 { other } else { 0 },
            payload,
        });
    }

    /// Adds a packet with numbers of its own.
    fn place(&mut self, at: u64, from_client: bool, flags: u8, seq: u32, ack: u32) {
        self.packets.push(Packet {
            at,
            link: Link::Upstream,
            from_client,
            flags,
            seq,
            ack,
            payload: Payload::None,
        });
    }

    fn handshake(&mut self, link: Link) {
        // Which side is at the proxy decides where the delay is seen.
        let (answer, last) = match link {
            Link::Downstream => (20 * MICRO, 2 * CLIENT_DELAY),
            Link::Upstream => (2 * UPSTREAM_DELAY, 10 * MICRO),
        };
        self.send(10 * MICRO, link, true, SYN, Payload::None);
        self.send(answer, link, false, SYN | ACK, Payload::None);
        self.send(last, link, true, ACK, Payload::None);
    }

    fn request_received(&mut self, exchange: u32) {
        let request = Payload::Request { exchange };
        self.send(20 * MICRO, Link::Downstream, true, PSH | ACK, request);
        self.send(10 * MICRO, Link::Downstream, false, ACK, Payload::None);
    }

    fn request_sent(&mut self, exchange: u32) {
        let request = Payload::Request { exchange };
        self.send(40 * MICRO, Link::Upstream, true, PSH | ACK, request);
    }

    fn request_acknowledged(&mut self) {
        self.send(
            2 * UPSTREAM_DELAY,
            Link::Upstream,
            false,
            ACK,
            Payload::None,
        );
    }

    fn exchange(&mut self, exchange: u32, status: u16, work: u64) {
        self.request_received(exchange);
        if exchange == 0 {
            self.handshake(Link::Upstream);
        }
        self.request_sent(exchange);
        self.request_acknowledged();
        for (link, after) in [(Link::Upstream, work), (Link::Downstream, 30 * MICRO)] {
            let head = Payload::Head {
                status,
                length: SEGMENT,
            };
            self.send(after, link, false, ACK, head);
            let body = Payload::Body { length: SEGMENT };
            self.send(2 * MICRO, link, false, PSH | ACK, body);
            let delay = if link == Link::Upstream {
                5 * MICRO
            } else {
                2 * CLIENT_DELAY
            };
            self.send(delay, link, true, ACK, Payload::None);
        }
    }

    fn error(&mut self, after: u64, status: u16) {
        let head = Payload::Head {
            status,
            length: ERROR,
        };
        self.send(after, Link::Downstream, false, PSH | ACK, head);
        self.send(2 * CLIENT_DELAY, Link::Downstream, true, ACK, Payload::None);
    }

    fn fail(&mut self, exchange: u32, failure: Failure) {
        use Link::Upstream;
        if failure == Failure::Answered {
            return self.exchange(exchange, 503, 3 * MILLI);
        }
        if matches!(failure, Failure::FinInFlight | Failure::FinAlreadyReceived) {
            self.now += IDLE_LIMIT - 20 * MILLI;
        }
        self.request_received(exchange);
        let fresh = exchange == 0;
        match failure {
            Failure::FinInFlight => {
                let unanswered = self.upstream.client;
                let open = self.upstream.server;
                self.request_sent(exchange);
                let written = self.now;
                // It was sent before the request came, so it acknowledges nothing of it.
                self.place(written + 200 * MICRO, false, FIN | ACK, open, unanswered);
                self.upstream.server = open.wrapping_add(1);
                self.now += 200 * MICRO;
                self.send(10 * MICRO, Upstream, true, ACK, Payload::None);
                self.send(80 * MICRO, Upstream, true, FIN | ACK, Payload::None);
                let reset = written + 2 * UPSTREAM_DELAY;
                self.place(reset, false, RST, open, 0);
                self.place(reset + 290 * MICRO, false, RST, open.wrapping_add(1), 0);
                self.error(30 * MICRO, 502);
            }
            Failure::FinAlreadyReceived => {
                self.send(5 * MICRO, Upstream, false, FIN | ACK, Payload::None);
                self.send(5 * MICRO, Upstream, true, ACK, Payload::None);
                let open = self.upstream.server;
                self.request_sent(exchange);
                let written = self.now;
                self.send(80 * MICRO, Upstream, true, FIN | ACK, Payload::None);
                for answered in [written, self.now] {
                    self.place(answered + 2 * UPSTREAM_DELAY, false, RST, open, 0);
                }
                self.error(30 * MICRO, 502);
            }
            Failure::Refused => {
                self.send(10 * MICRO, Upstream, true, SYN, Payload::None);
                let asked = self.upstream.client;
                let at = self.now + 2 * UPSTREAM_DELAY;
                self.place(at, false, RST | ACK, 0, asked);
                self.error(2 * UPSTREAM_DELAY + 30 * MICRO, 502);
            }
            Failure::HostUnreachable => {
                self.send(10 * MICRO, Upstream, true, SYN, Payload::None);
                self.send(MILLI, Upstream, false, ACK, Payload::HostUnreachable);
                self.error(30 * MICRO, 502);
            }
            Failure::ConnectTimeout => {
                self.send(10 * MICRO, Upstream, true, SYN, Payload::None);
                let (first, seq) = (self.now, self.upstream.client.wrapping_sub(1));
                for again in [1, 3, 7] {
                    self.place(first + again * SECOND, true, SYN, seq, 0);
                }
                self.error(CONNECT_LIMIT, 504);
            }
            Failure::ReadTimeout => {
                if fresh {
                    self.handshake(Upstream);
                }
                self.request_sent(exchange);
                self.request_acknowledged();
                self.send(READ_LIMIT, Upstream, true, FIN | ACK, Payload::None);
                let acknowledged = (self.upstream.server, self.upstream.client);
                let at = self.now + 2 * UPSTREAM_DELAY;
                self.place(at, false, ACK, acknowledged.0, acknowledged.1);
                self.error(30 * MICRO, 504);
            }
            Failure::ClosedEarly => {
                if fresh {
                    self.handshake(Upstream);
                }
                self.request_sent(exchange);
                self.request_acknowledged();
                self.send(3 * MILLI, Upstream, false, FIN | ACK, Payload::None);
                self.send(40 * MICRO, Upstream, true, FIN | ACK, Payload::None);
                let last = (self.upstream.server, self.upstream.client);
                let at = self.now + 2 * UPSTREAM_DELAY;
                self.place(at, false, ACK, last.0, last.1);
                self.error(20 * MICRO, 502);
            }
            Failure::Reset => {
                if fresh {
                    self.handshake(Upstream);
                }
                self.request_sent(exchange);
                self.request_acknowledged();
                self.send(3 * MILLI, Upstream, false, RST | ACK, Payload::None);
                self.error(40 * MICRO, 502);
            }
            Failure::Answered => {}
        }
    }

    /// A kept connection is closed by its client, another by its server.
    fn close(&mut self, link: Link, by_client: bool) {
        let round_trip = match link {
            Link::Downstream => 2 * CLIENT_DELAY,
            Link::Upstream => 2 * UPSTREAM_DELAY,
        };
        self.send(50 * MICRO, link, by_client, FIN | ACK, Payload::None);
        self.send(round_trip, link, !by_client, FIN | ACK, Payload::None);
        self.send(20 * MICRO, link, by_client, ACK, Payload::None);
    }
}
