//! Recordings that are whole, cut, damaged or something else.

use super::*;
use crate::signal::*;
use crate::sinks::record::Recorder;

const HEADER: &str =
    r#"{"why502_recording":1,"version":"0.1.0","clock_offset_ns":5,"node":"n","later":true}"#;
const TICK: &str = r#"{"at":1,"source":"kernel","fact":{"kind":"tick"}}"#;

fn read(text: &str) -> Result<(usize, Option<ReadError>), ReadError> {
    let mut good = 0;
    let mut error = None;
    for signal in Recording::open(text.as_bytes(), "f")? {
        match signal {
            Ok(_) => good += 1,
            Err(why) => error = Some(why),
        }
    }
    Ok((good, error))
}

#[test]
fn a_cut_last_line_is_named_and_the_rest_is_read() {
    let (good, error) = read(&format!("{HEADER}\n{TICK}\n{TICK}\n{}", &TICK[..20])).unwrap();
    let error = error.unwrap();
    assert_eq!(good, 2);
    assert!(error.is_truncation());
    assert!(
        error.to_string().starts_with("f: line 4 is cut off"),
        "{error}"
    );
}

#[test]
fn a_whole_last_line_needs_no_newline() {
    let (good, error) = read(&format!("{HEADER}\r\n{TICK}\n\n{TICK}")).unwrap();
    assert_eq!((good, error.is_none()), (2, true));
}

#[test]
fn damage_in_the_middle_ends_with_its_line() {
    let (good, error) = read(&format!("{HEADER}\n{TICK}\nnonsense\n{TICK}\n")).unwrap();
    assert_eq!(good, 1);
    assert!(
        error
            .unwrap()
            .to_string()
            .starts_with("f: line 3: expected")
    );
}

#[test]
fn other_files_are_refused_by_their_first_line() {
    for (text, part) in [
        ("", "line 1: it is empty"),
        ("\u{d4}\u{c3}\u{b2}\u{a1}", "not a recording"),
        ("{}\n", "not a recording"),
        (
            "{\"why502_recording\":1}\n",
            "line 1: its header: missing field",
        ),
        (
            "{\"why502_recording\":9,\"version\":\"3.1.0\"}\n",
            "format 9, written by why502 3.1.0; this one reads up to 1",
        ),
    ] {
        let error = read(text).unwrap_err().to_string();
        assert!(error.contains(part), "{text:?}: {error}");
    }
}

#[test]
fn a_line_without_end_is_not_read_into_memory() {
    let text = format!("{HEADER}\n{}", "x".repeat(3 * MAX_LINE as usize));
    let (_, error) = read(&text).unwrap();
    assert!(
        error
            .unwrap()
            .to_string()
            .contains("line 2: longer than any signal")
    );
}

/// An attempt in which everything is known.
const ISN: InitialSequenceNumbers = InitialSequenceNumbers {
    client: u32::MAX,
    server: 0,
};

fn attempt(end: End) -> Attempt {
    let opening = Opening::HttpRequest {
        method: "POST".to_owned(),
        path: "/ordré \"1\"\n\u{1b}".to_owned(),
        path_complete: false,
        host: Some("shop.example".to_owned()),
    };
    let address = |text: &str| Some(Address(text.to_owned()));
    let peer = Peer {
        accepted: true,
        read: true,
        reader: Some(Reader {
            pid: 9,
            thread: 10,
            at: 6,
            at_end: Some(ThreadAtEnd {
                state: 'S',
                cpu_ns: 11,
            }),
        }),
        closed: Some(PeerClose {
            at: 7,
            pid: 9,
            accepted: true,
            read: false,
            reset: true,
            taken: Some(0),
            unread: Some(3),
            reset_by: Some(ResetBy::UnreadData),
            reset_reason: Some("TCP_STATE".into()),
        }),
    };
    Attempt {
        flow: u64::MAX,
        proxy: 1,
        thread: 2,
        downstream: Some(Link {
            flow: 4,
            ordinal: 3,
            order: LinkOrder::Retry,
            client: address("10.9.0.7:51544"),
            proxy_address: address("unix:@abstract"),
            request: Some(opening.clone()),
            state: DownstreamState::ResetByClient,
            read_before_ns: None,
        }),
        retry_of: Some(6),
        upstream: Address("unix:/run/x \n.sock".to_owned()),
        local: address("[::1]:5"),
        began: 1,
        connected: Some(2),
        reused: true,
        requests_before: 3,
        idle_ns: Some(968_123_000),
        request: Some(RequestSent {
            at: 3,
            bytes: 124,
            opening,
            write_errno: Some(32),
        }),
        received: 0,
        response: Some(Opening::HttpResponse { status: 504 }),
        end,
        tcp: Some(TcpFacts {
            acked: 1,
            fin: Some(Fin {
                at: 5,
                acked: 0,
                after_request: true,
            }),
            reset_at: Some(8),
            retransmits: 2,
            filtered: 0,
            zero_window: true,
            srtt_us: 20_000,
            reset_acked: Some(7),
            ended_with_others: true,
            missing_packets: 1,
            isn: Some(ISN),
        }),
        peer: Some(peer),
        netns: 4_026_531_840,
        upstream_end: Some(Place {
            address: Address("172.17.0.2:80".to_owned()),
            netns: 4_026_532_246,
        }),
        spoke_http: false,
        sealed: false,
        tickets: false,
        unasked: false,
        fault: None,
        queue: Some(Queue {
            length: 129,
            limit: 128,
            drops: 4,
            later: true,
            shared: true,
            half_open: Some(97),
            syn_settings: Some(SynSettings {
                max_backlog: 128,
                cookies: 0,
            }),
        }),
    }
}

/// One signal of every kind, and every shape that is stored differently.
fn signals() -> Vec<Signal> {
    let ends = [
        End::ConnectFailed { errno: 11 },
        End::ConnectGivenUp,
        End::PeerClosed,
        End::Reset,
        End::SendFailed { errno: 104 },
        End::GivenUp,
        End::Answered,
    ];
    let openings = [
        Opening::Uwsgi,
        Opening::FastCgi,
        Opening::Tls,
        Opening::Http2,
        Opening::Other,
    ];
    let address = Address("10.0.0.1:80".to_owned());
    let mut facts: Vec<Fact> = ends
        .into_iter()
        .map(|end| Fact::AttemptEnded(Box::new(attempt(end))))
        .collect();
    facts.extend(openings.map(|opening| {
        Fact::ResponseSent(Box::new(Response {
            proxy: 1,
            thread: 2,
            downstream: 3,
            ordinal: 1,
            status: None,
            client: None,
            proxy_address: None,
            request: Some(opening),
            request_at: Some(1),
            request_body: None,
            adjacent: Some(5),
            last_attempt: Some(Box::new(attempt(End::Answered))),
            untied: Some(Untied {
                at: 3,
                end: End::ConnectFailed { errno: 111 },
                upstreams: vec![Address("10.0.0.2:9000".into())],
                captured: true,
                waited_ns: 7,
            }),
            unread: Some(Unread {
                at: 3,
                upstreams: vec![Address("10.0.0.3:9443".into())],
            }),
            descriptors: Some(Descriptors {
                at: 4,
                open: 1023,
                limit: 1024,
            }),
            in_touch: vec![InTouch {
                proxy: 1,
                upstream: Address("10.0.0.3:80".into()),
                heard: 4,
            }],
        }))
    }));
    facts.extend([
        Fact::FlowClosed(FlowClosed {
            flow: 1,
            acked: 124,
            reset_at: Some(9),
            peer: Some(Peer::default()),
        }),
        Fact::IdleClosed(IdleClose {
            flow: 1,
            proxy: 2,
            upstream: address.clone(),
            by: ClosedBy::Upstream,
            reset: true,
            idle_ns: 5,
            requests: 6,
            longest_reuse_ns: 7,
        }),
        Fact::UpstreamEnded(Box::new(UpstreamEnd {
            flow: 1,
            upstream: address.clone(),
            caller: address.clone(),
            by: ClosedBy::Proxy,
            reset: true,
            accepted: true,
            unread: 2,
            unanswered: true,
            idle_ns: 3,
            waited_ns: 4,
            exit_signal: Some(9),
            exit_status: None,
            isn: ISN,
            server: None,
            left_out: 5,
        })),
        Fact::FirstByteLate(Stall {
            proxy: 1,
            upstream: address.clone(),
            waited_ns: 2_000_000_000,
        }),
        Fact::ProcessExited(ProcessExit {
            pid: 1,
            parent: 2,
            signal: 9,
            status: 0,
        }),
        Fact::SignalSent(SignalSent {
            signal: 6,
            to: 1,
            to_parent: 2,
            from: 2,
            from_name: "guni\ncorn \u{fffd}".to_owned(),
            by_kernel: false,
        }),
        Fact::OomKilled { pid: 7 },
        Fact::ProcessSampled(ProcessSample {
            pid: 1,
            flow: 2,
            thread: ThreadSample {
                thread: 3,
                state: 'S',
                cpu_ns: 4,
                wait_ns: 5,
                syscall: Some("recvfrom".to_owned()),
                socket_peer: Some(address.clone()),
            },
            throttled_us: Some(6),
            frozen: true,
            throttling_unseen: true,
            freezing_unseen: false,
        }),
        Fact::ProcessSeen(Process {
            pid: 1,
            parent: 0,
            name: "gunicorn".to_owned(),
            software: Software::PhpFpm,
            settings: vec![("--timeout".to_owned(), "30".to_owned())],
            started: 1,
            netns: 4_026_531_840,
            sagemaker: true,
            home: Default::default(),
        }),
        Fact::ListenerSeen(Listener {
            address,
            netns: 1,
            pid: 2,
            length: 3,
            limit: 4,
            peak: 5,
            somaxconn: Some(4096),
            since: Some(6),
            gone: true,
        }),
        Fact::ProxyStarted {
            pid: 1,
            name: "nginx".to_owned(),
        },
        Fact::SourceStarted {
            blind: vec![],
            sees: vec!["signal_sent".to_owned()],
        },
        Fact::SignalsLost {
            stage: "ring_buffer".to_owned(),
            reason: "full".to_owned(),
            count: 3,
            probe: None,
        },
        Fact::Tick,
    ]);
    let sources = [Source::Kernel, Source::Packets, Source::Log];
    facts
        .into_iter()
        .zip(sources.into_iter().cycle())
        .zip(1_u64 << 40..)
        .map(|((fact, source), at)| Signal { at, source, fact })
        .collect()
}

#[test]
fn every_kind_of_signal_survives_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.jsonl");
    let header = Header::new(Clock::from_offset(-5), "web-3");
    let mut recorder = Recorder::create(&path, &header).unwrap();
    let signals = signals();
    for signal in &signals {
        recorder.on_signal(signal).unwrap();
    }
    recorder.flush().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let recording = Recording::open(bytes.as_slice(), "r").unwrap();
    assert_eq!(recording.clock(), Clock::from_offset(-5));
    let read: Vec<Signal> = recording.map(|signal| signal.unwrap()).collect();
    assert_eq!(read, signals);

    // Cut anywhere (every thirteenth byte here), a recording gives whole signals, then at most one message.
    for end in (0..bytes.len()).step_by(13) {
        let Ok(recording) = Recording::open(&bytes[..end], "r") else {
            let header = bytes.iter().position(|byte| *byte == b'\n').unwrap();
            assert!(end < header, "the header was whole at {end} bytes");
            continue;
        };
        for (read, signal) in recording.enumerate() {
            match signal {
                Ok(signal) => assert_eq!(signal, signals[read]),
                Err(error) => assert!(error.is_truncation(), "{end}: {error}"),
            }
        }
    }
}
