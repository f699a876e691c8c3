mod build;
mod compressed;
mod damage;
mod formats;

use std::io::Cursor;
use std::path::PathBuf;

use super::{Capture, OpenError, ReadError};
use crate::signal::Nanos;

/// One frame, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Frame {
    at: Nanos,
    number: u64,
    interface: u32,
    link_type: u16,
    original_length: u32,
    data: Vec<u8>,
}

/// Every frame of a capture, and the error it ends with.
fn read(bytes: &[u8]) -> Result<(Vec<Frame>, Option<ReadError>), OpenError> {
    let mut capture = Capture::read(Cursor::new(bytes.to_vec()), "test")?;
    let mut frames = Vec::new();
    while let Some(next) = capture.next_frame() {
        match next {
            Ok(frame) => frames.push(Frame {
                at: frame.at,
                number: frame.frame.number,
                interface: frame.frame.interface,
                link_type: frame.link_type.0,
                original_length: frame.original_length,
                data: frame.data.to_vec(),
            }),
            Err(error) => {
                assert!(capture.next_frame().is_none(), "an error is the last");
                return Ok((frames, Some(error)));
            }
        }
    }
    Ok((frames, None))
}

/// The frames of a capture without damage.
fn frames(bytes: &[u8]) -> Vec<Frame> {
    let (frames, error) = read(bytes).unwrap();
    assert!(error.is_none(), "{error:?}");
    frames
}

fn stored(name: &str) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/captures");
    std::fs::read(folder.join(name)).unwrap()
}
