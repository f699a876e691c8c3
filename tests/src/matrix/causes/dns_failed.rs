//! The upstream's name had an address when the proxy was started, and has none any more.

use std::time::{Duration, Instant};

use anyhow::bail;

use super::{By, Cause};
use crate::matrix::proxies::{Own, Target};
use crate::names::{Names, Refusal};

/// For a proxy that holds on to what it was told.
const SOON: Duration = Duration::from_secs(10);

pub(super) const CAUSE: Cause = Cause {
    name: "dns_failed",
    by: By::Itself,
    unix: false,
    spares: &[
        // It looks names up when it reads its configuration, and does not start without.
        "varnish", // The lab's program is given addresses.
        "pingora",
    ],
    inject: |stage| {
        stage.apart(Duration::ZERO)?;
        stage.own = Some(Own::LooksUp);
        let to = stage.serve_there()?;
        let Target::Tcp(address) = to else {
            bail!("no address to look up");
        };
        let names = Names::serve(&stage.near, address.ip())?;
        stage.front(&to)?;
        names.refuse(
            stage
                .draw
                .one_of(&[Refusal::NoSuchName, Refusal::ServerFailed]),
        );
        let until = Instant::now() + SOON;
        // What was answered has failed nowhere.
        while !stage.fail_once()? {
            if Instant::now() > until {
                bail!("the proxy goes on calling what has no address");
            }
        }
        stage.fail("")?;
        stage.run.hold(names);
        Ok(())
    },
};
