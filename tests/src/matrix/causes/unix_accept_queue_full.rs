//! The accept queue of a Unix socket is full when the proxy calls.

use std::os::unix::net::UnixStream;

use super::{By, Cause};
use crate::matrix::proxies::Target;
use crate::matrix::upstreams;
use crate::software::Scripted;
use crate::upstream::Mode;

const BACKLOG: u32 = 3;

pub(super) const CAUSE: Cause = Cause {
    name: "unix_accept_queue_full",
    by: By::Itself,
    unix: true,
    // It waits in connect() until there is room.
    spares: &["apache"],
    inject: |stage| {
        let to = stage.unix();
        let address = to.to_string();
        let silent = Scripted::start(
            &stage.run,
            &stage.near,
            "silent",
            &address,
            Mode::NeverAccept,
            BACKLOG,
        )?;
        stage.server = Some(upstreams::SCRIPTED);
        // The queue holds one more.
        let Target::Unix(path) = &to else {
            return Ok(());
        };
        let waiting = (0..=BACKLOG)
            .map(|_| UnixStream::connect(path))
            .collect::<Result<Vec<_>, _>>()?;
        // Before the proxy comes, which may want to know how it is.
        stage.front(&to)?;
        stage.fail("")?;
        stage.run.hold((waiting, silent));
        Ok(())
    },
};
