//! The packets of verdicts, from further readings of their capture: for ladders and `--pcap`.
//!
//! The first reading gives the verdicts, the second the packets of each. The third, for `--pcap`
//! alone, copies those frames: which of them decides is known only when all have been seen.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result};

use super::pipeline::Pipeline;
use crate::cli::{note, warning};
use crate::packet::PacketSeen;
use crate::signal::Address;
use crate::sinks::annotate::{Annotated, AnnotatedCapture, Redaction, comments};
use crate::sinks::privacy::Privacy;
use crate::sources::packets::decode::{Decoded as Frame, decode, headers};
use crate::sources::packets::excerpt::Excerpt;
use crate::sources::packets::file::{Capture, Input};
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

    pub(super) fn finish(self) -> Result<()> {
        let name = self.path.display();
        let written = self.file.finish();
        written.with_context(|| format!("write {name}"))?;
        let (frames, verdicts) = (self.frames, self.verdicts);
        note!("pcap: {name} ({frames} packets of {verdicts} exchanges)");
        Ok(())
    }
}

/// Verdicts of a capture that wait for their packets.
#[derive(Debug, Default)]
pub(super) struct Awaited {
    excerpt: Excerpt,
    verdicts: Vec<Waiting>,
    left_out: usize,
}

#[derive(Debug)]
struct Waiting {
    verdict: Verdict,
    at_ms: i64,
    /// Before privacy took it away.
    client: Option<IpAddr>,
}

/// A client's address without its port.
pub(super) fn ip(address: Option<&Address>) -> Option<IpAddr> {
    Some(address?.0.parse::<SocketAddr>().ok()?.ip())
}

impl Awaited {
    /// Keeps the verdict until its packets are there, or gives it back for want of room.
    pub(super) fn take(
        &mut self,
        decided: &Decided,
        verdict: Verdict,
        at_ms: i64,
        client: Option<IpAddr>,
    ) -> Option<Verdict> {
        if self.verdicts.len() >= MOST {
            self.left_out += 1;
            return Some(verdict);
        }
        self.excerpt.add(decided);
        self.verdicts.push(Waiting {
            verdict,
            at_ms,
            client,
        });
        None
    }

    pub(super) fn len(&self) -> usize {
        self.verdicts.len()
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
        second = again().map(|input| read(input, &mut awaited.excerpt));
    }
    if let Some(report) = &mut pipeline.report {
        report.await_packets(0);
        for (i, waiting) in awaited.verdicts.iter().enumerate() {
            let packets = awaited.excerpt.packets(i).0;
            report.on_verdict(&waiting.verdict, waiting.at_ms, packets);
        }
    }
    let Some(pcap) = &mut pipeline.pcap else {
        if let Err(error) = second {
            warning!("the report has no packets: {error:#}");
        }
        return Ok(());
    };
    second?;
    if awaited.left_out > 0 {
        let more = awaited.left_out;
        warning!("--pcap: the packets of {more} more failed exchanges are left out");
    }
    if !awaited.verdicts.is_empty() {
        let frames = wanted(&awaited);
        pcap.verdicts += awaited.verdicts.len();
        let copied = copy(again()?, &frames, pcap);
        copied.with_context(|| format!("write {}", pcap.path.display()))?;
    }
    Ok(())
}

/// Damage has been told by the first reading.
fn read(input: Input, excerpt: &mut Excerpt) {
    let Ok(mut capture) = Capture::from_input(input) else {
        return;
    };
    while let Some(Ok(raw)) = capture.next_frame() {
        match decode(&raw) {
            Frame::Segment(segment) => excerpt.segment(&segment),
            Frame::Unreachable(error) => excerpt.unreachable(&error),
            Frame::Other | Frame::NotUnderstood(_) => {}
        }
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
    for (i, waiting) in awaited.verdicts.iter().enumerate() {
        let (packets, left_out) = awaited.excerpt.packets(i);
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

fn copy(input: Input, frames: &[Wanted], pcap: &mut PcapOut) -> Result<()> {
    let mut capture = Capture::from_input(input)?;
    let mut frames = frames.iter().peekable();
    while let Some(Ok(raw)) = capture.next_frame() {
        let Some(wanted) = frames.next_if(|wanted| wanted.number == raw.frame.number) else {
            if frames.peek().is_none() {
                break;
            }
            continue;
        };
        pcap.file.write(&Annotated {
            at: raw.at,
            interface: raw.frame.interface,
            link_type: raw.link_type.0,
            original_length: raw.original_length,
            data: raw.data,
            headers: headers(&raw),
            begins_head: wanted.begins_head,
            client: wanted.client,
            comments: &wanted.comments,
        })?;
        pcap.frames += 1;
    }
    Ok(())
}
