//! A connection waits in the accept queue until the proxy gives up: the only worker is busy, or
//! nobody accepts at all.

use std::time::Duration;

use super::{By, Cause};
use crate::expect::Expect;
use crate::matrix::proxies::Target;
use crate::matrix::upstreams;
use crate::process;
use crate::software::{Gunicorn, Scripted};
use crate::upstream::Mode;
use crate::wait;

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
        occupy(stage, &to, &gunicorn)?;
        stage.fail("")?;
        stage.run.hold(gunicorn);
        Ok(())
    },
};

/// Keeps the only worker busy for longer than this pair takes, by a client of its own.
fn occupy(stage: &mut super::Stage, to: &Target, gunicorn: &Gunicorn) -> anyhow::Result<()> {
    use std::io::Write;
    let Target::Tcp(address) = *to else {
        return Ok(());
    };
    let path = stage.run.path("/busy");
    stage.run.ledger.expect(&path, Expect::apart("busy", &[]));
    let mut busy = stage
        .near
        .enter(|| Ok(std::net::TcpStream::connect(address)?))?;
    write!(
        busy,
        "GET {path}?do=sleep&ms=60000 HTTP/1.1\r\nHost: lab\r\n\r\n"
    )?;
    let log = gunicorn.log.clone();
    wait::until("the busy worker", crate::run::START, || {
        log.has("read", &path)
    })?;
    stage.run.hold(busy);
    Ok(())
}
