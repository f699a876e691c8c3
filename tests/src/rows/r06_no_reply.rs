//! Row 6: nginx, gunicorn on a Unix socket, `POST /invocations` slower than `proxy_read_timeout`,
//! in five ways of being slow.

use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::front::{Front, PLAIN_PORT};
use super::{GUNICORN, NGINX};
use crate::cgroup::Cgroup;
use crate::client::Request;
use crate::expect::{Check, Expect};
use crate::netns::NetNs;
use crate::process;
use crate::run::{Need, Run, Scenario};
use crate::software::{Gunicorn, Nginx, Scripted};
use crate::upstream::Mode;
use crate::wait;

const DATABASE: u16 = 5432;
/// Longer than a whole full run: gunicorn's own timer stays out of this.
const PATIENT: [&str; 2] = ["--timeout", "600"];
const LONGEST: Duration = Duration::from_secs(60);

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        row: 6,
        name: "no-reply",
        needs: &[NGINX, GUNICORN, Need::Controller("cpu")],
        run: |run| all(run, Front::Plain),
    }]
}

/// One way of being slow.
#[derive(Clone, Copy)]
struct Way {
    cell: &'static str,
    query: &'static str,
    variant: &'static str,
    /// Requests under way at once; those that need a CPU go one by one.
    workers: u32,
}

const WAYS: [Way; 5] = [
    Way {
        cell: "sleeping",
        query: "do=sleep&ms=2600",
        variant: "sleeping",
        workers: 3,
    },
    Way {
        cell: "running",
        query: "do=spin&ms=2600",
        variant: "running",
        workers: 1,
    },
    Way {
        cell: "stopped",
        query: "do=stop",
        variant: "stopped",
        workers: 3,
    },
    Way {
        cell: "waiting_on_socket",
        query: "do=database",
        variant: "waiting_on_socket",
        workers: 3,
    },
    Way {
        cell: "cpu_throttled",
        query: "do=burn&ms=400",
        variant: "cpu_throttled",
        workers: 1,
    },
];

impl Way {
    fn expect(&self) -> Expect {
        let expect =
            Expect::verdict(self.cell, &[504], "read_timeout_no_reply").variant(self.variant);
        match self.variant {
            "waiting_on_socket" => {
                expect.with(Check::Says("/evidence", format!("127.0.0.1:{DATABASE}")))
            }
            _ => expect,
        }
    }

    /// Lets the workers finish what nginx no longer waits for.
    fn release(&self, gunicorn: &Gunicorn, database: &Scripted, quota: Option<&Cgroup>) {
        match self.variant {
            "stopped" => {
                for worker in gunicorn.workers() {
                    process::kill(worker, libc::SIGCONT);
                }
            }
            "waiting_on_socket" => database.signal(libc::SIGUSR1),
            _ => {}
        }
        if let Some(quota) = quota {
            quota.lift();
        }
    }
}

pub(super) fn all(run: &mut Run, front: Front) -> Result<()> {
    let ways = &WAYS;
    let ns = NetNs::new()?;
    let database = Scripted::start(
        run,
        &ns,
        "database",
        &format!("127.0.0.1:{DATABASE}"),
        Mode::NeverAnswer,
        128,
    )?;
    let mut servers = Vec::new();
    let mut http = String::new();
    let mut locations = String::new();
    for way in ways {
        let socket = run.folder.join(format!("{}.sock", way.cell));
        let bind = format!("unix:{}", socket.display());
        let port = DATABASE.to_string();
        let mut gunicorn = Gunicorn::launch(
            run,
            &ns,
            way.cell,
            &bind,
            way.workers,
            &PATIENT,
            &[("DATABASE_PORT", &port)],
        )?;
        gunicorn.wait_loaded(way.workers as usize)?;
        servers.push(gunicorn);
        http += &format!("upstream {} {{ server {bind}; }}\n", way.cell);
        locations += &format!(
            "location /{}/invocations {{ proxy_pass http://{}; }}\n",
            way.cell, way.cell
        );
    }
    http += &format!(
        "server {{ {} proxy_read_timeout 2s;\n{locations} }}",
        front.listen(run)?
    );
    let nginx = Nginx::start(run, &ns, 1, PLAIN_PORT, &http)?;
    run.watch(&[&nginx])?;

    let (shared, wanted) = (&*run, run.wanted());
    let (ns_ref, database_ref) = (&ns, &database);
    thread::scope(|scope| {
        let under_way: Vec<_> = ways
            .iter()
            .zip(&servers)
            .map(|(way, gunicorn)| {
                scope.spawn(move || {
                    be_slow(shared, ns_ref, front, *way, gunicorn, database_ref, wanted)
                })
            })
            .collect();
        under_way
            .into_iter()
            .try_for_each(|thread| thread.join().expect("a way of being slow"))
    })?;
    for way in ways {
        run.at_least(way.cell, wanted);
    }
    run.hold((nginx, servers, database, ns));
    Ok(())
}

fn be_slow(
    run: &Run,
    ns: &NetNs,
    front: Front,
    way: Way,
    gunicorn: &Gunicorn,
    database: &Scripted,
    wanted: usize,
) -> Result<()> {
    let quota = match way.variant {
        "cpu_throttled" => Some(Cgroup::with_cpu_percent(5)?),
        _ => None,
    };
    let folder = format!("/{}/invocations", way.cell);
    let mut done = 0;
    while done < wanted {
        if let Some(quota) = &quota {
            for worker in gunicorn.workers() {
                quota.add(worker)?;
            }
        }
        let expect = front.adapt(way.expect());
        let requests = (0..way.workers)
            .map(|_| {
                let request = Request::post(run.path(&folder)).query(way.query);
                (Duration::ZERO, run.expecting(request, &expect))
            })
            .collect();
        let sent = front.burst(run, ns, requests)?;
        done += sent.len();
        way.release(gunicorn, database, quota.as_ref());
        wait::until("the workers' late answers", LONGEST, || {
            gunicorn.log.count("answered") >= done
        })?;
        if way.variant == "running" {
            for sent in &sent {
                let on_cpu = gunicorn.log.answer(&sent.path).and_then(|line| line.on_cpu);
                let expect = spinning(way, on_cpu.unwrap_or(0.0));
                run.ledger.expect(&sent.path, front.adapt(expect));
            }
        }
    }
    Ok(())
}

/// Above this part of the time on a CPU a thread runs, below the other it waits for one; between
/// them both words are true.
const RUNS: f64 = 0.95;
const WAITS: f64 = 0.3;

/// On a busy machine a spinning thread may not get a CPU: the application's own measure decides.
fn spinning(way: Way, on_cpu: f64) -> Expect {
    let expect = way.expect();
    if on_cpu >= RUNS {
        expect
    } else if on_cpu <= WAITS {
        expect.variant("runnable")
    } else {
        expect.or("read_timeout_no_reply", Some("runnable"))
    }
}
