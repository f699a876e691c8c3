//! The five things that the demo breaks, each with the truth that the labels are held against.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::apps::{self, Gunicorn, Upstream};
use super::nginx::Nginx;
use crate::http::{self, Answer, Connection};
use crate::process::{self, until};
use crate::shell;

/// One request that failed, and the causes that what was done to it admits.
pub(crate) struct Case {
    pub(crate) answer: Answer,
    /// Causes, or `cause/variant`.
    pub(crate) truth: Vec<&'static str>,
}

/// What one act did.
pub(crate) struct Act {
    pub(crate) title: &'static str,
    pub(crate) broken: &'static str,
    pub(crate) play: fn(&Stage) -> Result<Played>,
}

/// An act that is over.
pub(crate) struct Played {
    pub(crate) cases: Vec<Case>,
    /// Kept until the verdicts are in: an end right after a failure would be a fact about it.
    pub(crate) upstreams: Vec<Upstream>,
}

/// What the acts have to work with.
pub(crate) struct Stage<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) nginx: &'a Nginx,
    pub(crate) orders: u16,
    pub(crate) payments: u16,
    pub(crate) database: u16,
}

pub(crate) const ACTS: &[Act] = &[
    Act {
        title: "A burst meets one slow worker",
        broken: "gunicorn with one worker needs 2 s per request and lets 128 wait; 200 customers \
                 come within a second. nginx waits 10 s for an answer.",
        play: burst,
    },
    Act {
        title: "The keep-alive race",
        broken: "Node.js closes idle connections after 1 s; nginx keeps them for 60 s. Six orders \
                 are sent on connections just as Node.js closes them. Nothing has crashed.",
        play: race,
    },
    Act {
        title: "The same log lines, another cause",
        broken: "The same kind of connections, but now Node.js dies after it has read the request: \
                 by process.exit, by a segmentation fault, by somebody's kill -9.",
        play: deaths,
    },
    Act {
        title: "A model server that does not answer",
        broken: "POST /invocations takes longer than nginx's 3 s, for four reasons: the code \
                 sleeps; it computes; it waits for a database; it was stopped.",
        play: model,
    },
    Act {
        title: "Which timer fires first?",
        broken: "A request needs 8 s. One gunicorn kills its worker after 2 s (nginx would wait \
                 10 s); with the other, nginx gives up after 2 s (gunicorn would wait 30 s).",
        play: timers,
    },
];

fn burst(stage: &Stage) -> Result<Played> {
    let shop = apps::gunicorn(
        stage.folder,
        &Gunicorn {
            name: "shop",
            workers: 1,
            options: &["--backlog", "128", "--timeout", "60"],
            seconds: 2.0,
            database: stage.database,
        },
    )?;
    let paths = (1..=200)
        .map(|number| format!("/shop/sleep-{number}"))
        .collect();
    println!("   200 requests are on their way; nginx's timer fires after 10 s …");
    let answers = http::burst(stage.nginx.address, "GET", paths, Duration::from_secs(1));
    let cases = answers
        .into_iter()
        .map(|answer| {
            let truth = match answer.status {
                502 => vec!["unix_accept_queue_full"],
                504 => read_or_not(&shop, &answer),
                _ => vec![],
            };
            Case { answer, truth }
        })
        .collect();
    Ok(Played {
        cases,
        upstreams: vec![shop],
    })
}

/// Whether the worker had read the request when nginx gave up, by the application's own log. It
/// goes on to read dead requests afterwards.
fn read_or_not(upstream: &Upstream, answer: &Answer) -> Vec<&'static str> {
    const READ: &str = "read_timeout_no_reply";
    const NOT: &str = "read_timeout_never_accepted";
    // The log line and the response are written by two processes; closer than this, either.
    let either = Duration::from_millis(50);
    match upstream.read(&answer.path).map(|(time, _)| time) {
        Some(read) if read + either < answer.at => vec![READ],
        Some(read) if read < answer.at + either => vec![READ, NOT],
        _ => vec![NOT],
    }
}

fn race(stage: &Stage) -> Result<Played> {
    const CONNECTIONS: usize = 6;
    let orders = apps::node(stage.folder, "orders", stage.orders, Duration::from_secs(1))?;
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(Connection::open(stage.nginx.address)?);
    }
    // At the same time, so that nginx opens a connection for each and pools them all.
    let mut cases = Vec::new();
    for (client, number) in clients.iter_mut().zip(1..) {
        client.send("POST", &format!("/orders/first-{number}"))?;
    }
    cases.extend(clients.iter_mut().map(|client| healthy(client.receive())));

    // A busy worker looks like this: the request and the close both wait for it, and it takes
    // the request first.
    let worker = stage.nginx.worker()?;
    process::signal(worker, libc::SIGSTOP);
    let closed = (|| {
        until("nginx to stop", Duration::from_secs(5), || stopped(worker))?;
        for (client, number) in clients.iter_mut().zip(1..) {
            client.send("POST", &format!("/orders/raced-{number}"))?;
        }
        until("Node.js to close", Duration::from_secs(10), || {
            half_closed(stage.orders) >= CONNECTIONS
        })
    })();
    process::signal(worker, libc::SIGCONT);
    closed?;
    cases.extend(clients.iter_mut().map(|client| Case {
        answer: client.receive(),
        truth: vec!["keepalive_race/fin_already_received"],
    }));
    Ok(Played {
        cases,
        upstreams: vec![orders],
    })
}

fn deaths(stage: &Stage) -> Result<Played> {
    let mut cases = Vec::new();
    for (what, truth) in [
        ("exit", "worker_crashed/exit"),
        ("segv", "worker_crashed/signal"),
        ("hang", "worker_killed"),
    ] {
        let payments = apps::node(
            stage.folder,
            &format!("payments-{what}"),
            stage.payments,
            Duration::from_secs(60),
        )?;
        let mut client = Connection::open(stage.nginx.address)?;
        client.send("POST", &format!("/payments/first-{what}"))?;
        cases.push(healthy(client.receive()));
        let path = format!("/payments/{what}-1");
        client.send("POST", &path)?;
        if what == "hang" {
            payments.wait_until_read(&path)?;
            // By a program of its own: a kill by the parent would be a supervisor's.
            let pid = payments.process.pid().to_string();
            shell::ask(shell::command("sh").args(["-c", "kill -9 \"$0\"", &pid]))
                .context("kill Node.js")?;
        }
        cases.push(Case {
            answer: client.receive(),
            truth: vec![truth],
        });
    }
    Ok(Played {
        cases,
        upstreams: vec![],
    })
}

fn model(stage: &Stage) -> Result<Played> {
    // Computing takes a core; on a machine that has none to spare it waits for one.
    const KINDS: [(&str, &[&str]); 4] = [
        ("sleep-1", &["read_timeout_no_reply/sleeping"]),
        (
            "spin-1",
            &[
                "read_timeout_no_reply/running",
                "read_timeout_no_reply/runnable",
            ],
        ),
        ("query-1", &["read_timeout_no_reply/waiting_on_socket"]),
        ("sleep-stopped", &["read_timeout_no_reply/stopped"]),
    ];
    let model = apps::gunicorn(
        stage.folder,
        &Gunicorn {
            name: "model",
            workers: 4,
            options: &["--timeout", "60"],
            seconds: 8.0,
            database: stage.database,
        },
    )?;
    let address = stage.nginx.address;
    let asking: Vec<_> = KINDS
        .iter()
        .map(|(kind, truth)| {
            let path = format!("/invocations/{kind}");
            let client = std::thread::spawn({
                let path = path.clone();
                move || http::request(address, "POST", &path)
            });
            (path, client, *truth)
        })
        .collect();
    let stopped = &asking.last().context("no request")?.0;
    process::signal(model.wait_until_read(stopped)?, libc::SIGSTOP);
    let cases = asking
        .into_iter()
        .filter_map(|(_, client, truth)| {
            Some(Case {
                answer: client.join().ok()?,
                truth: truth.to_vec(),
            })
        })
        .collect();
    Ok(Played {
        cases,
        upstreams: vec![model],
    })
}

fn timers(stage: &Stage) -> Result<Played> {
    let mut cases = Vec::new();
    let gunicorn = |name, options| {
        apps::gunicorn(
            stage.folder,
            &Gunicorn {
                name,
                workers: 1,
                options,
                seconds: 8.0,
                database: stage.database,
            },
        )
    };
    let strict = gunicorn("strict", &["--timeout", "2"])?;
    let patient = gunicorn("patient", &["--timeout", "30"])?;
    for (path, truth) in [
        ("/strict/sleep-1", "worker_timeout_killed"),
        ("/patient/sleep-1", "read_timeout_no_reply"),
    ] {
        let answer = http::request(stage.nginx.address, "GET", path);
        cases.push(Case {
            answer,
            truth: vec![truth],
        });
    }
    Ok(Played {
        cases,
        upstreams: vec![strict, patient],
    })
}

fn healthy(answer: Answer) -> Case {
    Case {
        answer,
        truth: vec![],
    }
}

fn stopped(pid: u32) -> bool {
    process::living().is_ok_and(|all| {
        all.iter()
            .any(|process| process.pid == pid && process.state == 'T')
    })
}

/// How many connections to this port their peer has closed and they themselves have not.
fn half_closed(port: u16) -> usize {
    const CLOSE_WAIT: &str = "08";
    let remote = format!(":{port:04X}");
    fs::read_to_string("/proc/net/tcp")
        .unwrap_or_default()
        .lines()
        .filter(|line| {
            let fields: Vec<&str> = line.split_whitespace().take(4).collect();
            matches!(fields[..], [_, _, to, CLOSE_WAIT] if to.ends_with(&remote))
        })
        .count()
}
