//! TLS to an upstream, as the kernel half walks its records: requests, answers, and what is neither.

use agent_ebpf::records::{
    UNREAD, answers, asked, asks, is_doubtful, is_within_handshake, offers_more,
};
use agent_ebpf::{Flow, flow_flag, tls};
use zerocopy::FromZeros as _;

const HANDSHAKE: u8 = 22;
const SPEC: u8 = 20;
const ALERT: u8 = 21;
const DATA: u8 = 23;

fn record(kind: u8, length: u16) -> Vec<u8> {
    let mut bytes = vec![kind, 3, 3];
    bytes.extend(length.to_be_bytes());
    bytes.resize(5 + usize::from(length), 0xaa);
    bytes
}

/// A connection in the middle of its first request, as nginx's first reads leave it.
fn connection(records: &[(u8, u16)]) -> Flow {
    let mut flow = Flow::new_zeroed();
    flow.ordinal = 1;
    let flight: Vec<u8> = records.iter().flat_map(|&(k, n)| record(k, n)).collect();
    assert!(came(&mut flow, &flight));
    flow
}

fn tls12() -> Flow {
    let mut flow = connection(&[(HANDSHAKE, 900), (SPEC, 1), (HANDSHAKE, 40)]);
    sends(&mut flow, DATA, 180);
    flow
}

fn tls13() -> Flow {
    let mut flow = connection(&[
        (HANDSHAKE, 122),
        (SPEC, 1),
        (DATA, 23),
        (DATA, 800),
        (DATA, 53),
    ]);
    assert!(!sent(&mut flow, &[(SPEC, 1), (DATA, 53)]));
    sends(&mut flow, DATA, 180);
    flow
}

fn sends(flow: &mut Flow, kind: u8, length: u16) {
    assert!(sent(flow, &[(kind, length)]));
    asked(flow);
    flow.received = 0;
}

/// What is sent at once; whether it begins a request.
fn sent(flow: &mut Flow, records: &[(u8, u16)]) -> bool {
    let flight: Vec<u8> = records.iter().flat_map(|&(k, n)| record(k, n)).collect();
    asks(flow, |at| header(&flight, at))
}

fn header(bytes: &[u8], at: u32) -> [u8; 5] {
    let from = bytes.get(at as usize..at as usize + 5);
    from.map_or([0; 5], |from| from.try_into().unwrap())
}

/// One read of these bytes; whether they are of an answer.
fn came(flow: &mut Flow, bytes: &[u8]) -> bool {
    let read = bytes.len() as u32;
    let is_answer = answers(flow, read, |at| header(bytes, at));
    if is_answer {
        flow.received += read;
    }
    is_answer
}

#[test]
fn an_answer_is_told_from_alerts_and_tickets() {
    for (mut flow, doubtful) in [(tls12(), false), (tls13(), true)] {
        assert!(!is_doubtful(&flow));
        assert!(!came(&mut flow, &record(DATA, 42)), "100 Continue");
        for _ in 0..4 {
            assert!(came(&mut flow, &record(DATA, 300)));
            assert_eq!(is_doubtful(&flow), doubtful);
        }
        assert!(came(&mut flow, &record(DATA, 300)));
        assert!(!is_doubtful(&flow), "more than four tickets");
    }
    for close in [(ALERT, 26), (DATA, 19)] {
        let mut flow = tls13();
        assert!(!came(&mut flow, &record(close.0, close.1)));
        assert_eq!(
            (flow.received, flow.tls & tls::FAREWELL),
            (0, tls::FAREWELL)
        );
    }
    let mut update = tls13();
    assert!(!came(&mut update, &record(DATA, 22)));
    assert_eq!(update.tls & tls::FAREWELL, 0, "a key update");
    // What follows is no farewell.
    let mut ping = tls13();
    assert!(!came(
        &mut ping,
        &[record(DATA, 19), record(DATA, 22)].concat()
    ));
    assert_eq!(ping.tls & tls::FAREWELL, 0);
    // Larger than tickets are.
    let mut flow = tls13();
    assert!(came(&mut flow, &record(DATA, 16_384)));
    assert!(!is_doubtful(&flow));
    // The second answer of a connection.
    let mut flow = tls13();
    flow.ordinal = 2;
    assert!(came(&mut flow, &record(DATA, 300)));
    assert!(!is_doubtful(&flow));
}

/// OpenSSL reads headers by themselves, nginx as much as there is; segments end anywhere.
#[test]
fn records_are_followed_through_reads_of_any_size() {
    let parts = [record(DATA, 22), record(DATA, 300), record(DATA, 19)];
    let all = parts.concat();
    let mut whole = tls12();
    assert!(came(&mut whole, &all));
    let mut by_header = tls12();
    let mut told = Vec::new();
    for part in &parts {
        told.push(came(&mut by_header, &part[..5]));
        told.push(came(&mut by_header, &part[5..]));
    }
    assert_eq!(told, [false, false, true, true, false, false]);
    for flow in [whole, by_header] {
        assert_eq!(flow.tls & (tls::FAREWELL | tls::LOST), tls::FAREWELL);
        assert_eq!((flow.record_left, flow.records), (0, 1));
    }
    for cut in 1..all.len() {
        let mut flow = tls12();
        let first = came(&mut flow, &all[..cut]);
        let second = came(&mut flow, &all[cut..]);
        assert!(first || second, "{cut}");
        // Within a header nothing is known any more, which must not look like no answer.
        let lost = flow.tls & tls::LOST != 0;
        let header = [0, 27, 332]
            .iter()
            .any(|at| (at + 1..at + 5).contains(&cut));
        assert_eq!(lost, header, "{cut}");
        assert!(lost || flow.tls & tls::FAREWELL != 0, "{cut}");
    }
}

#[test]
fn who_is_lost_finds_back_with_the_next_request() {
    let mut flow = tls12();
    let body = record(DATA, 16_000);
    assert!(came(&mut flow, &[&body[..], &body[..3]].concat()));
    assert!(came(&mut flow, &body[3..]));
    assert_eq!(flow.tls & (tls::LOST | tls::SEVERAL), tls::LOST);
    flow.ordinal = 2;
    sends(&mut flow, DATA, 180);
    assert!(!came(&mut flow, &record(ALERT, 26)));
    // Where it is not even known whether that was an answer, nothing more is told of the connection.
    let mut flow = tls13();
    assert!(came(&mut flow, b"HTTP/1.1 200 OK\r\n"));
    assert_eq!(flow.tls & tls::SEVERAL, tls::SEVERAL);
    assert_eq!(flow.flags, flow_flag::UPGRADED);
}

#[test]
fn a_request_is_told_from_what_ends_the_handshake() {
    // A client that sends no change of cipher, or sent it with a second hello; its certificate may be there.
    for length in [53, 200] {
        let mut flow = Flow::new_zeroed();
        assert!(came(&mut flow, &record(HANDSHAKE, 88)));
        assert!(!sent(&mut flow, &[(SPEC, 1), (HANDSHAKE, 200)]));
        let flight = [record(HANDSHAKE, 122), record(DATA, 900)].concat();
        assert!(came(&mut flow, &flight));
        assert!(!sent(&mut flow, &[(DATA, length)]));
        assert!(sent(&mut flow, &[(DATA, 53)]));
    }
    // Before the server has said anything.
    let mut early = Flow::new_zeroed();
    assert!(!sent(&mut early, &[(DATA, 256)]));
    assert_eq!(early.tls, tls::SEVERAL);
    for no in [
        record(HANDSHAKE, 256),
        record(ALERT, 26),
        record(DATA, 19),
        b"GET / HTTP/1.1".to_vec(),
    ] {
        assert!(!asks(&mut tls13(), |at| header(&no, at)), "{no:?}");
    }
}

/// What a client in TLS does that checks a server, or is not content with it.
#[test]
fn a_handshake_that_came_to_nothing_is_told_from_a_check() {
    const NEW: &[(u8, u16)] = &[(HANDSHAKE, 122), (SPEC, 1), (DATA, 800), (DATA, 53)];
    let within = |came: &[(u8, u16)], sends: &[&[(u8, u16)]]| {
        let mut flow = connection(came);
        flow.flags |= flow_flag::SEALED;
        for records in sends {
            assert!(!sent(&mut flow, records), "{records:?}");
        }
        is_within_handshake(&flow)
    };
    // OpenSSL's alerts are in the clear; Go and BoringSSL have changed their cipher before.
    for alert in [&[(ALERT, 2)][..], &[(SPEC, 1), (DATA, 19)], &[(DATA, 19)]] {
        assert!(within(NEW, &[alert]), "{alert:?}");
    }
    assert!(within(&[(ALERT, 2)], &[]), "no version in common");
    assert!(within(&[(HANDSHAKE, 900)], &[&[(ALERT, 2)]]), "1.2");
    // The handshake is over, and who checked the server takes leave.
    let over = [&[(SPEC, 1), (DATA, 53)][..], &[(DATA, 19)]];
    assert!(!within(NEW, &over));
    assert!(!within(NEW, &[&[(DATA, 53)], &[(DATA, 19)]]));
    let old = [(HANDSHAKE, 900), (SPEC, 1), (HANDSHAKE, 40)];
    assert!(!within(&old, &[&[(ALERT, 26)]]));
    // Nothing has come yet, or a request was sent.
    let mut silent = Flow::new_zeroed();
    silent.flags |= flow_flag::SEALED;
    assert!(!is_within_handshake(&silent));
    for mut flow in [tls12(), tls13()] {
        flow.flags |= flow_flag::SEALED;
        assert!(came(&mut flow, &record(DATA, 300)));
        assert!(!is_within_handshake(&flow));
    }
}

/// Who offers HTTP/2 as well is followed up to its first request.
#[test]
fn of_who_offers_more_the_handshake_is_told() {
    let mut flow = connection(&[(HANDSHAKE, 122), (SPEC, 1), (DATA, 800)]);
    flow.flags |= flow_flag::SEALED;
    flow.tls |= tls::MORE;
    assert!(is_within_handshake(&flow));
    assert!(!sent(&mut flow, &[(SPEC, 1), (DATA, 53)]));
    assert_eq!(flow.tls & tls::SEVERAL, 0);
    assert!(!sent(&mut flow, &[(DATA, 60)]));
    assert_eq!(flow.tls & (tls::SEVERAL | tls::ASKED), tls::SEVERAL);
    assert_eq!(flow.flags & flow_flag::UPGRADED, flow_flag::UPGRADED);
}

fn hello(extensions: &[(u16, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![1, 0, 1, 252, 3, 3];
    bytes.extend([7; 32]);
    bytes.push(32);
    bytes.extend([8; 32]);
    bytes.extend([0, 4, 0x13, 1, 0x13, 2]);
    bytes.extend([1, 0]);
    let mut all = Vec::new();
    for (kind, data) in extensions {
        all.extend(kind.to_be_bytes());
        all.extend((data.len() as u16).to_be_bytes());
        all.extend(*data);
    }
    bytes.extend((all.len() as u16).to_be_bytes());
    bytes.extend(all);
    let mut hello = vec![HANDSHAKE, 3, 1];
    hello.extend((bytes.len() as u16).to_be_bytes());
    hello.extend(bytes);
    hello
}

fn offers(bytes: &[u8]) -> bool {
    offers_more(bytes.len() as u64, |at| {
        let from = bytes.get(at as usize..).unwrap_or_default();
        let there = from.len().min(8);
        let mut eight = if there > 0 { [0; 8] } else { UNREAD };
        eight[..there].copy_from_slice(&from[..there]);
        eight
    })
}

#[test]
fn who_offers_more_than_http1_may_not_take_turns() {
    let names = |list: &[&[u8]]| {
        let all: Vec<u8> = list
            .iter()
            .flat_map(|name| [&[name.len() as u8], *name].concat())
            .collect();
        [&(all.len() as u16).to_be_bytes()[..], &all[..]].concat()
    };
    let server = (0_u16, &b"\x00\x0b\x00\x00\x08upstream"[..]);
    let versions = (43_u16, &b"\x04\x03\x04\x03\x03"[..]);
    let (old, new) = (
        names(&[b"http/1.1", b"http/1.0"]),
        names(&[b"http/1.1", b"h2"]),
    );
    assert!(!offers(&hello(&[server, versions])));
    assert!(!offers(&hello(&[server, (16, &old), versions])));
    assert!(offers(&hello(&[server, (16, &new), versions])));
    assert!(offers(&hello(&[
        server,
        (16, &names(&[b"istio"])),
        versions
    ])));
    // What is cut off may have offered it.
    let whole = hello(&[server, (16, &old), versions]);
    for cut in 0..whole.len() {
        assert!(offers(&whole[..cut]), "{cut}");
    }
}
