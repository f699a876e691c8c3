//! nginx with a pool for each upstream; what it may retry by itself, it does. It checks nobody's health.

use std::any::Any;
use std::path::Path;

use anyhow::Result;

use super::{Again, PORT, Proxy, Speaks, Wanted, program};
use crate::matrix::upstreams::SCRIPT;
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
    speaks: &[Speaks::Http, Speaks::FastCgi],
    again: Again::Anything,
    logs: &["nginx-error.log", "access.log"],
    nameless: &[],
    lacking: || program("nginx"),
    start: |run, ns, wanted| start(run, ns, wanted, "nginx"),
};

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
        let server = |to| format!("server {to} max_fails=0; ");
        let mut servers: String = route.servers().map(server).collect();
        if wanted.again == Again::Anything && route.or.is_none() {
            // It asks no server twice, but knows it by two lines as two.
            servers = servers.repeat(2);
        }
        http += &format!("upstream back{number} {{ {servers}keepalive 64; }}\n");
        let script = run.folder.join(SCRIPT).display().to_string();
        let (pass, more) = match route.speaks {
            Speaks::Http => (format!("proxy_pass http://back{number};"), String::new()),
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
