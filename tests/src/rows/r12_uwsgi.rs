//! Row 12: HTTP sent to a uWSGI socket that speaks uwsgi; and the right protocol with `harakiri`.

use std::time::Duration;

use anyhow::Result;

use super::NGINX;
use super::front::{Front, PLAIN_PORT};
use crate::client::Request;
use crate::expect::{Check, Expect};
use crate::netns::NetNs;
use crate::run::{Need, Run, Scenario};
use crate::software::{Nginx, Uwsgi};
use crate::wait;

const WORKERS: u32 = 3;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        row: 12,
        name: "uwsgi",
        needs: &[NGINX, Need::Program("uwsgi-core")],
        run,
    }]
}

fn run(run: &mut Run) -> Result<()> {
    let ns = NetNs::new()?;
    let socket = run.folder.join("uwsgi.sock");
    let socket = socket.display().to_string();
    let options = ["--harakiri", "2"];
    let uwsgi = Uwsgi::start(run, &ns, "uwsgi", &socket, WORKERS, &options)?;
    // Debian's uwsgi_params, as far as the application reads them.
    let params =
        "uwsgi_param QUERY_STRING $query_string; uwsgi_param REQUEST_METHOD $request_method;
       uwsgi_param CONTENT_LENGTH $content_length; uwsgi_param REQUEST_URI $request_uri;
       uwsgi_param PATH_INFO $document_uri; uwsgi_param SERVER_PROTOCOL $server_protocol;
       uwsgi_param SERVER_NAME $server_name; uwsgi_param SERVER_PORT $server_port;";
    let http = format!(
        "server {{ {} {params}
           location /as_http {{ proxy_pass http://unix:{socket}:; }}
           location /as_uwsgi {{ uwsgi_pass unix:{socket}; }} }}",
        Front::Plain.listen(run)?
    );
    let nginx = Nginx::start(run, &ns, 1, PLAIN_PORT, &http)?;
    run.watch(&[&nginx])?;

    let mismatch = Expect::verdict("as_http", &[502], "protocol_mismatch").variant("http_to_uwsgi");
    let harakiri = Expect::verdict("harakiri", &[502], "worker_timeout_killed")
        .with(Check::Says("/advice/text", "harakiri 2 ended".into()));
    let mut done = 0;
    while done < run.wanted() {
        let mut requests = Vec::new();
        for _ in 0..WORKERS {
            let request = Request::get(run.path("/as_http"));
            requests.push((Duration::ZERO, run.expecting(request, &mismatch)));
            let request = Request::get(run.path("/as_uwsgi")).query("do=sleep&ms=8000");
            requests.push((Duration::from_millis(20), run.expecting(request, &harakiri)));
        }
        let well = Request::get(run.path("/as_uwsgi"));
        requests.insert(0, (Duration::ZERO, well));
        Front::Plain.burst(run, &ns, requests)?;
        done += WORKERS as usize;
        wait::until("new workers", Duration::from_secs(15), || {
            uwsgi.log.count("loaded") >= WORKERS as usize + done
        })?;
    }
    run.at_least("as_http", run.wanted());
    run.at_least("harakiri", run.wanted());
    run.hold((nginx, uwsgi, ns));
    Ok(())
}
