//! A TCP listener on the proxy's host takes no further handshake: those that another host has begun fill its
//! queue, and cookies are off. Where the listener is elsewhere, `connect_timeout` is all that can be known.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Result, bail};

use super::{By, Cause, Stage};
use crate::matrix::proxies::Target;
use crate::matrix::upstreams;
use crate::software::Scripted;
use crate::upstream::Mode;

/// Of these the last quarter is for hosts known to be alive: nobody is. Other listeners of the host have no
/// handshake that lasts.
const HALF_OPEN: usize = 16;
/// Longer than a handshake takes here.
const SOON: Duration = Duration::from_millis(100);
const TRIES: usize = 20;

pub(super) const CAUSE: Cause = Cause {
    name: "syn_backlog_full",
    by: By::Itself,
    unix: false,
    spares: &[],
    inject: |stage| {
        stage.in_few_crowds();
        stage.apart(Duration::from_millis(1))?;
        stage.near.sh(&format!(
            "cd /proc/sys/net/ipv4 && echo 0 > tcp_syncookies && echo {HALF_OPEN} > tcp_max_syn_backlog \
             && echo 1 > tcp_no_metrics_save"
        ))?;
        let to = stage.here();
        let address = to.to_string();
        let server = Scripted::start(
            &stage.run,
            &stage.near,
            "server",
            &address,
            Mode::Answer,
            128,
        )?;
        stage.server = Some(upstreams::SCRIPTED);
        if let Target::Tcp(address) = to {
            fill(stage, address)?;
        }
        // Before the proxy comes, which may want to know how it is.
        stage.front(&to)?;
        stage.fail("")?;
        stage.run.hold(server);
        Ok(())
    },
};

/// Begins handshakes from afar until one from here gets no answer.
fn fill(stage: &Stage, to: SocketAddr) -> Result<()> {
    let Some(far) = stage.deaf() else {
        bail!("there is no other host");
    };
    for _ in 0..TRIES {
        far.enter(|| {
            for _ in 0..HALF_OPEN {
                // Given up at once; the listener does not learn of that.
                let begun = TcpStream::connect_timeout(&to, Duration::from_millis(1));
                if begun.is_ok() {
                    bail!("a handshake from afar was not left half open");
                }
            }
            Ok(())
        })?;
        let near = || Ok(TcpStream::connect_timeout(&to, SOON).is_ok());
        if !stage.near.enter(near)? {
            return Ok(());
        }
    }
    bail!("the listener still takes handshakes")
}
