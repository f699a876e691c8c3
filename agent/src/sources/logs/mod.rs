//! Logs of proxies, and of upstreams' servers: lines to signals.
//!
//! What a line holds was partly chosen by clients. Only what its format makes unforgeable is
//! believed, and of that only method, path without query, Host, addresses, times, statuses and one
//! of a closed set of statements (`Said`) leave this module.

mod apache;
pub mod datagrams;
mod entries;
mod envoy;
pub mod file;
pub mod find;
pub mod follow;
pub mod formats;
mod go_proxies;
mod h2o;
mod haproxy;
pub mod journal;
pub mod live;
mod nginx_error;
mod pingora;
mod servers;
mod template;
#[cfg(test)]
mod tests;
mod text;
mod time;
mod varnish;
mod words;
mod wrap;

use std::sync::Arc;

use crate::signal::{Fact, Logged, Nanos, ServerLine};
use apache::Apache;
use entries::Entries;
use haproxy::Haproxy;
use servers::Servers;
pub use template::Template;
pub use time::{Moment, Zone};
use varnish::Varnish;
use wrap::{Stream, Unwrapped};

/// Records of a container's line that was split, put together, are no longer than this.
const LINE: usize = 256 * 1024;
/// Lines in a row that a log's format does not understand before it is looked for anew.
const STRANGE: u32 = 100;

impl Moment {
    fn later(self, by: Nanos) -> Moment {
        Moment {
            at: self.at.saturating_add(by),
            ..self
        }
    }
}

/// A fact, and when: in nanoseconds since 1970.
#[derive(Clone, Debug, PartialEq)]
pub struct Timed {
    pub at: Nanos,
    pub fact: Fact,
}

impl Timed {
    fn exchange(moment: Moment, logged: Logged) -> Timed {
        Timed {
            at: moment.at,
            fact: Fact::Logged(Box::new(logged)),
        }
    }

    fn server(moment: Moment, line: ServerLine) -> Timed {
        Timed {
            at: moment.at,
            fact: Fact::ServerLogged(Box::new(line)),
        }
    }

    #[cfg(test)]
    fn into_logged(self) -> Option<Logged> {
        match self.fact {
            Fact::Logged(logged) => Some(*logged),
            _ => None,
        }
    }
}

/// What became of a line.
enum Parsed {
    Signal(Timed),
    /// A fact without a time of its own.
    Undated(Box<ServerLine>),
    /// Understood, and of no interest.
    Nothing,
    NotUnderstood,
}

/// What a log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    NginxError,
    /// By its place in the parser's list.
    Template(usize),
    Haproxy,
    EnvoyText,
    EnvoyJson,
    ApacheError,
    Caddy,
    Traefik,
    GoProxy,
    H2o,
    Pingora,
    Varnish,
    Gunicorn,
    Uwsgi,
}

/// What became of lines, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub lines: u64,
    /// Of no format, or not of this log's.
    pub not_understood: u64,
    /// Possibly written by a client.
    pub distrusted: u64,
    /// Longer than any line that a proxy writes.
    pub too_long: u64,
}

impl Counts {
    fn add(&mut self, varnish: &mut Varnish) {
        self.distrusted += std::mem::take(&mut varnish.distrusted);
        self.not_understood += std::mem::take(&mut varnish.lost);
    }
}

/// Reads one log, line by line.
#[derive(Debug)]
pub struct Parser {
    templates: Arc<[Template]>,
    zone: Zone,
    /// Seconds east of Greenwich, as its lines say.
    pub zone_seen: Option<i64>,
    plain: Channel,
    out: Channel,
    err: Channel,
    counts: Counts,
}

/// One stream of lines: a file, or a container's standard output or error.
#[derive(Debug, Default)]
struct Channel {
    format: Option<Format>,
    strange: u32,
    /// The beginning of a line whose rest is still to come.
    partial: String,
    entries: Entries,
    /// Lines not believed and not counted yet.
    distrusted: u64,
    haproxy: Haproxy,
    apache: Apache,
    servers: Servers,
    varnish: Varnish,
    /// Caddy's errors are in this log, not its access lines alone.
    caddy_errors: bool,
    /// nginx was told to write its errors, not only what is worse.
    nginx_errors: bool,
}

impl Parser {
    /// `templates` are tried in order for access lines.
    pub fn new(templates: Arc<[Template]>, zone: Zone) -> Parser {
        Parser {
            templates,
            zone,
            zone_seen: None,
            plain: Channel::default(),
            out: Channel::default(),
            err: Channel::default(),
            counts: Counts::default(),
        }
    }

    /// Reads the next line, without its newline. `read_at` is when, where that is known: for what
    /// has no time of its own.
    pub fn line(&mut self, bytes: &[u8], read_at: Option<Nanos>, out: &mut Vec<Timed>) {
        self.counts.lines += 1;
        if bytes.len() > LINE {
            self.counts.too_long += 1;
            return;
        }
        let line = String::from_utf8_lossy(bytes);
        let line = line.strip_suffix('\r').unwrap_or(&line);
        self.unwrapped(wrap::unwrap(line), bytes.len(), read_at, out);
    }

    /// Reads an entry of a journal: when it was written, and by which process. `whole`: no newline in a line
    /// has made it two of them.
    pub fn record(
        &mut self,
        message: &[u8],
        (at, pid): (Option<Nanos>, Option<u32>),
        whole: bool,
        out: &mut Vec<Timed>,
    ) {
        self.counts.lines += 1;
        if message.len() > LINE {
            self.counts.too_long += 1;
            return;
        }
        if message.contains(&b'\n') {
            self.counts.not_understood += 1;
            return;
        }
        let line = String::from_utf8_lossy(message);
        // nginx's access and error log are one here.
        let error = whole && nginx_error::begins(&line);
        let stream = match (whole, error) {
            (false, _) => Stream::Plain,
            (true, true) => Stream::Err,
            (true, false) => Stream::Out,
        };
        let unwrapped = Unwrapped {
            line,
            stream,
            partial: false,
            at: at.map(|at| Moment { at, within: 0 }),
            pid,
        };
        self.unwrapped(unwrapped, message.len(), None, out);
        if error {
            self.flush(out);
        }
    }

    fn unwrapped(
        &mut self,
        unwrapped: Unwrapped<'_>,
        length: usize,
        read_at: Option<Nanos>,
        out: &mut Vec<Timed>,
    ) {
        let (channel, length) = match unwrapped.stream {
            Stream::Plain => (&mut self.plain, length),
            Stream::Out => (&mut self.out, unwrapped.line.len()),
            Stream::Err => (&mut self.err, unwrapped.line.len()),
        };
        if unwrapped.partial || !channel.partial.is_empty() {
            channel.partial.push_str(&unwrapped.line);
            if channel.partial.len() > LINE {
                channel.partial.clear();
                self.counts.too_long += 1;
                return;
            }
            if unwrapped.partial {
                return;
            }
        }
        let joined = std::mem::take(&mut channel.partial);
        let (line, length) = match joined.is_empty() {
            true => (unwrapped.line.as_ref(), length),
            false => (joined.as_str(), joined.len()),
        };
        if line.trim().is_empty() && channel.format != Some(Format::NginxError) {
            return;
        }
        let reader = Reader {
            templates: &self.templates,
            zone: self.zone,
            pid: unwrapped.pid,
            at: unwrapped.at.map(|m| m.at).or(read_at),
        };
        let understood = channel.line(line, length as u64 + 1, &reader, &mut self.zone_seen, out);
        self.counts.distrusted += std::mem::take(&mut channel.distrusted);
        self.counts.not_understood += u64::from(!understood);
        self.counts.add(&mut channel.varnish);
    }

    /// No line is under way: gives what was held until that was certain.
    pub fn flush(&mut self, out: &mut Vec<Timed>) {
        for channel in [&mut self.plain, &mut self.out, &mut self.err] {
            let mut lines = Vec::new();
            channel.entries.flush(&mut lines);
            channel.nginx_errors |= tell_errors(&lines);
            self.counts.distrusted += whole_lines(lines, self.zone, out);
            channel.varnish.flush(out);
            self.counts.add(&mut channel.varnish);
        }
    }

    /// Keeps what kind of log it is, and forgets its lines.
    fn forget(&mut self) {
        self.counts = Counts::default();
        for channel in [&mut self.plain, &mut self.out, &mut self.err] {
            channel.entries = Entries::default();
            channel.varnish = Varnish::default();
            channel.partial.clear();
            channel.strange = 0;
            channel.distrusted = 0;
        }
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// What this log is, in words; `None` while no line of it was recognised.
    pub fn name(&self) -> Option<String> {
        let name = |format: Format| match format {
            Format::NginxError => "nginx error log".to_owned(),
            Format::Template(at) => format!("access log, format {}", self.templates[at].name),
            Format::Haproxy => "HAProxy log".to_owned(),
            Format::EnvoyText => "Envoy access log".to_owned(),
            Format::EnvoyJson => "Envoy access log, JSON".to_owned(),
            Format::ApacheError => "Apache error log".to_owned(),
            Format::Caddy => "Caddy log".to_owned(),
            Format::Traefik => "Traefik access log".to_owned(),
            Format::GoProxy => "log of a reverse proxy in Go".to_owned(),
            Format::H2o => "h2o access log, JSON".to_owned(),
            Format::Pingora => "log of a proxy made with pingora".to_owned(),
            Format::Varnish => "Varnish log".to_owned(),
            Format::Gunicorn => "gunicorn log".to_owned(),
            Format::Uwsgi => "uWSGI log".to_owned(),
        };
        let formats: Vec<String> = self.formats().map(name).collect();
        (!formats.is_empty()).then(|| formats.join(" and "))
    }

    fn formats(&self) -> impl Iterator<Item = Format> {
        let all = [&self.plain, &self.out, &self.err];
        all.into_iter().filter_map(|channel| channel.format)
    }

    /// Which lines come from this log, by the names that `SourceStarted` carries.
    pub fn tells(&self) -> Vec<&'static str> {
        let mut all: Vec<&'static str> = self
            .formats()
            .flat_map(|format| match format {
                Format::NginxError => &["proxy_log"][..],
                Format::ApacheError => &["proxy_log", "apache_error_log"],
                Format::Template(_) => &["proxy_log", "access_log"],
                Format::Haproxy | Format::EnvoyText | Format::EnvoyJson => {
                    &["proxy_log", "access_log"]
                }
                Format::Caddy | Format::H2o => &["proxy_log", "access_log"],
                Format::Traefik | Format::Varnish => &["proxy_log", "access_log"],
                Format::GoProxy | Format::Pingora => &["proxy_log"],
                Format::Gunicorn | Format::Uwsgi => &["server_log"],
            })
            .copied()
            .collect();
        let any = |has: fn(&Channel) -> bool| {
            let mut channels = [&self.plain, &self.out, &self.err].into_iter();
            channels.any(has)
        };
        all.extend(any(|channel| channel.caddy_errors).then_some("caddy_error_log"));
        all.extend(any(|channel| channel.nginx_errors).then_some("nginx_error_log"));
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// Whether nginx itself wrote any of these, and would not have where it is silent about errors.
fn tell_errors(lines: &[entries::Line]) -> bool {
    let tells = |line: &entries::Line| line.believed && nginx_error::tells_errors(&line.text);
    lines.iter().any(tells)
}

/// Lines of nginx's error log that are certain to be, or not to be, its own; counts the latter.
fn whole_lines(lines: Vec<entries::Line>, zone: Zone, out: &mut Vec<Timed>) -> u64 {
    let mut distrusted = 0;
    for line in lines {
        if !line.believed {
            distrusted += 1;
            // At its own time, which may be a client's: it can only raise doubt.
            out.extend(nginx_error::time(&line.text, zone).map(|moment| Timed {
                at: moment.at,
                fact: Fact::LinesDistrusted { count: 1 },
            }));
        } else if let Parsed::Signal(timed) = nginx_error::parse(&line.text, zone) {
            out.push(timed);
        }
    }
    distrusted
}

/// What reading one line needs to know.
struct Reader<'a> {
    templates: &'a [Template],
    zone: Zone,
    pid: Option<u32>,
    at: Option<Nanos>,
}

impl Channel {
    /// Whether the line was understood.
    fn line(
        &mut self,
        line: &str,
        length: u64,
        reader: &Reader<'_>,
        zone_seen: &mut Option<i64>,
        out: &mut Vec<Timed>,
    ) -> bool {
        let format = match self.format {
            Some(format) if self.strange < STRANGE => Some(format),
            _ => self.recognise(line, reader).or(self.format),
        };
        let Some(format) = format else { return false };
        if self.format != Some(format) {
            self.format = Some(format);
            self.strange = 0;
        }
        let parsed = match format {
            Format::NginxError => {
                let mut whole = Vec::new();
                let begins = nginx_error::begins(line);
                let look = nginx_error::look(line);
                self.entries.line(line, length, look, &mut whole);
                self.nginx_errors |= tell_errors(&whole);
                self.distrusted += whole_lines(whole, reader.zone, out);
                match begins {
                    true => Parsed::Nothing,
                    false => Parsed::NotUnderstood,
                }
            }
            format => self.read(format, line, reader, zone_seen),
        };
        match parsed {
            Parsed::Signal(timed) => out.push(timed),
            Parsed::Undated(server) => {
                if let Some(at) = reader.at {
                    let moment = Moment {
                        at,
                        within: server.within,
                    };
                    out.push(Timed::server(moment, *server));
                }
            }
            Parsed::Nothing => {}
            Parsed::NotUnderstood => {
                self.strange += 1;
                return false;
            }
        }
        self.strange = 0;
        true
    }

    fn read(
        &mut self,
        format: Format,
        line: &str,
        reader: &Reader<'_>,
        zone_seen: &mut Option<i64>,
    ) -> Parsed {
        let json = |parse: fn(&serde_json::Value) -> Parsed| match serde_json::from_str(line) {
            Ok(object) => parse(&object),
            Err(_) => Parsed::NotUnderstood,
        };
        match format {
            Format::NginxError => nginx_error::parse(line, reader.zone),
            Format::Template(at) => {
                let (parsed, zone) = reader.templates[at].parse(line);
                *zone_seen = zone.or(*zone_seen);
                parsed
            }
            Format::Haproxy => self
                .haproxy
                .parse(line, (reader.pid, reader.at), reader.zone),
            Format::EnvoyText => envoy::text(line),
            Format::EnvoyJson => json(envoy::json),
            Format::ApacheError => self.apache.parse(line, reader.zone),
            Format::Caddy => {
                self.caddy_errors |= !line.contains("\"http.log.access");
                json(go_proxies::caddy)
            }
            Format::Traefik => json(go_proxies::traefik),
            Format::GoProxy => go_proxies::reverse_proxy(line, reader.zone),
            Format::H2o => json(h2o::parse),
            Format::Pingora => pingora::parse(line),
            Format::Varnish => self.varnish.parse(line),
            Format::Gunicorn => self.servers.gunicorn(line),
            Format::Uwsgi => self.servers.uwsgi(line, reader.zone),
        }
    }

    /// The format that understands this line.
    fn recognise(&self, line: &str, reader: &Reader<'_>) -> Option<Format> {
        if line.starts_with('{')
            && let Ok(object) = serde_json::from_str::<serde_json::Value>(line)
        {
            if go_proxies::is_caddy(&object) {
                return Some(Format::Caddy);
            } else if envoy::is_json(&object) {
                return Some(Format::EnvoyJson);
            } else if go_proxies::is_traefik(&object) {
                return Some(Format::Traefik);
            } else if h2o::is_h2o(&object) {
                return Some(Format::H2o);
            }
        }
        if nginx_error::begins(line) {
            return Some(Format::NginxError);
        }
        if pingora::begins(line) {
            return Some(Format::Pingora);
        }
        if varnish::begins(line) {
            return Some(Format::Varnish);
        }
        let templates = (0..reader.templates.len()).map(Format::Template);
        let others = [
            Format::Haproxy,
            Format::EnvoyText,
            Format::ApacheError,
            Format::GoProxy,
            Format::Gunicorn,
            Format::Uwsgi,
        ];
        let mut all = templates.chain(others);
        // On a parser without a past: recognising must leave no trace.
        all.find(|format| {
            let mut fresh = Channel::default();
            let parsed = fresh.read(*format, line, reader, &mut None);
            !matches!(parsed, Parsed::NotUnderstood)
        })
    }
}
