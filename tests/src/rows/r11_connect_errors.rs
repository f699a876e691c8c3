//! Row 11: sockets that are missing, stale, forbidden or reached through a symlink, and a closed
//! TCP port.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use anyhow::Result;

use super::NGINX;
use super::front::{Front, PLAIN_PORT};
use crate::client::Request;
use crate::expect::{Check, Expect};
use crate::netns::NetNs;
use crate::run::{Run, Scenario};
use crate::software::Nginx;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            row: 11,
            name: "connect-errors",
            needs: &[NGINX],
            run,
        },
        Scenario {
            row: 11,
            name: "closed-port",
            needs: &[NGINX],
            run: closed_port,
        },
    ]
}

/// So far apart that each connect can be one request's only.
const APART: Duration = Duration::from_millis(300);

/// The TCP part alone: where Unix sockets fail at the same time, packets cannot tell whose connect
/// was refused.
fn closed_port(run: &mut Run) -> Result<()> {
    let ns = NetNs::new()?;
    let http = format!(
        "server {{ {} location /refused {{ proxy_pass http://127.0.0.1:9999; }} }}",
        Front::Plain.listen(run)?
    );
    let nginx = Nginx::start(run, &ns, 1, PLAIN_PORT, &http)?;
    run.watch(&[&nginx])?;
    let refused = Expect::verdict("refused", &[502], "connection_refused").variant("no_listener");
    let requests = (0..run.wanted())
        .map(|number| {
            let request = Request::get(run.path("/refused"));
            (APART * number as u32, run.expecting(request, &refused))
        })
        .collect();
    Front::Plain.burst(run, &ns, requests)?;
    run.at_least("refused", run.wanted());
    run.hold((nginx, ns));
    Ok(())
}

/// Cell, cause, variant; the cell is also the socket's name.
const UNIX: [(&str, &str); 5] = [
    ("missing", "unix_socket_missing"),
    ("stale", "unix_socket_refused"),
    ("denied", "unix_socket_denied"),
    ("symlink_to_stale", "unix_socket_refused"),
    ("wrong_type", "unix_socket_wrong_type"),
];

pub(super) fn run(run: &mut Run) -> Result<()> {
    let ns = NetNs::new()?;
    let folder = run.folder.clone();
    let path = |name: &str| folder.join(format!("{name}.sock"));
    // Bound and closed again: the file stays, nobody listens.
    drop(UnixListener::bind(path("stale"))?);
    std::fs::set_permissions(path("stale"), PermissionsExt::from_mode(0o777))?;
    let denied = UnixListener::bind(path("denied"))?;
    std::fs::set_permissions(path("denied"), PermissionsExt::from_mode(0o700))?;
    std::os::unix::fs::symlink(path("stale"), path("symlink_to_stale"))?;
    let wrong_type = std::os::unix::net::UnixDatagram::bind(path("wrong_type"))?;
    std::fs::set_permissions(path("wrong_type"), PermissionsExt::from_mode(0o777))?;

    let mut locations = String::new();
    for (name, _) in UNIX {
        locations += &format!(
            "location /{name} {{ proxy_pass http://unix:{}:; }}\n",
            path(name).display()
        );
    }
    let http = format!(
        "server {{ {} {locations} location /closed_port {{ proxy_pass http://127.0.0.1:9999; }} }}",
        Front::Plain.listen(run)?
    );
    let nginx = Nginx::start(run, &ns, 1, PLAIN_PORT, &http)?;
    run.watch(&[&nginx])?;

    let mut requests = Vec::new();
    for number in 0..run.wanted() {
        let at = Duration::from_millis(number as u64 * 3);
        let mut add = |expect: Expect, address: String| {
            let expect = expect.with(Check::Equals("/upstream/address", address.into()));
            let request = Request::get(run.path(&format!("/{}", expect.cell)));
            requests.push((at, run.expecting(request, &expect)));
        };
        for (name, cause) in UNIX {
            let address = format!("unix:{}", path(name).display());
            add(Expect::verdict(name, &[502], cause), address);
        }
        add(
            Expect::verdict("closed_port", &[502], "connection_refused").variant("no_listener"),
            "127.0.0.1:9999".to_owned(),
        );
    }
    Front::Plain.burst(run, &ns, requests)?;
    for (name, _) in UNIX {
        run.at_least(name, run.wanted());
    }
    run.at_least("closed_port", run.wanted());
    run.hold((nginx, ns, denied, wrong_type));
    Ok(())
}
