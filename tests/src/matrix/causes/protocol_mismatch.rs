//! The upstream speaks something else: uWSGI its own protocol, or a banner.

use std::time::Duration;

use super::{By, Cause};
use crate::matrix::upstreams::Act;
use crate::process;
use crate::software::Uwsgi;

pub(super) const CAUSE: Cause = Cause {
    name: "protocol_mismatch",
    by: By::Upstreams(&[Act::Banner]),
    unix: false,
    spares: &[],
    inject: |stage| {
        if stage.draw.coin() && process::program("uwsgi-core").is_some() {
            stage.apart(Duration::ZERO)?;
            let (ns, to) = stage.there();
            let address = to.to_string();
            let uwsgi = Uwsgi::start(&stage.run, ns, "uwsgi", &address, 1, &[])?;
            stage.front(&to)?;
            stage.upstream = None;
            stage.fail("")?;
            stage.run.hold(uwsgi);
            return Ok(());
        }
        stage.ask_of_workers(1)?;
        stage.fail(&stage.ask(Act::Banner)).map(drop)
    },
};
