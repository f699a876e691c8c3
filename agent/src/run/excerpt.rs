//! The packets of verdicts, for ladders and `--pcap`: from further readings of a capture file, or
//! live from the frames of the last seconds (`live`).
//!
//! The first reading gives the verdicts, the second the packets of each. The third, for `--pcap`
//! alone, copies those frames: which of them decides is known only when all have been seen.

pub(super) mod live;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result};

use super::pipeline::Pipeline;
use crate::cli::{note, warning};
use crate::clock::Clock;
use crate::packet::PacketSeen;
use crate::signal::{Address, Nanos};
use crate::sinks::annotate::{Annotated, AnnotatedCapture, Redaction, comments};
use crate::sinks::privacy::Privacy;
use crate::sources::packets::decode::{Decoded as Frame, decode, headers};
use crate::sources::packets::excerpt::Excerpt;
use crate::sources::packets::file::{Capture, Input};
use crate::sources::packets::raw::RawFrame;
use crate::track::Decided;
use crate::verdict::Verdict;

/// Verdicts of one capture whose packets are looked for: as many as a report lists.
const MOST: usize = 10_000;

/// The annotated capture of `--pcap`.
#[derive(Debug)]
pub(super) struct PcapOut {
    file: AnnotatedCapture<BufWriter<File>>,
    path: std::path::PathBuf,
    frames: u64,
    verdicts: usize,
}

impl PcapOut {
    pub(super) fn create(
        path: &std::path::Path,
        privacy: Privacy,
        with_payload: bool,
    ) -> Result<PcapOut> {
        let redaction = match with_payload {
            true => Redaction::WithPayload,
            false => Redaction::Lines(privacy),
        };
        Ok(PcapOut {
            file: AnnotatedCapture::create(path, redaction)?,
            path: path.to_owned(),
            frames: 0,
            verdicts: 0,
        })
    }

    /// Copies one frame.
    fn write(&mut self, raw: &RawFrame<'_>, wanted: &Wanted) -> Result<()> {
        let name = self.path.display();
        let frame = Annotated {
            at: raw.at,
            interface: raw.frame.interface,
            link_type: raw.link_type.0,
            original_length: raw.original_length,
            data: raw.data,
            headers: headers(raw),
            begins_head: wanted.begins_head,
            client: wanted.client,
            comments: &wanted.comments,
        };
        let written = self.file.write(&frame);
        written.with_context(|| format!("write {name}"))?;
        self.frames += 1;
        Ok(())
    }

    pub(super) fn finish(self) -> Result<()> {
        let name = self.path.display();
        let written = self.file.finish();
        written.with_context(|| format!("write {name}"))?;
        let (frames, verdicts) = (self.frames, self.verdicts);
        note!("pcap: {name} ({frames} packets of {verdicts} exchanges)");
        Ok(())
    }
}

/// Verdicts that wait for their packets.
#[derive(Debug, Default)]
pub(super) struct Awaited {
    verdicts: Vec<Waiting>,
    search: Search,
    left_out: usize,
}

/// Where packets are looked for.
#[derive(Debug)]
enum Search {
    /// In the capture, when it is read again.
    Again(Excerpt),
    Live(live::Search),
}

#[derive(Debug)]
struct Waiting {
    verdict: Verdict,
    at_ms: i64,
    /// Before privacy took it away.
    client: Option<IpAddr>,
    packets: Vec<PacketSeen>,
    /// More packets of it that there was no room for.
    left_out: u64,
}

/// A client's address without its port.
pub(super) fn ip(address: Option<&Address>) -> Option<IpAddr> {
    Some(address?.0.parse::<SocketAddr>().ok()?.ip())
}

impl Default for Search {
    fn default() -> Search {
        Search::Again(Excerpt::default())
    }
}

impl Search {
    /// The verdicts come from packets themselves.
    fn sees_packets(&self) -> bool {
        match self {
            Search::Again(_) => true,
            Search::Live(search) => search.from_packets,
        }
    }
}

impl Awaited {
    /// For verdicts whose packets come from these frames.
    pub(super) fn live(search: live::Search) -> Awaited {
        Awaited {
            search: Search::Live(search),
            ..Awaited::default()
        }
    }

    /// Keeps the verdict until its packets are there, or gives it back for want of room.
    pub(super) fn take(
        &mut self,
        decided: &Decided,
        verdict: Verdict,
        at_ms: i64,
        client: Option<IpAddr>,
        netns: Option<u32>,
    ) -> Option<Verdict> {
        if self.verdicts.len() >= MOST {
            self.left_out += 1;
            return Some(verdict);
        }
        match &mut self.search {
            Search::Again(excerpt) => excerpt.add(decided, |_| 0),
            Search::Live(search) => search.add(decided, netns, self.verdicts.len()),
        }
        self.verdicts.push(Waiting {
            verdict,
            at_ms,
            client,
            packets: Vec::new(),
            left_out: 0,
        });
        None
    }

    pub(super) fn len(&self) -> usize {
        self.verdicts.len()
    }

    /// Looks for packets that are there by `now`. How many verdicts came too late for some.
    pub(super) fn look(&mut self, now: Nanos, clock: Clock) -> u64 {
        match &mut self.search {
            Search::Again(_) => 0,
            Search::Live(search) => search.look(now, clock, &mut self.verdicts),
        }
    }

    /// Looks at every frame of a capture that is read again; its damage has been told.
    fn read(&mut self, input: Input) {
        let Search::Again(mut excerpt) = std::mem::take(&mut self.search) else {
            return;
        };
        let Ok(mut capture) = Capture::from_input(input) else {
            return;
        };
        while let Some(Ok(raw)) = capture.next_frame() {
            see(&mut excerpt, &decode(&raw), 0);
        }
        for (i, waiting) in self.verdicts.iter_mut().enumerate() {
            (waiting.packets, waiting.left_out) = excerpt.take(i);
        }
    }
}

fn see(excerpt: &mut Excerpt, frame: &Frame<'_>, space: u32) {
    match frame {
        Frame::Segment(segment) => excerpt.segment(segment, space),
        Frame::Unreachable(error) => excerpt.unreachable(error, space),
        Frame::Other | Frame::NotUnderstood(_) => {}
    }
}

/// Gives the verdicts of one capture to the report, and their packets to the annotated capture.
/// `again` opens the capture anew, or says why it cannot be read twice.
pub(super) fn finish<W: Write>(
    pipeline: &mut Pipeline<W>,
    mut awaited: Awaited,
    again: impl Fn() -> Result<Input>,
) -> Result<()> {
    let mut second = Ok(());
    if !awaited.verdicts.is_empty() {
        second = again().map(|input| awaited.read(input));
    }
    report(pipeline, &awaited);
    let Some(pcap) = &mut pipeline.pcap else {
        if let Err(error) = second {
            warning!("the report has no packets: {error:#}");
        }
        return Ok(());
    };
    second?;
    if awaited.verdicts.is_empty() {
        return Ok(());
    }
    let frames = wanted(&awaited);
    let mut frames = frames.iter().peekable();
    pcap.verdicts += awaited.verdicts.len();
    let mut capture = Capture::from_input(again()?)?;
    while let Some(Ok(raw)) = capture.next_frame() {
        if frames.peek().is_none() {
            break;
        }
        if let Some(wanted) = frames.next_if(|wanted| wanted.number == raw.frame.number) {
            pcap.write(&raw, wanted)?;
        }
    }
    Ok(())
}

/// What is known of the verdicts by now, to the report; what is not, to the user.
fn report<W: Write>(pipeline: &mut Pipeline<W>, awaited: &Awaited) {
    if let Some(report) = &mut pipeline.report {
        report.await_packets(0);
        for waiting in &awaited.verdicts {
            // What probes saw is drawn as they saw it.
            let packets = match awaited.search.sees_packets() {
                true => waiting.packets.as_slice(),
                false => &[],
            };
            report.on_verdict(&waiting.verdict, waiting.at_ms, packets);
        }
    }
    if pipeline.pcap.is_some() && awaited.left_out > 0 {
        let more = awaited.left_out;
        warning!("--pcap: the packets of {more} more failed exchanges are left out");
    }
}

/// A frame to be copied.
#[derive(Debug)]
struct Wanted {
    number: u64,
    begins_head: bool,
    client: Option<IpAddr>,
    comments: Vec<String>,
}

/// Frames in their order; one that belongs to several verdicts has the comments of all.
fn wanted(awaited: &Awaited) -> Vec<Wanted> {
    let mut frames: Vec<Wanted> = Vec::new();
    for waiting in &awaited.verdicts {
        let (packets, left_out) = (&waiting.packets, waiting.left_out);
        let mut comments = comments::of(&waiting.verdict, packets);
        if let (true, Some(last)) = (left_out > 0, comments.last_mut()) {
            last.push(format!("{left_out} packets before this one are left out"));
        }
        let of = |(packet, comments): (&PacketSeen, _)| Wanted {
            number: packet.frame,
            begins_head: packet.begins_head(),
            client: waiting.client,
            comments,
        };
        frames.extend(packets.iter().zip(comments).map(of));
    }
    frames.sort_by_key(|frame| frame.number);
    frames.dedup_by(|next, kept| {
        let same = next.number == kept.number;
        if same {
            kept.begins_head |= next.begins_head;
            kept.client = kept.client.or(next.client);
            for comment in next.comments.drain(..) {
                if !kept.comments.contains(&comment) {
                    kept.comments.push(comment);
                }
            }
        }
        same
    });
    frames
}
