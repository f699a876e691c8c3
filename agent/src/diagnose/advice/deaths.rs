//! Advice on processes that died with a request: whose timer, whose signal, whose fault.

use super::timers::{capital, read_timeout_of_proxy};
use super::{Observed, Scene, setting, workers};
use crate::cause::Cause;
use crate::diagnose::text::duration;
use crate::settings;
use crate::signal::{Process, Software};
use crate::verdict::{Advice, Setting};

pub(super) fn died(scene: &Scene<'_>) -> Advice {
    match scene.diagnosis.cause {
        Cause::WorkerTimeoutKilled => timeout_killed(scene),
        Cause::WorkerOomKilled => oom_killed(scene),
        Cause::UpstreamShutdown | Cause::ListenerDied => shutdown(scene),
        Cause::WorkerKilled => Advice {
            text: format!(
                "Another process killed the worker of {} that had the request: {}. Find out why it \
                 does that: an operator, a watchdog, a node agent.",
                scene.upstream_name(),
                told(scene, "signal_sent").unwrap_or_else(|| "who did was not seen".to_owned()),
            ),
            settings: Vec::new(),
        },
        _ => Advice {
            text: format!(
                "The process of {} that had read the request died by itself: {}. Look for the fault in \
                 the application (its log, a core dump); this request may do it again.",
                scene.upstream_name(),
                told(scene, "process_exited").unwrap_or_else(|| "its exit was seen".to_owned()),
            ),
            settings: Vec::new(),
        },
    }
}

/// The text of this piece of evidence.
fn told(scene: &Scene<'_>, name: &str) -> Option<String> {
    scene
        .diagnosis
        .evidence
        .iter()
        .find(|f| f.name == name)
        .map(|f| f.text.clone())
}

fn timeout_killed(scene: &Scene<'_>) -> Advice {
    let process = scene.upstream;
    // From the read, or the request, to the close.
    let from = scene
        .known
        .reader()
        .map(|r| r.at)
        .or(scene.known.request().map(|r| r.at));
    let worked = from.map(|from| scene.known.closed_at().saturating_sub(from));
    let (name, plain, default): (_, &[&str], _) = match scene.upstream_software() {
        Software::Gunicorn => ("--timeout", &["timeout"], " (30 s by default)"),
        Software::Uwsgi => ("harakiri", &["harakiri"], ""),
        Software::PhpFpm => ("request_terminate_timeout", &[], ""),
        _ => ("the supervisor's timeout", &[], ""),
    };
    let given = process
        .and_then(|p| settings::find(p, plain))
        .map(|(_, value)| value.to_owned());
    let limit = given.map_or_else(|| default.to_owned(), |value| format!(" {value}"));
    let proxys = read_timeout_of_proxy(scene, "longer than the upstream's timer");
    // One value for all locations, which the wait does not contradict.
    let waited = scene.waited() as f64 / 1e9;
    let other = match (&proxys.observed, proxys.observed_seconds) {
        (Some(value), Some(seconds)) if seconds > waited => format!("{} {value}", proxys.name),
        (None, _) if scene.proxy.is_some_and(has_nginx_defaults) => {
            format!("{}, 60 s by default,", proxys.name)
        }
        _ => format!("its {}", proxys.name),
    };
    let mut text = format!(
        "{}'s timer fired first: {name}{limit} ended the worker{}; {} still waited ({other} had not \
         passed). Make the request faster, or give it longer on both sides, the upstream's timer below \
         the proxy's.",
        capital(scene.upstream_name()),
        worked.map_or_else(String::new, |w| format!(
            " {} after it had read the request",
            duration(w)
        )),
        scene.proxy_name(),
    );
    let software = super::name(scene.upstream_software());
    let own = setting(
        software,
        name,
        "longer than the slowest request that is wanted",
    )
    .observed(process, plain)
    .risk("a stuck worker is freed later");
    let own = if own.observed.is_none() {
        own.measured(worked, "kernel")
    } else {
        own
    };
    let own_name = own.name.clone();
    let mut list = vec![own];
    if scene.upstream_software() == Software::Gunicorn {
        list.push(
            setting(
                "gunicorn",
                "--worker-class",
                "gthread: the timer then watches the worker, not the request",
            )
            .observed(process, &["worker-class"])
            .instead_of(&own_name)
            .risk("the application must be thread-safe"),
        );
    }
    list.push(proxys);
    if let Some(process) = process.filter(|p| p.sagemaker) {
        text.push_str(" This is a SageMaker container: /invocations has 60 s in any case.");
        list.push(
            setting(
                "sagemaker",
                "SAGEMAKER_MODEL_SERVER_TIMEOUT",
                "at most 60 s",
            )
            .observed(Some(process), &["sagemaker-model-server-timeout"]),
        );
    }
    Advice {
        text,
        settings: list,
    }
}

/// Its configuration was read: what is not in it has its default value.
fn has_nginx_defaults(proxy: &Process) -> bool {
    proxy.software == Software::Nginx && !proxy.settings.is_empty()
}

fn oom_killed(scene: &Scene<'_>) -> Advice {
    let text = format!(
        "The kernel killed the worker of {} for memory: its cgroup's limit, or the host's memory, was \
         used up. Give it more, or let it need less.",
        scene.upstream_name()
    );
    let fewer = Setting {
        suggested: "fewer".to_owned(),
        risk: Some("fewer requests at once".to_owned()),
        ..workers(scene)
    };
    let limit = setting(
        "kernel",
        "memory.max of its cgroup",
        "above the workers' peak together",
    );
    let recycle = setting(
        "gunicorn",
        "--max-requests",
        "restart workers before they have grown",
    )
    .observed(scene.upstream, &["max-requests"]);
    let mut list = vec![limit, fewer.instead_of("memory.max of its cgroup")];
    if scene.upstream_software() == Software::Gunicorn {
        list.push(recycle.instead_of("memory.max of its cgroup"));
    }
    Advice {
        text,
        settings: list,
    }
}

fn shutdown(scene: &Scene<'_>) -> Advice {
    let queued = scene.diagnosis.cause == Cause::ListenerDied;
    let sender = told(scene, "signal_sent").map_or_else(String::new, |t| format!(" ({t})"));
    let text = if queued {
        format!(
            "The last process that listened for {} ended while this connection waited to be accepted. \
             Take an upstream out of the proxy's rotation before it stops, and let it drain its queue.",
            scene.upstream_name()
        )
    } else {
        format!(
            "{} was stopped or reloaded with the request in flight{sender}. Take it out of the proxy's \
             rotation first, stop it gracefully, and give it time to finish.",
            capital(scene.upstream_name())
        )
    };
    let mut list = Vec::new();
    match scene.upstream_software() {
        Software::Gunicorn => {
            list.push(setting(
                "gunicorn",
                "stop signal",
                "TERM (graceful); QUIT and INT end requests at once",
            ));
            list.push(
                setting(
                    "gunicorn",
                    "--graceful-timeout",
                    "longer than the slowest request; systemd's or Kubernetes' grace above it",
                )
                .observed(scene.upstream, &["graceful-timeout"]),
            );
        }
        Software::Node => list.push(setting(
            "node",
            "process.on('SIGTERM')",
            "server.close(), then exit when it has drained",
        )),
        Software::Uwsgi => list.push(
            setting(
                "uwsgi",
                "worker-reload-mercy",
                "longer than the slowest request",
            )
            .observed(scene.upstream, &["worker-reload-mercy"]),
        ),
        _ => {}
    }
    Advice {
        text,
        settings: list,
    }
}
