//! What the fuzz targets share: a capture's segments all the way, as `explain` takes them, from
//! connections to verdicts, their packets, and the file of `--pcap`.

use std::io::Cursor;
use std::net::IpAddr;

use why502::packet::PacketSeen;
use why502::signal::{Fact, Nanos, Opening, Signal};
use why502::sinks::annotate::{Annotated, AnnotatedCapture, Redaction, comments};
use why502::sinks::privacy::Privacy;
use why502::sources::packets::excerpt::{Excerpt, PER_VERDICT};
use why502::sources::packets::file::Capture;
use why502::sources::packets::segment::{Flags, Frame, Segment, Unreachable};
use why502::sources::packets::{Packets, space_of};
use why502::track::render::{Stamp, verdict};
use why502::track::{Decided, Tracker};

/// The headers of a frame, which no target looks into.
const HEADERS: usize = 54;
/// Where in them the client's address is, as in Ethernet and IPv4.
const ADDRESS: usize = 26;

/// What a capture may hold, in its order.
pub enum Event {
    Segment {
        at: Nanos,
        interface: u32,
        from: std::net::SocketAddr,
        to: std::net::SocketAddr,
        seq: u32,
        ack: u32,
        flags: Flags,
        window: u16,
        length: u32,
        payload: Vec<u8>,
    },
    Unreachable(Unreachable),
    /// What follows was captured in this network namespace.
    Namespace(u32),
    Lost(u64),
    Tick(Nanos),
}

impl Event {
    fn segment(&self, number: u64) -> Option<Segment<'_>> {
        let Event::Segment {
            at,
            interface,
            from,
            to,
            seq,
            ack,
            flags,
            window,
            length,
            payload,
        } = self
        else {
            return None;
        };
        Some(Segment {
            at: *at,
            frame: Frame {
                number,
                interface: *interface,
            },
            from: *from,
            to: *to,
            seq: *seq,
            ack: *ack,
            flags: *flags,
            window: *window,
            length: *length,
            payload,
        })
    }
}

/// Frames are numbered from 1.
fn numbered(events: &[Event]) -> impl Iterator<Item = (u64, &Event)> {
    (1..).zip(events)
}

/// The first reading; `batch` segments at most are handed over at once.
pub fn signals(events: &[Event], batch: usize) -> Vec<Signal> {
    let mut packets = Packets::new(&[]);
    let mut signals = Vec::new();
    let mut segments = Vec::new();
    for (number, event) in numbered(events) {
        if let Some(segment) = event.segment(number) {
            segments.push(segment);
            if segments.len() < batch {
                continue;
            }
        }
        packets.segments(&segments, &mut signals);
        segments.clear();
        match event {
            Event::Segment { .. } => {}
            Event::Unreachable(error) => packets.unreachable(error, &mut signals),
            Event::Namespace(space) => packets.set_namespace(*space),
            Event::Lost(count) => packets.lost("capture", "dropped", *count, &mut signals),
            Event::Tick(now) => packets.tick(*now, &mut signals),
        }
    }
    packets.segments(&segments, &mut signals);
    packets.finish(&mut signals);
    signals
}

/// What the first reading told goes on to verdicts; then the second reading and the third, with
/// what has to hold of any traffic.
pub fn explain(events: &[Event], signals: &[Signal]) {
    let mut tracker = Tracker::default();
    let mut decided = Vec::new();
    for signal in signals {
        assert_request_only(&signal.fact);
        decided.extend(tracker.observe(signal));
    }
    decided.extend(tracker.finish());
    let mut excerpt = Excerpt::default();
    for one in &decided {
        excerpt.add(one, space_of);
    }
    let mut space = 0;
    for (number, event) in numbered(events) {
        match event {
            Event::Segment { .. } => {
                let segment = event.segment(number).unwrap();
                excerpt.segment(&segment, space);
            }
            Event::Unreachable(error) => excerpt.unreachable(error, space),
            Event::Namespace(next) => space = *next,
            Event::Lost(_) | Event::Tick(_) => {}
        }
    }
    for (i, one) in decided.iter().enumerate() {
        let (packets, _) = excerpt.take(i);
        assert!(packets.len() <= PER_VERDICT);
        for privacy in [Privacy::Full, Privacy::Template, Privacy::Minimal] {
            annotate(events, &tracker, one, &packets, privacy);
        }
    }
}

/// Writes the packets of one verdict and reads them again.
fn annotate(
    events: &[Event],
    tracker: &Tracker,
    decided: &Decided,
    packets: &[PacketSeen],
    privacy: Privacy,
) {
    let client: IpAddr = [192, 0, 2, 77].into();
    let stamp = Stamp {
        id: String::new(),
        time: String::new(),
        node: String::new(),
    };
    let mut verdict = verdict(decided, &tracker.host, stamp);
    privacy.apply(&mut verdict);
    let path = verdict.request.path.as_deref().unwrap_or_default();
    assert!(!path.contains(['?', '#', ' ', '\r', '\n']), "{path:?}");
    serde_json::to_string(&verdict).unwrap();
    let comments = comments::of(&verdict, packets);
    assert_eq!(comments.len(), packets.len());
    let mut file = AnnotatedCapture::new(Vec::new(), Redaction::Lines(privacy)).unwrap();
    let mut written = 0;
    for (packet, comments) in packets.iter().zip(&comments) {
        let Some(Event::Segment { payload, .. }) = events.get(packet.frame as usize - 1) else {
            continue;
        };
        let mut data = vec![0; HEADERS];
        data[ADDRESS..ADDRESS + 4].copy_from_slice(&[192, 0, 2, 77]);
        data.extend(payload);
        file.write(&Annotated {
            at: packet.at,
            interface: 0,
            link_type: 1,
            original_length: data.len() as u32,
            data: &data,
            headers: HEADERS,
            begins_head: packet.begins_head(),
            client: Some(client),
            comments,
        })
        .unwrap();
        written += 1;
    }
    let bytes = file.finish().unwrap();
    let mut capture = Capture::read(Cursor::new(bytes), "annotated").unwrap();
    let mut read = 0;
    while let Some(frame) = capture.next_frame() {
        let frame = frame.unwrap();
        let (headers, payload) = frame.data.split_at(HEADERS);
        let host = &headers[ADDRESS..ADDRESS + 4];
        let shown: &[u8] = match privacy {
            Privacy::Full => &[192, 0, 2, 77],
            Privacy::Template => &[192, 0, 2, 0],
            Privacy::Minimal => &[0; 4],
        };
        assert_eq!(host, shown);
        assert_line_only(payload, privacy);
        read += 1;
    }
    assert_eq!(read, written);
}

/// Of what was sent nothing but method, path and Host may become a signal.
fn assert_request_only(fact: &Fact) {
    let (read, sent) = match fact {
        Fact::ResponseSent(response) => (response.request.as_ref(), None),
        Fact::AttemptEnded(attempt) => (
            attempt.downstream.as_ref().and_then(|d| d.request.as_ref()),
            attempt.request.as_ref().map(|sent| &sent.opening),
        ),
        _ => return,
    };
    for opening in read.into_iter().chain(sent) {
        if let Opening::HttpRequest { path, host, .. } = opening {
            assert!(!path.contains(['?', '#', ' ', '\r', '\n']), "{path:?}");
            let host = host.as_deref().unwrap_or_default();
            assert!(!host.contains('\n'), "{host:?}");
        }
    }
}

/// A payload in an annotated capture is a request line whose query is overwritten, a status line,
/// or nothing.
pub fn assert_line_only(payload: &[u8], privacy: Privacy) {
    if payload.is_empty() {
        return;
    }
    let text = payload.escape_ascii();
    let end = payload.windows(2).position(|two| two == b"\r\n");
    assert_eq!(end, Some(payload.len() - 2), "{text}");
    if payload.starts_with(b"HTTP/1.") {
        return;
    }
    let words: Vec<&[u8]> = payload.split(|byte| *byte == b' ').collect();
    let [_, target, b"HTTP/1.0\r\n" | b"HTTP/1.1\r\n"] = words[..] else {
        panic!("{text}");
    };
    assert_eq!(target.first(), Some(&b'/'), "{text}");
    let hidden = target.iter().position(|b| matches!(b, b'?' | b'#' | b';'));
    let (path, query) = target.split_at(hidden.unwrap_or(target.len()));
    let crossed = |bytes: &[u8]| bytes.iter().skip(1).all(|byte| *byte == b'x');
    assert!(crossed(query), "{text}");
    assert!(privacy != Privacy::Minimal || crossed(path), "{text}");
}
