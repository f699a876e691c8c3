//! A connection waits in the accept queue until the proxy gives up: the only worker is busy, or
//! nobody accepts at all.

use std::any::Any;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::Result;

use super::{By, Cause, Stage};
use crate::expect::Expect;
use crate::matrix::proxies::Target;
use crate::matrix::upstreams;
use crate::process;
use crate::run::START;
use crate::software::{Gunicorn, Scripted};
use crate::upstream::Mode;
use crate::wait;

type Connection = dyn Any + Send + Sync;

pub(super) const CAUSE: Cause = Cause {
    name: "read_timeout_never_accepted",
    by: By::Itself,
    unix: false,
    spares: &[],
    inject: |stage| {
        stage.apart(Duration::ZERO)?;
        let nobody = stage.draw.coin();
        let (ns, to) = stage.there();
        let address = to.to_string();
        if nobody || process::program("gunicorn").is_none() {
            let silent =
                Scripted::start(&stage.run, ns, "silent", &address, Mode::NeverAccept, 128)?;
            stage.server = Some(upstreams::SCRIPTED);
            stage.front(&to)?;
            stage.fail("")?;
            stage.run.hold(silent);
            return Ok(());
        }
        let patient = ["--timeout", "600"];
        let gunicorn = Gunicorn::start(&stage.run, ns, "gunicorn", &address, 1, &patient)?;
        stage.server = Some("gunicorn");
        stage.front(&to)?;
        let busy = occupy(stage, &to, &gunicorn)?;
        stage.fail("")?;
        stage.run.hold((busy, gunicorn));
        Ok(())
    },
};

/// Keeps the only worker busy for longer than a pair takes, by a client of its own: until the connection
/// is dropped.
pub(super) fn occupy(stage: &Stage, to: &Target, gunicorn: &Gunicorn) -> Result<Box<Connection>> {
    let path = stage.run.path("/busy");
    stage.run.ledger.expect(&path, Expect::apart("busy", &[]));
    let request = format!("GET {path}?do=sleep&ms=60000 HTTP/1.1\r\nHost: lab\r\n\r\n");
    let busy: Box<Connection> = match to {
        Target::Tcp(address) => {
            let mut busy = stage.near.enter(|| Ok(TcpStream::connect(address)?))?;
            busy.write_all(request.as_bytes())?;
            Box::new(busy)
        }
        Target::Unix(path) => {
            let mut busy = UnixStream::connect(path)?;
            busy.write_all(request.as_bytes())?;
            Box::new(busy)
        }
    };
    let log = gunicorn.log.clone();
    wait::until("the busy worker", START, || log.has("read", &path))?;
    Ok(busy)
}
