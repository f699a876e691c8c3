//! The accept queue of a TCP listener on the proxy's host is full.

use std::net::TcpStream;
use std::time::Duration;

use super::{By, Cause};
use crate::matrix::proxies::Target;
use crate::matrix::upstreams;
use crate::software::Scripted;
use crate::upstream::Mode;

const BACKLOG: u32 = 2;

pub(super) const CAUSE: Cause = Cause {
    name: "tcp_accept_queue_full",
    by: By::Itself,
    unix: false,
    spares: &[],
    inject: |stage| {
        stage.in_few_crowds();
        let (ns, to) = stage.there();
        let address = to.to_string();
        let silent = Scripted::start(
            &stage.run,
            ns,
            "silent",
            &address,
            Mode::NeverAccept,
            BACKLOG,
        )?;
        stage.server = Some(upstreams::SCRIPTED);
        let Target::Tcp(address) = to else {
            return Ok(());
        };
        // The queue holds one more.
        let waiting = stage.near.enter(|| {
            let one = || TcpStream::connect_timeout(&address, Duration::from_secs(1));
            Ok((0..=BACKLOG)
                .map(|_| one())
                .collect::<Result<Vec<_>, _>>()?)
        })?;
        // Before the proxy comes, which may want to know how it is.
        stage.front(&to)?;
        stage.fail("")?;
        stage.run.hold((waiting, silent));
        Ok(())
    },
};
