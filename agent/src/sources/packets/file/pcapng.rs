//! The block format: sections, each in its own byte order, with interfaces, each with its own
//! link type and clock.

use super::super::raw::LinkType;
use super::interface::{Interface, Unit};
use super::record::{Record, Step};
use super::window::MAX_RECORD;
use crate::signal::Nanos;

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const OBSOLETE_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;

/// Type, length, and the length again at the end.
const SMALLEST_BLOCK: usize = 12;
/// More interfaces than any host has; each takes memory.
const MAX_INTERFACES: usize = 65_536;

#[derive(Debug, Default)]
pub(super) struct PcapNg {
    big_endian: bool,
    /// Of this section.
    interfaces: Vec<Interface>,
    /// Interfaces of the sections before: numbers go on, so that each names one interface.
    before: u32,
    /// Time of the last frame: simple packets have none of their own.
    last: Nanos,
    /// Losses told by earlier sections.
    dropped_before: u64,
    /// A loss was told since somebody asked for that.
    loss_told: bool,
}

impl PcapNg {
    pub(super) fn dropped(&self) -> u64 {
        let sum = |sum: u64, one: &Interface| sum.saturating_add(one.dropped());
        self.interfaces.iter().fold(self.dropped_before, sum)
    }

    /// Whether the file told of a loss since this was asked last.
    #[inline]
    pub(super) fn told_loss(&mut self) -> bool {
        std::mem::take(&mut self.loss_told)
    }

    #[inline]
    pub(super) fn step(&mut self, held: &[u8]) -> Result<Step, String> {
        let (kind, length) = match self.block(held)? {
            Some(block) => block,
            None => return Ok(Step::Short(SMALLEST_BLOCK)),
        };
        if held.len() < length {
            return Ok(Step::Short(length));
        }
        if self.number(held, length - 4) as usize != length {
            return Err(unequal());
        }
        let body = &held[8..length - 4];
        let mut record = match kind {
            ENHANCED_PACKET => self.enhanced(body)?,
            SIMPLE_PACKET => self.simple(body)?,
            OBSOLETE_PACKET => self.obsolete(body)?,
            _ => {
                self.other(kind, body)?;
                return Ok(Step::Other(length));
            }
        };
        record.from += 8;
        record.length = length;
        Ok(Step::Frame(record))
    }

    /// Of the block that begins here, if it is in this section's byte order, damaged or not.
    #[inline]
    pub(super) fn length(&self, held: &[u8]) -> Option<usize> {
        let head = held.first_chunk::<SMALLEST_BLOCK>()?;
        let length = self.number(head, 4) as usize;
        (SMALLEST_BLOCK..=MAX_RECORD)
            .contains(&length)
            .then_some(length)
    }

    /// Type and length of the next block; `None` where its beginning is not at hand.
    #[inline]
    fn block(&mut self, held: &[u8]) -> Result<Option<(u32, usize)>, String> {
        // A section's byte order is in its third word; every block has three.
        let Some(head) = held.first_chunk::<SMALLEST_BLOCK>() else {
            return Ok(None);
        };
        // The same in either byte order.
        if head[..4] == SECTION.to_be_bytes() {
            self.big_endian = match head[8..12] {
                [0x1a, 0x2b, 0x3c, 0x4d] => true,
                [0x4d, 0x3c, 0x2b, 0x1a] => false,
                _ => return Err("a section of no known byte order".to_owned()),
            };
        }
        let kind = self.number(head, 0);
        let length = self.number(head, 4) as usize;
        if length < SMALLEST_BLOCK || !length.is_multiple_of(4) {
            return Err(impossible(length));
        }
        if length > MAX_RECORD {
            return Err(enormous(length));
        }
        Ok(Some((kind, length)))
    }

    #[inline]
    fn enhanced(&mut self, body: &[u8]) -> Result<Record, String> {
        if body.len() < 20 {
            return Err(short("packet"));
        }
        let index = self.number(body, 0);
        let ticks = u64::from(self.number(body, 4)) << 32 | u64::from(self.number(body, 8));
        let captured = self.number(body, 12) as usize;
        let original_length = self.number(body, 16);
        self.packet(index, ticks, (20, captured, original_length), body)
    }

    fn obsolete(&mut self, body: &[u8]) -> Result<Record, String> {
        if body.len() < 20 {
            return Err(short("packet"));
        }
        let index = u32::from(self.short_number(body, 0));
        let ticks = u64::from(self.number(body, 4)) << 32 | u64::from(self.number(body, 8));
        let captured = self.number(body, 12) as usize;
        let original_length = self.number(body, 16);
        self.packet(index, ticks, (20, captured, original_length), body)
    }

    fn simple(&mut self, body: &[u8]) -> Result<Record, String> {
        if body.len() < 4 {
            return Err(short("packet"));
        }
        let original_length = self.number(body, 0);
        let interface = self.interfaces.first().ok_or_else(|| unknown(0))?;
        let mut captured = original_length;
        if interface.snap_length > 0 {
            captured = captured.min(interface.snap_length);
        }
        let captured = captured as usize;
        if captured > body.len() - 4 {
            return Err(overlong(captured));
        }
        Ok(Record {
            at: self.last,
            interface: self.before,
            link_type: interface.link_type,
            original_length,
            from: 4,
            captured,
            length: 0,
        })
    }

    #[inline]
    fn packet(
        &mut self,
        index: u32,
        ticks: u64,
        (from, captured, original_length): (usize, usize, u32),
        body: &[u8],
    ) -> Result<Record, String> {
        let interface = self
            .interfaces
            .get(index as usize)
            .ok_or_else(|| unknown(index))?;
        if captured > body.len() - from {
            return Err(overlong(captured));
        }
        let at = interface.time(ticks);
        let link_type = interface.link_type;
        self.last = at;
        let end = from + captured.next_multiple_of(4);
        if end < body.len() {
            self.packet_options(index as usize, &body[end..]);
        }
        Ok(Record {
            at,
            interface: self.before.saturating_add(index),
            link_type,
            original_length,
            from,
            captured,
            length: 0,
        })
    }

    /// Of a packet's options only the count of packets lost before it matters.
    fn packet_options(&mut self, index: usize, options: &[u8]) {
        const DROP_COUNT: u16 = 4;
        let mut lost = 0;
        self.options(options, |code, value| {
            if let (DROP_COUNT, Ok(bytes)) = (code, value.try_into()) {
                lost = self.long_number(bytes);
            }
        });
        let interface = &mut self.interfaces[index];
        interface.dropped_beside = interface.dropped_beside.saturating_add(lost);
        self.loss_told |= lost > 0;
    }

    #[cold]
    fn other(&mut self, kind: u32, body: &[u8]) -> Result<(), String> {
        match kind {
            SECTION => {
                if body.len() < 16 {
                    return Err(short("section"));
                }
                let major = self.short_number(body, 4);
                if major != 1 {
                    return Err(format!(
                        "pcapng version {major} is not known; convert the file with a tool that knows it"
                    ));
                }
                self.dropped_before = self.dropped();
                self.before = self
                    .before
                    .saturating_add(u32::try_from(self.interfaces.len()).unwrap_or(u32::MAX));
                self.interfaces.clear();
            }
            INTERFACE => self.interface(body)?,
            STATISTICS => self.statistics(body),
            _ => {}
        }
        Ok(())
    }

    fn interface(&mut self, body: &[u8]) -> Result<(), String> {
        const RESOLUTION: u16 = 9;
        const OFFSET: u16 = 14;
        if body.len() < 8 {
            return Err(short("interface"));
        }
        if self.interfaces.len() == MAX_INTERFACES {
            return Err(format!("more than {MAX_INTERFACES} interfaces"));
        }
        let mut interface = Interface {
            link_type: LinkType(self.short_number(body, 0)),
            snap_length: self.number(body, 4),
            unit: Unit::Nanoseconds(1000),
            offset: 0,
            dropped: 0,
            dropped_beside: 0,
        };
        let mut bad_unit = None;
        self.options(&body[8..], |code, value| match (code, value) {
            (RESOLUTION, &[resolution]) => match Unit::new(resolution) {
                Some(unit) => interface.unit = unit,
                None => bad_unit = Some(resolution),
            },
            (OFFSET, value) => {
                if let Ok(bytes) = value.try_into() {
                    let seconds = self.long_number(bytes).cast_signed();
                    interface.offset = seconds.saturating_mul(1_000_000_000);
                }
            }
            _ => {}
        });
        if let Some(resolution) = bad_unit {
            return Err(format!(
                "an interface whose clock has resolution {resolution}"
            ));
        }
        self.interfaces.push(interface);
        Ok(())
    }

    /// What the capturing program counted, from its beginning to now.
    fn statistics(&mut self, body: &[u8]) {
        const BY_INTERFACE: u16 = 5;
        const BY_SYSTEM: u16 = 7;
        if body.len() < 12 {
            return;
        }
        let index = self.number(body, 0) as usize;
        let mut dropped = 0_u64;
        self.options(&body[12..], |code, value| {
            if let (BY_INTERFACE | BY_SYSTEM, Ok(bytes)) = (code, value.try_into()) {
                dropped = dropped.saturating_add(self.long_number(bytes));
            }
        });
        if let Some(interface) = self.interfaces.get_mut(index) {
            self.loss_told |= dropped > interface.dropped;
            interface.dropped = interface.dropped.max(dropped);
        }
    }

    /// Calls `each` for every whole option; damage within options costs only them.
    fn options(&self, mut bytes: &[u8], mut each: impl FnMut(u16, &[u8])) {
        while bytes.len() >= 4 {
            let code = self.short_number(bytes, 0);
            let length = usize::from(self.short_number(bytes, 2));
            let Some(value) = bytes.get(4..4 + length) else {
                return;
            };
            if code == 0 {
                return;
            }
            each(code, value);
            let next = 4 + length.next_multiple_of(4);
            bytes = bytes.get(next..).unwrap_or_default();
        }
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

    fn short_number(&self, bytes: &[u8], at: usize) -> u16 {
        let bytes = [bytes[at], bytes[at + 1]];
        if self.big_endian {
            u16::from_be_bytes(bytes)
        } else {
            u16::from_le_bytes(bytes)
        }
    }

    fn long_number(&self, bytes: [u8; 8]) -> u64 {
        if self.big_endian {
            u64::from_be_bytes(bytes)
        } else {
            u64::from_le_bytes(bytes)
        }
    }
}

#[cold]
fn unequal() -> String {
    "a block whose length at its end differs from the one at its beginning: the file is damaged"
        .to_owned()
}

#[cold]
fn impossible(length: usize) -> String {
    format!("a block of {length} bytes, which none can have: the file is damaged")
}

#[cold]
fn enormous(length: usize) -> String {
    format!(
        "a block of {length} bytes, more than the {MAX_RECORD} that are read: the file is damaged"
    )
}

#[cold]
fn short(what: &str) -> String {
    format!("a {what} block too short for its fields: the file is damaged")
}

#[cold]
fn unknown(interface: u32) -> String {
    format!("a packet of interface {interface}, which the file does not describe")
}

#[cold]
fn overlong(captured: usize) -> String {
    format!("a packet of {captured} bytes in a shorter block: the file is damaged")
}
