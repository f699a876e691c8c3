//! The programs, maps and links in the kernel that a process holds, and which of them are still there.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{FromRawFd, OwnedFd};

use anyhow::{Context, Result};

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

impl Kind {
    /// The word in a descriptor's `fdinfo`, and the command that opens one by its id.
    const ALL: [(Kind, &'static str, i64); 3] = [
        (Kind::Program, "prog_id:", 13),
        (Kind::Map, "map_id:", 14),
        (Kind::Link, "link_id:", 30),
    ];
}

pub type Objects = BTreeSet<(Kind, u32)>;

/// What a process holds open.
pub fn held_by(pid: u32) -> Result<Objects> {
    let folder = format!("/proc/{pid}/fdinfo");
    let mut objects = Objects::new();
    for file in fs::read_dir(&folder).with_context(|| format!("read {folder}"))? {
        // A descriptor may have been closed meanwhile.
        let text = fs::read_to_string(file?.path()).unwrap_or_default();
        // A link's says which program it runs, a program's and a map's only who they are.
        let own = Kind::ALL.into_iter().rev().find_map(|(kind, word, _)| {
            let id = text.lines().find_map(|line| line.strip_prefix(word))?;
            Some((kind, id.trim().parse().ok()?))
        });
        objects.extend(own);
    }
    Ok(objects)
}

/// Those of them that the kernel still has, whoever holds them.
pub fn alive(objects: &Objects) -> Result<Objects> {
    let mut left = Objects::new();
    for (kind, id) in objects {
        if exists(*kind, *id)? {
            left.insert((*kind, *id));
        }
    }
    Ok(left)
}

fn exists(kind: Kind, id: u32) -> Result<bool> {
    let (.., command) = Kind::ALL
        .into_iter()
        .find(|(of, ..)| *of == kind)
        .context("a kind without a command")?;
    let attr = ById {
        id,
        ..ById::default()
    };
    // SAFETY: the attribute lives through the call and its size is its type's.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const attr, size_of::<ById>()) };
    if fd >= 0 {
        // SAFETY: a descriptor that the kernel has just given to us alone.
        drop(unsafe { OwnedFd::from_raw_fd(fd as i32) });
        return Ok(true);
    }
    let error = std::io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENOENT) => Ok(false),
        _ => Err(error).with_context(|| format!("look for {kind:?} {id}")),
    }
}
