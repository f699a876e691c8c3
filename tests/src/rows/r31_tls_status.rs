//! Row 31: the status of responses in TLS, read where proxies hand them to OpenSSL (`--tls-status`).

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::NGINX;
use super::front::{self, Certificate};
use crate::agent::Capture;
use crate::client::Request;
use crate::client::curl::{self, Http};
use crate::expect::{Check, Expect};
use crate::netns::NetNs;
use crate::process::Proc;
use crate::run::{Need, Run, START, Scenario};
use crate::software::Scripted;
use crate::upstream::Mode;

const PORT: u16 = 8443;
const APP: &str = "127.0.0.1:9000";
/// Where nobody listens.
const CLOSED: &str = "127.0.0.1:9999";
/// How long the proxies wait for an answer, and longer.
const PATIENCE_S: u64 = 1;
const SLOW: &str = "ms=2000";

const CURL: Need = Need::Http2Curl;
const OPENSSL: Need = Need::Program("openssl");

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            row: 31,
            name: "tls-status-loads",
            needs: &[Need::Agent],
            run: loads,
        },
        Scenario {
            row: 31,
            name: "tls-status-nginx",
            needs: &[Need::Agent, CURL, OPENSSL, NGINX],
            run: |run| watched(run, &NGINX_TLS),
        },
        Scenario {
            row: 31,
            name: "tls-status-haproxy",
            needs: &[Need::Agent, CURL, OPENSSL, Need::Program("haproxy")],
            run: |run| watched(run, &HAPROXY_TLS),
        },
        Scenario {
            row: 31,
            name: "tls-status-apache",
            needs: &[Need::Agent, CURL, OPENSSL, Need::Program("apache2")],
            run: |run| watched(run, &APACHE_TLS),
        },
    ]
}

/// What is to be seen of a failure.
#[derive(Clone, Copy)]
enum Seen {
    /// Its verdict has the status.
    Status,
    /// Its verdict has none.
    Verdict,
    /// The proxy answers before it lets go of the upstream, or passes an answer on among others: nothing but
    /// its log ties the two behind TLS.
    Nothing,
    /// It is not made: HAProxy leaves it to HTTP/2's client to try again, or whether there is a verdict hangs
    /// on how long the client stays.
    Unclear,
}

struct Proxy {
    process: &'static str,
    config: fn(&Path, &Certificate) -> String,
    arguments: &'static [&'static str],
    /// Of a refused connect, a close without an answer, an answer passed on, a timeout.
    statuses: [&'static [u16; 1]; 4],
    /// The same, over what of TLS.
    seen: &'static [(Http, [Seen; 4])],
    /// Those that are made as streams of one connection at once: of several the status may be unseen, but is
    /// never another's.
    crowd: &'static [usize],
}

const NGINX_TLS: Proxy = Proxy {
    process: "nginx",
    config: |folder, certificate| {
        format!(
            "daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
             events {{}}
             http {{ access_log off; proxy_read_timeout {PATIENCE_S}s;
               server {{ listen 127.0.0.1:{PORT} ssl http2;
                 ssl_certificate {cert}; ssl_certificate_key {key};
                 location /closed {{ proxy_pass http://{CLOSED}; }}
                 location /app {{ proxy_pass http://{APP}; }} }} }}",
            folder = folder.display(),
            cert = certificate.certificate.display(),
            key = certificate.key.display(),
        )
    },
    arguments: &["-c"],
    statuses: [&[502], &[502], &[503], &[504]],
    seen: &[
        (
            Http::One,
            [Seen::Status, Seen::Status, Seen::Verdict, Seen::Status],
        ),
        (
            Http::Two,
            [Seen::Status, Seen::Status, Seen::Verdict, Seen::Status],
        ),
    ],
    crowd: &[0, 1, 3],
};

const HAPROXY_TLS: Proxy = Proxy {
    process: "haproxy",
    config: |_, certificate| {
        format!(
            "global\n  nbthread 1\ndefaults\n  mode http\n  retries 0\n  timeout connect 2s\n  \
             timeout client 30s\n  timeout server {PATIENCE_S}s\nfrontend front\n  \
             bind 127.0.0.1:{PORT} ssl crt {} alpn h2,http/1.1\n  \
             use_backend closed if {{ path_beg /closed }}\n  default_backend app\n\
             backend closed\n  server one {CLOSED}\nbackend app\n  server one {APP}\n",
            certificate.both.display(),
        )
    },
    arguments: &["-db", "-f"],
    statuses: [&[503], &[502], &[503], &[504]],
    seen: &[
        (
            Http::One,
            [Seen::Nothing, Seen::Status, Seen::Nothing, Seen::Unclear],
        ),
        (
            Http::Two,
            [Seen::Verdict, Seen::Unclear, Seen::Nothing, Seen::Verdict],
        ),
    ],
    // Of several connects that fail at once it is not known which was whose.
    crowd: &[3],
};

const APACHE_TLS: Proxy = Proxy {
    process: "apache2",
    config: |folder, certificate| {
        let modules = [
            "mpm_event",
            "authz_core",
            "proxy",
            "proxy_http",
            "socache_shmcb",
            "ssl",
            "http2",
        ];
        let load = |name| format!("LoadModule {name}_module {APACHE_MODULES}/mod_{name}.so\n");
        format!(
            "{modules}ServerName lab.example\nUser nobody\nGroup nogroup\n\
             Listen 127.0.0.1:{PORT}\nPidFile {folder}/apache.pid\nMutex file:{folder}\n\
             ErrorLog {folder}/error.log\nStartServers 1\nThreadsPerChild 25\n\
             Protocols h2 http/1.1\nSSLEngine on\nSSLCertificateFile {cert}\n\
             SSLCertificateKeyFile {key}\n\
             ProxyPass /closed http://{CLOSED}/closed retry=0\n\
             ProxyPass /app http://{APP}/app retry=0 timeout={PATIENCE_S}\n",
            modules = modules.map(load).concat(),
            folder = folder.display(),
            cert = certificate.certificate.display(),
            key = certificate.key.display(),
        )
    },
    arguments: &["-DFOREGROUND", "-f"],
    statuses: [&[503], &[502], &[503], &[502]],
    // Over HTTP/2 it calls upstreams on other threads than it reads from clients.
    seen: &[(
        Http::One,
        [Seen::Status, Seen::Status, Seen::Nothing, Seen::Status],
    )],
    crowd: &[],
};

/// A failure, its cell over HTTP/1.1 and over HTTP/2, and what it is called.
struct Fault {
    cells: [&'static str; 2],
    folder: &'static str,
    query: &'static str,
    cause: &'static str,
    variant: Option<&'static str>,
}

impl Fault {
    fn cell(&self, http: Http) -> &'static str {
        match http {
            Http::One => self.cells[0],
            Http::Two => self.cells[1],
        }
    }

    fn verdict(&self, cell: &'static str, statuses: &'static [u16]) -> Expect {
        let verdict = Expect::verdict(cell, statuses, self.cause).at_least_likely();
        let verdict = match self.variant {
            Some(variant) => verdict.variant(variant),
            None => verdict,
        };
        match self.folder {
            // Nothing was sent that could name it.
            "/closed" => verdict.pathless(),
            _ => verdict,
        }
    }
}

const FAULTS: [Fault; 4] = [
    Fault {
        cells: ["refused", "refused_h2"],
        folder: "/closed",
        query: "",
        cause: "connection_refused",
        variant: Some("no_listener"),
    },
    Fault {
        cells: ["closed", "closed_h2"],
        folder: "/app",
        query: "do=close",
        cause: "upstream_closed_early",
        variant: Some("no_bytes"),
    },
    Fault {
        cells: ["answered", "answered_h2"],
        folder: "/app",
        query: "status=503",
        cause: "upstream_answered",
        variant: None,
    },
    Fault {
        cells: ["slow", "slow_h2"],
        folder: "/app",
        query: SLOW,
        cause: "read_timeout_no_reply",
        variant: Some("sleeping"),
    },
];

const APACHE_MODULES: &str = "/usr/lib/apache2/modules";

/// Whatever runs here, what is loaded for it is accepted by this kernel, and what is loaded anyway is still.
fn loads(run: &mut Run) -> Result<()> {
    let warnings = |name: &str, options: &[&str]| -> Result<Vec<String>> {
        let mut command = Command::new(run.why502()?);
        command.args(["capture", "--for", "100ms", "--json", "--no-logs"]);
        command.args(["--source", "kernel", "--proxy", "no-proxy"]);
        command.args(options);
        let captured = Capture::launch(command, &run.out.join(name))?.ended()?;
        captured.summary()?;
        let messages = captured.messages.into_iter();
        Ok(messages
            .filter(|line| line.starts_with("warning:"))
            .collect())
    };
    let (without, with) = (
        warnings("without", &[])?,
        warnings("with", &["--tls-status"])?,
    );
    if with != without {
        run.problem(format!(
            "with --tls-status {with:?}, without it {without:?}"
        ));
    }
    Ok(())
}

fn watched(run: &mut Run, proxy: &Proxy) -> Result<()> {
    let ns = NetNs::new()?;
    let app = Scripted::start(run, &ns, "app", APP, Mode::Asked, 128)?;
    let certificate = front::certificate(run)?;
    let server = start(run, &ns, proxy, &certificate)?;
    let mut command = Capture::command(run.why502()?);
    command.args(["--proxy", proxy.process, "--tls-status", "-v"]);
    let mut agent = Capture::launch(command, &run.out)?;
    agent.wait_ready()?;
    run.watched_by(agent);
    run.add_proxy(server.pid())?;

    let to = SocketAddr::from(([127, 0, 0, 1], PORT));
    for (http, seen) in proxy.seen {
        let mut requests = Vec::new();
        for _ in 0..run.wanted() {
            for (nth, fault) in FAULTS.iter().enumerate() {
                let (cell, statuses) = (fault.cell(*http), proxy.statuses[nth]);
                let verdict = fault.verdict(cell, statuses);
                let expect = match seen[nth] {
                    Seen::Status => verdict
                        .with(Check::Equals("/status", statuses[0].into()))
                        .with(Check::Equals("/status_source", "kernel".into())),
                    Seen::Verdict => verdict.with(Check::StatusUnseen),
                    Seen::Nothing => Expect::healthy(cell, statuses),
                    Seen::Unclear => continue,
                };
                let request = Request::get(run.path(fault.folder)).query(fault.query);
                requests.push(run.expecting(request, &expect));
                run.at_least(cell, run.wanted());
            }
            let healthy = Expect::healthy("healthy", &[200]);
            requests.push(run.expecting(Request::get(run.path("/app")), &healthy));
        }
        curl::in_turn(&ns, to, *http, &run.ledger, &run.folder, &requests)?;
    }
    let mut crowd = Vec::new();
    for (nth, fault) in FAULTS.iter().enumerate() {
        for _ in 0..run.wanted() {
            if proxy.crowd.contains(&nth) {
                let statuses = proxy.statuses[nth];
                let expect = fault.verdict("crowd", statuses);
                let expect = expect.with(Check::StatusUnseenOr(statuses[0]));
                let request = Request::get(run.path(fault.folder)).query(fault.query);
                crowd.push(run.expecting(request, &expect));
            }
        }
    }
    if !crowd.is_empty() {
        run.at_least("crowd", crowd.len());
        curl::together(&ns, to, &run.ledger, &run.folder, &crowd)?;
    }
    run.hold((server, app, ns));
    Ok(())
}

fn start(run: &Run, ns: &NetNs, proxy: &Proxy, certificate: &Certificate) -> Result<Proc> {
    let config = run.folder.join("proxy.conf");
    std::fs::write(&config, (proxy.config)(&run.folder, certificate))?;
    let mut command = ns.command(proxy.process);
    command.args(proxy.arguments).arg(&config);
    let mut proc = Proc::spawn(proxy.process, command, &run.folder.join("proxy.log"))?;
    let address = SocketAddr::from(([127, 0, 0, 1], PORT));
    proc.wait_ready("the proxy's port", START, || {
        ns.enter(|| Ok(TcpStream::connect(address)?)).is_ok()
    })?;
    Ok(proc)
}
