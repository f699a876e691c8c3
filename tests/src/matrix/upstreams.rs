//! The upstreams of the matrix, one file each: what they can be asked to do, and how.

mod gunicorn;
mod node;
mod scripted;
mod uwsgi;

use std::any::Any;
use std::time::Duration;

use anyhow::Result;

use super::proxies::Target;
use crate::netns::NetNs;
use crate::run::Run;
use crate::software::AppLog;

pub const ALL: &[Upstream] = &[
    scripted::UPSTREAM,
    gunicorn::UPSTREAM,
    node::UPSTREAM,
    uwsgi::UPSTREAM,
];

pub struct Upstream {
    pub name: &'static str,
    /// Why it cannot be run here.
    pub lacking: fn() -> Option<String>,
    /// The query that has it do this to a request; `None` where it cannot.
    pub ask: fn(Act) -> Option<String>,
    pub start: fn(&Run, &NetNs, &Target, &Manner) -> Result<Server>,
}

/// What an upstream does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Answer,
    /// With this status.
    Status(u16),
    /// Reads it and does nothing for so long.
    Sleep(Duration),
    /// Answers it, and closes the connection when nothing came for so long after that.
    CloseIdle(Duration),
    /// Reads it and closes the connection, reset or after half a head, and lives on.
    Close,
    Reset,
    Partial,
    /// Reads it, and its worker dies of it.
    Exit,
    Crash,
    /// Reads it and says something that is no HTTP, too much of it, or something malformed.
    Banner,
    BigHead,
    BadHead,
    /// Answers before it has read the body, and closes.
    Reject,
}

/// How a server is to be run.
pub struct Manner {
    /// Workers, where it has any.
    pub workers: u32,
    /// Its supervisor kills a worker that is busy for so many seconds.
    pub limit: Option<u32>,
}

/// A server under way.
pub struct Server {
    pub log: AppLog,
    /// The process that supervises its workers, or serves itself.
    pub pid: u32,
    pub running: Box<dyn Any + Send + Sync>,
}
