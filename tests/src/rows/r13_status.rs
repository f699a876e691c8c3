//! Row 13: the application answers 502 and 504 itself; and a refused upstream behind
//! `error_page 502 =200`.

use std::time::Duration;

use anyhow::Result;

use super::front::{Front, PLAIN_PORT};
use super::{GUNICORN, NGINX};
use crate::client::Request;
use crate::expect::{Check, Expect};
use crate::netns::NetNs;
use crate::run::{Run, Scenario};
use crate::software::{Gunicorn, Nginx};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        row: 13,
        name: "status",
        needs: &[NGINX, GUNICORN],
        run,
    }]
}

fn run(run: &mut Run) -> Result<()> {
    let ns = NetNs::new()?;
    let bind = "127.0.0.1:9000";
    let gunicorn = Gunicorn::start(run, &ns, "gunicorn", bind, 2, &[])?;
    std::fs::write(run.folder.join("sorry.html"), "sorry\n")?;
    let http = format!(
        "server {{ {}
           location /app {{ proxy_pass http://{bind}; }}
           location /hidden {{ proxy_pass http://127.0.0.1:9999; error_page 502 =200 /sorry.html; }}
           location = /sorry.html {{ root {}; }} }}",
        Front::Plain.listen(run)?,
        run.folder.display()
    );
    let nginx = Nginx::start(run, &ns, 1, PLAIN_PORT, &http)?;
    run.watch(&[&nginx])?;

    let cells = [
        (
            "/app",
            "status=502",
            Expect::verdict("app_502", &[502], "upstream_answered"),
        ),
        (
            "/app",
            "status=504",
            Expect::verdict("app_504", &[504], "upstream_answered"),
        ),
        (
            "/hidden",
            "",
            Expect::verdict("rewritten", &[200], "connection_refused")
                .variant("no_listener")
                .with(Check::Equals("/status", 200.into()))
                .with(Check::Equals("/status_rewritten", true.into())),
        ),
        ("/app", "status=404", Expect::healthy("app_404", &[404])),
        ("/app", "", Expect::healthy("healthy", &[200])),
    ];
    let mut requests = Vec::new();
    for number in 0..run.wanted() {
        for (folder, query, expect) in &cells {
            let request = Request::get(run.path(folder)).query(query);
            let at = Duration::from_millis(number as u64 * 5);
            requests.push((at, run.expecting(request, expect)));
        }
    }
    Front::Plain.burst(run, &ns, requests)?;
    for (_, _, expect) in &cells {
        run.at_least(expect.cell, run.wanted());
    }
    run.hold((nginx, gunicorn, ns));
    Ok(())
}
