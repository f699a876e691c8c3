//! Row 35: nginx on detours: errors it replaces, a stale cache entry, a question to an authority, a mirror.
//! Each failure belongs to one request of a client, and is told once.

use std::time::Duration;

use anyhow::Result;

use super::front::{Front, PLAIN_PORT};
use super::{GUNICORN, NGINX};
use crate::client::Request;
use crate::expect::{Check, Expect};
use crate::netns::NetNs;
use crate::run::{Run, Scenario};
use crate::software::{Gunicorn, Nginx};
use crate::wait;

const APP: &str = "127.0.0.1:9000";
/// Fills the cache, and then is no more.
const LEAVES: &str = "127.0.0.1:9001";
const NOBODY: &str = "127.0.0.1:9999";
/// Entries are fresh for a second.
const STALE_WITHIN: Duration = Duration::from_secs(10);

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        row: 35,
        name: "detours",
        needs: &[NGINX, GUNICORN],
        run,
    }]
}

fn config(run: &Run) -> Result<String> {
    let folder = run.folder.display();
    Ok(format!(
        "proxy_cache_path {folder}/nginx-prefix/cache keys_zone=lab:1m;
         server {{ {listen}
           location = /sorry.html {{ root {folder}; internal; }}
           location /intercepted {{ proxy_pass http://{APP}; proxy_intercept_errors on;
             error_page 502 /sorry.html; }}
           location /renamed {{ proxy_pass http://{APP}; proxy_intercept_errors on;
             error_page 502 =503 /sorry.html; }}
           location /fallback {{ proxy_pass http://{NOBODY}; error_page 502 = @other; }}
           location @other {{ proxy_pass http://{APP}; }}
           location /no_fallback {{ proxy_pass http://{NOBODY}; error_page 502 = @neither; }}
           location @neither {{ proxy_pass http://127.0.0.1:9998; }}
           location /stale {{ proxy_pass http://{LEAVES}; proxy_cache lab; proxy_cache_key one;
             proxy_cache_valid 200 1s; proxy_cache_use_stale error timeout; }}
           location = /allows {{ internal; proxy_pass http://{APP}/allows; proxy_pass_request_body off;
             proxy_set_header Content-Length \"\"; }}
           location = /nobody {{ internal; proxy_pass http://{NOBODY}; proxy_pass_request_body off;
             proxy_set_header Content-Length \"\"; }}
           location /asked {{ auth_request /allows; proxy_pass http://{NOBODY}; }}
           location /unasked {{ auth_request /nobody; proxy_pass http://{APP}; }}
           location /allowed {{ auth_request /allows; proxy_pass http://{APP}; }}
           location /mirrored {{ mirror /nobody; proxy_pass http://{APP}; }}
           location /mirroring {{ mirror /allows; proxy_pass http://{NOBODY}; }}
           location /both {{ mirror /nobody; proxy_pass http://127.0.0.1:9998; }} }}",
        listen = Front::Plain.listen(run)?,
    ))
}

fn refused(cell: &'static str, statuses: &'static [u16]) -> Expect {
    Expect::verdict(cell, statuses, "connection_refused").variant("no_listener")
}

fn run(run: &mut Run) -> Result<()> {
    let ns = NetNs::new()?;
    let gunicorn = Gunicorn::start(run, &ns, "gunicorn", APP, 2, &[])?;
    let leaves = Gunicorn::start(run, &ns, "leaves", LEAVES, 1, &[])?;
    std::fs::write(run.folder.join("sorry.html"), "sorry\n")?;
    let nginx = Nginx::start(run, &ns, 1, PLAIN_PORT, &config(run)?)?;
    run.watch(&[&nginx])?;

    let answered = |cell, statuses| Expect::verdict(cell, statuses, "upstream_answered");
    let cells = [
        (
            "/intercepted",
            "status=502",
            answered("intercepted", &[502]),
        ),
        (
            "/renamed",
            "status=502",
            answered("renamed", &[503]).at_least_likely(),
        ),
        (
            "/fallback",
            "",
            Expect::near_miss("fallback", &[200], "connection_refused").variant("no_listener"),
        ),
        (
            "/no_fallback",
            "",
            refused("no_fallback", &[502])
                .with(Check::Equals("/upstream/address", "127.0.0.1:9998".into())),
        ),
        ("/asked", "", refused("asked", &[502])),
        ("/unasked", "", refused("unasked", &[500])),
        ("/allowed", "", Expect::healthy("allowed", &[200])),
        ("/mirrored", "", Expect::healthy("mirrored", &[200])),
        ("/mirroring", "", refused("mirroring", &[502])),
        (
            "/both",
            "",
            // Which of the two refusals led to it is not told by their order.
            refused("both", &[502]).at_least_likely(),
        ),
    ];
    // One after the other, then all at once: what belongs to whom is not told by the order alone.
    for number in 0..run.wanted() {
        for (folder, query, expect) in &cells {
            let request = run.expecting(Request::get(run.path(folder)).query(query), expect);
            if number == 0 {
                Front::Plain.burst(run, &ns, vec![(Duration::ZERO, request)])?;
                continue;
            }
            let other = run.expecting(Request::get(run.path(folder)).query(query), expect);
            let both = vec![(Duration::ZERO, request), (Duration::ZERO, other)];
            Front::Plain.burst(run, &ns, both)?;
        }
    }
    // The answer leaves before the connection is closed, so no adjacency ties the two.
    let stale = refused("stale", &[200])
        .at_least_likely()
        .with(Check::Equals("/status", 200.into()))
        .with(Check::Equals("/status_rewritten", true.into()));
    go_stale(run, &ns, &nginx, leaves, &stale)?;
    for (_, _, expect) in &cells {
        run.at_least(expect.cell, run.wanted());
    }
    run.at_least("stale", run.wanted());
    run.hold((nginx, gunicorn, ns));
    Ok(())
}

/// Answers from the cache are fresh, until they are stale and the upstream is asked, in vain.
fn go_stale(run: &Run, ns: &NetNs, nginx: &Nginx, leaves: Gunicorn, stale: &Expect) -> Result<()> {
    let ask = || -> Result<bool> {
        let request = Request::get(run.path("/stale"));
        let path = request.path.clone();
        Front::Plain.burst(run, ns, vec![(Duration::ZERO, request)])?;
        let in_vain = nginx.errors()?.contains_key(&path);
        if in_vain {
            run.ledger.expect(&path, stale.clone());
        }
        Ok(in_vain)
    };
    ask()?;
    drop(leaves);
    let (mut failed, mut trouble) = (0, None);
    wait::until("answers of a stale cache", STALE_WITHIN, || match ask() {
        Ok(in_vain) => {
            failed += usize::from(in_vain);
            failed >= run.wanted()
        }
        Err(error) => {
            trouble = Some(error);
            true
        }
    })?;
    trouble.map_or(Ok(()), Err)
}
