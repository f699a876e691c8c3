//! Advice on a full accept queue: its length, its limit, what sets the limit, and why it fills; and on one of
//! half-open connections.

use super::{Observed, Scene, name, setting, workers};
use crate::settings;
use crate::signal::Software;
use crate::verdict::{Advice, Setting};

pub(super) fn full(scene: &Scene<'_>) -> Advice {
    let queue = scene.known.attempt().queue.as_ref();
    let listener = scene
        .known
        .host()
        .listener(scene.known.attempt())
        .map(|l| &l.fact);
    let limit = queue.map(|q| q.limit).or(listener.map(|l| l.limit));
    let somaxconn = listener.and_then(|l| l.somaxconn);
    let backlog = scene
        .upstream
        .and_then(|p| settings::find(p, &["backlog", "listen"]))
        .and_then(|(_, value)| value.parse::<u32>().ok());

    let who = scene.upstream_name();
    let seen = match (queue, limit) {
        (Some(q), _) => format!("{} connections waited, its limit is {}", q.length, q.limit),
        (None, Some(limit)) => format!("its limit is {limit}"),
        (None, None) => "its length and limit were not seen".to_owned(),
    };
    let set_by = match (limit, backlog, somaxconn) {
        (Some(limit), Some(backlog), _) if limit == backlog => {
            format!(" The application's backlog of {backlog} sets the limit.")
        }
        (Some(limit), _, Some(max)) if limit == max => format!(
            " net.core.somaxconn of its network namespace ({max}) sets the limit{}.",
            backlog.map_or_else(String::new, |b| format!(", not its backlog of {b}"))
        ),
        (Some(limit), None, Some(max)) if limit < max => {
            format!(" The application's own backlog sets the limit; net.core.somaxconn is {max}.")
        }
        _ => String::new(),
    };
    let text = format!(
        "The accept queue of {who} was full: {seen}.{set_by} It fills because requests come faster \
         than the workers take them; a longer queue only lets them wait longer. The limit is fixed \
         when the application starts to listen: it must be restarted to change it."
    );

    let wanted = limit.map_or(1024, |limit| limit.saturating_mul(2).max(1024));
    let workers = workers(scene);
    let workers_name = workers.name.clone();
    let backlog_name = backlog_name(scene.upstream_software());
    let mut list = vec![workers];
    let software = name(scene.upstream_software());
    let longer = setting(
        software,
        backlog_name,
        format!("{wanted}, then restart the application"),
    )
    .observed(scene.upstream, &["backlog", "listen"])
    .instead_of(&workers_name)
    .risk("requests wait longer; the proxy's timeout may end them while they wait");
    list.push(match (longer.observed.is_none(), limit) {
        (true, Some(limit)) if somaxconn != Some(limit) => longer.counted(limit, "kernel"),
        _ => longer,
    });
    list.push(namespace_limit(
        somaxconn,
        listener.map(|l| l.netns),
        wanted,
    ));
    Advice {
        text,
        settings: list,
    }
}

/// Nothing fails of it where cookies are on.
pub(super) fn half_open(scene: &Scene<'_>) -> Advice {
    let queue = scene.known.attempt().queue.as_ref();
    let seen = match queue.and_then(|queue| queue.half_open) {
        Some(count) => format!(": {count} handshakes had begun and not ended"),
        None => String::new(),
    };
    let text = format!(
        "The listener of {} had room in its accept queue and dropped the connect: its queue of half-open \
         connections was full{seen}. With SYN cookies the kernel answers all the same. Look who begins so \
         many (ss -tn state syn-recv): a SYN flood, or a path on which the last packet of handshakes is lost.",
        scene.upstream_name()
    );
    let kernel = |name, suggested: &str| setting("kernel", name, suggested);
    let mut cookies = kernel(
        "net.ipv4.tcp_syncookies",
        "1, in the upstream's network namespace",
    );
    let mut longer = kernel(
        "net.ipv4.tcp_max_syn_backlog",
        "higher, where cookies must stay off",
    );
    if let Some(settings) = queue.and_then(|queue| queue.syn_settings) {
        cookies = cookies.counted(settings.cookies, "kernel");
        longer = longer.counted(settings.max_backlog, "kernel");
    }
    Advice {
        text,
        settings: vec![
            cookies.risk("connections made by cookie lose some TCP options under load"),
            longer.instead_of("net.ipv4.tcp_syncookies").risk("memory"),
        ],
    }
}

fn backlog_name(software: Software) -> &'static str {
    match software {
        Software::Gunicorn => "--backlog",
        Software::Uwsgi => "listen",
        Software::Uvicorn => "--backlog",
        Software::Node => "server.listen({ backlog })",
        Software::Puma => "backlog of bind",
        Software::PhpFpm => "listen.backlog",
        Software::Tomcat => "acceptCount",
        Software::Nginx => "listen backlog=",
        Software::Apache => "ListenBacklog",
        _ => "backlog of listen()",
    }
}

/// `net.core.somaxconn` caps every backlog of its namespace.
fn namespace_limit(somaxconn: Option<u32>, netns: Option<u32>, wanted: u32) -> Setting {
    let place = match netns {
        Some(netns) if netns != 0 => format!(" in network namespace {netns}"),
        _ => " in the upstream's network namespace".to_owned(),
    };
    let suggested = match somaxconn {
        Some(max) if max >= wanted => format!("leave it{place}: it allows {wanted}"),
        _ => format!("at least {wanted}{place}, before the application is restarted"),
    };
    let made = setting("kernel", "net.core.somaxconn", suggested);
    match somaxconn {
        Some(max) => made.counted(max, "kernel"),
        None => made,
    }
}
