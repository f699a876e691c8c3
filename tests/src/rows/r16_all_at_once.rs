//! Row 16: rows 1, 2, 6, 8 and 11 at the same time on one nginx with two workers, and healthy
//! requests beside them: each failure keeps its own cause.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;

use super::front::{Front, PLAIN_PORT, plain};
use super::pool::{self, Strike, Wire};
use super::{GUNICORN, NGINX, r01_accept_queue, r02_keepalive_race};
use crate::client::{self, Request, Timed};
use crate::expect::{Expect, Kind};
use crate::ledger::Sent;
use crate::pcap::Dump;
use crate::relay::FAR;
use crate::run::{Need, Run, Scenario};
use crate::software::{Gunicorn, Nginx, Node, Scripted};
use crate::upstream::Mode;
use crate::wait;

const NODE: u16 = r02_keepalive_race::NODE;
const HEALTHY_PER_SECOND: f64 = 500.0;
/// Of that, where the machine has its hands full.
const LEAST_PACE: f64 = 0.95;
const WITHIN_SECONDS: f64 = 10.0;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        row: 16,
        name: "all-at-once",
        needs: &[NGINX, GUNICORN, Need::Tun, Need::Program("tcpdump")],
        run,
    }]
}

fn run(run: &mut Run) -> Result<()> {
    let wire = Wire::new()?;
    let near = &wire.near;
    let socket = |name: &str| format!("unix:{}", run.folder.join(name).display());
    let binds = ["crowded", "slow", "killed"].map(|name| socket(&format!("{name}.sock")));
    let [crowded_bind, slow_bind, killed_bind] = &binds;
    let workers = run.either(3, 15_u32);
    let crowded_options = ["--backlog", "128", "--timeout", "60"];
    let crowded = Gunicorn::start(run, near, "crowded", crowded_bind, 1, &crowded_options)?;
    let slow = Gunicorn::start(run, near, "slow", slow_bind, workers, &["--timeout", "60"])?;
    let killed = Gunicorn::start(
        run,
        near,
        "killed",
        killed_bind,
        workers,
        &["--timeout", "2"],
    )?;
    let node = Node::start(run, &wire.far, "node", &format!("{FAR}:{NODE}"), 1000)?;
    let well = Scripted::start(run, near, "well", "127.0.0.1:9100", Mode::Answer, 128)?;
    let missing = run.folder.join("missing.sock");
    let http = format!(
        "upstream node {{ server {FAR}:{NODE}; keepalive 128; }}
         upstream well {{ server 127.0.0.1:9100; keepalive 32; }}
         server {{ {}
           location /crowded {{ proxy_pass http://{crowded_bind}:; proxy_read_timeout 6s; }}
           location /slow {{ proxy_pass http://{slow_bind}:; proxy_read_timeout 2s; }}
           location /killed {{ proxy_pass http://{killed_bind}:; proxy_read_timeout 20s; }}
           location /shop {{ proxy_pass http://node; }}
           location /missing {{ proxy_pass http://unix:{}:; }}
           location /refused {{ proxy_pass http://127.0.0.1:9999; }}
           location /well {{ proxy_pass http://well; }} }}",
        Front::Plain.listen(run)?,
        missing.display()
    );
    let nginx = Nginx::start(run, near, 2, PLAIN_PORT, &http)?;
    run.watch(&[&nginx])?;
    let dump = Dump::start(near, "lab0", NODE, &run.folder)?;
    // So many that enough races are met while the other failures last.
    let count = run.either(24, 80);
    let idle_close = pool::measure_idle_close(run, near, NODE, "/shop", count, "ms=60")?;

    let over = AtomicBool::new(false);
    let shared = &*run;
    let strike = Strike {
        front: Front::Plain,
        ns: near,
        folder: "/shop",
        idle_close,
        lead: Duration::ZERO,
        missed: 0,
    };
    let crowd = std::thread::scope(|scope| {
        let beside = scope.spawn(|| healthy(shared, &wire, &over));
        let crowd = scope.spawn(|| {
            let requests = r01_accept_queue::classic(shared, Front::Plain, "/crowded");
            Front::Plain.burst(shared, near, requests)
        });
        let slow = scope.spawn(|| slow_ones(shared, &wire, &slow, workers));
        let killed = scope.spawn(|| killed_ones(shared, &wire, &killed, workers));
        let refused = scope.spawn(|| Front::Plain.burst(shared, near, refused_ones(shared)));
        let struck = strike_often(shared, &strike, &nginx, count);
        let ended = [
            refused.join().expect("refused").map(|_| ()),
            slow.join().expect("slow"),
            killed.join().expect("killed"),
            struck,
        ];
        let crowd = crowd.join().expect("crowd");
        // Without this the healthy ones would go on for ever after an error.
        over.store(true, Ordering::Release);
        beside.join().expect("healthy")?;
        ended.into_iter().collect::<Result<()>>()?;
        crowd
    })?;
    for sent in &crowd {
        r01_accept_queue::state_unix_truth(run, &crowded, sent, Front::Plain, 128)?;
    }
    let seen = dump.judge()?;
    pool::state_truth(run, &seen, Some(&node.log), |expect| expect)?;
    for cell in CELLS {
        run.at_least(cell, run.wanted());
    }
    check_pace(run);
    run.hold((nginx, crowded, slow, killed, node, well, wire));
    Ok(())
}

const CELLS: [&str; 7] = [
    "queue_full",
    "never_accepted",
    "fin_in_flight",
    "slow",
    "killed",
    "missing",
    "refused",
];

/// All failures came close together, and healthy requests were as many as they were to be.
fn check_pace(run: &mut Run) {
    let entries = run.ledger.entries();
    let times = |cell: fn(&Expect) -> bool| {
        let of_cell = entries.iter().filter(move |(_, truth)| cell(truth));
        of_cell.map(|(sent, _)| sent.ended)
    };
    let failed = || times(|truth| truth.kind == Kind::Verdict);
    let (Some(first), Some(last)) = (failed().min(), failed().max()) else {
        return run.problem("nothing failed");
    };
    let between = |at: &u64| (first..=last).contains(at);
    let healthy = times(|truth| truth.cell == "healthy")
        .filter(between)
        .count();
    let seconds = (last - first) as f64 / 1e9;
    let pace = healthy as f64 / seconds;
    let text = format!("failures over {seconds:.1} s, {pace:.0} healthy requests a second beside");
    if seconds > WITHIN_SECONDS || pace < HEALTHY_PER_SECOND * LEAST_PACE {
        run.problem(format!(
            "{text}; not within {WITHIN_SECONDS} s and at {HEALTHY_PER_SECOND} a second"
        ));
    } else {
        run.note(text);
    }
}

/// Row 2: rounds until enough requests have met a FIN, those of another variant left aside.
fn strike_often(run: &Run, strike: &Strike<'_>, nginx: &Nginx, count: usize) -> Result<()> {
    let mut met = 0;
    for _ in 0..12 {
        let sent = strike.round(run, count, Request::post)?;
        let errors = nginx.errors()?;
        let failed = |sent: &&Sent| errors.contains_key(&sent.path);
        met += sent.iter().filter(failed).count();
        if met >= 2 * run.wanted() {
            break;
        }
    }
    Ok(())
}

fn healthy(run: &Run, wire: &Wire, over: &AtomicBool) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    wire.near.traffic(async || {
        let (ledger, stopped) = (run.ledger.clone(), stop.clone());
        let make = {
            let ledger = ledger.clone();
            move || Request::get(ledger.path("/well"))
        };
        let traffic = client::steady(plain(), ledger, 10, HEALTHY_PER_SECOND, make, move || {
            stopped.load(Ordering::Acquire)
        });
        let watch = async {
            while !over.load(Ordering::Acquire) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            stop.store(true, Ordering::Release);
        };
        tokio::join!(traffic, watch).0
    })
}

/// Row 6: read, no reply in time.
fn slow_ones(run: &Run, wire: &Wire, gunicorn: &Gunicorn, workers: u32) -> Result<()> {
    let expect = Expect::verdict("slow", &[504], "read_timeout_no_reply").variant("sleeping");
    for round in 1..=run.either(1, 2) {
        together(run, wire, "/slow", "do=sleep&ms=2600", &expect, workers)?;
        wait::until("late answers", Duration::from_secs(20), || {
            gunicorn.log.count("answered") >= round * workers as usize
        })?;
    }
    Ok(())
}

/// Row 8: the arbiter kills the worker.
fn killed_ones(run: &Run, wire: &Wire, gunicorn: &Gunicorn, workers: u32) -> Result<()> {
    let expect = Expect::verdict("killed", &[502], "worker_timeout_killed");
    for round in 1..=run.either(1, 2) {
        together(run, wire, "/killed", "do=sleep&ms=9000", &expect, workers)?;
        wait::until("new workers", Duration::from_secs(20), || {
            gunicorn.log.count("loaded") >= (round + 1) * workers as usize
        })?;
    }
    Ok(())
}

fn together(
    run: &Run,
    wire: &Wire,
    folder: &str,
    query: &str,
    expect: &Expect,
    count: u32,
) -> Result<()> {
    let requests = (0..count)
        .map(|_| {
            let request = Request::post(run.path(folder)).query(query);
            (Duration::ZERO, run.expecting(request, expect))
        })
        .collect();
    Front::Plain.burst(run, &wire.near, requests)?;
    Ok(())
}

/// Row 11, spread over most of the time.
fn refused_ones(run: &Run) -> Vec<Timed> {
    let missing = Expect::verdict("missing", &[502], "unix_socket_missing");
    let refused = Expect::verdict("refused", &[502], "connection_refused").variant("no_listener");
    let mut requests = Vec::new();
    for number in 0..30 {
        for expect in [&missing, &refused] {
            let request = Request::get(run.path(&format!("/{}", expect.cell)));
            let at = Duration::from_millis(number * 190);
            requests.push((at, run.expecting(request, expect)));
        }
    }
    requests
}
