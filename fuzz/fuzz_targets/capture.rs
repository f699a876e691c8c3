//! Any bytes as a capture file: frames or one error, in bounded memory, and then an end.

#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use why502::sources::packets::decode::{Decoded, decode};
use why502::sources::packets::file::Capture;

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut capture) = Capture::read(Cursor::new(bytes.to_vec()), "fuzz") else {
        return;
    };
    let mut frames = 0;
    while let Some(next) = capture.next_frame() {
        match next {
            Ok(frame) => {
                frames += 1;
                assert_eq!(frame.frame.number, frames);
                if let Decoded::Segment(segment) = decode(&frame) {
                    assert!(segment.payload.len() <= segment.length as usize);
                }
            }
            Err(error) => {
                assert_eq!(error.frames, frames);
                assert!(capture.next_frame().is_none());
                break;
            }
        }
    }
    // What libpcap or the file itself claims is a count, whatever the file says.
    let _ = capture.dropped();
});
