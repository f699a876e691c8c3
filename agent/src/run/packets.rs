//! `explain` for a packet capture: frames to segments to signals to the pipeline.

use std::io::{IsTerminal, Write};
use std::net::IpAddr;

use anyhow::Result;

use super::pipeline::Pipeline;
use crate::cli::{detail, says, warning};
use crate::clock::Clock;
use crate::signal::{Fact, Nanos, Signal};
use crate::sources::packets::Packets;
use crate::sources::packets::decode::{Decoded, Reason, decode, plain};
use crate::sources::packets::file::{Capture, Progress, ReadError};

/// Frames between two looks at the clock and the terminal.
const CHORES: usize = 65_536;

/// Explains a capture; what is wrong with the rest of the file comes back.
pub(super) fn explain<W: Write>(
    pipeline: &mut Pipeline<W>,
    mut capture: Capture,
    progress: &Progress,
    proxies: &[IpAddr],
    seconds: &mut (Nanos, Nanos),
) -> Result<Option<ReadError>> {
    // Another capture may be another host's.
    pipeline.begin_source(Clock::from_offset(0));
    let mut packets = Packets::new(proxies);
    let mut bar = Bar::new(progress);
    let mut signals = Vec::new();
    let mut not_understood = [0_u64; Reason::ALL.len()];
    let (mut dropped, mut frames, mut drawn) = (0, 0, 0);
    let mut damage = None;
    loop {
        let batch = match capture.next_frames() {
            Some(Ok(batch)) => batch,
            Some(Err(error)) => {
                damage = Some(error);
                break;
            }
            None => break,
        };
        let mut stream = packets.stream();
        for frame in batch {
            frames += 1;
            if let Some(segment) = plain(&frame) {
                stream.take(segment, &mut signals);
                continue;
            }
            match decode(&frame) {
                Decoded::Segment(segment) => stream.take(segment, &mut signals),
                Decoded::Unreachable(error) => {
                    stream.finish(&mut signals);
                    packets.unreachable(&error, &mut signals);
                    stream = packets.stream();
                }
                Decoded::Other => {}
                Decoded::NotUnderstood(reason) => not_understood[reason as usize] += 1,
            }
        }
        stream.finish(&mut signals);
        if capture.is_torn() {
            // What came since, and what is open, may be made of bytes that were never captured.
            signals.clear();
            packets = Packets::new(proxies);
            continue;
        }
        let now = capture.dropped();
        if now > dropped {
            packets.lost("capture", "dropped", now - dropped, &mut signals);
            dropped = now;
        }
        if !signals.is_empty() {
            take(pipeline, &mut signals, seconds)?;
        }
        if frames >= drawn + CHORES {
            drawn = frames;
            bar.draw();
        }
    }
    let rest = capture.dropped().saturating_sub(dropped);
    if rest > 0 {
        packets.lost("capture", "dropped", rest, &mut signals);
    }
    packets.finish(&mut signals);
    take(pipeline, &mut signals, seconds)?;
    bar.clear();
    pipeline.end_source()?;
    let counts = packets.counts();
    pipeline.lost("capture", "gaps", counts.gaps);
    for (reason, count) in Reason::ALL.iter().zip(not_understood) {
        pipeline.lost("not_understood", reason.name(), count);
    }
    if seconds.1 == 0 && damage.is_none() {
        warning!("{}: no TCP connection in it", capture.name());
    }
    detail!("{}: {frames} frames", capture.name());
    Ok(damage)
}

fn take<W: Write>(
    pipeline: &mut Pipeline<W>,
    signals: &mut Vec<Signal>,
    (began, ended): &mut (Nanos, Nanos),
) -> Result<()> {
    for (i, signal) in signals.iter().enumerate() {
        let tick = matches!(signal.fact, Fact::Tick);
        // Of several ticks in a row the last one says it all.
        if tick && matches!(signals.get(i + 1), Some(next) if matches!(next.fact, Fact::Tick)) {
            continue;
        }
        if !tick || *ended == 0 {
            *began = (*began).min(signal.at);
        }
        *ended = (*ended).max(signal.at);
        pipeline.signal(signal)?;
    }
    signals.clear();
    Ok(())
}

/// How far the file has been read, on standard error while that is a terminal.
struct Bar<'a> {
    progress: &'a Progress,
    shown: bool,
    drawn: Option<u64>,
}

impl<'a> Bar<'a> {
    fn new(progress: &'a Progress) -> Bar<'a> {
        Bar {
            progress,
            shown: says(1) && std::io::stderr().is_terminal(),
            drawn: None,
        }
    }

    fn draw(&mut self) {
        const WIDTH: usize = 30;
        if !self.shown {
            return;
        }
        let (read, total) = self.progress.now();
        // A percent, or a hundred megabytes, is worth a new line.
        let step = total.map_or(100_000_000, |total| (total / 100).max(1));
        if self.drawn == Some(read / step) {
            return;
        }
        self.drawn = Some(read / step);
        match total {
            Some(total) if total > 0 => {
                let done = (read.min(total) * WIDTH as u64 / total) as usize;
                let percent = read.min(total) * 100 / total;
                let (full, rest) = ("#".repeat(done), " ".repeat(WIDTH - done));
                eprint!("\r[{full}{rest}] {percent:>3} %");
            }
            _ => eprint!("\r{} MB", read / 1_000_000),
        }
    }

    fn clear(&mut self) {
        if self.drawn.take().is_some() {
            eprint!("\r\x1b[K");
        }
    }
}
