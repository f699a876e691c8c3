//! Syslog datagrams: what proxies send to an address of this host, as HAProxy does by `log 127.0.0.1:5514 local0`.
//!
//! One datagram is one line. Whoever may send there may write lines, so it is a loopback address or a Unix
//! socket, as of any syslog daemon.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};

use super::{Counts, Parser, Template, Timed, Zone, wrap};
use crate::signal::Nanos;

/// What names one with `--log`.
const PREFIX: &str = "syslog:";
/// Taken in before other logs have their turn.
const TURN: usize = 4096;
/// No datagram is longer.
const LONGEST: usize = 64 * 1024;

/// An address that is listened at.
pub struct Datagrams {
    /// As it was named.
    path: PathBuf,
    socket: Socket,
    parser: Parser,
    quiet: bool,
}

enum Socket {
    Udp(UdpSocket),
    Unix(UnixDatagram, PathBuf),
}

/// The address, where it is one that is named.
pub fn address(named: &Path) -> Option<&str> {
    named.to_str()?.strip_prefix(PREFIX)
}

impl Datagrams {
    /// Listens at `syslog:IP:PORT` or `syslog:/PATH`.
    pub fn bind(named: &Path, templates: &Arc<[Template]>, zone: Zone) -> Result<Datagrams> {
        let address = address(named).context("no address of datagrams")?;
        let socket = socket(address).with_context(|| named.display().to_string())?;
        Ok(Datagrams {
            path: named.to_owned(),
            socket,
            parser: Parser::new(Arc::clone(templates), zone),
            quiet: false,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn counts(&self) -> Counts {
        self.parser.counts()
    }

    /// What it was recognised as.
    pub fn format(&self) -> Option<String> {
        self.parser.name()
    }

    /// That a line has not come proves nothing: datagrams are dropped where many come at once.
    pub fn tells(&self) -> Vec<&'static str> {
        let lines = self.parser.tells().into_iter();
        lines.filter(|name| !name.ends_with("_error_log")).collect()
    }

    /// Takes in what has come since the last look.
    pub fn look(&mut self, now: Nanos, out: &mut Vec<Timed>) -> io::Result<()> {
        let mut buffer = vec![0; LONGEST];
        for turn in 0..TURN {
            let received = match &self.socket {
                Socket::Udp(socket) => socket.recv(&mut buffer),
                Socket::Unix(socket, _) => socket.recv(&mut buffer),
            };
            match received {
                Ok(length) => self.take(&buffer[..length], now, out),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if turn == 0 && self.quiet {
                        self.parser.flush(out);
                    }
                    self.quiet = turn == 0;
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn take(&mut self, datagram: &[u8], now: Nanos, out: &mut Vec<Timed>) {
        // Some end it as a line or as a string.
        let text = String::from_utf8_lossy(datagram);
        let text = text.trim_end_matches(['\n', '\r', '\0']);
        let unwrapped = wrap::unwrap(text);
        let from = (Some(now), unwrapped.pid);
        self.parser
            .record(unwrapped.line.as_bytes(), from, true, out);
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        if let Socket::Unix(_, path) = &self.socket {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn socket(address: &str) -> Result<Socket> {
    if address.starts_with('/') {
        let path = PathBuf::from(address);
        remove_stale(&path)?;
        // A proxy writes there as a user of its own. SAFETY: it takes a number alone.
        let before = unsafe { libc::umask(0o111) };
        let socket = UnixDatagram::bind(&path);
        // SAFETY: as above.
        unsafe { libc::umask(before) };
        let socket = socket?;
        socket.set_nonblocking(true)?;
        return Ok(Socket::Unix(socket, path));
    }
    let address: SocketAddr = address.parse().ok().context(
        "neither an address with its port nor an absolute path: as syslog:127.0.0.1:5514 or \
         syslog:/run/why502/log.sock",
    )?;
    ensure!(
        address.ip().is_loopback(),
        "anybody could send lines there; only loopback addresses and paths are listened at"
    );
    let socket = UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    Ok(Socket::Udp(socket))
}

/// What one that was killed has left behind.
fn remove_stale(path: &Path) -> Result<()> {
    let Ok(metadata) = path.symlink_metadata() else {
        return Ok(());
    };
    ensure!(
        metadata.file_type().is_socket(),
        "it is there already, and no socket"
    );
    match UnixDatagram::unbound()?.connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
        Err(error) => return Err(error.into()),
        Ok(()) => bail!("somebody listens there already"),
    }
    Ok(std::fs::remove_file(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::Fact;

    const LINE: &str = r#"<134>Nov 22 19:40:45 haproxy[307]: 10.0.0.7:5000 [22/Nov/2026:19:40:45.100] front back/s1 0/0/-1/-1/3 503 217 - - SC-- 1/1/0/0/3 0/0 "GET /x HTTP/1.1""#;
    const NOW: Nanos = 1_795_376_445_200_000_000;

    fn bind(named: &str) -> Result<Datagrams> {
        let templates: Arc<[Template]> = Template::known().into();
        Datagrams::bind(Path::new(named), &templates, Zone::Fixed(0))
    }

    fn look(log: &mut Datagrams) -> Vec<(Option<u16>, Option<u32>)> {
        let mut out = Vec::new();
        log.look(NOW, &mut out).expect("a look");
        let told = |timed: Timed| match timed.fact {
            Fact::Logged(line) => Some((line.status, line.pid)),
            _ => None,
        };
        out.into_iter().filter_map(told).collect()
    }

    #[test]
    fn each_datagram_is_a_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log.sock");
        let named = format!("syslog:{}", path.display());
        let mut log = bind(&named).expect("it listens");
        let sender = UnixDatagram::unbound().expect("a socket");
        let send = |text: &str| sender.send_to(text.as_bytes(), &path).expect("sent");
        send(LINE);
        send(&format!("{LINE}\n"));
        // A second line within it would be of somebody's choice.
        send(&format!("{LINE}\n{LINE}"));
        assert_eq!(look(&mut log), [(Some(503), Some(307)); 2]);
        assert_eq!(log.format().as_deref(), Some("HAProxy log"));
        assert_eq!(log.counts().not_understood, 1);
        // Two cannot share it, and one that was killed is no hindrance.
        let error = bind(&named).err().expect("taken").to_string();
        assert!(error.contains("log.sock"), "{error}");
        drop(log);
        assert!(!path.exists());
        drop(UnixDatagram::bind(&path).expect("one that leaves its name behind"));
        assert!(path.exists());
        bind(&named).expect("it listens again");
        std::fs::write(&path, "a file").expect("a file");
        assert!(bind(&named).is_err());
        assert!(path.exists());
    }

    #[test]
    fn over_udp_from_this_host_alone() {
        let mut log = bind("syslog:127.0.0.1:0").expect("it listens");
        let Socket::Udp(socket) = &log.socket else {
            panic!("a path");
        };
        let to = socket.local_addr().expect("an address");
        let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        sender.send_to(LINE.as_bytes(), to).expect("sent");
        assert_eq!(look(&mut log), [(Some(503), Some(307))]);
        for refused in [
            "syslog:0.0.0.0:0",
            "syslog:10.0.0.1:514",
            "syslog:log",
            "syslog:",
        ] {
            assert!(bind(refused).is_err(), "{refused}");
        }
        assert!(address(Path::new("/var/log/haproxy.log")).is_none());
    }
}
