//! Reads BTF, the kernel's own description of its types, only as far as member offsets need it.
//!
//! The crates that read BTF either hide members or are under a licence that a static binary cannot
//! carry; the format is small (Documentation/bpf/btf.rst).

use std::ops::Range;

use anyhow::{Context as _, Result, bail, ensure};

const MAGIC: u16 = 0xeb9f;
const KIND_PTR: u32 = 2;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_FWD: u32 = 7;
const KIND_TYPEDEF: u32 = 8;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
/// Bytes that every type has: name, info, size or type.
const HEAD: usize = 12;
/// Bytes of the header that every kernel writes; newer ones add where the layout of kinds is.
const HEADER: usize = 24;
const HEADER_WITH_LAYOUT: usize = 32;
/// One kind's layout: bytes that follow a type once, bytes for each of its elements, two of flags.
const LAYOUT: usize = 4;

/// Of a type's `info`: bits 24 to 30. Kernels before the layout used five of them and left the others 0.
fn kind_of(info: u32) -> u32 {
    info >> 24 & 0x7f
}

/// How many members, parameters or values a type has: bits 0 to 23, of which older kernels used 16.
fn elements(info: u32) -> usize {
    (info & 0xff_ffff) as usize
}

/// Bit 31, whose meaning is the kind's own.
fn flag(info: u32) -> bool {
    info >> 31 == 1
}

/// A typedef or function, as far as a program needs it to attach.
pub struct Named {
    id: usize,
    kind: u32,
    pub name: String,
}

/// BTF in which these have their ids, behind types without a body or a name: enough to find what a
/// program attaches to, at a tenth of the memory. Types behind the last of them are not there at all.
pub fn sparse<'a>(named: impl IntoIterator<Item = &'a Named>) -> Vec<u8> {
    let mut types = Vec::new();
    let mut strings = vec![0];
    let mut tell = |offset: usize, kind: u32| {
        for word in [offset as u32, kind << 24, 0] {
            types.extend_from_slice(&word.to_ne_bytes());
        }
    };
    let mut next = 1;
    for Named { id, kind, name } in named {
        for _ in next..*id {
            tell(0, KIND_FWD);
        }
        next = id + 1;
        tell(strings.len(), *kind);
        strings.extend_from_slice(name.as_bytes());
        strings.push(0);
    }
    let mut out = Vec::with_capacity(HEADER + types.len() + strings.len());
    out.extend_from_slice(&MAGIC.to_ne_bytes());
    out.extend_from_slice(&[1, 0]);
    for word in [HEADER, 0, types.len(), types.len(), strings.len()] {
        out.extend_from_slice(&(word as u32).to_ne_bytes());
    }
    out.extend(types);
    out.extend(strings);
    out
}

/// One BTF blob, indexed by type id. Six megabytes on most kernels, so it is kept once and whole.
pub struct Btf {
    bytes: Vec<u8>,
    types: Range<usize>,
    strings: Range<usize>,
    /// How long types of each kind are, where the kernel says so.
    layout: Range<usize>,
    /// Where each type starts; type 0 is void.
    starts: Vec<u32>,
}

impl Btf {
    /// The running kernel's.
    pub fn of_kernel() -> Result<Btf> {
        let path = "/sys/kernel/btf/vmlinux";
        let bytes = std::fs::read(path).with_context(|| {
            format!("read {path}: the kernel needs CONFIG_DEBUG_INFO_BTF=y (5.10 and later of most distributions)")
        })?;
        Btf::parse(bytes).with_context(|| format!("parse {path}"))
    }

    pub fn parse(bytes: Vec<u8>) -> Result<Btf> {
        ensure!(bytes.len() >= HEADER, "BTF header is cut");
        ensure!(
            u16::from_ne_bytes([bytes[0], bytes[1]]) == MAGIC,
            "not BTF of this byte order"
        );
        let word = |at: usize| {
            u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize
        };
        let header = word(4);
        ensure!(
            (HEADER..=bytes.len()).contains(&header),
            "BTF header is cut"
        );
        let part = |offset: usize, len: usize| {
            let start = header.saturating_add(offset);
            let range = start..start.saturating_add(len);
            ensure!(range.end <= bytes.len(), "BTF section is cut");
            Ok(range)
        };
        let types = part(word(8), word(12))?;
        let strings = part(word(16), word(20))?;
        let layout = match header >= HEADER_WITH_LAYOUT {
            true => part(word(24), word(28))?,
            false => 0..0,
        };
        let mut btf = Btf {
            bytes,
            types,
            strings,
            layout,
            starts: vec![0],
        };
        let mut at = 0;
        while at + HEAD <= btf.types.len() {
            btf.starts.push(at as u32);
            at += HEAD + btf.tail(at)?;
        }
        Ok(btf)
    }

    fn word(&self, at: usize) -> u32 {
        self.bytes[self.types.clone()]
            .get(at..at + 4)
            .map_or(0, |b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
    }

    /// Bytes that follow the three common words of the type at `at`.
    fn tail(&self, at: usize) -> Result<usize> {
        let info = self.word(at + 4);
        let n = elements(info);
        Ok(match kind_of(info) {
            1 | 14 | 17 => 4,
            3 => 12,
            KIND_STRUCT | KIND_UNION => n * 12,
            6 | 13 => n * 8,
            15 | 19 => n * 12,
            0 | 2 | 7..=12 | 16 | 18 => 0,
            kind => self.tail_by_layout(kind, n)?,
        })
    }

    /// The same of a kind that is newer than this program.
    fn tail_by_layout(&self, kind: u32, n: usize) -> Result<usize> {
        let place = kind as usize * LAYOUT;
        let entry = self.bytes[self.layout.clone()].get(place..place + LAYOUT);
        let Some(&[once, each, ..]) = entry else {
            bail!("BTF kind {kind} is not known, and this kernel does not say how long it is");
        };
        Ok(usize::from(once) + n * usize::from(each))
    }

    fn string(&self, offset: u32) -> &[u8] {
        let rest = self.bytes[self.strings.clone()]
            .get(offset as usize..)
            .unwrap_or_default();
        &rest[..rest.iter().position(|&b| b == 0).unwrap_or(rest.len())]
    }

    fn kind(&self, at: usize) -> u32 {
        kind_of(self.word(at + 4))
    }

    fn find(&self, kinds: &[u32], name: &str) -> Option<usize> {
        let mut starts = self.starts[1..].iter().map(|&at| at as usize);
        starts.find(|&at| {
            kinds.contains(&self.kind(at)) && self.string(self.word(at)) == name.as_bytes()
        })
    }

    /// Whether there is a typedef or a function of this name.
    pub fn names(&self, name: &str) -> bool {
        self.find(&[KIND_TYPEDEF, KIND_FUNC], name).is_some()
    }

    /// The size in bytes of `struct name`.
    pub fn size(&self, name: &str) -> Option<u32> {
        Some(self.word(self.find(&[KIND_STRUCT], name)? + 8))
    }

    /// Names of the parameters of a function, or of what a tracepoint's typedef points to.
    pub fn parameters(&self, name: &str) -> Option<Vec<String>> {
        let mut at = self.find(&[KIND_TYPEDEF, KIND_FUNC], name)?;
        while self.kind(at) != KIND_FUNC_PROTO {
            at = match self.kind(at) {
                KIND_TYPEDEF | KIND_FUNC | KIND_PTR => {
                    *self.starts.get(self.word(at + 8) as usize)? as usize
                }
                _ => return None,
            };
        }
        let parameters = (0..elements(self.word(at + 4))).map(|i| {
            let name = self.string(self.word(at + HEAD + i * 8));
            String::from_utf8_lossy(name).into_owned()
        });
        Some(parameters.collect())
    }

    /// How many arguments a typed tracepoint hands to its program: the first parameter is the kernel's own.
    pub fn arguments(&self, tracepoint: &str) -> Option<usize> {
        Some(self.parameters(tracepoint)?.len().saturating_sub(1))
    }

    /// The offset in bytes of `path` (`member.member`, through anonymous members) within `struct name`.
    pub fn offset(&self, name: &str, path: &str) -> Option<u32> {
        let mut at = self.find(&[KIND_STRUCT], name)?;
        let mut bits = 0;
        for member in path.split('.') {
            let (offset, kind) = self.member(at, member, 0)?;
            bits += offset;
            at = self.resolve(kind)?;
        }
        Some(bits / 8)
    }

    /// The value of an enumerator of `enum name`.
    pub fn enumerator(&self, name: &str, enumerator: &str) -> Option<u32> {
        let mut all = self.enumerators(name);
        Some(all.find(|(own, _)| *own == enumerator.as_bytes())?.1)
    }

    /// The enumerators of `enum name` with their values.
    pub fn enumerators(&self, name: &str) -> impl Iterator<Item = (&[u8], u32)> {
        let found = self.find(&[KIND_ENUM], name);
        found.into_iter().flat_map(move |at| {
            let entries = (0..elements(self.word(at + 4))).map(move |i| at + HEAD + i * 8);
            entries.map(|entry| (self.string(self.word(entry)), self.word(entry + 4)))
        })
    }

    /// A member's bit offset and type.
    fn member(&self, at: usize, name: &str, depth: u32) -> Option<(u32, u32)> {
        let kind = self.kind(at);
        if depth > 8 || (kind != KIND_STRUCT && kind != KIND_UNION) {
            return None;
        }
        let info = self.word(at + 4);
        for i in 0..elements(info) {
            let entry = at + HEAD + i * 12;
            let (member, kind) = (self.string(self.word(entry)), self.word(entry + 4));
            // With the flag set the upper byte is a bitfield's size.
            let offset = if flag(info) {
                self.word(entry + 8) & 0xff_ffff
            } else {
                self.word(entry + 8)
            };
            if member == name.as_bytes() {
                return Some((offset, kind));
            }
            if member.is_empty()
                && let Some((inner, kind)) = self.member(self.resolve(kind)?, name, depth + 1)
            {
                return Some((offset + inner, kind));
            }
        }
        None
    }

    /// The typedefs and functions whose names are wanted, by their ids.
    pub fn named(&self, wanted: impl Fn(&str) -> bool) -> Vec<Named> {
        let mut found = Vec::new();
        for (id, &at) in self.starts.iter().enumerate().skip(1) {
            let at = at as usize;
            let kind = self.kind(at);
            if kind != KIND_TYPEDEF && kind != KIND_FUNC {
                continue;
            }
            if let Ok(name) = std::str::from_utf8(self.string(self.word(at)))
                && wanted(name)
            {
                let name = name.to_owned();
                found.push(Named { id, kind, name });
            }
        }
        found
    }

    /// Follows typedefs and qualifiers.
    fn resolve(&self, mut id: u32) -> Option<usize> {
        for _ in 0..16 {
            let at = *self.starts.get(id as usize)? as usize;
            match self.kind(at) {
                8..=11 | 18 => id = self.word(at + 8),
                _ => return Some(at),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
