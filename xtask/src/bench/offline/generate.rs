//! Many sessions at once, woven into one capture in the order of time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::session::{MILLI, Packet, SECOND, Sessions, Truth};
use super::wire::Capture;

/// When the generated traffic begins: a fixed day.
const BEGIN: u64 = 1_790_000_000 * SECOND;

pub(super) struct Generated {
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) connections: u64,
    pub(super) exchanges: u64,
    pub(super) truths: Vec<Truth>,
}

struct Running {
    session: u32,
    began: u64,
    packets: std::vec::IntoIter<Packet>,
}

/// Writes `sessions` sessions of two connections each, of which `at_once` run at any time.
pub(super) fn capture(file: &Path, sessions: u32, at_once: u32, seed: u64) -> Result<Generated> {
    let context = || format!("write {}", file.display());
    let output = File::create(file).with_context(context)?;
    let mut capture = Capture::new(BufWriter::with_capacity(1 << 20, output))?;
    let mut scripts = Sessions::new(seed);
    let mut truths = Vec::new();
    let mut next = 0;
    let mut begin = |began: u64, running: &mut Vec<Running>, slot: usize| {
        if next == sessions {
            return None;
        }
        let (packets, truth) = scripts.session(next);
        truths.extend(truth);
        let first = packets.first().map_or(0, |packet| packet.at);
        let entry = Running {
            session: next,
            began,
            packets: packets.into_iter(),
        };
        if slot == running.len() {
            running.push(entry);
        } else {
            running[slot] = entry;
        }
        next += 1;
        Some(Reverse((began + first, slot)))
    };

    let mut running = Vec::new();
    let mut queue = BinaryHeap::new();
    for slot in 0..at_once as usize {
        queue.extend(begin(slot as u64 * MILLI, &mut running, slot));
    }
    while let Some(Reverse((at, slot))) = queue.pop() {
        let entry = &mut running[slot];
        if let Some(packet) = entry.packets.next() {
            capture
                .write(entry.session, BEGIN + at, &packet)
                .with_context(context)?;
        }
        match entry.packets.as_slice().first() {
            Some(packet) => queue.push(Reverse((entry.began + packet.at, slot))),
            None => queue.extend(begin(at + MILLI, &mut running, slot)),
        }
    }
    let (packets, bytes) = capture.finish().with_context(context)?;
    Ok(Generated {
        packets,
        bytes,
        connections: 2 * u64::from(sessions),
        exchanges: scripts.exchanges(),
        truths,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell;

    #[test]
    fn a_seed_makes_the_same_capture_whoever_runs_at_once() {
        let folder = std::env::temp_dir();
        let file = |name: &str| folder.join(format!("why502-{}-{name}", std::process::id()));
        let (first, second, woven) = (file("first"), file("second"), file("woven"));
        let one = capture(&first, 1000, 1, 7).unwrap();
        let same = capture(&second, 1000, 1, 7).unwrap();
        let many = capture(&woven, 1000, 100, 7).unwrap();
        let read = |path: &Path| std::fs::read(path).unwrap();
        assert_eq!(read(&first), read(&second));
        assert_ne!(read(&first), read(&woven));
        assert_eq!(one.truths, same.truths);
        assert_eq!(one.truths, many.truths);
        assert_eq!((one.packets, one.bytes), (many.packets, many.bytes));
        let expected = one.exchanges / 100;
        assert!((expected / 2..2 * expected).contains(&(one.truths.len() as u64)));
        if let Some(text) = shell::ask(
            shell::command("tshark")
                .args(["-o", "tcp.analyze_sequence_numbers:TRUE", "-r"])
                .arg(&first)
                .args(["-Y", "http.response.code >= 500", "-T", "fields"])
                .args(["-e", "http.response.code", "-e", "_ws.expert"]),
        ) {
            let failed = text.lines().filter(|line| !line.is_empty()).count();
            // An upstream's own 503 is seen on both sides.
            let answered = one
                .truths
                .iter()
                .filter(|truth| truth.status == 503)
                .count();
            assert_eq!(failed, one.truths.len() + answered, "{text}");
        } else {
            println!("skipped: tshark is not installed");
        }
        for path in [first, second, woven] {
            std::fs::remove_file(path).unwrap();
        }
    }
}
