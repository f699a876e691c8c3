//! Varnish, which is asked to keep nothing: one thread talks to the client, another one to the upstream.

use std::path::absolute;
use std::time::Duration;

use super::{Again, PORT, Proxy, Route, Speaks, Target, Wanted, program, serve};

pub(super) const PROXY: Proxy = Proxy {
    name: "varnish",
    process: "varnishd",
    unix: true,
    speaks: &[Speaks::Http],
    // Its configuration learns of an attempt that it failed, not of what.
    again: Again::Anything,
    // They are read from shared memory, by programs of its own.
    logs: &[],
    nameless: &[],
    lacking: || program("varnishd"),
    start: |run, ns, wanted| {
        // What is relative would be below /var/lib/varnish.
        let folder = absolute(&run.folder)?;
        let config = folder.join("varnish.vcl");
        std::fs::write(&config, configuration(wanted))?;
        let mut command = ns.command("varnishd");
        command
            .args(["-F", "-j", "none", "-T", "none", "-s", "malloc,16m"])
            .args(["-a", &format!("127.0.0.1:{PORT}")])
            .arg("-n")
            .arg(folder.join("varnish"))
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
        Ok(Box::new(serve(run, ns, "varnish", command)?))
    },
};

fn configuration(wanted: &Wanted) -> String {
    let (mut backends, mut choice, mut again) = (String::new(), String::new(), String::new());
    for (number, route) in wanted.routes.iter().enumerate() {
        let Route { folder, to, or, .. } = route;
        let own = format!("back{number}");
        backends += &backend(&own, to, wanted, "");
        let goes = format!("if (req.url ~ \"^{folder}\") {{ set req.backend_hint = {own}; }}\n");
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
        "vcl 4.1;\n{backends}sub vcl_recv {{\n{choice}return (pass);\n}}\n\
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
