//! Who a process is, and what its threads are doing: read from /proc when asked.
//!
//! Everything read there was chosen by some process: names, arguments and paths are untrusted
//! bytes, files may vanish between two reads, and without permission a fact is unknown, by name.
//! The parsers in the modules below are pure; only the functions here and in `sample` touch /proc.

mod apache;
mod around;
mod cgroup;
mod gunicorn;
mod home;
mod nginx;
mod sample;
mod served;
mod sockets;
mod software;
mod stat;
mod syscalls;
mod uwsgi;
mod varnish;

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::settings::plain;
use crate::signal::{Address, Descriptors, Nanos, Process, Software};
pub use home::{Found, Homes, Wanted};
pub use nginx::LogFormat;
pub use sample::Sampler;
pub use served::{Owners, Served};

/// Longest prefix read of any file in /proc, and of any configuration file.
const MAX_BYTES: u64 = 256 * 1024;
/// Configuration that was written no later than this after a start is what was loaded then: times in /proc
/// are cut, and clocks are set.
const LOADED: Duration = Duration::from_secs(1);
/// Settings kept of one process, and bytes of each value.
const MAX_SETTINGS: usize = 128;
const MAX_VALUE: usize = 256;

/// Tells a process from others that had its number, and from itself before it ran another program: a
/// child that has yet to do so is still its parent's image, in its parent's control group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incarnation {
    /// Clock ticks since boot.
    pub birth: u64,
    /// Where the program's stack begins, at random each time; 0 where that may not be known.
    pub stack: u64,
}

impl Incarnation {
    fn of(stat: &stat::Stat) -> Incarnation {
        Incarnation {
            birth: stat.start_ticks,
            stack: stat.stack,
        }
    }
}

/// A process, and what could not be read of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    pub process: Process,
    pub incarnation: Incarnation,
    /// Its home may have a better name a moment later.
    pub unnamed: bool,
    /// The Kubernetes API may tell more of its pod later.
    pub untold: bool,
    /// Files of /proc that this program may not read, so that settings may be unknown.
    pub unreadable: Vec<&'static str>,
}

/// Where nginx's configuration is by default.
pub const NGINX_CONFIG: &str = nginx::DEFAULT;

/// The `log_format`s of an nginx configuration; `None` if it cannot be read.
pub fn nginx_log_formats(config: &Path) -> Option<Vec<LogFormat>> {
    text_file(config)?;
    let read = |path: &str| text_file(Path::new(path));
    let list = |folder: &str| names(Path::new(folder));
    Some(nginx::log_formats(config.to_str()?, &read, &list))
}

/// The nginx whose arguments say with which configuration this one was started: its master, or itself; `None`
/// for other programs.
pub fn nginx_master(pid: u32) -> Option<u32> {
    let stat = stat::parse(&file(pid, "stat").ok()?)?;
    let arguments = strings(&file(pid, "cmdline").ok()?);
    let software = software::recognise(&stat.name, executable(pid).as_deref(), &arguments);
    (software == Software::Nginx).then(|| match nginx::arguments(&arguments) {
        Some(_) => pid,
        None => stat.parent,
    })
}

/// The `log_format`s of the configuration that this master was started with, as far as it can be read.
pub fn nginx_formats_of(master: u32) -> Vec<LogFormat> {
    let read = |name: &str| text_file(&inside(master, name));
    let arguments = nginx::arguments(&strings(&file(master, "cmdline").unwrap_or_default()));
    let main = nginx::main_file(&arguments.unwrap_or_default(), &read);
    nginx::log_formats(&main, &read, &|folder| names_inside(master, folder))
}

/// Reads who this process is; `None` if it is gone, or dies meanwhile: what dies loses its memory
/// first, and reads as nobody in particular.
pub fn read(pid: u32, homes: &mut Homes) -> Option<Seen> {
    let stat = stat::parse(&file(pid, "stat").ok()?)?;
    let as_read = Incarnation::of(&stat);
    let mut unreadable = Vec::new();
    let mut want = |name: &'static str| {
        file(pid, name).unwrap_or_else(|_| {
            unreadable.push(name);
            Vec::new()
        })
    };
    let arguments = strings(&want("cmdline"));
    let environment = strings(&want("environ"));
    let executable = executable(pid);
    let netns = fs::read_link(path(pid, "ns/net"))
        .ok()
        .and_then(|l| stat::namespace(&l));
    if netns.is_none() {
        unreadable.push("ns/net");
    }
    let software = software::recognise(&stat.name, executable.as_deref(), &arguments);
    let sagemaker = environment.iter().any(|e| e.starts_with("SAGEMAKER_"))
        || path(pid, "root/opt/ml/model").is_dir();
    let mut settings = settings_of(pid, stat.parent, software, &arguments, &environment);
    settings.extend(sagemaker_settings(&environment));
    settings.truncate(MAX_SETTINGS);
    for (_, value) in &mut settings {
        cut(value, MAX_VALUE);
    }
    let found = homes.find(pid);
    let (unnamed, untold) = (found.may_be_named_later(), found.untold);
    let process = Process {
        pid,
        parent: stat.parent,
        name: stat.name,
        software,
        settings,
        started: since_monotonic_zero(stat.start_ticks),
        netns: netns.unwrap_or(0),
        sagemaker,
        home: found.home,
    };
    let same = incarnation(pid) == Some(as_read) && has_program(pid);
    same.then_some(Seen {
        process,
        incarnation: as_read,
        unnamed,
        untold,
        unreadable,
    })
}

/// `None` if it is gone or a zombie.
pub fn incarnation(pid: u32) -> Option<Incarnation> {
    let stat = stat::parse(&file(pid, "stat").ok()?)?;
    (!matches!(stat.state, 'Z' | 'X' | 'x')).then(|| Incarnation::of(&stat))
}

/// The processes that it or one of its threads has started; none where the kernel does not list them.
pub fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(path(pid, "task")).into_iter().flatten();
    let of_task = |task: std::io::Result<fs::DirEntry>| {
        Some(
            String::from_utf8_lossy(&bytes(&task.ok()?.path().join("children")).ok()?).into_owned(),
        )
    };
    tasks
        .filter_map(of_task)
        .flat_map(|line| {
            let pids = line
                .split_ascii_whitespace()
                .filter_map(|pid| pid.parse().ok());
            pids.collect::<Vec<u32>>()
        })
        .collect()
}

/// Whether it still has a program's memory, as far as this program may know.
fn has_program(pid: u32) -> bool {
    !fs::read_link(path(pid, "exe"))
        .is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

/// The process's name; `None` if it is gone.
pub fn name(pid: u32) -> Option<String> {
    Some(stat::parse(&file(pid, "stat").ok()?)?.name)
}

/// The process's parent; `None` if it is gone.
pub fn parent(pid: u32) -> Option<u32> {
    Some(stat::parse(&file(pid, "stat").ok()?)?.parent)
}

/// Living processes that are told, by argument or environment, to serve this address.
///
/// For a refused connect: a server that is there and does not listen yet is being started. Asks
/// every process, so ask rarely.
pub fn told_to_serve(address: &Address, limit: usize, homes: &mut Homes) -> Vec<Seen> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let own = std::process::id();
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != own)
        .filter_map(|pid| {
            let arguments = strings(&file(pid, "cmdline").ok()?);
            let executable = executable(pid)?;
            let name = software::naming(&executable, &arguments, address).or_else(|| {
                let environment = strings(&file(pid, "environ").unwrap_or_default());
                software::named_by_environment(&executable, &environment, address).then_some("PORT")
            })?;
            let mut seen = read(pid, homes)?;
            let process = &mut seen.process;
            // A proxy names the addresses of its upstreams, too.
            if software::is_proxy(process.software) {
                return None;
            }
            if !process
                .settings
                .iter()
                .any(|(known, _)| plain(known) == plain(name))
            {
                let bare = address.0.strip_prefix("unix:").unwrap_or(&address.0);
                process.settings.push((name.to_owned(), bare.to_owned()));
            }
            Some(seen)
        })
        .take(limit)
        .collect()
}

/// The name of the program's file.
fn executable(pid: u32) -> Option<String> {
    let link = fs::read_link(path(pid, "exe")).ok()?;
    let name = link.file_name()?.to_string_lossy();
    Some(name.trim_end_matches(" (deleted)").to_owned())
}

fn settings_of(
    pid: u32,
    parent: u32,
    software: Software,
    arguments: &[String],
    environment: &[String],
) -> Vec<(String, String)> {
    let configuration = |name: &str| text_file(&inside(pid, name));
    match software {
        Software::Gunicorn => gunicorn::settings(arguments, environment, configuration),
        Software::Uwsgi => uwsgi::settings(arguments, environment, configuration),
        Software::Nginx => {
            // A worker's own title says nothing: the master's has the arguments.
            let master = || strings(&file(parent, "cmdline").unwrap_or_default());
            let arguments = match nginx::arguments(arguments) {
                Some(own) => own,
                None => nginx::arguments(&master()).unwrap_or_default(),
            };
            nginx::settings(&arguments, &configuration, &|folder| {
                names_inside(pid, folder)
            })
        }
        Software::Varnish => {
            // It may have loaded another since; its child is started anew with what it has.
            let manager = name(parent).is_some_and(|parent| parent == "varnishd");
            let started = started(if manager { parent } else { pid });
            varnish::settings(arguments, |file| {
                let path = inside(pid, file);
                let changed = fs::metadata(&path).ok()?.modified().ok()?;
                let loaded = started.is_some_and(|started| changed <= started + LOADED);
                text_file(&path).filter(|_| loaded)
            })
        }
        Software::Apache => {
            let mapped = file(pid, "maps").ok();
            apache::settings(mapped.as_deref().map(String::from_utf8_lossy).as_deref())
        }
        _ => Vec::new(),
    }
}

/// When a process started.
fn started(pid: u32) -> Option<SystemTime> {
    let stat = stat::parse(&file(pid, "stat").ok()?)?;
    let age = clock(libc::CLOCK_MONOTONIC).saturating_sub(since_monotonic_zero(stat.start_ticks));
    SystemTime::now().checked_sub(Duration::from_nanos(age))
}

fn sagemaker_settings(environment: &[String]) -> Vec<(String, String)> {
    const NAMES: &[&str] = &[
        "SAGEMAKER_MODEL_SERVER_TIMEOUT",
        "SAGEMAKER_MODEL_SERVER_WORKERS",
        "SAGEMAKER_BIND_TO_PORT",
    ];
    let pairs = environment.iter().filter_map(|entry| entry.split_once('='));
    pairs
        .filter(|(name, _)| NAMES.contains(name))
        .map(|(n, v)| (n.into(), v.into()))
        .collect()
}

fn path(pid: u32, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{name}"))
}

/// A path as this process means it: from its root, or its working directory.
fn inside(pid: u32, name: &str) -> PathBuf {
    match name.strip_prefix('/') {
        Some(absolute) => path(pid, "root").join(absolute.trim_start_matches('/')),
        None => path(pid, "cwd").join(name),
    }
}

/// The names in a folder as this process means it.
fn names_inside(pid: u32, folder: &str) -> Vec<String> {
    names(&inside(pid, folder))
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.collect()
}

/// How many file descriptors a process has, and may have.
pub fn descriptors(pid: u32) -> Option<Descriptors> {
    let limits = file(pid, "limits").ok()?;
    let limit = open_files(&String::from_utf8_lossy(&limits))?;
    let open = fs::read_dir(path(pid, "fd")).ok()?.count() as u64;
    let at = clock(libc::CLOCK_MONOTONIC);
    Some(Descriptors { at, open, limit })
}

/// Of `/proc/PID/limits`, the soft limit.
fn open_files(limits: &str) -> Option<u64> {
    let of = |line: &str| {
        line.strip_prefix("Max open files")?
            .split_whitespace()
            .next()?
            .parse()
            .ok()
    };
    limits.lines().find_map(of)
}

/// Handshakes with a listener of this process's network namespace that have begun and not ended.
pub fn half_open(pid: u32, listener: SocketAddr) -> Option<u32> {
    // Those of 30,000 sockets.
    const MOST: u64 = 5 << 20;
    let count = |table| {
        let file = File::open(path(pid, table)).ok()?;
        Some(sockets::half_open(
            BufReader::new(file.take(MOST)),
            listener,
        ))
    };
    // Whoever listens for both has calls from IPv4 in the table of IPv6's.
    match (count("net/tcp"), count("net/tcp6")) {
        (None, None) => None,
        (four, six) => Some(four.unwrap_or(0) + six.unwrap_or(0)),
    }
}

fn file(pid: u32, name: &str) -> std::io::Result<Vec<u8>> {
    bytes(&path(pid, name))
}

fn bytes(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    File::open(path)?.take(MAX_BYTES).read_to_end(&mut out)?;
    Ok(out)
}

/// A configuration file, if it is a plain file: opening a pipe would wait for ever.
fn text_file(path: &Path) -> Option<String> {
    if !fs::metadata(path).ok()?.is_file() {
        return None;
    }
    Some(String::from_utf8_lossy(&bytes(path).ok()?).into_owned())
}

/// The NUL-terminated strings of `cmdline` and `environ`.
fn strings(bytes: &[u8]) -> Vec<String> {
    let trimmed = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    if trimmed.is_empty() {
        return Vec::new();
    }
    trimmed
        .split(|b| *b == 0)
        .map(|s| String::from_utf8_lossy(s).into_owned())
        .collect()
}

fn cut(text: &mut String, max: usize) {
    if text.len() > max {
        let end = (0..=max)
            .rev()
            .find(|i| text.is_char_boundary(*i))
            .unwrap_or(0);
        text.truncate(end);
    }
}

/// Start times are in ticks since boot, suspended time included; signals have the monotonic clock.
fn since_monotonic_zero(ticks: u64) -> Nanos {
    // SAFETY: sysconf has no preconditions.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    let per_second = u64::try_from(per_second)
        .ok()
        .filter(|n| *n > 0)
        .unwrap_or(100);
    let suspended = clock(libc::CLOCK_BOOTTIME).saturating_sub(clock(libc::CLOCK_MONOTONIC));
    let whole = (ticks / per_second).saturating_mul(1_000_000_000);
    let part = ticks % per_second * 1_000_000_000 / per_second;
    whole.saturating_add(part).saturating_sub(suspended)
}

fn clock(id: libc::clockid_t) -> Nanos {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid timespec to write to.
    unsafe { libc::clock_gettime(id, &mut time) };
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000
        + u64::try_from(time.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn reads_itself_and_survives_the_gone() {
        let seen = read(std::process::id(), &mut Homes::default()).expect("this process is there");
        assert_eq!(seen.process.pid, std::process::id());
        assert!(seen.process.started <= clock(libc::CLOCK_MONOTONIC));
        assert!(seen.process.netns > 0);
        assert_eq!(read(u32::MAX, &mut Homes::default()), None);
    }

    #[test]
    fn counts_what_a_process_has_open() {
        let before = descriptors(std::process::id()).expect("this process's own");
        let files: Vec<File> = (0..20)
            .map(|_| File::open("/dev/null").expect("a file"))
            .collect();
        let now = descriptors(std::process::id()).expect("this process's own");
        // Other tests open and close files at the same time.
        assert!(
            now.open >= files.len() as u64 && now.open <= now.limit,
            "{now:?}"
        );
        assert_eq!(now.limit, before.limit);
        assert_eq!(descriptors(u32::MAX), None);
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
            Max processes             95905                95905                processes \n\
            Max open files            1024                 524288               files     \n";
        assert_eq!(open_files(limits), Some(1024));
        assert_eq!(
            open_files("Max open files            unlimited            unlimited            files"),
            None
        );
    }

    #[test]
    fn a_zombie_is_nobody() {
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("cat");
        let pid = child.id();
        let mut homes = Homes::default();
        // Whoever started it goes on while it is still on its way to its program.
        let patience = Instant::now() + Duration::from_secs(10);
        while read(pid, &mut homes).is_none() {
            assert!(Instant::now() < patience, "it is not there");
            std::thread::yield_now();
        }
        assert!(incarnation(pid).is_some());
        assert!(children(std::process::id()).contains(&pid));
        drop(child.stdin.take());
        // SAFETY: waits for this child and leaves it where it is.
        let ended = unsafe {
            let mut info = std::mem::zeroed();
            libc::waitid(
                libc::P_PID,
                pid,
                &raw mut info,
                libc::WEXITED | libc::WNOWAIT,
            )
        };
        assert_eq!(ended, 0);
        assert_eq!((read(pid, &mut homes), incarnation(pid)), (None, None));
        assert_eq!(name(pid).as_deref(), Some("cat"), "it is still listed");
        child.wait().expect("its end");
    }

    #[test]
    fn who_runs_another_program_is_another_one() {
        use std::io::{BufRead as _, BufReader, Write as _};
        let mut child = std::process::Command::new("sh")
            .args(["-c", "echo; read line; exec cat"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("sh");
        let pid = child.id();
        let mut output = BufReader::new(child.stdout.take().expect("its output"));
        let mut line = String::new();
        output.read_line(&mut line).expect("a line");
        let before = incarnation(pid).expect("it runs");
        let mut input = child.stdin.take().expect("its input");
        input.write_all(b"go on\nback\n").expect("it reads");
        output.read_line(&mut line).expect("cat's line");
        assert_eq!(line, "\nback\n");
        let after = incarnation(pid).expect("it runs");
        assert_eq!(before.birth, after.birth);
        assert_ne!(before, after);
        drop(input);
        child.wait().expect("its end");
    }

    /// A process with this title.
    fn titled(title: &str) -> std::process::Child {
        use std::os::unix::process::CommandExt as _;
        let mut command = std::process::Command::new("cat");
        command.arg0(title).stdin(std::process::Stdio::piped());
        command.spawn().expect("cat")
    }

    #[test]
    fn formats_are_those_of_the_configuration_that_nginx_was_started_with() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("its folder")).expect("a folder");
            fs::write(path, text).expect("a file");
        };
        write(
            "conf/own.conf",
            "http { include sites/*; log_format own '$msec $status'; }",
        );
        write("conf/sites/a", "log_format site '$status $msec';");
        write(
            "conf/nginx.conf",
            "http { log_format other '$status $msec'; }",
        );
        let prefix = folder.path().display();
        let title = format!("nginx: master process nginx -p {prefix} -c conf/own.conf");
        let (mut master, mut worker) = (titled(&title), titled("nginx: worker process"));
        // Until then they are this process's images.
        let patience = Instant::now() + Duration::from_secs(10);
        while nginx_master(master.id()).is_none() || nginx_master(worker.id()).is_none() {
            assert!(Instant::now() < patience, "they are not there");
            std::thread::yield_now();
        }
        assert_eq!(nginx_master(master.id()), Some(master.id()));
        assert_eq!(nginx_master(worker.id()), Some(std::process::id()));
        assert_eq!(nginx_master(std::process::id()), None);
        let formats = nginx_formats_of(master.id());
        let names: Vec<_> = formats.iter().map(|f| f.name.as_str()).collect();
        assert_eq!(names, ["site", "own"]);
        for child in [&mut master, &mut worker] {
            drop(child.stdin.take());
            child.wait().expect("its end");
        }
    }

    #[test]
    fn arguments_are_any_bytes() {
        assert_eq!(strings(b""), Vec::<String>::new());
        assert_eq!(strings(b"a\0\0b\xff\n\0"), ["a", "", "b\u{fffd}\n"]);
        let mut text = "é".repeat(10);
        cut(&mut text, 5);
        assert_eq!(text, "éé");
    }
}
