//! Any bytes as a capture file: frames or one error, in bounded memory, and then an end; the same
//! one by one from a reader and in batches from the file's own pages.

#![no_main]

use std::fs::File;
use std::io::{Cursor, Seek as _, Write as _};
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use why502::sources::packets::decode::{Decoded, decode, plain};
use why502::sources::packets::file::{BATCH, Capture, Input};

/// Without a name, and gone when the program ends.
static FILE: LazyLock<File> = LazyLock::new(|| tempfile::tempfile().unwrap());

/// The same capture from a file, which is mapped if it is not compressed.
fn mapped(bytes: &[u8]) -> Capture {
    let mut file = FILE.try_clone().unwrap();
    file.set_len(0).unwrap();
    file.rewind().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    Capture::from_input(Input::from_file(file, "fuzz").unwrap()).unwrap()
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut capture) = Capture::read(Cursor::new(bytes.to_vec()), "fuzz") else {
        return;
    };
    let mut together = mapped(bytes);
    let mut frames = 0;
    loop {
        let batch = match together.next_frames() {
            Some(Ok(batch)) => batch,
            Some(Err(error)) => {
                let same = capture.next_frame().unwrap().unwrap_err();
                assert_eq!(error.to_string(), same.to_string());
                assert_eq!(error.frames, frames);
                assert!(capture.next_frame().is_none() && together.next_frames().is_none());
                break;
            }
            None => {
                assert!(capture.next_frame().is_none());
                break;
            }
        };
        let before = frames;
        for frame in batch {
            let alone = capture.next_frame().unwrap().unwrap();
            frames += 1;
            assert_eq!(frame.frame.number, frames);
            assert_eq!(format!("{frame:?}"), format!("{alone:?}"));
            let decoded = decode(&frame);
            if let Decoded::Segment(segment) = decoded {
                assert!(segment.payload.len() <= segment.length as usize);
            }
            assert!(plain(&frame).is_none() || matches!(decoded, Decoded::Segment(_)));
        }
        assert!((1..=BATCH as u64).contains(&(frames - before)));
    }
    // What libpcap or the file itself claims is a count, whatever the file says.
    assert_eq!(capture.dropped(), together.dropped());
});
