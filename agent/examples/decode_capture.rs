//! Reads and decodes a capture and does nothing else: the part of `explain` before connections.

use std::path::Path;
use std::process::ExitCode;

use why502::sources::packets::decode::{Decoded, decode};
use why502::sources::packets::file::Capture;

fn main() -> ExitCode {
    let Some(file) = std::env::args_os().nth(1) else {
        eprintln!("usage: decode_capture FILE");
        return ExitCode::from(2);
    };
    let mut capture = match Capture::open(Path::new(&file)) {
        Ok(capture) => capture,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let (mut segments, mut bytes, mut unreachable, mut others) = (0_u64, 0_u64, 0_u64, 0_u64);
    let mut failed = false;
    while let Some(next) = capture.next_frame() {
        match next.map(|frame| decode(&frame)) {
            Ok(Decoded::Segment(segment)) => {
                segments += 1;
                bytes += u64::from(segment.length) + u64::from(segment.to.port());
            }
            Ok(Decoded::Unreachable(_)) => unreachable += 1,
            Ok(_) => others += 1,
            Err(error) => {
                eprintln!("{error}");
                failed = true;
            }
        }
    }
    println!("{segments} segments, {unreachable} unreachable, {others} others, {bytes}");
    ExitCode::from(u8::from(failed))
}
