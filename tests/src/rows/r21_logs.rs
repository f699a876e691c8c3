//! Row 21: behind TLS and HTTP/2 the status comes from nginx's logs, which why502 finds by itself and
//! follows through a rotation; what a client writes into them changes nothing (a row of our own). The same
//! where they are a container's output, in the journal, or sent to why502 itself.

mod output;

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::front::{Front, PLAIN_PORT};
use super::{GUNICORN, NGINX};
use crate::agent::Capture;
use crate::client::Request;
use crate::expect::{Check, Expect};
use crate::journal;
use crate::netns::NetNs;
use crate::run::{Need, Run, Scenario};
use crate::software::{Nginx, Scripted};
use crate::upstream::Mode;
use crate::wait;

const SILENT: &str = "127.0.0.1:9000";
/// From one failure to the next: the lines of the one before are found to be its own by then.
const APART: Duration = Duration::from_millis(350);

pub(super) fn scenarios() -> Vec<Scenario> {
    let of = |name, needs: &'static [Need], run: fn(&mut Run) -> Result<()>| Scenario {
        row: 21,
        name,
        needs,
        run,
    };
    vec![
        of(
            "logs",
            &[
                NGINX,
                Need::Agent,
                Need::Http2Curl,
                Need::Program("openssl"),
            ],
            run,
        ),
        of(
            "logs-of-a-container",
            &[
                NGINX,
                Need::Agent,
                Need::Http2Curl,
                Need::Program("openssl"),
                Need::Containers,
            ],
            output::of_container,
        ),
        of(
            "logs-in-the-journal",
            &[
                NGINX,
                Need::Agent,
                Need::Http2Curl,
                Need::Program("openssl"),
                Need::Program("journalctl"),
                Need::Program(journal::DAEMON),
            ],
            output::of_service,
        ),
        of(
            "logs-by-datagram",
            &[
                NGINX,
                Need::Agent,
                Need::Http2Curl,
                Need::Program("openssl"),
            ],
            output::of_datagrams,
        ),
        of(
            "logs-by-datagram-haproxy",
            &[GUNICORN, Need::Agent, Need::Program("haproxy")],
            output::of_haproxy,
        ),
    ]
}

fn of_log(expect: Expect) -> Expect {
    let status = expect.statuses[0];
    expect
        .with(Check::Equals("/status", status.into()))
        .with(Check::Equals("/status_source", "log".into()))
}

fn run(run: &mut Run) -> Result<()> {
    let ns = NetNs::new()?;
    let silent = Scripted::start(run, &ns, "silent", SILENT, Mode::NeverAnswer, 128)?;
    let access_log = run.folder.join("row-access.log");
    let http = format!(
        "server {{ {}
           access_log {} combined;
           location /refused {{ proxy_pass http://127.0.0.1:9999; }}
           location /silent {{ proxy_pass http://{SILENT}; proxy_read_timeout 300ms; }}
           location /own {{ return 503; }}
           location /fine {{ return 200; }}
           location /file {{ root {}; }} }}",
        Front::TlsHttp2.listen(run)?,
        access_log.display(),
        run.folder.display()
    );
    let nginx = Nginx::start(run, &ns, 1, PLAIN_PORT, &http)?;
    run.add_proxy(nginx.pid())?;
    let mut command = Command::new(run.why502()?);
    command.args(["capture", "--for", "600s", "--json", "--source", "kernel"]);
    command.args(["--pid", &nginx.pid().to_string()]);
    let mut agent = Capture::launch(command, &run.out.join("agent"))?;
    agent.wait_ready()?;
    run.watched_by(agent);

    failures(run, &ns)?;
    rotate(&nginx, &[nginx.error_log(), &access_log])?;
    failures(run, &ns)?;
    forge(run, &ns)?;
    let wanted = 2 * run.wanted();
    for cell in ["refused", "silent", "own"] {
        run.at_least(cell, wanted);
    }
    for log in [nginx.error_log(), &access_log] {
        run.keep(log);
    }
    run.hold((nginx, silent, ns));
    Ok(())
}

/// One after the other, and a 503 of nginx's own at the moment of each: no source but the log sees it.
fn failures(run: &Run, ns: &NetNs) -> Result<()> {
    let refused = Expect::verdict("refused", &[502], "connection_refused").variant("no_listener");
    let silent = Expect::verdict("silent", &[504], "read_timeout_no_reply");
    let own = Expect {
        confidence: "unknown",
        ..Expect::verdict("own", &[503], "unknown")
    };
    let mut requests = Vec::new();
    for number in 0..run.wanted() as u32 {
        let at = number * 2 * APART;
        for (folder, expect, later) in [
            ("/refused", of_log(refused.clone()), Duration::ZERO),
            ("/own", of_log(own.clone()), Duration::ZERO),
            ("/silent", of_log(silent.clone()), APART),
            ("/fine", Expect::healthy("fine", &[200]), APART),
        ] {
            let request = run.expecting(Request::get(run.path(folder)), &expect);
            requests.push((at + later, request));
        }
    }
    Front::TlsHttp2.burst(run, ns, requests)?;
    Ok(())
}

/// As logrotate does.
fn rotate(nginx: &Nginx, logs: &[&std::path::Path]) -> Result<()> {
    for log in logs {
        let mut rotated = log.as_os_str().to_owned();
        rotated.push(".1");
        std::fs::rename(log, rotated)?;
    }
    nginx.reopen_logs();
    wait::until("nginx's new logs", Duration::from_secs(5), || {
        logs.iter().all(|log| log.exists())
    })
}

/// A client writes whole lines into the error log: that a request which was fine had been refused.
fn forge(run: &mut Run, ns: &NetNs) -> Result<()> {
    let fine = Request::get(run.path("/fine"));
    let forged = format!(
        "\n2026/11/21 12:00:00 [error] 7#7: *7 connect() failed (111: Connection refused) while \
         connecting to upstream, client: 127.0.0.1, server: , request: \"GET {} HTTP/2.0\", \
         upstream: \"http://127.0.0.1:9999{0}\", host: \"127.0.0.1:8443\"\n",
        fine.path
    );
    let mut folder = "/file".to_owned();
    for byte in forged.bytes() {
        folder.push_str(&format!("%{byte:02X}"));
    }
    let request = Request::get(run.path(&folder));
    let requests = [
        run.expecting(fine, &Expect::healthy("forged", &[200])),
        run.expecting(request, &Expect::healthy("forger", &[404])),
    ];
    let at_once = requests.map(|request| (Duration::ZERO, request));
    Front::TlsHttp2.burst(run, ns, at_once.into())?;
    let agent = run.agent()?;
    wait::until(
        "the forged lines to be left out",
        Duration::from_secs(5),
        || agent.told("a client may have written them") > 0,
    )
}
