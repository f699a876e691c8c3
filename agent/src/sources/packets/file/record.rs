//! What both formats find in a file: records, most of which are frames.

use super::super::raw::{LinkType, RawFrame};
use super::super::segment::Frame;
use crate::signal::Nanos;

/// The next record of a file.
pub(super) enum Step {
    Frame(Record),
    /// Of this length, and no frame.
    Other(usize),
    /// It is not at hand: at least so many bytes are needed.
    Short(usize),
}

/// A frame's record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    pub(super) at: Nanos,
    pub(super) interface: u32,
    pub(super) link_type: LinkType,
    pub(super) original_length: u32,
    /// Where the frame begins: in its record, and once that is taken, in the window.
    pub(super) from: usize,
    pub(super) captured: usize,
    /// Of the whole record.
    pub(super) length: usize,
}

impl Record {
    #[inline]
    pub(super) fn frame(self, number: u64, data: &[u8]) -> RawFrame<'_> {
        RawFrame {
            at: self.at,
            frame: Frame {
                number,
                interface: self.interface,
            },
            link_type: self.link_type,
            original_length: self.original_length,
            data,
        }
    }
}
