//! What gunicorn and uWSGI write about their workers. Pure.

use super::text::{leading_number, upstream};
use super::time::{Zone, ctime, spaced};
use super::{Moment, Parsed, Timed};
use crate::signal::{Address, ServerLine, ServerSaid, Software};

/// Listeners remembered of one log.
const LISTENERS: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Servers {
    listens: Vec<Address>,
}

impl Servers {
    /// `[2026-11-21 12:13:39 +0000] [30175] [CRITICAL] WORKER TIMEOUT (pid:30184)`
    pub(super) fn gunicorn(&mut self, line: &str) -> Parsed {
        let Some((moment, message)) = gunicorn_head(line) else {
            return Parsed::NotUnderstood;
        };
        if let Some(rest) = message.strip_prefix("Listening at: ") {
            let all = rest.rsplit_once(" (").map_or(rest, |(all, _)| all);
            all.split(',').for_each(|one| self.listens_at(one.trim()));
            return Parsed::Nothing;
        }
        let pid = |text: &str| u32::try_from(leading_number(text)?).ok();
        let told = if let Some(rest) = message.strip_prefix("WORKER TIMEOUT (pid:") {
            (pid(rest), ServerSaid::TimedOut)
        } else if let Some(rest) = message.strip_prefix("Worker (pid:") {
            let signal = match rest {
                r if r.contains("was sent SIGKILL") => Some(9),
                r if r.contains("was sent SIGTERM") => Some(15),
                r if r.contains("was sent SIGSEGV") => Some(11),
                r if r.contains("was sent SIGABRT") => Some(6),
                r if r.contains("exited with code") => None,
                _ => return Parsed::Nothing,
            };
            (pid(rest), ServerSaid::Died { signal })
        } else if let Some(rest) = message.strip_prefix("Worker with pid ") {
            let signal = rest.split_once("terminated due to signal ");
            let signal = signal.and_then(|(_, n)| leading_number(n));
            let Some(signal) = signal.and_then(|n| u8::try_from(n).ok()) else {
                return Parsed::Nothing;
            };
            (
                pid(rest),
                ServerSaid::Died {
                    signal: Some(signal),
                },
            )
        } else if let Some("term" | "quit" | "int" | "hup") =
            message.strip_prefix("Handling signal: ")
        {
            (None, ServerSaid::Stops)
        } else {
            return Parsed::Nothing;
        };
        self.tell(Software::Gunicorn, moment, told)
    }

    /// `Sat Nov 21 12:13:48 2026 - *** HARAKIRI ON WORKER 1 (pid: 30182, try: 1) ***`
    ///
    /// Deaths (`DAMN ! worker …`) are told up to a second late, when the next may have happened.
    pub(super) fn uwsgi(&mut self, line: &str, zone: Zone) -> Parsed {
        if let Some(rest) = line
            .strip_prefix("uwsgi socket ")
            .or_else(|| line.strip_prefix("uWSGI http bound on "))
        {
            let address = rest.split_once("address ").map_or(rest, |(_, rest)| rest);
            self.listens_at(address.split(" fd ").next().unwrap_or_default());
            return Parsed::Nothing;
        }
        if line.starts_with("*** Starting uWSGI ") {
            self.listens.clear();
            return Parsed::Nothing;
        }
        // With log-date, or for what uWSGI always dates.
        let dated = line.get(..24).and_then(|time| ctime(time)?.in_zone(zone));
        let message = match dated {
            Some(_) => line
                .get(24..)
                .unwrap_or_default()
                .trim_start_matches([' ', '-']),
            None => line,
        };
        let pid = || {
            let (_, rest) = message.split_once("(pid: ")?;
            u32::try_from(leading_number(rest)?).ok()
        };
        let told = if message.starts_with("*** HARAKIRI ON WORKER ") {
            (pid(), ServerSaid::TimedOut)
        } else if message.starts_with("SIGINT/SIGTERM received")
            || message.starts_with("...gracefully killing workers")
        {
            (None, ServerSaid::Stops)
        } else {
            return match dated.is_some() || is_uwsgi(message) {
                true => Parsed::Nothing,
                false => Parsed::NotUnderstood,
            };
        };
        match dated {
            Some(moment) => self.tell(Software::Uwsgi, moment, told),
            None => Parsed::Undated(Box::new(self.line(Software::Uwsgi, told))),
        }
    }

    fn listens_at(&mut self, text: &str) {
        let bare = text
            .trim_start_matches("http://")
            .trim_start_matches("https://");
        let address = match bare.starts_with('/') {
            true => upstream(&format!("unix:{bare}")),
            false => upstream(bare),
        };
        if let Some(address) = address.filter(|a| !self.listens.contains(a))
            && self.listens.len() < LISTENERS
        {
            self.listens.push(address);
        }
    }

    fn tell(&self, server: Software, moment: Moment, told: (Option<u32>, ServerSaid)) -> Parsed {
        let line = ServerLine {
            within: moment.within,
            ..self.line(server, told)
        };
        Parsed::Signal(Timed::server(moment, line))
    }

    fn line(&self, server: Software, (pid, said): (Option<u32>, ServerSaid)) -> ServerLine {
        ServerLine {
            server,
            pid,
            listens: self.listens.clone(),
            said,
            within: 0,
        }
    }
}

/// Lines that nothing but uWSGI writes, and that do not need to be understood.
fn is_uwsgi(line: &str) -> bool {
    [
        "DAMN ! worker ",
        "[pid: ",
        "*** ",
        "spawned uWSGI ",
        "Respawned uWSGI ",
        "uWSGI ",
        "!!! uWSGI ",
        "HARAKIRI ",
    ]
    .iter()
    .any(|begin| line.starts_with(begin))
}

fn gunicorn_head(line: &str) -> Option<(Moment, &str)> {
    let rest = line.strip_prefix('[')?;
    let (time, rest) = rest.split_once("] [")?;
    let moment = spaced(time)?;
    let (pid, rest) = rest.split_once("] [")?;
    pid.parse::<u32>().ok()?;
    let (level, message) = rest.split_once("] ")?;
    level
        .bytes()
        .all(|b| b.is_ascii_uppercase())
        .then_some((moment, message))
}
