//! Row 7: every sync worker is busy, so connections wait unaccepted; and a server that accepts and
//! does not read.

use std::time::Duration;

use anyhow::Result;

use super::front::{Front, PLAIN_PORT};
use super::{GUNICORN, NGINX};
use crate::client::Request;
use crate::expect::Expect;
use crate::netns::NetNs;
use crate::run::{Run, Scenario};
use crate::software::{Gunicorn, Nginx, Scripted};
use crate::upstream::Mode;
use crate::wait;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        row: 7,
        name: "never-read",
        needs: &[NGINX, GUNICORN],
        run,
    }]
}

/// Over Unix and TCP; cell, folder, upstream's name, cause.
const WAYS: [(&str, &str); 4] = [
    ("busy_unix", "read_timeout_never_accepted"),
    ("busy_tcp", "read_timeout_never_accepted"),
    ("unread_unix", "read_timeout_not_read"),
    ("unread_tcp", "read_timeout_not_read"),
];

pub(super) fn run(run: &mut Run) -> Result<()> {
    let ns = NetNs::new()?;
    let socket = |name: &str| format!("unix:{}", run.folder.join(name).display());
    let (busy_unix, unread_unix) = (socket("busy.sock"), socket("unread.sock"));
    let (busy_tcp, unread_tcp) = ("127.0.0.1:9000", "127.0.0.1:9001");
    let gunicorns = [
        Gunicorn::start(run, &ns, "busy_unix", &busy_unix, 2, &[])?,
        Gunicorn::start(run, &ns, "busy_tcp", busy_tcp, 2, &[])?,
    ];
    let scripted = [
        Scripted::start(run, &ns, "unread_unix", &unread_unix, Mode::NeverRead, 128)?,
        Scripted::start(run, &ns, "unread_tcp", unread_tcp, Mode::NeverRead, 128)?,
    ];
    // A second way in with a longer timer, for the requests that keep the workers busy.
    let http = format!(
        "server {{ {} proxy_read_timeout 2s;
           location /busy_unix {{ proxy_pass http://{busy_unix}:; }}
           location /busy_tcp {{ proxy_pass http://{busy_tcp}; }}
           location /unread_unix {{ proxy_pass http://{unread_unix}:; }}
           location /unread_tcp {{ proxy_pass http://{unread_tcp}; }}
           location /hold_unix {{ proxy_pass http://{busy_unix}:; proxy_read_timeout 20s; }}
           location /hold_tcp {{ proxy_pass http://{busy_tcp}; proxy_read_timeout 20s; }} }}",
        Front::Plain.listen(run)?
    );
    let nginx = Nginx::start(run, &ns, 1, PLAIN_PORT, &http)?;
    run.watch(&[&nginx])?;

    let shared = &*run;
    std::thread::scope(|scope| {
        let holding = scope.spawn(|| {
            let holders = ["/hold_unix", "/hold_tcp"]
                .into_iter()
                .flat_map(|folder| [folder, folder])
                .map(|folder| {
                    let request = Request::get(shared.path(folder)).query("do=sleep&ms=3000");
                    (Duration::ZERO, request)
                })
                .collect();
            Front::Plain.burst(shared, &ns, holders)
        });
        wait::until("busy workers", Duration::from_secs(5), || {
            gunicorns
                .iter()
                .all(|gunicorn| gunicorn.log.count("read") == 2)
        })?;
        let mut requests = Vec::new();
        for (cell, cause) in WAYS {
            for _ in 0..shared.wanted() {
                let request = Request::get(shared.path(&format!("/{cell}")));
                let expect = Expect::verdict(cell, &[504], cause);
                requests.push((Duration::ZERO, shared.expecting(request, &expect)));
            }
        }
        Front::Plain.burst(shared, &ns, requests)?;
        holding.join().expect("holders").map(|_| ())
    })?;
    for (cell, _) in WAYS {
        run.at_least(cell, run.wanted());
    }
    run.hold((nginx, gunicorns, scripted, ns));
    Ok(())
}
