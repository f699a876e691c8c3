//! How far one direction's bytes are understood, from segment to segment: where its messages end. Pure.

use super::frames::{self, Frame, Protocol, UNKNOWN};

/// How far one direction's bytes have been understood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    /// Where a message begins is not known; the next one that begins with a segment after the
    /// other side's turn is taken.
    #[default]
    Lost,
    /// The next byte begins a message.
    Start,
    /// A head has begun and its end has not come.
    Head,
    Body,
    ChunkSize,
    /// After the size, up to the end of its line.
    ChunkLine,
    /// A chunk's data and the two bytes after it.
    ChunkData,
    /// After the last chunk, at a line's beginning.
    Trailer,
    /// Within a trailer's line.
    TrailerLine,
    UntilClose,
    /// Not HTTP/1; `protocol` says what.
    Opaque,
    /// After an upgrade or CONNECT: whatever both sides agreed on, and nothing to be judged.
    Tunnel,
}

/// The state of one direction between two segments; packed, for it is part of each connection's
/// most used cache line.
#[derive(Clone, Copy, Debug, Default)]
#[repr(Rust, packed(4))]
pub(super) struct Parse {
    /// Bytes of the body, chunk or record to come; in `ChunkSize` the size so far.
    left: u64,
    pub stage: Stage,
    /// In `Opaque`.
    pub protocol: Protocol,
    /// What is known of an opaque connection, with its client's direction.
    pub notes: u8,
}

impl Parse {
    pub(super) fn body(&mut self, framing: Framing) {
        (self.stage, self.left) = match framing {
            Framing::None | Framing::Length(0) => (Stage::Start, 0),
            Framing::Length(length) => (Stage::Body, length),
            Framing::Chunked => (Stage::ChunkSize, 0),
            Framing::UntilClose => (Stage::UntilClose, 0),
            Framing::Unknown => (Stage::Lost, 0),
        };
    }

    /// A body whose end is known from its head has begun, and not ended.
    pub(super) fn is_cut_short(&self) -> bool {
        use Stage::{Body, ChunkData, ChunkLine, ChunkSize, Trailer, TrailerLine};
        matches!(
            self.stage,
            Body | ChunkSize | ChunkLine | ChunkData | Trailer | TrailerLine
        )
    }

    pub(super) fn opaque(&mut self, protocol: Protocol) {
        (self.stage, self.left, self.protocol) = (Stage::Opaque, 0, protocol);
    }

    /// In `Opaque`: the next record that begins in a segment, at or after `at`.
    pub(super) fn next_frame(&mut self, there: &[u8], length: u32, at: &mut u32) -> Option<Frame> {
        let mut left = self.left;
        let frame = frames::next(self.protocol, &mut left, there, length, at);
        self.left = left;
        frame
    }

    /// In `Opaque`: bytes of a record that has begun are still to come.
    pub(super) fn within_frame(&self) -> bool {
        self.left != 0 && self.left != UNKNOWN
    }

    /// In `Opaque`: where it is not known where records begin, one is taken to begin here.
    pub(super) fn frame_may_begin(&mut self) {
        if self.left == UNKNOWN {
            self.left = 0;
        }
    }

    /// In `Opaque`: whether it is known where records begin.
    pub(super) fn knows_frames(&self) -> bool {
        self.left != UNKNOWN
    }

    /// Follows a body of known length through a segment that does not go beyond it; false where
    /// that is not what the bytes are.
    #[inline]
    pub(super) fn within_body(&mut self, length: u32) -> bool {
        let length = u64::from(length);
        if self.stage != Stage::Body || length > self.left {
            return false;
        }
        self.left -= length;
        if self.left == 0 {
            self.stage = Stage::Start;
        }
        true
    }

    /// Follows a body through `length` bytes, of which the first are there to be read.
    /// Returns how many belong to it; the body is over when the stage is `Start`.
    pub(super) fn skip(&mut self, bytes: &[u8], length: u32) -> u32 {
        let mut at = 0;
        while at < length {
            let rest = u64::from(length - at);
            match self.stage {
                Stage::Body | Stage::ChunkData => {
                    let step = rest.min(self.left);
                    self.left -= step;
                    at += step as u32;
                    if self.left > 0 {
                        continue;
                    }
                    if self.stage == Stage::Body {
                        self.stage = Stage::Start;
                        return at;
                    }
                    self.stage = Stage::ChunkSize;
                }
                Stage::ChunkSize | Stage::ChunkLine | Stage::Trailer | Stage::TrailerLine => {
                    let Some(&byte) = bytes.get(at as usize) else {
                        self.stage = Stage::Lost;
                        return length;
                    };
                    at += 1;
                    self.chunk_byte(byte);
                    if self.stage == Stage::Start {
                        return at;
                    }
                }
                Stage::UntilClose | Stage::Opaque | Stage::Tunnel | Stage::Lost => return length,
                Stage::Start | Stage::Head => return at,
            }
        }
        at
    }

    fn chunk_byte(&mut self, byte: u8) {
        self.stage = match (self.stage, byte) {
            (Stage::ChunkSize, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if self.left >> 56 == 0 => {
                let digit = (byte as char).to_digit(16).unwrap_or(0);
                self.left = self.left << 4 | u64::from(digit);
                Stage::ChunkSize
            }
            (Stage::ChunkSize, b';' | b'\r' | b' ' | b'\t') => Stage::ChunkLine,
            (Stage::ChunkSize | Stage::ChunkLine, b'\n') if self.left == 0 => Stage::Trailer,
            (Stage::ChunkSize | Stage::ChunkLine, b'\n') => {
                self.left += 2;
                Stage::ChunkData
            }
            (Stage::ChunkLine, _) => Stage::ChunkLine,
            (Stage::Trailer, b'\n') => Stage::Start,
            (Stage::TrailerLine, b'\n') => Stage::Trailer,
            (Stage::Trailer, b'\r') => Stage::Trailer,
            (Stage::Trailer | Stage::TrailerLine, _) => Stage::TrailerLine,
            _ => Stage::Lost,
        };
    }

    /// Bytes are missing from the capture; `count` of them, if that is known.
    pub(super) fn gap(&mut self, count: u32) {
        let count = u64::from(count);
        match self.stage {
            Stage::Body | Stage::ChunkData if count < self.left => self.left -= count,
            Stage::Body if count == self.left => self.stage = Stage::Start,
            Stage::UntilClose | Stage::Tunnel => {}
            Stage::Opaque if self.left == UNKNOWN => {}
            Stage::Opaque if count <= self.left => self.left -= count,
            Stage::Opaque => self.left = UNKNOWN,
            _ => self.stage = Stage::Lost,
        }
    }
}

/// Where a message's body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    None,
    Length(u64),
    Chunked,
    UntilClose,
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_followed_however_they_are_cut() {
        let chunked: &[u8] = b"5;x=1\r\nhello\r\n0B\r\nhello world\r\n0\r\nT: 1\r\n\r\n";
        for size in 1..=chunked.len() {
            let mut parse = Parse::default();
            parse.body(Framing::Chunked);
            let mut followed = 0;
            for piece in chunked.chunks(size) {
                followed += parse.skip(piece, piece.len() as u32);
            }
            assert_eq!(
                (parse.stage, followed as usize),
                (Stage::Start, chunked.len()),
                "{size}"
            );
        }
        let mut parse = Parse::default();
        parse.body(Framing::Length(10));
        assert_eq!(parse.skip(b"", 4), 4);
        parse.gap(3);
        assert_eq!(parse.skip(b"", 100), 3);
        assert_eq!(parse.stage, Stage::Start);
    }

    #[test]
    fn what_is_missing_or_malformed_is_not_guessed() {
        let mut parse = Parse::default();
        parse.body(Framing::Length(10));
        parse.gap(11);
        assert_eq!(parse.stage, Stage::Lost);
        parse.body(Framing::Chunked);
        parse.skip(b"zz", 2);
        assert_eq!(parse.stage, Stage::Lost);
        // The size of a chunk was cut off by the snap length.
        parse.body(Framing::Chunked);
        assert_eq!(parse.skip(b"5\r\nhe", 1000), 1000);
        assert_eq!(parse.stage, Stage::Lost);
        parse.body(Framing::Chunked);
        parse.skip(b"ffffffffffffffffffffffff\r\n", 26);
        assert_eq!(parse.stage, Stage::Lost);
    }
}
