//! Varnish, which is asked to keep nothing: one thread talks to the client, another one to the upstream.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, absolute};
use std::time::Duration;

use anyhow::Result;

use super::{Again, Own, PORT, Proxy, Route, Speaks, Target, Wanted, address, program, serve};
use crate::netns::NetNs;
use crate::process::Proc;
use crate::run::{Run, START};

/// Its log is in shared memory; a program of its own writes it to a file.
const LOG: &str = "varnishlog.log";
/// What it answers by itself.
const READY: &str = "/logged";

pub(super) const PROXY: Proxy = Proxy {
    name: "varnish",
    process: "varnishd",
    unix: true,
    speaks: &[Speaks::Http],
    // Its configuration learns of an attempt that it failed, not of what.
    again: Again::Anything,
    times_sending: false,
    logs: &[LOG],
    nameless: &[],
    lacking: || program("varnishd").or_else(|| program("varnishlog")),
    start: |run, ns, wanted| {
        // What is relative would be below /var/lib/varnish.
        let folder = absolute(&run.folder)?;
        let config = folder.join("varnish.vcl");
        std::fs::write(&config, configuration(wanted))?;
        let name = folder.join("varnish");
        let mut command = ns.command("varnishd");
        command
            .args(["-F", "-j", "none", "-T", "none", "-s", "malloc,16m"])
            .args(["-a", &format!("127.0.0.1:{PORT}")])
            .arg("-n")
            .arg(&name)
            .arg("-f")
            .arg(&config);
        for (name, value) in [
            ("thread_pools", wanted.workers),
            ("thread_pool_min", 25),
            ("vsl_space", 1 << 20),
        ] {
            command.args(["-p", &format!("{name}={value}")]);
        }
        // The same program, compiled in half the time.
        let compiler = "exec gcc -O0 -w -fpic -shared -o %o %s";
        command.args(["-p", &format!("cc_command={compiler}")]);
        let proxy = serve(run, ns, "varnish", command)?;
        let log = log(run, ns, &name)?;
        Ok(Box::new((log, proxy)))
    },
};

/// Writes its log to a file, from the first request on that matters.
fn log(run: &Run, ns: &NetNs, name: &Path) -> Result<Proc> {
    let file = run.folder.join(LOG);
    let mut command = ns.command("varnishlog");
    command.arg("-n").arg(name).args(["-g", "request", "-A"]);
    command.arg("-w").arg(&file);
    let mut log = Proc::spawn("varnishlog", command, &run.folder.join("varnishlog.out"))?;
    // It begins with what is asked from some moment on.
    log.wait_ready("a request in Varnish's log", START, || {
        let asked = ns.enter(|| {
            let mut stream = TcpStream::connect(address())?;
            write!(
                stream,
                "GET {READY} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n"
            )?;
            Ok(stream.read_to_end(&mut Vec::new())?)
        });
        asked.is_ok() && file.metadata().is_ok_and(|file| file.len() > 0)
    })?;
    Ok(log)
}

fn configuration(wanted: &Wanted) -> String {
    let (mut backends, mut choice, mut again) = (String::new(), String::new(), String::new());
    for (number, route) in wanted.routes.iter().enumerate() {
        let Route {
            folder,
            to,
            or,
            own: decides,
            ..
        } = route;
        let own = format!("back{number}");
        let (more, answer) = match decides {
            // Nobody has answered its check yet, and the next one is far away.
            Some(Own::TakesOut) => (
                ".probe = { .initial = 0; .interval = 60s; .timeout = 500ms; }",
                "",
            ),
            Some(Own::Limits) => (".max_connections = 1;", ""),
            Some(Own::Answers) => ("", "return (synth(503));"),
            _ => ("", ""),
        };
        backends += &backend(&own, to, wanted, more);
        let goes =
            format!("if (req.url ~ \"^{folder}\") {{ set req.backend_hint = {own}; {answer} }}\n");
        choice += &goes;
        // What nothing names is refused.
        if let (Some(or), Again::Anything) = (or, wanted.again) {
            backends += &backend(&format!("other{number}"), or, wanted, "");
            again += &format!(
                "if (bereq.url ~ \"^{folder}\") {{ set bereq.backend = {own};
                 if (bereq.retries == 1) {{ set bereq.backend = other{number}; }} }}\n"
            );
        }
        for (nth, to) in route.servers().enumerate() {
            // It asks none that has failed a check, so those checked are others' twins.
            if let Some(every) = wanted.checks {
                let twin = format!("twin{number}{nth}");
                let probe = format!(
                    ".probe = {{ .url = \"/healthz\"; .interval = {}; .timeout = 500ms; }}",
                    ms(every)
                );
                backends += &backend(&twin, to, wanted, &probe);
                choice +=
                    &format!("if (req.method == \"NONE\") {{ set req.backend_hint = {twin}; }}\n");
            }
        }
    }
    let retry = match wanted.again {
        Again::Anything => "if (bereq.retries < 2) { return (retry); }",
        _ => "",
    };
    format!(
        "vcl 4.1;\n{backends}sub vcl_recv {{\n\
         if (req.url == \"{READY}\") {{ return (synth(200)); }}\n{choice}return (pass);\n}}\n\
         sub vcl_backend_fetch {{\n{again}}}\nsub vcl_backend_error {{ {retry} }}\n"
    )
}

fn backend(name: &str, to: &Target, wanted: &Wanted, more: &str) -> String {
    let place = match to {
        Target::Tcp(address) => {
            let (ip, port) = (address.ip(), address.port());
            format!(".host = \"{ip}\"; .port = \"{port}\";")
        }
        Target::Unix(path) => format!(".path = \"{}\";", path.display()),
    };
    let (connect, patience) = (ms(wanted.connect), ms(wanted.patience));
    format!(
        "backend {name} {{ {place} .connect_timeout = {connect}; .first_byte_timeout = {patience};
         .between_bytes_timeout = {patience}; {more} }}\n"
    )
}

fn ms(time: Duration) -> String {
    format!("{}ms", time.as_millis())
}
