//! The scripted upstream: a small server that misbehaves exactly as told, as a process of its own.

mod asked;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::wait::monotonic_ns;

#[derive(clap::Args)]
pub struct Args {
    /// `IP:port`, `unix:/path` or `unix:@abstract`; a path is any bytes.
    #[arg(long)]
    listen: OsString,
    #[arg(long)]
    mode: Mode,
    /// As given to `listen()`; the queue holds one more.
    #[arg(long, default_value_t = 128)]
    backlog: i32,
    /// One JSON line per thing done.
    #[arg(long)]
    log: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Answers every request with 200.
    Answer,
    /// Listens, never accepts.
    NeverAccept,
    /// Accepts, never reads.
    NeverRead,
    /// Reads, never answers.
    NeverAnswer,
    /// Answers the first request of a connection, closes with the second unread.
    CloseUnread,
    /// Answers the first request of a connection, reads the second and resets (`SO_LINGER` 0).
    AbortRead,
    /// Asks for the body with `100 Continue`, and closes with it unread.
    ContinueUnread,
    /// Asks for the body with `100 Continue`, and does nothing more.
    ContinueSilent,
    /// Answers; on SIGUSR1 closes every connection it has.
    CloseOnSignal,
    /// Answers; on SIGUSR1 ends its sending side, then reads on and answers no more.
    HalfCloseOnSignal,
    /// Answers; on SIGUSR1 resets every connection it has.
    ResetOnSignal,
    /// Does what the query of each request asks.
    Asked,
}

impl Mode {
    pub fn name(self) -> String {
        use clap::ValueEnum;
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn fd(&self) -> i32 {
        match self {
            Stream::Tcp(stream) => stream.as_raw_fd(),
            Stream::Unix(stream) => stream.as_raw_fd(),
        }
    }

    fn shutdown(&self, how: Shutdown) {
        let _ = match self {
            Stream::Tcp(stream) => stream.shutdown(how),
            Stream::Unix(stream) => stream.shutdown(how),
        };
    }

    fn read(&self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Stream::Tcp(stream) => (&mut &*stream).read(buffer),
            Stream::Unix(stream) => (&mut &*stream).read(buffer),
        }
    }

    fn write_all(&self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Stream::Tcp(stream) => (&mut &*stream).write_all(bytes),
            Stream::Unix(stream) => (&mut &*stream).write_all(bytes),
        }
    }

    /// Waits until there is something to read, and reads nothing.
    fn wait_readable(&self) {
        self.poll(-1);
    }

    /// The same for a limited time: whether there was something.
    fn readable_within(&self, limit: Duration) -> bool {
        self.poll(i32::try_from(limit.as_millis()).unwrap_or(i32::MAX)) > 0
    }

    fn poll(&self, milliseconds: i32) -> i32 {
        let mut poll = libc::pollfd {
            fd: self.fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one pollfd that lives through the call.
        unsafe { libc::poll(&mut poll, 1, milliseconds) }
    }

    /// The next close sends a reset.
    fn linger_zero(&self) {
        let linger = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        // SAFETY: the option's value lives through the call and its size is its type's.
        unsafe {
            libc::setsockopt(
                self.fd(),
                libc::SOL_SOCKET,
                libc::SO_LINGER,
                (&raw const linger).cast(),
                size_of::<libc::linger>() as libc::socklen_t,
            );
        }
    }
}

/// Bytes of an abstract name, the first NUL not counted.
const ABSTRACT_NAME: usize = 107;

/// The connections that are open, each owned by the thread that serves it.
type Open = Arc<Mutex<Vec<Weak<Stream>>>>;

#[derive(Clone)]
struct Log(Arc<Mutex<File>>);

impl Log {
    fn say(&self, what: &str, path: Option<&str>) {
        let line =
            json!({"what": what, "path": path, "t": monotonic_ns(), "pid": std::process::id()});
        let _ = writeln!(self.0.lock().expect("log"), "{line}");
    }
}

/// Serves until killed.
pub fn serve(args: &Args) -> Result<()> {
    let signals = block_usr1();
    let log = Log(Arc::new(Mutex::new(
        File::options().create(true).append(true).open(&args.log)?,
    )));
    let listener = listen(&args.listen, args.backlog)?;
    let open = Open::default();
    {
        let (open, log, mode) = (open.clone(), log.clone(), args.mode);
        thread::spawn(move || act_on_signals(signals, &open, &log, mode));
    }
    log.say("listening", None);
    if args.mode == Mode::NeverAccept {
        loop {
            thread::park();
        }
    }
    loop {
        let stream = match &listener {
            Listener::Tcp(listener) => Stream::Tcp(listener.accept()?.0),
            Listener::Unix(listener) => Stream::Unix(listener.accept()?.0),
        };
        log.say("accepted", None);
        let (log, mode) = (log.clone(), args.mode);
        let stream = Arc::new(stream);
        open.lock().expect("open").push(Arc::downgrade(&stream));
        thread::spawn(move || converse(&stream, &log, mode));
    }
}

fn listen(address: &OsStr, backlog: i32) -> Result<Listener> {
    let what = || format!("bind {}", address.display());
    let listener = match address.as_bytes().strip_prefix(b"unix:") {
        Some([b'@', name @ ..]) => {
            // HAProxy means a name that fills the address.
            let mut name = name.to_vec();
            name.resize(ABSTRACT_NAME, 0);
            let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
            Listener::Unix(UnixListener::bind_addr(&address).with_context(what)?)
        }
        Some(path) => {
            let path = OsStr::from_bytes(path);
            let listener = UnixListener::bind(path).with_context(what)?;
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
            Listener::Unix(listener)
        }
        None => {
            let text = address.to_str().with_context(what)?;
            let address: SocketAddr = text.parse()?;
            Listener::Tcp(TcpListener::bind(address).with_context(what)?)
        }
    };
    let fd = match &listener {
        Listener::Tcp(listener) => listener.as_raw_fd(),
        Listener::Unix(listener) => listener.as_raw_fd(),
    };
    // SAFETY: a second listen() on a listening socket only changes its backlog.
    unsafe { libc::listen(fd, backlog) };
    Ok(listener)
}

fn block_usr1() -> libc::sigset_t {
    // SAFETY: plain calls on a signal set of this frame, before any thread is made.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGUSR1);
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        set
    }
}

fn act_on_signals(set: libc::sigset_t, open: &Open, log: &Log, mode: Mode) {
    loop {
        let mut signal = 0;
        // SAFETY: waits for a signal blocked in all threads.
        unsafe { libc::sigwait(&set, &mut signal) };
        for stream in open.lock().expect("open").drain(..) {
            let Some(stream) = stream.upgrade() else {
                continue;
            };
            match mode {
                Mode::HalfCloseOnSignal => stream.shutdown(Shutdown::Write),
                Mode::ResetOnSignal => {
                    stream.linger_zero();
                    stream.shutdown(Shutdown::Read);
                }
                // Sends nothing, but ends the thread that reads; with it goes the socket.
                _ => stream.shutdown(Shutdown::Read),
            }
            log.say("closed", None);
        }
    }
}

fn converse(stream: &Stream, log: &Log, mode: Mode) {
    if mode == Mode::Asked {
        return asked::converse(stream, log);
    }
    let mut served = 0_u32;
    loop {
        if mode == Mode::NeverRead {
            loop {
                thread::park();
            }
        }
        if mode == Mode::CloseUnread && served > 0 {
            stream.wait_readable();
            log.say("closed_unread", None);
            return;
        }
        let continues = matches!(mode, Mode::ContinueUnread | Mode::ContinueSilent);
        let Some(path) = read_request(stream, !continues) else {
            return;
        };
        log.say("read", Some(&path));
        if mode == Mode::NeverAnswer {
            continue;
        }
        if mode == Mode::AbortRead && served > 0 {
            stream.linger_zero();
            return;
        }
        if continues {
            if stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").is_err() {
                return;
            }
            stream.wait_readable();
            if mode == Mode::ContinueUnread {
                log.say("closed_unread", None);
                return;
            }
            loop {
                thread::park();
            }
        }
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n";
        // After a half close nothing can be sent, but reading goes on.
        if stream.write_all(answer).is_err() && mode != Mode::HalfCloseOnSignal {
            return;
        }
        served += 1;
    }
}

/// The path of the next request (head read, and the declared body if wanted), `None` at the end.
fn read_request(stream: &Stream, with_body: bool) -> Option<String> {
    let mut bytes = Vec::new();
    let mut buffer = [0_u8; 4096];
    loop {
        let size = stream.read(&mut buffer).ok().filter(|size| *size > 0)?;
        bytes.extend_from_slice(&buffer[..size]);
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length: usize = head
            .to_ascii_lowercase()
            .lines()
            .find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok())
            .unwrap_or(0);
        if body.len() >= length || !with_body {
            let target = head.split(' ').nth(1)?;
            return Some(target.split('?').next()?.to_owned());
        }
    }
}
