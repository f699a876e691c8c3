//! Row 1: nginx, gunicorn with one sync worker, two seconds per request, 200 requests within one
//! second. Full accept queues on a Unix socket and on TCP, and one long enough.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::front::{Front, PLAIN_PORT};
use super::{GUNICORN, NGINX};
use crate::client::{Request, Timed};
use crate::expect::{Check, Expect};
use crate::ledger::Sent;
use crate::netns::NetNs;
use crate::pcap::Dump;
use crate::run::{Need, Run, Scenario};
use crate::software::{Gunicorn, Nginx};
use crate::wait;

const REQUESTS: u32 = 200;
const NEEDS: &[Need] = &[NGINX, GUNICORN];
/// A read and a timer this close to each other cannot be put in order from outside.
const TOO_CLOSE_NS: u64 = 15_000_000;
/// So late the gauges may be.
const GAUGES: Duration = Duration::from_secs(5);

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            row: 1,
            name: "unix-backlog-128",
            needs: NEEDS,
            run: |run| unix(run, Front::Plain, 128),
        },
        Scenario {
            row: 1,
            name: "tcp-backlog-128",
            needs: &[NGINX, GUNICORN, Need::Program("tcpdump")],
            run: |run| tcp(run, Front::Plain),
        },
        Scenario {
            row: 1,
            name: "unix-backlog-1024",
            needs: NEEDS,
            run: |run| unix(run, Front::Plain, 1024),
        },
    ]
}

/// Over a Unix socket; with a backlog of 1024 nothing is refused.
pub(super) fn unix(run: &mut Run, front: Front, backlog: u32) -> Result<()> {
    let ns = NetNs::new()?;
    ns.sh("echo 1024 > /proc/sys/net/core/somaxconn")?;
    let socket = run.folder.join("gunicorn.sock");
    let bind = format!("unix:{}", socket.display());
    let options = ["--backlog", &backlog.to_string(), "--timeout", "60"];
    let gunicorn = Gunicorn::start(run, &ns, "gunicorn", &bind, 1, &options)?;
    let nginx = start_nginx(run, &ns, front, &bind)?;
    run.watch(&[&nginx])?;
    let sent = front.burst(run, &ns, classic(run, front, "/predict"))?;
    check_gauges(run, &ns, &bind, backlog)?;
    if backlog < REQUESTS {
        run.at_least("queue_full", 30);
    }
    run.at_least("never_accepted", 30);

    for sent in &sent {
        state_unix_truth(run, &gunicorn, sent, front, backlog)?;
    }
    run.hold((nginx, gunicorn, ns));
    Ok(())
}

/// The truth about one request to the crowded server.
pub(super) fn state_unix_truth(
    run: &Run,
    gunicorn: &Gunicorn,
    sent: &Sent,
    front: Front,
    backlog: u32,
) -> Result<()> {
    let expect = match sent.status {
        Some(502) => {
            ensure!(backlog < REQUESTS, "a 502 with room in the queue: {sent:?}");
            let expect = Expect::verdict("queue_full", &[502], "unix_accept_queue_full")
                .with(Check::Says("/evidence", backlog.to_string()))
                .with(Check::Says("/evidence", (backlog + 1).to_string()))
                .with(Check::SaysAnywhere("--backlog".into()));
            match front {
                Front::Plain => expect,
                Front::TlsHttp2 => expect.pathless(),
            }
        }
        Some(504) => timed_out(gunicorn, sent),
        _ => return Ok(()),
    };
    run.ledger.expect(&sent.path, front.adapt(expect));
    Ok(())
}

pub(super) fn tcp(run: &mut Run, front: Front) -> Result<()> {
    let ns = NetNs::new()?;
    let bind = "127.0.0.1:9000";
    let options = ["--backlog", "128", "--timeout", "60"];
    let gunicorn = Gunicorn::start(run, &ns, "gunicorn", bind, 1, &options)?;
    let nginx = start_nginx(run, &ns, front, bind)?;
    run.watch(&[&nginx])?;
    let dump = Dump::start(&ns, "lo", 9000, &run.folder)?;
    let sent = front.burst(run, &ns, classic(run, front, "/predict"))?;
    check_gauges(run, &ns, bind, 128)?;
    run.at_least("syn_dropped", 30);
    run.at_least("never_accepted", 30);

    // Which timer fired is nginx's own word; nothing but the queue can hold a connect up here.
    let errors = nginx.errors()?;
    let seen = dump.judge()?;
    for sent in sent.iter().filter(|sent| sent.status == Some(504)) {
        let full = |cell| Expect::verdict(cell, &[504], "tcp_accept_queue_full").variant(cell);
        // Behind TLS the request itself is known only from the upstream's side.
        let unsent = |expect: Expect| match front {
            Front::Plain => expect,
            Front::TlsHttp2 => expect.pathless(),
        };
        let connecting = errors.get(&sent.path).is_some_and(|messages| {
            messages
                .iter()
                .any(|message| message.contains("while connecting to upstream"))
        });
        // The SYN found room, the handshake's last ACK did not: nginx has a connection and the
        // listener has none.
        let half_open_until = |end: u64| {
            let mut seen = seen.iter().filter(|seen| seen.path == sent.path);
            seen.any(|seen| seen.syn_acks > 1 && !seen.acknowledged_by(end))
        };
        let expect = if connecting {
            unsent(full("syn_dropped"))
        } else if half_open_until(sent.ended) {
            full("ack_dropped")
        } else if half_open_until(sent.ended - TOO_CLOSE_NS) {
            // Room was found as nginx gave up, by its FIN or just before.
            full("ack_dropped").or("read_timeout_never_accepted", None)
        } else {
            timed_out(&gunicorn, sent)
        };
        run.ledger.expect(&sent.path, front.adapt(expect));
    }
    run.hold((nginx, gunicorn, ns));
    Ok(())
}

/// The worker takes a request every two seconds: its reads and nginx's timers are half a second apart.
fn start_nginx(run: &Run, ns: &NetNs, front: Front, bind: &str) -> Result<Nginx> {
    let listen = front.listen(run)?;
    let http = format!(
        "upstream model {{ server {bind}; }}
         server {{ {listen}
           location / {{ proxy_pass http://model; proxy_read_timeout 10500ms; proxy_connect_timeout 6s; }} }}"
    );
    Nginx::start(run, ns, 1, PLAIN_PORT, &http)
}

/// 200 requests within one second (over HTTP/2 in four bundles).
pub(super) fn classic(run: &Run, front: Front, folder: &str) -> Vec<Timed> {
    let step = match front {
        Front::Plain => Duration::from_millis(5),
        Front::TlsHttp2 => Duration::from_millis(250),
    };
    let bundle = match front {
        Front::Plain => 1,
        Front::TlsHttp2 => REQUESTS / 4,
    };
    (0..REQUESTS)
        .map(|number| {
            let request = Request::get(run.path(folder)).query("do=sleep&ms=2000");
            (step * (number / bundle), request)
        })
        .collect()
}

/// A 504 after nginx's read timer: had the worker read it by then?
fn timed_out(gunicorn: &Gunicorn, sent: &Sent) -> Expect {
    let waiting = Expect::verdict("never_accepted", &[504], "read_timeout_never_accepted");
    let reading = Expect::verdict("no_reply", &[504], "read_timeout_no_reply").variant("sleeping");
    match gunicorn.log.reads().get(&sent.path).map(|line| line.t) {
        Some(read) if read + TOO_CLOSE_NS < sent.ended => reading,
        Some(read) if read < sent.ended + TOO_CLOSE_NS => {
            // Between the accept and the read there is a moment, and one before it sleeps, too.
            [None, Some("running"), Some("runnable")]
                .into_iter()
                .fold(reading, |reading, early| {
                    reading.or("read_timeout_no_reply", early)
                })
                .or("read_timeout_never_accepted", None)
                .or("read_timeout_not_read", None)
        }
        _ => waiting,
    }
}

/// The gauges show the listener's limit, how far its queue went and how long it is.
fn check_gauges(run: &mut Run, ns: &NetNs, bind: &str, backlog: u32) -> Result<()> {
    if !run.has_metrics() {
        return Ok(());
    }
    let limit = run.metric("why502_accept_queue_limit", bind);
    if limit != Some(f64::from(backlog)) {
        run.problem(format!(
            "why502_accept_queue_limit of {bind} is {limit:?}, not {backlog}"
        ));
    }
    // A queue holds one more than its limit; TCP looks whether there is room before it takes the lock, on
    // each processor. With room for all, the worker takes one connection every two seconds, and all others
    // wait, dead or alive.
    let processors = std::thread::available_parallelism()?.get() as u32;
    let more = match bind.parse::<SocketAddr>() {
        Ok(_) => processors,
        Err(_) => 1,
    };
    let expected = match backlog {
        _ if backlog < REQUESTS => f64::from(backlog + 1)..=f64::from(backlog + more),
        _ => f64::from(REQUESTS) * 0.9..=f64::from(REQUESTS),
    };
    let peak = run.highest("why502_accept_queue_peak", bind)?;
    if !peak.is_some_and(|peak| expected.contains(&peak)) {
        run.problem(format!(
            "why502_accept_queue_peak of {bind} was at most {peak:?}, not in {expected:?}"
        ));
    }
    let (mut length, mut truth) = (None, 0);
    let equal = wait::until("the length", GAUGES, || {
        length = run.metric("why502_accept_queue_length", bind);
        truth = waiting(ns, bind).unwrap_or_default();
        length == Some(f64::from(truth))
    });
    if equal.is_err() {
        run.problem(format!(
            "why502_accept_queue_length of {bind} is {length:?}, ss says {truth}"
        ));
    }
    Ok(())
}

/// How many connections wait to be accepted, as `ss` has it from the kernel.
fn waiting(ns: &NetNs, bind: &str) -> Result<u32> {
    let output = ns.command("ss").args(["-lntxH"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let address = bind.strip_prefix("unix:").unwrap_or(bind);
    let line = text.lines().find(|line| line.contains(address));
    let length = line.and_then(|line| line.split_whitespace().nth(2)?.parse().ok());
    length.with_context(|| format!("ss does not show {address}: {text}"))
}
