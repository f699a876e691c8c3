//! The upstream speaks something else: uWSGI its own protocol, or a banner.

use std::time::Duration;

use super::{By, Cause};
use crate::matrix::upstreams::{Act, Manner};
use crate::process;
use crate::software::Uwsgi;

pub(super) const CAUSE: Cause = Cause {
    name: "protocol_mismatch",
    by: By::Upstreams(&[Act::Banner]),
    unix: false,
    spares: &[],
    inject: |stage| {
        stage.apart(Duration::ZERO)?;
        if stage.draw.coin() && process::program("uwsgi-core").is_some() {
            let (ns, to) = stage.there();
            let address = to.to_string();
            let uwsgi = Uwsgi::start(&stage.run, ns, "uwsgi", &address, 1, &[])?;
            stage.front(&to)?;
            stage.upstream = None;
            stage.fail("")?;
            stage.run.hold(uwsgi);
            return Ok(());
        }
        let manner = Manner {
            workers: 1,
            limit: None,
        };
        let (server, to) = stage.serve(&manner)?;
        stage.front(&to)?;
        stage.fail(&stage.ask(Act::Banner))?;
        stage.run.hold(server.running);
        Ok(())
    },
};
