//! Servers that take no more requests than the one they are busy with, of a client of their own, for
//! longer than a pair takes: others wait in the queue or, where they are accepted, unread.

use std::any::Any;
use std::fs::File;
use std::io::Write;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::Result;

use super::Stage;
use crate::expect::Expect;
use crate::matrix::proxies::Target;
use crate::matrix::upstreams;
use crate::netns::NetNs;
use crate::process;
use crate::run::{Run, START};
use crate::software::{AppLog, Gunicorn, Scripted, Uwsgi};
use crate::upstream::Mode;
use crate::wait;

/// Each with room for so many connections in its queue, and one more.
#[derive(Clone, Copy)]
pub(super) struct Server {
    name: &'static str,
    program: Option<&'static str>,
    start: fn(&Run, &NetNs, &Target, u32) -> Result<Begun>,
}

struct Begun {
    /// Of one that has to be kept busy.
    log: Option<AppLog>,
    running: Box<dyn Any + Send + Sync>,
}

/// They accept nothing.
pub(super) const CLOSED: &[Server] = &[
    Server {
        name: "gunicorn",
        program: Some("gunicorn"),
        start: |run, ns, to, backlog| gunicorn(run, ns, to, backlog, &[]),
    },
    Server {
        name: "uwsgi",
        program: Some("uwsgi-core"),
        start: uwsgi,
    },
    Server {
        name: upstreams::SCRIPTED,
        program: None,
        start: |run, ns, to, backlog| scripted(run, ns, to, backlog, Mode::NeverAccept),
    },
];

/// They accept, and read nothing.
pub(super) const DEAF: &[Server] = &[
    Server {
        name: "gthread",
        program: Some("gunicorn"),
        start: |run, ns, to, backlog| {
            let one = ["--worker-class", "gthread", "--threads", "1"];
            gunicorn(run, ns, to, backlog, &one)
        },
    },
    Server {
        name: upstreams::SCRIPTED,
        program: None,
        start: |run, ns, to, backlog| scripted(run, ns, to, backlog, Mode::NeverRead),
    },
];

fn gunicorn(run: &Run, ns: &NetNs, to: &Target, backlog: u32, more: &[&str]) -> Result<Begun> {
    let backlog = backlog.to_string();
    let own = ["--timeout", "600", "--backlog", backlog.as_str()];
    let options = [&own[..], more].concat();
    let gunicorn = Gunicorn::start(run, ns, "gunicorn", &to.to_string(), 1, &options)?;
    Ok(Begun {
        log: Some(gunicorn.log.clone()),
        running: Box::new(gunicorn),
    })
}

fn uwsgi(run: &Run, ns: &NetNs, to: &Target, backlog: u32) -> Result<Begun> {
    let unused = run.folder.join("uwsgi.sock").display().to_string();
    let (address, backlog) = (to.to_string(), backlog.to_string());
    let address = address.trim_start_matches("unix:");
    let options = ["--http-socket", address, "--listen", backlog.as_str()];
    let uwsgi = Uwsgi::start(run, ns, "uwsgi", &unused, 1, &options)?;
    Ok(Begun {
        log: Some(uwsgi.log.clone()),
        running: Box::new(uwsgi),
    })
}

fn scripted(run: &Run, ns: &NetNs, to: &Target, backlog: u32, mode: Mode) -> Result<Begun> {
    let server = Scripted::start(run, ns, "silent", &to.to_string(), mode, backlog)?;
    Ok(Begun {
        log: None,
        running: Box::new(server),
    })
}

/// Has one of `servers` at `to`, mostly real software, that takes nothing any more.
pub(super) fn listen(
    stage: &mut Stage,
    to: &Target,
    backlog: u32,
    servers: &[Server],
) -> Result<()> {
    let real = |server: &&Server| {
        server
            .program
            .is_some_and(|it| process::program(it).is_some())
    };
    let real: Vec<Server> = servers.iter().filter(real).copied().collect();
    let scripted = |server: &&Server| server.program.is_none();
    let server = match real.is_empty() || stage.draw.percent(25) {
        true => *(servers.iter().find(scripted)).expect("what needs no program"),
        false => stage.draw.one_of(&real),
    };
    let (ns, _) = stage.there();
    let begun = (server.start)(&stage.run, ns, to, backlog)?;
    stage.server = Some(server.name);
    if let Some(log) = begun.log {
        occupy(stage, to, &log)?;
    }
    stage.run.hold(begun.running);
    Ok(())
}

fn occupy(stage: &mut Stage, to: &Target, log: &AppLog) -> Result<()> {
    let client = occupied(stage, to, log)?;
    stage.run.hold(client);
    Ok(())
}

/// Keeps its only worker busy, until the client is dropped.
pub(super) fn occupied(stage: &Stage, to: &Target, log: &AppLog) -> Result<File> {
    let path = stage.run.path("/busy");
    stage.run.ledger.expect(&path, Expect::apart("busy", &[]));
    let mut client = call(stage, to)?;
    write!(
        client,
        "GET {path}?do=sleep&ms=60000 HTTP/1.1\r\nHost: lab\r\n\r\n"
    )?;
    wait::until("the busy worker", START, || log.has("read", &path))?;
    Ok(client)
}

/// Fills the queue, by clients that do not say all: silent ones would not be in that of uWSGI, which has
/// the kernel wait for a word (`TCP_DEFER_ACCEPT`).
pub(super) fn fill(stage: &mut Stage, to: &Target, backlog: u32) -> Result<()> {
    for _ in 0..=backlog {
        let mut client = call(stage, to)?;
        client.write_all(b"GET ")?;
        stage.run.hold(client);
    }
    Ok(())
}

/// A client's connection.
fn call(stage: &Stage, to: &Target) -> Result<File> {
    let connection: OwnedFd = match to {
        Target::Tcp(address) => {
            let soon = Duration::from_secs(1);
            let connect = || Ok(TcpStream::connect_timeout(address, soon)?);
            stage.near.enter(connect)?.into()
        }
        Target::Unix(path) => UnixStream::connect(path)?.into(),
    };
    Ok(File::from(connection))
}
