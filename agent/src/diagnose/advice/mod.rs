//! What to change: the settings that would have prevented the failure, in the words of the software
//! seen, with the observed numbers and where each comes from. For a person who has been paged.

mod connects;
mod deaths;
mod pools;
mod queues;
mod timers;

use super::known::Known;
use super::{Case, Diagnosis, Tried, text};
use crate::cause::{Cause, Variant};
use crate::settings;
use crate::signal::{Address, End, Opening, Process, Software, Source};
use crate::verdict::{Advice, Setting};

/// Advice is made once, for the final diagnosis.
pub fn advise(case: &Case<'_>, diagnosis: &Diagnosis) -> Advice {
    let failed = |tried: &&Tried| tried.attempt.end != End::Answered;
    let tried = case
        .attempts
        .iter()
        .rev()
        .find(failed)
        .or(case.attempts.last());
    let Some(tried) = tried else {
        return without_attempt(diagnosis);
    };
    let known = Known { case, tried };
    let scene = Scene {
        known,
        diagnosis,
        proxy: known.host().process(known.attempt().proxy),
        upstream: known.upstream_process(),
    };
    match diagnosis.cause {
        Cause::KeepaliveRace => pools::race(&scene),
        Cause::UnixAcceptQueueFull | Cause::TcpAcceptQueueFull => queues::full(&scene),
        Cause::SynBacklogFull => queues::half_open(&scene),
        Cause::ReadTimeoutNeverAccepted | Cause::ReadTimeoutNotRead | Cause::ReadTimeoutNoReply => {
            timers::read_timeout(&scene)
        }
        Cause::SendTimeout => timers::send_timeout(&scene),
        Cause::DownstreamGaveUp => timers::downstream_gave_up(&scene),
        Cause::RequestUnacknowledged => pools::dead_path(&scene),
        Cause::WorkerTimeoutKilled
        | Cause::WorkerOomKilled
        | Cause::WorkerKilled
        | Cause::WorkerCrashed
        | Cause::UpstreamShutdown
        | Cause::ListenerDied => deaths::died(&scene),
        Cause::Unknown => without_attempt(diagnosis),
        _ => connects::other(&scene),
    }
}

/// The same for an attempt of the tier in front, whose upstream is the proxy that is watched.
pub fn advise_in_front(case: &Case<'_>, diagnosis: &Diagnosis) -> Advice {
    match case.attempts {
        [tried] if diagnosis.cause == Cause::KeepaliveRace => {
            let process = case.host.process(tried.attempt.proxy);
            pools::race_in_front(&tried.attempt, process)
        }
        _ => advise(case, diagnosis),
    }
}

fn without_attempt(diagnosis: &Diagnosis) -> Advice {
    let text = match diagnosis.cause {
        Cause::UpstreamAnswered => connects::UPSTREAM_ANSWERED.to_owned(),
        Cause::ConnectionRefused => connects::SOME_REFUSED.to_owned(),
        Cause::HostUnreachable => connects::SOME_UNREACHABLE.to_owned(),
        Cause::ProxyFdsExhausted => connects::NO_DESCRIPTOR.to_owned(),
        Cause::ConnectTimeout => connects::SOME_UNANSWERED.to_owned(),
        _ => format!(
            "The facts do not name a cause. To decide it, look for: {}.",
            diagnosis.missing.join("; ")
        ),
    };
    Advice {
        text,
        settings: Vec::new(),
    }
}

/// What advice is given about.
struct Scene<'a> {
    known: Known<'a>,
    diagnosis: &'a Diagnosis,
    proxy: Option<&'a Process>,
    upstream: Option<&'a Process>,
}

impl<'a> Scene<'a> {
    fn variant(&self) -> Option<Variant> {
        self.diagnosis.variant
    }

    fn proxy_software(&self) -> Software {
        self.proxy.map_or(Software::Other, |p| p.software)
    }

    fn upstream_software(&self) -> Software {
        self.upstream.map_or(Software::Other, |p| p.software)
    }

    fn upstream_address(&self) -> &'a Address {
        &self.known.attempt().upstream
    }

    /// What to call the upstream in a sentence: its software, else `the upstream`.
    fn upstream_name(&self) -> &'static str {
        match self.upstream_software() {
            Software::Other => "the upstream",
            software => name(software),
        }
    }

    fn proxy_name(&self) -> String {
        match (self.proxy_software(), self.proxy) {
            (Software::Other, Some(process)) => text::clean(&process.name),
            (Software::Other, None) => "the proxy".to_owned(),
            (software, _) => name(software).to_owned(),
        }
    }

    fn method(&self) -> Option<&'a str> {
        let request = self.known.attempt().request.as_ref().map(|r| &r.opening);
        let read = self
            .known
            .attempt()
            .downstream
            .as_ref()
            .and_then(|l| l.request.as_ref());
        [request, read]
            .into_iter()
            .flatten()
            .find_map(|opening| match opening {
                Opening::HttpRequest { method, .. } => Some(method.as_str()),
                _ => None,
            })
    }

    /// From the request's write to the attempt's end.
    fn waited(&self) -> u64 {
        let from = self
            .known
            .request()
            .map_or(self.known.attempt().began, |r| r.at);
        self.known.tried.at.saturating_sub(from)
    }

    /// What a wait was measured by.
    fn measured_by(&self) -> &'static str {
        match self.known.tried.source {
            Source::Packets => "wire",
            Source::Kernel | Source::Log => "kernel",
        }
    }

    /// A setting of nginx's `upstream` block that holds this upstream, if there is one.
    fn nginx_pool(&self, directive: &str) -> Option<(&'a str, &'a str)> {
        let process = self.proxy.filter(|p| p.software == Software::Nginx)?;
        let bare = self.upstream_address().0.as_str();
        let block = process.settings.iter().find_map(|(name, servers)| {
            let block = name.strip_prefix("upstream ")?.strip_suffix(" server")?;
            servers
                .split(", ")
                .any(|server| server == bare)
                .then_some(block)
        });
        let wanted = block.map(|block| format!("upstream {block} {directive}"));
        let suffix = format!(" {directive}");
        let fits = |name: &str| match &wanted {
            Some(wanted) => name == wanted,
            None => name.starts_with("upstream ") && name.ends_with(&suffix),
        };
        let mut all = process.settings.iter().filter(|(name, _)| fits(name));
        match (all.next(), all.next()) {
            (Some((name, value)), None) => Some((name, value)),
            _ => None,
        }
    }
}

/// The name that `settings[].software` carries.
fn name(software: Software) -> &'static str {
    match software {
        Software::Nginx => "nginx",
        Software::Haproxy => "haproxy",
        Software::Envoy => "envoy",
        Software::Apache => "apache",
        Software::Caddy => "caddy",
        Software::Traefik => "traefik",
        Software::H2o => "h2o",
        Software::Varnish => "varnish",
        Software::Gunicorn => "gunicorn",
        Software::Node => "node",
        Software::Uwsgi => "uwsgi",
        Software::Uvicorn => "uvicorn",
        Software::Puma => "puma",
        Software::Tomcat => "tomcat",
        Software::PhpFpm => "php-fpm",
        Software::Go => "go",
        Software::Pingora => "pingora",
        Software::Other => "upstream",
    }
}

fn setting(software: &str, name: &str, suggested: impl Into<String>) -> Setting {
    Setting {
        software: software.to_owned(),
        name: name.to_owned(),
        suggested: suggested.into(),
        ..Setting::default()
    }
}

/// Small sentences on a `Setting`.
trait Observed: Sized {
    fn observed(self, process: Option<&Process>, names: &[&str]) -> Self;
    fn seen(self, value: &str, full_name: &str) -> Self;
    fn measured(self, nanos: Option<u64>, from: &'static str) -> Self;
    fn counted(self, value: impl ToString, from: &'static str) -> Self;
    fn instead_of(self, name: &str) -> Self;
    fn risk(self, risk: &str) -> Self;
}

impl Observed for Setting {
    /// The value that this process was given, and where.
    fn observed(self, process: Option<&Process>, names: &[&str]) -> Self {
        match process.and_then(|p| settings::find(p, names)) {
            Some((full_name, value)) => self.seen(value, full_name),
            None => self,
        }
    }

    fn seen(mut self, value: &str, full_name: &str) -> Self {
        self.observed = Some(text::clean(value));
        self.observed_from = Some(settings::origin(full_name));
        // Counts are no seconds.
        let name = self.name.to_lowercase();
        let time = ["timeout", "keep-alive", "http-keepalive", "harakiri"];
        let time = time.iter().any(|word| name.contains(word));
        self.observed_seconds = settings::seconds(value).filter(|_| time);
        self
    }

    fn measured(mut self, nanos: Option<u64>, from: &'static str) -> Self {
        if let Some(nanos) = nanos {
            self.observed_seconds = Some((nanos as f64 / 1e6).round() / 1e3);
            self.observed_from = Some(from);
        }
        self
    }

    fn counted(mut self, value: impl ToString, from: &'static str) -> Self {
        self.observed = Some(value.to_string());
        self.observed_from = Some(from);
        self
    }

    fn instead_of(mut self, name: &str) -> Self {
        self.alternative_to = Some(name.to_owned());
        self
    }

    fn risk(mut self, risk: &str) -> Self {
        self.risk = Some(risk.to_owned());
        self
    }
}

/// The setting for the number of workers, by software.
fn workers(scene: &Scene<'_>) -> Setting {
    let process = scene.upstream;
    if process.is_some_and(|p| p.sagemaker) {
        return setting(
            "sagemaker",
            "SAGEMAKER_MODEL_SERVER_WORKERS",
            "more, as memory allows",
        )
        .observed(process, &["sagemaker-model-server-workers"])
        .risk("each worker loads the model");
    }
    let more = "as many as requests wait at once, or faster requests";
    match scene.upstream_software() {
        Software::Gunicorn => setting(
            "gunicorn",
            "--workers",
            format!("{more}; --threads with gthread"),
        )
        .observed(process, &["workers"])
        .risk("memory of each worker"),
        Software::Uwsgi => setting("uwsgi", "processes", more)
            .observed(process, &["processes", "workers"])
            .risk("memory of each process"),
        Software::Uvicorn => setting("uvicorn", "--workers", more).risk("memory of each worker"),
        Software::Puma => setting("puma", "workers, threads", more).risk("memory of each worker"),
        Software::PhpFpm => {
            setting("php-fpm", "pm.max_children", more).risk("memory of each child")
        }
        Software::Node => setting(
            "node",
            "cluster, or more processes",
            "one per core; nothing that blocks the event loop",
        ),
        software => setting(name(software), "workers", more),
    }
}
