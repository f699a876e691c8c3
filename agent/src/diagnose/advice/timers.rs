//! Advice on timeouts: which timer fired, on which side, and the other side's.

use super::{Observed, Scene, name, setting, workers};
use crate::cause::{Cause, Variant};
use crate::diagnose::text::{clean, duration};
use crate::settings;
use crate::signal::{Opening, Process, Software};
use crate::verdict::{Advice, Setting};

/// SageMaker's own limit for `/invocations`.
const INVOCATIONS: &str = "60 s";

pub(super) fn read_timeout(scene: &Scene<'_>) -> Advice {
    let who = scene.upstream_name();
    let proxy = proxy_read_timeout(scene);
    let mut text = format!(
        "{}'s timer fired first: it gave up {} after it had sent the request ({}{}).",
        capital(&scene.proxy_name()),
        duration(scene.waited()),
        proxy.name,
        // Of several locations' values the wait tells which, not the configuration.
        proxy
            .observed
            .as_ref()
            .filter(|value| settings::seconds(value).is_some())
            .map_or_else(String::new, |value| format!(" {value}")),
    );
    text.push(' ');
    text.push_str(&match scene.diagnosis.cause {
        Cause::ReadTimeoutNeverAccepted => format!(
            "The request never left the accept queue: every worker of {who} was busy with others. \
             More workers or faster requests help; a longer timeout only lets it wait longer."
        ),
        Cause::ReadTimeoutNotRead => format!(
            "{} had accepted the connection and never read the request: its event loop or thread \
             was stuck elsewhere, or holds more connections than it serves.",
            capital(who)
        ),
        _ => what_it_did(scene),
    });
    if let Some(other) = upstream_timer(scene) {
        text.push(' ');
        text.push_str(&other);
    }

    let mut list = Vec::new();
    let proxy_name = proxy.name.clone();
    match scene.diagnosis.cause {
        Cause::ReadTimeoutNoReply => {
            list.push(proxy);
            list.extend(upstream_timeout(scene.upstream).map(|s| s.instead_of(&proxy_name)));
        }
        _ => {
            list.push(workers(scene));
            list.push(proxy);
        }
    }
    sagemaker(scene, &mut text, &mut list);
    Advice {
        text,
        settings: list,
    }
}

/// What the thread that had read the request was in, as one sentence with its remedy.
fn what_it_did(scene: &Scene<'_>) -> String {
    let who = scene.upstream_name();
    let peer = scene.known.attempt().peer.as_ref();
    if !peer.is_some_and(|peer| peer.read) {
        let who = capital(who);
        return format!("{who} did not answer; whether it had read the request is not seen.");
    }
    let peer = scene
        .known
        .host()
        .samples(scene.known.attempt().flow)
        .filter_map(|s| {
            s.fact
                .thread
                .socket_peer
                .as_ref()
                .map(|peer| clean(&peer.0))
        });
    let remedy = match scene.variant() {
        Some(Variant::WaitingOnSocket) => match peer.last() {
            Some(peer) => {
                return format!(
                    "{} had read the request and waited for {peer}: look there, and give that call a \
                     timeout shorter than the proxy's.",
                    capital(who)
                );
            }
            None => "waited on a socket: give that call a timeout shorter than the proxy's",
        },
        Some(Variant::Running) => "was computing all the time: make it faster, or give it longer",
        Some(Variant::Runnable) => "waited for a CPU: the host has too few for its load",
        Some(Variant::CpuThrottled) => {
            "was held by its cgroup's CPU quota: raise the quota (cpu.max, the container's CPU limit)"
        }
        Some(Variant::WaitingOnLock) => "waited for a lock that another thread or process holds",
        Some(Variant::Sleeping) => "was asleep, in its own code",
        Some(Variant::BlockedIo) => "waited for a disk or another device",
        Some(Variant::Stopped) => {
            "was stopped by a signal: SIGCONT lets it go on; a debugger, or an operator"
        }
        Some(Variant::Frozen) => "was frozen by its cgroup's freezer: a paused container",
        _ => "had not answered; what its threads did was not seen, or they waited for events",
    };
    format!("{} had read the request and {remedy}.", capital(who))
}

/// The proxy's timer that fired.
fn proxy_read_timeout(scene: &Scene<'_>) -> Setting {
    let made = read_timeout_of_proxy(scene, "longer than the slowest request that is wanted")
        .risk("a stuck upstream holds its clients longer");
    // Several values in the configuration: the wait tells which.
    if made.observed_seconds.is_some() {
        made
    } else {
        made.measured(Some(scene.waited()), scene.measured_by())
    }
}

/// The proxy's timer for the wait for this upstream, by its name there.
pub(super) fn read_timeout_of_proxy(scene: &Scene<'_>, suggested: &str) -> Setting {
    let request = scene.known.request().map(|r| &r.opening);
    let name = match (scene.proxy_software(), request) {
        (Software::Nginx, Some(Opening::Uwsgi)) => "uwsgi_read_timeout",
        (Software::Nginx, Some(Opening::FastCgi)) => "fastcgi_read_timeout",
        (Software::Nginx, _) => "proxy_read_timeout",
        (Software::Haproxy, _) => "timeout server",
        (Software::Envoy, _) => "route timeout",
        (Software::Apache, _) => "ProxyTimeout",
        (Software::Caddy, _) => "response_header_timeout",
        (Software::Varnish, _) => "first_byte_timeout",
        _ => "read timeout",
    };
    setting(&scene.proxy_name(), name, suggested).observed(scene.proxy, &[&settings::plain(name)])
}

/// The upstream's own timer, which did not fire, in a sentence.
fn upstream_timer(scene: &Scene<'_>) -> Option<String> {
    let process = scene.upstream?;
    let (names, option, default): (&[&str], _, _) = match process.software {
        Software::Gunicorn => (&["timeout"], "--timeout", Some(30.0)),
        Software::Uwsgi => (&["harakiri"], "harakiri", None),
        _ => return None,
    };
    let given = settings::find(process, names).and_then(|(_, v)| settings::seconds(v));
    let who = name(process.software);
    let Some(limit) = given.or(default) else {
        return Some(format!("{who} has no {option}: it would have worked on."));
    };
    let of = if given.is_some() {
        ""
    } else {
        ", its default,"
    };
    if limit <= 0.0 {
        return Some(format!("{who} {option} is off: it would have worked on."));
    }
    let limit_text = duration((limit * 1e9) as u64);
    Some(if limit * 1e9 > scene.waited() as f64 {
        format!(
            "{who} {option} of {limit_text}{of} would have fired later: set it below the proxy's to free the worker."
        )
    } else {
        format!(
            "{who} {option} of {limit_text}{of} had not ended it: it watches workers that do not report, not requests."
        )
    })
}

fn upstream_timeout(process: Option<&Process>) -> Option<Setting> {
    let process = process?;
    let made = match process.software {
        Software::Gunicorn => setting(
            "gunicorn",
            "--timeout",
            "shorter than the proxy's: a stuck worker is freed",
        )
        .observed(Some(process), &["timeout"])
        .risk("the worker's other requests die with it"),
        Software::Uwsgi => setting(
            "uwsgi",
            "harakiri",
            "shorter than the proxy's: a stuck worker is freed",
        )
        .observed(Some(process), &["harakiri"])
        .risk("the worker is killed"),
        Software::PhpFpm => setting(
            "php-fpm",
            "request_terminate_timeout",
            "shorter than the proxy's",
        ),
        _ => return None,
    };
    Some(made)
}

/// A model server's own names, and the limit that no setting moves.
fn sagemaker(scene: &Scene<'_>, text: &mut String, list: &mut Vec<Setting>) {
    let Some(process) = scene.upstream.filter(|p| p.sagemaker) else {
        return;
    };
    text.push_str(&format!(
        " This is a SageMaker container: /invocations must be answered within {INVOCATIONS}, whatever \
         the timers here; what takes longer belongs into an asynchronous endpoint or a batch transform \
         with a smaller MaxConcurrentTransforms."
    ));
    list.push(
        setting(
            "sagemaker",
            "SAGEMAKER_MODEL_SERVER_TIMEOUT",
            format!("at most {INVOCATIONS}"),
        )
        .observed(Some(process), &["sagemaker-model-server-timeout"]),
    );
    if !list
        .iter()
        .any(|s| s.name == "SAGEMAKER_MODEL_SERVER_WORKERS")
    {
        list.push(workers(scene));
    }
    list.push(setting(
        "sagemaker",
        "MaxConcurrentTransforms",
        "no more than the model server's workers",
    ));
}

pub(super) fn send_timeout(scene: &Scene<'_>) -> Advice {
    let name = match scene.proxy_software() {
        Software::Nginx => "proxy_send_timeout",
        Software::Haproxy => "timeout server",
        _ => "send timeout",
    };
    let text = format!(
        "{} stopped reading in the middle of the request: its window stayed closed until {} gave up. \
         A server that does not want a body must answer and drain it, or read it.",
        capital(scene.upstream_name()),
        scene.proxy_name()
    );
    let made = setting(
        &scene.proxy_name(),
        name,
        "longer, if the upstream reads that slowly",
    )
    .observed(scene.proxy, &[&settings::plain(name)]);
    let buffering = setting(&scene.proxy_name(), "proxy_request_buffering", "on")
        .observed(scene.proxy, &["proxy-request-buffering"]);
    let mut list = vec![made];
    if scene.proxy_software() == Software::Nginx {
        list.push(buffering.instead_of(name));
    }
    Advice {
        text,
        settings: list,
    }
}

pub(super) fn downstream_gave_up(scene: &Scene<'_>) -> Advice {
    let waited = duration(
        scene
            .known
            .tried
            .at
            .saturating_sub(scene.known.attempt().began),
    );
    let link = scene.known.attempt().downstream.as_ref();
    let constant = link.and_then(|link| {
        let client = link.client.as_ref()?;
        scene
            .known
            .host()
            .gives_up_after(scene.known.attempt().proxy, client)
    });
    let proxy = proxy_read_timeout(scene);
    let Some(constant) = constant else {
        return Advice {
            text: format!(
                "The client closed its connection after {waited}, before {} had answered.",
                scene.upstream_name()
            ),
            settings: Vec::new(),
        };
    };
    let constant_text = duration(constant);
    let text = format!(
        "The tier in front gives up after {constant_text}, every time: that is its timeout, and it is \
         shorter than {}'s here. It answers 504 on its own while this proxy still waits. Timeouts \
         must grow from the inside out.",
        scene.proxy_name()
    );
    let front = setting(
        "tier in front",
        "its timeout for this proxy",
        "longer than the proxy's here",
    )
    .measured(Some(constant), "wire");
    let here = Setting {
        suggested: format!("less than {constant_text}"),
        risk: Some("slow requests fail earlier, here".to_owned()),
        // What was measured is the front's wait, not this proxy's.
        observed_seconds: proxy.observed_seconds.filter(|_| proxy.observed.is_some()),
        observed_from: proxy.observed_from.filter(|_| proxy.observed.is_some()),
        ..proxy
    };
    let mut list = vec![here.instead_of("its timeout for this proxy")];
    list.insert(0, front);
    Advice {
        text,
        settings: list,
    }
}

pub(super) fn capital(word: &str) -> String {
    let mut chars = word.chars();
    match chars.next() {
        // Names of software keep their spelling.
        Some(first) if word.starts_with("the ") => first.to_uppercase().chain(chars).collect(),
        _ => word.to_owned(),
    }
}
