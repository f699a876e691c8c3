//! The proxies of the matrix, one file each: how it is started with routes to upstreams.

mod apache;
mod caddy;
mod envoy;
mod go;
mod h2o;
mod haproxy;
mod haproxy_3_2;
mod nginx;
mod nginx_1_30;
mod pingora;
mod varnish;

use std::any::Any;
use std::fmt;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::upstreams::Speaks;
use crate::netns::NetNs;
use crate::process::Proc;
use crate::run::{Run, START};

/// All of them, in the order of the tables.
pub(in crate::matrix) const ALL: &[Proxy] = &[
    nginx::PROXY,
    haproxy::PROXY,
    envoy::PROXY,
    go::PROXY,
    apache::PROXY,
    caddy::PROXY,
    h2o::PROXY,
    nginx_1_30::PROXY,
    haproxy_3_2::PROXY,
    pingora::PROXY,
    varnish::PROXY,
];

pub(in crate::matrix) struct Proxy {
    pub(in crate::matrix) name: &'static str,
    /// The process name by which why502 finds it.
    pub(in crate::matrix) process: &'static str,
    /// Whether it calls Unix sockets.
    pub(in crate::matrix) unix: bool,
    /// What it can speak to upstreams.
    pub(in crate::matrix) speaks: &'static [Speaks],
    /// The most that it can be told to try again.
    pub(in crate::matrix) again: Again,
    /// Whether it is too long for it, too, when a request cannot be sent.
    pub(in crate::matrix) times_sending: bool,
    /// The logs that it writes, below the run's folder.
    pub(in crate::matrix) logs: &'static [&'static str],
    /// Logs whose lines name no request: of use beside another source alone.
    pub(in crate::matrix) nameless: &'static [&'static str],
    /// Why it cannot be run here.
    pub(in crate::matrix) lacking: fn() -> Option<String>,
    /// Serves `PORT` until what it returns is dropped.
    pub(in crate::matrix) start: fn(&Run, &NetNs, &Wanted) -> Result<Box<dyn Any + Send + Sync>>,
}

/// Where every proxy listens, in a namespace of its own.
pub(in crate::matrix) const PORT: u16 = 8080;

/// What a proxy is to do.
pub(in crate::matrix) struct Wanted {
    pub(in crate::matrix) routes: Vec<Route>,
    /// How long it waits for a connection, and for a response.
    pub(in crate::matrix) connect: Duration,
    pub(in crate::matrix) patience: Duration,
    pub(in crate::matrix) workers: u32,
    /// What it tries again, up to twice.
    pub(in crate::matrix) again: Again,
    /// How often it checks its upstreams, whatever comes of that.
    pub(in crate::matrix) checks: Option<Duration>,
}

/// What is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::matrix) enum Again {
    Never,
    /// Connects that failed.
    Connects,
    /// Whatever failed before there was a response.
    Anything,
}

/// Requests whose paths begin with `folder` go to one of `to` and `or`, and when they are tried again
/// to the other.
pub(in crate::matrix) struct Route {
    pub(in crate::matrix) folder: &'static str,
    pub(in crate::matrix) speaks: Speaks,
    pub(in crate::matrix) to: Target,
    pub(in crate::matrix) or: Option<Target>,
    /// What the proxy decides about them without asking anybody.
    pub(in crate::matrix) own: Option<Own>,
}

/// What a proxy does by itself with the requests of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::matrix) enum Own {
    /// Who fails is not asked any more, for longer than a pair takes.
    TakesOut,
    /// All but a few requests are refused: by a rate, or by how many are under way.
    Limits,
    /// It answers 503, as it is told to.
    Answers,
    /// It passes on one request at a time, and lets others wait so long.
    Queues(Duration),
    /// It calls `NAME` instead of an address, which it asks this host's name server for.
    LooksUp,
}

/// The host of an upstream that is to be looked up.
pub(in crate::matrix) const NAME: &str = "inner.lab.example";

impl Route {
    /// Where it calls, as it is told.
    fn address(&self) -> String {
        match (&self.to, self.own) {
            (Target::Tcp(to), Some(Own::LooksUp)) => format!("{NAME}:{}", to.port()),
            (to, _) => to.to_string(),
        }
    }

    fn servers(&self) -> impl Iterator<Item = &Target> {
        std::iter::once(&self.to).chain(&self.or)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::matrix) enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// As most software writes it: `IP:port` or `unix:/path`.
impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Tcp(address) => address.fmt(out),
            Target::Unix(path) => write!(out, "unix:{}", path.display()),
        }
    }
}

fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], PORT))
}

fn program(name: &str) -> Option<String> {
    let missing = crate::process::program(name).is_none();
    missing.then(|| format!("{name} is not installed"))
}

/// Starts it and waits until it takes connections.
fn serve(run: &Run, ns: &NetNs, name: &str, command: Command) -> Result<Proc> {
    let mut proc = Proc::spawn(name, command, &run.folder.join(format!("{name}.log")))?;
    proc.wait_ready("the proxy's port", START, || {
        ns.enter(|| Ok(TcpStream::connect(address())?)).is_ok()
    })?;
    Ok(proc)
}
