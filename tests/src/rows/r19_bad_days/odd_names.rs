//! Names that are not text: socket paths and process names with spaces, quotes, newlines and bytes
//! that are no UTF-8; a socket whose file is deleted while it listens; an abstract socket.

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use crate::agent::Capture;
use crate::client::{self, Request};
use crate::expect::{Check, Expect};
use crate::netns::NetNs;
use crate::rows::front::{Front, PLAIN_PORT};
use crate::run::{Run, START};
use crate::software::{Haproxy, Nginx, Scripted};
use crate::upstream::Mode;
use crate::wait;

/// Ends like the fields of `/proc/PID/stat` that follow a name; 15 bytes are kept of a name.
const COMM: &[u8] = b"od) S \"1\n2\xff\xfe";
const FOLDER: &[u8] = b"a \"b\"\n{\"c\xff}";

const CELLS: [&str; 4] = ["killed", "queue", "missing", "stale"];

pub(super) fn run(run: &mut Run) -> Result<()> {
    let ns = NetNs::new()?;
    let folder = run.folder.join(OsStr::from_bytes(FOLDER));
    std::fs::create_dir(&folder)?;
    let path = |name: &str| folder.join(format!("{name}.sock"));
    let program = run.folder.join(OsStr::from_bytes(COMM));
    std::os::unix::fs::symlink(std::env::current_exe()?, &program)?;
    let odd = |name, mode, backlog| {
        let listen = listen_on(&path(name));
        Scripted::start_program(run, &ns, &program, name, &listen, mode, backlog)
    };
    let killed = odd("killed", Mode::NeverAnswer, 128)?;
    let queue = odd("queue", Mode::NeverAccept, 1)?;
    drop(UnixListener::bind(path("stale"))?);
    std::fs::set_permissions(
        path("stale"),
        std::os::unix::fs::PermissionsExt::from_mode(0o777),
    )?;

    let mut config = Vec::new();
    for cell in CELLS {
        config.extend(format!("upstream {cell} {{ server \"unix:").into_bytes());
        for byte in path(cell).into_os_string().into_vec() {
            if byte == b'"' {
                config.push(b'\\');
            }
            config.push(byte);
        }
        config.extend(b"\"; }\n");
    }
    std::fs::write(run.folder.join("odd.conf"), config)?;
    let locations: String = CELLS
        .iter()
        .map(|cell| format!("location /{cell} {{ proxy_pass http://{cell}; }}\n"))
        .collect();
    let http = format!(
        "include {}; server {{ {} proxy_read_timeout 2s; {locations} }}",
        run.folder.join("odd.conf").display(),
        Front::Plain.listen(run)?
    );
    let nginx = Nginx::start(run, &ns, 1, PLAIN_PORT, &http)?;
    run.watch(&[&nginx])?;

    let expect_at = |name, cell, statuses, cause| {
        Expect::verdict(cell, statuses, cause)
            .with(Check::Equals("/upstream/address", shown(&path(name))))
    };
    let expect = |cell, statuses, cause| expect_at(cell, cell, statuses, cause);
    let by_odd = Check::Equals("/upstream/process", String::from_utf8_lossy(COMM).into());
    send(run, &ns, &expect("missing", &[502], "unix_socket_missing"))?;
    send(run, &ns, &expect("stale", &[502], "unix_socket_refused"))?;

    // The queue holds two; which of the requests they are is for nginx to say.
    let requests =
        (0..run.wanted() + 2).map(|_| (Duration::ZERO, Request::get(run.path("/queue"))));
    for sent in Front::Plain.burst(run, &ns, requests.collect())? {
        let truth = match sent.status {
            Some(504) => expect_at("queue", "queued", &[504], "read_timeout_never_accepted"),
            _ => expect("queue", &[502], "unix_accept_queue_full")
                .with(Check::Says("/evidence", "limit 1".into()))
                .with(by_odd.clone()),
        };
        run.ledger.expect(&sent.path, truth);
    }
    run.at_least("queue", run.wanted());
    run.at_least("queued", 2);

    // Requests are with it while its file goes; later ones find none.
    let in_flight = expect("killed", &[502], "worker_killed").with(by_odd);
    let wanted = run.wanted();
    std::thread::scope(|scope| {
        let shared = &*run;
        let sending = scope.spawn(|| send(shared, &ns, &in_flight));
        wait::until("the reads", START, || killed.log.reads().len() >= wanted)?;
        std::fs::remove_file(path("killed"))?;
        let deleted = expect_at("killed", "deleted", &[502], "unix_socket_missing");
        send_to(shared, &ns, "/killed", &deleted)?;
        killed.signal(libc::SIGKILL);
        sending.join().expect("requests")
    })?;
    for cell in ["killed", "missing", "stale", "deleted"] {
        run.at_least(cell, wanted);
    }
    run.hold((nginx, killed, queue, ns));
    Ok(())
}

fn listen_on(path: &Path) -> OsString {
    let mut address = OsString::from("unix:");
    address.push(path);
    address
}

/// As it has to stand in a verdict: bytes that are no text cannot be in JSON.
fn shown(path: &Path) -> serde_json::Value {
    json!(format!("unix:{}", path.to_string_lossy()))
}

fn send(run: &Run, ns: &NetNs, expect: &Expect) -> Result<()> {
    send_to(run, ns, &format!("/{}", expect.cell), expect)
}

fn send_to(run: &Run, ns: &NetNs, folder: &str, expect: &Expect) -> Result<()> {
    let requests = (0..run.wanted()).map(|_| {
        let request = run.expecting(Request::get(run.path(folder)), expect);
        (Duration::ZERO, request)
    });
    Front::Plain.burst(run, ns, requests.collect())?;
    Ok(())
}

const HAPROXY_PORT: u16 = 8081;

/// HAProxy calls a server by its abstract name, which reads the request and dies; then nobody has
/// that name. One request after the other: HAProxy takes several in one go, and connects that fail at
/// once leave nothing by which to tell them apart.
pub(super) fn abstract_socket(run: &mut Run) -> Result<()> {
    let ns = NetNs::new()?;
    // Abstract names belong to the network namespace, which is the scenario's own.
    let name = "why502 lab\u{e4}";
    let listen = format!("unix:@{name}");
    let haproxy = Haproxy::start(run, &ns, HAPROXY_PORT, &format!("\"abns@{name}\""), "20s")?;
    let mut command = Capture::command(run.why502()?);
    command.args(["--proxy", "haproxy"]);
    let mut agent = Capture::launch(command, &run.out)?;
    agent.wait_ready()?;
    run.watched_by(agent);
    run.add_proxy(haproxy.pid())?;

    let expect = |cell, statuses, cause| {
        Expect::verdict(cell, statuses, cause)
            .with(Check::Equals("/upstream/address", listen.clone().into()))
    };
    let killed = expect("killed", &[502], "worker_killed");
    // HAProxy may have called it for another reason.
    let gone = expect("gone", &[503], "unix_socket_refused").at_least_likely();
    let through = |expect: &Expect| {
        let request = run.expecting(Request::get(run.path("/x")), expect);
        let to = SocketAddr::from(([127, 0, 0, 1], HAPROXY_PORT));
        ns.traffic(async || Ok(client::once(to, &run.ledger, request).await))
    };
    for number in 0..run.wanted() {
        let log = format!("server-{number}");
        let server = Scripted::start(run, &ns, &log, &listen, Mode::NeverAnswer, 128)?;
        std::thread::scope(|scope| {
            let sending = scope.spawn(|| through(&killed));
            wait::until("the read", START, || !server.log.reads().is_empty())?;
            // Not by its parent: of a server this young the agent may not know that its parent is
            // no supervisor with a timeout.
            ns.sh(&format!("kill -KILL {}", server.pid()))?;
            sending.join().expect("request")
        })?;
        // Its connection may be closed before its listener is: waits for its end.
        drop(server);
        through(&gone)?;
    }
    let wanted = run.wanted();
    run.at_least("killed", wanted);
    run.at_least("gone", wanted);
    run.hold((haproxy, ns));
    Ok(())
}
