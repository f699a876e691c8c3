//! The upstreams of the matrix, one file each: what they can be asked to do, and how.

mod go;
mod gthread;
mod gunicorn;
mod node;
mod node_tls;
mod php;
mod puma;
mod scripted;
mod tomcat;
mod uvicorn;
mod uwsgi;

use std::any::Any;
use std::time::Duration;

use anyhow::Result;

use super::proxies::Target;
use crate::cgroup;
use crate::netns::NetNs;
use crate::run::Run;
use crate::software::AppLog;

pub(in crate::matrix) const ALL: &[Upstream] = &[
    scripted::UPSTREAM,
    gunicorn::UPSTREAM,
    node::UPSTREAM,
    uwsgi::UPSTREAM,
    uvicorn::UPSTREAM,
    go::UPSTREAM,
    php::UPSTREAM,
    gthread::UPSTREAM,
    puma::UPSTREAM,
    tomcat::UPSTREAM,
    node_tls::UNTRUSTED,
    node_tls::OLD,
];

/// The one that is no software of anybody's.
pub(in crate::matrix) const SCRIPTED: &str = scripted::UPSTREAM.name;

pub(in crate::matrix) struct Upstream {
    pub(in crate::matrix) name: &'static str,
    /// What proxies have to speak to it.
    pub(in crate::matrix) speaks: Speaks,
    /// Why it cannot be run here.
    pub(in crate::matrix) lacking: fn() -> Option<String>,
    /// The query that has it do this to a request; `None` where it cannot.
    pub(in crate::matrix) ask: fn(Act) -> Option<String>,
    pub(in crate::matrix) start: fn(&Run, &NetNs, &Target, &Manner) -> Result<Server>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::matrix) enum Speaks {
    Http,
    /// About `SCRIPT`.
    FastCgi,
    /// In TLS, by one whose certificate has to be `TRUSTED`.
    Https,
}

/// What a server of scripts is asked to run, below the run's folder.
pub(in crate::matrix) const SCRIPT: &str = "app/app.php";

/// The one certificate that proxies trust, below the run's folder.
pub(in crate::matrix) const TRUSTED: &str = "trusted.pem";

/// What an upstream does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::matrix) enum Act {
    Answer,
    /// With this status.
    Status(u16),
    /// Reads it and does nothing for so long.
    Sleep(Duration),
    /// Reads its head, and nothing more for so long.
    Neglect(Duration),
    /// Answers it, and closes the connection when nothing came for so long after that.
    CloseIdle(Duration),
    /// Reads it and closes the connection, reset or after half a head, and lives on.
    Close,
    Reset,
    Partial,
    /// Reads it, and its worker dies of it.
    Exit,
    Crash,
    /// Reads it and takes ever more memory, on a host where a group of processes can be given little.
    Hunger,
    /// Reads it and says something that is no HTTP, too much of it, or something malformed.
    Banner,
    BigHead,
    BadHead,
    /// Answers before it has read the body, and closes; or says nothing and closes.
    Reject,
    Spurn,
    /// Is never asked: no proxy's handshake with it succeeds.
    Mistrusted,
    /// Has a worker for each request, of which no other's depends.
    Alone,
    /// Its supervisor kills a worker that is busy for longer than `Manner::limit`.
    Limit,
    /// Ends with the requests in its workers, at SIGQUIT.
    Quit,
}

/// How a server is to be run.
pub(in crate::matrix) struct Manner {
    /// Workers, where it has any.
    pub(in crate::matrix) workers: u32,
    /// Its supervisor kills a worker that is busy for so many seconds.
    pub(in crate::matrix) limit: Option<u32>,
}

/// A server under way.
pub(in crate::matrix) struct Server {
    pub(in crate::matrix) log: AppLog,
    /// The process that supervises its workers, or serves itself.
    pub(in crate::matrix) pid: u32,
    pub(in crate::matrix) running: Box<dyn Any + Send + Sync>,
}

/// The query by which every application takes ever more memory.
fn hunger() -> Option<String> {
    cgroup::unusable("memory")
        .is_none()
        .then(|| "do=memory".to_owned())
}

/// What servers are told whose time for idle connections is a setting, in whole seconds; a thousandth
/// later they close.
const KEPT: Duration = Duration::from_secs(1);

/// Whether they close a connection that is idle for so long.
fn is_kept(idle: Duration) -> bool {
    idle == KEPT + Duration::from_millis(1)
}
