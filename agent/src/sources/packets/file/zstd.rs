//! zstd with several frames and skippable ones, in Rust alone.

use std::io::{self, BufRead, Read};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// Blocks are at most 128 KB each.
const STEP: BlockDecodingStrategy = BlockDecodingStrategy::UptoBlocks(1);
/// A larger window needs `--long` to be written, and that much memory to be read.
const MAX_WINDOW: u64 = 128 * 1024 * 1024;

/// Decompresses every frame of `input`, and checks the checksums that there are.
pub(super) struct ZstdDecoder<R> {
    input: R,
    decoder: FrameDecoder,
    within: bool,
}

impl<R: BufRead> ZstdDecoder<R> {
    pub(super) fn new(input: R) -> ZstdDecoder<R> {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(MAX_WINDOW);
        ZstdDecoder {
            input,
            decoder,
            within: false,
        }
    }

    /// Begins the next frame with content; false at the end of the input.
    fn begin(&mut self) -> io::Result<bool> {
        while !self.input.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.input) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let length = u64::from(length);
                    let skipped = io::copy(&mut self.input.by_ref().take(length), &mut io::sink())?;
                    if skipped < length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(self.explain(error)),
            }
        }
        Ok(false)
    }

    /// An error at the end of the input is the end's doing.
    fn explain(&mut self, error: FrameDecoderError) -> io::Error {
        match self.input.fill_buf() {
            Ok([]) => io::ErrorKind::UnexpectedEof.into(),
            Ok(_) => io::Error::new(io::ErrorKind::InvalidData, format!("zstd: {error}")),
            Err(error) => error,
        }
    }
}

impl<R: BufRead> Read for ZstdDecoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.within {
                if !self.begin()? {
                    return Ok(0);
                }
                self.within = true;
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                if let Err(error) = self.decoder.decode_blocks(&mut self.input, STEP) {
                    return Err(self.explain(error));
                }
            }
            let read = self.decoder.read(buffer)?;
            if read > 0 {
                return Ok(read);
            }
            self.within = false;
            let told = self.decoder.get_checksum_from_data();
            if told.is_some() && told != self.decoder.get_calculated_checksum() {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "zstd: the checksum differs: the file is damaged",
                ));
            }
        }
    }
}
