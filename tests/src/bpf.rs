//! The programs, maps and links in the kernel: what a process holds, what is left over when it is gone,
//! and how many entries its maps have.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::{AsRawFd as _, FromRawFd, OwnedFd};

use agent_ebpf::Bucket;
use anyhow::{Context, Result, bail};
use zerocopy::{FromZeros as _, IntoBytes as _};

/// What `bpf_attr` begins with for the commands used here: the id, the next id, open flags.
#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Program,
    Map,
    Link,
}

/// How the kernel is asked for objects of a kind.
struct Way {
    kind: Kind,
    /// The word in a descriptor's `fdinfo`.
    word: &'static str,
    /// The commands that open one by its id, and that tell the next id.
    open: i64,
    next: i64,
}

impl Kind {
    const WAYS: [Way; 3] = [
        Way {
            kind: Kind::Program,
            word: "prog_id:",
            open: 13,
            next: 11,
        },
        Way {
            kind: Kind::Map,
            word: "map_id:",
            open: 14,
            next: 12,
        },
        Way {
            kind: Kind::Link,
            word: "link_id:",
            open: 30,
            next: 31,
        },
    ];

    fn way(self) -> &'static Way {
        &Kind::WAYS[self as usize]
    }
}

pub type Objects = BTreeSet<(Kind, u32)>;

/// The most instructions that the verifier went through for one of a process's programs; `None` before
/// Linux 5.16, which does not say.
pub fn hardest_to_verify(pid: u32) -> Result<Option<u64>> {
    let folder = format!("/proc/{pid}/fdinfo");
    let mut most = None;
    for file in fs::read_dir(&folder).with_context(|| format!("read {folder}"))? {
        let text = fs::read_to_string(file?.path()).unwrap_or_default();
        let told = text.lines().find_map(|l| l.strip_prefix("verified_insns:"));
        most = most.max(told.and_then(|n| n.trim().parse().ok()));
    }
    Ok(most)
}

/// What a process holds open.
pub fn held_by(pid: u32) -> Result<Objects> {
    let folder = format!("/proc/{pid}/fdinfo");
    let mut objects = Objects::new();
    for file in fs::read_dir(&folder).with_context(|| format!("read {folder}"))? {
        // A descriptor may have been closed meanwhile.
        let text = fs::read_to_string(file?.path()).unwrap_or_default();
        // A link's says which program it runs, a program's and a map's only who they are.
        let own = Kind::WAYS.iter().rev().find_map(|way| {
            let id = text.lines().find_map(|line| line.strip_prefix(way.word))?;
            Some((way.kind, id.trim().parse().ok()?))
        });
        objects.extend(own);
    }
    Ok(objects)
}

/// Those of them that the kernel still has, whoever holds them. They are listed and not opened: a map of
/// programs that is opened and closed just after its last holder's end is cleared twice at once, and then
/// the kernel (6.18) never frees it.
pub fn alive(objects: &Objects) -> Result<Objects> {
    Ok(objects.intersection(&all()?).copied().collect())
}

/// All that the kernel has, of whomever.
pub fn all() -> Result<Objects> {
    let mut objects = Objects::new();
    for way in &Kind::WAYS {
        let mut attr = ById::default();
        while call(way.next, &mut attr)?.is_some() {
            objects.insert((way.kind, attr.next_id));
            attr.id = attr.next_id;
        }
    }
    Ok(objects)
}

/// What has come since `before` and belongs to no process that lives.
pub fn orphans(before: &Objects) -> Result<Objects> {
    // First: what comes while processes are looked through is not taken for an orphan.
    let mut left = all()?;
    left.retain(|object| !before.contains(object));
    if left.is_empty() {
        return Ok(left);
    }
    for process in fs::read_dir("/proc")?.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // It may have ended meanwhile.
        let held = held_by(pid).unwrap_or_default();
        left.retain(|object| !held.contains(object));
    }
    alive(&left)
}

/// How many entries each map of a process has that can grow, by name.
pub fn entries(pid: u32) -> Result<BTreeMap<String, usize>> {
    let mut entries = BTreeMap::new();
    for (kind, id) in held_by(pid)? {
        if kind == Kind::Map
            && let Some(map) = Map::open(id)?
            && let Some(count) = map.count()?
        {
            *entries.entry(map.name).or_default() += count;
        }
    }
    if entries.len() < 5 {
        bail!("the agent has {entries:?}: the harness does not see its maps");
    }
    Ok(entries)
}

/// How often a program ran, and how long in all, while statistics were kept.
#[derive(Clone, Copy, Debug, Default)]
pub struct Runs {
    pub runs: u64,
    pub ns: u64,
}

/// The programs of a process by name, of which the kernel keeps 15 letters: those of one name together.
pub fn programs(pid: u32) -> Result<BTreeMap<String, Runs>> {
    let mut programs = BTreeMap::new();
    for (kind, id) in held_by(pid)? {
        if kind == Kind::Program
            && let Some(fd) = open(kind, id)?
        {
            let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
            let number = |name: &str| -> Option<u64> {
                let line = text.lines().find_map(|line| line.strip_prefix(name));
                line.and_then(|number| number.trim().parse().ok())
            };
            let of_name: &mut Runs = programs.entry(program_name(&fd)?).or_default();
            of_name.runs += number("run_cnt:").context("no run_cnt in fdinfo")?;
            of_name.ns += number("run_time_ns:").context("no run_time_ns in fdinfo")?;
        }
    }
    Ok(programs)
}

fn program_name(fd: &OwnedFd) -> Result<String> {
    let mut info = ProgramInfo::default();
    info_of(fd, &mut info)?;
    Ok(text(&info.name))
}

/// While this lives the kernel counts and times every program's runs.
pub struct Statistics {
    _fd: OwnedFd,
}

impl Statistics {
    pub fn enable() -> Result<Statistics> {
        const ENABLE_STATS: i64 = 32;
        /// The kind of statistics.
        const RUN_TIME: u32 = 0;
        let mut kind = RUN_TIME;
        let fd = call(ENABLE_STATS, &mut kind)?.context("no statistics of programs")?;
        // SAFETY: a descriptor that the kernel has just given to us alone.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Statistics { _fd: fd })
    }
}

/// The beginning of `struct bpf_prog_info`.
#[repr(C)]
#[derive(Default)]
struct ProgramInfo {
    kind_id_tag_lengths: [u32; 6],
    code_and_load_time: [u64; 3],
    owner_and_maps: [u32; 2],
    map_ids: u64,
    name: [u8; 16],
}

/// The beginning of `struct bpf_map_info`.
#[repr(C)]
#[derive(Default)]
struct MapInfo {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct InfoByFd {
    fd: u32,
    len: u32,
    info: u64,
}

#[repr(C)]
#[derive(Default)]
struct Element {
    fd: u32,
    pad: u32,
    key: u64,
    /// Or the next key.
    value: u64,
    flags: u64,
}

struct Map {
    fd: OwnedFd,
    info: MapInfo,
    name: String,
}

impl Map {
    /// `None` if it is gone.
    fn open(id: u32) -> Result<Option<Map>> {
        let Some(fd) = open(Kind::Map, id)? else {
            return Ok(None);
        };
        let mut info = MapInfo::default();
        info_of(&fd, &mut info).with_context(|| format!("map {id}"))?;
        let name = text(&info.name);
        Ok(Some(Map { fd, info, name }))
    }

    /// `None` where entries neither come nor go.
    fn count(&self) -> Result<Option<usize>> {
        const ARRAY: u32 = 2;
        /// Of all processors or each, and those whose least recent entries give way.
        const HASHES: [u32; 4] = [1, 5, 9, 10];
        if HASHES.contains(&self.info.kind) {
            return self.count_keys().map(Some);
        }
        // Sockets' state in slots: an array's entry holds the keys of several.
        if self.info.kind == ARRAY && self.name.ends_with("_BUCKETS") {
            return self.count_slots().map(Some);
        }
        Ok(None)
    }

    fn count_keys(&self) -> Result<usize> {
        const NEXT_KEY: i64 = 4;
        let mut key = vec![0_u8; self.info.key_size as usize];
        let mut next = key.clone();
        let mut count = 0;
        let mut attr = Element {
            fd: self.fd.as_raw_fd() as u32,
            value: next.as_mut_ptr() as u64,
            ..Element::default()
        };
        // Keys that come and go may be met twice, but not for ever.
        while count <= self.info.max_entries as usize && call(NEXT_KEY, &mut attr)?.is_some() {
            count += 1;
            key.copy_from_slice(&next);
            attr.key = key.as_ptr() as u64;
        }
        Ok(count)
    }

    fn count_slots(&self) -> Result<usize> {
        const LOOK_UP: i64 = 1;
        if self.info.value_size as usize != size_of::<Bucket>() {
            bail!("{} does not hold buckets", self.name);
        }
        let mut count = 0;
        for index in 0..self.info.max_entries {
            let mut bucket = Bucket::new_zeroed();
            let mut attr = Element {
                fd: self.fd.as_raw_fd() as u32,
                key: (&raw const index) as u64,
                value: bucket.as_mut_bytes().as_mut_ptr() as u64,
                ..Element::default()
            };
            call(LOOK_UP, &mut attr)?.context("an array without one of its entries")?;
            count += bucket.sk.iter().filter(|sk| **sk != 0).count();
        }
        Ok(count)
    }
}

/// What an object tells of itself, as far as this type goes.
fn info_of<T>(fd: &OwnedFd, info: &mut T) -> Result<()> {
    const INFO_BY_FD: i64 = 15;
    let mut attr = InfoByFd {
        fd: fd.as_raw_fd() as u32,
        len: size_of::<T>() as u32,
        info: (&raw mut *info) as u64,
    };
    call(INFO_BY_FD, &mut attr)?.context("the kernel tells nothing of it")?;
    Ok(())
}

fn text(name: &[u8]) -> String {
    let name = name.split(|byte| *byte == 0).next().unwrap_or(&[]);
    String::from_utf8_lossy(name).into_owned()
}

fn open(kind: Kind, id: u32) -> Result<Option<OwnedFd>> {
    let mut attr = ById {
        id,
        ..ById::default()
    };
    let fd = call(kind.way().open, &mut attr).with_context(|| format!("open {kind:?} {id}"))?;
    // SAFETY: a descriptor that the kernel has just given to us alone.
    Ok(fd.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// `None` where there is no such thing.
fn call<T>(command: i64, attr: &mut T) -> Result<Option<i32>> {
    // SAFETY: the attribute, and what it points at, live through the call; its size is its type's.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<T>()) };
    if result >= 0 {
        return Ok(Some(result as i32));
    }
    let error = std::io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENOENT) => Ok(None),
        _ => Err(error).with_context(|| format!("bpf({command})")),
    }
}
