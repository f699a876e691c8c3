//! The classic format: one header, then records, in the byte order of the host that wrote it.

use super::super::raw::LinkType;
use super::error::{Fault, Problem};
use super::record::{Record, Step};
use super::window::{MAX_RECORD, Window};

const HEADER: usize = 24;
const RECORD: usize = 16;
/// No program captures more of a packet unless its header says so.
const USUAL_SNAP_LENGTH: usize = 256 * 1024;

#[derive(Debug)]
pub(super) struct Pcap {
    big_endian: bool,
    /// Nanoseconds per unit of a record's fraction.
    unit: u32,
    link_type: LinkType,
    /// A longer record is damage.
    longest: usize,
}

impl Pcap {
    pub(super) fn open(window: &mut Window) -> Result<Pcap, Fault> {
        if !window.ensure(HEADER)? {
            return Err(window.fault(Problem::Truncated));
        }
        let header = window.held();
        let (big_endian, unit) = match header {
            [0xa1, 0xb2, 0xc3, 0xd4, ..] => (true, 1000),
            [0xa1, 0xb2, 0x3c, 0x4d, ..] => (true, 1),
            [0x4d, ..] => (false, 1),
            _ => (false, 1000),
        };
        let mut format = Pcap {
            big_endian,
            unit,
            link_type: LinkType(0),
            longest: 0,
        };
        let versions = format.number(header, 4);
        let major = if big_endian {
            versions >> 16
        } else {
            versions & 0xffff
        };
        if major != 2 {
            return Err(window.malformed(format!(
                "pcap version {major} is not known; convert the file with a tool that knows it"
            )));
        }
        format.longest = (format.number(header, 16) as usize).clamp(USUAL_SNAP_LENGTH, MAX_RECORD);
        // The upper half says how long frame check sequences are: IP's lengths leave them out.
        format.link_type = LinkType((format.number(header, 20) & 0xffff) as u16);
        window.take(HEADER);
        Ok(format)
    }

    #[inline(always)]
    pub(super) fn step(&self, held: &[u8]) -> Result<Step, String> {
        let Some(record) = held.first_chunk::<RECORD>() else {
            return Ok(Step::Short(RECORD));
        };
        let seconds = self.number(record, 0);
        let fraction = self.number(record, 4);
        let captured = self.number(record, 8) as usize;
        if captured > self.longest {
            return Err(overlong(captured));
        }
        let length = RECORD + captured;
        if held.len() < length {
            return Ok(Step::Short(length));
        }
        Ok(Step::Frame(Record {
            at: u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * u64::from(self.unit),
            interface: 0,
            link_type: self.link_type,
            original_length: self.number(record, 12),
            from: RECORD,
            captured,
            length,
        }))
    }

    /// Of the record that begins here, damaged or not.
    #[inline]
    pub(super) fn length(&self, held: &[u8]) -> Option<usize> {
        let record = held.first_chunk::<RECORD>()?;
        let captured = self.number(record, 8) as usize;
        (captured <= self.longest).then_some(RECORD + captured)
    }

    #[inline]
    fn number(&self, bytes: &[u8], at: usize) -> u32 {
        let bytes = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        if self.big_endian {
            u32::from_be_bytes(bytes)
        } else {
            u32::from_le_bytes(bytes)
        }
    }
}

#[cold]
fn overlong(captured: usize) -> String {
    format!("a record of {captured} bytes, more than any frame has: the file is damaged")
}
