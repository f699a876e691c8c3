//! nginx with a pool for each upstream; what it may retry by itself, it does. It checks nobody's health.

use std::any::Any;
use std::path::Path;

use anyhow::Result;

use super::{Again, NAME, Own, PORT, Proxy, Route, Speaks, Target, Wanted, program};
use crate::matrix::upstreams::{SCRIPT, TRUSTED};
use crate::netns::NetNs;
use crate::run::Run;
use crate::software::Nginx;

/// What an application has to know of a request.
const PARAMS: &str = "
  fastcgi_param REQUEST_METHOD $request_method; fastcgi_param REQUEST_URI $request_uri;
  fastcgi_param QUERY_STRING $query_string; fastcgi_param CONTENT_TYPE $content_type;
  fastcgi_param CONTENT_LENGTH $content_length;";

pub(super) const PROXY: Proxy = Proxy {
    name: "nginx",
    process: "nginx",
    unix: true,
    speaks: &[Speaks::Http, Speaks::FastCgi, Speaks::Https],
    again: Again::Anything,
    times_sending: true,
    logs: &["nginx-error.log", "access.log"],
    nameless: &[],
    lacking: || program("nginx"),
    start: |run, ns, wanted| start(run, ns, wanted, "nginx"),
};

/// What a location does with its requests, and what comes before that.
fn pass_http(number: usize, route: &Route, http: &mut String) -> (String, String) {
    let mut pass = format!("proxy_pass http://back{number};");
    let mut more = String::new();
    match (route.own, &route.to) {
        (Some(Own::Answers), _) => pass = "return 503;".to_owned(),
        (Some(Own::Limits), _) => {
            *http += &format!(
                "limit_req_zone $server_port zone=rate{number}:64k rate=1r/m;
                 limit_conn_zone $server_port zone=count{number}:64k;\n"
            );
            more =
                format!("limit_req zone=rate{number} burst=1 nodelay; limit_conn count{number} 1;");
        }
        (Some(Own::LooksUp), Target::Tcp(to)) => {
            // It looks up at each request what is in a variable.
            pass = format!("set $inner {NAME}; proxy_pass http://$inner:{};", to.port());
            more = "resolver 127.0.0.1 ipv6=off; resolver_timeout 1s;".to_owned();
        }
        _ => {}
    }
    (pass, more)
}

/// The program, of whatever version.
pub(super) fn start(
    run: &Run,
    ns: &NetNs,
    wanted: &Wanted,
    program: &str,
) -> Result<Box<dyn Any + Send + Sync>> {
    let (connect, patience) = (wanted.connect.as_millis(), wanted.patience.as_millis());
    let mut http = String::new();
    let mut locations = String::new();
    for (number, route) in wanted.routes.iter().enumerate() {
        let folder = route.folder;
        let out = route.own == Some(Own::TakesOut);
        // Its workers share what they know of failures where there is a zone.
        let (fails, zone) = match out {
            true => (
                "max_fails=1 fail_timeout=60s",
                format!("zone back{number} 64k; "),
            ),
            false => ("max_fails=0", String::new()),
        };
        let server = |to| format!("server {to} {fails}; ");
        let mut servers: String = route.servers().map(server).collect();
        // An only server is never taken out.
        if (wanted.again == Again::Anything || out) && route.or.is_none() {
            // It asks no server twice, but knows it by two lines as two.
            servers = servers.repeat(2);
        }
        http += &format!("upstream back{number} {{ {zone}{servers}keepalive 64; }}\n");
        let script = run.folder.join(SCRIPT).display().to_string();
        let trusted = run.folder.join(TRUSTED).display().to_string();
        let (pass, more) = match route.speaks {
            Speaks::Http => pass_http(number, route, &mut http),
            Speaks::Https => (
                format!("proxy_pass https://back{number};"),
                format!("proxy_ssl_verify on; proxy_ssl_trusted_certificate {trusted};"),
            ),
            Speaks::FastCgi => (
                format!("fastcgi_pass back{number};"),
                format!("fastcgi_param SCRIPT_FILENAME {script};{PARAMS}"),
            ),
        };
        locations += &format!("location {folder} {{ {pass} {more} }}\n");
    }
    let again = match wanted.again {
        Again::Anything => "error timeout invalid_header non_idempotent",
        _ => "error timeout",
    };
    let times: String = ["proxy", "fastcgi"]
        .map(|protocol| {
            format!(
                "{protocol}_connect_timeout {connect}ms; {protocol}_read_timeout {patience}ms;
         {protocol}_send_timeout {patience}ms; {protocol}_next_upstream {again};\n"
            )
        })
        .concat();
    http += &format!(
        "client_max_body_size 64m;
         server {{ listen 127.0.0.1:{PORT} backlog=1024;
           access_log {} combined;
           {times}{locations}}}",
        run.folder.join("access.log").display()
    );
    let program = Path::new(program);
    Ok(Box::new(Nginx::start_program(
        run,
        ns,
        program,
        wanted.workers,
        PORT,
        &http,
    )?))
}
