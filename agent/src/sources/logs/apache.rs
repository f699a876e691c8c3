//! Apache's error log: several lines an exchange, joined by process and thread. Pure.
//!
//! Apache escapes what a client sent, newlines included; the referrer, which comes last, is cut off.

use std::collections::VecDeque;

use super::text::{client, request, upstream};
use super::time::{Zone, ctime};
use super::{Moment, Parsed, Timed};
use crate::signal::{Address, LogLine, Logged, LoggedTry, Said, Software, TlsFault};

/// Threads whose lines are held for the one that names the client.
const THREADS: usize = 4096;

/// Apache's own number for a time that has run out, and for an end of file.
const TIMED_OUT: i32 = 70_007;
const ENDED: [i32; 2] = [70_014, 20_014];

#[derive(Debug, Default)]
pub(super) struct Apache {
    /// Tries whose lines name no client, by process and thread; the oldest first.
    held: VecDeque<(Thread, Held)>,
}

type Thread = (u32, u64);

#[derive(Debug, Default)]
struct Held {
    tries: Vec<LoggedTry>,
    certificate: bool,
    not_tls: bool,
    version: bool,
    /// Reading the response's head has failed.
    head_read: bool,
}

struct Line<'a> {
    moment: Moment,
    thread: Thread,
    /// Of level `error` or beyond.
    is_error: bool,
    errno: Option<i32>,
    client: Option<Address>,
    number: &'a str,
    message: &'a str,
}

impl Apache {
    pub(super) fn parse(&mut self, line: &str, zone: Zone) -> Parsed {
        let Some((moment, module, rest)) = head(line, zone) else {
            return Parsed::NotUnderstood;
        };
        match body(moment, module, rest) {
            Some(line) => self.line(&line),
            None => Parsed::Nothing,
        }
    }

    fn line(&mut self, line: &Line<'_>) -> Parsed {
        let message = line.message;
        let one = |said, upstream: Option<&str>| LoggedTry {
            upstream: upstream.and_then(address),
            said: Some(said),
            ..LoggedTry::default()
        };
        let statement = match line.number {
            // http: attempt to connect to 127.0.0.1:9001 (127.0.0.1:9001) failed
            "AH00957" => {
                let to = message.split_once("attempt to connect to ");
                let to = to.and_then(|(_, rest)| rest.split(' ').next());
                let one = one(connect(line.errno), to);
                self.held(line.thread).tries.push(one);
                return Parsed::Nothing;
            }
            "AH02454" => {
                let path = message.split_once("Unix domain socket ");
                let path = path
                    .and_then(|(_, rest)| rest.rsplit_once(" ("))
                    .map(|(path, _)| path);
                let path = path.map(|path| format!("unix:{path}"));
                let one = one(connect(line.errno), path.as_deref());
                self.held(line.thread).tries.push(one);
                return Parsed::Nothing;
            }
            "AH02039" => {
                self.held(line.thread).certificate = true;
                return Parsed::Nothing;
            }
            "AH02003" | "AH01998" => {
                let how = super::nginx_error::openssl_fault(message);
                let held = self.held(line.thread);
                held.not_tls |= how == TlsFault::NotTls;
                held.version |= how == TlsFault::Version;
                return Parsed::Nothing;
            }
            // failed to make connection to backend: the lines before say why.
            "AH01114" => {
                let held = self.take(line.thread);
                let tries = match held.tries.is_empty() {
                    true => vec![one(Said::NotConnected, None)],
                    false => held.tries,
                };
                return tell(line, tries, None, None);
            }
            "AH01102" => read(line.errno, message),
            "AH10404" => {
                let said = read(line.errno, message);
                let parsed = said.map(|(said, to)| tell(line, vec![one(said, to)], None, None));
                self.held(line.thread).head_read = true;
                return parsed.unwrap_or(Parsed::Nothing);
            }
            "AH10124" => Some((Said::HeadTooBig, None)),
            // Follows where the head's end was not read.
            "AH01106" if self.take(line.thread).head_read => return Parsed::Nothing,
            "AH01106" => Some((Said::HeadRefused, None)),
            "AH02429" | "AH02430" => Some((Said::HeadInvalid, None)),
            "AH01084" => {
                let to = between(message, "pass request body failed to ", " (");
                match line.errno {
                    Some(TIMED_OUT) => Some((Said::SendTimedOut, to)),
                    Some(errno @ (32 | 104)) => Some((Said::SendFailed { errno }, to)),
                    // Of a TLS handshake: its line comes next, and names no address.
                    _ => {
                        let one = one(Said::NotConnected, to);
                        self.held(line.thread).tries = vec![one];
                        return Parsed::Nothing;
                    }
                }
            }
            "AH00898" => return self.remote_server(line),
            "AH01170" | "AH00940" | "AH01167" => {
                return tell(line, Vec::new(), Some(Said::NoLiveUpstreams), None);
            }
            // failed to acquire connection for (127.0.0.1:9000): as many are in use as may be.
            "AH00941" => return of_thread(line, Some(Said::QueueTimedOut)),
            // disabling worker for (127.0.0.1:9000) for 60s: another line says why.
            "AH00959" => return Parsed::Nothing,
            // Not understood: some request may have failed so.
            _ if line.is_error => return of_thread(line, None),
            _ => None,
        };
        match statement {
            Some((said, to)) => {
                self.take(line.thread);
                tell(line, vec![one(said, to)], None, None)
            }
            None => Parsed::Nothing,
        }
    }

    /// `REASON returned by /path`
    fn remote_server(&mut self, line: &Line<'_>) -> Parsed {
        let Some((reason, path)) = line.message.rsplit_once(" returned by ") else {
            return Parsed::Nothing;
        };
        if reason.starts_with("DNS lookup failure for") {
            return tell(line, Vec::new(), Some(Said::NotResolved), Some(path));
        }
        if reason.starts_with("Error during SSL Handshake") {
            let held = self.take(line.thread);
            let how = match (held.certificate, held.not_tls, held.version) {
                (true, ..) => TlsFault::Certificate,
                (_, true, _) => TlsFault::NotTls,
                (_, _, true) => TlsFault::Version,
                _ => TlsFault::Other,
            };
            let to = held.tries.into_iter().next().and_then(|t| t.upstream);
            let one = LoggedTry {
                upstream: to,
                said: Some(Said::TlsFailed { how }),
                ..LoggedTry::default()
            };
            return tell(line, vec![one], None, Some(path));
        }
        // Another line has said what failed; this one adds the path.
        tell(line, Vec::new(), None, Some(path))
    }

    fn held(&mut self, thread: Thread) -> &mut Held {
        let known = self.held.iter().position(|(of, _)| *of == thread);
        let at = known.unwrap_or_else(|| {
            if self.held.len() >= THREADS {
                self.held.pop_front();
            }
            self.held.push_back((thread, Held::default()));
            self.held.len() - 1
        });
        &mut self.held[at].1
    }

    fn take(&mut self, thread: Thread) -> Held {
        let at = self.held.iter().position(|(of, _)| *of == thread);
        at.and_then(|at| self.held.remove(at))
            .map(|(_, held)| held)
            .unwrap_or_default()
    }
}

fn tell(line: &Line<'_>, tries: Vec<LoggedTry>, said: Option<Said>, path: Option<&str>) -> Parsed {
    let Some(from) = &line.client else {
        return Parsed::Nothing;
    };
    line.signal(Logged {
        client: Some(from.clone()),
        // The method is not in it.
        request: path.and_then(|path| request("-", path, None)),
        tries,
        said,
        untried: false,
        ..line.of_thread()
    })
}

/// Of a line that names neither client nor request.
fn of_thread(line: &Line<'_>, said: Option<Said>) -> Parsed {
    line.signal(Logged {
        said,
        ..line.of_thread()
    })
}

impl Line<'_> {
    fn signal(&self, logged: Logged) -> Parsed {
        Parsed::Signal(Timed::exchange(self.moment, logged))
    }

    /// What every line of the error log has.
    fn of_thread(&self) -> Logged {
        Logged {
            proxy: Some(Software::Apache),
            line: LogLine::Error,
            pid: Some(self.thread.0),
            connection: Some(self.thread.1),
            client: None,
            request: None,
            within: self.moment.within,
            took: None,
            status: None,
            tries: Vec::new(),
            said: None,
            untried: true,
        }
    }
}

fn address(text: &str) -> Option<Address> {
    upstream(text)
}

fn connect(errno: Option<i32>) -> Said {
    match errno {
        Some(TIMED_OUT) => Said::ConnectTimedOut,
        Some(errno) => Said::ConnectFailed { errno },
        None => Said::NotConnected,
    }
}

/// error reading status line from remote server 127.0.0.1:41861
fn read(errno: Option<i32>, message: &str) -> Option<(Said, Option<&str>)> {
    let to = message.split_once("remote server ").map(|(_, to)| to);
    match errno {
        Some(TIMED_OUT) => Some((Said::ReadTimedOut, to)),
        Some(104) => Some((Said::Reset, to)),
        Some(errno) if ENDED.contains(&errno) => Some((Said::PeerClosed, to)),
        _ => None,
    }
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    text.split_once(before)?.1.split(after).next()
}

/// `[Sat Nov 21 12:22:24.784594 2026] [proxy:error] [pid 7714:tid 7720] …`
fn head(line: &str, zone: Zone) -> Option<(Moment, &str, &str)> {
    let rest = line.strip_prefix('[')?;
    let (time, rest) = rest.split_once("] [")?;
    let moment = ctime(time)?.in_zone(zone)?;
    let (module, rest) = rest.split_once("] [pid ")?;
    Some((moment, module, rest))
}

fn body<'a>(moment: Moment, module: &str, rest: &'a str) -> Option<Line<'a>> {
    let (process, mut rest) = rest.split_once("] ")?;
    let (pid, tid) = match process.split_once(":tid ") {
        Some((pid, tid)) => (pid, tid.parse().ok()?),
        None => (process, 0),
    };
    let mut errno = None;
    let mut from = None;
    for _ in 0..3 {
        if let Some(inner) = rest.strip_prefix("[client ") {
            let (address, after) = inner.split_once("] ")?;
            from = client(address);
            rest = after;
        } else if let Some(inner) = rest.strip_prefix("[remote ") {
            rest = inner.split_once("] ")?.1;
        } else if let Some(inner) = rest.strip_prefix('(') {
            // (111)Connection refused: …
            let (number, after) = inner.split_once(')')?;
            let at = after.find(": [").or_else(|| after.find(": AH"))?;
            errno = number.parse().ok();
            rest = &after[at + 2..];
        }
    }
    let (number, message) = rest.split_once(": ")?;
    let numbered = number.len() == 7 && number.starts_with("AH");
    let message = message.split(", referer: ").next().unwrap_or(message);
    let level = module.rsplit(':').next().unwrap_or_default();
    numbered.then_some(Line {
        is_error: matches!(level, "error" | "crit" | "alert" | "emerg"),
        moment,
        thread: (pid.parse().ok()?, tid),
        errno,
        client: from,
        number,
        message,
    })
}
