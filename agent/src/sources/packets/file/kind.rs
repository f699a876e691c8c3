//! What a file is, by its first bytes.

/// Enough of a file's beginning for `sniff`.
pub(super) const SNIFFED: usize = 64;

/// A kind of file that `explain` may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Pcap,
    PcapNg,
    Gzip,
    Zstd,
    /// An earlier run's signals, as JSON lines.
    Recording,
    Unknown,
}

/// Tells a file's kind by its first bytes; `SNIFFED` of them are enough.
pub fn sniff(first: &[u8]) -> Kind {
    match first {
        [0xd4, 0xc3, 0xb2, 0xa1, ..]
        | [0xa1, 0xb2, 0xc3, 0xd4, ..]
        | [0x4d, 0x3c, 0xb2, 0xa1, ..]
        | [0xa1, 0xb2, 0x3c, 0x4d, ..] => Kind::Pcap,
        [0x0a, 0x0d, 0x0d, 0x0a, ..] => Kind::PcapNg,
        [0x1f, 0x8b, 0x08, ..] => Kind::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Kind::Zstd,
        // A skippable frame, which some writers begin with.
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Kind::Zstd,
        _ => {
            let text = first.trim_ascii_start();
            let begins = text.strip_prefix(b"{").map(<[u8]>::trim_ascii_start);
            match begins {
                Some(begins) if begins.starts_with(b"\"why502_recording\"") => Kind::Recording,
                _ => Kind::Unknown,
            }
        }
    }
}
