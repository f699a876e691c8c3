//! Cases to judge: complete facts as the kernel source would give them, to be changed by each test.

use crate::cause::{Cause, Variant};
use crate::diagnose::{Case, Diagnosis, Tried, diagnose};
use crate::signal::*;
use crate::track::host::Host;
use crate::verdict::Confidence;

pub(super) const MS: Nanos = 1_000_000;
pub(super) const S: Nanos = 1_000_000_000;
/// When the request was written.
pub(super) const T: Nanos = 100 * S;

pub(super) const PROXY: u32 = 10;
pub(super) const WORKER: u32 = 21;
pub(super) const MASTER: u32 = 20;
pub(super) const FLOW: FlowId = 7;
pub(super) const CLIENT: FlowId = 5;

pub(super) const TCP: &str = "10.9.0.2:9000";
pub(super) const UNIX: &str = "unix:/run/app.sock";

#[derive(Clone, Debug)]
pub(super) struct Scene {
    pub signals: Vec<Signal>,
    pub tried: Tried,
    pub response: Option<Response>,
    pub lost: u64,
    pub deadline_passed: bool,
}

pub(super) fn kernel(at: Nanos, fact: Fact) -> Signal {
    Signal {
        at,
        source: Source::Kernel,
        fact,
    }
}

pub(super) fn request_line() -> Opening {
    Opening::HttpRequest {
        method: "POST".into(),
        path: "/orders/17".into(),
        path_complete: true,
        host: Some("shop.example".into()),
    }
}

/// A POST of 124 bytes that ended with this, `after` nanoseconds later.
pub(super) fn scene(upstream: &str, end: End, after: Nanos) -> Scene {
    let tcp = !upstream.starts_with("unix:");
    let fresh_connect = matches!(end, End::ConnectFailed { .. } | End::ConnectGivenUp);
    let attempt = Attempt {
        flow: FLOW,
        proxy: PROXY,
        thread: PROXY,
        downstream: Some(Link {
            flow: CLIENT,
            ordinal: 1,
            order: LinkOrder::AfterRead,
            client: Some(Address("10.9.0.7:51544".into())),
            proxy_address: Some(Address("10.9.0.1:80".into())),
            request: Some(request_line()),
            state: DownstreamState::Open,
            read_before_ns: None,
        }),
        retry_of: None,
        upstream: Address(upstream.into()),
        local: tcp.then(|| Address("10.9.0.1:40112".into())),
        began: T,
        connected: (tcp && !fresh_connect).then_some(T),
        reused: false,
        requests_before: 0,
        idle_ns: None,
        request: (!fresh_connect).then(|| RequestSent {
            at: T,
            bytes: 124,
            opening: request_line(),
            write_errno: None,
        }),
        received: 0,
        response: None,
        end,
        tcp: (tcp && !fresh_connect).then(|| TcpFacts {
            acked: 124,
            srtt_us: 20_000,
            ..TcpFacts::default()
        }),
        peer: None,
        queue: None,
        netns: 1,
        upstream_end: None,
        spoke_http: false,
        sealed: false,
        tickets: false,
        unasked: false,
        fault: None,
    };
    let response = Response {
        proxy: PROXY,
        thread: PROXY,
        downstream: CLIENT,
        ordinal: 1,
        status: Some(502),
        client: None,
        proxy_address: None,
        request: Some(request_line()),
        request_at: Some(T),
        request_body: None,
        adjacent: Some(FLOW),
        last_attempt: None,
        untied: None,
        unread: None,
        descriptors: None,
        in_touch: Vec::new(),
    };
    Scene {
        signals: vec![
            kernel(
                0,
                Fact::SourceStarted {
                    blind: vec![],
                    sees: ["process_exited", "signal_sent", "oom_killed"]
                        .map(String::from)
                        .into(),
                },
            ),
            kernel(0, process(PROXY, 1, "nginx", Software::Nginx)),
        ],
        tried: Tried {
            at: T + after,
            source: Source::Kernel,
            attempt,
            closed: None,
            said: None,
        },
        response: Some(response),
        lost: 0,
        deadline_passed: false,
    }
}

pub(super) fn process(pid: u32, parent: u32, name: &str, software: Software) -> Fact {
    Fact::ProcessSeen(Process {
        pid,
        parent,
        name: name.into(),
        software,
        settings: Vec::new(),
        started: S,
        netns: 1,
        sagemaker: false,
        home: Default::default(),
    })
}

pub(super) fn sent(signal: u8, to: u32, to_parent: u32, from: u32) -> Fact {
    Fact::SignalSent(SignalSent {
        signal,
        to,
        to_parent,
        from,
        from_name: "sender".into(),
        by_kernel: from == 0,
    })
}

pub(super) fn exited(signal: u8, status: u8) -> Fact {
    Fact::ProcessExited(ProcessExit {
        pid: WORKER,
        parent: MASTER,
        signal,
        status,
    })
}

impl Scene {
    pub(super) fn attempt(mut self, change: impl FnOnce(&mut Attempt)) -> Self {
        change(&mut self.tried.attempt);
        self
    }

    pub(super) fn tcp(self, change: impl FnOnce(&mut TcpFacts)) -> Self {
        self.attempt(|a| change(a.tcp.get_or_insert_default()))
    }

    pub(super) fn reused(self) -> Self {
        self.attempt(|a| {
            a.reused = true;
            a.connected = None;
            a.requests_before = 3;
            a.idle_ns = Some(968 * MS);
        })
    }

    pub(super) fn signal(mut self, at: Nanos, fact: Fact) -> Self {
        self.signals.push(kernel(at, fact));
        self
    }

    /// The worker and its master are this software.
    pub(super) fn workers(self, software: Software) -> Self {
        self.signal(S, process(WORKER, MASTER, "worker", software))
            .signal(S, process(MASTER, 1, "master", software))
    }

    /// The upstream's address is the proxy's own, too.
    pub(super) fn local(self) -> Self {
        self.attempt(|a| a.local = Some(Address(format!("{}:40112", a.upstream.ip()))))
    }

    /// A later record of the flow.
    pub(super) fn closed(mut self, acked: u64, reset_at: Option<Nanos>) -> Self {
        self.tried.closed = Some(FlowClosed {
            flow: FLOW,
            acked,
            reset_at,
            peer: None,
        });
        self
    }

    /// What the end of the flow tells of the upstream's end, after `closed`.
    pub(super) fn closed_by(mut self, peer: Option<Peer>) -> Self {
        self.tried.closed.as_mut().expect("the flow is closed").peer = peer;
        self
    }

    /// The upstream's end is on this host: what it had done when the attempt ended.
    pub(super) fn peer(self, accepted: bool, read: bool) -> Self {
        self.attempt(|a| {
            a.peer = Some(Peer {
                accepted,
                read,
                reader: read.then_some(Reader {
                    pid: WORKER,
                    thread: WORKER,
                    at: T + MS / 2,
                    at_end: None,
                }),
                closed: None,
            });
        })
    }

    pub(super) fn reader(self, change: impl FnOnce(&mut Reader)) -> Self {
        self.attempt(|a| {
            let reader = a.peer.as_mut().and_then(|p| p.reader.as_mut());
            change(reader.expect("the request was read"));
        })
    }

    /// The upstream's end closed `before` the attempt's end.
    pub(super) fn peer_closed(
        self,
        accepted: bool,
        read: bool,
        reset: bool,
        before: Nanos,
    ) -> Self {
        let at = self.tried.at - before;
        self.peer(accepted, read).attempt(|a| {
            let close = PeerClose {
                at,
                pid: WORKER,
                accepted,
                read,
                reset,
                ..PeerClose::default()
            };
            a.peer.get_or_insert_default().closed = Some(close);
        })
    }

    /// More of the upstream's close, after `peer_closed`.
    pub(super) fn close(self, change: impl FnOnce(&mut PeerClose)) -> Self {
        self.attempt(|a| {
            let close = a.peer.as_mut().and_then(|peer| peer.closed.as_mut());
            change(close.expect("the upstream closed"));
        })
    }

    pub(super) fn queue(self, length: u32, limit: u32, drops: u32) -> Self {
        self.attempt(|a| {
            a.queue = Some(Queue {
                length,
                limit,
                drops,
                later: false,
                shared: false,
                half_open: None,
                syn_settings: None,
            })
        })
    }

    pub(super) fn late(mut self) -> Self {
        self.deadline_passed = true;
        self
    }

    pub(super) fn no_response(mut self) -> Self {
        self.response = None;
        self
    }

    pub(super) fn client_left(self) -> Self {
        self.no_response().attempt(|a| {
            if let Some(link) = &mut a.downstream {
                link.state = DownstreamState::ClosedByClient;
            }
        })
    }

    pub(super) fn announces(mut self, body: u64) -> Self {
        if let Some(response) = &mut self.response {
            response.request_body = Some(body);
        }
        self
    }

    pub(super) fn status(mut self, status: u16) -> Self {
        if let Some(response) = &mut self.response {
            response.status = Some(status);
        }
        self
    }

    pub(super) fn sample(self, at: Nanos, change: impl FnOnce(&mut ProcessSample)) -> Self {
        let mut sample = ProcessSample {
            pid: WORKER,
            flow: FLOW,
            thread: ThreadSample {
                thread: WORKER,
                state: 'S',
                cpu_ns: 0,
                wait_ns: 0,
                syscall: None,
                socket_peer: None,
            },
            throttled_us: Some(0),
            frozen: false,
            throttling_unseen: false,
            freezing_unseen: false,
        };
        change(&mut sample);
        self.signal(at, Fact::ProcessSampled(sample))
    }

    pub(super) fn host(&self) -> Host {
        let mut host = Host::default();
        for signal in &self.signals {
            host.observe(signal);
        }
        host
    }

    pub(super) fn judge(&self) -> Diagnosis {
        let host = self.host();
        let attempts = std::slice::from_ref(&self.tried);
        diagnose(&self.case(&host, attempts))
    }

    pub(super) fn advice(&self) -> crate::verdict::Advice {
        let host = self.host();
        let attempts = std::slice::from_ref(&self.tried);
        crate::diagnose::advise(&self.case(&host, attempts), &self.judge())
    }

    /// Gives a process settings, as read from its command line or configuration.
    pub(super) fn settings(mut self, pid: u32, settings: &[(&str, &str)]) -> Self {
        for signal in &mut self.signals {
            if let Fact::ProcessSeen(process) = &mut signal.fact
                && process.pid == pid
            {
                let owned = settings
                    .iter()
                    .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
                process.settings.extend(owned);
            }
        }
        self
    }

    pub(super) fn case<'a>(&'a self, host: &'a Host, attempts: &'a [Tried]) -> Case<'a> {
        Case {
            source: Source::Kernel,
            attempts,
            response: self.response.as_ref(),
            answered_at: 0,
            host,
            told: None,
            surely_told: false,
            named: false,
            lost: self.lost,
            deadline_passed: self.deadline_passed,
        }
    }

    #[track_caller]
    pub(super) fn is(
        &self,
        cause: Cause,
        variant: impl Into<Option<Variant>>,
        confidence: Confidence,
        settled: bool,
    ) {
        let found = self.judge();
        assert_eq!(
            (found.cause, found.variant, found.confidence, found.settled),
            (cause, variant.into(), confidence, settled),
            "{found:#?}"
        );
        // What is not proven says what is missing, and only that.
        assert_eq!(
            found.missing.is_empty(),
            confidence == Confidence::Proven,
            "{found:#?}"
        );
        assert!(found.variant.is_none_or(
            |v| found.cause.variants().contains(&v) || found.cause == Cause::DownstreamGaveUp
        ));
        assert!(found.evidence.is_sorted_by_key(|fact| fact.at));
    }
}
