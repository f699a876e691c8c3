//! `--log`: logs alone, or beside a capture or a recording.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};

use super::pipeline::Pipeline;
use crate::cli::{detail, warning};
use crate::clock::{self, Clock};
use crate::config::Logs;
use crate::signal::{Fact, Nanos, Signal, Source};
use crate::sources::logs::datagrams;
use crate::sources::logs::file::{LogFile, Merged};
use crate::sources::logs::formats::{self, Formats};
use crate::sources::logs::{Counts, Template, Timed, Zone};
use crate::sources::process;

/// Lines so much before or after what a capture holds may still be about it.
const AROUND: Nanos = 2_000_000_000;

/// Logs that are read along with another source, or alone.
pub(super) struct Beside {
    merged: Merged,
    sees: Vec<String>,
    /// Nothing of the other source has come yet.
    first: bool,
    latest: Nanos,
    outside: u64,
}

/// The formats that access lines may have.
pub(super) fn templates(logs: &Logs) -> Result<Arc<[Template]>> {
    chosen(logs, Vec::new())
}

/// The same for logs that grow, and what the nginx among these processes was started with.
pub(super) fn formats(logs: &Logs, pids: &[u32]) -> Result<Formats> {
    if logs.nginx_config.is_some() {
        return Ok(Formats::given(templates(logs)?));
    }
    let running = Formats::of_host(pids);
    let Some(wanted) = &logs.format else {
        return Ok(running);
    };
    let mut own = Vec::new();
    if !is_format(wanted) {
        let groups = running.groups(pids).into_iter();
        own.extend(groups.flat_map(|(templates, _)| templates.to_vec()));
    }
    Ok(Formats::given(chosen(logs, own)?))
}

/// The format that is wanted, from those of the running nginx (`own`), of the configuration and the known ones;
/// or all of them.
fn chosen(logs: &Logs, own: Vec<Template>) -> Result<Arc<[Template]>> {
    let named = logs.nginx_config.is_some();
    let config = logs.nginx_config.clone();
    let config = config.unwrap_or_else(|| PathBuf::from(process::NGINX_CONFIG));
    let configured = match formats::read(&config) {
        Some(formats) => formats,
        None if named => bail!("{}: cannot be read", config.display()),
        None => Vec::new(),
    };
    let mut all = own;
    all.extend(configured);
    all.extend(Template::known());
    let Some(wanted) = &logs.format else {
        return Ok(all.into());
    };
    if is_format(wanted) {
        let template = Template::new("given", wanted, "default");
        let template = template.with_context(|| {
            format!("--log-format {wanted:?}: it needs $status and one of $time_local, $time_iso8601, $msec")
        })?;
        return Ok([template].into());
    }
    let names = || {
        let mut names: Vec<&str> = Vec::new();
        for one in &all {
            if !names.contains(&one.name.as_str()) {
                names.push(&one.name);
            }
        }
        names.join(", ")
    };
    let found = all.iter().find(|t| t.name == *wanted).cloned();
    let found = found.with_context(|| {
        format!(
            "--log-format {wanted}: no such format; known are {}; --nginx-config FILE names more, \
             or give the format itself",
            names()
        )
    })?;
    Ok([found].into())
}

/// Not the name of one.
fn is_format(wanted: &str) -> bool {
    wanted.contains('$')
}

/// What is wrong with logs whose lines are of no known format.
fn strange(names: &[String]) -> Option<anyhow::Error> {
    (!names.is_empty()).then(|| {
        anyhow::anyhow!(
            "{}: not recognised as a log of nginx, HAProxy, Envoy, Apache, Caddy, Traefik, Varnish, \
             pingora, Go's ReverseProxy, gunicorn or uWSGI; an access log of nginx in a format of its \
             own needs --log-format or --nginx-config",
            names.join(", ")
        )
    })
}

impl Beside {
    /// Opens the logs; those that are not recognised are named.
    pub(super) fn open(
        logs: &Logs,
        templates: &Arc<[Template]>,
    ) -> Result<(Beside, Option<anyhow::Error>)> {
        let mut open = Vec::new();
        let mut not_logs = Vec::new();
        for path in &logs.files {
            let log = open_one(path, templates).with_context(|| path.display().to_string())?;
            match log.format() {
                Some(format) => {
                    detail!("{}: {format}", log.name());
                    open.push(log);
                }
                None if log.is_empty() => warning!("{}: it is empty", log.name()),
                None => not_logs.push(log.name().to_owned()),
            }
        }
        let zones: Vec<i64> = open.iter().filter_map(LogFile::zone_seen).collect();
        let zone = match zones.first() {
            // Logs of one host: what one says holds for those that do not say.
            Some(zone) => Zone::Fixed(*zone),
            None => Zone::Host(clock::seconds_east),
        };
        let mut sees: Vec<String> = open
            .iter()
            .flat_map(|log| log.tells().iter().map(|s| (*s).to_owned()))
            .collect();
        sees.sort_unstable();
        sees.dedup();
        let beside = Beside {
            merged: Merged::new(open, templates, zone),
            sees,
            first: true,
            latest: 0,
            outside: 0,
        };
        Ok((beside, strange(&not_logs)))
    }

    /// The signal that says which lines are to be expected.
    fn started(&self, at: Nanos) -> Signal {
        Signal {
            at,
            source: Source::Log,
            fact: Fact::SourceStarted {
                sees: self.sees.clone(),
                blind: Vec::new(),
            },
        }
    }

    /// What was written until then; of what lies before the other source, nothing.
    pub(super) fn until(&mut self, at: Nanos, clock: Clock) -> Vec<Signal> {
        let mut due = Vec::new();
        if self.first {
            self.first = false;
            while let Some(next) = self
                .next_at(clock)
                .filter(|next| next.saturating_add(AROUND) < at)
            {
                debug_assert!(next < at);
                self.merged.next();
                self.outside += 1;
            }
            due.push(self.started(at));
        }
        self.latest = self.latest.max(at);
        while self.next_at(clock).is_some_and(|next| next <= at) {
            due.extend(self.merged.next().and_then(|timed| signal(timed, clock)));
        }
        due
    }

    /// What was written about the other source's last moments.
    pub(super) fn rest(&mut self, clock: Clock) -> Vec<Signal> {
        let last = self.latest;
        if self.first {
            return Vec::new();
        }
        let due = self.until(last.saturating_add(AROUND), clock);
        self.outside += self.merged.by_ref().count() as u64;
        due
    }

    fn next_at(&mut self, clock: Clock) -> Option<Nanos> {
        let at = self.merged.peek()?;
        Some(clock.of_unix(at).unwrap_or(0))
    }

    /// What became of the lines.
    pub(super) fn finish(self) -> Result<()> {
        if self.outside > 0 {
            detail!("{} lines of logs are from before or after", self.outside);
        }
        let mut failed = Ok(());
        for (name, counts, error) in self.merged.finish() {
            tell(&name, counts);
            if let Some(error) = error {
                failed = Err(anyhow::Error::new(error).context(name));
            }
        }
        failed
    }
}

fn open_one(path: &Path, templates: &Arc<[Template]>) -> std::io::Result<LogFile> {
    if path.as_os_str() == "-" {
        return LogFile::read(Box::new(std::io::stdin()), "standard input", templates);
    }
    if datagrams::address(path).is_some() {
        let live =
            "datagrams come when they are sent: only `run` and `capture` can listen for them";
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, live));
    }
    LogFile::open(path, templates)
}

fn signal(timed: Timed, clock: Clock) -> Option<Signal> {
    Some(Signal {
        at: clock.of_unix(timed.at)?,
        source: Source::Log,
        fact: timed.fact,
    })
}

fn tell(name: &str, counts: Counts) {
    detail!("{name}: {} lines", counts.lines);
    if counts.not_understood > 0 {
        detail!("{name}: {} lines are not understood", counts.not_understood);
    }
    if counts.distrusted > 0 {
        warning!(
            "{name}: {} lines are left out: a client may have written them into another's entry",
            counts.distrusted
        );
    }
    if counts.too_long > 0 {
        warning!(
            "{name}: {} lines are too long and left out",
            counts.too_long
        );
    }
}

/// `explain` with nothing but logs.
pub(super) fn explain<W: std::io::Write>(
    pipeline: &mut Pipeline<W>,
    mut logs: Beside,
    (began, ended): &mut (Nanos, Nanos),
) -> Result<()> {
    let clock = Clock::from_offset(0);
    pipeline.begin_source(clock);
    pipeline.signal(&logs.started(0))?;
    for timed in logs.merged.by_ref() {
        let Some(signal) = signal(timed, clock) else {
            continue;
        };
        *began = (*began).min(signal.at);
        *ended = (*ended).max(signal.at);
        pipeline.signal(&signal)?;
    }
    pipeline.end_source()?;
    logs.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_first_what_the_running_nginx_calls_so() {
        let named = |name: &str| Logs {
            format: Some(name.to_owned()),
            ..Logs::default()
        };
        let own = Template::new("combined", "$msec $status", "default").expect("a format");
        let found = chosen(&named("combined"), vec![own.clone()]).expect("it is known");
        assert_eq!(found.first(), Some(&own));
        assert_eq!(found.len(), 1);
        let without = chosen(&named("combined"), Vec::new()).expect("nginx has it");
        assert_ne!(without.first(), Some(&own));
        let error = chosen(&named("nobody's"), vec![own]).expect_err("an unknown one");
        let error = error.to_string();
        assert!(error.contains("known are combined, "), "{error}");
        assert!(!error.contains(", combined,"), "once: {error}");
    }

    #[test]
    fn all_that_are_no_logs_are_named() {
        assert!(strange(&[]).is_none());
        let names = ["a.log", "b.log"].map(ToOwned::to_owned);
        let error = strange(&names).expect("two of them").to_string();
        assert!(error.starts_with("a.log, b.log: not recognised"), "{error}");
    }
}
