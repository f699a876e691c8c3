//! Heads of which some bytes came, and the rest is awaited.

use super::parse::Stage;
use super::{PARTIAL, Packets};

impl Packets {
    /// The bytes of a head that came before, with these.
    pub(super) fn joined(&mut self, index: u32, side: usize, bytes: &[u8]) -> Option<Vec<u8>> {
        if self.partial_bytes == 0 {
            return None;
        }
        let mut partial = self.partial.remove(&(index, side as u8))?;
        self.partial_bytes -= partial.len();
        partial.extend_from_slice(bytes);
        Some(partial)
    }

    /// What comes next of it is taken with these; where there are too many at once it is not followed.
    pub(super) fn keep_partial(&mut self, index: u32, side: usize, bytes: Vec<u8>) {
        let parse = &mut self.flows.at_mut(index).sides[side].parse;
        if self.partial_bytes + bytes.len() > PARTIAL {
            self.counts.heads += 1;
            parse.stage = Stage::Lost;
            return;
        }
        parse.stage = Stage::Head;
        self.partial_bytes += bytes.len();
        self.partial.insert((index, side as u8), bytes);
    }

    pub(super) fn drop_partial(&mut self, index: u32, side: u8) {
        if self.partial_bytes > 0
            && let Some(partial) = self.partial.remove(&(index, side))
        {
            self.partial_bytes -= partial.len();
        }
    }
}
