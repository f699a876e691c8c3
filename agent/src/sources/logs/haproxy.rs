//! HAProxy's HTTP log (`option httplog`): one line an exchange, with its termination state. Pure.
//!
//! HAProxy writes quotes, braces and control characters of requests and captured headers as `#22`,
//! so the request is what stands between the line's last two quotes.

use std::collections::HashMap;

use super::text::{client, request, status, unescape_hash, upstream};
use super::time::{Zone, common_civil};
use super::{Parsed, Timed};
use crate::signal::{LogLine, Logged, LoggedTry, Opening, Said, Software};

const MILLISECOND: u64 = 1_000_000;
const EAGAIN: i32 = 11;
/// Backends remembered for a full Unix queue.
const BACKENDS: usize = 1024;

/// What lines before say of later ones.
#[derive(Debug, Default)]
pub(super) struct Haproxy {
    /// Backends whose Unix socket had a full queue, by connects that failed for it and are untold.
    full: HashMap<String, u32>,
}

impl Haproxy {
    pub(super) fn parse(&mut self, line: &str, pid: Option<u32>, zone: Zone) -> Parsed {
        if let Some(rest) = line.strip_prefix("Connect() failed for backend ") {
            let told = rest.split_once(": can't connect to destination unix socket, check backlog");
            if let Some((backend, _)) = told
                && self.full.len() < BACKENDS
            {
                *self.full.entry(backend.to_owned()).or_default() += 1;
            }
            return Parsed::Nothing;
        }
        self.exchange(line, pid, zone)
            .unwrap_or(Parsed::NotUnderstood)
    }

    fn exchange(&mut self, line: &str, pid: Option<u32>, zone: Zone) -> Option<Parsed> {
        let (from, rest) = line.split_once(" [")?;
        let from = client(from)?;
        let (accepted, rest) = rest.split_once("] ")?;
        let mut words = rest.splitn(10, ' ');
        let mut word = || words.next();
        let (frontend, server, times) = (word()?, word()?, word()?);
        let (code, _bytes, _cookie, _set) = (word()?, word()?, word()?, word()?);
        let (state, connections, rest) = (word()?, word()?, word()?);
        let (backend, server) = server.split_once('/')?;
        let times: Vec<i64> = times
            .split('/')
            .map(|t| t.trim_start_matches('+').parse().ok())
            .collect::<Option<_>>()?;
        let [_, waited, connect, head, total] = times[..] else {
            return None;
        };
        let state = state.get(..2).filter(|_| state.len() == 4)?;
        let moment = common_civil(accepted)?.in_zone(zone)?;
        let total = u64::try_from(total).ok()?.checked_mul(MILLISECOND)?;
        let status = status(code);
        let unserved = server == "<NOSRV>";
        let said = match state {
            "SC" if unserved && backend == frontend.trim_end_matches('~') => Some(Said::Configured),
            "SC" if unserved => Some(Said::NoLiveUpstreams),
            "SC" | "PC" | "RC" => Some(self.not_connected(backend)),
            "sC" => Some(Said::ConnectTimedOut),
            "SH" => Some(Said::ClosedOrReset),
            "sH" => Some(Said::ReadTimedOut),
            "PH" => Some(Said::HeadRefused),
            "sQ" => Some(Said::QueueTimedOut),
            "LR" => Some(Said::Configured),
            "PR" => Some(Said::Denied),
            // While the request was sent; with a status its response had begun.
            "SD" if head < 0 => Some(Said::ClosedOrReset),
            "sD" if head < 0 => Some(Said::TimedOut),
            "--" if status.is_some_and(|s| s >= 500) && !unserved => Some(Said::Answered),
            _ if matches!(state.as_bytes()[0], b'C' | b'c') => Some(Said::ClientLeft),
            _ => None,
        };
        let retries = connections.rsplit('/').next()?.trim_start_matches('+');
        let retries: u32 = retries.parse().ok()?;
        let name = upstream(&format!("{backend}/{server}"));
        let milliseconds = |t: i64| Some(u64::try_from(t).ok()?.saturating_mul(MILLISECOND));
        let connect = milliseconds(connect);
        let of = |said, status| LoggedTry {
            upstream: name.clone(),
            said,
            status,
            connect,
            took: milliseconds(head),
            local: None,
        };
        let mut tries = Vec::new();
        let own_decision = unserved || matches!(said, Some(Said::QueueTimedOut | Said::Denied));
        if !own_decision {
            let saved = state == "--" && retries > 0;
            if saved {
                // It tries again only where no connection came about.
                tries.push(of(Some(self.not_connected(backend)), None));
            }
            tries.push(of(said, status.filter(|_| state == "--")));
        }
        let _ = waited;
        Some(Parsed::Signal(Timed::exchange(
            // Written when it is over.
            moment.later(total),
            Logged {
                proxy: Some(Software::Haproxy),
                line: LogLine::Access,
                pid,
                connection: None,
                client: Some(from),
                request: asked(rest),
                within: moment.within,
                took: Some(total),
                status,
                tries,
                said: said.filter(|_| own_decision),
                untried: own_decision,
            },
        )))
    }

    fn not_connected(&mut self, backend: &str) -> Said {
        match self.full.remove(backend) {
            Some(_) => Said::ConnectFailed { errno: EAGAIN },
            None => Said::NotConnected,
        }
    }
}

/// The request between the last two quotes; a long line is cut within it.
fn asked(rest: &str) -> Option<Opening> {
    let (_, line) = rest.split_once('"')?;
    let (line, whole) = match line.strip_suffix('"') {
        Some(line) => (line, true),
        None => (line, false),
    };
    let line = unescape_hash(line.split('"').next().filter(|_| !line.contains('"'))?);
    let mut words = line.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    let opening = request(method, target, None)?;
    Some(match opening {
        Opening::HttpRequest {
            method,
            path,
            path_complete,
            host,
        } => Opening::HttpRequest {
            method,
            path,
            path_complete: path_complete
                && (whole || words.next().is_some() || target.contains('?')),
            host,
        },
        other => other,
    })
}
