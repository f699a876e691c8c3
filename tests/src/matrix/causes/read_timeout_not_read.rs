//! The upstream accepts and never reads.

use std::time::Duration;

use super::{By, Cause};
use crate::matrix::upstreams;
use crate::software::Scripted;
use crate::upstream::Mode;

pub(super) const CAUSE: Cause = Cause {
    name: "read_timeout_not_read",
    by: By::Itself,
    unix: false,
    spares: &[],
    inject: |stage| {
        stage.apart(Duration::ZERO)?;
        let (ns, to) = stage.there();
        let deaf = Scripted::start(
            &stage.run,
            ns,
            "deaf",
            &to.to_string(),
            Mode::NeverRead,
            128,
        )?;
        stage.server = Some(upstreams::SCRIPTED);
        stage.front(&to)?;
        stage.fail("")?;
        stage.run.hold(deaf);
        Ok(())
    },
};
