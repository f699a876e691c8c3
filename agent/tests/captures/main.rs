//! Captures of real proxies (`tests/captures/README.md`), explained: the verdicts are those of the
//! snapshots, and whatever is done to a capture, none becomes proven that was not, or another.

mod damage;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use why502::signal::{Fact, Nanos, Opening, Response, Signal};
use why502::sources::packets::Packets;
use why502::sources::packets::decode::{Decoded as Frame, decode};
use why502::sources::packets::file::Capture;
use why502::sources::packets::segment::{Flags, Segment};
use why502::track::{Decided, Tracker};
use why502::verdict::{Confidence, Kind};

/// A segment with its payload.
#[derive(Clone, Debug)]
pub struct Packet {
    pub at: Nanos,
    pub from: SocketAddr,
    pub to: SocketAddr,
    seq: u32,
    ack: u32,
    flags: Flags,
    window: u16,
    length: u32,
    pub payload: Vec<u8>,
}

impl Packet {
    fn of(segment: &Segment<'_>) -> Packet {
        Packet {
            at: segment.at,
            from: segment.from,
            to: segment.to,
            seq: segment.seq,
            ack: segment.ack,
            flags: segment.flags,
            window: segment.window,
            length: segment.length,
            payload: segment.payload.to_vec(),
        }
    }

    fn segment(&self) -> Segment<'_> {
        Segment {
            at: self.at,
            frame: why502::sources::packets::segment::Frame::default(),
            from: self.from,
            to: self.to,
            seq: self.seq,
            ack: self.ack,
            flags: self.flags,
            window: self.window,
            length: self.length,
            payload: &self.payload,
        }
    }
}

pub fn fixtures() -> Vec<(String, Vec<Packet>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/captures");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy();
            name.ends_with(".pcap.gz") && name != "loopback.pcap.gz"
        })
        .collect();
    files.sort();
    assert!(files.len() >= 8, "{files:?}");
    files.iter().map(|path| read(path)).collect()
}

fn read(path: &Path) -> (String, Vec<Packet>) {
    let name = path.file_name().unwrap().to_string_lossy();
    let mut capture = Capture::open(path).unwrap();
    let mut packets = Vec::new();
    while let Some(frame) = capture.next_frame() {
        if let Frame::Segment(segment) = decode(&frame.unwrap()) {
            packets.push(Packet::of(&segment));
        }
    }
    (name.trim_end_matches(".pcap.gz").to_owned(), packets)
}

/// Whatever the packets are, what is made of them is bounded by their number.
pub fn explain(packets: &[Packet]) -> Vec<Decided> {
    let mut source = Packets::new(&[]);
    let mut tracker = Tracker::default();
    let mut signals: Vec<Signal> = Vec::new();
    let mut decided = Vec::new();
    let mut told = 0;
    for packet in packets {
        source.segment(&packet.segment(), &mut signals);
        told += signals.iter().filter(|s| s.fact != Fact::Tick).count();
        decided.extend(signals.drain(..).flat_map(|s| tracker.observe(&s)));
    }
    assert!(source.connections() <= packets.len());
    source.finish(&mut signals);
    told += signals.iter().filter(|s| s.fact != Fact::Tick).count();
    decided.extend(signals.drain(..).flat_map(|s| tracker.observe(&s)));
    decided.extend(tracker.finish());
    // An attempt's end, its response, how both connections end; and the source itself.
    let most = 4 * packets.len() + 1;
    assert!(told <= most, "{told} signals of {} packets", packets.len());
    assert!(decided.len() <= packets.len());
    decided
}

/// The request's path, as the client or the proxy asked for it.
pub fn path(decided: &Decided) -> Option<String> {
    let response = decided.response.as_ref().map(|(_, _, r)| r);
    let read = response.and_then(|r: &Response| r.request.clone());
    let sent = decided.attempts.iter().flat_map(|t| {
        let link = t
            .attempt
            .downstream
            .as_ref()
            .and_then(|l| l.request.clone());
        let request = t.attempt.request.as_ref().map(|r| r.opening.clone());
        [link, request]
    });
    read.into_iter()
        .chain(sent.flatten())
        .find_map(|o| match o {
            Opening::HttpRequest { path, .. } => Some(path),
            _ => None,
        })
}

fn label(decided: &Decided) -> String {
    let diagnosis = &decided.diagnosis;
    let status = decided.response.as_ref().and_then(|(_, _, r)| r.status);
    let mut text = match decided.kind {
        Kind::NearMiss => "near miss".to_owned(),
        _ => "verdict".to_owned(),
    };
    let _ = match status {
        Some(status) => write!(text, " {status}"),
        None => write!(text, " without a status"),
    };
    let _ = write!(text, " {}", diagnosis.cause);
    if let Some(variant) = diagnosis.variant {
        let _ = write!(text, "/{variant}");
    }
    let _ = write!(text, " {}", diagnosis.confidence.name());
    let missing: Vec<&str> = diagnosis
        .missing
        .iter()
        .map(|m| m.split(':').next().unwrap_or_default())
        .collect();
    if !missing.is_empty() {
        let _ = write!(text, " ({})", missing.join(", "));
    }
    text
}

#[test]
fn captures_give_their_verdicts() {
    for (name, packets) in fixtures() {
        let mut lines: BTreeMap<String, u32> = BTreeMap::new();
        for decided in explain(&packets) {
            let folder = path(&decided).map_or_else(
                || "?".to_owned(),
                |path| {
                    path.rsplit_once('/')
                        .map_or(path.clone(), |(f, _)| f.to_owned())
                },
            );
            *lines
                .entry(format!("{folder}: {}", label(&decided)))
                .or_default() += 1;
        }
        let text: String = lines
            .iter()
            .map(|(line, n)| format!("{n} x {line}\n"))
            .collect();
        insta::assert_snapshot!(name, text);
    }
}

#[test]
fn segments_tell_the_same_one_by_one_and_in_batches() {
    for (name, packets) in fixtures() {
        // Twice, so that the same ports are used again, within a batch as well.
        let packets = [packets.clone(), packets].concat();
        let segments: Vec<Segment<'_>> = packets.iter().map(Packet::segment).collect();
        let mut expected = Vec::new();
        let mut source = Packets::new(&[]);
        for segment in &segments {
            source.segment(segment, &mut expected);
        }
        source.finish(&mut expected);
        for size in [1, 15, 16, 17, 64, 1000] {
            let mut signals = Vec::new();
            let mut source = Packets::new(&[]);
            for batch in segments.chunks(size) {
                source.segments(batch, &mut signals);
            }
            source.finish(&mut signals);
            assert!(signals == expected, "{name} in batches of {size}");
        }
    }
}

/// What a capture proves of each path.
pub fn proven(decided: &[Decided]) -> BTreeMap<String, Vec<String>> {
    let proven = |decided: &&Decided| decided.diagnosis.confidence == Confidence::Proven;
    causes(decided.iter().filter(proven))
}

/// The same, with near misses of which only the tie to one of several tiers is open: without the
/// other tier's packets it is not.
pub fn proven_but_for_tiers(decided: &[Decided]) -> BTreeMap<String, Vec<String>> {
    let tied = |decided: &Decided| {
        let missing = &decided.diagnosis.missing;
        let link = missing.iter().all(|m| m.starts_with("exchange_link"));
        decided.kind == Kind::NearMiss && path(decided).is_some() && link
    };
    let proven = |decided: &Decided| decided.diagnosis.confidence == Confidence::Proven;
    causes(decided.iter().filter(|d| proven(d) || tied(d)))
}

fn causes<'a>(decided: impl Iterator<Item = &'a Decided>) -> BTreeMap<String, Vec<String>> {
    let mut map: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for decided in decided {
        let path = path(decided).unwrap_or_default();
        let label = format!("{:?} {}", decided.kind, decided.diagnosis.cause);
        map.entry(path).or_default().push(label);
    }
    map
}
