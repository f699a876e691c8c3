//! Uprobes on OpenSSL's `SSL_write` and `SSL_write_ex` in the libraries that proxies have loaded, where the
//! status of responses in TLS is asked for.

use std::collections::HashSet;
use std::collections::hash_map::{Entry, HashMap};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};

use anyhow::{Context as _, Result, ensure};
use aya::Ebpf;
use aya::programs::UProbe;
use aya::programs::uprobe::{UProbeAttachLocation, UProbeLinkId, UProbeScope};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

use super::load::{self, SSL_WRITE};
use crate::cli::{detail, warning};
use crate::sinks::visible;

/// Both have the buffer and its length in the same places. The second came with 1.1.1.
const FUNCTIONS: [&str; 2] = ["SSL_write", "SSL_write_ex"];

/// How often a process is looked at, once a second: Apache loads its modules after it was started.
const LOOKS: u8 = 10;
/// OpenSSL's is below 1 MB, with symbols for debuggers below 10.
const MAX_SIZE: u64 = 64 << 20;

/// Device and inode.
type Id = (u64, u64);

/// A library as `/proc/PID/maps` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mapped {
    /// Where it is mapped, as `/proc/PID/map_files` names it.
    range: String,
    path: String,
}

/// The libraries that are probed, and the processes that have them.
#[derive(Default)]
pub(super) struct Openssl {
    libraries: HashMap<Id, Vec<UProbeLinkId>>,
    processes: HashMap<u32, Looked>,
    /// What was warned of, of each program once.
    warned: HashSet<String>,
}

/// What became of a process.
#[derive(Default)]
struct Looked {
    looks: u8,
    library: Option<Id>,
}

impl Openssl {
    /// Looks for libraries in these processes that have none yet, and probes those that are not; libraries
    /// that none of them has any more are left alone again.
    pub(super) fn probe(&mut self, ebpf: &mut Ebpf, proxies: &HashSet<u32>) {
        self.processes.retain(|pid, _| proxies.contains(pid));
        for &pid in proxies {
            let looked = self.processes.entry(pid).or_default();
            if looked.library.is_some() || looked.looks >= LOOKS {
                continue;
            }
            looked.looks += 1;
            let last = looked.looks == LOOKS;
            match look(ebpf, &mut self.libraries, pid) {
                Ok(Some((library, path))) => {
                    looked.library = Some(library);
                    let (name, path) = (name(pid), visible(&path));
                    detail!("status in TLS: read of {name} ({pid}) where it calls {path}");
                }
                Ok(None) if last => self.warn(pid, "it has loaded no libssl.so"),
                Ok(None) => {}
                // It may have ended, or another process of the program may do.
                Err(why) if last => self.warn(pid, &load::describe(&why)),
                Err(_) => {}
            }
        }
        let used: HashSet<Id> = self.processes.values().filter_map(|p| p.library).collect();
        self.libraries.retain(|id, links| {
            let keep = used.contains(id);
            if !keep && let Ok(program) = program(ebpf) {
                for link in links.drain(..) {
                    let _ = program.detach(link);
                }
            }
            keep
        });
    }

    fn warn(&mut self, pid: u32, why: &str) {
        let line = format!("the status in TLS of {} is not read: {why}", name(pid));
        if self.warned.insert(line.clone()) {
            warning!("{line}");
        }
    }
}

fn name(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    match name.trim_end() {
        "" => pid.to_string(),
        name => visible(name),
    }
}

/// The library of a process, by its own name for it; an error where that may not be seen.
pub fn loaded_by(pid: u32) -> io::Result<Option<String>> {
    Ok(mapped(&maps(pid)?).map(|library| library.path))
}

/// Names of files may be any bytes.
fn maps(pid: u32) -> io::Result<String> {
    let bytes = fs::read(format!("/proc/{pid}/maps"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Has the library of a process probed.
fn look(
    ebpf: &mut Ebpf,
    libraries: &mut HashMap<Id, Vec<UProbeLinkId>>,
    pid: u32,
) -> Result<Option<(Id, String)>> {
    let Some(Mapped { range, path }) = mapped(&maps(pid)?) else {
        return Ok(None);
    };
    // What is mapped, whatever is at its path by now, or is there for this process.
    let mut file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(format!("/proc/{pid}/map_files/{range}"))
        .with_context(|| format!("open {path} as it has been loaded"))?;
    let metadata = file.metadata()?;
    let id = (metadata.dev(), metadata.ino());
    if let Entry::Vacant(new) = libraries.entry(id) {
        ensure!(
            metadata.is_file() && metadata.len() <= MAX_SIZE,
            "{path} is no library"
        );
        let links = attach(ebpf, &mut file).with_context(|| format!("probe {path}"))?;
        new.insert(links);
    }
    Ok(Some((id, path)))
}

/// The OpenSSL that these maps of a process name: `libssl.so.3`, `libssl.so.1.1`.
fn mapped(maps: &str) -> Option<Mapped> {
    maps.lines().find_map(|line| {
        let range = line.split(' ').next()?;
        // What stands behind the inode, blanks in names included.
        let path = &line[line.find('/')?..];
        let (_, name) = path.rsplit_once('/')?;
        name.starts_with("libssl.so").then(|| Mapped {
            range: range.to_owned(),
            path: path.to_owned(),
        })
    })
}

fn attach(ebpf: &mut Ebpf, file: &mut File) -> Result<Vec<UProbeLinkId>> {
    let mut bytes = Vec::new();
    file.take(MAX_SIZE).read_to_end(&mut bytes)?;
    let places = places(&bytes)?;
    let program = program(ebpf)?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let attach = |place| {
        let place = UProbeAttachLocation::AbsoluteOffset(place);
        program.attach(place, &path, UProbeScope::AllProcesses)
    };
    Ok(places.into_iter().map(attach).collect::<Result<_, _>>()?)
}

fn program(ebpf: &mut Ebpf) -> Result<&mut UProbe> {
    let program = ebpf.program_mut(SSL_WRITE).context("no such program")?;
    Ok(program.try_into()?)
}

/// Where in the file the functions begin that it has.
fn places(library: &[u8]) -> Result<Vec<u64>> {
    let library = object::File::parse(library)?;
    let place = |name: &&str| {
        let mut symbols = library.dynamic_symbols();
        let symbol = symbols.find(|one| one.name() == Ok(*name) && one.is_definition())?;
        let section = library.section_by_index(symbol.section_index()?).ok()?;
        let within = symbol.address().checked_sub(section.address())?;
        Some(section.file_range()?.0 + within)
    };
    let places: Vec<u64> = FUNCTIONS.iter().filter_map(place).collect();
    ensure!(!places.is_empty(), "it has no SSL_write");
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
55d0c8a00000-55d0c8a2a000 r--p 00000000 fd:00 1311 /usr/sbin/nginx
7f2a4d000000-7f2a4d010000 rw-p 00000000 00:00 0
7f2a4da00000-7f2a4da1e000 r--p 00000000 fd:00 93412                      /usr/lib/x86_64-linux-gnu/libssl.so.3
7f2a4da1e000-7f2a4da7b000 r-xp 0001e000 fd:00 93412                      /usr/lib/x86_64-linux-gnu/libssl.so.3
7ffd1d5f0000-7ffd1d611000 rw-p 00000000 00:00 0                          [stack]
";

    #[test]
    fn the_library_is_found_among_what_is_mapped() {
        let found = mapped(MAPS).unwrap();
        assert_eq!(found.path, "/usr/lib/x86_64-linux-gnu/libssl.so.3");
        assert_eq!(found.range, "7f2a4da00000-7f2a4da1e000");
        assert_eq!(mapped(&MAPS.replace("libssl", "libtls")), None);
        assert_eq!(mapped("\n  \nnonsense /x\n"), None);
    }

    #[test]
    fn one_that_was_replaced_and_one_in_a_folder_with_blanks_are_found() {
        let deleted = "7f00-7f01 r--p 0 fd:00 7 /opt/my tls/libssl.so.1.1 (deleted)\n";
        let found = mapped(deleted).unwrap();
        assert_eq!(found.path, "/opt/my tls/libssl.so.1.1 (deleted)");
    }

    #[test]
    fn what_is_no_library_of_openssl_is_refused() {
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        for bytes in [b"".as_slice(), b"\x7fELF", &own[..4096], &own] {
            assert!(places(bytes).is_err());
        }
    }
}
