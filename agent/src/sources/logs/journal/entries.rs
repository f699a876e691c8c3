//! Entries of a journal, as `journalctl --output=json` prints them, to lines of a log. Pure.
//!
//! An entry that came as a datagram is a line. What came by a stream was cut into entries where it had
//! newlines, a client's as well, and where it was too long: it is read as a file would be.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Deserialize;

use super::super::{Counts, Parser, Template, Timed, Zone};
use crate::signal::Nanos;

/// What of an entry is wanted.
pub(super) const FIELDS: &str = "MESSAGE,_PID,_TRANSPORT,_STREAM_ID,_LINE_BREAK";
/// Entries of processes that are not known yet, and streams with a line that was too long.
const KEPT: usize = 256;
/// Processes of a service that are remembered: more than it has at once.
const PIDS: usize = 4096;

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "MESSAGE")]
    message: Message,
    #[serde(rename = "_PID")]
    pid: Option<String>,
    /// In microseconds since 1970.
    #[serde(rename = "__REALTIME_TIMESTAMP")]
    at: String,
    #[serde(rename = "_TRANSPORT")]
    transport: Option<String>,
    #[serde(rename = "_STREAM_ID")]
    stream: Option<String>,
    #[serde(rename = "_LINE_BREAK")]
    cut: Option<String>,
}

/// What is no text is a list of bytes.
#[derive(Deserialize)]
#[serde(untagged)]
enum Message {
    Text(String),
    Bytes(Vec<u8>),
}

/// One service's.
pub(super) struct Entries {
    parser: Parser,
    /// What was written before says what kind of log it is, and no more.
    began: Nanos,
    primed: bool,
    /// Whose lines are the proxy's: others of the service may write what they like.
    pids: BTreeSet<u32>,
    /// Of other processes, which may be the proxy's since.
    waiting: Vec<Entry>,
    /// These waited until all of its processes were looked for.
    looked_for: Vec<Entry>,
    /// Streams whose next entry is the rest of a line that was too long.
    broken: BTreeSet<String>,
}

impl Entries {
    pub(super) fn new(began: Nanos, templates: &Arc<[Template]>, zone: Zone) -> Entries {
        Entries {
            parser: Parser::new(Arc::clone(templates), zone),
            began,
            primed: false,
            pids: BTreeSet::new(),
            waiting: Vec::new(),
            looked_for: Vec::new(),
            broken: BTreeSet::new(),
        }
    }

    pub(super) fn counts(&self) -> Counts {
        self.parser.counts()
    }

    pub(super) fn format(&self) -> Option<String> {
        self.parser.name()
    }

    /// That lines come by way of a journal, later than those of a file. That one has not come proves nothing:
    /// the journal leaves lines out.
    pub(super) fn tells(&self) -> Vec<&'static str> {
        let lines = self.parser.tells();
        let late = (!lines.is_empty()).then_some("journal");
        let without_silence = lines
            .into_iter()
            .filter(|name| !name.ends_with("_error_log"));
        without_silence.chain(late).collect()
    }

    /// The proxy's processes now.
    pub(super) fn know(&mut self, pids: &BTreeSet<u32>) {
        if self.pids.len() > PIDS {
            self.pids.clear();
        }
        self.pids.extend(pids);
        self.looked_for.append(&mut self.waiting);
    }

    /// Somebody of the service wrote whose process is not known.
    pub(super) fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Lines of processes that are known by now.
    pub(super) fn take_known(&mut self, out: &mut Vec<Timed>) {
        for entry in std::mem::take(&mut self.looked_for) {
            if entry.pid().is_some_and(|pid| self.pids.contains(&pid)) {
                self.read(&entry, out);
            }
        }
    }

    pub(super) fn take(&mut self, json: &[u8], out: &mut Vec<Timed>) {
        let Ok(entry) = serde_json::from_slice::<Entry>(json) else {
            return;
        };
        if self.is_cut(&entry) {
            return;
        }
        if entry.at() < Some(self.began) {
            self.read(&entry, &mut Vec::new());
            return;
        }
        if !std::mem::replace(&mut self.primed, true) {
            self.parser.flush(&mut Vec::new());
            self.parser.forget();
        }
        match entry.pid() {
            Some(pid) if self.pids.contains(&pid) => self.read(&entry, out),
            Some(_) if self.waiting.len() < KEPT => self.waiting.push(entry),
            _ => {}
        }
    }

    /// Nothing is being written: what the parser held is whole.
    pub(super) fn flush(&mut self, out: &mut Vec<Timed>) {
        if self.primed {
            self.parser.flush(out);
        }
    }

    /// Part of a line that was too long: where the rest begins a client may have chosen.
    fn is_cut(&mut self, entry: &Entry) -> bool {
        let Some(stream) = &entry.stream else {
            return false;
        };
        if entry.cut.as_deref() != Some("line-max") {
            return self.broken.remove(stream);
        }
        if self.broken.len() >= KEPT {
            self.broken.clear();
        }
        self.broken.insert(stream.clone());
        true
    }

    fn read(&mut self, entry: &Entry, out: &mut Vec<Timed>) {
        let message = match &entry.message {
            Message::Text(text) => text.as_bytes(),
            Message::Bytes(bytes) => bytes,
        };
        let whole = entry.transport.as_deref() != Some("stdout");
        self.parser
            .record(message, (entry.at(), entry.pid()), whole, out);
    }
}

impl Entry {
    /// In nanoseconds since 1970.
    fn at(&self) -> Option<Nanos> {
        let microseconds: Nanos = self.at.parse().ok()?;
        microseconds.checked_mul(1000)
    }

    fn pid(&self) -> Option<u32> {
        self.pid.as_ref()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::signal::{Fact, Logged};

    const HAPROXY: &str = r#"10.0.0.7:5000 [22/Nov/2026:19:40:45.100] front back/s1 0/0/-1/-1/3 503 217 - - SC-- 1/1/0/0/3 0/0 "GET /x HTTP/1.1""#;
    const NGINX: &str = r#"2026/11/22 19:40:45 [error] 307#307: *7 no live upstreams while connecting to upstream, client: 10.0.0.7, server: , request: "GET /x HTTP/1.1", upstream: "http://app/x", host: "h""#;
    const BEGAN: Nanos = 1_795_376_440_000_000_000;

    fn entry(message: Value, more: Value) -> Vec<u8> {
        let mut entry = json!({
            "__CURSOR": "s=1", "__REALTIME_TIMESTAMP": "1795376445103000", "MESSAGE": message,
            "_PID": "307", "_TRANSPORT": "syslog",
        });
        for (name, value) in more.as_object().unwrap() {
            entry[name] = value.clone();
        }
        entry.to_string().into_bytes()
    }

    fn entries() -> Entries {
        let mut entries = Entries::new(BEGAN, &Vec::new().into(), Zone::Fixed(0));
        entries.know(&[307].into());
        entries
    }

    fn lines(entries: &mut Entries, all: &[Vec<u8>]) -> Vec<Logged> {
        let mut out = Vec::new();
        for entry in all {
            entries.take(entry, &mut out);
        }
        entries.flush(&mut out);
        let logged = |timed: Timed| match timed.fact {
            Fact::Logged(line) => Some(*line),
            _ => None,
        };
        out.into_iter().filter_map(logged).collect()
    }

    #[test]
    fn a_line_of_a_service() {
        for message in [json!(HAPROXY), json!(HAPROXY.as_bytes())] {
            let found = lines(&mut entries(), &[entry(message, json!({}))]);
            let [line] = &found[..] else {
                panic!("{found:?}");
            };
            assert_eq!((line.status, line.pid), (Some(503), Some(307)));
        }
    }

    #[test]
    fn both_of_nginx() {
        let both = [
            entry(json!(NGINX), json!({})),
            entry(json!(HAPROXY), json!({})),
        ];
        assert_eq!(lines(&mut entries(), &both).len(), 2);
    }

    #[test]
    fn what_a_client_has_put_a_newline_into_is_no_line() {
        let mut all = entries();
        let message = json!(format!("x\n{HAPROXY}"));
        assert_eq!(lines(&mut all, &[entry(message, json!({}))]), []);
        assert_eq!(all.counts().not_understood, 1);
        for odd in [&b"{"[..], b"[]", &entry(Value::Null, json!({}))] {
            assert_eq!(lines(&mut entries(), &[odd.to_vec()]), []);
        }
    }

    /// `open() "/srv/x\n…" failed`: one line of nginx's, of which a client chose the middle.
    #[test]
    fn a_line_that_a_stream_was_cut_into_may_be_a_clients() {
        let of = |message: &str| {
            let stream = json!({"_TRANSPORT": "stdout", "_STREAM_ID": "a"});
            entry(json!(message), stream)
        };
        let forged = [
            of("2026/11/22 19:40:44 [error] 307#307: *6 open() \"/srv/x"),
            of(NGINX),
            of(
                "\" failed (2: No such file or directory), client: 10.0.0.7, server: , request: \"GET /x HTTP/1.1\", host: \"h\"",
            ),
        ];
        assert_eq!(lines(&mut entries(), &forged), []);
        assert_eq!(lines(&mut entries(), &[of(NGINX)]).len(), 1);
    }

    #[test]
    fn the_rest_of_a_line_that_was_too_long_is_none() {
        let of = |message: &str, cut: &str| {
            let stream = json!({"_TRANSPORT": "stdout", "_STREAM_ID": "a", "_LINE_BREAK": cut});
            entry(json!(message), stream)
        };
        let mut all = entries();
        let long = [of("x", "line-max"), of("x", "line-max"), of(HAPROXY, "eof")];
        assert_eq!(lines(&mut all, &long), []);
        assert_eq!(lines(&mut all, &[of(HAPROXY, "eof")]).len(), 1);
    }

    #[test]
    fn of_before_it_is_known_what_log_it_is() {
        let old = entry(
            json!(HAPROXY),
            json!({"__REALTIME_TIMESTAMP": "1795376439000000"}),
        );
        let mut all = entries();
        assert_eq!(all.tells(), [""; 0]);
        assert_eq!(lines(&mut all, std::slice::from_ref(&old)), []);
        assert!(all.tells().contains(&"journal"));
        // However late it is printed.
        assert_eq!(
            lines(&mut all, &[entry(json!(HAPROXY), json!({})), old]).len(),
            1
        );
    }

    #[test]
    fn only_the_proxys_processes_are_believed() {
        let of = |pid: &str| entry(json!(HAPROXY), json!({"_PID": pid}));
        let mut all = entries();
        assert_eq!(lines(&mut all, &[of("308"), of("309")]), []);
        assert!(all.waits());
        all.know(&[308].into());
        assert!(!all.waits());
        let mut out = Vec::new();
        all.take_known(&mut out);
        assert_eq!(out.len(), 1);
        all.know(&[309].into());
        all.take_known(&mut out);
        assert_eq!(out.len(), 1, "it was looked for before");
    }

    #[test]
    fn silence_is_told_by_no_journal() {
        let mut all = entries();
        lines(&mut all, &[entry(json!(NGINX), json!({}))]);
        assert_eq!(all.tells(), ["proxy_log", "journal"]);
    }
}
