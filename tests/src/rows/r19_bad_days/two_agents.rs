//! Two agents on one host: each labels every failure, as if it were alone.

use std::os::unix::net::UnixListener;
use std::time::Duration;

use anyhow::Result;

use super::{http, refused};
use crate::client::Request;
use crate::expect::Expect;
use crate::netns::NetNs;
use crate::rows::front::{Front, PLAIN_PORT};
use crate::run::{Run, START};
use crate::software::{Nginx, Scripted};
use crate::upstream::Mode;
use crate::wait;

pub(super) fn run(run: &mut Run) -> Result<()> {
    let ns = NetNs::new()?;
    let app = Scripted::start(run, &ns, "app", super::APP, Mode::Answer, 128)?;
    let (dying_at, unread_at) = ("127.0.0.1:9001", "127.0.0.1:9002");
    let dying = Scripted::start(run, &ns, "dying", dying_at, Mode::NeverAnswer, 128)?;
    let unread = Scripted::start(run, &ns, "unread", unread_at, Mode::NeverRead, 128)?;
    let stale = run.folder.join("stale.sock");
    drop(UnixListener::bind(&stale)?);
    std::fs::set_permissions(&stale, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
    let more = format!(
        "location /stale {{ proxy_pass http://unix:{}:; }}
         location /dying {{ proxy_pass http://{dying_at}; }}
         location /unread {{ proxy_pass http://{unread_at}; proxy_read_timeout 1s; }}",
        stale.display()
    );
    let nginx = Nginx::start(run, &ns, 1, PLAIN_PORT, &http(run, &more)?)?;
    run.watch(&[&nginx])?;
    run.watch_beside("second")?;

    let ways = [
        ("/known", refused("refused")),
        (
            "/stale",
            Expect::verdict("stale", &[502], "unix_socket_refused"),
        ),
        ("/dying", Expect::verdict("killed", &[502], "worker_killed")),
        (
            "/unread",
            Expect::verdict("unread", &[504], "read_timeout_not_read"),
        ),
        ("/app", Expect::healthy("healthy", &[200])),
    ];
    let wanted = run.wanted();
    let mut requests = Vec::new();
    for (folder, expect) in &ways {
        run.at_least(expect.cell, wanted);
        for _ in 0..wanted {
            let request = Request::get(run.path(folder));
            requests.push((Duration::ZERO, run.expecting(request, expect)));
        }
    }
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| Front::Plain.burst(run, &ns, requests));
        wait::until("the reads", START, || dying.log.reads().len() >= wanted)?;
        dying.signal(libc::SIGKILL);
        sending.join().expect("requests")
    })?;
    run.hold((nginx, app, dying, unread, ns));
    Ok(())
}
