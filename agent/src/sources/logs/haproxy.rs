//! HAProxy's HTTP log (`option httplog`): one line an exchange, with its termination state. Pure.
//!
//! HAProxy writes quotes, braces and control characters of requests and captured headers as `#22`,
//! so the request is what stands between the line's last two quotes.

use std::collections::HashMap;

use self::out::Out;
use super::text::{client, request, status, unescape_hash, upstream};
use super::time::{Zone, common_civil};
use super::{Parsed, Timed};
use crate::signal::{LogLine, Logged, LoggedTry, Nanos, Opening, Said, Software};

mod out;

const MILLISECOND: u64 = 1_000_000;
const EAGAIN: i32 = 11;
/// A request is told of when it is over: after its further tries, if it is told of at all.
const UNTOLD: Nanos = 120_000_000_000;
/// Backends remembered for a full Unix queue.
const BACKENDS: usize = 1024;

/// What lines before say of later ones.
#[derive(Debug, Default)]
pub(super) struct Haproxy {
    /// Backends whose Unix socket had a full queue, and when a connect last failed for it that is untold.
    full: HashMap<String, Option<Nanos>>,
    out: Out,
}

impl Haproxy {
    /// `at`: when the line was written, or read, where that is known.
    pub(super) fn parse(
        &mut self,
        line: &str,
        (pid, at): (Option<u32>, Option<Nanos>),
        zone: Zone,
    ) -> Parsed {
        let untold = |failed: Option<Nanos>| {
            at.zip(failed)
                .is_none_or(|(now, failed)| now <= failed.saturating_add(UNTOLD))
        };
        self.full.retain(|_, failed| untold(*failed));
        if let Some(rest) = line.strip_prefix("Connect() failed for backend ") {
            let told = rest.split_once(": can't connect to destination unix socket, check backlog");
            if let Some((backend, _)) = told
                && self.full.len() < BACKENDS
            {
                self.full.insert(backend.to_owned(), at);
            }
            return Parsed::Nothing;
        }
        if let Some(rest) = line.strip_prefix("Server ") {
            self.out.told(rest);
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
            "SC" if unserved && self.out.unresolved(backend) => Some(Said::NotResolved),
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
        let retries = connections.rsplit('/').next()?;
        // With a plus the tries before were another server's.
        let elsewhere = retries.starts_with('+');
        let retries: u32 = retries.trim_start_matches('+').parse().ok()?;
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
                // `retry-on` has it try again after a close, a timeout, junk or a status as well, and the
                // count is of all of these.
                let mut before = of(self.full_queue(backend), None);
                before.upstream = before.upstream.filter(|_| !elsewhere);
                (before.connect, before.took) = (None, None);
                tries.push(before);
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
        self.full_queue(backend).unwrap_or(Said::NotConnected)
    }

    /// What a line before said of this backend's connects.
    fn full_queue(&mut self, backend: &str) -> Option<Said> {
        let told = self.full.remove(backend);
        told.map(|_| Said::ConnectFailed { errno: EAGAIN })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::Fact;

    fn tries(lines: &[&str]) -> Vec<(Option<Said>, Option<u16>)> {
        let mut haproxy = Haproxy::default();
        let mut tries = Vec::new();
        for line in lines {
            if let Parsed::Signal(timed) = haproxy.parse(line, (None, None), Zone::Fixed(0)) {
                let line = timed.into_logged().expect("an exchange");
                tries = line.tries.into_iter().map(|t| (t.said, t.status)).collect();
            }
        }
        tries
    }

    /// A try before may have failed of anything that `retry-on` names: `empty-response`, a status.
    #[test]
    fn why_it_tried_again_is_not_said_by_the_count() {
        const SAVED: &str = r#"10.0.0.7:5000 [22/Nov/2026:19:40:45.100] front back/s1 0/0/0/3/3 200 52 - - ---- 1/1/0/0/+1 0/0 "GET /x HTTP/1.1""#;
        let ok = (None, Some(200));
        assert_eq!(tries(&[SAVED]), [(None, None), ok]);
        let failed = SAVED.replace(" 200 ", " 503 ");
        let answered = (Some(Said::Answered), Some(503));
        assert_eq!(tries(&[&failed]), [(None, None), answered]);
        // It says so itself of a Unix socket.
        let full = Some(Said::ConnectFailed { errno: EAGAIN });
        assert_eq!(tries(&[FULL, SAVED]), [(full, None), ok]);
        // Of the last try the line's state does tell, however many were before.
        let last = SAVED.replace("0/0/0/3/3 200 52 - - ----", "0/0/-1/-1/3 503 217 - - SC--");
        assert_eq!(tries(&[&last]), [(Some(Said::NotConnected), None)]);
        let last = SAVED.replace("0/0/0/3/3 200 52 - - ----", "0/0/0/-1/3 502 208 - - SH--");
        assert_eq!(tries(&[&last]), [(Some(Said::ClosedOrReset), None)]);
    }

    /// Who has no address is not asked; nor is who failed its checks, or both.
    #[test]
    fn a_backend_without_an_address_is_told_from_one_whose_servers_are_down() {
        const REFUSED: &str = r#"10.0.0.7:5000 [22/Nov/2026:19:40:45.100] front back/<NOSRV> 0/-1/-1/-1/0 503 217 - - SC-- 1/1/0/0/0 0/0 "GET /x HTTP/1.1""#;
        let said = |lines: &[&str]| {
            let mut haproxy = Haproxy::default();
            for line in lines {
                let parsed = haproxy.parse(line, (None, None), Zone::Fixed(0));
                assert!(matches!(parsed, Parsed::Nothing), "{line}");
            }
            match haproxy.parse(REFUSED, (None, None), Zone::Fixed(0)) {
                Parsed::Signal(timed) => timed.into_logged().and_then(|line| line.said),
                _ => None,
            }
        };
        let nameless = "Server back/a is going DOWN for maintenance (DNS NX status). 0 active and 0 backup servers left. 0 sessions active, 0 requeued, 0 remaining in queue.";
        let down = r#"Server back/b is DOWN, reason: Layer4 connection problem, info: "Connection refused", check duration: 0ms. 0 active and 0 backup servers left."#;
        let elsewhere = nameless.replace("back/a", "other/a");
        let resolves = "Server back/a ('a.example') is UP/READY (resolves again).";
        assert_eq!(said(&[nameless]), Some(Said::NotResolved));
        for lines in [
            &[][..],
            &[down],
            &[&elsewhere],
            &[nameless, resolves],
            &[nameless, down],
        ] {
            assert_eq!(said(lines), Some(Said::NoLiveUpstreams), "{lines:?}");
        }
    }

    const FULL: &str = "Connect() failed for backend back: can't connect to destination unix socket, check backlog size on the server.";

    /// A connect that a further try made good is told by no line where healthy requests are not logged.
    #[test]
    fn a_full_queue_of_long_ago_is_not_what_failed_now() {
        const FAILED: &str = r#"10.0.0.7:5000 [22/Nov/2026:19:40:45.100] front back/s1 0/0/-1/-1/3 503 217 - - SC-- 1/1/0/0/3 0/0 "GET /x HTTP/1.1""#;
        const SECOND: Nanos = 1_000_000_000;
        let said = |after: Option<Nanos>| {
            let mut haproxy = Haproxy::default();
            let zone = Zone::Fixed(0);
            haproxy.parse(FULL, (None, after.and(Some(SECOND))), zone);
            let at = after.map(|after| SECOND + after);
            let Parsed::Signal(timed) = haproxy.parse(FAILED, (None, at), zone) else {
                panic!("not understood");
            };
            let Fact::Logged(line) = timed.fact else {
                panic!("{:?}", timed.fact);
            };
            line.tries[0].said
        };
        let full = Some(Said::ConnectFailed { errno: EAGAIN });
        assert_eq!(said(Some(3 * SECOND)), full);
        assert_eq!(said(None), full);
        assert_eq!(said(Some(130 * SECOND)), Some(Said::NotConnected));
    }
}
